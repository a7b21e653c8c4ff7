"""An ASE calculator that reads a Bundle: the exported potential in ASE's dynamics, relaxations and phonons.

from surrogate.exporting.ase_bundle import BundleCalculator
atoms.calc = BundleCalculator("alloy.sg")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
import numpy as np

from surrogate.core.types import UserError
from surrogate.exporting.atoms_caller import AtomsBundle
from surrogate.exporting.caller import open_bundle


class BundleCalculator(Calculator):
    """Energies (eV, with reference energies), forces (eV/Å) and stress (eV/Å³, tension positive, Voigt order of ASE).

    Args:
        bundle: a Bundle of a potential, or its directory.

    Raises:
        UserError: for a Bundle of something else; on calculation as :meth:`AtomsBundle.__call__`.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(self, bundle: AtomsBundle | str | Path, **settings: Any) -> None:
        super().__init__(**settings)
        opened = open_bundle(bundle) if isinstance(bundle, (str, Path)) else bundle
        if not isinstance(opened, AtomsBundle):
            raise UserError(f"{opened.directory} is no Bundle of a potential: it has {', '.join(opened.functions)}")
        self.bundle = opened

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        inputs = {"positions": self.atoms.positions, "numbers": self.atoms.numbers, "pbc": self.atoms.pbc}
        found = self.bundle({**inputs, "cell": np.asarray(self.atoms.cell)})
        energy = float(found["energy"])
        self.results = {
            "energy": energy, "free_energy": energy, "energies": found["atom_energies"], "forces": found["forces"],
        }  # fmt: skip
        if self.atoms.pbc.all():  # without a volume ASE says itself that there is no stress
            self.results["stress"] = full_3x3_to_voigt_6_stress(found["stress"])
