"""Batches of atoms: configurations with their neighbors, kept or found again, and packed with their targets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from surrogate.atomistic.predict import structures_of
from surrogate.core.types import PyTree, UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_settings import AtomsDataConfig
from surrogate.data.waiting import bar_for
from surrogate.domains.atoms_surrogate import AtomsMeaning
from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.graph import Capacity, Structure, pack, pack_atoms

# Neighbor lists that are kept; what goes beyond is found again whenever it is needed.
KEPT_BYTES = 2 * 2**30


def targets_of(frames: Frames, data: AtomsDataConfig) -> Frames:
    """Frames whose energy is what shall be learnt: for a property that is a mean over atoms, the property times them.

    Raises:
        UserError: for several properties, or a property beside energies.
    """
    if not data.properties:
        return frames
    if len(data.properties) > 1 or frames.energy is not None or frames.forces is not None:
        raise UserError(
            "a run learns one property, or energies and their derivatives: give data.properties one name and set data.energy "
            "and data.forces to null, or leave data.properties empty"
        )
    values = frames.properties[data.properties[0]]
    return replace(frames, energy=values * frames.row_size if data.pooling == "mean" else values)


class Structures:
    """The configurations of a split with their neighbors, found when it is opened.

    Attributes:
        sizes: (n,) atoms; slots: (n,) most neighbors of an atom.
        num_edges: neighbors of all atoms together.
    """

    def __init__(self, frames: Frames, geometry: AtomsGeometry, name: str) -> None:
        self.frames, self.geometry = frames, geometry
        self._kept: list[Structure | None] = []
        self.sizes, self.slots = frames.row_size, np.zeros(len(frames), int)
        self.num_edges, size = 0, 0
        with bar_for(f"neighbors of the {name} split", "frames") as progress:
            for i in range(len(frames)):
                (found,) = structures_of(frames[i], geometry)
                self.slots[i] = found.max_neighbors
                self.num_edges += len(found.neighbors.senders)
                size += sum(x.nbytes for x in vars(found.neighbors).values()) + found.positions.nbytes
                self._kept.append(found if size < KEPT_BYTES else None)
                if i % 50 == 49 or i == len(frames) - 1:
                    progress(i + 1, len(frames))

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Structure:
        found = self._kept[index]
        return structures_of(self.frames[index], self.geometry)[0] if found is None else found

    def shape_of(self, indices: np.ndarray) -> tuple[int, int, int]:
        """Atoms, most neighbors of an atom and configurations of a batch."""
        return int(self.sizes[indices].sum()), int(self.slots[indices].max()), len(indices)


def make_batch(
    found: Structures, indices: np.ndarray, capacity: Capacity, meaning: AtomsMeaning, weights: np.ndarray
) -> PyTree:
    """One pack of numpy arrays.

    Returns:
        ``graph`` (see :class:`~surrogate.models.graph.Graph`), ``weights`` (3,) of energy, forces and stress, and of the
        targets that there are ``interaction`` (C,) eV without the reference energies, ``forces`` (N, 3) eV/Å,
        ``virial`` (C, 3, 3) eV with ``has_virial`` (C,).
    """
    frames, count = found.frames, len(indices)
    dtype = meaning.dtype
    batch: dict[str, Any] = {
        "graph": pack([found[int(i)] for i in indices], capacity, dtype),
        "weights": weights,
    }
    rows = [slice(int(frames.offsets[i]), int(frames.offsets[i + 1])) for i in indices]
    if frames.energy is not None:
        known = meaning.reference_of(frames)[indices]
        batch["interaction"] = np.zeros(capacity.graphs, dtype)
        # The difference in double precision: totals are large, what is learnt is small.
        batch["interaction"][:count] = frames.energy[indices] - known
    if frames.forces is not None:
        batch["forces"] = pack_atoms([frames.forces[r] for r in rows], capacity, dtype)
    if frames.has_stress.any():
        there = frames.has_stress[indices]
        batch["virial"] = np.zeros((capacity.graphs, 3, 3), dtype)
        batch["has_virial"] = np.zeros(capacity.graphs, bool)
        batch["has_virial"][:count] = there
        stress: Any = frames.stress
        volume = np.abs(np.linalg.det(frames.cell[indices]))[:, None, None]
        batch["virial"][:count] = np.where(there[:, None, None], stress[indices] * volume, 0.0)
    return jax.tree.map(np.asarray, batch)
