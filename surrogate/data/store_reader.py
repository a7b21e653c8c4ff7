"""Random batches from a prepared store, by tensorstore; nothing damaged or missing passes for data.

:mod:`surrogate.data.store_format` describes the layout, :mod:`surrogate.data.store` writes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from surrogate.core.spec import Spec
from surrogate.core.types import UserError
from surrogate.data import store_format as layout
from surrogate.data.blocks import Blocks
from surrogate.data.source import DYNAMIC_ROLES, WHOLE, Source, Timeline, Window

Progress = Callable[[int, int], None]

TENSORSTORE_ERRORS = (OSError, ValueError, RuntimeError)
# Decoded chunks are not worth keeping between batches that are drawn at random; shard indices are.
_CACHE_BYTES = 64 * 2**20


def reason(error: BaseException) -> str:
    """The cause in tensorstore's long messages, without the specification that it appends."""
    return (
        (getattr(error, "strerror", None) or str(error)).split(" [source locations")[0].split(" [tensorstore_spec")[0]
    )


def open_array(path: Path, metadata: dict[str, Any] | None, context: Any = None) -> Any:
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
        opening = {(n, role): (open_array(self.path / name, None, context), shape) for n, role, name, shape in shapes}
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

    def read(self, trajectory: int, indices: np.ndarray, window: Window = WHOLE) -> dict[str, np.ndarray]:
        """See :class:`~surrogate.data.source.Source`; all chunks of all roles are in flight at once."""
        indices = np.asarray(indices, np.int64)
        length = len(self.timelines[trajectory])
        if indices.size and not (indices.min() >= 0 and indices.max() < length):
            raise IndexError(f"times {indices.min()} to {indices.max()} are outside 0 to {length - 1}")
        height, width = (len(range(*w.indices(n))) for w, n in zip(window, self.spec.grid.shape, strict=True))
        reads = {}
        for role in DYNAMIC_ROLES:
            if indices.size and (trajectory, role) in self._arrays:
                array = self._arrays[trajectory, role]
                first, last = int(indices[0]), int(indices[-1])
                consecutive = len(indices) == last - first + 1 and bool((np.diff(indices) == 1).all())
                reads[role] = (array[first : last + 1] if consecutive else array[indices])[
                    :, window[0], window[1]
                ].read()
        fields = {}
        for role in DYNAMIC_ROLES:
            if role in reads:
                try:
                    fields[role] = reads[role].result()
                except TENSORSTORE_ERRORS as error:
                    raise self._damaged(trajectory, role, indices, error) from error
            else:
                channels = len(self.spec.role(role))
                fields[role] = np.zeros((len(indices), height, width, channels), np.float32)
        return fields

    def _damaged(self, trajectory: int, role: str, indices: np.ndarray, error: BaseException) -> UserError:
        """Find the sample that cannot be read, to name its shard."""
        array = self._arrays[trajectory, role]
        for index in np.unique(indices):
            try:
                array[int(index)].read().result()
            except TENSORSTORE_ERRORS as single:
                name = f"{layout.trajectory_name(trajectory)}/{role}"
                shard = self.path / layout.shard_path(name, int(index) // self._shard_length)
                return UserError(f"{shard} is damaged at time {index}: {reason(single)}")
        return UserError(f"{self.path}: {role} of trajectory {trajectory} could not be read: {reason(error)}")

    def _result(self, future: Any, name: str) -> Any:
        try:
            return future.result()
        except TENSORSTORE_ERRORS as error:
            raise UserError(f"{self.path / name} cannot be read: {reason(error)}") from error

    def _small(self, name: str) -> np.ndarray:
        return self._result(self._result(open_array(self.path / name, None), name).read(), name)

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
        # What is opened must be listed, so that nothing is read whose hash and codecs were not checked.
        small = [f"statistics/{n}" for n in (self._manifest["statistics"] or {"arrays": ()})["arrays"]]
        for number, entry in enumerate(self._manifest["trajectories"]):
            if entry["length"]:
                small += [f"{layout.trajectory_name(number)}/{n}" for n in ("time", "segment", "source")]
        metadata = {f"{name}/zarr.json" for name in (*small, *(name for _, _, name, _ in shapes))}
        if lacking := sorted((shards | metadata) - files.keys()):
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
            if file.name == "zarr.json":
                layout.check_metadata(json.loads(file.read_bytes()), file)


@dataclass
class _Verifier:
    """Reads shards of a store and compares their files with their SHA-256."""

    path: Path
    _store: StoreSource | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_store": None}

    @property
    def store(self) -> StoreSource:
        if self._store is None:
            self._store = StoreSource(self.path)
        return self._store

    def work(self) -> list[tuple[int, str, int]]:
        """Trajectory, role and first time of every shard."""
        step = self.store._shard_length
        return [
            (number, role, start)
            for (number, role), array in self.store._arrays.items()
            for start in range(0, array.shape[0], step)
        ]

    def __call__(self, source: Source | None, shard: tuple[int, str, int]) -> tuple[int, list[str]]:
        """The number of chunks, and what is wrong."""
        number, role, start = shard
        store, damaged, chunks = self.store, [], 0
        array, step = store._arrays[number, role], store._shard_length
        name = layout.shard_path(f"{layout.trajectory_name(number)}/{role}", start // step)
        try:
            if list(layout.file_record(store.path / name)) != store._manifest["files"][name]:
                damaged.append(f"{store.path / name} (SHA-256)")
            chunks = len(array[start : min(start + step, array.shape[0])].read().result())
        except TENSORSTORE_ERRORS as error:
            damaged.append(f"{store.path / name} ({reason(error)})")
        return chunks, damaged


def verify_store(path: str | os.PathLike[str], progress: Progress | None = None, blocks: Blocks | None = None) -> int:
    """Read every chunk of a store and compare every file with its SHA-256.

    Args:
        progress: called as ``progress(shards done, shards in all)``.
        blocks: other processes to read in.

    Returns:
        Number of chunks.

    Raises:
        UserError: naming every file that is missing or damaged.
    """
    verifier = _Verifier(Path(path).absolute())
    work, chunks, damaged = verifier.work(), 0, []
    results = blocks.each(verifier, work) if blocks is not None else (verifier(None, shard) for shard in work)
    for done, (found, wrong) in enumerate(results):
        chunks += found
        damaged += wrong
        if progress:
            progress(done + 1, len(work))
    if damaged:
        raise UserError(f"{len(damaged)} problem(s) in the store: {'; '.join(damaged)}")
    return chunks
