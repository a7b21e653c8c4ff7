"""A neighbor list with a skin, on the device: it serves until an atom has moved half of the skin.

Verlet, "Computer experiments on classical fluids. I" (1967). What a list holds beyond the cutoff adds exactly nothing,
since every potential ends smoothly there.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from surrogate.atomistic.places import Places, difference
from surrogate.core.types import Array
from surrogate.models.neighbors_device import Neighbors, find_neighbors

# Å: what rounding of positions and of the criterion itself may amount to.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class ListShape:
    """What is fixed when a program is compiled.

    Attributes:
        reach: cutoff + skin, Å.
        slots: of each atom.
        images: of :func:`~surrogate.models.neighbors_device.num_images`.
    """

    reach: float
    slots: int
    images: tuple[int, int, int]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VerletList:
    """Neighbors, the places they were found at, and whether anything was computed with them yet."""

    neighbors: Neighbors
    origin: Places
    fresh: jax.Array  # () bool


def roomy(slots: int) -> int:
    """Slots for atoms of which one has so many neighbors now: a tenth more, so that fluctuations fit."""
    return -(-(slots + slots // 10 + 1) // 4) * 4


def no_list(places: Places, shape: ListShape) -> VerletList:
    """One that has to be built before it serves."""
    n, m = places.coarse.shape[0], shape.slots
    own = jnp.arange(n * m, dtype=jnp.int32).reshape(n, m)
    empty = Neighbors(
        jnp.repeat(jnp.arange(n, dtype=jnp.int32)[:, None], m, 1), jnp.zeros((n, m, 3), jnp.int32), own,
        jnp.zeros((n, m), bool), jnp.zeros((), jnp.int32), jnp.zeros((), bool),
    )  # fmt: skip
    # An array for each, since states are donated.
    far, rest = (jnp.full(places.coarse.shape, jnp.inf, places.coarse.dtype) for _ in range(2))
    return VerletList(empty, Places(far, rest), jnp.zeros((), bool))


def is_stale(verlet: VerletList, places: Places, skin: float | Array) -> jax.Array:
    """() bool: a list that was used, and from which an atom has gone half of the skin or further."""
    step = difference(places, verlet.origin)
    limit = jnp.maximum(0.5 * skin - _ROUNDING, 0.0)
    # Written so that what is not a number is stale.
    near = (jnp.sum(step * step, -1) < limit * limit).all()
    return ~(verlet.fresh | near)


def build(places: Places, cell: Array, pbc: Array, shape: ListShape) -> VerletList:
    """A new list; look at its ``neighbors.overflow``."""
    positions = jnp.asarray(places.coarse) + places.fine
    found = find_neighbors(
        positions, cell, pbc, None, cutoff=shape.reach, capacity=shape.slots, images=shape.images
    )  # fmt: skip
    return VerletList(found, places, jnp.ones((), bool))
