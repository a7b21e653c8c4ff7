"""Neighbor lists against brute force, a second implementation and each other."""

from itertools import product

import jax
import numpy as np
import pytest

from surrogate.core.types import UserError
from surrogate.models.neighbors import complete_cell, heights, neighbor_list
from surrogate.models.neighbors_device import find_neighbors, num_images

TRICLINIC = np.array([[4.1, 0.0, 0.0], [1.7, 3.9, 0.0], [-1.3, 0.8, 3.2]])
CUBIC = np.eye(3) * 11.0


def brute_force(positions, cell, pbc, cutoff, reach):
    """All pairs of atoms through every shift, one shift after another."""
    found = set()
    for shift in product(*(range(-reach, reach + 1) if periodic else (0,) for periodic in pbc)):
        vectors = positions[None] + np.array(shift) @ cell - positions[:, None]
        for i, j in zip(*np.nonzero(np.linalg.norm(vectors, axis=-1) < cutoff), strict=True):
            if i != j or any(shift):
                found.add((int(i), int(j), *shift))
    return found


def as_set(found):
    return {
        (int(i), int(j), *map(int, s)) for i, j, s in zip(found.receivers, found.senders, found.shifts, strict=True)
    }


CASES = [
    ("triclinic, cutoff above the cell", TRICLINIC, (True, True, True), 5.3, 3),
    ("one atom, many images", TRICLINIC, (True, True, True), 6.0, 1),
    ("slab", TRICLINIC, (True, True, False), 4.5, 4),
    ("wire along the second vector", TRICLINIC, (False, True, False), 5.0, 4),
    ("molecule", np.zeros((3, 3)), (False, False, False), 4.0, 6),
    ("cubic, minimum image", CUBIC, (True, True, True), 4.0, 8),
]


@pytest.mark.parametrize(("cell", "pbc", "cutoff", "atoms"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_host_list_is_brute_force(cell, pbc, cutoff, atoms):
    # Positions outside of the cell too, where wrapping has to be undone in the shifts.
    positions = np.random.default_rng(1).uniform(-6, 9, (atoms, 3))
    found = neighbor_list(positions, cell, np.array(pbc), cutoff)
    assert as_set(found) == brute_force(positions, cell, pbc, cutoff, reach=10)
    assert len(as_set(found)) == len(found.senders)
    order = np.lexsort((*found.shifts.T[::-1], found.senders, found.receivers))
    np.testing.assert_array_equal(order, np.arange(len(order)))
    np.testing.assert_array_equal(found.receivers[found.reverse], found.senders)
    np.testing.assert_array_equal(found.senders[found.reverse], found.receivers)
    np.testing.assert_array_equal(found.shifts[found.reverse], -found.shifts)


@pytest.mark.parametrize("pbc", list(product([False, True], repeat=3)))
def test_host_list_is_that_of_ase(pbc):
    ase_list = pytest.importorskip("ase.neighborlist")
    positions = np.random.default_rng(2).uniform(-3, 8, (7, 3))
    i, j, shift = ase_list.primitive_neighbor_list("ijS", pbc, TRICLINIC, positions, 4.7)
    expected = {(int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True)}
    assert as_set(neighbor_list(positions, TRICLINIC, np.array(pbc), 4.7)) == expected


def test_crystal_has_its_shells():
    """Face-centred cubic: 12, 6 and 24 neighbors at a/√2, a and a√(3/2), from the primitive cell of one atom."""
    primitive = 3.6 * np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    for cutoff, count in ((2.6, 12), (3.7, 18), (4.5, 42)):
        assert len(neighbor_list(np.zeros((1, 3)), primitive, np.ones(3, bool), cutoff).senders) == count


def test_a_pair_at_the_cutoff_is_out():
    at = neighbor_list(np.array([[0.0, 0, 0], [3.0, 0, 0]]), np.zeros((3, 3)), np.zeros(3, bool), 3.0)
    assert len(at.senders) == 0


def test_empty_and_single():
    assert len(neighbor_list(np.zeros((0, 3)), CUBIC, np.ones(3, bool), 3.0).senders) == 0
    assert len(neighbor_list(np.zeros((1, 3)), CUBIC, np.ones(3, bool), 3.0).senders) == 0


@pytest.mark.parametrize(
    ("positions", "cell", "cutoff", "message"),
    [
        ([[0, 0, np.nan]], CUBIC, 3.0, "position of atom 0"),
        ([[0, 0, 0], [11.0, 0, 0]], CUBIC, 3.0, "atoms 0 and 1 are in one place"),
        ([[0, 0, 0]], np.diag([3.0, 3.0, 0.0]), 3.0, "spans no volume"),
        ([[0, 0, 0]], np.full((3, 3), np.nan), 3.0, "spans no volume"),
        ([[0, 0, 0]], CUBIC, 0.0, "cutoff must be a positive length"),
    ],
)
def test_mistakes_are_named(positions, cell, cutoff, message):
    with pytest.raises(UserError, match=message):
        neighbor_list(np.array(positions), cell, np.ones(3, bool), cutoff)


def test_heights_are_distances_of_faces():
    np.testing.assert_allclose(heights(np.diag([2.0, 3.0, 5.0])), [2, 3, 5])
    volume = abs(np.linalg.det(TRICLINIC))
    area = np.linalg.norm(np.cross(TRICLINIC[0], TRICLINIC[1]))
    np.testing.assert_allclose(heights(TRICLINIC)[2], volume / area)


# Without XLA's optimisations: the time goes into compiling, not running.
FIND = jax.jit(
    find_neighbors,
    static_argnames=("capacity", "images", "block"),
    compiler_options={"xla_backend_optimization_level": 0},
)
ATOMS = 9  # of every call, so that few programs are compiled


def find(positions, cell, pbc, cutoff, capacity=64, images=(0, 0, 0)):
    padded, real = np.zeros((ATOMS, 3), np.float32), np.arange(ATOMS) < len(positions)
    padded[: len(positions)] = positions
    return FIND(
        padded,
        np.asarray(cell, np.float32),
        np.asarray(pbc),
        real,
        cutoff=cutoff,
        capacity=capacity,
        images=images,
        block=4,
    )


def device_set(found):
    out = set()
    senders, shifts, mask = (np.asarray(v) for v in (found.senders, found.shifts, found.mask))
    for i, m in zip(*np.nonzero(mask), strict=True):
        out.add((int(i), int(senders[i, m]), *map(int, shifts[i, m])))
    return out


@pytest.mark.parametrize(("cell", "pbc", "cutoff", "atoms"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_device_list_is_the_host_list(cell, pbc, cutoff, atoms):
    positions = np.random.default_rng(1).uniform(-6, 9, (atoms, 3)).astype(np.float32)
    host = neighbor_list(positions, cell, np.array(pbc), cutoff)
    images = num_images(cell, np.array(pbc), cutoff)
    nearest = -np.round(
        (positions[host.senders] - positions[host.receivers])
        @ np.linalg.inv(complete_cell(cell * np.array(pbc)[:, None], np.array(pbc)))
    )
    needed = np.abs(host.shifts - np.where(pbc, nearest, 0)).max(0, initial=0)
    assert (needed <= images).all()
    found = find(positions, cell, pbc, cutoff, images=(0, 0, 0) if images == (0, 0, 0) else (3, 3, 3))
    assert not found.overflow
    assert int(found.largest) == host.counts(atoms).max(initial=0)
    assert device_set(found) == as_set(host)
    # the reverse of a slot holds the opposite pair
    senders, shifts, mask = (np.asarray(v) for v in (found.senders, found.shifts, found.mask))
    rows, slots = np.nonzero(mask)
    back, slot = np.divmod(np.asarray(found.reverse)[rows, slots], mask.shape[1])
    np.testing.assert_array_equal(back, senders[rows, slots])
    np.testing.assert_array_equal(senders[back, slot], rows)
    np.testing.assert_array_equal(shifts[back, slot], -shifts[rows, slots])


def test_too_many_neighbors_overflow():
    positions = np.random.default_rng(4).uniform(0, 3, (9, 3))
    free = (np.zeros((3, 3)), np.zeros(3, bool), 6.0)
    assert not find(positions, *free).overflow
    short = find(positions, *free, capacity=7)
    assert short.overflow
    assert int(short.largest) == 8


def test_a_cell_that_shrank_overflows():
    """The images that the cutoff needs were counted for a larger cell."""
    cell, pbc = np.eye(3) * 9.0, np.ones(3, bool)
    assert num_images(cell, pbc, 4.0) == (0, 0, 0)
    assert not find(np.zeros((1, 3)), cell, pbc, 4.0).overflow
    assert find(np.zeros((1, 3)), cell * 0.8, pbc, 4.0).overflow


def test_not_finite_overflows():
    assert find(np.array([[0, 0, 0], [np.nan, 0, 0]]), CUBIC, np.ones(3, bool), 4.0).overflow
    assert find(np.zeros((1, 3)), np.zeros((3, 3)), np.ones(3, bool), 4.0).overflow


def test_device_list_after_long_drift():
    """Atoms that left the cell by many vectors keep their neighbors: shifts are no small numbers then."""
    rng = np.random.default_rng(5)
    positions = rng.uniform(0, 11, (8, 3)) + rng.integers(-40, 41, (8, 3)) @ CUBIC
    pbc = np.ones(3, bool)
    found = find(positions, CUBIC, pbc, 5.0)
    assert device_set(found) == as_set(neighbor_list(positions.astype(np.float32), CUBIC, pbc, 5.0))
    assert not found.overflow
