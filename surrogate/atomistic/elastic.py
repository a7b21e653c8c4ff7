"""Elastic constants by finite strains: C_ij = ∂σ_i/∂ε_j of a relaxed crystal, the ions relaxed in every strained cell.

In Voigt's notation (xx, yy, zz, yz, xz, xy) with engineering shear strains, about a state without stress, where the
stress-strain coefficients are the elastic constants (D. C. Wallace, 1972: Thermodynamics of Crystals, section 7).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surrogate.atomistic.predict import Predictor
from surrogate.atomistic.relax import relax
from surrogate.atomistic.state_equation import GPA
from surrogate.data.atoms import Frames
from surrogate.data.atoms_units import to_voigt

_I = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
# Independent constants of a crystal system, and the entries (from 1) of the matrix that are equal by symmetry.
_INDEPENDENT: dict[str, dict[str, tuple[str, ...]]] = {
    "cubic": {"C11": ("11", "22", "33"), "C12": ("12", "13", "23"), "C44": ("44", "55", "66")},
    "hexagonal": {"C11": ("11", "22"), "C12": ("12",), "C13": ("13", "23"), "C33": ("33",), "C44": ("44", "55")},
    "tetragonal": {"C11": ("11", "22"), "C12": ("12",), "C13": ("13", "23"), "C33": ("33",), "C44": ("44", "55"),
                   "C66": ("66",)},
}  # fmt: skip


@dataclass(frozen=True)
class Elastic:
    """``tensor`` (6, 6) GPa, symmetric; ``asymmetry`` GPa, the largest |C_ij − C_ji| as computed: rounding and strain."""

    tensor: np.ndarray
    asymmetry: float

    def constants(self, system: str = "cubic") -> dict[str, float]:
        """The independent constants of a cubic, hexagonal or tetragonal crystal in GPa, means of equal entries."""
        at = lambda name: float(self.tensor[int(name[0]) - 1, int(name[1]) - 1])  # noqa: E731
        return {name: float(np.mean([at(e) for e in equal])) for name, equal in _INDEPENDENT[system].items()}

    @property
    def bulk_modulus(self) -> float:
        """GPa, Voigt's mean: (C11 + C22 + C33 + 2 (C12 + C13 + C23)) / 9; exact for a cubic crystal."""
        return float(self.tensor[:3, :3].sum() / 9)

    @property
    def stable(self) -> bool:
        """Whether every small strain costs energy (Born's criterion: all eigenvalues are positive)."""
        return bool(np.linalg.eigvalsh(self.tensor).min() > 0)


def elastic_constants(predictor: Predictor, relaxed: Frames, strain: float = 0.004) -> Elastic:
    """Of one relaxed frame, from the stresses at ± ``strain`` in each of the six directions.

    The central difference is wrong by a part in 10⁴ or so at the default (the second derivative cancels).

    Raises:
        UserError: when a strained cell does not relax.
    """
    cells, positions = [], []
    for i, j in _I:
        for sign in (1, -1):
            deformation = np.eye(3)
            deformation[i, j] += sign * strain / (1 if i == j else 2)
            deformation[j, i] = deformation[i, j]
            cells.append(relaxed.cell[0] @ deformation)
            positions.append(relaxed.positions @ deformation)
    strained = Frames(
        np.concatenate(positions), np.tile(relaxed.species, 12), np.array(cells), np.ones((12, 3), bool),
        np.repeat(relaxed.row_size, 12), groups=(f"{relaxed.groups[0]} strained",),
    )  # fmt: skip
    # What the ions have left to go is to be small beside what the strain moves them by.
    _, predicted = relax(predictor, strained, "fixed", max_force=1e-4)
    stress = to_voigt(predicted.stress) * GPA
    rows = (stress[0::2] - stress[1::2]) / (2 * strain)  # row j: ∂σ/∂ε_j
    return Elastic((rows + rows.T) / 2, float(np.abs(rows - rows.T).max()))
