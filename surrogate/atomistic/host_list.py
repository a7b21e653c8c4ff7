"""A neighbor list with a skin on the host, which serves as atoms move and the cell changes, within one compiled shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.atomistic.predict import structures_of
from surrogate.atomistic.verlet_list import roomy
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.capacities import rounded
from surrogate.models.graph import Capacity, Graph, pack
from surrogate.models.neighbors import complete_cell


@dataclass(frozen=True)
class Built:
    """A list and what it was built for."""

    species: np.ndarray  # (N,) atomic numbers
    positions: np.ndarray  # (N, 3) Å
    cell: np.ndarray  # (3, 3) Å
    pbc: np.ndarray  # (3,)
    graph: Graph


class HostList:
    """Gives the graph of a configuration, from the last one's list where that is still complete.

    A pair of vector d becomes d F + δ_s − δ_r where the cell is deformed by F and atoms go δ beside that. So what
    is within the cutoff now was within (cutoff + 2 max |δ|) / (smallest stretch of F) when the list was made.

    Attributes:
        builds: lists made so far.
    """

    def __init__(self, geometry: AtomsGeometry, skin: float, dtype: str) -> None:
        if not (np.isfinite(skin) and skin >= 0):
            raise UserError(f"skin must be a length of at least 0 Å, got {skin}")
        self.geometry, self.skin, self.dtype = geometry, skin, dtype
        self.builds = 0
        self._built: Built | None = None
        self._capacity = Capacity(0, 0, 1)

    def graph(self, frames: Frames) -> Graph:
        """Of one frame, on the device; its positions and cell are those that the list was made for, not the frame's.

        Raises:
            UserError: as :func:`~surrogate.atomistic.predict.structures_of`.
        """
        if self._built is None or not self._serves(self._built, frames):
            found = structures_of(frames, replace(self.geometry, cutoff=self.geometry.cutoff + self.skin))[0]
            self._grow(len(found), found.max_neighbors)
            graph = jax.tree.map(jnp.asarray, pack([found], self._capacity, self.dtype))
            self._built = Built(frames.species, frames.positions, frames.cell[0], frames.pbc[0], graph)
            self.builds += 1
        return self._built.graph

    def _grow(self, atoms: int, neighbors: int) -> None:
        """Never smaller slots for the same atoms, and room for fluctuations when larger ones are needed."""
        size = rounded(atoms, roomy(neighbors), 1)
        same = size.atoms == self._capacity.atoms
        if not (same and self._capacity.holds(atoms, neighbors, 1)):
            self._capacity = size

    def _serves(self, built: Built, frames: Frames) -> bool:
        cell, pbc = frames.cell[0], frames.pbc[0]
        if not (np.array_equal(built.species, frames.species) and np.array_equal(built.pbc, pbc)):
            return False
        if not (np.isfinite(frames.positions).all() and np.isfinite(cell).all()):
            return False  # whose message is that of a new list
        stretch, carried = 1.0, built.positions
        before, now = (np.where(pbc[:, None], c, 0.0) for c in (built.cell, cell))
        if not np.array_equal(before, now):
            deformation = np.linalg.solve(complete_cell(before, pbc), complete_cell(now, pbc))
            stretch = float(np.linalg.svd(deformation, compute_uv=False).min())
            carried = built.positions @ deformation
        beside = np.sqrt(((frames.positions - carried) ** 2).sum(1).max(initial=0))
        reach = self.geometry.cutoff + self.skin
        return bool(stretch > 0 and (self.geometry.cutoff + 2 * beside) / stretch < reach - 1e-6)
