"""The cutoff that a set of configurations calls for, where none is given.

Elements differ in how closely they pack, so one number of Å suits few of them: lithium at 5 Å has 26 neighbors, nickel
58. What suits them alike is the number of neighbors, :data:`NEIGHBORS`: on frames held out of the training, forces of
both were best near it.
"""

from __future__ import annotations

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.models.neighbors import neighbor_list

NEIGHBORS = 75  # of an atom on average
LONGEST = 12.0  # Å; potassium, of the loosest metals, needs 11
OF_MOLECULES = 5.0  # Å, where an atom has fewer neighbors than that even within the longest
_MOST_FRAMES, _MOST_ATOMS = 32, 20_000


def choose_cutoff(frames: Frames) -> float:
    """The distance in Å, to a tenth, within which atoms have :data:`NEIGHBORS` neighbors on average.

    Args:
        frames: of which at most 32 are looked at, evenly spread; fewer where they are large, one at least.

    Returns:
        :data:`OF_MOLECULES` where there are not so many within :data:`LONGEST`, as in isolated molecules.

    Raises:
        UserError: for a frame without a neighbor list, such as one with two atoms in one place.
    """
    samples = min(_MOST_FRAMES, len(frames), max(1, _MOST_ATOMS * len(frames) // frames.num_atoms))
    chosen = np.unique(np.linspace(0, len(frames) - 1, samples).astype(int))
    wanted = NEIGHBORS * int(np.diff(frames.offsets)[chosen].sum())
    reach = 5.0
    while True:
        distances = np.concatenate([_distances(frames, int(frame), reach) for frame in chosen])
        if len(distances) >= wanted:
            return round(float(np.partition(distances, wanted - 1)[wanted - 1]), 1)
        if reach == LONGEST:
            return OF_MOLECULES
        reach = min(1.3 * reach, LONGEST)


def _distances(frames: Frames, frame: int, reach: float) -> np.ndarray:
    """Of all ordered pairs of atoms of a frame within ``reach``."""
    rows = slice(int(frames.offsets[frame]), int(frames.offsets[frame + 1]))
    positions, cell, pbc = frames.positions[rows], frames.cell[frame], frames.pbc[frame]
    try:
        found = neighbor_list(positions, cell, pbc, reach)
    except UserError as error:
        raise UserError(f"{frames.place(frame)}: {error}") from None
    shifts = found.shifts @ np.where(pbc[:, None], cell, 0.0)
    return np.linalg.norm(positions[found.senders] - positions[found.receivers] + shifts, axis=1)
