"""Exact neighbor lists on the host, for training batches: any cell, any periodicity, any cutoff.

Nothing assumes a minimum image: an atom may be its own neighbor through a shift, and a pair may occur
many times where the cutoff exceeds the cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from surrogate.core.types import UserError


@dataclass(frozen=True)
class NeighborList:
    """All directed pairs closer than a cutoff, sorted by receiver, sender and shift.

    The vector of a pair is ``positions[sender] − positions[receiver] + shift @ cell``. Each pair occurs in
    both directions: ``reverse[e]`` is the pair of the opposite direction and shift.
    """

    receivers: np.ndarray  # (E,) int32
    senders: np.ndarray  # (E,) int32
    shifts: np.ndarray  # (E, 3) int32, in cell vectors
    reverse: np.ndarray  # (E,) int32

    def counts(self, num_atoms: int) -> np.ndarray:
        """Neighbors of each atom, (N,)."""
        return np.bincount(self.receivers, minlength=num_atoms)


def neighbor_list(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> NeighborList:
    """The neighbor list of one configuration, in float64.

    Args:
        positions: (N, 3) in Å, anywhere: atoms may lie outside of the cell.
        cell: (3, 3) in Å, its rows the cell vectors; rows of directions that are not periodic do not matter.
        pbc: (3,) bool.
        cutoff: Å; pairs at exactly this distance do not count.

    Raises:
        UserError: for positions or cells that are not finite, a degenerate periodic cell, a cutoff that
            is not positive, or two atoms in one place.
    """
    positions = np.asarray(positions, float).reshape(-1, 3)
    pbc = np.broadcast_to(np.asarray(pbc, bool), (3,))
    cell = np.asarray(cell, float).reshape(3, 3)
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise UserError(f"the cutoff must be a positive length in Å, got {cutoff}")
    if not np.isfinite(positions).all():
        atom = int(np.argmin(np.isfinite(positions).all(1)))
        raise UserError(f"the position of atom {atom} is {positions[atom].tolist()}, expected finite numbers")
    # A direction that is not periodic has no shifts, so whatever its row says cannot count.
    shift_cell = np.where(pbc[:, None], cell, 0.0)
    full = complete_cell(shift_cell, pbc)
    images = _images(positions, shift_cell, full, pbc, cutoff)
    receivers, senders, shifts = images
    vectors = (positions[senders] - positions[receivers]) + shifts @ shift_cell
    distance = np.sqrt((vectors * vectors).sum(1))
    near = distance < cutoff
    receivers, senders, shifts, distance = receivers[near], senders[near], shifts[near], distance[near]
    if len(distance) and distance.min() < 1e-6:
        pair = int(np.argmin(distance))
        raise UserError(f"atoms {receivers[pair]} and {senders[pair]} are in one place")
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], senders, receivers))
    receivers, senders, shifts = receivers[order], senders[order], shifts[order]
    # Sorting the list by what each pair is when reversed puts the pairs opposite to themselves in place.
    mirrored = np.lexsort((-shifts[:, 2], -shifts[:, 1], -shifts[:, 0], receivers, senders))
    reverse = np.empty(len(order), np.int32)
    reverse[mirrored] = np.arange(len(order), dtype=np.int32)
    return NeighborList(receivers.astype(np.int32), senders.astype(np.int32), shifts.astype(np.int32), reverse)


def complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The cell (3, 3) with unit vectors orthogonal to the periodic ones in place of the others.

    Raises:
        UserError: when the periodic vectors are not finite or linearly dependent.
    """
    cell, pbc = np.asarray(cell, float), np.asarray(pbc, bool)
    periodic = cell[pbc]
    if not len(periodic):
        return np.eye(3)
    error = UserError(f"the cell {cell.tolist()} with pbc {pbc.tolist()} spans no volume")
    if not np.isfinite(periodic).all():
        raise error
    # Right singular vectors of zero singular value span what is orthogonal to the periodic vectors.
    _, singular, directions = np.linalg.svd(periodic)
    if singular.min() <= 1e-6 * singular.max():
        raise error
    full = np.empty((3, 3))
    full[pbc], full[~pbc] = periodic, directions[len(periodic) :]
    return full


def heights(cell: np.ndarray) -> np.ndarray:
    """Distances between opposite faces of a cell (..., 3, 3), in Å: (..., 3)."""
    return 1 / np.linalg.norm(np.linalg.inv(cell), axis=-2)


def _images(
    positions: np.ndarray, cell: np.ndarray, full: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A superset of the pairs as (receivers, senders, shifts): those of atoms in the cell with images around it."""
    fractional = positions @ np.linalg.inv(full)
    home = np.where(pbc, np.floor(fractional), 0.0)
    wrapped = positions - home @ cell
    inside = fractional - home
    reach = np.where(pbc, cutoff / heights(full), 0.0) + 1e-9
    index = np.arange(len(positions))
    image, ghosts = np.zeros((len(positions), 3)), index
    for axis in np.flatnonzero(pbc):
        span = np.arange(-int(np.ceil(reach[axis])), int(np.ceil(reach[axis])) + 1)
        place = inside[ghosts, axis][:, None] + span
        atom, step = np.nonzero((place >= -reach[axis]) & (place <= 1 + reach[axis]))
        image = image[atom]
        image[:, axis] = span[step]
        ghosts = ghosts[atom]
    places = wrapped[ghosts] + image @ cell
    # Slightly wide, so that rounding of the images decides nothing: the caller measures again.
    pairs = cKDTree(wrapped).sparse_distance_matrix(
        cKDTree(places), cutoff * (1 + 1e-9) + 1e-9, output_type="coo_matrix"
    ) if len(positions) else None  # fmt: skip
    if pairs is None:
        return index, index, np.zeros((0, 3), int)
    receivers, ghost = pairs.row, pairs.col
    senders = ghosts[ghost]
    shifts = (image[ghost] - home[senders] + home[receivers]).astype(int)
    itself = (senders == receivers) & (shifts == 0).all(1)
    return receivers[~itself], senders[~itself], shifts[~itself]
