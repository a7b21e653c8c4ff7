"""AMBER NetCDF trajectories: coordinates, cell and, where they were written, forces; no elements and no energies.

    AMBER NetCDF Trajectory/Restart Convention 1.0, http://ambermd.org/netcdf/nctraj.xhtml

Å, degrees, kcal/mol/Å; a variable may carry a ``scale_factor``. The elements come from a topology.
"""

from __future__ import annotations

from pathlib import Path
import re

import numpy as np
import xarray as xr

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_labels import Labels, Native, Raw, assemble, missing
from surrogate.data.elements import parse_formula

_UNITS = {"coordinates": "angstrom", "forces": "kilocalorie/mole/angstrom", "cell_lengths": "angstrom"}


def is_amber(dataset: xr.Dataset) -> bool:
    """Whether a file says that it follows AMBER's conventions."""
    conventions = re.split(r"[,\s]+", str(dataset.attrs.get("Conventions", "")))
    return bool({"AMBER", "AMBERRESTART"} & set(conventions))


def read_amber(path: str, dataset: xr.Dataset, labels: Labels) -> Frames:
    """Every frame of a trajectory, or the one of a restart file.

    Raises:
        UserError: without elements (``data.species``), without the forces that were named, for an energy or a stress,
            which the format does not have, for units that are not the convention's, and for what the checks refuse.
    """
    if "coordinates" not in dataset.variables:
        raise UserError(f"{path}: an AMBER file without coordinates")
    for kind in ("energy", "stress"):
        if getattr(labels, kind) is not None:
            raise UserError(f"{path}: AMBER's NetCDF holds no {kind}; set data.{kind}=null to read the forces alone")
    if labels.properties:
        raise missing(path, "properties", labels.properties[0], [])
    positions = _read(path, dataset, "coordinates")
    num, num_atoms = positions.shape[:2]
    forces = None
    if labels.forces is not None:
        if labels.forces not in dataset.variables:
            raise missing(path, "forces", labels.forces, [n for n in ("coordinates", "velocities") if n in dataset])
        forces = _read(path, dataset, labels.forces).reshape(-1, 3)
    cell, periodic = _cells(path, dataset, num)
    species = _species(path, labels.species, num_atoms)
    raw = Raw(
        positions.reshape(-1, 3), np.tile(species, num), cell, np.full((num, 3), periodic), np.full(num, num_atoms),
        forces=forces, names={"forces": labels.forces or ""}, groups=(path,),
    )  # fmt: skip
    unit = str(dataset[labels.forces].attrs.get("units") or _UNITS["forces"]) if labels.forces else None
    length = str(dataset["coordinates"].attrs.get("units") or _UNITS["coordinates"])
    return assemble(raw, labels, Native(length=length, forces=unit))


def _read(path: str, dataset: xr.Dataset, name: str) -> np.ndarray:
    """(frames, atoms, 3) float64 with the scale factor applied; a restart file has no frames and gets one."""
    array = dataset[name]
    values = np.asarray(array.values, np.float64) * float(array.attrs.get("scale_factor", 1.0))
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or values.shape[2] != 3:
        raise UserError(f"{path}: {name} has the shape {values.shape}, expected frames × atoms × 3")
    # The C library fills what was never written; both its fill values are far beyond any coordinate.
    if (np.abs(values) > 9e36).any():
        i = int(np.argmax((np.abs(values) > 9e36).any((1, 2))))
        raise UserError(f"{path} frame {i}: {name} was never written (fill values)")
    return values


def _cells(path: str, dataset: xr.Dataset, num: int) -> tuple[np.ndarray, bool]:
    """(n, 3, 3) rows from lengths and angles: a along x, b in the plane of x and y, as AMBER places its boxes."""
    if "cell_lengths" not in dataset.variables:
        return np.zeros((num, 3, 3)), False
    if "cell_angles" not in dataset.variables:
        raise UserError(f"{path}: has cell_lengths, but no cell_angles")
    lengths, angles = (
        np.asarray(dataset[name].values, np.float64).reshape(num, 3) * float(dataset[name].attrs.get("scale_factor", 1))
        for name in ("cell_lengths", "cell_angles")
    )
    if not lengths.any():
        return np.zeros((num, 3, 3)), False  # how some programs write a box that there is not
    unit = str(dataset["cell_angles"].attrs.get("units", "degree")).lower()
    if unit.startswith("radian"):
        angles = np.degrees(angles)
    elif not unit.startswith("degree"):
        raise UserError(f"{path}: cell_angles is in {unit!r}, expected degree")
    return cells_from_lengths_and_angles(lengths, angles), True


def cells_from_lengths_and_angles(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """(n, 3) edges and (n, 3) angles α (b,c), β (a,c), γ (a,b) in degrees → (n, 3, 3) row vectors."""
    # Exactly 90° must give exact zeros.
    cos = np.where(angles == 90.0, 0.0, np.cos(np.radians(angles)))
    sin_gamma = np.where(angles[:, 2] == 90.0, 1.0, np.sin(np.radians(angles[:, 2])))
    a, b, c = lengths.T
    cell = np.zeros((len(lengths), 3, 3))
    cell[:, 0, 0] = a
    cell[:, 1, 0], cell[:, 1, 1] = b * cos[:, 2], b * sin_gamma
    across = (cos[:, 0] - cos[:, 1] * cos[:, 2]) / sin_gamma
    cell[:, 2, 0], cell[:, 2, 1] = c * cos[:, 1], c * across
    # Clipped where the angles make no cell: the volume is then zero, and refused as that.
    cell[:, 2, 2] = c * np.sqrt(np.clip(1 - cos[:, 1] ** 2 - across**2, 0, None))
    return cell


def _species(path: str, species: str | None, num_atoms: int) -> np.ndarray:
    if not species:
        raise UserError(
            f"{path}: AMBER's NetCDF holds no elements; name the topology (.prmtop, .parm7), an .xyz file or a formula in "
            "the order of the atoms in data.species"
        )
    suffix = Path(species).suffix.lower()
    if suffix in (".xyz", ".extxyz"):
        from surrogate.data.atoms_extxyz import species_of_xyz

        numbers = species_of_xyz(species)
    elif suffix in (".prmtop", ".parm7", ".top", ".parm"):
        numbers = _species_of_topology(species)
    else:
        numbers = parse_formula(species, "data.species")
    if len(numbers) != num_atoms:
        raise UserError(f"{path}: has {num_atoms} atoms, data.species={species} has {len(numbers)}")
    return numbers


def _species_of_topology(path: str) -> np.ndarray:
    """ATOMIC_NUMBER of an AMBER topology: ``%FLAG``, ``%FORMAT(10I8)``, and numbers eight columns wide."""
    try:
        text = Path(path).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    found = re.search(r"%FLAG ATOMIC_NUMBER\s*\n(?:%COMMENT.*\n)*%FORMAT\(\d+I(\d+)\)\s*\n([^%]*)", text)
    if not found:
        raise UserError(f"{path}: has no ATOMIC_NUMBER section (topologies of AMBER 12 and later have)")
    width = int(found[1])
    words = [line[i : i + width] for line in found[2].splitlines() for i in range(0, len(line.rstrip()), width)]
    return np.array([int(w) for w in words], np.int32)
