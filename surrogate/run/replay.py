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
from surrogate.parallel.agree import all_do


class Replay:
    """Computes an update twice from the same state and batch. What several devices hold alike is compared on each."""

    def __init__(self) -> None:
        self._copy = jax.jit(copies)
        self._differing = jax.jit(_differing)

    def __call__(self, program: Callable[..., Any], state: PyTree, *arguments: Any, step: int) -> tuple[PyTree, Any]:
        """``program(state, *arguments)``, which gives its state away.

        Raises:
            UserError: on all processes, when the second time another state or other scalars come out on a device of one,
                with the first leaf that differs.
        """
        again = self._copy(state)
        result = program(state, *arguments)
        other = program(again, *arguments)
        with jax.transfer_guard("allow"):
            all_do(lambda: self._compare(result, other, step))
        return result

    def _compare(self, result: PyTree, other: PyTree, step: int) -> None:
        paths = [jax.tree_util.keystr(path, simple=True, separator="/")
                 for path, _ in jax.tree_util.tree_flatten_with_path(result)[0]]  # fmt: skip
        pairs = [(x.addressable_shards, y.addressable_shards)
                 for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(other), strict=True)]  # fmt: skip
        devices = sorted({shard.device for mine, _ in pairs for shard in mine}, key=lambda d: d.id)
        for device in devices:
            parts = [[{s.device: s.data for s in shards}[device] for shards in pair] for pair in pairs]
            counts = jax.device_get(self._differing([p[0] for p in parts], [p[1] for p in parts]))
            wrong = [(path, int(count)) for path, count in zip(paths, counts, strict=True) if count]
            if wrong:
                raise UserError(
                    f"step {step} computed twice gave different bits in {len(wrong)} arrays (first {wrong[0][0]}, "
                    f"{wrong[0][1]} values) on {device} of {socket.gethostname()}, or in what it was sent: a device corrupts "
                    "silently, or its program is not deterministic; nothing of this step was saved. Go on without that host"
                )


def copies(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


def _differing(a: PyTree, b: PyTree) -> list[jax.Array]:
    """Of every leaf the number of values whose bits differ; a NaN equals the same NaN."""
    return [_bits(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]


def _bits(x: jax.Array, y: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.inexact) and not jnp.issubdtype(x.dtype, jnp.complexfloating):
        unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
        x, y = (jax.lax.bitcast_convert_type(v, unsigned) for v in (x, y))
    return jnp.sum(x != y)
