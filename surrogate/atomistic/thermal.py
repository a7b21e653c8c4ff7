"""Temperatures, and velocities drawn at one. Units: Å, fs, eV, u, K."""

from __future__ import annotations

import numpy as np

KB = 8.617333262e-5  # eV/K, CODATA 2018
ACCELERATION = 9.648533212331e-3  # Å/fs² of 1 eV/Å on 1 u, CODATA 2018


def kinetic_energy(velocities: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Σ m v² / 2 in eV: velocities (..., N, 3) in Å/fs and masses (N,) in u give (...)."""
    squares = (np.asarray(velocities, np.float64) ** 2).sum(-1)
    return 0.5 * (squares * masses).sum(-1) / ACCELERATION


def degrees_of_freedom(num_atoms: int, *, thermostat: bool) -> int:
    """3N under a thermostat that acts on all momenta; without one the three of the total momentum are not free."""
    return 3 * num_atoms if thermostat or num_atoms == 1 else 3 * num_atoms - 3


def temperature(kinetic: np.ndarray, num_degrees: int) -> np.ndarray:
    """2 E_kin / (k_B · degrees of freedom) in K, from eV: equipartition.

    Frenkel and Smit, "Understanding Molecular Simulation" (2002), section 4.1.
    """
    return 2 * np.asarray(kinetic) / (KB * num_degrees)


def maxwell_boltzmann(masses: np.ndarray, kelvin: float, rng: np.random.Generator) -> np.ndarray:
    """Velocities (N, 3) in Å/fs with no total momentum and exactly this temperature in the degrees that are left.

    A single atom keeps its momentum. On a lattice at rest half of the kinetic energy goes into displacements, so
    that the temperature settles near half of ``kelvin`` without a thermostat.
    """
    velocities = np.sqrt(KB * kelvin * ACCELERATION / masses)[:, None] * rng.standard_normal((len(masses), 3))
    if len(masses) > 1:
        velocities -= (masses[:, None] * velocities).sum(0) / masses.sum()
    drawn = temperature(kinetic_energy(velocities, masses), degrees_of_freedom(len(masses), thermostat=False))
    return velocities * np.sqrt(kelvin / drawn) if drawn > 0 else velocities
