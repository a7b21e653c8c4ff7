"""Neighbor lists of fixed capacity inside ``jit``, for molecular dynamics.

All pairs are measured, in blocks of atoms: N² work at every rebuild, which up to some ten thousand atoms
is small beside the potential when a list serves several steps through a skin. Only as many images of
the nearest one are tried as the cutoff can reach, none where the cell is at least twice as high.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
import math

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.types import Array
from surrogate.models.neighbors import complete_cell, heights


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Neighbors:
    """Slots of neighbors, with the meaning of the fields of :class:`~surrogate.models.graph.Graph`.

    ``overflow`` is true when the list is **not complete**: more neighbors than slots (``largest`` says how
    many are needed), more images than were foreseen (the cell shrank), or a position that is not finite.
    What is computed from such a list is wrong, so the caller has to look at it.
    """

    senders: jax.Array  # (N, M) int32
    shifts: jax.Array  # (N, M, 3) int32
    reverse: jax.Array  # (N, M) int32
    mask: jax.Array  # (N, M) bool
    largest: jax.Array  # () int32, neighbors of the atom that has most
    overflow: jax.Array  # () bool


def num_images(cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> tuple[int, int, int]:
    """How many images beyond the nearest one the cutoff reaches along each vector; (0, 0, 0) for large cells.

    Raises:
        UserError: when the periodic vectors span no volume.
    """
    pbc = np.asarray(pbc, bool)
    height = heights(complete_cell(np.where(pbc[:, None], cell, 0.0), pbc))
    # The nearest image lies within half a vector, and only what lies within cutoff / height can be near.
    a, b, c = (max(0, math.ceil(cutoff / h - 0.5 - 1e-12)) if p else 0 for h, p in zip(height, pbc, strict=True))
    return a, b, c


def find_neighbors(
    positions: Array,
    cell: Array,
    pbc: Array,
    atom_mask: Array | None,
    *,
    cutoff: float,
    capacity: int,
    images: tuple[int, int, int],
    block: int = 256,
) -> Neighbors:
    """Neighbors closer than ``cutoff``; meant for ``jit`` with the keyword arguments static.

    Args:
        positions: (N, 3) in Å; atoms may be anywhere.
        cell: (3, 3) in Å, rows are vectors.
        pbc: (3,) bool.
        atom_mask: (N,) bool, false for padding atoms; None when all are real.
        capacity: M, slots of each atom.
        images: from :func:`num_images` for the smallest cell that is to come.
        block: atoms whose pairs are measured at once; bounds the memory.
    """
    positions, pbc = jnp.asarray(positions), jnp.asarray(pbc)
    n = positions.shape[0]
    real = jnp.ones(n, bool) if atom_mask is None else jnp.asarray(atom_mask)
    shift_cell = jnp.where(pbc[:, None], jnp.asarray(cell, positions.dtype), 0)
    inverse = _inverse(_complete(shift_cell, pbc))
    extra = jnp.asarray(list(product(*(range(-k, k + 1) for k in images))), jnp.int32)  # (T, 3)
    exists = (pbc | (extra == 0)).all(-1)  # (T,): a direction that is not periodic has no images
    index = jnp.arange(n, dtype=jnp.int32)

    def block_of(atoms: Array) -> tuple[Array, Array, Array, Array]:
        difference = positions[None] - positions[atoms][:, None]  # (b, N, 3)
        nearest = -jnp.where(pbc, jnp.round(difference @ inverse), 0).astype(jnp.int32)
        shift = nearest[:, :, None] + extra  # (b, N, T, 3)
        vector = difference[:, :, None] + _times(shift, shift_cell)
        distance = jnp.sum(vector * vector, -1)
        itself = (index[None] == atoms[:, None])[..., None] & (shift == 0).all(-1)
        near = (distance < cutoff * cutoff) & ~itself & exists & (real[None] & real[atoms][:, None])[..., None]
        near = near.reshape(len(atoms), -1)
        # The m-th neighbor is where the count of neighbors first reaches m + 1.
        count = jnp.cumsum(near, axis=1, dtype=jnp.int32)
        slots = jnp.arange(1, capacity + 1)
        place = jax.vmap(lambda row: jnp.searchsorted(row, slots, side="left"))(count)
        place = jnp.minimum(place, near.shape[1] - 1)
        sender = (place // len(extra)).astype(jnp.int32)
        chosen = jnp.take_along_axis(nearest, sender[..., None], axis=1) + extra[place % len(extra)]
        return sender, chosen, slots[None] <= count[:, -1:], count[:, -1]

    blocks = -(-n // block)
    size = min(block, n)
    # The last block repeats atoms, so that all have one shape.
    starts = np.minimum(np.arange(blocks) * size, n - size)
    senders, shifts, mask, counts = jax.lax.map(lambda s: block_of(s + jnp.arange(size, dtype=jnp.int32)), starts)
    order = np.searchsorted(starts, np.arange(n), side="right") - 1
    flat = order * size + np.arange(n) - starts[order]
    senders, shifts, mask = (v.reshape(blocks * size, capacity, *v.shape[3:])[flat] for v in (senders, shifts, mask))
    senders = jnp.where(mask, senders, index[:, None])
    shifts = jnp.where(mask[..., None], shifts, 0)
    largest = counts.max()

    reach = jnp.where(pbc, cutoff * jnp.linalg.norm(inverse, axis=0), 0)
    foreseen = (reach <= jnp.asarray(images, reach.dtype) + 0.5 + 1e-4).all()
    finite = jnp.isfinite(jnp.where(real[:, None], positions, 0)).all() & jnp.isfinite(inverse).all()
    overflow = (largest > capacity) | ~foreseen | ~finite
    return Neighbors(senders, shifts, _reverse(senders, shifts, mask, block), mask, largest, overflow)


def _times(shift: Array, cell: Array) -> jax.Array:
    """shift @ cell for integers, term by term: exactly opposite for opposite shifts, which a matrix product need not be."""
    parts = [jnp.asarray(shift[..., i, None] * cell[i]) for i in range(3)]
    return parts[0] + parts[1] + parts[2]


def _complete(cell: Array, pbc: Array) -> jax.Array:
    """:func:`~surrogate.models.neighbors.complete_cell` under a trace; a degenerate cell gives values not finite."""
    full = jnp.asarray(cell)
    for axis in range(3):
        a, b = full[(axis + 1) % 3], full[(axis + 2) % 3]
        # Any direction not in the span of the others serves: it only has to make the inverse orthogonal to them.
        normal = jnp.cross(a, b)
        size = jnp.linalg.norm(normal)
        fallback = _orthogonal(a, b)
        direction = jnp.where(size > 0, normal / jnp.where(size > 0, size, 1), fallback)
        full = full.at[axis].set(jnp.where(pbc[axis], full[axis], direction))
    return full


def _inverse(cell: Array) -> jax.Array:
    """Of a (3, 3) matrix, by cross products; not finite where it has none."""
    a, b, c = cell
    columns = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)
    return columns / jnp.dot(a, columns[:, 0])


def _orthogonal(a: Array, b: Array) -> jax.Array:
    """A unit vector orthogonal to two vectors of which at least one is 0."""
    known = a + b
    axis = jnp.eye(3, dtype=known.dtype)[jnp.argmin(jnp.abs(known))]
    size = jnp.sum(known * known)
    rest = axis - known * (known @ axis) / jnp.where(size > 0, size, 1)
    return rest / jnp.linalg.norm(rest)


def _reverse(senders: Array, shifts: Array, mask: Array, block: int) -> jax.Array:
    """Flat index of the slot of the opposite pair, (N, M); a slot itself where it is padding or has none."""
    n, m = senders.shape
    # One number for each shift. Images of a pair that are both within reach differ by far less than 101.
    code = shifts[..., 0] + 101 * shifts[..., 1] + 101 * 101 * shifts[..., 2]
    own = jnp.arange(n * m, dtype=jnp.int32).reshape(n, m)

    def of_atom(i: Array) -> jax.Array:
        there = senders[i]  # (M,)
        match = (senders[there] == i) & (code[there] == -code[i][:, None]) & mask[there]
        return jnp.where(mask[i] & match.any(1), there * m + jnp.argmax(match, axis=1).astype(jnp.int32), own[i])

    return jax.lax.map(of_atom, jnp.arange(n, dtype=jnp.int32), batch_size=min(block, n))
