"""One step of a field model, and forecasts of many: pure functions of normalised arrays.

State of the recurrence: (B, H, W, history × P), oldest first. Outputs: (B, H, W, P + D).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.types import PyTree
from surrogate.parallel.blocks import FIELD
from surrogate.parallel.placement import ONE_DEVICE, Placement
from surrogate.parallel.rules import constrain


def field_step(
    model: Any, constants: PyTree, state: jax.Array, forcing: jax.Array, num_prognostic: int
) -> tuple[jax.Array, jax.Array]:
    """Advance normalised fields by one time step.

    The model's increments come in units of their own standard deviation, ``constants["increment"]``
    (P + D,), so that an untrained model of small outputs is persistence, or the forecast of
    ``constants["base"]`` where that has arrays. Points without a value stay 0. With ``transpose`` in
    ``constants["symmetry"]`` the increments are the mean over both orientations of the sample.

    Returns:
        The next state and the outputs at the new time.
    """
    raw = model(state, forcing, constants["static"])
    if "transpose" in constants["symmetry"]:
        raw = 0.5 * (raw + exchange(model(exchange(state), exchange(forcing), constants["static"])))
    raw = raw * constants["increment"]
    if num_prognostic:
        base = base_step(constants["base"], state[..., state.shape[-1] - num_prognostic :])
        raw = jnp.concatenate([raw[..., :num_prognostic] + base, raw[..., num_prognostic:]], axis=-1)
    outputs = raw * constants["mask"]
    if not num_prognostic:
        return state, outputs
    return jnp.concatenate([state[..., num_prognostic:], outputs[..., :num_prognostic]], axis=-1), outputs


def exchange(fields: jax.Array) -> jax.Array:
    """Rows and columns of (B, H, W, C) exchanged."""
    return jnp.swapaxes(fields, 1, 2)


def base_step(base: PyTree, state: jax.Array) -> jax.Array:
    """One step (B, H, W, P) of the arrays of a :class:`surrogate.data.step_base.StepBase`; persistence without any."""
    if not base:
        return state
    if "patterns" not in base:
        return base["memory"] * state
    components = jnp.einsum("bhwp,khwp->bk", state, base["projection"])
    slow = jnp.einsum("bk,khwp->bhwp", components, base["patterns"])
    moved = jnp.einsum("bk,khwp->bhwp", components @ base["propagator"], base["patterns"])
    return moved + base["memory"] * (state - slow)


def make_rollout(
    graphdef: Any, num_prognostic: int, placement: Placement = ONE_DEVICE
) -> Callable[[PyTree, PyTree, Any, Any], tuple[Any, jax.Array]]:
    """``(params, constants, state, forcing) -> (last state, outputs)``, one compiled step called K times.

    A step a call, because XLA's convolutions inside a loop are several times slower on CPUs, and because a
    rollout of any length is then one compilation.

    ``forcing`` is (K, B, H, W, F), its first axis the steps; the outputs are (K, B, H, W, P + D). With several
    devices ``params`` and ``constants`` are on them already, and host arrays are brought there.
    """

    @placement.jit
    def step(params: PyTree, constants: PyTree, state: jax.Array, forcing: jax.Array) -> tuple[jax.Array, jax.Array]:
        state, output = field_step(nnx.merge(graphdef, params), constants, state, forcing, num_prognostic)
        return constrain(state, *FIELD), constrain(output, *FIELD)

    def run(params: PyTree, constants: PyTree, state: Any, forcing: Any) -> tuple[Any, jax.Array]:
        outputs = []
        if placement.mesh is not None and isinstance(state, np.ndarray):
            state = placement.put(state, FIELD)
        for k in range(len(forcing)):
            ahead = forcing[k] if placement.mesh is None else placement.put(forcing[k], FIELD)
            state, output = step(params, constants, state, ahead)
            outputs.append(output)
        return state, jnp.stack(outputs)

    return run
