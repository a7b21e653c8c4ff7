"""Which times belong to training, validation and test, and which samples fit inside them.

A sample is a window of states: ``history`` past ones and ``rollout`` steps ahead. All of it lies in one
split, one trajectory and one gap-free segment, so that no training target is ever seen in a test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surrogate.core.calendars import between, has_calendar
from surrogate.core.types import UserError
from surrogate.data.settings import SplitConfig
from surrogate.data.source import Source, Timeline

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Splits:
    """``members[split][trajectory]`` is (T,) bool: the times that belong to a split."""

    members: dict[str, tuple[np.ndarray, ...]]

    def times(self, split: str) -> list[np.ndarray]:
        """Time indices of a split, an array a trajectory."""
        return [np.flatnonzero(m) for m in self.members[split]]

    def samples(self, source: Source, split: str, *, history: int, rollout: int) -> np.ndarray:
        """All (trajectory, time index of the initial state) whose whole window lies in ``split``: (N, 2) int64.

        ``rollout=0`` asks for the sample's own time alone (a map without prognostic variables).
        """
        found = []
        for number, (line, member) in enumerate(zip(source.timelines, self.members[split], strict=True)):
            offsets = np.arange(-(history - 1), rollout + 1) * source.stride
            start = np.arange(len(line))
            inside = (start + offsets[0] >= 0) & (start + offsets[-1] < len(line))
            start = start[inside]
            window = start[:, None] + offsets
            whole = member[window].all(1) & (line.segment[window[:, 0]] == line.segment[window[:, -1]])
            found.append(np.stack([np.full(whole.sum(), number), start[whole]], axis=1))
        return np.concatenate(found).astype(np.int64) if found else np.zeros((0, 2), np.int64)


def make_splits(timelines: tuple[Timeline, ...], roles: tuple[str, ...], config: SplitConfig) -> Splits:
    """Assign times to splits.

    Args:
        roles: per trajectory: ``all``, or the one split that its own ``<split>_paths`` reserved it for.

    Raises:
        UserError: for a split without any time, and for two splits that share one.
    """
    dedicated = set(roles) - {"all"}
    members: dict[str, tuple[np.ndarray, ...]] = {}
    for split in SPLITS:
        bounds = getattr(config, split)
        rows = []
        for line, role in zip(timelines, roles, strict=True):
            size = len(line)
            takes_part = role == split or (role == "all" and split not in dedicated)
            if not takes_part or (bounds is None and role == "all"):
                rows.append(np.zeros(size, bool))
            elif bounds is None or (role == split and config.is_fraction(split)):
                rows.append(np.ones(size, bool))
            elif config.is_fraction(split):
                place = np.arange(size)
                low, high = (round(float(b) * size) for b in bounds)
                rows.append((place >= low) & (place < high))
            else:
                rows.append(between(line.time, *bounds))
        members[split] = tuple(rows)
        if (bounds is not None or split in dedicated) and not any(r.any() for r in rows):
            raise UserError(_empty(split, bounds, timelines))
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        for line, a, b in zip(timelines, members[first], members[second], strict=True):
            shared = np.flatnonzero(a & b)
            if len(shared):
                raise UserError(
                    f"data.split leaks: {first} and {second} share {len(shared)} times of {line.name} "
                    f"({line.time[shared[0]]} to {line.time[shared[-1]]})"
                )
    if not any(r.any() for r in members["train"]):
        raise UserError("data.split.train selects nothing; give it two dates or two fractions")
    return Splits(members)


def _empty(split: str, bounds: object, timelines: tuple[Timeline, ...]) -> str:
    ranges = ", ".join(
        f"{t.name} has {t.time[0]} to {t.time[-1]}" if has_calendar(t.time) else f"{t.name} has {len(t)} samples"
        for t in timelines[:3]
    )
    wanted = list(bounds) if isinstance(bounds, (tuple, list)) else bounds
    return f"data.split.{split}={wanted} selects no time: {ranges}"
