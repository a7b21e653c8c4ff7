"""The equation of state of a crystal: energy against volume, and what it says at the minimum.

    F. Birch, 1947: Finite elastic strain of cubic crystals. Physical Review 71, 809–824 (third order).

Its E(V) is a cubic polynomial in V^(−2/3), so the fit is linear least squares, without a first guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surrogate.atomistic.predict import Predictor
from surrogate.atomistic.relax import relax
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames

GPA = 160.2176634  # of 1 eV/Å³


@dataclass(frozen=True)
class StateEquation:
    """Energies of a crystal at several volumes, and their Birch–Murnaghan fit.

    Attributes:
        volumes: (K,) Å³/atom; ``energies``: (K,) eV/atom.
        volume: Å³/atom at the minimum; ``energy``: eV/atom there.
        bulk_modulus: GPa there, and ``bulk_modulus_derivative``, its derivative by pressure.
        residual: eV/atom, root mean square of what the fit leaves.
    """

    volumes: np.ndarray
    energies: np.ndarray
    volume: float
    energy: float
    bulk_modulus: float
    bulk_modulus_derivative: float
    residual: float

    def __call__(self, volumes: np.ndarray) -> np.ndarray:
        """Energies of the fit in eV/atom at volumes in Å³/atom."""
        # Birch's strain f and the energy in powers of it.
        strain = (self.volume / np.asarray(volumes, float)) ** (2 / 3) - 1
        scale = 9 / 16 * self.volume * self.bulk_modulus / GPA
        return self.energy + scale * (strain**2 * 2 + strain**3 * (self.bulk_modulus_derivative - 4))


def fit_birch_murnaghan(volumes: np.ndarray, energies: np.ndarray, name: str = "the crystal") -> StateEquation:
    """Fit energies (K,) eV/atom at volumes (K,) Å³/atom, K ≥ 5.

    Raises:
        UserError: when the fit has no minimum within the volumes.
    """
    volumes, energies = np.asarray(volumes, float), np.asarray(energies, float)
    if len(volumes) < 5:
        raise ValueError(f"an equation of state needs 5 volumes, got {len(volumes)}")
    middle = volumes.mean()
    x = (volumes / middle) ** (-2 / 3)
    fit = np.polynomial.Polynomial.fit(x, energies, 3).convert()
    first, second, third = fit.deriv(1), fit.deriv(2), fit.deriv(3)
    roots = first.roots()
    roots = np.real(roots[np.abs(np.imag(roots)) < 1e-9])
    roots = roots[(second(roots) > 0) & (roots >= x.min()) & (roots <= x.max())]
    if not len(roots):
        raise UserError(
            f"{name}: the energy has no minimum between {volumes.min():.2f} and {volumes.max():.2f} Å³/atom"
        )
    root = float(roots[0])
    volume = middle * root**-1.5
    # dx/dV = −2x/3V and d²x/dV² = 10x/9V²; the first derivative by x is zero here.
    curvature = 4 / 9 * second(root) * root**2 / volume**2
    cubic = -(8 / 27 * third(root) * root**3 + 20 / 9 * second(root) * root**2) / volume**3
    residual = float(np.sqrt(np.mean((fit(x) - energies) ** 2)))
    return StateEquation(
        volumes, energies, float(volume), float(fit(root)), float(volume * curvature) * GPA,
        float(-1 - volume * cubic / curvature), residual,
    )  # fmt: skip


def equation_of_state(
    predictor: Predictor, relaxed: Frames, change: float = 0.06, count: int = 11
) -> StateEquation:  # fmt: skip
    """Of a relaxed crystal; at every volume positions and the shape of the cell are relaxed.

    Args:
        relaxed: one frame, periodic in all directions.
        change: the volumes go from 1 − ``change`` to 1 + ``change`` times the relaxed one.

    Raises:
        UserError: when a cell does not relax or there is no minimum.
    """
    factors = np.linspace(1 - change, 1 + change, count)
    strained = Frames(
        np.concatenate([relaxed.positions * f ** (1 / 3) for f in factors]), np.tile(relaxed.species, count),
        np.concatenate([relaxed.cell * f ** (1 / 3) for f in factors]), np.ones((count, 3), bool),
        np.repeat(relaxed.row_size, count), groups=(f"{relaxed.groups[0]} at volume",),
    )  # fmt: skip
    # A hydrostatic pressure is left on purpose; its deviator and the forces need to be small beside those of the strain.
    frames, predicted = relax(predictor, strained, "volume", max_force=1e-3, max_stress=2e-4)
    size = relaxed.num_atoms
    return fit_birch_murnaghan(frames.volume / size, predicted.energy / size, relaxed.groups[0])
