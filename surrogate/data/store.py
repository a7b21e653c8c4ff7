"""The training-ready store: written once, restartable, every chunk verified.

:mod:`surrogate.data.store_format` describes the layout, :mod:`surrogate.data.store_reader` reads it.
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

from surrogate.core.types import UserError
from surrogate.data import store_format as layout
from surrogate.data.source import DYNAMIC_ROLES, Source
from surrogate.data.store_reader import TENSORSTORE_ERRORS, StoreSource, open_array, reason, verify_store

__all__ = ["StoreSource", "verify_store", "write_store"]

Progress = Callable[[int, int], None]


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
    channels = sum(v.role in DYNAMIC_ROLES for v in spec.variables)
    sample_bytes = 4 * channels * spec.grid.shape[0] * spec.grid.shape[1]
    longest = max((len(t) for t in timelines), default=1)
    shard_length = int(np.clip(shard_bytes // sample_bytes, 1, max(1, longest)))
    description = layout.describe(spec, source.stride, timelines, shard_length, source.provenance(), statistics)
    small = _small_arrays(source, statistics)
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with _exclusive(path):
        _Writer(path, source, description, small, progress).run()
    return path


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Around what writes, and not around what reads the source, whose errors are its own."""
    try:
        yield
    except TENSORSTORE_ERRORS as error:
        raise UserError(f"cannot write the store {path}: {reason(error)}") from error


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
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path} is being written by another process") from None
        yield
    finally:
        os.close(directory)


def _small_arrays(
    source: Source, statistics: Mapping[str, Any] | None
) -> dict[str, tuple[np.ndarray, tuple[str, ...], dict[str, Any]]]:
    """Arrays that are one chunk each: path → values, dimensions, attributes."""
    small: dict[str, tuple[np.ndarray, tuple[str, ...], dict[str, Any]]] = {}
    for number, timeline in enumerate(source.timelines):
        if not len(timeline):
            continue
        group = layout.trajectory_name(number)
        time, attributes = layout.encode_time(timeline.time)
        small[f"{group}/time"] = time, ("time",), {**attributes, "standard_name": "time"}
        small[f"{group}/segment"] = np.asarray(timeline.segment, np.int64), ("time",), {}
        small[f"{group}/source"] = np.asarray(timeline.source, np.int64), ("time",), {}
    if source.static.size:
        small["static"] = np.asarray(source.static, np.float32), layout.DIMENSIONS[1:], {}
    for name, values in layout.split_statistics(statistics)[0].items():
        small[f"statistics/{name}"] = values, (), {}
    return small


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
            with _writing(self.path):
                layout.write_atomically(plan, self.plan)
        with _writing(self.path):
            self._create()
            log = (self.path / layout.DONE).open("ab")
        with log:
            self._write_blocks(log)
        with _writing(self.path):
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
        return all(_identical(values, fresh[role]) for role, values in stored.items())

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
        titles: dict[str, dict[str, str]] = {"": {"title": "surrogate training data", "format": layout.FORMAT}}
        if self.description["statistics"] and self.description["statistics"]["arrays"]:
            titles["statistics"] = {"title": "from the training split alone"}
        for number, timeline in enumerate(self.source.timelines):
            titles[layout.trajectory_name(number)] = {"title": timeline.name}
        for name, attributes in titles.items():
            (self.path / name).mkdir(exist_ok=True)
            layout.write_atomically(self.path / name / "zarr.json", layout.group_metadata(attributes))
        for name, (values, dims, attributes) in self.small.items():
            array = open_array(self.path / name, layout.plain_metadata(values, dims, attributes))
            array.write(values).result()
        spec = self.source.spec
        for number, role, name, shape in layout.dynamic_arrays(spec, self.lengths):
            variables = spec.role(role)
            labels = {"channels": [v.key for v in variables], "units": [v.units for v in variables]}
            metadata = layout.sharded_metadata(shape, self.shard_length, labels)
            self.arrays[number, role] = open_array(self.path / name, metadata)

    def _write_blocks(self, log: Any) -> None:
        """Compress and write one block while the next one is read from the source."""
        total, written = sum(self.lengths), 0
        pending: list[tuple[str, Any, np.ndarray, Any]] = []
        self.progress(0, total)
        for number, length in enumerate(self.lengths):
            for shard in range(layout.num_shards(length, self.shard_length)):
                start, stop = shard * self.shard_length, min((shard + 1) * self.shard_length, length)
                block = self._block(number, shard, start, stop)
                self._settle(pending, log)
                if written:
                    self.progress(written, total)
                pending, written = block, written + stop - start
        self._settle(pending, log)
        self.progress(total, total)

    def _block(self, number: int, shard: int, start: int, stop: int) -> list[tuple[str, Any, np.ndarray, Any]]:
        roles = [role for role in DYNAMIC_ROLES if (number, role) in self.arrays]
        names = {r: layout.shard_path(f"{layout.trajectory_name(number)}/{r}", shard) for r in roles}
        if all(name in self.done for name in names.values()):
            with _writing(self.path):
                stored = {r: self.arrays[number, r][start : start + 1].read().result() for r in roles}
            if not self._same(stored, number, start):
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
        with _writing(self.path):
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
                elif relative not in files and not name.startswith("."):  # the plan, and what file systems leave
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
