"""The cutoff that data call for, against the shells of crystals."""

import numpy as np
import pytest

from surrogate.data.atoms import Frames
from surrogate.domains.atoms_cutoff import NEIGHBORS, OF_MOLECULES, choose_cutoff
from surrogate.models.neighbors import neighbor_list


def frames_of(*configurations):
    """Of (positions, cell, pbc) of nickel."""
    positions, cells, pbc = zip(*configurations, strict=True)
    sizes = np.array([len(p) for p in positions])
    return Frames(np.concatenate(positions), np.full(sizes.sum(), 28), np.array(cells), np.array(pbc), sizes)


def cubic(constant, sites, repeat=1):
    shifts = np.stack(np.meshgrid(*[np.arange(repeat)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    return (shifts + np.array(sites)).reshape(-1, 3) * constant, np.eye(3) * constant * repeat, np.ones(3, bool)


FCC = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
BCC = [(0, 0, 0), (0.5, 0.5, 0.5)]


@pytest.mark.parametrize(
    ("crystal", "shell"),
    [
        (cubic(3.52, FCC), 3.52 * np.sqrt(5 / 2)),  # 12, 6, 24, 12 and 24 neighbors: the fifth shell holds the 75th
        (cubic(3.52, FCC, 2), 3.52 * np.sqrt(5 / 2)),  # the same crystal in a larger cell
        (cubic(3.44, BCC), 3.44 * np.sqrt(19) / 2),  # 8, 6, 12, 24, 8, 6 and 24: the seventh
        (cubic(5.23, BCC), 5.23 * np.sqrt(19) / 2),  # potassium
    ],
)
def test_of_crystals(crystal, shell):
    assert choose_cutoff(frames_of(crystal)) == round(shell, 1)


def test_of_disordered_and_mixed_frames():
    """As many neighbors as asked for, to the rounding of a tenth."""
    rng = np.random.default_rng(0)
    made = []
    for size in (8.0, 9.0, 9.5):
        positions, cell, pbc = cubic(size / 4, [(0, 0, 0)], 4)
        made.append((positions + rng.uniform(-0.3, 0.3, positions.shape), cell, pbc))
    found = choose_cutoff(frames_of(*made))
    below, above = (
        np.mean([len(neighbor_list(*frame, found + shift).senders) / 64 for frame in made]) for shift in (-0.05, 0.05)
    )
    assert below <= NEIGHBORS <= above


def test_molecules_have_one_of_their_own():
    """Isolated, or alone in a large periodic cell."""
    positions = np.random.default_rng(0).uniform(0, 4, (9, 3)) + np.arange(9)[:, None]
    alone = frames_of((positions, np.zeros((3, 3)), np.zeros(3, bool)), (positions, np.eye(3) * 50, np.ones(3, bool)))
    assert choose_cutoff(alone) == OF_MOLECULES
