"""From positions to what a program of atoms takes: neighbors and vectors in double precision, padded slots.

NumPy and SciPy alone, for Python callers of a Bundle; the C library has its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surrogate.core.types import Array
from surrogate.models.graph import Capacity
from surrogate.models.neighbors import NeighborList, neighbor_list

INPUTS = ("vectors", "senders", "reverse", "species", "counted")


@dataclass(frozen=True)
class Edges:
    """All directed pairs of a system closer than the cutoff."""

    num_atoms: int
    found: NeighborList
    vectors: np.ndarray  # (E, 3) Å, from receiver to sender

    @property
    def max_neighbors(self) -> int:
        return int(self.found.counts(self.num_atoms).max(initial=0))


def edges_of(positions: Array, cell: Array, pbc: Array, cutoff: float) -> Edges:
    """Neighbors of one configuration; arguments and errors of :func:`~surrogate.models.neighbors.neighbor_list`."""
    positions = np.asarray(positions, np.float64).reshape(-1, 3)
    pbc = np.broadcast_to(np.asarray(pbc, bool), (3,))
    cell = np.asarray(cell, np.float64).reshape(3, 3)
    found = neighbor_list(positions, cell, pbc, cutoff)
    shift = found.shifts @ np.where(pbc[:, None], cell, 0.0)
    return Edges(len(positions), found, (positions[found.senders] - positions[found.receivers]) + shift)


def fill(
    edges: Edges, species: np.ndarray, capacity: Capacity, counted: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The inputs of one system, which must fit into the capacity.

    Args:
        species: (n,) indices into the potential's species.
        counted: (n,) whether the energy of an atom counts; None when all do.
    """
    n, m, size = capacity.atoms, capacity.neighbors, edges.num_atoms
    senders = np.repeat(np.arange(n, dtype=np.int32)[:, None], m, axis=1)
    reverse = np.arange(n * m, dtype=np.int32).reshape(n, m)
    vectors = np.zeros((3, n, m), np.float32)
    kinds, counts = np.full(n, -1, np.int32), np.zeros(n, np.int32)
    kinds[:size], counts[:size] = species, 1 if counted is None else counted
    found = edges.found
    per_atom = found.counts(size)
    slot = np.arange(len(found.senders)) - np.repeat(np.cumsum(per_atom) - per_atom, per_atom)
    flat = found.receivers * m + slot
    senders[found.receivers, slot] = found.senders
    reverse[found.receivers, slot] = flat[found.reverse]
    vectors[:, found.receivers, slot] = edges.vectors.T
    return {"vectors": vectors, "senders": senders, "reverse": reverse, "species": kinds, "counted": counts}
