"""Any ASE calculator as a predictor: the method that made the data, beside the surrogate.

ASE is the ``materials`` extra, imported when the first frame is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from surrogate.atomistic.predict import Predicted
from surrogate.data.atoms import Frames
from surrogate.data.atoms_ase import needs_ase
from surrogate.data.atoms_units import from_voigt


class CalculatorPredictor:
    """The :data:`~surrogate.atomistic.predict.Predictor` of an ASE calculator.

    Energies are ASE's ``energy``, atoms' energies its ``energies`` where the calculator has them and NaN where not. The
    stress is NaN for frames that are not periodic in all directions and where the calculator has none.

    Args:
        make_calculator: makes one, such as ``ase.calculators.emt.EMT``; each frame gets its own, since calculators
            remember the last configuration.
    """

    def __init__(self, make_calculator: Callable[[], Any]) -> None:
        self.make_calculator = make_calculator

    def __call__(self, frames: Frames) -> Predicted:
        """Predictions for ``frames``, in their order.

        Raises:
            UserError: without ASE.
        """
        try:
            from ase import Atoms
        except ImportError as error:
            raise needs_ase("a reference by an ASE calculator", error) from None
        energy, stress = np.zeros(len(frames)), np.full((len(frames), 3, 3), np.nan)
        forces, each = np.zeros((frames.num_atoms, 3)), np.full(frames.num_atoms, np.nan)
        for i in range(len(frames)):
            rows = slice(int(frames.offsets[i]), int(frames.offsets[i + 1]))
            calculator = self.make_calculator()
            atoms = Atoms(
                numbers=frames.species[rows], positions=frames.positions[rows], cell=frames.cell[i], pbc=frames.pbc[i],
                calculator=calculator,
            )  # fmt: skip
            energy[i], forces[rows] = atoms.get_potential_energy(), atoms.get_forces()
            if "energies" in calculator.implemented_properties:
                each[rows] = atoms.get_potential_energies()
            if frames.pbc[i].all() and "stress" in calculator.implemented_properties:
                stress[i] = from_voigt(np.asarray(atoms.get_stress(voigt=True))[None])[0]
        return Predicted(energy, forces, stress, each)
