"""Atomic configurations with energies, forces and stresses, of any number of atoms each.

CF's contiguous ragged representation in memory: what belongs to atoms is one long array, frame after frame, and
``row_size`` says how many rows each frame has (https://cfconventions.org, "Contiguous ragged array representation").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.elements import SYMBOLS


@dataclass(frozen=True, eq=False)
class Frames:
    """n configurations of A atoms in all.

    Attributes:
        positions: (A, 3) float64, Å, Cartesian.
        species: (A,) int32, atomic numbers.
        cell: (n, 3, 3) float64, Å, row vectors; zero where there is none.
        pbc: (n, 3) bool: along which cell vectors the configuration repeats.
        row_size: (n,) int64, atoms of each frame; their sum is A.
        energy: (n,) float64, eV, or ``None`` where the data hold none.
        forces: (A, 3) float64, eV/Å, or ``None``.
        stress: (n, 3, 3) float64, symmetric, eV/Å³, σ = (1/V) ∂E/∂ε: positive under tension as in ASE; or ``None``.
            NaN, all nine, for a frame that repeats in no direction: it has no volume and so no stress.
        properties: further scalars of a frame, (n,) float64 each.
        property_units: of each of ``properties``.
        groups: names of what frames come from: a file, a trajectory.
        group: (n,) int32, index into ``groups``.
        frame: (n,) int64, number of the frame within its group's file, from 0.
        labels: per kind (``energy``, ``forces``, ``stress``, a property) what it was in the files: the name there,
            its units, and for the stress its sign and order.
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
    property_units: dict[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ("",)
    group: np.ndarray = None  # type: ignore[assignment]
    frame: np.ndarray = None  # type: ignore[assignment]
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num = len(self.row_size)
        if self.group is None:
            object.__setattr__(self, "group", np.zeros(num, np.int32))
        if self.frame is None:
            object.__setattr__(self, "frame", np.arange(num))
        atoms = int(np.sum(self.row_size))
        for name, dtype, shape in (
            ("positions", np.float64, (atoms, 3)), ("species", np.int32, (atoms,)),
            ("cell", np.float64, (num, 3, 3)), ("pbc", bool, (num, 3)), ("row_size", np.int64, (num,)),
            ("energy", np.float64, (num,)), ("forces", np.float64, (atoms, 3)), ("stress", np.float64, (num, 3, 3)),
            ("group", np.int32, (num,)), ("frame", np.int64, (num,)),
        ):  # fmt: skip
            values = getattr(self, name)
            if values is None:
                continue
            array = np.ascontiguousarray(values, dtype)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
            object.__setattr__(self, name, array)
        if self.stress is not None:
            skew = np.nan_to_num(np.abs(self.stress - self.stress.transpose(0, 2, 1)))
            if (skew > 1e-12 + 1e-9 * np.nan_to_num(np.abs(self.stress))).any():
                raise ValueError("stress is not symmetric")
        properties = {k: np.ascontiguousarray(v, np.float64) for k, v in self.properties.items()}
        for name, values in properties.items():
            if values.shape != (num,):
                raise ValueError(f"property {name} has shape {values.shape}, expected {(num,)}")
        object.__setattr__(self, "properties", properties)
        object.__setattr__(self, "property_units", {k: self.property_units.get(k, "1") for k in properties})
        if num and (self.group.min() < 0 or self.group.max() >= len(self.groups)):
            raise ValueError(f"group goes beyond the {len(self.groups)} names of groups")

    # -- parts ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.row_size)

    @property
    def num_atoms(self) -> int:
        """Atoms of all frames together."""
        return len(self.species)

    @cached_property
    def offsets(self) -> np.ndarray:
        """(n + 1,) int64: frame i has the atoms ``offsets[i]`` to ``offsets[i + 1] - 1``."""
        return np.concatenate([[0], np.cumsum(self.row_size)])

    @property
    def frame_of_atom(self) -> np.ndarray:
        """(A,) int64: the frame that each atom belongs to."""
        return np.repeat(np.arange(len(self)), self.row_size)

    @property
    def volume(self) -> np.ndarray:
        """(n,) Å³, of the cell; NaN for a frame that is not periodic along all three vectors."""
        return np.where(self.pbc.all(1), np.abs(np.linalg.det(self.cell)), np.nan)

    @property
    def has_stress(self) -> np.ndarray:
        """(n,) bool: frames with a stress."""
        if self.stress is None:
            return np.zeros(len(self), bool)
        return np.isfinite(self.stress).all((1, 2))

    def place(self, index: int) -> str:
        """File and number of a frame, for messages: ``"Cu.extxyz frame 3"``."""
        return f"{self.groups[self.group[index]]} frame {self.frame[index]}".strip()

    def __getitem__(self, which: int | slice | Sequence[int] | np.ndarray) -> Frames:
        """Frames by number, slice, index array or mask, as :class:`Frames`; the order given is kept."""
        index = np.arange(len(self))[which]
        index = np.atleast_1d(index)
        rows = _rows(self.offsets, self.row_size, index)
        per_frame: dict[str, Any] = {
            name: None if (values := getattr(self, name)) is None else values[index]
            for name in ("cell", "pbc", "row_size", "energy", "stress", "group", "frame")
        }
        per_atom: dict[str, Any] = {
            name: None if (values := getattr(self, name)) is None else values[rows]
            for name in ("positions", "species", "forces")
        }
        properties = {k: v[index] for k, v in self.properties.items()}
        return replace(self, **per_frame, **per_atom, properties=properties)

    def __iter__(self) -> Iterator[Frames]:
        return (self[i] for i in range(len(self)))

    # -- together ------------------------------------------------------------------------------------

    @staticmethod
    def concat(parts: Sequence[Frames]) -> Frames:
        """One after the other.

        Raises:
            UserError: when one part has a label that another lacks, or in other units: it would silently count for
                nothing there.
        """
        if not parts:
            raise ValueError("nothing to concatenate")
        first = parts[0]
        if len(parts) == 1:
            return first
        for part in parts[1:]:
            _check_same_labels(first, part)
        groups = tuple(dict.fromkeys(name for part in parts for name in part.groups))
        number = {name: i for i, name in enumerate(groups)}
        group = np.concatenate([np.array([number[g] for g in p.groups], np.int32)[p.group] for p in parts])
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(p, name) for p in parts])
            for name in ("positions", "species", "cell", "pbc", "row_size", "energy", "forces", "stress", "frame")
            if getattr(first, name) is not None
        }
        properties = {k: np.concatenate([p.properties[k] for p in parts]) for k in first.properties}
        labels = {
            k: "; ".join(dict.fromkeys(p.labels[k] for p in parts if k in p.labels))
            for k in dict.fromkeys(k for p in parts for k in p.labels)
        }
        return Frames(
            **arrays, properties=properties, property_units=first.property_units, groups=groups, group=group,
            labels=labels,
        )  # fmt: skip

    def stats(self) -> dict[str, Any]:
        """Counts, elements and ranges, as plain numbers for reports and provenance.

        Energies are per atom (eV), ``force_rms`` is over components (eV/Å), pressures are −tr σ / 3 (GPa).
        """
        found: dict[str, Any] = {
            "frames": len(self),
            "atoms": self.num_atoms,
            "groups": len(np.unique(self.group)),
            "periodic_frames": int(self.pbc.all(1).sum()),
        }
        if not len(self):
            return found
        numbers, counts = np.unique(self.species, return_counts=True)
        found["atoms_by_element"] = {SYMBOLS[z]: int(c) for z, c in zip(numbers, counts, strict=True)}
        found["atoms_per_frame"] = [int(self.row_size.min()), int(self.row_size.max())]
        if self.energy is not None:
            per_atom = self.energy / self.row_size
            found["energy_per_atom"] = [float(per_atom.min()), float(per_atom.max())]
        if self.forces is not None:
            found["force_rms"] = float(np.sqrt(np.mean(self.forces**2)))
            found["force_max"] = float(np.sqrt((self.forces**2).sum(1).max()))
        if self.has_stress.any():
            pressure = -np.trace(self.stress[self.has_stress], axis1=1, axis2=2) / 3 * 160.2176634  # type: ignore[index]
            found["pressure_gpa"] = [float(pressure.min()), float(pressure.max())]
        found["labels"] = dict(self.labels)
        return found


def _rows(offsets: np.ndarray, sizes: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Row numbers of the atoms of frames ``index``, in that order."""
    wanted = sizes[index]
    starts = np.repeat(offsets[:-1][index], wanted)
    within = np.arange(int(wanted.sum())) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    return starts + within


def _check_same_labels(a: Frames, b: Frames) -> None:
    for kind in ("energy", "forces", "stress"):
        if (getattr(a, kind) is None) != (getattr(b, kind) is None):
            has, lacks = (a, b) if getattr(b, kind) is None else (b, a)
            raise UserError(
                f"{lacks.groups[0]} has no {kind}, {has.groups[0]} does; read them with settings of their own"
            )
    if a.property_units != b.property_units:
        raise UserError(
            f"{a.groups[0]} has the properties {a.property_units or 'none'}, "
            f"{b.groups[0]} has {b.property_units or 'none'}"
        )
