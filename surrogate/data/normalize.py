"""Normalisation: center and scale of every channel, from the training split alone.

Prognostic and diagnostic fields may first lose a monthly climatology (``anomaly: month``). Missing
points (land) become 0 after normalisation and are listed in ``mask``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from surrogate.core.calendars import has_calendar, month_of
from surrogate.core.spec import Role, Spec, Variable
from surrogate.core.types import UserError
from surrogate.data.blocks import Blocks, Here, in_blocks, sample_bytes, samples_in_blocks
from surrogate.data.source import Source
from surrogate.data.splits import Splits
from surrogate.data.step_base import StepBase, fit_step_base, most_patterns

_CACHED = 2**17  # float64 values worked on at once, a megabyte: every pass after the first finds them in the cache


@dataclass(frozen=True)
class Normalizer:
    """Statistics of the training split, float32, in the channel order of ``spec``.

    Attributes:
        center, scale: role → (channels,). For the outputs they describe anomalies where a
            climatology is subtracted.
        target_scale: (K, outputs): standard deviation of the change over k = 1..K steps of a
            prognostic field, in normalised units (row 0 is the size of one step's increment);
            1 for diagnostics.
        mask: (H, W, outputs) bool: points that have a value.
        climatology: (12, H, W, outputs) physical units, or None.
        base: what increments are added to; None for persistence.
    """

    spec: Spec
    center: dict[str, np.ndarray]
    scale: dict[str, np.ndarray]
    target_scale: np.ndarray
    mask: np.ndarray
    climatology: np.ndarray | None = None
    base: StepBase | None = None

    def _offset(self, role: Role, months: np.ndarray | None) -> np.ndarray:
        if role not in ("prognostic", "diagnostic") or self.climatology is None:
            return self.center[role]
        if months is None:
            raise ValueError("the months of the times are needed where a monthly climatology is subtracted")
        count = len(self.spec.role("prognostic"))
        part = self.climatology[..., :count] if role == "prognostic" else self.climatology[..., count:]
        return part[months] + self.center[role]

    def normalize(self, role: Role, values: np.ndarray, months: np.ndarray | None = None) -> np.ndarray:
        """Physical (N, H, W, C) → normalised float32, missing points 0. ``months`` (N,) from 0."""
        result = (values - self._offset(role, months)) / self.scale[role]
        return np.nan_to_num(result.astype(np.float32), copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)

    def denormalize(self, role: Role, values: np.ndarray, months: np.ndarray | None = None) -> np.ndarray:
        """Normalised (N, H, W, C) → physical float32, missing points NaN."""
        result = np.asarray(values, np.float32) * self.scale[role] + self._offset(role, months)
        count = len(self.spec.role("prognostic"))
        mask = self.mask[..., :count] if role == "prognostic" else self.mask[..., count:]
        return np.where(mask, result, np.float32(np.nan)).astype(np.float32)

    def window(self, rows: slice, columns: slice) -> Normalizer:
        """For fields of which these rows and columns alone were read; without the base."""
        climatology = None if self.climatology is None else self.climatology[:, rows, columns]
        return replace(self, mask=self.mask[rows, columns], climatology=climatology, base=None)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything but the spec, by name; :meth:`from_arrays` inverts it."""
        named = {f"center.{role}": value for role, value in self.center.items()}
        named |= {f"scale.{role}": value for role, value in self.scale.items()}
        named |= {"target_scale": self.target_scale, "mask": self.mask.astype(np.uint8)}
        if self.climatology is not None:
            named["climatology"] = self.climatology
        return named | (self.base.arrays() if self.base is not None else {})

    @classmethod
    def from_arrays(cls, spec: Spec, named: dict[str, np.ndarray]) -> Normalizer:
        roles = ("prognostic", "diagnostic", "forcing", "static")
        return cls(
            spec,
            {r: named[f"center.{r}"] for r in roles},
            {r: named[f"scale.{r}"] for r in roles},
            named["target_scale"], named["mask"].astype(bool), named.get("climatology"),
            StepBase.from_arrays(named),
        )  # fmt: skip


class _Moments:
    """Weighted mean and variance per channel, merged block by block (Chan et al. 1983) in float64."""

    def __init__(self, channels: int) -> None:
        self.weight, self.mean, self.square = np.zeros(channels), np.zeros(channels), np.zeros(channels)

    def add(self, values: np.ndarray, weights: np.ndarray) -> None:
        """``values`` (N, H, W, C) with NaN where missing; ``weights`` (H, W)."""
        channels, area = values.shape[-1], weights.reshape(-1).astype(np.float64)
        length = max(1, _CACHED // max(1, area.size * channels))
        for start in range(0, len(values), length):
            self._add(values[start : start + length].reshape(-1, area.size, channels), area)

    def _add(self, values: np.ndarray, area: np.ndarray) -> None:
        """``values`` (N, S, C), few enough to stay in the processor's cache; ``area`` (S,)."""
        filled = values.astype(np.float64)
        total = np.full(values.shape[-1], len(values) * area.sum())
        present = np.isfinite(values)
        whole = bool(present.all())
        if not whole:
            filled[~present] = 0
            total = (area @ present.astype(np.float64)).sum(0)
        mean = (area @ filled).sum(0) / np.where(total > 0, total, 1)
        filled -= mean
        filled *= filled
        if not whole:
            filled[~present] = 0
        self.merge(total, mean, (area @ filled).sum(0))

    def merge(self, weight: np.ndarray, mean: np.ndarray, square: np.ndarray) -> None:
        """Add values of which the weights, the mean and the weighted squares about it are known, each (C,)."""
        merged = self.weight + weight
        safe = np.where(merged > 0, merged, 1)
        delta = mean - self.mean
        self.square += square + delta**2 * self.weight * weight / safe
        self.mean += delta * weight / safe
        self.weight = merged

    def sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What :meth:`merge` takes."""
        return self.weight, self.mean, self.square

    def std(self) -> np.ndarray:
        return np.sqrt(self.square / np.where(self.weight > 0, self.weight, 1))


def fit_normalizer(
    source: Source,
    splits: Splits,
    *,
    anomaly: str = "none",
    rollout: int = 1,
    base: str = "persistence",
    blocks: Blocks | None = None,
) -> Normalizer:
    """Fit statistics on the training split of ``source``, in blocks; an anomaly needs a second pass.

    Args:
        anomaly: ``none`` or ``month``.
        base: ``persistence``, or a kind of :func:`surrogate.data.step_base.fit_step_base`.
        rollout: how many rows ``target_scale`` gets.
        blocks: where they are worked on; here unless given. The base is always fitted here.

    Raises:
        UserError: for an output that is constant or entirely missing in training, for infinite values.
    """
    spec, area = source.spec, source.spec.grid.area_weights()
    train = splits.times("train")
    where: Blocks = blocks or Here(source)
    work = [(number, block) for number, times in enumerate(train) for block in in_blocks(times, sample_bytes(spec))]
    presence = _Presence(spec)
    moments = {r: _Moments(len(spec.role(r))) for r in ("prognostic", "diagnostic", "forcing")}
    climatology = _monthly_means(where, source, work, anomaly)
    for found, sums in where.each(partial(_block_statistics, climatology=climatology), work):
        presence.merge(*found)
        for role, values in sums.items():
            moments[role].merge(*values)
    present = presence.always(source)
    center = {role: m.mean.astype(np.float32) for role, m in moments.items()}
    scale = {role: m.std().astype(np.float32) for role, m in moments.items()}
    for role in ("prognostic", "diagnostic"):
        for variable, value in zip(spec.role(role), scale[role], strict=True):
            if not value > 0:
                raise UserError(f"variable {variable.key!r} does not vary in the training split; nothing to learn")
    scale["forcing"] = np.where(scale["forcing"] > 0, scale["forcing"], 1).astype(np.float32)
    static = _Moments(len(spec.role("static")))
    if source.static.shape[-1]:
        static.add(source.static[None], area)
    center["static"] = static.mean.astype(np.float32)
    scale["static"] = np.where(static.std() > 0, static.std(), 1).astype(np.float32)
    target = _target_scale(where, source, splits, climatology, scale["prognostic"], rollout)
    normalizer = Normalizer(spec, center, scale, target, present, climatology)
    if base == "persistence" or not spec.role("prognostic"):
        return normalizer

    def states(number: int, index: np.ndarray) -> np.ndarray:
        months = month_of(source.timelines[number].time[index]) if normalizer.climatology is not None else None
        return normalizer.normalize("prognostic", source.read(number, index)["prognostic"], months)

    mask = present[..., : len(spec.role("prognostic"))]
    return replace(normalizer, base=fit_step_base(source, splits, states, mask, base, rollout))


def blank_normalizer(spec: Spec, *, rollout: int, base: str) -> tuple[Normalizer, list[str]]:
    """A normalisation of the right shapes that was fitted to nothing, and what was assumed of them."""
    height, width = spec.grid.shape
    roles: tuple[Role, ...] = ("prognostic", "diagnostic", "forcing", "static")
    center: dict[str, np.ndarray] = {r: np.zeros(len(spec.role(r)), np.float32) for r in roles}
    scale: dict[str, np.ndarray] = {r: np.ones(len(spec.role(r)), np.float32) for r in roles}
    target = np.ones((rollout, len(spec.outputs)), np.float32)
    mask = np.broadcast_to(True, (height, width, len(spec.outputs)))
    normalizer = Normalizer(spec, center, scale, target, mask)
    assumed = ["every point has a value: a land mask would be one more input"]
    count = len(spec.role("prognostic"))
    if base == "persistence" or not count:
        return normalizer, assumed
    patterns = most_patterns() if base == "linear_inverse_model" else 0
    if patterns:
        assumed.append(f"the linear inverse model of data.base has {patterns} patterns, the most that are tried")
    memory = np.broadcast_to(np.float32(1), (height, width, count))
    many = np.broadcast_to(np.float32(0), (patterns, height, width, count))
    step = StepBase(memory, many, many, np.zeros((patterns, patterns), np.float32))
    return replace(normalizer, base=step), assumed


def _part(fields: np.ndarray, spec: Spec, role: str) -> np.ndarray:
    count = len(spec.role("prognostic"))
    return fields[..., :count] if role == "prognostic" else fields[..., count:]


def _block_statistics(
    source: Source, block: tuple[int, np.ndarray], *, climatology: np.ndarray | None
) -> tuple[tuple[np.ndarray, np.ndarray], dict[Role, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Of the times ``block[1]`` of trajectory ``block[0]``: points (H, W, outputs) that always and ever have a value, a
    single True each where all have one; and per role the weights, mean and squares of its channels."""
    number, times = block
    spec, area = source.spec, source.spec.grid.area_weights()
    fields = source.read(number, times)
    finite = ~np.isnan(np.concatenate([fields["prognostic"], fields["diagnostic"]], axis=-1))
    whole = np.asarray(True)
    presence = (whole, whole) if finite.all() else (finite.all(0), finite.any(0))
    months = month_of(source.timelines[number].time[times]) if climatology is not None else None
    sums: dict[Role, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    roles: tuple[Role, ...] = ("prognostic", "diagnostic", "forcing")
    for role in roles:
        values = fields[role]
        _refuse_infinite(source, number, times, values, spec.role(role))
        if months is not None and climatology is not None and role != "forcing":
            values = values - _part(climatology, spec, role)[months]
        if values.shape[-1]:
            moments = _Moments(values.shape[-1])
            moments.add(values, area)
            sums[role] = moments.sums()
    return presence, sums


class _Presence:
    """Which points of the outputs always and ever have a value, merged block by block."""

    def __init__(self, spec: Spec) -> None:
        shape = (*spec.grid.shape, len(spec.outputs))
        self.present, self.ever = np.ones(shape, bool), np.zeros(shape, bool)

    def merge(self, present: np.ndarray, ever: np.ndarray) -> None:
        self.present &= present
        self.ever |= ever

    def always(self, source: Source) -> np.ndarray:
        """The constant mask (H, W, outputs).

        Raises:
            UserError: for a variable without any constant point, or with points that come and go.
        """
        for channel, variable in enumerate(source.spec.outputs):
            present = self.present[..., channel]
            if not present.any():
                raise UserError(f"variable {variable.key!r} is missing somewhere at every point of the training split")
            # A point that is sometimes there and sometimes not would be learnt from a moving sample.
            moving = self.ever[..., channel] & ~present
            if moving.any():
                row, column = np.argwhere(moving)[0]
                raise UserError(
                    f"variable {variable.key!r} is missing at some times of the training split but not at others, "
                    f"first at latitude {source.spec.grid.latitude[row]:g}, "
                    f"longitude {source.spec.grid.longitude[column]:g} ({moving.sum()} points)"
                )
        return self.present


def _block_months(source: Source, block: tuple[int, np.ndarray]) -> dict[int, tuple[int, np.ndarray]]:
    """Per calendar month the number of times, and the sum over them: (H, W, outputs) float64."""
    number, times = block
    fields = source.read(number, times)
    values = np.concatenate([fields["prognostic"], fields["diagnostic"]], axis=-1)
    months = month_of(source.timelines[number].time[times])
    sums = {}
    for month in np.unique(months):
        chosen = values[months == month]
        sums[int(month)] = len(chosen), chosen.astype(np.float64).sum(0)
    return sums


def _monthly_means(
    where: Blocks, source: Source, work: list[tuple[int, np.ndarray]], anomaly: str
) -> np.ndarray | None:
    """The mean of each calendar month of the outputs, (12, H, W, outputs) float32, where it is wanted."""
    if anomaly != "month":
        return None
    for line in source.timelines:
        if not has_calendar(line.time):
            raise UserError(f"data.anomaly=month needs dates, and {line.name} has none")
    total, count = np.zeros((12, *source.spec.grid.shape, len(source.spec.outputs))), np.zeros(12)
    for sums in where.each(_block_months, work):
        for month, (times, values) in sums.items():
            total[month] += values
            count[month] += times
    if (count == 0).any():
        raise UserError(f"data.anomaly=month: the training split has no {_MONTHS[int(np.argmin(count))]}")
    return (total / count[:, None, None, None]).astype(np.float32)


_MONTHS = ("January", "February", "March", "April", "May", "June", "July",
           "August", "September", "October", "November", "December")  # fmt: skip


def _refuse_infinite(
    source: Source, number: int, block: np.ndarray, values: np.ndarray, variables: tuple[Variable, ...]
) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        time, row, column, channel = np.argwhere(infinite)[0]
        line, grid = source.timelines[number], source.spec.grid
        index = block[time]
        file = line.files[line.source[index]] if line.files else line.name
        raise UserError(
            f"{file}: {variables[channel].key!r} is infinite at {line.time[index]}, "
            f"latitude {grid.latitude[row]:g}, longitude {grid.longitude[column]:g}"
        )


def _block_change(
    source: Source, block: tuple[int, np.ndarray], *, steps: int, climatology: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, mean and squares of x(t + steps) − x(t) of the prognostic channels, over the starts ``block[1]``."""
    number, start = block
    spec, line, end = source.spec, source.timelines[number], start + steps * source.stride
    change = source.read(number, end)["prognostic"] - source.read(number, start)["prognostic"]
    if climatology is not None:
        part = _part(climatology, spec, "prognostic")
        change = change - (part[month_of(line.time[end])] - part[month_of(line.time[start])])
    moments = _Moments(change.shape[-1])
    moments.add(change, spec.grid.area_weights())
    return moments.sums()


def _target_scale(
    where: Blocks, source: Source, splits: Splits, climatology: np.ndarray | None, scale: np.ndarray, rollout: int
) -> np.ndarray:
    """Standard deviation of x(t+k) − x(t) over the training split in units of ``scale``: (rollout, outputs)."""
    spec = source.spec
    prognostic = len(spec.role("prognostic"))
    result = np.ones((rollout, len(spec.outputs)), np.float32)
    if not prognostic:
        return result
    for k in range(1, rollout + 1):
        samples = splits.samples(source, "train", history=1, rollout=k)
        if not len(samples):
            raise UserError(
                f"data.split.train has no gap-free window of {k} steps of {spec.time_step}; "
                "shorten train.curriculum or lengthen the split"
            )
        moment = _Moments(prognostic)
        # 512 pairs spread over the split estimate a standard deviation to about 3% or better.
        chosen = samples[np.unique(np.linspace(0, len(samples) - 1, min(len(samples), 512)).round().astype(int))]
        change = partial(_block_change, steps=k, climatology=climatology)
        for sums in where.each(change, list(samples_in_blocks(chosen, sample_bytes(spec)))):
            moment.merge(*sums)
        std = np.sqrt(moment.std() ** 2 + moment.mean**2) / scale
        for variable, value in zip(spec.role("prognostic"), std, strict=True):
            if not value > 0:
                raise UserError(f"variable {variable.key!r} never changes over {k} steps in the training split")
        result[k - 1, :prognostic] = std
    return result


def describe(normalizer: Normalizer) -> dict[str, Any]:
    """Center and scale by channel key, for manifests and cards."""
    table: dict[str, Any] = {}
    for role in ("prognostic", "diagnostic", "forcing", "static"):
        variables = normalizer.spec.role(role)
        for index, variable in enumerate(variables):
            if index < len(normalizer.center[role]):
                table[f"{role}.{variable.key}"] = {
                    "center": float(normalizer.center[role][index]), "scale": float(normalizer.scale[role][index]),
                }  # fmt: skip
    return table
