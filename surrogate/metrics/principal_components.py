"""Area-weighted principal components of many channels together, with modest memory.

Each channel's anomalies are divided by their standard deviation and multiplied by the root of the cell
area, so that squared norms are area means. The eigenvectors come from the Gram matrix of at most 1,000
snapshots, summed in float64 over slabs of the grid (the "method of snapshots", Sirovich 1987).
"""

from __future__ import annotations

from collections.abc import Sequence
import itertools

import numpy as np
import scipy.linalg

from surrogate.metrics.climatology import Climatology
from surrogate.metrics.training_fields import block_size, blocks

_MAX_SNAPSHOTS = 1000
_MAX_PATTERN_BYTES = 2**30


class PrincipalComponents:
    """Patterns of the anomalies of fields (T, H, W, C) about a fitted climatology.

    After :meth:`fit`: ``patterns`` (D, K) float32 orthonormal columns with D = H·W·C, ``variance`` (K,) in
    decreasing order, ``scale`` (H, W, C) float32.
    """

    def __init__(self, climatology: Climatology, weights: np.ndarray) -> None:
        self.climatology, self.weights = climatology, weights
        self.mask = weights > 0

    def fit(
        self, fields: Sequence[np.ndarray], time: Sequence[np.ndarray], lengths: Sequence[int], number: int
    ) -> PrincipalComponents:
        """Fit at most ``number`` patterns to the first ``lengths[i]`` times of each trajectory."""
        total = sum(lengths)
        wanted = np.unique(np.linspace(0, total - 1, min(total, _MAX_SNAPSHOTS)).astype(int))
        starts = np.cumsum([0, *lengths])
        chosen = [wanted[(wanted >= a) & (wanted < b)] - a for a, b in itertools.pairwise(starts)]
        snapshots = [(f, t[i], i) for f, t, i in zip(fields, time, chosen, strict=True) if len(i)]

        height, width, channels = self.weights.shape
        slabs = list(blocks(height, block_size(len(wanted) * width * channels)))
        square = np.zeros(channels)
        for rows in slabs:
            y = self._anomalies(snapshots, rows)
            square += (np.einsum("nhwc,nhwc->hwc", y, y) * self.weights[rows]).sum(axis=(0, 1))
        area = self.weights.sum(axis=(0, 1))
        std = np.sqrt(square / np.maximum(area * len(wanted), 1e-300))
        inverse = np.where(std > 0, 1 / np.where(std > 0, std, 1), 0.0)
        self.scale = (np.sqrt(self.weights / np.maximum(area, 1e-300)) * inverse).astype(np.float32)

        gram = np.zeros((len(wanted), len(wanted)))
        for rows in slabs:
            y = (self._anomalies(snapshots, rows) * self.scale[rows]).reshape(len(wanted), -1)
            gram += y @ y.T
        number = min(number, len(wanted), max(1, _MAX_PATTERN_BYTES // (4 * self.weights.size)))
        values, vectors = scipy.linalg.eigh(gram, subset_by_index=(len(wanted) - number, len(wanted) - 1))
        values, vectors = values[::-1], vectors[:, ::-1]
        # float32 products leave 1e-7 of the largest eigenvalue as noise: patterns below that mean nothing
        number = max(1, min(number, int(np.sum(values > 1e-6 * max(values[0], 1e-300)))))
        values = np.maximum(values[:number], 1e-300)
        vectors = (vectors[:, :number] / np.sqrt(values)).astype(np.float32)
        parts = [
            (self._anomalies(snapshots, rows) * self.scale[rows]).reshape(len(wanted), -1).T @ vectors for rows in slabs
        ]
        self.patterns = np.concatenate(parts)
        self.variance = values / len(wanted)
        return self

    def _anomalies(self, snapshots: list[tuple[np.ndarray, np.ndarray, np.ndarray]], rows: slice) -> np.ndarray:
        parts = [f[i, rows] - self.climatology.anomaly_base(t, rows) for f, t, i in snapshots]
        return np.where(self.mask[rows], np.concatenate(parts), np.float32(0))

    def project(self, fields: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Components of fields (T, H, W, C) in physical units at ``time``: (T, K) float64."""
        # The climatology is linear in its features, so its components are subtracted after the projection.
        season = (self.climatology.coefficients * self.scale).reshape(len(self.climatology.coefficients), -1)
        season = season @ self.patterns
        result = np.empty((len(fields), self.patterns.shape[1]))
        for block in blocks(len(fields), block_size(self.weights.size)):
            departure = self.climatology.departures(fields[block])
            departure *= self.scale.reshape(-1)
            result[block] = departure @ self.patterns
        return result - self.climatology.season.features(time) @ season

    def expand(self, components: np.ndarray) -> np.ndarray:
        """Anomalies in physical units from components (T, K): (T, H, W, C) float32, 0 where data are missing."""
        inverse = np.where(self.scale > 0, 1 / np.where(self.scale > 0, self.scale, 1), np.float32(0))
        flat = components.astype(np.float32) @ self.patterns[:, : components.shape[1]].T
        return flat.reshape(len(components), *self.weights.shape) * inverse


class RidgeChoice:
    """Ridge regression from the first k components, k and the penalty chosen on held-out samples.

    Works on the second moments alone: XᵀX and XᵀY of the fitted and of the held-out samples.
    """

    COMPONENTS = (1, 2, 3, 5, 10, 20, 40, 80, 160, 320)
    PENALTIES = (0.0, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)

    def __init__(self, x: np.ndarray, y: np.ndarray, x_held: np.ndarray, y_held: np.ndarray) -> None:
        """x (n, K) and y (n, M) float64; the penalty is relative to the mean variance of the k predictors."""
        gram, cross = x.T @ x, x.T @ y
        gram_held, cross_held = x_held.T @ x_held, x_held.T @ y_held
        limit = max(1, min(x.shape[1], len(x) // 2))
        base = float((y_held**2).sum())
        self.error, self.components, self.penalty = base, 0, 0.0
        for k in sorted({c for c in self.COMPONENTS if c < limit} | {limit}):
            # With G = V diag(g) Vᵀ the solution is V diag(d) B, d = 1 / (g + penalty), B = Vᵀ XᵀY; its squared
            # error on held-out samples is a quadratic form in d, so every penalty costs k² operations.
            values, vectors = np.linalg.eigh(gram[:k, :k])
            rotated = vectors.T @ cross[:k]
            quadratic = (vectors.T @ gram_held[:k, :k] @ vectors) * (rotated @ rotated.T)
            linear = (rotated * (vectors.T @ cross_held[:k])).sum(axis=1)
            for penalty in self.PENALTIES:
                d = 1 / (np.maximum(values, 0) + _ridge(gram[:k, :k], penalty))
                error = base + float(d @ quadratic @ d - 2 * linear @ d)
                if error < self.error:
                    self.error, self.components, self.penalty = error, k, penalty


def _ridge(gram: np.ndarray, penalty: float) -> float:
    """The penalty in the units of ``gram``; the smallest one only keeps a singular matrix solvable."""
    return max(penalty, 1e-12) * max(float(np.trace(gram)) / max(len(gram), 1), 1e-300)


def solve_ridge(gram: np.ndarray, cross: np.ndarray, penalty: float) -> np.ndarray:
    """(G + penalty · mean diagonal of G · I)⁻¹ cross, (k, k) and (k, M) → (k, M)."""
    return np.linalg.solve(gram + _ridge(gram, penalty) * np.eye(len(gram)), cross)
