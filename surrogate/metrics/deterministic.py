"""Scores of single forecasts: RMSE, MAE, bias, ACC, activity, correlation, relative L2.

All means are over samples and space together, weighted by cell area. Definitions follow the WMO
Manual on the WIPPS (WMO-No. 485, Appendix 2.2.34) except where a docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from surrogate.metrics.base import Sums, register_metric


def _total(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Σ over samples and space of weights × values: (N, H, W, C), (H, W, C) → (C,)."""
    return np.einsum("nhwc,hwc->c", values, weights)


def _weight(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return len(values) * weights.sum(axis=(0, 1))


@register_metric("rmse")
@dataclass(frozen=True)
class RMSE:
    """√⟨(p − t)²⟩, the root taken after the mean over samples and space; units of the data."""

    name: str = "rmse"

    def statistics(
        self, prediction: np.ndarray, target: np.ndarray, climatology: np.ndarray, weights: np.ndarray
    ) -> Sums:
        return {"square": _total((prediction - target) ** 2, weights), "weight": _weight(target, weights)}

    def finalize(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.sqrt(sums["square"] / sums["weight"])


@register_metric("mae")
@dataclass(frozen=True)
class MAE:
    """⟨|p − t|⟩; units of the data."""

    name: str = "mae"

    def statistics(
        self, prediction: np.ndarray, target: np.ndarray, climatology: np.ndarray, weights: np.ndarray
    ) -> Sums:
        return {"absolute": _total(np.abs(prediction - target), weights), "weight": _weight(target, weights)}

    def finalize(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        return sums["absolute"] / sums["weight"]


@register_metric("bias")
@dataclass(frozen=True)
class Bias:
    """⟨p − t⟩: positive where the forecast is too high; units of the data."""

    name: str = "bias"

    def statistics(
        self, prediction: np.ndarray, target: np.ndarray, climatology: np.ndarray, weights: np.ndarray
    ) -> Sums:
        return {"error": _total(prediction - target, weights), "weight": _weight(target, weights)}

    def finalize(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        return sums["error"] / sums["weight"]


@register_metric("acc")
@dataclass(frozen=True)
class ACC:
    """Anomaly correlation coefficient against the training climatology, uncentred.

    ⟨p' t'⟩ / √(⟨p'²⟩ ⟨t'²⟩) with x' = x − climatology(valid time). The three means are pooled over all
    samples before the division (the WMO averages the coefficient of each date): only pooled sums make
    chunks agree with the whole, and dates with weak anomalies weigh less. No spatial mean is
    removed, so a uniform warming counts as an anomaly. NaN for a forecast without anomalies.
    """

    name: str = "acc"

    def statistics(
        self, prediction: np.ndarray, target: np.ndarray, climatology: np.ndarray, weights: np.ndarray
    ) -> Sums:
        p, t = prediction - climatology, target - climatology
        return {"pt": _total(p * t, weights), "pp": _total(p * p, weights), "tt": _total(t * t, weights)}

    def finalize(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        return sums["pt"] / np.sqrt(sums["pp"] * sums["tt"])


@dataclass(frozen=True)
class Activity:
    """Standard deviation of the anomalies about their mean over samples and space; units of the data.

    A forecast less active than the truth has been smoothed: compare ``activity`` with
    ``target_activity`` of the same samples.
    """

    name: str = "activity"
    of: Literal["prediction", "target"] = "prediction"

    def statistics(
        self, prediction: np.ndarray, target: np.ndarray, climatology: np.ndarray, weights: np.ndarray
    ) -> Sums:
        x = (prediction if self.of == "prediction" else target) - climatology
        return {"x": _total(x, weights), "xx": _total(x * x, weights), "weight": _weight(x, weights)}

    def finalize(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        mean = sums["x"] / sums["weight"]
        # np.maximum keeps NaN; it only guards a variance of −1e-17 for a constant field
        return np.sqrt(np.maximum(sums["xx"] / sums["weight"] - mean**2, 0.0))


@register_metric("activity")
def _activity() -> Activity:
    return Activity()


@register_metric("target_activity")
def _target_activity() -> Activity:
    return Activity("target_activity", "target")


@register_metric("correlation")
@dataclass(frozen=True)
class Correlation:
    """Pearson correlation of anomalies, centred by the mean over samples and space.

    Meant for index series (N, 1, 1, I): the correlation over initial times of a box mean such as
    Niño 3.4. Anomalies, since a seasonal cycle in both would pass for skill. NaN for a constant.
    """

    name: str = "correlation"

    def statistics(
        self, prediction: np.ndarray, target: np.ndarray, climatology: np.ndarray, weights: np.ndarray
    ) -> Sums:
        p, t = prediction - climatology, target - climatology
        return {
            "p": _total(p, weights), "t": _total(t, weights), "weight": _weight(t, weights),
            "pt": _total(p * t, weights), "pp": _total(p * p, weights), "tt": _total(t * t, weights),
        }  # fmt: skip

    def finalize(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        weight = sums["weight"]
        p, t = sums["p"] / weight, sums["t"] / weight
        variance_p, variance_t = sums["pp"] / weight - p * p, sums["tt"] / weight - t * t
        # variances below the rounding of the sums are those of a constant
        tiny = 1e-14
        constant = (variance_p <= tiny * sums["pp"] / weight) | (variance_t <= tiny * sums["tt"] / weight)
        result = (sums["pt"] / weight - p * t) / np.sqrt(np.where(constant, np.nan, variance_p * variance_t))
        return np.asarray(result)


@register_metric("relative_l2")
@dataclass(frozen=True)
class RelativeL2:
    """Mean over samples of ‖p − t‖₂ / ‖t‖₂, norms over space with cell areas; without units.

    The usual score of operator learning. Infinite or NaN where a target is zero everywhere.
    """

    name: str = "relative_l2"

    def statistics(
        self, prediction: np.ndarray, target: np.ndarray, climatology: np.ndarray, weights: np.ndarray
    ) -> Sums:
        error = np.einsum("nhwc,hwc->nc", (prediction - target) ** 2, weights)
        norm = np.einsum("nhwc,hwc->nc", target**2, weights)
        return {"ratio": np.sqrt(error / norm).sum(axis=0), "count": np.full(target.shape[-1], float(len(target)))}

    def finalize(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        return sums["ratio"] / sums["count"]
