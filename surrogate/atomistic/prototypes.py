"""Crystal structures by name, ``Cu-fcc`` or ``Cu3Au-L12``, and which of them a training set calls for.

A structure is its primitive cell in the usual orientation, so that elastic constants come in the usual axes, with the
path through the Brillouin zone on which its phonons are drawn:

    W. Setyawan and S. Curtarolo, 2010: High-throughput electronic band structure calculations: Challenges and tools.
    Computational Materials Science 49, 299–312 (points of high symmetry).

Lattice constants are experimental ones near room temperature, rounded (C. Kittel, Introduction to Solid State Physics,
8th ed., table 3 of chapter 1, and the CRC Handbook of Chemistry and Physics): a place to start relaxing from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
import re

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.elements import SYMBOLS, atomic_numbers

_FCC = ((0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))
_BCC = ((-0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.5, 0.5, -0.5))
_CUBE = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
_C = float(np.sqrt(8 / 3))  # c/a of touching spheres
_HEXAGON = ((1, 0, 0), (-0.5, float(np.sqrt(3) / 2), 0), (0, 0, _C))
_TETRAGON = ((float(np.sqrt(0.5)), 0, 0), (0, float(np.sqrt(0.5)), 0), (0, 0, 1))

# Segments of a path; points in units of 2π/a along the cubic axes ...
_FCC_PATH = ("Γ 0 0 0, X 1 0 0", "X 1 1 0, K 0.75 0.75 0, Γ 0 0 0, L 0.5 0.5 0.5")
_BCC_PATH = ("Γ 0 0 0, H 1 0 0, N 0.5 0.5 0, Γ 0 0 0, P 0.5 0.5 0.5",)
_CUBE_PATH = ("Γ 0 0 0, X 0.5 0 0, M 0.5 0.5 0, Γ 0 0 0, R 0.5 0.5 0.5",)
# ... or of the reciprocal vectors.
_HEXAGON_PATH = ("Γ 0 0 0, M 0.5 0 0, K 0.333333333333 0.333333333333 0, Γ 0 0 0, A 0 0 0.5",)
_TETRAGON_PATH = ("Γ 0 0 0, X 0.5 0 0, M 0.5 0.5 0, Γ 0 0 0, Z 0 0 0.5",)


@dataclass(frozen=True)
class Structure:
    """A structure type: cell in units of a, sites in fractions of it, which of the elements is on which site."""

    vectors: tuple[tuple[float, float, float], ...]
    sites: tuple[tuple[float, float, float], ...]
    kinds: tuple[int, ...]
    path: tuple[str, ...]
    system: str = "cubic"  # or hexagonal, tetragonal: which elastic constants are independent
    conventional: bool = True  # the path's points are in 2π/a along the axes
    compact: bool = False  # a close packing of metals, whose volume is about the sum of the elements'


_ORIGIN = (0.0, 0.0, 0.0)
_HALF, _QUARTER = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
STRUCTURES = {
    "fcc": Structure(_FCC, (_ORIGIN,), (0,), _FCC_PATH, compact=True),
    "bcc": Structure(_BCC, (_ORIGIN,), (0,), _BCC_PATH, compact=True),
    "hcp": Structure(_HEXAGON, (_ORIGIN, (1 / 3, 2 / 3, 0.5)), (0, 0), _HEXAGON_PATH, "hexagonal", False, True),
    "diamond": Structure(_FCC, (_ORIGIN, _QUARTER), (0, 0), _FCC_PATH),
    "rocksalt": Structure(_FCC, (_ORIGIN, _HALF), (0, 1), _FCC_PATH),
    "zincblende": Structure(_FCC, (_ORIGIN, _QUARTER), (0, 1), _FCC_PATH),
    "cscl": Structure(_CUBE, (_ORIGIN, _HALF), (0, 1), _CUBE_PATH, compact=True),
    "L12": Structure(_CUBE, (_ORIGIN, (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)), (0, 1, 1, 1), _CUBE_PATH, compact=True),
    "L10": Structure(_TETRAGON, (_ORIGIN, _HALF), (0, 1), _TETRAGON_PATH, "tetragonal", False, True),
}  # fmt: skip

# Å: the structure in which an element crystallises (at low temperature, for the metals that transform).
_ELEMENTS = {
    "fcc": {"Cu": 3.61, "Ag": 4.09, "Au": 4.08, "Ni": 3.52, "Al": 4.05, "Pd": 3.89, "Pt": 3.92, "Ir": 3.84, "Rh": 3.80,
            "Pb": 4.95, "Ca": 5.58, "Sr": 6.08, "Ne": 4.46, "Ar": 5.31, "Kr": 5.64, "Xe": 6.13},
    "bcc": {"Li": 3.49, "Na": 4.23, "K": 5.23, "Rb": 5.59, "Cs": 6.05, "Ba": 5.02, "V": 3.03, "Nb": 3.30, "Ta": 3.30,
            "Cr": 2.88, "Mo": 3.15, "W": 3.16, "Fe": 2.87},
    "hcp": {"Be": 2.27, "Mg": 3.21, "Sc": 3.31, "Y": 3.65, "Ti": 2.95, "Zr": 3.23, "Hf": 3.19, "Re": 2.76, "Ru": 2.71,
            "Os": 2.74, "Co": 2.51, "Zn": 2.66, "Cd": 2.98},
    "diamond": {"C": 3.567, "Si": 5.43, "Ge": 5.66, "Sn": 6.49},
}  # fmt: skip
_COMPOUNDS = {
    "rocksalt": {"LiF": 4.02, "LiCl": 5.13, "NaF": 4.62, "NaCl": 5.64, "KCl": 6.29, "KBr": 6.60, "MgO": 4.21,
                 "CaO": 4.81, "NiO": 4.18, "TiC": 4.33, "TiN": 4.24, "PbTe": 6.46},
    "zincblende": {"SiC": 4.35, "BN": 3.62, "BP": 4.54, "AlP": 5.45, "AlAs": 5.66, "GaP": 5.45, "GaAs": 5.65,
                   "InP": 5.87, "InAs": 6.04, "InSb": 6.48, "ZnS": 5.41, "ZnSe": 5.65, "ZnTe": 6.09, "CdTe": 6.46},
    "cscl": {"CsCl": 4.12, "CsBr": 4.29, "NiAl": 2.88, "CoAl": 2.86, "FeAl": 2.89, "CuZn": 2.94, "NiTi": 3.01},
}  # fmt: skip


@dataclass(frozen=True)
class Crystal:
    """A named crystal to start relaxing from.

    Attributes:
        frame: one frame, the primitive cell.
        system: cubic, hexagonal or tetragonal.
        path: segments of (label, wave vector in units of the reciprocal vectors of the cell).
    """

    name: str
    frame: Frames
    system: str
    path: tuple[tuple[tuple[str, np.ndarray], ...], ...]


def crystal(name: str) -> Crystal:
    """The crystal of a name: formula, structure and, where it is not known or another is wanted, lattice constant in Å.

    ``Cu-fcc``, ``Cu3Au-L12``, ``MgO-rocksalt-4.21``. Without a constant, that of the element or compound is taken; for
    a close packing of metals one that keeps the volumes that the elements have by themselves (Zen's law).

    Raises:
        UserError: for a name that is not like this, a formula that does not fit the structure, or no known constant.
    """
    match = re.fullmatch(r"([A-Za-z0-9]+)-([A-Za-z0-9]+)(?:-(\d+(?:\.\d*)?))?", name)
    if not match or match[2] not in STRUCTURES:
        raise UserError(
            f"the crystal {name!r} is not a name such as Cu-fcc, Cu3Au-L12 or MgO-rocksalt-4.21; the structures are "
            f"{', '.join(STRUCTURES)}"
        )
    formula, kind = match[1], match[2]
    structure = STRUCTURES[kind]
    counts = _formula(formula, name)
    wanted = Counter(structure.kinds)
    # L12 has one element on the corners and another on the three faces, whatever the order they are written in.
    order = sorted(counts, key=lambda s: counts[s]) if len(set(wanted.values())) > 1 else list(counts)
    if len(order) != len(wanted) or not _same_ratio([counts[s] for s in order], [wanted[k] for k in sorted(wanted)]):
        ratio = ":".join(str(wanted[k]) for k in sorted(wanted))
        raise UserError(f"the crystal {name!r}: the structure {kind} has elements in the ratio {ratio}")
    a = float(match[3]) if match[3] else _constant(formula, order, kind, name)
    if a <= 0:
        raise UserError(f"the crystal {name!r}: the lattice constant must be positive")
    cell = a * np.array(structure.vectors)
    numbers = atomic_numbers([order[k] for k in structure.kinds], f"crystal {name}")
    frame = Frames(
        np.array(structure.sites) @ cell, numbers, cell[None], np.ones((1, 3), bool), np.array([len(numbers)]),
        groups=(name,),
    )  # fmt: skip
    to_reciprocal = np.array(structure.vectors) if structure.conventional else np.eye(3)
    path = tuple(
        tuple((p.split()[0], to_reciprocal @ np.array(p.split()[1:], float)) for p in segment.split(", "))
        for segment in structure.path
    )
    return Crystal(name, frame, structure.system, path)


def find_crystals(frames: Frames, most: int = 6) -> tuple[str, ...]:
    """Names of the crystals that training data call for: known ones whose composition periodic frames of theirs have.

    Elements in the structure they crystallise in, compounds of the table, and of two face-centred metals L12 (3:1) and
    L10 (1:1). A potential that saw copper only as an impurity is not asked about copper.

    Args:
        most: the commonest compositions first.
    """
    periodic = frames[np.flatnonzero(frames.pbc.all(1))]
    seen: Counter[tuple[tuple[str, int], ...]] = Counter()
    for i in range(len(periodic)):
        numbers, counts = np.unique(periodic.species[periodic.offsets[i] : periodic.offsets[i + 1]], return_counts=True)
        divisor = gcd(*map(int, counts))
        seen[tuple((SYMBOLS[z], int(c) // divisor) for z, c in zip(numbers, counts, strict=True))] += 1
    found: list[str] = []
    for composition, _ in sorted(seen.items(), key=lambda item: (len(item[0]), -item[1], item[0])):
        found += _known(dict(composition))
    return tuple(found[:most])


def choose_crystals(names: Sequence[str], frames: Frames) -> tuple[str, ...]:
    """``evaluate.crystals`` with ``auto`` replaced by what :func:`find_crystals` finds; each once.

    Raises:
        UserError: for a name that is no crystal, so that a long training does not end in one.
    """
    chosen = dict.fromkeys(n for name in names for n in (find_crystals(frames) if name == "auto" else (name,)))
    for name in chosen:
        crystal(name)
    return tuple(chosen)


def _known(composition: dict[str, int]) -> list[str]:
    if len(composition) == 1:
        symbol = next(iter(composition))
        return [f"{symbol}-{kind}" for kind, table in _ELEMENTS.items() if symbol in table]
    if len(composition) != 2:
        return []
    (a, m), (b, n) = composition.items()
    names = []
    if {m, n} == {1}:
        names = [f"{f}-{kind}" for kind, table in _COMPOUNDS.items() for f in (a + b, b + a) if f in table]
    if a in _ELEMENTS["fcc"] and b in _ELEMENTS["fcc"] and not names:
        if {m, n} == {1}:
            names = [f"{a}{b}-L10"]
        elif {m, n} == {1, 3}:
            names = [f"{a}3{b}-L12" if m == 3 else f"{a}{b}3-L12"]
    return names


def _formula(text: str, name: str) -> dict[str, int]:
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", text)
    if "".join(s + n for s, n in parts) != text:
        raise UserError(f"the crystal {name!r}: {text!r} is not a formula such as Cu or Cu3Au")
    counts: dict[str, int] = {}
    for symbol, number in parts:
        counts[symbol] = counts.get(symbol, 0) + int(number or 1)
    return counts


def _same_ratio(counts: Sequence[int], wanted: Sequence[int]) -> bool:
    return all(counts[0] * w == c * wanted[0] for c, w in zip(counts, wanted, strict=True))


def _constant(formula: str, order: list[str], kind: str, name: str) -> float:
    """Å."""
    known = (_ELEMENTS.get(kind) or {}) | (_COMPOUNDS.get(kind) or {})
    for spelled in (formula, "".join(reversed(order)), "".join(order)):
        if spelled in known:
            return known[spelled]
    structure = STRUCTURES[kind]
    volumes = {s: _volume(s) for s in order}
    if not structure.compact or any(v is None for v in volumes.values()):
        raise UserError(f"the lattice constant of {name!r} is not known here; give it in Å: {name}-4.2")
    total = sum(volumes[order[k]] or 0.0 for k in structure.kinds)
    return float(np.cbrt(total / abs(np.linalg.det(np.array(structure.vectors)))))


def _volume(symbol: str) -> float | None:
    """Å³ an atom of a metal in its own crystal; None for what is none or unknown."""
    for kind in ("fcc", "bcc", "hcp"):
        if (a := _ELEMENTS[kind].get(symbol)) is not None:
            structure = STRUCTURES[kind]
            return a**3 * float(abs(np.linalg.det(np.array(structure.vectors)))) / len(structure.sites)
    return None
