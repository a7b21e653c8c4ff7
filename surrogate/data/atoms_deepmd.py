"""DeePMD systems: a directory with ``type.raw`` and numpy arrays in ``set.*``.

    https://docs.deepmodeling.com/projects/deepmd, "Formats of a system"

Energies eV, lengths Å, forces eV/Å. ``virial.npy`` is −V·σ in eV: positive when the box is compressed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_labels import Labels, Native, Raw, assemble, missing
from surrogate.data.elements import atomic_numbers, parse_formula

_NATIVE = Native("angstrom", "eV", "eV/angstrom", "eV", "virial")
# The settings' words and the format's own name the same file.
_FILES = {"energy": "energy", "forces": "force", "force": "force", "stress": "virial", "virial": "virial"}


def is_system(path: str | os.PathLike[str]) -> bool:
    """Whether a directory is a DeePMD system."""
    return (Path(path) / "type.raw").is_file()


def read_deepmd(path: str | os.PathLike[str], labels: Labels | None = None) -> Frames:
    """All sets of one system, one group each (``data_1/set.001``).

    Systems of one composition, and those in the mixed format (``real_atom_types.npy``, −1 fills up) are read.

    Raises:
        UserError: for what is no such system, arrays that disagree in size, a label that was named and is in no
            set, and what the checks refuse.
    """
    labels = labels or Labels()
    root = Path(path)
    if not is_system(root):
        raise UserError(f"{path}: is no DeePMD system: it has no type.raw")
    sets = sorted(p for p in root.glob("set.*") if p.is_dir())
    if not sets:
        raise UserError(f"{path}: has no directory set.000")
    species = _species(root, labels)
    periodic = not (root / "nopbc").is_file()
    parts = [_read_set(directory, root, species, periodic, labels) for directory in sets]
    return Frames.concat(parts)


def _species(root: Path, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Types of the atoms (A,), and atomic numbers of the types."""
    try:
        types = np.array((root / "type.raw").read_text().split(), np.int64)
    except (ValueError, OSError) as error:
        raise UserError(f"{root / 'type.raw'}: is not a list of whole numbers ({error})") from None
    names = root / "type_map.raw"
    if names.is_file():
        elements = atomic_numbers(names.read_text().split(), str(names))
    elif labels.species:
        elements = parse_formula(labels.species, "data.species")
    else:
        raise UserError(
            f"{root}: has no type_map.raw, so its elements are unknown; name them in data.species, as 'O H'"
        )
    if len(types) and (types.min() < 0 or types.max() >= len(elements)):
        raise UserError(f"{root / 'type.raw'}: types go to {types.max()}, {len(elements)} elements are named")
    return types, elements


def _read_set(
    directory: Path, root: Path, species: tuple[np.ndarray, np.ndarray], periodic: bool, labels: Labels
) -> Frames:
    types, elements = species
    num_atoms = len(types)
    there = sorted(p.stem for p in directory.glob("*.npy"))
    positions = _load(directory / "coord.npy", (None, 3 * num_atoms)).reshape(-1, num_atoms, 3)
    num = len(positions)
    cell = np.zeros((num, 3, 3))
    if periodic:
        cell = _load(directory / "box.npy", (num, 9)).reshape(num, 3, 3)
    found: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    for kind, width in (("energy", 1), ("forces", 3 * num_atoms), ("stress", 9)):
        key = getattr(labels, kind)
        if key is None:
            continue
        file = directory / f"{_FILES.get(key, key)}.npy"
        if not file.is_file():
            raise missing(str(directory), kind, key, there)
        found[kind], names[kind] = _load(file, (num, width)), file.name
    if "energy" in found:
        found["energy"] = found["energy"][:, 0]
    properties = {}
    for name in labels.properties:
        if name not in there:
            raise missing(str(directory), "properties", name, there)
        properties[name] = _load(directory / f"{name}.npy", (num, 1))[:, 0]
    forces = found["forces"].reshape(num, num_atoms, 3) if "forces" in found else None
    kinds = np.broadcast_to(types, (num, num_atoms))
    if (directory / "real_atom_types.npy").is_file():
        kinds = _load(directory / "real_atom_types.npy", (num, num_atoms)).astype(np.int64)
    real = kinds >= 0  # −1 fills up to the size of the largest frame
    if kinds.max() >= len(elements):
        raise UserError(f"{directory}: types go to {kinds.max()}, {len(elements)} elements are named")
    group = f"{root}/{directory.name}"
    raw = Raw(
        positions[real], elements[kinds[real]], cell, np.full((num, 3), periodic), real.sum(1),
        found.get("energy"), None if forces is None else forces[real], found.get("stress"), properties, names, (group,),
    )  # fmt: skip
    return assemble(raw, labels, _NATIVE)


def _load(path: Path, shape: tuple[int | None, int]) -> np.ndarray:
    """A numeric array (frames, columns); never a pickle."""
    try:
        values: Any = np.load(path, allow_pickle=False, mmap_mode=None)
    except FileNotFoundError:
        raise UserError(f"{path}: is missing") from None
    except (ValueError, OSError, EOFError, MemoryError) as error:
        raise UserError(f"{path}: is not a numpy array of numbers, or is cut short ({error})") from None
    if values.dtype.kind not in "fiu":
        raise UserError(f"{path}: holds {values.dtype}, not numbers")
    values = values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
    frames, columns = shape
    if values.shape[1] != columns or (frames is not None and len(values) != frames):
        wanted = f"{'frames' if frames is None else frames} × {columns}"
        raise UserError(f"{path}: has the shape {values.shape}, expected {wanted} (atoms as in type.raw)")
    return values
