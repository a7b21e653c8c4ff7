"""Masses of the elements."""

from __future__ import annotations

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.elements import SYMBOLS

# u; abridged standard atomic weights, IUPAC 2021, from hydrogen on: T. Prohaska et al., 2022: Standard atomic weights of
# the elements 2021. Pure and Applied Chemistry 94, 573–600. For Tc, Pm and from Po to Ac, and beyond U, which have none,
# the mass number of a long-lived isotope.
_WEIGHTS = (
    1.008, 4.0026, 6.94, 9.0122, 10.81, 12.011, 14.007, 15.999, 18.998, 20.180, 22.990, 24.305, 26.982, 28.085, 30.974,
    32.06, 35.45, 39.95, 39.098, 40.078, 44.956, 47.867, 50.942, 51.996, 54.938, 55.845, 58.933, 58.693, 63.546, 65.38,
    69.723, 72.630, 74.922, 78.971, 79.904, 83.798, 85.468, 87.62, 88.906, 91.224, 92.906, 95.95, 97.0, 101.07, 102.91,
    106.42, 107.87, 112.41, 114.82, 118.71, 121.76, 127.60, 126.90, 131.29, 132.91, 137.33, 138.91, 140.12, 140.91,
    144.24, 145.0, 150.36, 151.96, 157.25, 158.93, 162.50, 164.93, 167.26, 168.93, 173.05, 174.97, 178.49, 180.95,
    183.84, 186.21, 190.23, 192.22, 195.08, 196.97, 200.59, 204.38, 207.2, 208.98, 209.0, 210.0, 222.0, 223.0, 226.0,
    227.0, 232.04, 231.04, 238.03, 237.0, 244.0, 243.0, 247.0, 247.0, 251.0, 252.0, 257.0, 258.0, 259.0, 262.0,
)  # fmt: skip


def masses_of(species: np.ndarray) -> np.ndarray:
    """Masses in u of atomic numbers, any shape.

    Raises:
        UserError: for elements beyond lawrencium.
    """
    numbers = np.asarray(species, int)
    if numbers.size and (numbers.min() < 1 or numbers.max() > len(_WEIGHTS)):
        wrong = int(numbers.max() if numbers.max() > len(_WEIGHTS) else numbers.min())
        name = SYMBOLS[wrong] if 0 < wrong < len(SYMBOLS) else str(wrong)
        raise UserError(f"there is no mass of the element {name}, only of H to {SYMBOLS[len(_WEIGHTS)]}")
    return np.array(_WEIGHTS)[numbers - 1]
