"""The training split as baselines see it: whole trajectories, and pairs of times that never cross a gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from surrogate.core.spec import Spec


@dataclass(frozen=True)
class TrainingFields:
    """Outputs (and forcings) of the training split, in physical units.

    Attributes:
        spec: meaning and order of the channels.
        state: per trajectory (T, H, W, C) float32, C the outputs of ``spec``; read, never changed.
        time: per trajectory (T,) ``datetime64``, cftime objects, or integers for samples without time.
        segment: per trajectory (T,) int: equal where times follow each other without a gap.
        weights: (H, W, C) float64: cell area, 0 where a value is missing (as in the metrics).
        stride: the model's time step in file steps.
        forcing: per trajectory (T, H, W, F) float32; empty without forcings.
    """

    spec: Spec
    state: Sequence[np.ndarray]
    time: Sequence[np.ndarray]
    segment: Sequence[np.ndarray]
    weights: np.ndarray
    stride: int = 1
    forcing: Sequence[np.ndarray] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if not self.state or not sum(len(s) for s in self.state):
            raise ValueError("the training split has no times")
        for i, (state, time, segment) in enumerate(zip(self.state, self.time, self.segment, strict=True)):
            if state.shape[1:] != self.weights.shape or not len(state) == len(time) == len(segment):
                raise ValueError(
                    f"trajectory {i}: state {state.shape}, time {time.shape} and segment {segment.shape} do not fit "
                    f"weights {self.weights.shape}"
                )
        if self.forcing:
            for i, (forcing, state) in enumerate(zip(self.forcing, self.state, strict=True)):
                if forcing.shape[:3] != state.shape[:3]:
                    raise ValueError(f"trajectory {i}: forcing {forcing.shape} does not fit state {state.shape}")

    @property
    def mask(self) -> np.ndarray:
        """(H, W, C) bool, True where there are data."""
        return self.weights > 0

    @property
    def num_times(self) -> int:
        return sum(len(s) for s in self.state)

    def origins(self, lead: int) -> list[np.ndarray]:
        """Per trajectory the indices i for which (i, i + lead × stride) lie in one segment; ``lead`` in model steps."""
        offset = lead * self.stride
        result = []
        for segment in self.segment:
            last = max(len(segment) - offset, 0)
            result.append(np.flatnonzero(segment[:last] == segment[offset : offset + last]))
        return result


def blocks(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` that cover ``range(length)``."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def block_size(values_per_item: int, megabytes: int = 64) -> int:
    """How many items of float32 values make a working block of about ``megabytes``."""
    return max(1, megabytes * 2**20 // (4 * max(values_per_item, 1)))
