"""Configurations that would be learnt as physics and are not: refused, naming file, frame and atom."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.elements import NUM_ELEMENTS, SYMBOLS

# Å. No two nuclei of any data come this close (H–H dimer scans begin near 0.3 Å); repeated lines of a file do.
SAME_PLACE = 0.05
# Volume of the cell over the product of its edges: flatter than this is a mistake, not a crystal.
_FLAT = 1e-4
# eV/Å and eV/Å³ (16 TPa): more than any configuration of a training set has, and what wrong units look like.
_LARGEST_FORCE = 1e5
_LARGEST_STRESS = 1e2
_LARGEST = 1e12  # of anything else; NetCDF's fill value is 1e37


def check_frames(frames: Frames) -> Frames:
    """Refuse what no potential should be trained on; returns ``frames``.

    Raises:
        UserError: for a frame without atoms, numbers that are not finite, unknown elements, a cell without volume along
            periodic directions, two atoms in one place (images included), a stress missing from a periodic frame,
            forces above 1e5 eV/Å or stresses above 100 eV/Å³.
    """
    empty = frames.row_size < 1
    if empty.any():
        raise UserError(f"{frames.place(int(np.argmax(empty)))}: has no atoms")
    _check_atoms("position", frames.positions, frames)
    if frames.forces is not None:
        _check_atoms("force", frames.forces, frames)
        large = np.abs(frames.forces).max(1) > _LARGEST_FORCE
        if large.any():
            atom = int(np.argmax(large))
            raise UserError(
                f"{_atom(atom, frames)} has a force of {np.abs(frames.forces[atom]).max():.3g} eV/Å; "
                "are the units of the forces right?"
            )
    _check_per_frame("cell", frames.cell, frames)
    if frames.energy is not None:
        _check_per_frame("energy", frames.energy, frames)
    for name, values in frames.properties.items():
        _check_per_frame(name, values, frames)
    unknown = (frames.species < 1) | (frames.species > NUM_ELEMENTS)
    if unknown.any():
        atom = int(np.argmax(unknown))
        raise UserError(
            f"{_atom(atom, frames)} has the atomic number {frames.species[atom]}, elements are 1 to {NUM_ELEMENTS}"
        )
    _check_cells(frames)
    _check_stress(frames)
    _check_distances(frames)
    return frames


def check_copied_stress(frames: Frames) -> None:
    """Refuse stresses that were copied from one configuration to another.

    Equal to the last digit in six components and yet with another energy: labels were assigned by a number that counts
    something else. (It is so in a published benchmark, where the test set carries the stresses of the training set.)

    Raises:
        UserError: naming two such frames, when there are three or more.
    """
    if frames.stress is None or frames.energy is None:
        return
    first: dict[bytes, int] = {}
    pairs: list[tuple[int, int]] = []
    for i in np.flatnonzero(frames.has_stress):
        # By symmetry a crystal may have one component three times and zeros; no two distinct ones agree in all six.
        if len(np.unique(np.abs(frames.stress[i]))) < 4:
            continue
        j = first.setdefault(frames.stress[i].tobytes(), int(i))
        if j != i and abs(frames.energy[i] - frames.energy[j]) > 1e-6:
            pairs.append((j, int(i)))
    if len(pairs) >= 3:
        a, b = pairs[0]
        raise UserError(
            f"{frames.place(a)} and {frames.place(b)} have the same stress to the last digit and different energies "
            f"({frames.energy[a]:.9g} and {frames.energy[b]:.9g} eV), as have {len(pairs) - 1} other pairs: it was copied "
            "and belongs to one of them at most; leave it out with data.stress=null"
        )


def _check_atoms(kind: str, values: np.ndarray, frames: Frames) -> None:
    bad = ~(np.abs(values) < _LARGEST).all(1)
    if bad.any():
        atom = int(np.argmax(bad))
        raise UserError(f"{_atom(atom, frames)} has the {kind} {values[atom].tolist()}: {_why(values[atom])}")


def _check_per_frame(name: str, values: np.ndarray, frames: Frames) -> None:
    bad = ~(np.abs(values.reshape(len(frames), -1)) < _LARGEST).all(1)
    if bad.any():
        i = int(np.argmax(bad))
        raise UserError(f"{frames.place(i)}: the {name} is {np.asarray(values[i]).tolist()}: {_why(values[i])}")


def _why(values: np.ndarray) -> str:
    return "too large, a value that was never written?" if np.isfinite(values).all() else "not finite"


def _atom(atom: int, frames: Frames) -> str:
    """``file frame 3: atom 17 (Si)``."""
    i = int(np.searchsorted(frames.offsets, atom, side="right")) - 1
    number = int(frames.species[atom])
    symbol = f" ({SYMBOLS[number]})" if 1 <= number <= NUM_ELEMENTS else ""
    return f"{frames.place(i)}: atom {atom - int(frames.offsets[i])}{symbol}"


def _check_cells(frames: Frames) -> None:
    # Directions that do not repeat are given any unit vector at right angles, so that what is left is the volume,
    # area or length of what does repeat.
    lengths = np.linalg.norm(frames.cell, axis=2)
    short = (lengths < 1e-3) & frames.pbc
    if short.any():
        i, axis = (int(v) for v in np.argwhere(short)[0])
        raise UserError(
            f"{frames.place(i)}: pbc along vector {axis} of a cell that has no extent there: {_cell(i, frames)}"
        )
    unit = frames.cell / np.where(lengths > 0, lengths, 1)[..., None]
    gram = np.where(frames.pbc[:, :, None] & frames.pbc[:, None, :], unit @ unit.transpose(0, 2, 1), np.eye(3))
    volume = np.sqrt(np.maximum(np.linalg.det(gram), 0))
    flat = frames.pbc.any(1) & (volume < _FLAT)
    if flat.any():
        i = int(np.argmax(flat))
        raise UserError(
            f"{frames.place(i)}: the cell has no volume, its periodic vectors lie in one plane or line: {_cell(i, frames)}"
        )


def _cell(i: int, frames: Frames) -> str:
    return str(frames.cell[i].round(6).tolist())


def _check_stress(frames: Frames) -> None:
    if frames.stress is None:
        return
    missing = ~np.isfinite(frames.stress).all((1, 2)) & frames.pbc.any(1)
    if missing.any():
        i = int(np.argmax(missing))
        raise UserError(f"{frames.place(i)}: the stress is {frames.stress[i].tolist()}: not finite")
    large = np.nan_to_num(np.abs(frames.stress)).max((1, 2)) > _LARGEST_STRESS
    if large.any():
        i = int(np.argmax(large))
        raise UserError(
            f"{frames.place(i)} has a stress of {np.abs(frames.stress[i]).max() * 160.2176634:.3g} GPa; are its units right?"
        )


def completed_cells(frames: Frames) -> np.ndarray:
    """(n, 3, 3) invertible cells: vectors that do not repeat are replaced by unit vectors across those that do."""
    cells = np.where(frames.pbc[..., None], frames.cell, 0)
    cells[~frames.pbc.any(1)] = np.eye(3)
    for i in np.flatnonzero(frames.pbc.any(1) & ~frames.pbc.all(1)):
        across = np.linalg.svd(cells[i][frames.pbc[i]])[2][frames.pbc[i].sum() :]
        cells[i][~frames.pbc[i]] = across
    return cells


def _check_distances(frames: Frames) -> None:
    """One tree over the atoms of all frames at once: the frame is a fourth coordinate, a unit apart."""
    cells = completed_cells(frames)
    inverse = np.linalg.inv(cells)
    owner = frames.frame_of_atom
    fractional = np.einsum("ai,aij->aj", frames.positions, inverse[owner])
    fractional = np.where(frames.pbc[owner], fractional - np.floor(fractional), fractional)
    # Images of the atoms just inside a face, just outside the opposite one: with them plain distances are enough.
    reach = SAME_PLACE * np.linalg.norm(inverse, axis=1)  # (n, 3): how much of the cell SAME_PLACE is, across each face
    atom = np.arange(len(owner))
    for axis in range(3):
        near = (fractional[:, axis] < reach[owner, axis]) & frames.pbc[owner, axis]
        shift = np.zeros(3)
        shift[axis] = 1
        fractional = np.concatenate([fractional, fractional[near] + shift])
        owner, atom = np.concatenate([owner, owner[near]]), np.concatenate([atom, atom[near]])
    points = np.einsum("ai,aij->aj", fractional, cells[owner])
    tree = cKDTree(np.column_stack([points, owner]), balanced_tree=False)
    pairs = tree.query_pairs(SAME_PLACE, output_type="ndarray")
    if len(pairs):
        first = pairs[np.argmin(owner[pairs[:, 0]])]
        a, b = sorted(int(atom[k]) for k in first)
        other = b - int(frames.offsets[int(owner[first[0]])])
        distance = float(np.linalg.norm(points[first[0]] - points[first[1]]))
        raise UserError(f"{_atom(a, frames)} and atom {other} are in one place ({distance:.2g} Å apart)")
