"""Losses over fields: weighted mean squared error, relative norms, and the weights of variables and levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.spec import Spec
from surrogate.core.types import Array, UserError

# Level units in which the level is proportional to the mass above it.
_PRESSURE_UNITS = {"pa", "hpa", "mbar", "mb", "millibar", "millibars", "1", "", "sigma", "sigma_level"}


def weighted_mse(prediction: Array, target: Array, weights: Array, channel_weights: Array) -> jax.Array:
    """Mean squared error, weighted by area and channel, in float32.

    Σ_c v_c ⟨(p − t)²⟩_c / Σ_c v_c, where ⟨·⟩_c is the mean over samples and over space with ``weights[..., c]``:
    a channel with a small mask counts as much as a global one. Channels without any data count nothing.

    Args:
        prediction: (..., H, W, C), any float dtype.
        target: the same shape; may be NaN where ``weights`` is 0, without effect on value or gradient.
        weights: (H, W, C): cell area, 0 where a value is missing.
        channel_weights: (C,) non-negative.

    Returns:
        () float32.
    """
    weights = jnp.asarray(weights, jnp.float32)
    valid = weights > 0
    # both sides are made finite before the subtraction: 0 × NaN would poison the gradient
    p = jnp.where(valid, jnp.asarray(prediction).astype(jnp.float32), 0.0)
    t = jnp.where(valid, jnp.asarray(target).astype(jnp.float32), 0.0)
    samples = max(int(np.prod(p.shape[:-3])), 1)
    square = jnp.sum(jnp.square(p - t) * weights, axis=tuple(range(p.ndim - 1)))
    area = jnp.sum(weights, axis=(0, 1))
    mean = square / (samples * jnp.where(area > 0, area, 1.0))
    v = jnp.where(area > 0, jnp.asarray(channel_weights, jnp.float32), 0.0)
    return jnp.sum(v * mean) / jnp.sum(v)


def relative_l2(prediction: Array, target: Array, weights: Array, channel_weights: Array) -> jax.Array:
    """Mean over samples of ‖p − t‖₂ / ‖t‖₂, norms over space, averaged over channels with their weights.

    Args:
        prediction, target: (N, H, W, C) in physical units, finite.
        weights: (H, W, C): cell area, 0 where a value is missing.
        channel_weights: (C,) non-negative.

    Returns:
        () float32. A target that is zero everywhere counts with the norm of its error.
    """
    return _mean_ratio(_square_norm, prediction, target, weights, channel_weights)


def relative_h1(prediction: Array, target: Array, weights: Array, channel_weights: Array) -> jax.Array:
    """:func:`relative_l2` in a Sobolev norm: ‖x‖² plus the squared differences of neighbours in both directions.

    The differences are those of the grid, not divided by its spacing: an error at the scale of the grid
    counts about five times, a smooth one once. Full derivatives, of the smooth scales too, learn values
    more slowly. Neighbours that are not both present have no difference; edges do not wrap around.
    """

    def square_norm(x: jax.Array, w: jax.Array) -> jax.Array:
        total = _square_norm(x, w)
        for axis in (0, 1):
            low, high = (jax.lax.slice_in_dim(w, i, w.shape[axis] - 1 + i, axis=axis) for i in (0, 1))
            total += _square_norm(jnp.diff(x, axis=axis + 1), jnp.sqrt(low * high))
        return total

    return _mean_ratio(square_norm, prediction, target, weights, channel_weights)


def _square_norm(x: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x) * weights, axis=(1, 2))


def _mean_ratio(
    square_norm: Callable[[jax.Array, jax.Array], jax.Array],
    prediction: Array, target: Array, weights: Array, channel_weights: Array,
) -> jax.Array:  # fmt: skip
    w = jnp.asarray(weights, jnp.float32)
    p, t = (jnp.asarray(x).astype(jnp.float32) for x in (prediction, target))
    size = jnp.sqrt(square_norm(t, w))
    # The root has no gradient at 0: an exact prediction must not make NaN.
    ratio = jnp.mean(jnp.sqrt(square_norm(p - t, w) + 1e-20) / jnp.where(size > 0, size, 1.0), axis=0)
    v = jnp.asarray(channel_weights, jnp.float32)
    return jnp.sum(v * ratio) / jnp.sum(v)


def level_weights(
    spec: Spec, per_variable: Mapping[str, float] | None = None, per_level: str | Mapping[str, float] = "equal"
) -> np.ndarray:
    """Channel weights of the outputs of ``spec``, (C,) float32 with mean 1.

    Args:
        per_variable: weight by name or by ``name@level`` (which wins); 1 where not named.
        per_level: ``"equal"``; ``"pressure"``, in proportion to the level, that is to mass; or level → weight.
            The levels of one variable are scaled to a mean of 1, so that they share its weight.

    Raises:
        UserError: for a name or level that no output has, levels that are no pressures, a negative weight,
            or weights that are all 0.
    """
    per_variable = dict(per_variable or {})
    outputs = spec.outputs
    known = {v.name for v in outputs} | {v.key for v in outputs}
    for name, weight in per_variable.items():
        if name not in known:
            raise UserError(f"loss weight for {name!r}: it is not an output; there are {', '.join(spec.keys)}")
        if not (np.isfinite(weight) and weight >= 0):
            raise UserError(f"loss weight for {name!r} is {weight}; it must be a finite number of at least 0")
    shares = np.array([_level_share(v.key, v.level, v.level_units, per_level) for v in outputs])
    if isinstance(per_level, Mapping):
        levels = {f"{v.level:g}" for v in outputs if v.level is not None}
        unknown = [level for level in per_level if f"{float(level):g}" not in levels]
        if unknown:
            raise UserError(
                f"loss weight for level {unknown[0]}: no output has it; there are {', '.join(sorted(levels))}"
            )
    weights = np.empty(len(outputs))
    for i, variable in enumerate(outputs):
        same = [j for j, other in enumerate(outputs) if other.name == variable.name]
        mean = shares[same].mean()
        share = shares[i] / mean if mean > 0 else 0.0
        weights[i] = share * per_variable.get(variable.key, per_variable.get(variable.name, 1.0))
    if not weights.any():
        raise UserError("every loss weight is 0, so there is nothing to train")
    return (weights / weights.mean()).astype(np.float32)


def _level_share(key: str, level: float | None, units: str, per_level: str | Mapping[str, float]) -> float:
    if isinstance(per_level, Mapping):
        table = {f"{float(k):g}": float(w) for k, w in per_level.items()}
        share = 1.0 if level is None else table.get(f"{level:g}", 1.0)
        if not (np.isfinite(share) and share >= 0):
            raise UserError(f"loss weight for level {level:g} is {share}; it must be a finite number of at least 0")
        return share
    if per_level == "equal" or (level is None and per_level == "pressure"):
        return 1.0
    if per_level != "pressure":
        raise UserError(f"loss levels={per_level!r} is not one of equal, pressure or a table of level: weight")
    if units.strip().lower() not in _PRESSURE_UNITS or not level or level < 0:
        raise UserError(f"{key}: levels in {units!r} are no pressures, so the loss cannot weight them by pressure")
    return float(level)
