"""Positions as the sum of two numbers, exact where it matters without 64-bit arithmetic.

A float32 of 20 Å is known to 10⁻⁶ Å, so adding small steps to it loses a part of each, and the difference of two
neighbors carries noise that forces inherit. Here ``coarse`` is a multiple of 2⁻¹⁰ Å, of which float32 holds all up to
2¹⁴ = 16,384 Å exactly, and ``fine`` is the rest, known to 10⁻¹⁰ Å. Differences of coarse parts, and whole
multiples of coarse cell vectors, are then exact, whatever the compiler does with the order of operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.types import Array, UserError
from surrogate.models.graph import FAR, Graph

GRID = 2.0**-10  # Å
LARGEST = 2.0**13  # Å: differences of two such are still exact


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Places:
    """``coarse + fine`` in Å, of one shape each."""

    coarse: Array
    fine: Array


def places_of(values: np.ndarray, dtype: str) -> Places:
    """Split float64 values on the host.

    Raises:
        UserError: for values too far out to be exact.
    """
    values = np.asarray(values, np.float64)
    if (np.abs(values) > LARGEST).any():
        raise UserError(
            f"a coordinate of {float(np.abs(values).max()):.6g} Å is too far out for exact differences; at most "
            f"{LARGEST:g} Å are, so move the atoms or wrap them into the cell"
        )
    coarse = np.round(values / GRID) * GRID
    return Places(coarse.astype(dtype), (values - coarse).astype(dtype))


def joined(places: Places) -> np.ndarray:
    """The values as float64 on the host."""
    return np.asarray(places.coarse, np.float64) + np.asarray(places.fine, np.float64)


def moved(places: Places, step: Array) -> Places:
    """``places + step``; what is rounded is the sum of two small numbers."""
    fine = jnp.asarray(places.fine) + step
    carry = jnp.round(fine / GRID) * GRID
    return Places(jnp.asarray(places.coarse) + carry, fine - carry)


def difference(a: Places, b: Places) -> jax.Array:
    """``a − b``."""
    return (jnp.asarray(a.coarse) - b.coarse) + (jnp.asarray(a.fine) - b.fine)


def edge_vectors_of(places: Places, cell: Places, graph: Graph) -> jax.Array:
    """Vectors of a graph of one configuration, (3, N, M) in Å, from split positions (N, 3) and a split cell (3, 3).

    Like :func:`~surrogate.models.graph.edge_vectors`, but rounded only once.
    """
    out = []
    for axis in range(3):

        def vector(x: Array, c: Array, axis: int = axis) -> jax.Array:
            own = jnp.asarray(x)[:, axis]
            shift = sum(graph.shifts[..., i] * c[i, axis] for i in range(3))
            return (jnp.take(own, graph.senders, mode="clip") - own[:, None]) + shift

        whole = vector(places.coarse, cell.coarse) + vector(places.fine, cell.fine)
        out.append(jnp.where(graph.neighbor_mask, whole, FAR if axis == 0 else 0.0))
    return jnp.stack(out)
