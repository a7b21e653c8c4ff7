"""The training-ready store: written once, restartable, every chunk verified.

:mod:`surrogate.data.store_format` describes the layout, :mod:`surrogate.data.store_reader` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
import hashlib
import json
import os
from pathlib import Path
import platform
from typing import Any

import numpy as np

from surrogate.core.types import UserError
from surrogate.data import store_format as layout
from surrogate.data.blocks import Blocks, sample_bytes
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
    blocks: Blocks | None = None,
) -> Path:
    """Write everything of ``source`` to a store, or finish one that was interrupted.

    At most two blocks of about ``shard_bytes`` are in memory, or one in each of the processes of ``blocks``. Every shard is read back and compared
    before it counts as written; the manifest, which makes a store of the directory, comes last. A
    store that was interrupted and finished has the same bytes as one that was not.

    Args:
        path: directory; new, empty, or an unfinished store of the same content. A finished store of
            the same content is left as it is.
        statistics: of the training split: arrays or JSON values by name (``Normalizer.arrays()``).
        progress: called as ``progress(samples done, samples in all)``.
        shard_bytes: of one time shard over all roles, before compression.
        blocks: other processes, which see ``path`` too, to read and write the shards; the bytes are the same.

    Raises:
        UserError: for a directory that holds something else, is being written by another process, or
            cannot be written (permissions, full disk).
    """
    path = Path(path).absolute()
    spec, timelines = source.spec, source.timelines
    longest = max((len(t) for t in timelines), default=1)
    shard_length = int(np.clip(shard_bytes // sample_bytes(spec), 1, max(1, longest)))
    description = layout.describe(spec, source.stride, timelines, shard_length, source.provenance(), statistics)
    small = _small_arrays(source, statistics)
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with _exclusive(path):
        _Writer(path, source, description, small, progress, blocks).run()
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


Pending = list[tuple[str, Any, np.ndarray, Any]]
Record = tuple[str, int, str]


@dataclass(frozen=True)
class _Block:
    """The times ``start`` to ``stop`` of a trajectory: one shard of each role."""

    number: int
    shard: int
    start: int
    stop: int
    written: bool = False


@dataclass
class _ShardWriter:
    """Reads blocks and writes their shards; what is sent to another process opens its arrays there.

    ``arrays``: path below the store and metadata by trajectory and role.
    """

    path: Path
    arrays: dict[tuple[int, str], tuple[str, dict[str, Any]]]
    _opened: dict[tuple[int, str], Any] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def __call__(self, source: Source, block: _Block) -> list[Record]:
        """Name, size and SHA-256 of the shards of a block, once they are on disk and read back as they were given."""
        if not (self.path / layout.PLAN).exists():
            raise UserError(
                f"a worker on {platform.node()} does not see {self.path}: the store must lie on a shared disk"
            )
        return self.settle(self.begin(source, block))

    def array(self, number: int, role: str) -> Any:
        if (number, role) not in self._opened:
            name, metadata = self.arrays[number, role]
            with _writing(self.path):
                self._opened[number, role] = open_array(self.path / name, metadata)
        return self._opened[number, role]

    def names(self, block: _Block) -> dict[str, str]:
        """The files of a block by role."""
        return {
            role: layout.shard_path(self.arrays[block.number, role][0], block.shard)
            for role in DYNAMIC_ROLES
            if (block.number, role) in self.arrays
        }

    def begin(self, source: Source, block: _Block) -> Pending:
        """Read a block and begin to write it; of one that is written already only compare the first time."""
        names = self.names(block)
        if block.written:
            with _writing(self.path):
                stored = {r: self.array(block.number, r)[block.start : block.start + 1].read().result() for r in names}
            if not _same(source, stored, block.number, block.start):
                raise UserError(
                    f"{self.path} holds an unfinished store of other content (trajectory "
                    f"{source.timelines[block.number].name!r}, time {block.start}); delete it or choose another"
                )
            return []
        values = source.read(block.number, np.arange(block.start, block.stop))
        pending = []
        for role, name in names.items():
            array, fields = self.array(block.number, role), values[role]
            if fields.shape != (block.stop - block.start, *array.shape[1:]) or fields.dtype != np.float32:
                raise ValueError(f"{role} read as {fields.dtype}{fields.shape}, expected float32 of {array.shape[1:]}")
            region = array[block.start : block.stop]
            pending.append((name, region, fields, region.write(fields)))
        return pending

    def settle(self, pending: Pending) -> list[Record]:
        """Wait for a block, and read it back."""
        records = []
        with _writing(self.path):
            for name, region, fields, future in pending:
                future.result()
                if not _identical(region.read().result(), fields):
                    raise OSError(f"{name} does not read back as it was written")
                records.append((name, *layout.file_record(self.path / name)))
        return records


class _Writer:
    def __init__(
        self,
        path: Path,
        source: Source,
        description: dict[str, Any],
        small: dict[str, tuple[np.ndarray, tuple[str, ...], dict[str, Any]]],
        progress: Progress | None,
        blocks: Blocks | None,
    ) -> None:
        self.path, self.source, self.description, self.small = path, source, description, small
        self.shard_length = description["shard_length"]
        self.lengths = [len(t) for t in source.timelines]
        self.done: dict[str, tuple[int, str]] = {}
        self.progress = progress or (lambda done, total: None)
        self.blocks = blocks
        self.shards = _ShardWriter(path, {})
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
                if not _same(self.source, store.read(number, np.array([index])), number, index):
                    raise UserError(
                        f"{self.path} already holds a store of other content (trajectory "
                        f"{self.source.timelines[number].name!r}, time {index}); delete it or choose another"
                    )
        self.progress(sum(self.lengths), sum(self.lengths))

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
            self.shards.arrays[number, role] = name, layout.sharded_metadata(shape, self.shard_length, labels)
            self.shards.array(number, role)

    def _write_blocks(self, log: Any) -> None:
        total, written = sum(self.lengths), 0
        work = list(self._work())
        self.progress(0, total)
        for block, records in zip(work, self._written(work), strict=True):
            self._record(records, log)
            written += block.stop - block.start
            self.progress(written, total)

    def _work(self) -> Iterator[_Block]:
        for number, length in enumerate(self.lengths):
            for shard in range(layout.num_shards(length, self.shard_length)):
                start, stop = shard * self.shard_length, min((shard + 1) * self.shard_length, length)
                block = _Block(number, shard, start, stop)
                yield replace(block, written=all(name in self.done for name in self.shards.names(block).values()))

    def _written(self, work: list[_Block]) -> Iterator[list[Record]]:
        """The records of each block in turn: by other processes, or here, where one is compressed while the next is read."""
        if self.blocks is not None:
            yield from self.blocks.each(self.shards, work)
            return
        pending: Pending | None = None
        for block in work:
            following = self.shards.begin(self.source, block)
            if pending is not None:
                yield self.shards.settle(pending)
            pending = following
        if pending is not None:
            yield self.shards.settle(pending)

    def _record(self, records: list[Record], log: Any) -> None:
        with _writing(self.path):
            for name, size, digest in records:
                self.done[name] = size, digest
                log.write(_line(name, (size, digest)))
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


def _same(source: Source, stored: dict[str, np.ndarray], number: int, index: int) -> bool:
    fresh = source.read(number, np.array([index]))
    return all(_identical(values, fresh[role]) for role, values in stored.items())


def _identical(one: np.ndarray, other: np.ndarray) -> bool:
    """Bit for bit, so that NaN equals NaN and −0 is not 0."""
    return one.shape == other.shape and np.array_equal(
        np.ascontiguousarray(one).view(np.uint32), np.ascontiguousarray(other).view(np.uint32)
    )
