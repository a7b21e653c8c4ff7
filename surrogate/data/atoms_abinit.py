"""ABINIT's NetCDF: ``*_HIST.nc`` (a relaxation or dynamics) and ``*_GSR.nc`` (one ground state).

Hartree and Bohr. ``strten`` and ``cartesian_stress_tensor`` are (1/V) ∂E/∂ε in Hartree/Bohr³, positive under
tension (ABINIT's printed pressure is minus a third of the trace), in the order xx, yy, zz, yz, xz, xy.
``etotal`` includes −TS of the smearing, and is the energy of which the forces are derivatives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_labels import Labels, Native, Raw, assemble, missing

_STRESS_ORDER = "xx,yy,zz,yz,xz,xy"
_HIST = {"energy": "etotal", "forces": "fcart", "stress": "strten"}
_GSR = {"energy": "etotal", "forces": "cartesian_forces", "stress": "cartesian_stress_tensor"}


def is_abinit(dataset: xr.Dataset) -> bool:
    """Whether a file is one of ABINIT's (or of the ETSF format it shares with others)."""
    return {"rprimd", "xred"} <= set(dataset.variables) or "primitive_vectors" in dataset.variables


def read_abinit(path: str, dataset: xr.Dataset, labels: Labels) -> Frames:
    """Every step of a HIST file, or the one structure of a GSR file.

    Raises:
        UserError: for other files of ABINIT, which hold no energy with forces (phonons, wave functions), several
            images or mixed atoms, labels that were named and are not there, and what the checks refuse.
    """
    if {"rprimd", "xred", "typat", "znucl"} <= set(dataset.variables):
        return _read_hist(path, dataset, labels)
    if {"primitive_vectors", "etotal", "cartesian_forces"} <= set(dataset.variables):
        return _read_gsr(path, dataset, labels)
    kind = next((text for name, text in _KINDS.items() if name in dataset.variables), "no forces")
    raise UserError(
        f"{path}: an ABINIT file with {kind} and a structure, but not energy and forces; "
        "those are in *_HIST.nc and *_GSR.nc"
    )


_KINDS = {
    "gruns_gvals_qibz": "Grüneisen parameters",
    "phfreqs": "phonon frequencies",
    "coefficients_of_wavefunctions": "wave functions",
    "eigenvalues": "electron bands",
}


def _values(dataset: xr.Dataset, name: str) -> np.ndarray:
    return np.asarray(dataset[name].values, np.float64)


def _read_hist(path: str, dataset: xr.Dataset, labels: Labels) -> Frames:
    if any(dataset.sizes.get(dim, 1) > 1 for dim in ("nimage", "nimages", "imgtime")):
        raise UserError(f"{path}: holds several images (path integrals, elastic bands); only one image is read")
    species = _species(path, _values(dataset, "znucl"), _values(dataset, "typat"), dataset.sizes.get("ntypat"))
    cell = _values(dataset, "rprimd").reshape(-1, 3, 3)
    num, num_atoms = len(cell), len(species)
    positions = _shaped(path, dataset, "xred", (num, num_atoms, 3)) @ cell
    if "xcart" in dataset.variables:
        # Both are there: that they agree shows that cell vectors are the rows of rprimd, and that none is damaged.
        apart = np.abs(_shaped(path, dataset, "xcart", (num, num_atoms, 3)) - positions).max((1, 2))
        if (apart > 1e-4).any():
            i = int(np.argmax(apart > 1e-4))
            raise UserError(f"{path} frame {i}: xcart and xred times rprimd differ by {apart[i]:.3g} Bohr")
    found, names, units = _labels(path, dataset, labels, _HIST, (num,), num_atoms)
    raw = Raw(
        positions.reshape(-1, 3), np.tile(species, num), cell, np.ones((num, 3), bool), np.full(num, num_atoms),
        found.get("energy"), found.get("forces"), found.get("stress"), _properties(path, dataset, labels, num),
        names, (path,),
    )  # fmt: skip
    return assemble(raw, labels, units)


def _read_gsr(path: str, dataset: xr.Dataset, labels: Labels) -> Frames:
    cell = _values(dataset, "primitive_vectors")
    reduced = _values(dataset, "reduced_atom_positions")
    species = _species(path, _values(dataset, "atomic_numbers"), _values(dataset, "atom_species"), None)
    found, names, units = _labels(path, dataset, labels, _GSR, (1,), len(species))
    raw = Raw(
        reduced @ cell, species, cell[None], np.ones((1, 3), bool), np.array([len(species)]),
        found.get("energy"), found.get("forces"), found.get("stress"), _properties(path, dataset, labels, 1),
        names, (path,),
    )  # fmt: skip
    return assemble(raw, labels, units)


def _species(path: str, charges: np.ndarray, types: np.ndarray, num_types: int | None) -> np.ndarray:
    """Atomic numbers; ``types`` count from 1. The charge of a pseudopotential's nucleus is that of its element."""
    if num_types is not None and num_types != len(charges):
        raise UserError(f"{path}: mixes {len(charges)} pseudopotentials into {num_types} types of atoms (alchemical)")
    if types.min() < 1 or types.max() > len(charges):
        raise UserError(f"{path}: types of atoms from {types.min():g} to {types.max():g}, {len(charges)} are there")
    numbers = charges[types.astype(np.int64) - 1]
    if (numbers != numbers.round()).any():
        raise UserError(f"{path}: fractional nuclear charge {numbers[numbers != numbers.round()][0]:g}")
    return numbers.astype(np.int32)


def _shaped(path: str, dataset: xr.Dataset, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = _values(dataset, name)
    if values.size != np.prod(shape):
        raise UserError(f"{path}: {name} has the shape {values.shape}, expected {shape}")
    return values.reshape(shape)


def _labels(
    path: str, dataset: xr.Dataset, labels: Labels, own: dict[str, str], frames: tuple[int, ...], num_atoms: int
) -> tuple[dict[str, np.ndarray], dict[str, str], Native]:
    """Arrays by kind, their names in the file, and units: as the file says, else what ABINIT documents."""
    shapes = {"energy": frames, "forces": (frames[0] * num_atoms, 3), "stress": (frames[0], 6)}
    found: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    units: dict[str, Any] = {"length": "bohr", "energy": "Ha", "forces": "Ha/bohr", "stress": "Ha/bohr^3"}
    for kind, shape in shapes.items():
        key = getattr(labels, kind)
        if key is None:
            continue
        name = own[kind] if key == kind else key
        if name not in dataset.variables:
            raise missing(path, kind, name, [n for n in own.values() if n in dataset.variables])
        found[kind], names[kind] = _shaped(path, dataset, name, shape), name
        units[kind] = str(dataset[name].attrs.get("units") or units[kind])
    return found, names, Native(**units, convention="tension", order=_STRESS_ORDER)


def _properties(path: str, dataset: xr.Dataset, labels: Labels, num: int) -> dict[str, np.ndarray]:
    for name in labels.properties:
        if name not in dataset.variables:
            raise missing(path, "properties", name, [str(n) for n, v in dataset.variables.items() if v.size == num])
    return {name: _shaped(path, dataset, name, (num,)) for name in labels.properties}
