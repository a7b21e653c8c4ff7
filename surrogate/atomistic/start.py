"""What molecular dynamics starts from: one configuration, checked, with masses and perhaps velocities."""

from __future__ import annotations

from dataclasses import dataclass, replace
import numbers
from typing import Any

import numpy as np

from surrogate.atomistic.integrators import INTEGRATORS
from surrogate.atomistic.predict import structures_of
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.masses import masses_of
from surrogate.models.atoms_base import AtomsGeometry


@dataclass(frozen=True)
class Start:
    """One configuration of N atoms.

    Attributes:
        species: (N,) int32, indices into the geometry's species.
        numbers: (N,) atomic numbers.
        cell: (3, 3) Å, rows of directions that are not periodic are 0.
        masses: (N,) u.
        velocities: (N, 3) Å/fs, or None when they are still to be drawn.
        largest: neighbors within cutoff and skin of the atom that has most.
        place: for messages.
    """

    positions: np.ndarray
    species: np.ndarray
    numbers: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    masses: np.ndarray
    velocities: np.ndarray | None
    largest: int
    place: str


def frames_of(atoms: Any) -> Frames:
    """One frame of ``Frames`` or of an ``ase.Atoms``, without its labels.

    Raises:
        UserError: for anything else, several frames, or constraints, which would be ignored.
    """
    if isinstance(atoms, Frames):
        if len(atoms) != 1:
            raise UserError(f"one configuration is expected, got {len(atoms)} frames: pass frames[i]")
        return atoms
    try:
        positions, species = atoms.get_positions(), atoms.get_atomic_numbers()
        cell, pbc = np.asarray(atoms.cell, float), np.asarray(atoms.pbc, bool)
    except AttributeError:
        raise UserError(f"expected frames or an ase.Atoms, got {type(atoms).__name__}") from None
    if getattr(atoms, "constraints", None):
        raise UserError("the atoms carry constraints, which are not applied here; delete them or use ASE's dynamics")
    return Frames(positions, species, cell[None], pbc[None], np.array([len(species)]), groups=("atoms",))


def start_of(
    atoms: Any, geometry: AtomsGeometry, skin: float, masses: np.ndarray | None, velocities: np.ndarray | None
) -> Start:
    """Read and check a configuration.

    Args:
        masses: (N,) u; None takes those of an ``ase.Atoms``, or standard atomic weights.

    Raises:
        UserError: for no atoms, unknown elements, numbers that are not finite, atoms in one place, a cell without volume.
    """
    frames = frames_of(atoms)
    place = frames.place(0)
    num = frames.num_atoms
    if not num:
        raise UserError(f"{place} has no atoms")
    # With the skin, so that the first list has room.
    found = structures_of(frames, replace(geometry, cutoff=geometry.cutoff + skin))[0]
    if masses is None:
        masses = masses_of(frames.species, place) if atoms is frames else np.asarray(atoms.get_masses(), float)
    masses = np.asarray(masses, float)
    if masses.shape != (num,) or not (np.isfinite(masses) & (masses > 0)).all():
        raise UserError(f"{place}: masses must be {num} positive numbers in u, got the shape {masses.shape}: {masses}")
    if velocities is not None:
        velocities = np.asarray(velocities, float)
        if velocities.shape != (num, 3) or not np.isfinite(velocities).all():
            raise UserError(f"{place}: velocities must be finite, of shape {(num, 3)} in Å/fs; got {velocities.shape}")
    cell = np.where(found.pbc[:, None], found.cell, 0.0)
    return Start(
        found.positions, found.species, frames.species, cell, found.pbc, masses, velocities, found.max_neighbors, place
    )  # fmt: skip


def check_settings(
    *, steps: int, ensemble: str, temperature: float, time_step: float, save_every: int, skin: float, friction: float
) -> None:
    """Raises:
    UserError: naming the setting that cannot be.
    """
    if ensemble not in INTEGRATORS:
        raise UserError(f"ensemble={ensemble!r} is not one of {', '.join(INTEGRATORS)}")
    for name, value in (("steps", steps), ("save_every", save_every)):
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not 1 <= value < 2**31 - 1:
            raise UserError(f"{name} must be a whole number of at least 1, got {value!r}")
    for name, number, zero in (
        ("temperature (K)", temperature, True), ("time_step (fs)", time_step, False), ("skin (Å)", skin, True),
        ("friction (1/ps)", friction, ensemble == "nve"),
    ):  # fmt: skip
        if not (np.isfinite(number) and (number > 0 or (zero and number == 0))):
            raise UserError(f"{name} must be a {'number of at least 0' if zero else 'positive number'}, got {number}")
