"""The guard of a Bundle in Python: which samples of a call lie outside what the surrogate was trained on.

Of each sample a vector of inputs is formed: the numbers of a column, or the area means of a map's variables. It is
outside by range where a value (any point of a map) leaves the training data's, widened by ``margin`` of its
length on both sides; and outside by distribution where its Mahalanobis distance exceeds the threshold.
sg_guard.c computes the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

INSIDE, RANGE, DISTRIBUTION = 0, 1, 2


class GuardReport(NamedTuple):
    """Of each sample: ``flags`` (N,) int32, 0 or the sum of 1 (range) and 2 (distribution); ``distance`` (N,) float32."""

    flags: np.ndarray
    distance: np.ndarray

    @property
    def outside(self) -> np.ndarray:
        """(N,) bool"""
        return self.flags != INSIDE


def limits(low: np.ndarray, high: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """The range of values that pass. Where an input never changed in training, float32 rounding does."""
    room = np.maximum(margin * (high - low), 2.0**-22 * np.maximum(np.abs(low), np.abs(high)))
    return (low - room).astype(np.float32), (high + room).astype(np.float32)


def guard(entry: dict[str, Any], arrays: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> GuardReport:
    """Apply the manifest's ``guard`` of a function.

    Args:
        entry: ``threshold``, ``margin``, ``mean``, ``std``, ``factor`` and, by input, ``low``, ``high``, ``features``,
            ``block`` and ``weights``.
        arrays: what ``factor`` and ``weights`` name.
        inputs: name → (N, *shape) in physical units.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # what is no number is what this is for
        return _guard(entry, arrays, inputs)


def _guard(entry: dict[str, Any], arrays: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> GuardReport:
    mean, std = (np.asarray(entry[k], np.float64) for k in ("mean", "std"))
    factor = np.asarray(arrays[entry["factor"]], np.float64)
    count = len(np.asarray(inputs[entry["inputs"][0]["name"]]))
    vector = np.full((count, len(mean)), np.nan)
    bad = np.zeros(count, bool)
    taken: set[int] = set()
    for item in entry["inputs"]:
        features = item["features"]
        values = np.asarray(inputs[item["name"]], np.float32).reshape(count, len(features), item["block"])
        low, high = limits(np.asarray(item["low"]), np.asarray(item["high"]), entry["margin"])
        if item["weights"]:
            weights = np.asarray(arrays[item["weights"]])
            weights = np.tile(weights, (len(features) // len(weights), 1))  # (features, block)
        else:
            weights = np.full((len(features), item["block"]), 1 / item["block"])
        counted = weights > 0
        within = (values >= low[:, None]) & (values <= high[:, None])  # false for NaN
        bad |= (~within & counted).any((1, 2))
        means = np.where(counted, values.astype(np.float64) * weights, 0).sum(-1)
        for position, index in enumerate(features):
            if index not in taken:  # of several steps' forcings the first is the one that training saw with the state
                taken.add(index)
                vector[:, index] = means[:, position]
    distance = np.sqrt(np.mean((((vector - mean) / std) @ factor.T) ** 2, axis=1))
    flags = RANGE * bad + DISTRIBUTION * ~(distance <= entry["threshold"])
    return GuardReport(flags.astype(np.int32), distance.astype(np.float32))
