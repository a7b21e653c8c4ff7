"""What a step's increments are added to: the state damped at each point, and its leading patterns moved on.

With E the leading patterns of the normalised training states x (orthonormal in the area-weighted inner
product), c = ⟨E, x⟩ and r = x − E c, the base of a step is x(t+1) ≈ E L c + d ∘ r: a linear inverse model
(Penland & Sardeshmukh 1995, J. Climate 8, 1999–2024) for what is shared across the map, damped persistence
for the rest. L is the lag-one regression of the components, d of the remainder at each point. Without
patterns it is damped persistence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from surrogate.core.spec import Spec
from surrogate.core.types import UserError
from surrogate.data.blocks import samples_in_blocks
from surrogate.data.source import Source
from surrogate.data.splits import Splits

# (trajectory, time indices) → normalised prognostic states (n, H, W, P), 0 where missing.
States = Callable[[int, np.ndarray], np.ndarray]

_COMPONENTS = (2, 5, 10, 20, 40, 80)
_FOLDS = 5
_MAX_SNAPSHOTS = 600  # of which patterns are made, and pairs from which regressions are: bounds time and memory
_MAX_PAIRS = 2048
_MAX_HELD = 64


@dataclass(frozen=True)
class StepBase:
    """Attributes, float32, in normalised units:

    memory: (H, W, P) in [0, 1]: d.
    patterns: (k, H, W, P): E; k = 0 for damped persistence.
    projection: (k, H, W, P): E times the weights of the inner product, c = Σ projection · x.
    propagator: (k, k): c(t+1) = c(t) @ propagator; no eigenvalue is larger than 1.
    """

    memory: np.ndarray
    patterns: np.ndarray
    projection: np.ndarray
    propagator: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """By name; the patterns only where there are some."""
        named = {"memory": self.memory}
        if len(self.patterns):
            named |= {"patterns": self.patterns, "projection": self.projection, "propagator": self.propagator}
        return named

    @classmethod
    def from_arrays(cls, named: dict[str, np.ndarray]) -> StepBase | None:
        if "memory" not in named:
            return None
        none = np.zeros((0, *named["memory"].shape), np.float32)
        return cls(
            named["memory"], named.get("patterns", none), named.get("projection", none),
            named.get("propagator", np.zeros((0, 0), np.float32)),
        )  # fmt: skip

    def step(self, state: np.ndarray) -> np.ndarray:
        """One step of normalised states (n, H, W, P)."""
        slow, moved = np.zeros_like(state), np.zeros_like(state)
        if len(self.patterns):
            components = np.tensordot(state, self.projection, ((1, 2, 3), (1, 2, 3)))
            slow = np.tensordot(components, self.patterns, 1)
            moved = np.tensordot(components @ self.propagator, self.patterns, 1)
        return moved + self.memory * (state - slow)


def most_patterns() -> int:
    """The largest number of patterns that :func:`fit_step_base` tries."""
    return max(_COMPONENTS)


def fit_step_base(
    source: Source, splits: Splits, states: States, mask: np.ndarray, kind: str, horizon: int
) -> StepBase:
    """Fit on the training split.

    Args:
        mask: (H, W, P) bool, points that have a value.
        kind: ``damped_persistence``, or ``linear_inverse_model``: then the number of patterns, possibly 0, is
            the one with the least error over ``horizon`` steps in a cross-validation by fifths of every
            training trajectory, each forecast by a fit to the other four; patterns and regressions are
            fitted again on all of it.

    Raises:
        UserError: when the training split is too short to choose.
    """
    pairs = splits.samples(source, "train", history=1, rollout=1)
    root = _root_weights(source.spec, mask)
    if kind == "damped_persistence":
        return _fit(source, states, pairs, root, 0)
    windows = splits.samples(source, "train", history=1, rollout=horizon)
    errors = np.zeros(1 + len(_COMPONENTS))
    for fold in range(_FOLDS):
        fitted, held = _divide(source, splits.times("train"), pairs, windows, horizon, fold)
        patterns = _patterns(states, fitted, root, max(_COMPONENTS))
        for i, count in enumerate((0, *_COMPONENTS)):
            # A pattern more needs pairs to be known by: few pairs allow few patterns.
            if count > min(len(patterns), len(fitted) // 4):
                errors[i] = np.inf
                continue
            base = _fit(source, states, fitted, root, count, patterns)
            errors[i] += _error(source, states, held, root, base, horizon)
    return _fit(source, states, pairs, root, (0, *_COMPONENTS)[int(np.argmin(errors))])


def _root_weights(spec: Spec, mask: np.ndarray) -> np.ndarray:
    """Root of the share of each value in the weighted mean over the map: (H, W, P) float32, 0 where missing."""
    weights = spec.grid.area_weights()[..., None] * mask
    return np.sqrt(weights / weights.sum((0, 1))).astype(np.float32)


def _divide(
    source: Source, times: list[np.ndarray], pairs: np.ndarray, windows: np.ndarray, horizon: int, fold: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs outside a fifth of every trajectory, and windows inside it, both entirely."""
    fitted, held = [], []
    for number, index in enumerate(times):
        if not len(index):
            continue
        edges = np.linspace(0, len(index), _FOLDS + 1).round().astype(int)
        low, high = index[edges[fold]], index[max(edges[fold + 1] - 1, edges[fold])]
        here = pairs[pairs[:, 0] == number]
        fitted.append(here[(here[:, 1] + source.stride < low) | (here[:, 1] > high)])
        ahead = windows[windows[:, 0] == number]
        held.append(ahead[(ahead[:, 1] >= low) & (ahead[:, 1] + horizon * source.stride <= high)])
    fit, hold = np.concatenate(fitted), np.concatenate(held)
    if len(fit) < 8 or not len(hold):
        raise UserError(
            f"data.base=linear_inverse_model needs a longer training split: of its fifths, number {fold + 1} has "
            f"{len(hold)} windows to choose with and the others {len(fit)} pairs of neighbouring times to fit"
        )
    return fit, _spread(hold, _MAX_HELD)


def _spread(samples: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` samples, evenly spread."""
    return samples[np.unique(np.linspace(0, len(samples) - 1, min(len(samples), most)).round().astype(int))]


def _patterns(states: States, pairs: np.ndarray, root: np.ndarray, count: int) -> np.ndarray:
    """Leading patterns of the weighted states, orthonormal rows (k, H·W·P): the method of snapshots."""
    if not count:
        return np.zeros((0, root.size), np.float32)
    chosen = _spread(pairs, _MAX_SNAPSHOTS)
    rows = np.concatenate(
        [(states(n, i) * root).reshape(len(i), -1) for n, i in samples_in_blocks(chosen, root.nbytes)]
    )
    size = len(rows)
    values, vectors = scipy.linalg.eigh(
        rows.astype(np.float64) @ rows.T if rows.size < 2**24 else (rows @ rows.T).astype(np.float64),
        subset_by_index=(max(size - count, 0), size - 1),
    )
    values, vectors = values[::-1], vectors[:, ::-1]
    # What is at the level of rounding is no pattern.
    keep = values > 1e-6 * max(float(values[0]), 1e-300)
    return ((vectors[:, keep] / np.sqrt(values[keep])).T @ rows).astype(np.float32)


def _fit(
    source: Source, states: States, pairs: np.ndarray, root: np.ndarray, count: int, patterns: np.ndarray | None = None
) -> StepBase:
    rows = (patterns if patterns is not None else _patterns(states, pairs, root, count))[:count]
    inverse = np.where(root > 0, 1 / np.where(root > 0, root, 1), 0).astype(np.float32)
    projection, shapes = rows * root.reshape(-1), rows * inverse.reshape(-1)
    gram, cross = np.zeros((len(rows), len(rows))), np.zeros((len(rows), len(rows)))
    product, square = np.zeros(root.size), np.zeros(root.size)
    for number, index in samples_in_blocks(_spread(pairs, _MAX_PAIRS), root.nbytes):
        now = states(number, index).reshape(len(index), -1)
        later = states(number, index + source.stride).reshape(len(index), -1)
        if len(rows):
            first, second = now @ projection.T, later @ projection.T
            gram += first.T @ first
            cross += first.T @ second
            now, later = now - first @ shapes, later - second @ shapes
        product += np.einsum("td,td->d", now, later)
        square += np.einsum("td,td->d", now, now)
    # A point without variance (always frozen) leaves rounding: nothing to remember there.
    known = square > 1e-10 * max(float(square.max()), 1e-300)
    memory = np.clip(np.where(known, product, 0) / np.where(known, square, 1), 0, 1)
    full = (len(rows), *root.shape)
    return StepBase(
        memory.reshape(root.shape).astype(np.float32),
        shapes.reshape(full), projection.reshape(full), _propagator(gram, cross),
    )  # fmt: skip


def _propagator(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """gram⁻¹ cross, its eigenvalues shortened to modulus 1: no pattern may grow from step to step."""
    if not len(gram):
        return np.zeros((0, 0), np.float32)
    matrix = np.linalg.solve(gram, cross)
    values, vectors = np.linalg.eig(matrix)
    largest = np.abs(values).max()
    if largest > 1:
        matrix = (vectors * (values / np.maximum(np.abs(values), 1))) @ np.linalg.inv(vectors)
    return np.real(matrix).astype(np.float32)


def _error(source: Source, states: States, held: np.ndarray, root: np.ndarray, base: StepBase, horizon: int) -> float:
    """Weighted squared error, each lead in units of what persistence misses there, summed over leads."""
    missed, unchanged = np.zeros(horizon), np.zeros(horizon)
    for number, index in samples_in_blocks(held, root.nbytes):
        start = states(number, index)
        forecast = start
        for k in range(horizon):
            forecast = base.step(forecast)
            truth = states(number, index + (k + 1) * source.stride)
            missed[k] += float((((forecast - truth) * root) ** 2).sum())
            unchanged[k] += float((((start - truth) * root) ** 2).sum())
    return float((missed / np.maximum(unchanged, 1e-300)).sum())
