"""A potential as a calculator of ASE: relaxation, phonons, any of its dynamics, and i-PI through its sockets.

Besides the readers and the simulation of data the only module that needs ASE. Energies eV, forces eV/Å, stress
eV/Å³ under tension, in ASE's order xx, yy, zz, yz, xz, xy.

Programs that speak the i-PI protocol are served by ASE's own client::

    from ase.calculators.socketio import SocketClient
    atoms.calc = sg.load("runs/materials/latest").calculator()
    SocketClient(unixsocket="surrogate").run(atoms, use_stress=True)
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.atomistic.evaluation import Evaluated, Trained, evaluate
from surrogate.atomistic.host_list import HostList
from surrogate.atomistic.places import Places, edge_vectors_of, places_of
from surrogate.atomistic.trajectory import VOIGT
from surrogate.core.types import PyTree
from surrogate.data.atoms import Frames
from surrogate.data.atoms_ase import needs_ase
from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.graph import Graph

try:
    from ase.calculators.calculator import Calculator as AseCalculator
    from ase.calculators.calculator import all_changes
except ImportError as error:
    raise needs_ase("a calculator of ASE", error) from None


@partial(jax.jit, static_argnames=("graphdef", "members", "spread_factor"))
def _compute(
    graphdef: Any, members: int, spread_factor: tuple[float, float], params: PyTree, graph: Graph, places: Places,
    cell: Places,
) -> Evaluated:  # fmt: skip
    vectors = edge_vectors_of(places, cell, graph)
    return evaluate(graphdef, params, graph, vectors, members, spread_factor)


class Calculator(AseCalculator):
    """Energy, forces, stress and energies per atom of a potential, with standard deviations for an ensemble.

    The list of neighbors is made for cutoff + ``skin`` and used until it may be incomplete. Its shape has room for
    fluctuations, so that dynamics or a relaxation compile one program; another number of atoms (in eights) is another one.

    ``results`` also has ``energies`` (N,), and for an ensemble ``energy_spread`` (eV) and ``force_spread`` (N,)
    (eV/Å). There is no stress for what does not repeat in all three directions.

    Args:
        graphdef, params: of ``nnx.split``; with a leading axis of ``members`` for an ensemble.
        geometry: what the potential knows of its data.
        members: of the ensemble; 0 for a single potential.
        spread_factor: what the standard deviations of (energies, forces) are multiplied by.
        skin: Å.

    Raises:
        UserError: when asked, for elements that were not trained on, atoms in one place, a cell without volume.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012  as ASE has it
    ignored_changes: set[str] = {"initial_charges", "initial_magmoms"}  # noqa: RUF012

    def __init__(
        self, graphdef: Any, params: PyTree, geometry: AtomsGeometry, *, dtype: str = "float32", members: int = 0,
        spread_factor: tuple[float, float] = (1.0, 1.0), skin: float = 0.5, **settings: Any,
    ) -> None:  # fmt: skip
        super().__init__(**settings)
        self.trained = Trained(graphdef, params, geometry, dtype, members, spread_factor)
        self.neighbors = HostList(geometry, skin, dtype)
        if members:
            self.implemented_properties = [*type(self).implemented_properties, "energy_spread", "force_spread"]

    @classmethod
    def of(cls, model: Any, *, skin: float = 0.5) -> Calculator:
        """From a surrogate of atoms or a potential.

        Raises:
            UserError: for anything else.
        """
        t = Trained.of(model)
        return cls(
            t.graphdef, t.params, t.geometry, dtype=t.dtype, members=t.members, spread_factor=t.spread_factor, skin=skin
        )  # fmt: skip

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        """Everything at once, whatever is asked for: the derivatives cost about as much as the energy."""
        super().calculate(atoms, properties, system_changes)
        frames = self._frames()
        num, trained = frames.num_atoms, self.trained
        graph = self.neighbors.graph(frames)
        padded = np.zeros(graph.positions.shape)
        padded[:num] = frames.positions
        cell = np.where(frames.pbc[0][:, None], frames.cell[0], 0.0)
        out = jax.device_get(_compute(
            trained.graphdef, trained.members, trained.spread_factor, trained.params,
            replace(graph, cell=jnp.asarray(cell[None], trained.dtype)),
            jax.tree.map(jnp.asarray, places_of(padded, trained.dtype)),
            jax.tree.map(jnp.asarray, places_of(cell, trained.dtype)),
        ))  # fmt: skip
        reference = trained.geometry.references()[np.searchsorted(trained.geometry.species, frames.species)]
        energies = np.asarray(out.atom_energies, float)[:num] + reference
        energy = float(energies.sum())
        self.results = {
            "energy": energy, "free_energy": energy, "energies": energies,
            "forces": np.asarray(out.forces, float)[:num],
        }  # fmt: skip
        if frames.pbc[0].all():
            stress = np.asarray(out.stress, float)
            self.results["stress"] = np.array([stress[i, j] for _, i, j in VOIGT])
        if trained.members:
            self.results["energy_spread"] = float(out.energy_spread)
            self.results["force_spread"] = np.asarray(out.force_spread, float)[:num]

    def _frames(self) -> Frames:
        atoms: Any = self.atoms
        return Frames(
            atoms.get_positions(), atoms.get_atomic_numbers(), atoms.cell.array[None], atoms.pbc[None],
            np.array([len(atoms)]), groups=(str(atoms.symbols),),
        )  # fmt: skip
