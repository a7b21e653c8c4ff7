"""ASE's databases (``.db``, ``.json``) and trajectories (``.traj``). ASE is the ``materials`` extra, imported here alone.

Energies eV, forces eV/Å, stress eV/Å³ under tension, in the order xx, yy, zz, yz, xz, xy.
"""

from __future__ import annotations

from collections.abc import Iterator
import os
from typing import Any

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_labels import Labels, Native, Raw, assemble, missing

SUFFIXES = (".db", ".json", ".traj")
_NATIVE = Native("angstrom", "eV", "eV/angstrom", "eV/angstrom^3", "tension", "xx,yy,zz,yz,xz,xy")


def needs_ase(what: str, error: ImportError) -> UserError:
    """The sentence for a machine without ASE."""
    return UserError(f"{what} needs ASE ({error}): pip install 'surrogate[materials]'")


def read_ase(path: str | os.PathLike[str], labels: Labels | None = None) -> Frames:
    """All rows of a database, or all images of a trajectory; ``frame`` is the row's id less one.

    ``energy``, ``forces`` and ``stress`` are what the calculator gave. Other names and properties are sought
    in a row's key–value pairs and data, in an image's ``info`` and ``arrays``.

    Raises:
        UserError: without ASE, for a file that ASE cannot read, a label that was named and is missing in a row, and what
            the checks refuse.
    """
    labels = labels or Labels()
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file")
    images = _trajectory(str(path)) if str(path).endswith(".traj") else _database(str(path))
    rows: list[dict[str, Any]] = []
    for number, atoms, found in images:
        place = f"{path} frame {number}"
        row: dict[str, Any] = {
            "frame": number, "positions": atoms["positions"], "species": atoms["numbers"],
            "cell": atoms["cell"], "pbc": atoms["pbc"],
        }  # fmt: skip
        for kind in ("energy", "forces", "stress"):
            key = getattr(labels, kind)
            if key is None:
                continue
            if found.get(key) is None:
                if kind == "stress" and not np.any(atoms["pbc"]):
                    row[kind] = None
                    continue
                raise missing(place, kind, key, [k for k, v in found.items() if v is not None])
            shapes: tuple[tuple[int, ...], ...] = ((), (len(atoms["numbers"]), 3), (6,))
            wanted = {"energy": shapes[:1], "forces": shapes[1:2], "stress": ((6,), (3, 3))}[kind]
            row[kind] = _numbers(place, key, found[key], wanted)
        row["properties"] = [_property(place, found, name) for name in labels.properties]
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: holds no frame")
    stress = None
    if labels.stress is not None:
        known = [r["stress"] for r in rows if r["stress"] is not None]
        shape = known[0].shape if known else (6,)
        if any(k.shape != shape for k in known):
            raise UserError(f"{path}: some rows have a stress of 6 numbers and some of 9")
        stress = np.array([np.full(shape, np.nan) if r["stress"] is None else r["stress"] for r in rows])
    raw = Raw(
        np.concatenate([r["positions"] for r in rows]), np.concatenate([r["species"] for r in rows]),
        np.array([r["cell"] for r in rows]), np.array([r["pbc"] for r in rows]),
        np.array([len(r["species"]) for r in rows]),
        np.array([r["energy"] for r in rows]) if labels.energy else None,
        np.concatenate([r["forces"] for r in rows]) if labels.forces else None, stress,
        {name: np.array([r["properties"][i] for r in rows]) for i, name in enumerate(labels.properties)},
        {k: getattr(labels, k) for k in ("energy", "forces", "stress") if getattr(labels, k)},
        (str(path),), frame=np.array([r["frame"] for r in rows]),
    )  # fmt: skip
    return assemble(raw, labels, _NATIVE)


Image = tuple[int, dict[str, np.ndarray], dict[str, Any]]


def _database(path: str) -> Iterator[Image]:
    try:
        from ase.db import connect
    except ImportError as error:
        raise needs_ase(f"{path}: reading ASE's databases", error) from None
    # use_lock_file would write beside the data, which may be read-only.
    try:
        rows = list(connect(path, use_lock_file=False).select(sort="id"))
    except Exception as error:
        raise UserError(f"{path}: ASE cannot read this database ({type(error).__name__}: {error})") from error
    for row in rows:
        atoms = {name: np.asarray(row[name]) for name in ("positions", "numbers", "cell", "pbc")}
        found: dict[str, Any] = {**row.data, **row.key_value_pairs}
        for name in ("energy", "free_energy", "forces", "stress"):
            if name in row:
                found[name] = row[name]
        # Atoms that were held fixed have their forces in the database as they were computed, unconstrained.
        yield int(row.id) - 1, atoms, found


def _trajectory(path: str) -> Iterator[Image]:
    try:
        from ase.io.trajectory import Trajectory
    except ImportError as error:
        raise needs_ase(f"{path}: reading ASE's trajectories", error) from None
    try:
        with Trajectory(path) as images:
            frames = list(images)
    except Exception as error:
        raise UserError(f"{path}: ASE cannot read this trajectory ({type(error).__name__}: {error})") from error
    for number, image in enumerate(frames):
        atoms = {
            "positions": image.positions, "numbers": image.numbers, "cell": image.cell.array, "pbc": image.pbc,
        }  # fmt: skip
        results = dict(image.calc.results) if image.calc is not None else {}
        yield number, atoms, {**image.arrays, **image.info, **results}


def _numbers(place: str, key: str, value: Any, shapes: tuple[tuple[int, ...], ...]) -> np.ndarray:
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{place}: {key!r} is {value!r}, not numbers") from None
    if numbers.shape not in shapes:
        raise UserError(f"{place}: {key!r} has the shape {numbers.shape}, expected {' or '.join(map(str, shapes))}")
    return numbers


def _property(place: str, found: dict[str, Any], name: str) -> float:
    if found.get(name) is None:
        raise missing(place, "properties", name, [k for k, v in found.items() if np.ndim(v) == 0])
    return float(_numbers(place, name, found[name], ((),)))
