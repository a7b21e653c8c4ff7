"""Padded arrays in ``.npz``: species (n, A) with zeros that fill up, positions (n, A, 3), and labels by name."""

from __future__ import annotations

import os
import zipfile

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_labels import Labels, Native, Raw, assemble, missing

_SPECIES = ("numbers", "species", "atomic_numbers", "z", "Z", "nuclear_charges")
_POSITIONS = ("positions", "coordinates", "coords", "R")
_CELL = ("cell", "cells", "lattice", "box")


def read_npz(path: str | os.PathLike[str], labels: Labels | None = None) -> Frames:
    """All configurations of a file. Species may be (A,) for a single molecule's trajectory.

    Energy and properties are (n,), forces (n, A, 3), stress (n, 6), (n, 9) or (n, 3, 3). With ``cell`` (n, 3, 3)
    there must be ``pbc`` (n, 3) or (3,); without, nothing repeats.

    Raises:
        UserError: for what is not such a file, arrays that disagree, a label that was named and is not there, and what
            the checks refuse.
    """
    labels = labels or Labels()
    try:
        with np.load(path, allow_pickle=False) as file:
            return _read(str(path), file, labels)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, MemoryError) as error:
        raise UserError(f"{path}: is not a .npz file of numbers, or is damaged ({error})") from None


def _read(path: str, file, labels: Labels) -> Frames:
    names = list(file.files)

    def one_of(choices: tuple[str, ...], kind: str) -> np.ndarray:
        name = next((c for c in choices if c in names), None)
        if name is None:
            raise UserError(f"{path}: has no {kind} ({', '.join(choices)}); it has {', '.join(names)}")
        return file[name]

    positions = np.asarray(one_of(_POSITIONS, "positions"), np.float64)
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise UserError(f"{path}: positions have the shape {positions.shape}, expected frames × atoms × 3")
    num, width = positions.shape[:2]
    species = np.asarray(one_of(_SPECIES, "species"))
    if species.shape not in ((num, width), (width,)):
        raise UserError(f"{path}: species have the shape {species.shape}, positions {positions.shape}")
    species = np.broadcast_to(species.astype(np.int64), (num, width))
    real = species != 0

    def array(kind: str, name: str, *shapes: tuple[int, ...]) -> np.ndarray:
        if name not in names:
            raise missing(path, kind, name, [n for n in names if n not in (*_SPECIES, *_POSITIONS, *_CELL, "pbc")])
        values = file[name]
        if values.dtype.kind not in "fiu" or (values.shape not in shapes and values.shape != (num, 1)):
            wanted = " or ".join(map(str, shapes))
            raise UserError(
                f"{path}: {name!r} is {values.dtype} of the shape {values.shape}, expected numbers {wanted}"
            )
        return values

    cell, pbc = np.zeros((num, 3, 3)), np.zeros((num, 3), bool)
    if name := next((c for c in _CELL if c in names), None):
        cell = np.broadcast_to(file[name], (num, 3, 3))
        if "pbc" not in names:
            raise UserError(f"{path}: has a {name}, but no pbc that says along which vectors it repeats")
        pbc = np.broadcast_to(file["pbc"].astype(bool), (num, 3))
    energy = None if labels.energy is None else array("energy", labels.energy, (num,)).reshape(num)
    forces = None if labels.forces is None else array("forces", labels.forces, (num, width, 3))[real]
    stress = None if labels.stress is None else array("stress", labels.stress, (num, 6), (num, 9), (num, 3, 3))
    properties = {n: array("properties", n, (num,)).reshape(num) for n in labels.properties}
    raw = Raw(
        positions[real], species[real], cell, pbc, real.sum(1), energy, forces, stress, properties,
        {k: getattr(labels, k) for k in ("energy", "forces", "stress") if getattr(labels, k)}, (path,),
    )  # fmt: skip
    return assemble(raw, labels, Native())
