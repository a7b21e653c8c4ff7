"""What a potential says of frames: energies, forces and stresses as arrays, with their uncertainty where there is one.

Everything that probes a potential (scores, equations of state, phonons) asks a :data:`Predictor`, so that a trained
potential, an ensemble of them and the method that made the data can stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.types import PyTree, UserError
from surrogate.data.atoms import Frames
from surrogate.data.elements import SYMBOLS
from surrogate.models.atoms_base import AtomsGeometry, energy_forces_stress
from surrogate.models.capacities import choose_ladder, fill, rounded
from surrogate.models.graph import Capacity, Structure, pack, structure

# A program of another shape is worth compiling when it does a third of the work, and never for so few pairs.
_WORTH_COMPILING, _SMALL = 3, 8192


@dataclass(frozen=True)
class Predicted:
    """Predictions for n frames of A atoms in all, numpy float64.

    The spreads are standard deviations over the members of an ensemble, ``None`` for a single potential.
    """

    energy: np.ndarray  # (n,) eV
    forces: np.ndarray  # (A, 3) eV/Å
    stress: np.ndarray  # (n, 3, 3) eV/Å³, tension positive; NaN for frames that are not periodic in all directions
    atom_energies: np.ndarray  # (A,) eV, their sums are the energies
    energy_spread: np.ndarray | None = None  # (n,) eV
    force_spread: np.ndarray | None = None  # (A,) eV/Å, root of the mean variance of the three components


Predictor = Callable[[Frames], Predicted]


def structures_of(frames: Frames, geometry: AtomsGeometry) -> list[Structure]:
    """Frames with their neighbors.

    Raises:
        UserError: for an element that the geometry does not have, naming the frame.
    """
    known = np.asarray(geometry.species)
    place = np.searchsorted(known, frames.species).clip(max=len(known) - 1)
    if (wrong := known[place] != frames.species).any():
        atom = int(np.argmax(wrong))
        frame = int(np.searchsorted(frames.offsets, atom, side="right")) - 1
        raise UserError(
            f"{frames.place(frame)}: the element {SYMBOLS[frames.species[atom]]} was not in the training data, which have "
            f"{', '.join(SYMBOLS[z] for z in known)}"
        )
    found = []
    for i in range(len(frames)):
        rows = slice(int(frames.offsets[i]), int(frames.offsets[i + 1]))
        try:
            found.append(structure(frames.positions[rows], place[rows], frames.cell[i], frames.pbc[i], geometry.cutoff))
        except UserError as error:
            raise UserError(f"{frames.place(i)}: {error}") from None
    return found


class ModelPredictor:
    """The :data:`Predictor` of a potential, or of an ensemble whose parameters have one more leading axis.

    Args:
        members: of the ensemble; 0 for a single potential.
        batch_size: frames a call of the compiled program.
        spread_factor: what the ensemble's standard deviations of (energies, forces) are multiplied by.
    """

    def __init__(
        self, graphdef: Any, params: PyTree, geometry: AtomsGeometry, *, dtype: str = "float32", members: int = 0,
        batch_size: int = 8, spread_factor: tuple[float, float] = (1.0, 1.0),
    ) -> None:  # fmt: skip
        self.geometry, self.params, self.members = geometry, params, members
        self.dtype, self.batch_size, self.spread_factor = dtype, batch_size, spread_factor
        self._shapes: list[Capacity] = []

        def one(params: PyTree, graph: Any) -> tuple[Any, ...]:
            p = energy_forces_stress(nnx.merge(graphdef, params), graph)
            return p.interaction, p.atom_energies, p.forces, p.stress

        self._call = jax.jit(jax.vmap(one, in_axes=(0, None)) if members else one)

    def _shape(self, sizes: list[int], neighbors: list[int]) -> Capacity:
        """A shape for these frames; one that was compiled before where that is not much more work.

        A crystal that is relaxed and strained has another number of neighbors, and another number of frames, at every
        call; compiling for each would take far longer than the padding.
        """
        wanted = choose_ladder(sizes, neighbors, min(self.batch_size, len(sizes)), rungs=1).rungs[-1]
        for shape in self._shapes:
            work = wanted.atoms * wanted.neighbors
            if shape.holds(wanted.atoms, wanted.neighbors, wanted.graphs) and (
                shape.atoms * shape.neighbors <= max(_WORTH_COMPILING * work, _SMALL)
            ):
                return shape
        if wanted.atoms * wanted.neighbors <= _SMALL // 2:
            wanted = rounded(wanted.atoms, wanted.neighbors * 3 // 2, self.batch_size)
        self._shapes.append(wanted)
        return wanted

    def __call__(self, frames: Frames) -> Predicted:
        """Predictions for ``frames``, in their order.

        Raises:
            UserError: for elements that were not trained on, or atoms in one place.
        """
        structures = structures_of(frames, self.geometry)
        n, a, m = len(frames), frames.num_atoms, max(self.members, 1)
        energy, spread_shape = np.zeros((m, n)), (m, a)
        atoms, forces, stress = np.zeros(spread_shape), np.zeros((*spread_shape, 3)), np.zeros((m, n, 3, 3))
        if n:
            sizes, slots = [len(s) for s in structures], [s.max_neighbors for s in structures]
            capacity = self._shape(sizes, slots)
            for batch in fill(sizes, slots, capacity):
                graph = jax.tree.map(jnp.asarray, pack([structures[i] for i in batch], capacity, self.dtype))
                found = [np.asarray(x, float) for x in jax.device_get(self._call(self.params, graph))]
                e, each, f, s = found if self.members else [x[None] for x in found]
                rows = slice(int(frames.offsets[batch[0]]), int(frames.offsets[batch[-1] + 1]))
                count = rows.stop - rows.start
                energy[:, batch], stress[:, batch] = e[:, : len(batch)], s[:, : len(batch)]
                atoms[:, rows], forces[:, rows] = each[:, :count], f[:, :count]
        place = np.searchsorted(self.geometry.species, frames.species)
        reference = self.geometry.references()[place]
        totals = np.zeros(n)
        np.add.at(totals, frames.frame_of_atom, reference)
        spread: dict[str, Any] = {}
        if self.members:
            by_energy, by_force = self.spread_factor
            spread["energy_spread"] = by_energy * energy.std(0, ddof=1)
            spread["force_spread"] = by_force * np.sqrt(forces.var(0, ddof=1).mean(-1))
        return Predicted(
            energy.mean(0) + totals, forces.mean(0), stress.mean(0), atoms.mean(0) + reference, **spread
        )  # fmt: skip
