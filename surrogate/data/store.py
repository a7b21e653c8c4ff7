"""The training-ready store: written once, restartable, verified; read by random batches through tensorstore.

The layout is described in :mod:`surrogate.data.store_format`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from surrogate.core.spec import Spec
from surrogate.core.types import UserError
from surrogate.data import store_format as layout
from surrogate.data.source import DYNAMIC_ROLES, Source, Timeline

Progress = Callable[[int, int], None]

_TENSORSTORE_ERRORS = (OSError, ValueError, RuntimeError)
# Decoded chunks are not worth keeping between batches that are drawn at random; shard indices are.
_CACHE_BYTES = 64 * 2**20


def write_store(
    path: str | os.PathLike[str],
    source: Source,
    *,
    statistics: Mapping[str, Any] | None,
    progress: Progress | None = None,
    shard_bytes: int = 64 * 2**20,
) -> Path:
    """Write everything of ``source`` to a store, or finish one that was interrupted.

    At most two blocks of about ``shard_bytes`` are in memory. Every shard is read back and compared
    before it counts as written; the manifest, which makes a store of the directory, comes last. A
    store that was interrupted and finished has the same bytes as one that was not.

    Args:
        path: directory; new, empty, or an unfinished store of the same content. A finished store of
            the same content is left as it is.
        statistics: of the training split: arrays or JSON values by name (``Normalizer.arrays()``).
        progress: called as ``progress(samples done, samples in all)``.
        shard_bytes: of one time shard over all roles, before compression.

    Raises:
        UserError: for a directory that holds something else, is being written by another process, or
            cannot be written (permissions, full disk).
    """
    path = Path(path).absolute()
    spec, timelines = source.spec, source.timelines
    channels = sum(len(spec.role(r)) for r in DYNAMIC_ROLES)  # type: ignore[arg-type]
    sample_bytes = 4 * channels * spec.grid.shape[0] * spec.grid.shape[1]
    longest = max((len(t) for t in timelines), default=1)
    shard_length = int(np.clip(shard_bytes // sample_bytes, 1, max(1, longest)))
    description = layout.describe(spec, source.stride, timelines, shard_length, source.provenance(), statistics)
    small = _small_arrays(source, statistics)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with _exclusive(path):
            _Writer(path, source, description, small, progress).run()
    except UserError:
        raise
    except _TENSORSTORE_ERRORS as error:
        raise UserError(f"cannot write the store {path}: {_reason(error)}") from error
    return path


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """One writer at a time; the system releases the lock even when the process is killed."""
    try:
        import fcntl
    except ImportError:  # not POSIX: without the lock two writers still cannot finish half a store
        yield
        return
    directory = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"{path} is being written by another process") from None
    finally:
        os.close(directory)


def _reason(error: BaseException) -> str:
    """The cause in tensorstore's long messages, without the specification that it appends."""
    return (
        (getattr(error, "strerror", None) or str(error)).split(" [source locations")[0].split(" [tensorstore_spec")[0]
    )


def _small_arrays(
    source: Source, statistics: Mapping[str, Any] | None
) -> dict[str, tuple[np.ndarray, tuple[str, ...], dict[str, Any]]]:
    """Arrays that are one chunk each: path → values, dimensions, attributes."""
    small: dict[str, tuple[np.ndarray, tuple[str, ...], dict[str, Any]]] = {}
    for number, timeline in enumerate(source.timelines):
        group = layout.trajectory_name(number)
        time, attributes = layout.encode_time(timeline.time)
        small[f"{group}/time"] = time, ("time",), {**attributes, "standard_name": "time"}
        small[f"{group}/segment"] = np.asarray(timeline.segment, np.int64), ("time",), {}
        small[f"{group}/source"] = np.asarray(timeline.source, np.int64), ("time",), {}
    small["static"] = np.asarray(source.static, np.float32), layout.DIMENSIONS[1:], {}
    for name, values in layout.split_statistics(statistics)[0].items():
        small[f"statistics/{name}"] = values, (), {}
    return {name: entry for name, entry in small.items() if entry[0].size}


class _Writer:
    def __init__(
        self,
        path: Path,
        source: Source,
        description: dict[str, Any],
        small: dict[str, tuple[np.ndarray, tuple[str, ...], dict[str, Any]]],
        progress: Progress | None,
    ) -> None:
        self.path, self.source, self.description, self.small = path, source, description, small
        self.shard_length = description["shard_length"]
        self.lengths = [len(t) for t in source.timelines]
        self.done: dict[str, tuple[int, str]] = {}
        self.arrays: dict[tuple[int, str], Any] = {}
        self.progress = progress or (lambda done, total: None)
        digest = hashlib.sha256(layout.dump(description))
        for name, (values, _, attributes) in sorted(small.items()):
            digest.update(layout.dump([name, str(values.dtype), list(values.shape), attributes]))
            digest.update(np.ascontiguousarray(values).tobytes())
        self.plan = layout.dump({"content": digest.hexdigest()})

    def run(self) -> None:
        if (self.path / layout.MANIFEST).exists():
            self._recognise_finished()
            return
        if (plan := self.path / layout.PLAN).exists():
            if plan.read_bytes() != self.plan:
                raise UserError(f"{self.path} holds an unfinished store of other content; delete it or choose another")
            self.done = self._read_done()
        elif any(self.path.iterdir()):
            raise UserError(f"{self.path} is not empty and not a store; choose another directory")
        else:
            layout.write_atomically(plan, self.plan)
        self._create()
        with (self.path / layout.DONE).open("ab") as log:
            self._write_blocks(log)
        self._finish()

    def _recognise_finished(self) -> None:
        manifest = layout.unseal(self.path)
        if manifest.get("content") != json.loads(self.plan)["content"]:
            raise UserError(f"{self.path} already holds a store of other content; delete it or choose another")
        store = StoreSource(self.path)
        for number, length in enumerate(self.lengths):
            # Sources without provenance can differ where their descriptions agree.
            for index in sorted({0, length // 2, length - 1} & set(range(length))):
                if not self._same(store.read(number, np.array([index])), number, index):
                    raise UserError(
                        f"{self.path} already holds a store of other content (trajectory "
                        f"{self.source.timelines[number].name!r}, time {index}); delete it or choose another"
                    )
        self.progress(sum(self.lengths), sum(self.lengths))

    def _same(self, stored: dict[str, np.ndarray], number: int, index: int) -> bool:
        fresh = self.source.read(number, np.array([index]))
        return all(_identical(stored[role], fresh[role]) for role in DYNAMIC_ROLES)

    def _read_done(self) -> dict[str, tuple[int, str]]:
        """Shards that an earlier run finished and that still have the content which it recorded."""
        done: dict[str, tuple[int, str]] = {}
        log = self.path / layout.DONE
        for line in log.read_bytes().splitlines() if log.exists() else ():
            try:
                name, size, digest = json.loads(line)
            except ValueError:  # a line that was cut off: the shard does not count
                continue
            done[name] = (size, digest)
        # The rest of a cut-off line must not swallow what is appended next.
        layout.write_atomically(log, b"".join(_line(name, record) for name, record in done.items()))
        return {
            name: record
            for name, record in done.items()
            if (self.path / name).is_file() and layout.file_record(self.path / name) == record
        }

    def _create(self) -> None:
        titles = {"": {"title": "surrogate training data", "format": layout.FORMAT}}
        if self.description["statistics"] and self.description["statistics"]["arrays"]:
            titles["statistics"] = {"title": "from the training split alone"}
        for number, timeline in enumerate(self.source.timelines):
            titles[layout.trajectory_name(number)] = {"title": timeline.name}
        for name, attributes in titles.items():
            (self.path / name).mkdir(exist_ok=True)
            layout.write_atomically(self.path / name / "zarr.json", layout.group_metadata(attributes))
        for name, (values, dims, attributes) in self.small.items():
            array = _open(self.path / name, layout.plain_metadata(values, dims, attributes))
            array.write(values).result()
        spec = self.source.spec
        for number, role, name, shape in layout.dynamic_arrays(spec, self.lengths):
            variables = spec.role(role)  # type: ignore[arg-type]
            attributes = {"channels": [v.key for v in variables], "units": [v.units for v in variables]}
            metadata = layout.sharded_metadata(shape, self.shard_length, attributes)
            self.arrays[number, role] = _open(self.path / name, metadata)

    def _write_blocks(self, log: Any) -> None:
        """Compress and write one block while the next one is read from the source."""
        total, count = sum(self.lengths), 0
        pending: list[tuple[str, Any, np.ndarray, Any]] = []
        self.progress(0, total)
        for number, length in enumerate(self.lengths):
            for shard in range(layout.num_shards(length, self.shard_length)):
                start, stop = shard * self.shard_length, min((shard + 1) * self.shard_length, length)
                count += stop - start
                fresh = self._block(number, shard, start, stop)
                self._settle(pending, log)
                pending = fresh
                self.progress(count - (stop - start if pending else 0), total)
        self._settle(pending, log)
        self.progress(total, total)

    def _block(self, number: int, shard: int, start: int, stop: int) -> list[tuple[str, Any, np.ndarray, Any]]:
        roles = [role for role in DYNAMIC_ROLES if (number, role) in self.arrays]
        names = {r: layout.shard_path(f"{layout.trajectory_name(number)}/{r}", shard) for r in roles}
        if all(name in self.done for name in names.values()):
            stored = {r: np.empty((1, 0)) for r in DYNAMIC_ROLES} | {
                r: self.arrays[number, r][start : start + 1].read().result() for r in roles
            }
            fresh = self.source.read(number, np.array([start]))
            if not all(_identical(stored[r], fresh[r]) for r in roles):
                raise UserError(
                    f"{self.path} holds an unfinished store of other content (trajectory "
                    f"{self.source.timelines[number].name!r}, time {start}); delete it or choose another"
                )
            return []
        values = self.source.read(number, np.arange(start, stop))
        block = []
        for role in roles:
            array, fields = self.arrays[number, role], values[role]
            if fields.shape != (stop - start, *array.shape[1:]) or fields.dtype != np.float32:
                raise ValueError(f"{role} read as {fields.dtype}{fields.shape}, expected float32 of {array.shape[1:]}")
            region = array[start:stop]
            block.append((names[role], region, fields, region.write(fields)))
        return block

    def _settle(self, pending: list[tuple[str, Any, np.ndarray, Any]], log: Any) -> None:
        """Wait for a block, read it back, and only then record it."""
        for name, region, fields, future in pending:
            future.result()
            if not _identical(region.read().result(), fields):
                raise OSError(f"{name} does not read back as it was written")
            self.done[name] = layout.file_record(self.path / name)
            log.write(_line(name, self.done[name]))
            log.flush()
            os.fsync(log.fileno())

    def _finish(self) -> None:
        files = dict(self.done)
        for folder, _, names in os.walk(self.path):
            for name in names:
                file = Path(folder) / name
                relative = file.relative_to(self.path).as_posix()
                if name.endswith((".__lock", ".partial")):  # of a process that was killed
                    file.unlink()
                elif relative not in files and relative not in (layout.PLAN, layout.DONE):
                    files[relative] = layout.file_record(file)
        content = json.loads(self.plan)["content"]
        manifest = {**self.description, "content": content, "files": {k: list(files[k]) for k in sorted(files)}}
        layout.write_atomically(self.path / layout.MANIFEST, layout.seal(manifest))
        for name in (layout.DONE, layout.PLAN):
            (self.path / name).unlink()


def _line(name: str, record: tuple[int, str]) -> bytes:
    return json.dumps([name, *record]).encode() + b"\n"


def _identical(one: np.ndarray, other: np.ndarray) -> bool:
    """Bit for bit, so that NaN equals NaN and −0 is not 0."""
    return one.shape == other.shape and np.array_equal(
        np.ascontiguousarray(one).view(np.uint32), np.ascontiguousarray(other).view(np.uint32)
    )


def _open(path: Path, metadata: dict[str, Any] | None, context: Any = None) -> Any:
    """Create (or open again) with ``metadata``; without it open for reading alone."""
    spec: dict[str, Any] = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    # A chunk of zeros or NaN is stored like any other, so that one which is absent is always an error.
    spec |= {"store_data_equal_to_fill_value": True, "fill_missing_data_reads": False}
    if metadata is None:
        return ts.open(spec, open=True, read=True, context=context)
    return ts.open({**spec, "metadata": metadata}, open=True, create=True, read=True, write=True).result()


class StoreSource:
    """A finished store as a :class:`~surrogate.data.source.Source`.

    Opening checks that the manifest, the metadata and the coordinates are intact, and that every shard
    is there at its full size. Reading verifies the CRC-32C of each chunk, and a chunk that is absent is
    an error and never a fill value. Reads may come from several threads.

    Attributes:
        statistics: what :func:`write_store` was given.

    Raises:
        UserError: naming the file that is missing, damaged or not to be trusted.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._manifest = manifest = layout.unseal(self.path)
        self.spec = Spec.from_dict(manifest["spec"])
        self.stride = int(manifest["stride"])
        self._shard_length = int(manifest["shard_length"])
        entries = manifest["trajectories"]
        shapes = list(layout.dynamic_arrays(self.spec, [e["length"] for e in entries]))
        self._check_files(shapes)
        context = ts.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}})
        opening = {(n, role): (_open(self.path / name, None, context), shape) for n, role, name, shape in shapes}
        self._arrays = {}
        for (number, role), (future, shape) in opening.items():
            array = self._result(future, layout.trajectory_name(number))
            if array.shape != shape or array.dtype.numpy_dtype != np.float32:
                raise UserError(
                    f"{self.path}: {role} of trajectory {number} is {array.dtype}{array.shape}, not {shape}"
                )
            self._arrays[number, role] = array
        self.timelines = tuple(self._timeline(number, entry) for number, entry in enumerate(entries))
        height, width = self.spec.grid.shape
        empty = np.zeros((height, width, 0), np.float32)
        self.static = self._small("static") if "static/zarr.json" in manifest["files"] else empty
        self.statistics: dict[str, Any] | None = None
        if (stored := manifest["statistics"]) is not None:
            arrays = {name: self._small(f"statistics/{name}") for name in stored["arrays"]}
            self.statistics = {**stored["values"], **arrays}

    def provenance(self) -> list[dict[str, Any]]:
        return self._manifest["provenance"]

    def read(self, trajectory: int, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See :class:`~surrogate.data.source.Source`; all chunks of all roles are in flight at once."""
        indices = np.asarray(indices, np.int64)
        length = len(self.timelines[trajectory])
        if indices.size and not (0 <= indices.min() and indices.max() < length):
            raise IndexError(f"times {indices.min()} to {indices.max()} are outside 0 to {length - 1}")
        height, width = self.spec.grid.shape
        reads = {}
        for role in DYNAMIC_ROLES:
            if indices.size and (trajectory, role) in self._arrays:
                array = self._arrays[trajectory, role]
                first, last = int(indices[0]), int(indices[-1])
                consecutive = len(indices) == last - first + 1 and bool((np.diff(indices) == 1).all())
                reads[role] = (array[first : last + 1] if consecutive else array[indices]).read()
        fields = {}
        for role in DYNAMIC_ROLES:
            if role in reads:
                try:
                    fields[role] = reads[role].result()
                except _TENSORSTORE_ERRORS as error:
                    raise self._damaged(trajectory, role, indices, error) from error
            else:
                channels = len(self.spec.role(role))  # type: ignore[arg-type]
                fields[role] = np.zeros((len(indices), height, width, channels), np.float32)
        return fields

    def _damaged(self, trajectory: int, role: str, indices: np.ndarray, error: BaseException) -> UserError:
        """Find the sample that cannot be read, to name its shard."""
        array = self._arrays[trajectory, role]
        for index in np.unique(indices):
            try:
                array[int(index)].read().result()
            except _TENSORSTORE_ERRORS as single:
                name = f"{layout.trajectory_name(trajectory)}/{role}"
                shard = self.path / layout.shard_path(name, int(index) // self._shard_length)
                return UserError(f"{shard} is damaged at time {index}: {_reason(single)}")
        return UserError(f"{self.path}: {role} of trajectory {trajectory} could not be read: {_reason(error)}")

    def _result(self, future: Any, name: str) -> Any:
        try:
            return future.result()
        except _TENSORSTORE_ERRORS as error:
            raise UserError(f"{self.path / name} cannot be read: {_reason(error)}") from error

    def _small(self, name: str) -> np.ndarray:
        return self._result(self._result(_open(self.path / name, None), name).read(), name)

    def _timeline(self, number: int, entry: dict[str, Any]) -> Timeline:
        group = layout.trajectory_name(number)
        if not entry["length"]:
            empty = np.zeros(0, np.int64)
            return Timeline(entry["name"], empty, empty, empty, tuple(entry["files"]))
        attributes = json.loads((self.path / group / "time" / "zarr.json").read_bytes())["attributes"]
        time = layout.decode_time(self._small(f"{group}/time"), attributes)
        segment, source = self._small(f"{group}/segment"), self._small(f"{group}/source")
        return Timeline(entry["name"], time, segment, source, tuple(entry["files"]))

    def _check_files(self, shapes: list[tuple[int, str, str, tuple[int, int, int, int]]]) -> None:
        files = self._manifest["files"]
        shards = {
            layout.shard_path(name, shard)
            for _, _, name, shape in shapes
            for shard in range(layout.num_shards(shape[0], self._shard_length))
        }
        if lacking := sorted(shards - files.keys()):
            raise UserError(f"{self.path / layout.MANIFEST} does not list {lacking[0]}")
        for name, (size, digest) in files.items():
            file = self.path / name
            if name.startswith("/") or ".." in Path(name).parts:
                raise UserError(f"{self.path / layout.MANIFEST} lists {name!r}, which is outside the store")
            try:
                found = file.stat().st_size
            except OSError:
                raise UserError(f"{file} is missing: copy the store again, or prepare it again") from None
            if found != size:
                raise UserError(f"{file} has {found} bytes instead of {size}: it is damaged")
            if name not in shards and layout.file_record(file)[1] != digest:
                raise UserError(f"{file} is damaged: its SHA-256 is not the one in {layout.MANIFEST}")
            if file.name == "zarr.json" and (metadata := json.loads(file.read_bytes()))["node_type"] == "array":
                layout.check_array_metadata(metadata, file)


def verify_store(path: str | os.PathLike[str], progress: Progress | None = None) -> int:
    """Read every chunk of a store and compare every file with its SHA-256.

    Args:
        progress: called as ``progress(shards done, shards in all)``.

    Returns:
        Number of chunks.

    Raises:
        UserError: naming every file that is missing or damaged.
    """
    store = StoreSource(path)
    files, step, chunks, damaged = store._manifest["files"], store._shard_length, 0, []
    work = [
        (array[start : start + step] if start + step <= array.shape[0] else array[start:], role, number, start)
        for (number, role), array in store._arrays.items()
        for start in range(0, array.shape[0], step)
    ]
    for done, (region, role, number, start) in enumerate(work):
        name = layout.shard_path(f"{layout.trajectory_name(number)}/{role}", start // step)
        try:
            if list(layout.file_record(store.path / name)) != files[name]:
                damaged.append(f"{store.path / name} (SHA-256)")
            chunks += len(region.read().result())
        except _TENSORSTORE_ERRORS as error:
            damaged.append(f"{store.path / name} ({_reason(error)})")
        if progress:
            progress(done + 1, len(work))
    if damaged:
        raise UserError(f"{len(damaged)} problem(s) in the store: {'; '.join(damaged)}")
    return chunks
