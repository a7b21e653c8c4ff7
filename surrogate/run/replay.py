"""Silent corruption: the same update computed twice now and then, and compared bit by bit.

A device that computes wrongly now and then is found neither by a hash of what is stored nor by a non-finite loss.
"""

from __future__ import annotations

from collections.abc import Callable
import socket
from typing import Any

import jax
import jax.numpy as jnp

from surrogate.core.types import PyTree, UserError


class Replay:
    """Computes an update twice from the same state and batch.

    Args:
        whole: the sharding of a value that every device has all of; None for one device.
    """

    def __init__(self, whole: Any = None) -> None:
        self._copy = jax.jit(_copies)
        self._differing = jax.jit(_differing, **({} if whole is None else {"out_shardings": whole}))

    def __call__(self, program: Callable[..., Any], state: PyTree, *arguments: Any, step: int) -> tuple[PyTree, Any]:
        """``program(state, *arguments)``, which gives its state away.

        Raises:
            UserError: when the second time another state or other scalars come out, with the first leaf that differs.
        """
        again = self._copy(state)
        result = program(state, *arguments)
        other = program(again, *arguments)
        with jax.transfer_guard("allow"):
            counts = jax.device_get(self._differing(result, other))
        paths = [jax.tree_util.keystr(path, simple=True, separator="/")
                 for path, _ in jax.tree_util.tree_flatten_with_path(result)[0]]  # fmt: skip
        wrong = [(path, int(count)) for path, count in zip(paths, counts, strict=True) if count]
        if wrong:
            raise UserError(
                f"step {step} computed twice gave different bits in {len(wrong)} arrays (first {wrong[0][0]}, "
                f"{wrong[0][1]} values): a device of {socket.gethostname()} or of another host of this run corrupts silently; "
                "nothing of this step was saved. Go on without that host"
            )
        return result


def _copies(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


def _differing(a: PyTree, b: PyTree) -> list[jax.Array]:
    """Of every leaf the number of values whose bits differ; a NaN equals the same NaN."""
    return [_bits(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]


def _bits(x: jax.Array, y: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.inexact) and not jnp.issubdtype(x.dtype, jnp.complexfloating):
        unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
        x, y = (jax.lax.bitcast_convert_type(v, unsigned) for v in (x, y))
    return jnp.sum(x != y)
