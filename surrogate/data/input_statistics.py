"""What the inputs of training were like: ranges, means and correlations, and how far from them training samples lie.

A guard compares the inputs of a call with these. The distance is that of Mahalanobis (1936) per input,
d = sqrt(zᵀ R⁻¹ z / C) with z the standardised inputs and R their correlation, so that 1 is a typical sample
whatever the number C of inputs. R is shrunk towards the identity by as much as its sampling error asks for (the
oracle approximating shrinkage of Chen, Wiesel, Eldar and Hero 2010, eq. 23).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Fractions of the training samples, and the distances that they do not exceed, from which thresholds are taken.
LEVELS = (0.5, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0)
LEAST = 10  # samples below which nothing is said
_FOLDS = 5
# Below this share of an average direction's variance a direction is rounding, not physics.
_FLOOR = 1e-5
_TINY = 1e-30  # whose inverse float32 still holds


@dataclass(frozen=True)
class InputStatistics:
    """Attributes:

    low, high, mean, std: (C,) physical units; ``std`` is positive.
    correlation: (C, C), shrunk, positive definite.
    distances: at :data:`LEVELS`, each of samples that were left out when the rest was fitted.
    samples: how many there were.
    """

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    correlation: np.ndarray
    distances: np.ndarray
    samples: int

    def factor(self) -> np.ndarray:
        """Lower-triangular W (C, C) with ``WᵀW`` the inverse correlation: the distance is ``|W z| / sqrt(C)``."""
        lower = np.linalg.cholesky(self.correlation.astype(np.float64))
        return np.tril(np.linalg.inv(lower))

    def threshold(self, quantile: float) -> float:
        """The distance that this share of the training samples does not exceed."""
        return float(np.interp(quantile, LEVELS, self.distances))

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """By name, for a file; :meth:`from_arrays` inverts it."""
        named = {name: np.asarray(getattr(self, name), np.float64) for name in _ARRAYS}
        return {f"{prefix}{name}": value for name, value in named.items()} | {
            f"{prefix}samples": np.array([self.samples], np.int32)
        }

    @classmethod
    def from_arrays(cls, named: dict[str, np.ndarray], prefix: str) -> InputStatistics | None:
        """None where the file has none: it was written before there were any, or had too few samples."""
        if f"{prefix}low" not in named:
            return None
        arrays = {name: named[f"{prefix}{name}"] for name in _ARRAYS}
        return cls(samples=int(named[f"{prefix}samples"][0]), **arrays)


_ARRAYS = ("low", "high", "mean", "std", "correlation", "distances")


def fit_inputs(
    samples: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None
) -> InputStatistics | None:
    """Statistics of ``samples`` (N, C), neighbours in time side by side; None for fewer than :data:`LEAST`.

    Args:
        low, high: (C,) ranges where a sample stands for many values (the mean of a map); else those of ``samples``.
    """
    values = np.asarray(samples, np.float64)
    number, channels = values.shape
    if number < LEAST or not channels:
        return None
    mean, std, correlation = _fit(values)
    distance = np.empty(number)
    # Contiguous folds: a neighbour in time would vouch for its neighbour.
    for part in np.array_split(np.arange(number), _FOLDS):
        rest = np.ones(number, bool)
        rest[part] = False
        distance[part] = _distances(values[part], *_fit(values[rest]))
    return InputStatistics(
        values.min(0) if low is None else np.asarray(low, np.float64),
        values.max(0) if high is None else np.asarray(high, np.float64),
        mean, std, correlation, np.quantile(distance, LEVELS), number,
    )  # fmt: skip


def _fit(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    number, channels = values.shape
    mean = values.mean(0)
    spread = values.std(0)
    # An input that never changed has no spread: what is left is the rounding of float32.
    std = np.maximum(spread, np.maximum(1e-6 * np.abs(mean), _TINY))
    z = (values - mean) / std
    correlation = z.T @ z / number
    np.fill_diagonal(correlation, 1.0)
    square, trace = float(np.sum(correlation**2)), float(channels)
    ratio = (number + 1 - 2 / channels) * (square - trace**2 / channels)
    shrink = 1.0 if ratio <= 0 else min(1.0, ((1 - 2 / channels) * square + trace**2) / ratio)
    correlation = (1 - shrink) * correlation + shrink * np.eye(channels)
    values_, vectors = np.linalg.eigh(correlation)
    return mean, std, (vectors * np.maximum(values_, _FLOOR)) @ vectors.T


def _distances(values: np.ndarray, mean: np.ndarray, std: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    z = (values - mean) / std
    return np.sqrt(np.mean(np.linalg.solve(np.linalg.cholesky(correlation), z.T) ** 2, axis=0))
