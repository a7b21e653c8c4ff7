"""A trained interatomic potential, or a model of a property of molecules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from surrogate.atomistic.predict import ModelPredictor, Predicted
from surrogate.core.types import PyTree, UserError
from surrogate.data.atoms import Frames
from surrogate.data.elements import SYMBOLS
from surrogate.models.atoms_base import AtomsGeometry


@dataclass(frozen=True)
class AtomsMeaning:
    """What a network of atoms says.

    Attributes:
        geometry: species, cutoff and scales.
        dtype: of arithmetic.
        target: ``energy``, or the name of a property.
        units: of the target.
        pooling: of a property: ``sum`` or ``mean`` over atoms.
        members: of the ensemble; 0 for a single network.
        spread_factor: calibration of the spreads of (energies, forces), found on the validation split.
    """

    geometry: AtomsGeometry
    dtype: str = "float32"
    target: str = "energy"
    units: str = "eV"
    pooling: str = "sum"
    members: int = 0
    spread_factor: tuple[float, float] = (1.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the reference energies are an array of their own."""
        geometry = self.geometry
        return {
            "species": [SYMBOLS[z] for z in geometry.species], "cutoff": geometry.cutoff, "cutoff_units": "angstrom",
            "num_neighbors": geometry.num_neighbors, "scale": geometry.scale, "dtype": self.dtype, "target": self.target,
            "units": self.units, "pooling": self.pooling, "members": self.members, "spread_factor": list(self.spread_factor),
            "stress": "sigma = (1/V) dE/d(strain), eV/angstrom^3, positive under tension",
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any], references: np.ndarray) -> AtomsMeaning:
        numbers = {symbol: z for z, symbol in enumerate(SYMBOLS)}
        geometry = AtomsGeometry(
            tuple(numbers[s] for s in values["species"]), float(values["cutoff"]), float(values["num_neighbors"]),
            float(values["scale"]), tuple(float(e) for e in references),
        )  # fmt: skip
        first, second = values["spread_factor"]
        return cls(
            geometry, str(values["dtype"]), str(values["target"]), str(values["units"]), str(values["pooling"]),
            int(values["members"]), (float(first), float(second)),
        )  # fmt: skip

    def reference_of(self, frames: Frames) -> np.ndarray:
        """Sums of the reference energies of each frame, (n,) float64."""
        place = np.searchsorted(self.geometry.species, frames.species)
        return np.bincount(frames.frame_of_atom, self.geometry.references()[place], len(frames))

    def predictor(self, graphdef: Any, params: PyTree) -> ModelPredictor:
        return ModelPredictor(
            graphdef, params, self.geometry, dtype=self.dtype, members=self.members, spread_factor=self.spread_factor
        )

    def fill_model(
        self, model_class: Any, config: Any, fill: Callable[[nnx.Module], tuple[Any, PyTree]]
    ) -> tuple[Any, PyTree]:
        """The graph definition and weights of a saved network; those of an ensemble have a leading axis of members."""
        empty = nnx.eval_shape(lambda: model_class(self.geometry, config, rngs=nnx.Rngs(0)))
        if not self.members:
            return fill(empty)
        graphdef, state = nnx.split(empty)
        wide = jax.tree.map(lambda s: jax.ShapeDtypeStruct((self.members, *s.shape), s.dtype), state)
        return graphdef, fill(nnx.merge(graphdef, wide))[1]


class AtomsSurrogate:
    """What ``surrogate.load`` and ``surrogate.fit`` give for atoms.

    Attributes:
        geometry: species, cutoff in Å, reference energies in eV.
        members: of the ensemble, 0 for a single potential; the parameters of an ensemble have a leading axis of members.
        manifest: everything that is known of how it was made.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        meaning: AtomsMeaning,
        graphdef: Any,
        params: PyTree,
        directory: Path | None = None,
    ) -> None:
        self.manifest, self.meaning, self.graphdef, self.directory = manifest, meaning, graphdef, directory
        self.params = jax.tree.map(jnp.asarray, params)
        self._predictor: ModelPredictor | None = None

    @property
    def geometry(self) -> AtomsGeometry:
        return self.meaning.geometry

    @property
    def dtype(self) -> str:
        return self.meaning.dtype

    @property
    def members(self) -> int:
        return self.meaning.members

    @property
    def spread_factor(self) -> tuple[float, float]:
        """Calibration of the spreads of (energies, forces)."""
        return self.meaning.spread_factor

    def __repr__(self) -> str:
        species = " ".join(SYMBOLS[z] for z in self.geometry.species)
        ensemble = f", {self.members} members" if self.members else ""
        return (
            f"AtomsSurrogate({self.manifest['name']!r}: {self.manifest['model']['name']}, {self.meaning.target} of {species}, "
            f"cutoff {self.geometry.cutoff:g} Å{ensemble})"
        )

    def predictor(self) -> ModelPredictor:
        """Energies, forces, stresses for :class:`~surrogate.data.atoms.Frames`; compiled once for each shape."""
        if self._predictor is None:
            self._predictor = self.meaning.predictor(self.graphdef, self.params)
        return self._predictor

    def predict(self, atoms: Any) -> Predicted:
        """Energies (eV), forces (eV/Å) and stresses (eV/Å³).

        Args:
            atoms: :class:`~surrogate.data.atoms.Frames`, an ``ase.Atoms`` or a list of them.

        Raises:
            UserError: for an element that was not trained on, atoms in one place, or a surrogate of a property.
        """
        self._refuse_property("energies and forces; ask property_of")
        return self.predictor()(as_frames(atoms))

    def calculator(self, skin: float = 0.5) -> Any:
        """A calculator of ASE with energy, forces, stress, energies per atom and, of an ensemble, spreads.

        Args:
            skin: Å; neighbors are found again when atoms have moved by half of it.

        Raises:
            UserError: without ASE (the ``materials`` extra), or for a surrogate of a property.
        """
        self._refuse_property("energies and forces")
        from surrogate.atomistic.calculator import Calculator

        return Calculator.of(self, skin=skin)

    def property_of(self, atoms: Any) -> np.ndarray:
        """The property that it was trained on, in :attr:`AtomsMeaning.units`: (n,)."""
        if self.meaning.target == "energy":
            raise UserError("this surrogate gives energies and forces, not a property; ask predict")
        frames = as_frames(atoms)
        total = self.predictor()(frames).energy
        return total / frames.row_size if self.meaning.pooling == "mean" else total

    def _refuse_property(self, what: str) -> None:
        if self.meaning.target != "energy":
            raise UserError(f"this surrogate gives the property {self.meaning.target!r}, not {what}")


def as_frames(atoms: Any) -> Frames:
    """Frames of what a person has: frames, ``ase.Atoms`` or a list of them."""
    if isinstance(atoms, Frames):
        return without_labels(atoms)
    each = [atoms] if hasattr(atoms, "get_positions") else list(atoms)
    if not each or not all(hasattr(a, "get_positions") for a in each):
        raise UserError("atoms must be Frames, an ase.Atoms or a list of them")
    return Frames(
        positions=np.concatenate([a.get_positions() for a in each]),
        species=np.concatenate([a.numbers for a in each]),
        cell=np.stack([np.asarray(a.cell) for a in each]),
        pbc=np.stack([np.asarray(a.pbc) for a in each]),
        row_size=np.array([len(a) for a in each]),
        groups=("atoms",),
    )


def without_labels(frames: Frames) -> Frames:
    """Geometry alone."""
    return replace(frames, energy=None, forces=None, stress=None, properties={}, property_units={}, labels={})
