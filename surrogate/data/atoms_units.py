"""Units of atomic data, and the three things that codes call stress; everything becomes eV, Å, eV/Å and eV/Å³.

Constants: CODATA 2018 (https://physics.nist.gov/cuu/Constants), the calorie is the thermochemical one.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

import numpy as np

from surrogate.core.types import UserError

_HARTREE = 27.211386245988  # eV
_BOHR = 0.529177210903  # Å
_KJ_PER_MOL = 1.0364269656262175e-2  # eV: 1000 / (N_A · e)
_GPA = 1 / 160.2176634  # eV/Å³

_ENERGY = {
    "ev": 1.0, "electronvolt": 1.0, "mev": 1e-3, "kev": 1e3,
    "hartree": _HARTREE, "ha": _HARTREE, "eh": _HARTREE, "au": _HARTREE,
    "rydberg": _HARTREE / 2, "ry": _HARTREE / 2,
    "kj/mol": _KJ_PER_MOL, "kcal/mol": 4.184 * _KJ_PER_MOL,
    "j": 1 / 1.602176634e-19,
}  # fmt: skip
_LENGTH = {
    "angstrom": 1.0, "bohr": _BOHR, "au": _BOHR, "a0": _BOHR, "nm": 10.0, "pm": 0.01, "m": 1e10,
}  # fmt: skip
_PRESSURE = {
    "gpa": _GPA, "mpa": 1e-3 * _GPA, "kpa": 1e-6 * _GPA, "pa": 1e-9 * _GPA, "kbar": 0.1 * _GPA, "kb": 0.1 * _GPA,
    "bar": 1e-4 * _GPA, "atm": 1.01325e-4 * _GPA,
}  # fmt: skip
_SPELLINGS = {
    "å": "angstrom", "angstroms": "angstrom", "ang": "angstrom", "a": "angstrom",
    "atomic units": "au", "a.u.": "au", "hartrees": "hartree", "rydbergs": "rydberg", "bohrs": "bohr",
    "nanometer": "nm", "nanometre": "nm", "picometer": "pm", "metre": "m", "meter": "m",
    "kilocalorie/mole": "kcal/mol", "kcal/mole": "kcal/mol", "kilocalorie/mol": "kcal/mol",
    "kilojoule/mole": "kj/mol", "kj/mole": "kj/mol", "kilojoule/mol": "kj/mol", "joule": "j",
    "electronvolts": "ev", "electron volt": "ev", "electron_volt": "ev",
}  # fmt: skip

Convention = Literal["tension", "compression", "virial"]
CONVENTIONS: dict[str, str] = {
    "tension": "stress, positive under tension (ASE, ABINIT)",
    "compression": "stress, positive under compression (VASP's kB, pressure)",
    "virial": "virial −V·stress, an energy (DeePMD; extxyz's virial)",
}
VoigtOrder = Literal["xx,yy,zz,yz,xz,xy", "xx,yy,zz,xy,yz,xz"]
VOIGT = "xx,yy,zz,yz,xz,xy"  # ASE, ABINIT; the other one is VASP's
_AXES = {"x": 0, "y": 1, "z": 2}


def _plain(text: str) -> str:
    """One spelling: lower case, ``**`` and ``^`` dropped, ``eV angstrom-3`` as ``ev/angstrom3``."""
    unit = re.sub(r"\s+", " ", text.strip().lower()).replace("**", "").replace("^", "").replace("³", "3")
    unit = unit.replace("⁻", "-")
    unit = _SPELLINGS.get(unit, unit)
    unit = re.sub(r"[ *·]([a-zå.]+)-(\d*)", lambda m: f"/{m[1]}{'' if m[2] in ('', '1') else m[2]}", unit)
    return re.sub(r"\s*/\s*", "/", unit)


def _look_up(table: dict[str, float], unit: str) -> float | None:
    return table.get(_SPELLINGS.get(unit, unit))


def _refuse(text: str, kind: str, known: str, where: str) -> UserError:
    return UserError(f"{where}: {text!r} is not a unit of {kind}; there are {known}")


def energy_factor(text: str, where: str) -> float:
    """What a number in these units is multiplied with to be in eV."""
    factor = _look_up(_ENERGY, _plain(text))
    if factor is None:
        raise _refuse(text, "energy", "eV, meV, Hartree, Rydberg, kcal/mol, kJ/mol, J", where)
    return factor


def length_factor(text: str, where: str) -> float:
    """What a number in these units is multiplied with to be in Å."""
    factor = _look_up(_LENGTH, _plain(text))
    if factor is None:
        raise _refuse(text, "length", "angstrom, Bohr, nm, pm", where)
    return factor


def force_factor(text: str, where: str) -> float:
    """To eV/Å, from an energy over a length: ``"kcal/mol/angstrom"``, ``"Ha/bohr"``."""
    energy, _, length = _plain(text).rpartition("/")
    factors = _look_up(_ENERGY, energy), _look_up(_LENGTH, length)
    if factors[0] is None or factors[1] is None:
        raise _refuse(text, "force", "eV/angstrom, Hartree/Bohr, Rydberg/Bohr, kcal/mol/angstrom", where)
    return factors[0] / factors[1]


def stress_factor(text: str, where: str) -> float:
    """To eV/Å³, from a pressure or an energy over a volume: ``"GPa"``, ``"kbar"``, ``"Ha/bohr^3"``."""
    unit = _plain(text)
    if (pressure := _look_up(_PRESSURE, unit)) is not None:
        return pressure
    energy, _, volume = unit.rpartition("/")
    length = _look_up(_LENGTH, volume.removesuffix("3")) if volume.endswith("3") else None
    factor = _look_up(_ENERGY, energy)
    if factor is None or length is None:
        raise _refuse(text, "stress", "eV/angstrom^3, GPa, kbar, bar, Pa, Hartree/Bohr^3, Rydberg/Bohr^3", where)
    return factor / length**3


def property_factor(text: str) -> tuple[float, str]:
    """Factor and the new unit of a scalar property: energies become eV, lengths Å, anything else stays as it is.

    ``au`` names many quantities and is refused.

    Raises:
        UserError: for an ambiguous unit.
    """
    unit = _plain(text)
    if _SPELLINGS.get(unit, unit) == "au":
        raise UserError(f"the unit {text!r} of a property could be anything; say Hartree or Bohr")
    if (factor := _look_up(_ENERGY, unit)) is not None:
        return factor, "eV"
    if (factor := _look_up(_LENGTH, unit)) is not None:
        return factor, "angstrom"
    return 1.0, text


def to_tension(values: np.ndarray, volume: np.ndarray, convention: str, order: str, factor: float, place) -> np.ndarray:
    """Stress (n, 3, 3) in eV/Å³, positive under tension: σ = (1/V) ∂E/∂ε.

    Args:
        values: (n, 6) in ``order``, (n, 9) or (n, 3, 3), as stored; NaN where a frame has none.
        volume: (n,) Å³, needed for a virial.
        convention: a key of :data:`CONVENTIONS`.
        factor: to eV/Å³, for a virial to eV.
        place: index of a frame → its file and number, for messages.

    Raises:
        UserError: for a convention or an order that does not exist, a number of components that is neither 6 nor 9,
            and a tensor of nine that is not symmetric.
    """
    if convention not in get_args(Convention):
        raise UserError(f"stress convention {convention!r} does not exist; there are {', '.join(CONVENTIONS)}")
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    if flat.shape[1] == 6:
        full = from_voigt(flat, order)
    elif flat.shape[1] == 9:
        full = flat.reshape(-1, 3, 3)
        skew = np.abs(full - full.transpose(0, 2, 1)).max((1, 2))
        # Codes print a few digits, and sums over atoms round: 1e-3 of the size is still the same tensor.
        size = np.abs(full).max((1, 2))
        bad = skew > 1e-3 * size + 1e-10
        if bad.any():
            i = int(np.argmax(bad))
            raise UserError(
                f"{place(i)}: the stress is not symmetric: components differ by {skew[i]:.3g} of {size[i]:.3g}"
            )
        full = (full + full.transpose(0, 2, 1)) / 2
    else:
        raise UserError(f"{place(0)}: a stress has 6 or 9 components, this one has {flat.shape[1]}")
    full = full * factor
    if convention == "compression":
        return -full
    return -full / volume[:, None, None] if convention == "virial" else full


def from_voigt(values: np.ndarray, order: str = VOIGT) -> np.ndarray:
    """(n, 6) components in ``order`` → symmetric (n, 3, 3).

    Raises:
        UserError: when ``order`` does not name each of the six components once.
    """
    pairs = [tuple(sorted(_AXES.get(axis, 9) for axis in part.strip())) for part in order.split(",")]
    if sorted(pairs) != [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]:
        raise UserError(f"{order!r} is not an order of the six components of a stress such as {VOIGT!r}")
    full = np.empty((len(values), 3, 3))
    for column, (i, j) in enumerate(pairs):
        full[:, i, j] = full[:, j, i] = values[:, column]
    return full


def to_voigt(full: np.ndarray) -> np.ndarray:
    """Symmetric (n, 3, 3) → (n, 6) in the order xx, yy, zz, yz, xz, xy."""
    return np.stack([full[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))], axis=-1)
