"""The rollout: one step function applied again and again under ``lax.scan``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from surrogate.core.types import PyTree

StepFn = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


def rollout(step_fn: StepFn, state: PyTree, inputs: PyTree, *, unroll: int = 1) -> tuple[PyTree, PyTree]:
    """Apply ``step_fn(state, input) -> (state, output)`` along the leading axis of ``inputs``.

    Args:
        state: the initial state, any pytree.
        inputs: pytree whose leaves have the number of steps K as their first axis (forcings).
        unroll: steps placed in one loop body.

    Returns:
        The state after K steps, and the outputs stacked along a new first axis (K, ...).
    """

    def body(carry: Any, x: Any) -> tuple[Any, Any]:
        return step_fn(carry, x)

    return jax.lax.scan(body, state, inputs, unroll=unroll)
