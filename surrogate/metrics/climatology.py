"""The climatology of the training split: constant, by month, or by day of year and time of day.

Every kind is one linear regression of each value on a few functions of time (dummies of the month, or
annual and daily harmonics), so that one streaming pass and one small solve fit it on any grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import itertools
from typing import Literal

import numpy as np

from surrogate.core.calendars import day_fraction, fields_of, has_calendar, month_of, year_fraction
from surrogate.core.types import UserError
from surrogate.metrics.training_fields import TrainingFields, block_size, blocks

Kind = Literal["auto", "constant", "month", "day_of_year"]


@dataclass(frozen=True)
class Season:
    """Which functions of time a climatology is made of.

    Attributes:
        kind: ``constant``; ``month``, a mean for each calendar month; ``day_of_year``, ``harmonics`` annual ones.
        harmonics: how many annual harmonics ``day_of_year`` has.
        diurnal: two harmonics of the time of day too, whose amplitudes follow the first annual harmonic.
    """

    kind: Literal["constant", "month", "day_of_year"] = "constant"
    harmonics: int = 3
    diurnal: bool = False

    def features(self, time: np.ndarray) -> np.ndarray:
        """The functions at each time: (T,) → (T, K) float64."""
        columns = [np.ones(len(time))]
        if self.kind == "month":
            return np.eye(12)[month_of(time)]
        annual: list[np.ndarray] = []
        if self.kind == "day_of_year":
            annual = _harmonics(year_fraction(time), self.harmonics)
            columns += annual
        if self.diurnal:
            daily = _harmonics(day_fraction(time), 2)
            columns += daily + [d * a for d in daily for a in annual[:2]]
        return np.stack(columns, axis=1)


def _harmonics(phase: np.ndarray, number: int) -> list[np.ndarray]:
    angles = [2 * np.pi * k * phase for k in range(1, number + 1)]
    return [f(a) for a in angles for f in (np.cos, np.sin)]


class Climatology:
    """The mean state as a function of the calendar, fitted on training data alone.

    Args:
        kind: ``auto`` chooses by blocked cross-validation inside the training split: a constant for a run
            without seasons (Held–Suarez) or without a calendar, months for monthly data, harmonics of the day of
            year otherwise, of the time of day too for sub-daily data. A richer one must beat a
            simpler one by 1% of the mean squared anomaly. Seasons need all twelve months in the training split.
    """

    def __init__(self, kind: Kind = "auto") -> None:
        self.kind = kind
        self.season = Season()
        self.coefficients = np.zeros(0)  # (K, H, W, C) float32
        self.reference = np.zeros(0)  # (H, W, C) float32, subtracted first so that sums keep their digits
        self.cross_validation: dict[Season, float] = {}

    def fit(self, train: TrainingFields) -> Climatology:
        return self.fit_arrays(train.state, train.time, train.weights)

    def fit_arrays(
        self,
        fields: Sequence[np.ndarray],
        time: Sequence[np.ndarray],
        weights: np.ndarray,
        season: Season | None = None,
    ) -> Climatology:
        """Fit on trajectories (T, H, W, C) with times (T,); ``weights`` (H, W, C) is 0 where values are missing.

        A given ``season`` is taken as it is, instead of one chosen by ``kind``.

        Raises:
            UserError: when a seasonal ``kind`` is asked for and the data have no calendar or lack months.
        """
        self.mask = weights > 0
        self.reference = np.where(self.mask, fields[0][0], np.float32(0)).astype(np.float32)
        self.season = season or self._choose(fields, time, weights)
        gram, moment = 0.0, np.zeros(0)
        size = block_size(int(weights.size))
        for x, t in zip(fields, time, strict=True):
            features = self.season.features(t)
            gram = gram + features.T @ features
            for block in blocks(len(t), size):
                part = _multiply(features[block].T, self.departures(x[block]))
                moment = part if not moment.size else moment + part
        solution = np.linalg.pinv(np.asarray(gram), rcond=1e-10, hermitian=True) @ moment
        self.coefficients = solution.reshape(-1, *weights.shape).astype(np.float32)
        return self

    def __call__(self, time: np.ndarray) -> np.ndarray:
        """The climatological states at ``time``: (T,) → (T, H, W, C) float32, NaN where data are missing."""
        states = self.anomaly_base(time)
        states[:, ~self.mask] = np.nan
        return states

    def departures(self, fields: np.ndarray) -> np.ndarray:
        """(T, H, W, C) → (T, H·W·C) float32: fields less a constant reference, 0 where data are missing."""
        result = np.subtract(fields, self.reference, dtype=np.float32)
        if not self.mask.all():
            result[:, ~self.mask] = 0
        return result.reshape(len(fields), -1)

    def anomaly_base(self, time: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """The same at some rows of the grid, with finite values of no meaning where data are missing."""
        features = self.season.features(time).astype(np.float32)
        coefficients = self.coefficients[:, rows]
        flat = features @ coefficients.reshape(len(coefficients), -1)
        return flat.reshape(len(time), *coefficients.shape[1:]) + self.reference[rows]

    def _choose(self, fields: Sequence[np.ndarray], time: Sequence[np.ndarray], weights: np.ndarray) -> Season:
        dated = all(has_calendar(t) for t in time)
        months = np.unique(np.concatenate([month_of(t) for t in time])) if dated else np.zeros(0)
        whole_year = len(months) == 12
        if self.kind == "constant":
            return Season()
        if self.kind != "auto" and not whole_year:
            reason = f"they have {len(months)} of the 12 months" if dated else "they have no dates"
            raise UserError(f"a climatology by {self.kind} cannot be fitted to the training data: {reason}")
        if self.kind == "month":
            return Season("month")
        candidates = [Season()]
        sub_daily = dated and bool(np.ptp(np.concatenate([day_fraction(t) for t in time])) > 0)
        if self.kind == "day_of_year":
            candidates = [Season("day_of_year")]
        elif whole_year and _is_monthly(time):
            candidates += [Season("month")]
            sub_daily = False
        elif whole_year:
            candidates += [Season("day_of_year", k) for k in (1, 2, 3)]
        if sub_daily:
            candidates += [Season(c.kind, c.harmonics, diurnal=True) for c in candidates]
        if len(candidates) == 1:
            return candidates[0]
        self.cross_validation = _cross_validate(candidates, fields, time, weights)
        candidates.sort(key=lambda s: s.features(time[0][:1]).shape[1])
        chosen = candidates[0]
        for season in candidates[1:]:
            if self.cross_validation[season] < 0.99 * self.cross_validation[chosen]:
                chosen = season
        return chosen


def _is_monthly(time: Sequence[np.ndarray]) -> bool:
    """Whether no two neighbouring times share a calendar month."""
    return all(bool(np.all(np.diff(month_of(t)) != 0)) for t in time)


def _multiply(features: np.ndarray, x: np.ndarray) -> np.ndarray:
    """features (K, T) × x (T, D) with float32 products over at most 256 times, added in float64."""
    total = np.zeros((len(features), x.shape[1]))
    for part in blocks(x.shape[0], 256):
        total += features[:, part].astype(np.float32) @ x[part]
    return total


def _cross_validate(
    candidates: Sequence[Season], fields: Sequence[np.ndarray], time: Sequence[np.ndarray], weights: np.ndarray
) -> dict[Season, float]:
    """Mean squared error of held-out blocks, in units of each channel's variance, averaged over channels.

    Blocks follow each other in time: six a year, from 5 to 12 of them, so that with two years or more a held-out
    season was seen in another year. About 2,000 values spread over the grid stand for all.
    """
    num_channels = weights.shape[-1]
    columns = []
    for channel in range(num_channels):
        inside = np.flatnonzero(weights.reshape(-1, num_channels)[:, channel] > 0)
        step = max(1, len(inside) * num_channels // 2048)
        columns.append(inside[step // 2 :: step] * num_channels + channel)
    chosen = np.concatenate(columns)
    if not len(chosen):
        return {season: 0.0 for season in candidates}
    x = np.concatenate([f.reshape(len(f), -1)[:, chosen] for f in fields]).astype(np.float64)
    x -= x.mean(axis=0)
    weight = weights.reshape(-1)[chosen]
    channel = chosen % num_channels
    variance = np.bincount(channel, weight * x.var(axis=0), num_channels) / np.maximum(
        np.bincount(channel, weight, num_channels), 1e-300
    )
    scale = np.where(variance[channel] > 0, weight / np.where(variance > 0, variance, 1)[channel], 0.0)
    years = len(np.unique(np.concatenate([fields_of(t)[:, 0] for t in time])))
    count = int(np.clip(6 * years, 5, 12))
    edges = np.linspace(0, len(x), min(count, len(x)) + 1).astype(int)
    held = [slice(a, b) for a, b in itertools.pairwise(edges)]
    square = float(np.einsum("td,td->d", x, x) @ scale)
    errors = {}
    for season in candidates:
        features = np.concatenate([season.features(t) for t in time])
        grams = [features[b].T @ features[b] for b in held]
        moments = [features[b].T @ x[b] for b in held]
        gram, moment, error = sum(grams), sum(moments), square
        for g, m in zip(grams, moments, strict=True):
            solution = np.linalg.pinv(gram - g, rcond=1e-10, hermitian=True) @ (moment - m)
            error += float((solution * (g @ solution - 2 * m)).sum(axis=0) @ scale)
        errors[season] = error / (len(x) * max(float(scale.sum()), 1e-300))
    return errors
