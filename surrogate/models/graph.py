"""Configurations of atoms as one padded batch of few shapes, so that nothing recompiles.

All atoms of a batch lie one after another, and each has the same number of neighbor slots: sums over
neighbors are dense sums, and the edges of an atom lie together. See :mod:`surrogate.models.exchange`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.types import Array, UserError
from surrogate.models.neighbors import NeighborList, neighbor_list

# Distance of what fills a padding slot; beyond every cutoff, where envelopes are exactly 0 and flat.
FAR = 1e3


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Graph:
    """A padded batch of C configurations with N atoms in all and M neighbor slots an atom.

    Padding atoms come last, belong to configuration C − 1 and have no neighbors; ``fetch`` and ``collect`` of
    :mod:`surrogate.models.exchange` take (senders, reverse, neighbor_mask).
    """

    positions: Array  # (N, 3) Å
    species: Array  # (N,) int32, index into the geometry's species
    cell: Array  # (C, 3, 3) Å, rows are vectors; 0 where a direction is not periodic
    periodic: Array  # (C,) bool: periodic in all three directions, so that a volume exists
    senders: Array  # (N, M) int32
    shifts: Array  # (N, M, 3) int32
    reverse: Array  # (N, M) int32, flat index of the opposite slot
    neighbor_mask: Array  # (N, M) bool
    graph_index: Array  # (N,) int32
    atom_mask: Array  # (N,) bool
    graph_mask: Array  # (C,) bool

    @property
    def exchange(self) -> tuple[Array, Array, Array]:
        """What :func:`~surrogate.models.exchange.fetch` and ``collect`` need."""
        return self.senders, self.reverse, self.neighbor_mask


@dataclass(frozen=True)
class Structure:
    """One configuration with its neighbors, on the host; made by :func:`structure`."""

    positions: np.ndarray  # (n, 3) Å, float64
    species: np.ndarray  # (n,) int32
    cell: np.ndarray  # (3, 3) Å
    pbc: np.ndarray  # (3,) bool
    neighbors: NeighborList
    max_neighbors: int

    def __len__(self) -> int:
        return len(self.positions)


def structure(positions: Array, species: Array, cell: Array, pbc: Array, cutoff: float) -> Structure:
    """Find the neighbors of a configuration.

    Args:
        positions: (n, 3) in Å.
        species: (n,) indices into the model's species, not atomic numbers.
        cell: (3, 3) in Å, rows are vectors.
        pbc: (3,) bool.
        cutoff: Å.

    Raises:
        UserError: as :func:`~surrogate.models.neighbors.neighbor_list`.
    """
    pbc = np.broadcast_to(np.asarray(pbc, bool), (3,))
    found = neighbor_list(np.asarray(positions), np.asarray(cell), pbc, cutoff)
    positions = np.asarray(positions, float).reshape(-1, 3)
    largest = int(found.counts(len(positions)).max(initial=0))
    return Structure(positions, np.asarray(species, np.int32), np.asarray(cell, float), pbc, found, largest)


@dataclass(frozen=True, order=True)
class Capacity:
    """The shape of a batch: atoms, neighbor slots an atom, configurations."""

    atoms: int
    neighbors: int
    graphs: int

    def holds(self, atoms: int, neighbors: int, graphs: int) -> bool:
        return atoms <= self.atoms and neighbors <= self.neighbors and graphs <= self.graphs


def pack(structures: Sequence[Structure], capacity: Capacity, dtype: str = "float32") -> Graph:
    """One batch of numpy arrays, in the order given.

    Raises:
        UserError: when the configurations do not fit into the capacity.
    """
    sizes = [len(s) for s in structures]
    atoms, slots = sum(sizes), max((s.max_neighbors for s in structures), default=0)
    if not capacity.holds(atoms, slots, len(structures)):
        raise UserError(
            f"{len(structures)} configurations of {atoms} atoms with up to {slots} neighbors do not fit into a batch "
            f"of {capacity.graphs} configurations, {capacity.atoms} atoms and {capacity.neighbors} neighbors"
        )
    n, m, c = capacity.atoms, capacity.neighbors, capacity.graphs
    positions, species = np.zeros((n, 3), dtype), np.zeros(n, np.int32)
    cell, periodic = np.zeros((c, 3, 3), dtype), np.zeros(c, bool)
    senders = np.repeat(np.arange(n, dtype=np.int32)[:, None], m, axis=1)
    reverse = np.arange(n * m, dtype=np.int32).reshape(n, m)
    shifts, mask = np.zeros((n, m, 3), np.int32), np.zeros((n, m), bool)
    graph_index = np.full(n, c - 1, np.int32)
    start = 0
    for g, (s, size) in enumerate(zip(structures, sizes, strict=True)):
        positions[start : start + size], species[start : start + size] = s.positions, s.species
        graph_index[start : start + size] = g
        cell[g], periodic[g] = np.where(s.pbc[:, None], s.cell, 0.0), s.pbc.all()
        edges = s.neighbors
        counts = edges.counts(size)
        slot = np.arange(len(edges.senders)) - np.repeat(np.cumsum(counts) - counts, counts)
        row = edges.receivers + start
        flat = row * m + slot
        senders[row, slot], shifts[row, slot], mask[row, slot] = edges.senders + start, edges.shifts, True
        reverse[row, slot] = flat[edges.reverse]
        start += size
    return Graph(
        positions, species, cell, periodic, senders, shifts, reverse, mask, graph_index,
        np.arange(n) < atoms, np.arange(c) < len(structures),
    )  # fmt: skip


def pack_atoms(values: Sequence[np.ndarray], capacity: Capacity, dtype: str = "float32") -> np.ndarray:
    """Values of the atoms of each configuration, (n_i, ...), in the order of :func:`pack`: (N, ...), padded with 0."""
    joined = np.concatenate([np.asarray(v) for v in values])
    out = np.zeros((capacity.atoms, *joined.shape[1:]), dtype)
    out[: len(joined)] = joined
    return out


def edge_vectors(graph: Graph) -> jax.Array:
    """Vectors from each atom to the senders of its slots, (3, N, M) in Å; (FAR, 0, 0) in padding slots.

    Components come first so that each is one contiguous array.
    """
    cell = jnp.asarray(graph.cell)[graph.graph_index]  # (N, 3, 3)
    out = []
    for axis in range(3):
        x = jnp.asarray(graph.positions)[:, axis]
        shift = sum(graph.shifts[..., i] * cell[:, i, axis, None] for i in range(3))
        vector = (jnp.take(x, graph.senders, mode="clip") - x[:, None]) + shift
        out.append(jnp.where(graph.neighbor_mask, vector, FAR if axis == 0 else 0.0))
    return jnp.stack(out)


def graph_sum(values: Array, graph: Graph) -> jax.Array:
    """Sums over the atoms of each configuration: (N, ...) → (C, ...), padding atoms left out."""
    belongs = jnp.arange(graph.graph_mask.shape[0])[:, None] == graph.graph_index
    member = (belongs & graph.atom_mask).astype(values.dtype)
    return jnp.tensordot(member, jnp.asarray(values), 1, precision=jax.lax.Precision.HIGHEST)
