"""Potentials for export tests, made without training, and systems to call them with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import nnx
import jax
import numpy as np

from surrogate.domains.atoms_surrogate import AtomsMeaning, AtomsSurrogate
from surrogate.models.atoms_base import AtomsGeometry, energy_forces_stress
from surrogate.models.base import find_model
from surrogate.models.graph import Capacity, pack, structure
from surrogate.run.artefact import write_artefact
from surrogate.run.surrogate_files import encode_netcdf

SPECIES = (13, 29)
CUTOFF = 4.0
# Small, yet with every kind of term: two layers with tensors between them, and one layer with repulsion.
SETTINGS: dict[str, dict[str, Any]] = {
    "potential": {"channels": 4, "hidden": 3, "l_max": 1, "correlation": 2, "basis": 4, "readout": 4},
    "descriptor": {"channels": 4, "l_max": 1, "correlation": 2, "basis": 4, "readout": 4, "zbl": True},
}


def make_potential(
    model: str, directory: Path, seed: int = 0, members: int = 0, settings: dict[str, Any] | None = None
) -> AtomsSurrogate:
    """A potential of random weights whose forces are of the order of 1 eV/Å; its golden sample is in ``directory``."""
    settings = SETTINGS[model] if settings is None else settings
    rng = np.random.default_rng(seed)
    geometry = AtomsGeometry(SPECIES, CUTOFF, 16.0, scale=0.8, reference_energies=(-3.36, -3.49))
    cls: Any = find_model(model)
    lead = (members,) if members else ()
    # Shapes alone: initial values would be compiled for, and thrown away.
    graphdef, state = nnx.split(nnx.eval_shape(lambda: cls(geometry, cls.Config(**settings), rngs=nnx.Rngs(0))))
    # All parameters random: those that start at 0 or alike would hide what they do.
    params = jax.tree.map(
        lambda v: rng.normal(0, 1 / np.sqrt(v.shape[0] + 1), (*lead, *v.shape)).astype(np.float32),
        nnx.to_pure_dict(state),
    )
    kept = crystal(2, seed=7)
    golden = {"positions": kept.positions, "species": kept.numbers, "cell": kept.cell[None],
              "pbc": kept.pbc[None].astype(np.int8), "row_size": np.array([8], np.int32)}  # fmt: skip
    manifest = {"name": "alloy", "domain": "atoms", "model": {"name": model, "settings": settings}}
    write_artefact(directory, {"golden.nc": encode_netcdf(golden)}, {"kind": "surrogate", "format": 1, **manifest})
    return AtomsSurrogate(manifest, AtomsMeaning(geometry, members=members), graphdef, params, directory)


@dataclass(frozen=True)
class System:
    """positions (n, 3) Å, atomic numbers (n,), cell (3, 3) Å, pbc (3,)."""

    positions: np.ndarray
    numbers: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray

    def inputs(self) -> dict[str, np.ndarray]:
        return {"positions": self.positions, "numbers": self.numbers, "cell": self.cell, "pbc": self.pbc}


def crystal(side: int = 2, pbc: Any = True, seed: int = 0, skew: float = 0.15, spacing: float = 2.75) -> System:
    """A moved simple cubic lattice of side³ atoms in a skewed cell; some atoms lie outside of it."""
    rng = np.random.default_rng(seed)
    cell = side * spacing * (np.eye(3) + skew * np.tril(rng.normal(size=(3, 3)), -1))
    sites = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3) / side
    positions = (sites + rng.integers(-1, 2, sites.shape)) @ cell if np.all(pbc) else sites @ cell
    positions = positions + rng.uniform(-0.25, 0.25, positions.shape)
    numbers = rng.choice(SPECIES, len(sites)).astype(np.int32)
    return System(positions, numbers, cell, np.broadcast_to(np.asarray(pbc, bool), (3,)).copy())


class InProcess:
    """The potential by ``energy_forces_stress``, as it was trained: what every caller has to agree with."""

    def __init__(self, made: AtomsSurrogate, atoms: int, neighbors: int) -> None:
        self.made, self.capacity = made, Capacity(atoms, neighbors, 1)
        self._call = jax.jit(lambda p, graph: energy_forces_stress(nnx.merge(made.graphdef, p), graph))

    def __call__(self, system: System) -> dict[str, np.ndarray]:
        geometry = self.made.geometry
        species = np.searchsorted(geometry.species, system.numbers)
        found = structure(system.positions, species, system.cell, system.pbc, geometry.cutoff)
        p = jax.tree.map(
            lambda x: np.asarray(x, np.float64), self._call(self.made.params, pack([found], self.capacity))
        )
        n, references = len(system.numbers), geometry.references()[species]
        return {
            "energy": p.interaction[0] + references.sum(), "forces": p.forces[:n], "stress": p.stress[0],
            "virial": p.virial[0], "atom_energies": p.atom_energies[:n] + references,
        }  # fmt: skip


def agree(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-5) -> None:
    """Every result within ``tolerance`` of the largest magnitude of its kind; NaN where NaN is expected.

    By default as well as float32 *positions* allow, which the potential in this process has and exported ones
    do not. Energies are compared on the scale of interactions, since reference energies are added in double precision.
    """
    for name, right in expected.items():
        size = 0.3 if "energ" in name else float(np.abs(np.nan_to_num(right)).max())
        if name == "energy":
            size *= len(found["forces"])
        elif name != "stress":
            size = max(size, 0.3)
        np.testing.assert_allclose(found[name], right, rtol=0, atol=tolerance * size, err_msg=name)
