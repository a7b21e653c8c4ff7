"""Where samples come from: trajectories of gridded fields that can be read by time index.

``MemorySource`` holds small data as arrays; ``surrogate.data.store.StoreSource`` reads a prepared
Zarr store. Both give physical units in float32, NaN where a value is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from surrogate.core.spec import Spec

# The three roles that vary in time, in the order in which arrays of them are passed around.
DYNAMIC_ROLES = ("prognostic", "diagnostic", "forcing")

Window = tuple[slice, slice]  # rows and columns of a field
WHOLE: Window = (slice(None), slice(None))


@dataclass(frozen=True)
class Timeline:
    """The times of one trajectory.

    Attributes:
        name: what messages call it (the entry of ``data.paths``).
        time: (T,) numpy ``datetime64[ns]`` or an object array of cftime datetimes, strictly increasing.
            For data without time (a table of samples) the integers 0..T−1.
        segment: (T,) int: equal between neighbours that are exactly one file step apart; a sample
            never spans two values.
        source: (T,) int index into ``files``: which file a time was read from.
        files: paths, for provenance and messages.
    """

    name: str
    time: np.ndarray
    segment: np.ndarray
    source: np.ndarray
    files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.time)


class Source(Protocol):
    """Trajectories that can be read by index.

    ``spec.time_step`` is the model's time step; ``stride`` is that step counted in file times
    (daily steps from 6-hourly files: 4). Static fields are (H, W, S).
    """

    spec: Spec
    stride: int
    timelines: tuple[Timeline, ...]
    static: np.ndarray

    def read(self, trajectory: int, indices: np.ndarray, window: Window = WHOLE) -> dict[str, np.ndarray]:
        """Fields of every dynamic role at ``indices`` (n,) of one trajectory: each (n, H, W, C) float32.

        Of the rows and columns in ``window`` alone.
        """
        ...

    def provenance(self) -> list[dict[str, Any]]:
        """Files with sizes and SHA-256."""
        ...


class MemorySource:
    """A ``Source`` over arrays already in memory.

    Args:
        spec: channel meaning and order.
        timelines: one per trajectory.
        fields: per trajectory, role → (T, H, W, C) float32 in the order of ``spec``.
        static: (H, W, S) float32.
        stride: the model's time step in file steps.
        files: provenance records.
    """

    def __init__(
        self,
        spec: Spec,
        timelines: tuple[Timeline, ...],
        fields: list[dict[str, np.ndarray]],
        static: np.ndarray,
        stride: int = 1,
        files: list[dict[str, Any]] | None = None,
    ) -> None:
        height, width = spec.grid.shape
        for timeline, arrays in zip(timelines, fields, strict=True):
            for role in DYNAMIC_ROLES:
                expected = (len(timeline), height, width, len(spec.role(role)))
                if arrays[role].shape != expected:
                    raise ValueError(f"{timeline.name}: {role} has shape {arrays[role].shape}, expected {expected}")
        self.spec, self.timelines, self.static, self.stride = spec, timelines, static, stride
        self._fields, self._files = fields, files or []

    def read(self, trajectory: int, indices: np.ndarray, window: Window = WHOLE) -> dict[str, np.ndarray]:
        """As the protocol says; neighbouring times are not copied and then cannot be written to."""
        parts = {role: self._fields[trajectory][role][:, window[0], window[1]] for role in DYNAMIC_ROLES}
        if len(indices) and indices[0] >= 0 and (np.diff(indices) == 1).all():
            parts = {role: part[indices[0] : indices[-1] + 1] for role, part in parts.items()}
            for part in parts.values():
                part.flags.writeable = False
            return parts
        return {role: part[indices] for role, part in parts.items()}

    def provenance(self) -> list[dict[str, Any]]:
        return self._files
