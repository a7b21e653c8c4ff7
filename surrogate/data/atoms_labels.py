"""What a file calls energy, forces and stress, in which units and with which sign; and the one way from there to ``Frames``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
import difflib
from typing import Any

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_checks import check_frames
from surrogate.data.atoms_units import (
    CONVENTIONS,
    VOIGT,
    Convention,
    VoigtOrder,
    energy_factor,
    force_factor,
    length_factor,
    property_factor,
    stress_factor,
    to_tension,
)


@dataclass(frozen=True)
class AtomsUnits:
    """Units of the files; ``None`` is what the format says of itself, else Å and eV.

    Attributes:
        length: ``angstrom``, ``Bohr``, ``nm``.
        energy: ``eV``, ``Hartree``, ``Rydberg``, ``kcal/mol``, ``kJ/mol``.
        forces: by default energy over length.
        stress: ``eV/angstrom^3``, ``GPa``, ``kbar``, ``Hartree/Bohr^3``; of a virial an energy. By default
            energy over length³.
    """

    length: str | None = None
    energy: str | None = None
    forces: str | None = None
    stress: str | None = None

    def __post_init__(self) -> None:
        for name, check in (("length", length_factor), ("energy", energy_factor), ("forces", force_factor)):
            if (unit := getattr(self, name)) is not None:
                check(unit, f"units.{name}")


@dataclass(frozen=True)
class Labels:
    """What is read of a frame besides its atoms. What is named must be there; ``None`` leaves it out.

    In formats with names of their own (ABINIT, AMBER, DeePMD, ASE's databases, ragged NetCDF) ``energy``, ``forces``
    and ``stress`` stand for theirs; in extended XYZ and ``.npz`` the name is taken to the letter.

    Attributes:
        energy, forces, stress: names in the file.
        properties: names of further scalars of a frame.
        property_units: units of those; energies become eV, lengths Å, all others stay.
        units: units of the files.
        stress_convention: ``tension`` (positive under tension: ASE, ABINIT), ``compression`` (VASP's kB) or ``virial``
            (−V·stress, an energy: DeePMD). Must be said where the format does not.
        stress_order: order of six components. Must be said where the format does not.
        species: elements, for files that hold none: a formula in the order of the atoms (``"O64 H128"``,
            ``"C6 (OH2)464"``), or an AMBER topology, an XYZ file (AMBER); the elements of types 0, 1, … (DeePMD).
    """

    energy: str | None = "energy"
    forces: str | None = "forces"
    stress: str | None = None
    properties: tuple[str, ...] = ()
    property_units: dict[str, str] = field(default_factory=dict)
    units: AtomsUnits = AtomsUnits()
    stress_convention: Convention | None = None
    stress_order: VoigtOrder | None = None
    species: str | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.property_units) - set(self.properties):
            raise ValueError(f"property_units has {', '.join(sorted(unknown))}, which properties has not")
        for name, unit in self.property_units.items():
            try:
                property_factor(unit)
            except UserError as error:
                raise ValueError(f"property_units.{name}: {error}") from None
        if self.units.stress is not None:
            try:
                stress_factor(self.units.stress, "units.stress")
            except UserError:
                if self.stress_convention in ("tension", "compression"):
                    raise
                energy_factor(self.units.stress, "units.stress")  # of a virial, which the format may say it is
        if self.stress is None and (self.stress_convention or self.stress_order or self.units.stress):
            raise ValueError("stress is null, so its convention, order and units mean nothing; name the stress too")


@dataclass(frozen=True)
class Native:
    """What a format or file says of itself; ``None`` where it says nothing."""

    length: str | None = None
    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    convention: str | None = None
    order: str | None = None
    property_units: dict[str, str] = field(default_factory=dict)


@dataclass
class Raw:
    """Arrays as stored, with the shapes of :class:`Frames`; ``stress`` is (n, 6) or (n, 9), NaN where a frame has none.

    ``names`` says what each label is called in the file.
    """

    positions: np.ndarray
    species: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    row_size: np.ndarray
    energy: np.ndarray | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    properties: dict[str, np.ndarray] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ("",)
    group: np.ndarray | None = None
    frame: np.ndarray | None = None


def missing(place: str, kind: str, key: str, there: Iterable[str]) -> UserError:
    """The error for a label that was named and is not there, with what is."""
    names = list(dict.fromkeys(there))
    close = difflib.get_close_matches(key, names, 1, 0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listing = ", ".join(names[:20]) or "nothing of the kind"
    what = "property" if kind == "properties" else kind
    leave = f"data.{kind}=null leaves it out" if kind != "properties" else "take it from data.properties"
    return UserError(f"{place} has no {what} {key!r}; {hint}it has {listing} ({leave})")


def assemble(raw: Raw, labels: Labels, native: Native) -> Frames:
    """Convert to eV, Å, eV/Å and eV/Å³ under tension, note what was converted, and check.

    Raises:
        UserError: for units or signs that are stated twice and differ, or not at all where they must be, and for what
            :func:`surrogate.data.atoms_checks.check_frames` refuses.
    """
    where = raw.groups[0]
    notes: dict[str, str] = {}

    def choose(kind: str, factor_of: Any, default: str) -> tuple[str, float]:
        stated, own = getattr(labels.units, kind), getattr(native, kind)
        unit = stated or own or default
        factor = factor_of(unit, f"{where}: units of {kind}")
        if stated and own and not np.isclose(factor, factor_of(own, where), rtol=1e-5):
            raise UserError(f"{where}: its {kind} is in {own}, data.units.{kind} says {stated}")
        return unit, factor

    length_unit, length = choose("length", length_factor, "angstrom")
    energy_unit, energy = choose("energy", energy_factor, "eV")
    cell = np.asarray(raw.cell, np.float64) * length
    pbc = np.asarray(raw.pbc, bool)
    arrays: dict[str, Any] = {}
    if raw.energy is not None:
        arrays["energy"] = np.asarray(raw.energy, np.float64) * energy
        notes["energy"] = f"{raw.names.get('energy', 'energy')} [{energy_unit}]"
    if raw.forces is not None:
        unit, factor = choose("forces", force_factor, f"{energy_unit}/{length_unit}")
        arrays["forces"] = np.asarray(raw.forces, np.float64) * factor
        notes["forces"] = f"{raw.names.get('forces', 'forces')} [{unit}]"
    if raw.stress is not None:
        arrays["stress"], notes["stress"] = _stress(raw, labels, native, choose, energy_unit, length_unit, cell, pbc)
    arrays |= {k: v for k, v in (("group", raw.group), ("frame", raw.frame)) if v is not None}
    properties, units = {}, {}
    for name, values in raw.properties.items():
        unit = labels.property_units.get(name) or native.property_units.get(name) or "1"
        factor, units[name] = property_factor(unit)
        properties[name] = np.asarray(values, np.float64) * factor
        notes[name] = f"{name} [{unit}]"
    return check_frames(
        Frames(
            np.asarray(raw.positions, np.float64) * length, raw.species, cell, pbc, raw.row_size,
            properties=properties, property_units=units, groups=raw.groups, labels=notes, **arrays,
        )
    )  # fmt: skip


def _stress(raw, labels, native, choose, energy_unit, length_unit, cell, pbc) -> tuple[np.ndarray, str]:
    where = raw.groups[0]
    name = raw.names.get("stress", "stress")
    convention = _stated(where, name, "convention", labels.stress_convention, native.convention, CONVENTIONS)
    values = np.asarray(raw.stress, np.float64).reshape(len(raw.row_size), -1)
    order = VOIGT
    if values.shape[1] == 6:
        orders = dict.fromkeys((VOIGT, "xx,yy,zz,xy,yz,xz"), "")
        order = _stated(where, name, "order", labels.stress_order, native.order, orders)
    if convention == "virial":
        unit, factor = choose("stress", energy_factor, energy_unit)
    else:
        unit, factor = choose("stress", stress_factor, f"{energy_unit}/{length_unit}^3")

    def place(i: int) -> str:
        group = 0 if raw.group is None else int(raw.group[i])
        return f"{raw.groups[group]} frame {i if raw.frame is None else int(raw.frame[i])}"

    volume = np.abs(np.linalg.det(cell))
    periodic = pbc.any(1)
    flat = periodic & (volume < 1e-6)
    if flat.any():
        raise UserError(f"{place(int(np.argmax(flat)))}: the cell has no volume: {cell[int(np.argmax(flat))].tolist()}")
    full = to_tension(values, np.where(periodic, volume, 1.0), convention, order, factor, place)
    # What repeats in no direction has no stress, whatever a code prints for its box.
    full[~periodic] = np.nan
    shape = f", order {order}" if values.shape[1] == 6 else ""
    return full, f"{name} [{unit}], {CONVENTIONS[convention]}{shape}"


def _stated(where: str, name: str, what: str, stated: str | None, own: str | None, known: dict[str, str]) -> str:
    """What the settings or the file say, refused when they say nothing or differ."""
    if stated and own and stated != own:
        raise UserError(f"{where}: the {what} of {name!r} is {own}, data.stress_{what} says {stated}")
    found = stated or own
    if not found:
        choices = "; ".join(f"{key} ({text})" if text else key for key, text in known.items())
        raise UserError(f"{where}: say which {what} {name!r} has, data.stress_{what}= {choices}")
    return found
