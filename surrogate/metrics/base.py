"""What a metric is: sufficient statistics, weighting and a final function, with sums in between.

Sums add. So an evaluation in chunks, on several processes or all at once gives the same score up to
the rounding of float64, whatever the non-linear function at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import difflib
from typing import Protocol, runtime_checkable

import numpy as np

from surrogate.core.types import UserError

Sums = dict[str, np.ndarray]


@runtime_checkable
class Metric(Protocol):
    """One score per channel.

    ``statistics`` reduces a chunk to sums over samples and space; sums of chunks are added;
    ``finalize`` turns the total into the score.
    """

    @property
    def name(self) -> str: ...

    def statistics(
        self, prediction: np.ndarray, target: np.ndarray, climatology: np.ndarray, weights: np.ndarray
    ) -> Sums:
        """Sums over samples and space of one chunk.

        Args:
            prediction, target: (N, H, W, C) float64 in physical units, 0 where ``weights`` is 0.
            climatology: (N, H, W, C) or broadcastable to it: the climatological state at the valid times.
            weights: (H, W, C) float64: cell area, 0 where a value is missing.

        Returns:
            Name → array whose last axis is (C,).
        """
        ...

    def finalize(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        """The score, (C,); NaN where nothing was summed."""
        ...


_METRICS: dict[str, Callable[[], Metric]] = {}


def register_metric(name: str) -> Callable[[Callable[[], Metric]], Callable[[], Metric]]:
    """Decorator: make a metric known by ``name`` to configurations. A name can be taken once."""

    def add(factory: Callable[[], Metric]) -> Callable[[], Metric]:
        if name in _METRICS:
            raise ValueError(f"metric {name!r} is registered twice")
        _METRICS[name] = factory
        return factory

    return add


def metric_names() -> tuple[str, ...]:
    return tuple(sorted(_METRICS))


def find_metric(name: str) -> Metric:
    """The metric registered under ``name``.

    Raises:
        UserError: for an unknown name, with the names that exist.
    """
    if name not in _METRICS:
        close = difflib.get_close_matches(name, _METRICS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"metric {name!r} does not exist{hint} (there are {', '.join(metric_names())})")
    return _METRICS[name]()


class Accumulator:
    """Adds the statistics of several metrics over chunks, for one lead and one set of forecasts.

    Args:
        metrics: names of registered metrics, or metrics.
        weights: (H, W, C): cell area, 0 where a value is missing.
        keys: (C,) channel names for messages and :meth:`scores`; default the channel numbers.
    """

    def __init__(self, metrics: Sequence[str | Metric], weights: np.ndarray, keys: Sequence[str] | None = None) -> None:
        self.metrics = tuple(find_metric(m) if isinstance(m, str) else m for m in metrics)
        self.weights = np.asarray(weights, np.float64)
        if self.weights.ndim != 3 or not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise ValueError("weights must be a finite, non-negative (H, W, C) array, 0 where values are missing")
        self.keys = tuple(keys) if keys is not None else tuple(map(str, range(self.weights.shape[-1])))
        if len(self.keys) != self.weights.shape[-1]:
            raise ValueError(f"{len(self.keys)} keys for {self.weights.shape[-1]} channels")
        self.num_samples = 0
        self.sums: dict[str, Sums] = {}

    def add(self, prediction: np.ndarray, target: np.ndarray, climatology: np.ndarray | None = None) -> None:
        """Add a chunk of N forecasts.

        A missing or infinite *prediction* where the data have a value makes the score NaN or infinite: a
        forecast that blew up has no score.

        Args:
            prediction, target: (N, H, W, C) in physical units.
            climatology: (N, H, W, C), or (H, W, C) for a constant one; None stands for 0 (the fields
                are anomalies).

        Raises:
            UserError: when the target is missing where ``weights`` says that there are data.
        """
        expected = (len(target), *self.weights.shape)
        if prediction.shape != expected or target.shape != expected:
            raise ValueError(f"prediction {prediction.shape} and target {target.shape} must both be {expected}")
        valid = self.weights > 0
        missing = np.isnan(target) & valid
        if missing.any():
            channel = int(np.argmax(missing.any(axis=(0, 1, 2))))
            count = int(missing[..., channel].sum())
            raise UserError(f"{self.keys[channel]}: the target is missing at {count} values inside the mask")

        def clean(x: np.ndarray) -> np.ndarray:
            return np.where(valid, np.asarray(x, np.float64), 0.0)

        arrays = clean(prediction), clean(target), clean(np.zeros(()) if climatology is None else climatology)
        for metric in self.metrics:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                new = metric.statistics(*arrays, self.weights)
            old = self.sums.get(metric.name)
            self.sums[metric.name] = new if old is None else {k: old[k] + v for k, v in new.items()}
        self.num_samples += len(target)

    def __add__(self, other: Accumulator) -> Accumulator:
        """The accumulator of both sets of chunks (say, of two processes)."""
        if [m.name for m in self.metrics] != [m.name for m in other.metrics] or self.keys != other.keys:
            raise ValueError("only accumulators of the same metrics and channels can be added")
        if not np.array_equal(self.weights, other.weights):
            raise ValueError("only accumulators with the same weights can be added")
        total = Accumulator(self.metrics, self.weights, self.keys)
        total.num_samples = self.num_samples + other.num_samples
        for name in {*self.sums, *other.sums}:
            parts = [a.sums[name] for a in (self, other) if name in a.sums]
            total.sums[name] = {k: sum((p[k] for p in parts[1:]), parts[0][k]) for k in parts[0]}
        return total

    def finalize(self) -> dict[str, np.ndarray]:
        """Metric name → (C,) float64; NaN for a channel without data.

        Raises:
            ValueError: when nothing was added.
        """
        if not self.num_samples:
            raise ValueError("no forecast was added, so there is no score")
        with np.errstate(invalid="ignore", divide="ignore"):
            return {m.name: np.asarray(m.finalize(self.sums[m.name]), np.float64) for m in self.metrics}

    def scores(self) -> dict[str, dict[str, float]]:
        """Channel key → metric name → score."""
        table = self.finalize()
        return {key: {name: float(v[c]) for name, v in table.items()} for c, key in enumerate(self.keys)}
