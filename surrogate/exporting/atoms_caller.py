"""Python callers of a potential's Bundle: positions in, energy, forces and stress out, with JAX, NumPy and SciPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from surrogate.core.types import Array, UserError
from surrogate.exporting.atoms_inputs import edges_of, fill
from surrogate.exporting.caller import Bundle
from surrogate.models.graph import Capacity


class AtomsBundle(Bundle):
    """A Bundle of a potential; ``bundle({"positions": ..., "numbers": ...})`` is one system of any size that fits.

    Attributes:
        cutoff: Å.
        species: atomic numbers that the potential knows, ascending.
        layers: how many cutoffs far an atom's energy depends on others.
        capacities: (atoms, neighbors of one atom at most) of the programs, in the order in which they are tried.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        super().__init__(directory, manifest, files)
        record = self._record = manifest["atoms"]
        self.cutoff, self.layers = float(record["cutoff"]), int(record["layers"])
        self.species = tuple(int(z) for z in record["species"])
        self.reference_energies = np.asarray(record["reference_energies"], np.float64)
        self.capacities = tuple((int(r["atoms"]), int(r["neighbors"])) for r in record["rungs"])
        self.functions = (record["name"], *self._entries)

    def inputs(self, function: str = "") -> list[dict[str, Any]]:
        """Name, dtype, dims and units of each input."""
        return self._record["inputs"] if function in ("", self.functions[0]) else super().inputs(function)

    def outputs(self, function: str = "") -> list[dict[str, Any]]:
        """As :meth:`inputs`."""
        return self._record["outputs"] if function in ("", self.functions[0]) else super().outputs(function)

    def __call__(self, inputs: Mapping[str, Array], function: str = "") -> dict[str, Any]:
        """Energy, forces and stress of one system.

        Args:
            inputs: ``positions`` (n, 3) in Å, ``numbers`` (n,) atomic numbers, and, where it is periodic, ``cell``
                (3, 3) in Å with the vectors as rows and ``pbc`` (3,) or one bool (all three where left out).
            function: the first of :attr:`functions` where left out; the others are the programs themselves.

        Returns:
            NumPy float64: ``energy`` () eV, ``forces`` (n, 3) eV/Å, ``stress`` (3, 3) eV/Å³ with tension positive, NaN
            unless all three directions are periodic, ``virial`` (3, 3) eV, ``atom_energies`` (n,) eV.

        Raises:
            UserError: for inputs of another shape, unknown elements, atoms in one place, and a system that no
                capacity holds.
        """
        if function not in ("", self.functions[0]):
            return super().__call__(inputs, function)
        positions, species, cell, pbc = self._system(inputs)
        edges = edges_of(positions, cell, pbc, self.cutoff)
        rung, capacity = self._rung(len(positions), edges.max_neighbors)
        arrays = fill(edges, species, capacity)
        found = super().__call__({name: value[None] for name, value in arrays.items()}, rung)
        energies, forces, virials = (
            np.asarray(jax.device_get(found[k])[0], np.float64)[: len(positions)]
            for k in ("energies", "forces", "virials")
        )
        energies = energies + self.reference_energies[species]
        virial = virials.sum(0)
        virial = (virial + virial.T) / 2
        volume = abs(float(np.linalg.det(cell))) if pbc.all() else np.nan
        return {
            "energy": np.float64(energies.sum()), "forces": forces, "stress": virial / volume, "virial": virial,
            "atom_energies": energies,
        }  # fmt: skip

    def _system(self, inputs: Mapping[str, Array]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Positions, indices into the species, cell and pbc."""
        name = self.functions[0]
        if extra := sorted(set(inputs) - {"positions", "numbers", "cell", "pbc"}):
            raise UserError(f"{name} has no input {extra[0]!r}; it takes positions, numbers, cell, pbc")
        for needed in ("positions", "numbers"):
            if needed not in inputs:
                raise UserError(f"{name} needs the input {needed!r}")
        positions = np.asarray(inputs["positions"], np.float64)
        numbers = np.asarray(inputs["numbers"])
        if positions.ndim != 2 or positions.shape[1] != 3 or numbers.shape != positions.shape[:1]:
            raise UserError(
                f"{name}: positions have shape {positions.shape} and numbers {numbers.shape}, expected (atoms, 3) and "
                "(atoms,)"
            )
        if not np.issubdtype(numbers.dtype, np.integer):
            raise UserError(f"{name}: numbers are {numbers.dtype}, expected atomic numbers, which are integers")
        known = np.asarray(self.species)
        species = np.searchsorted(known, numbers).clip(max=len(known) - 1)
        if (wrong := known[species] != numbers).any():
            atom = int(np.argmax(wrong))
            raise UserError(
                f"{name}: atom {atom} has atomic number {numbers[atom]}; the potential knows "
                f"{', '.join(map(str, self.species))}"
            )
        cell = np.asarray(inputs.get("cell", np.zeros((3, 3))), np.float64)
        if cell.shape != (3, 3):
            raise UserError(f"{name}: cell has shape {cell.shape}, expected (3, 3)")
        pbc = np.broadcast_to(np.asarray(inputs.get("pbc", "cell" in inputs), bool), (3,))
        return positions, species.astype(np.int32), cell, pbc

    def _rung(self, atoms: int, neighbors: int) -> tuple[str, Capacity]:
        for rung, (most, slots) in zip(self._record["rungs"], self.capacities, strict=True):
            if atoms <= most and neighbors <= slots:
                return rung["function"], Capacity(most, slots, 1)
        raise UserError(
            f"{self.functions[0]}: {atoms} atoms with up to {neighbors} neighbors within {self.cutoff:g} Å fit into no "
            f"capacity of the Bundle ({', '.join(f'{a}x{m}' for a, m in self.capacities)}): export it with a larger one"
        )

    def check(self) -> None:
        """Compare the smallest program with its golden samples on this machine.

        The larger ones are the same computation; each would have to be compiled.

        Raises:
            UserError: as :meth:`Bundle.check`.
        """
        self.check_function(self._record["rungs"][0]["function"])
