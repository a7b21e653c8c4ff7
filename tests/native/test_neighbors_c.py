"""The C library's neighbor search against the Python one, which is tested against brute force."""

from __future__ import annotations

import itertools
from pathlib import Path
import subprocess

import numpy as np
import pytest
from surrogates import need

from surrogate.exporting import native
from surrogate.models.neighbors import neighbor_list


@pytest.fixture(scope="module")
def search(tmp_path_factory):  # type: ignore[no-untyped-def]
    """systems [(positions, cell, pbc, cutoff)] → [(status, pairs as sets of tuples, vectors)] and what was printed."""
    folder = tmp_path_factory.mktemp("neighbors")
    source = str(Path(__file__).with_name("neighbors.c"))
    command = [need("cc"), "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined",
               "-fno-sanitize-recover=all", f"-I{native.HERE}", source, "-o", str(folder / "neighbors")]  # fmt: skip
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr

    def run(systems):  # type: ignore[no-untyped-def]
        with open(folder / "in", "wb") as file:
            for positions, cell, pbc, cutoff in systems:
                np.array([len(positions), *np.broadcast_to(pbc, 3)], np.int64).tofile(file)
                np.array([cutoff, *np.asarray(cell, float).ravel(), *np.asarray(positions, float).ravel()]).tofile(file)
        done = subprocess.run([folder / "neighbors", folder / "in", folder / "out"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        words, at, results = np.fromfile(folder / "out", np.int64), 0, []
        for _ in systems:
            status, count = words[at : at + 2]
            rows = words[at + 2 : at + 2 + 8 * count].reshape(count, 8)
            results.append((int(status), rows[:, :5], rows[:, 5:].copy().view(np.float64)))
            at += 2 + 8 * count
        assert at == len(words)
        return results, done.stdout.splitlines()

    return run


def same(found, system) -> int:  # type: ignore[no-untyped-def]
    """Assert that each pair of the Python list is there once, in one of its directions; how many there are."""
    positions, cell, pbc, cutoff = system
    status, pairs, vectors = found
    assert status == 0
    expected = neighbor_list(positions, cell, np.broadcast_to(pbc, 3), cutoff)
    forward = [tuple(row) for row in pairs.tolist()]
    backward = [(j, i, -a, -b, -c) for i, j, a, b, c in forward]
    both = forward + backward
    assert len(set(both)) == len(both)
    edges = {(int(i), int(j), *map(int, s)) for i, j, s in zip(expected.receivers, expected.senders, expected.shifts, strict=True)}  # fmt: skip
    assert set(both) == edges
    if len(pairs):
        shift = pairs[:, 2:] @ np.where(np.broadcast_to(pbc, 3)[:, None], cell, 0.0)
        right = np.asarray(positions)[pairs[:, 1]] - np.asarray(positions)[pairs[:, 0]] + shift
        np.testing.assert_allclose(vectors, right, atol=1e-11 * (1 + np.abs(positions).max()))
    return len(edges)


def test_pairs_are_those_of_the_python_list(search) -> None:
    """All periodicities, cells from far below the cutoff to far above it, skewed and left-handed, atoms outside."""
    rng = np.random.default_rng(0)
    systems = []
    for pbc, size in itertools.product(itertools.product((0, 1), repeat=3), (1.3, 4.0, 11.0)):
        for skew in (0.0, 0.6):
            cell = size * (np.eye(3) + skew * rng.normal(size=(3, 3)) * [[0, 1, 1], [1, 0, 1], [1, 1, 0]] / 2)
            if skew and rng.random() < 0.5:
                cell[[0, 1]] = cell[[1, 0]]  # left-handed
            cell[~np.array(pbc, bool)] *= rng.choice([0.0, 1.0])  # what these rows say must not matter
            count = max(1, round(0.07 * size**3)) if size > 2 else 2
            positions = rng.uniform(-1.2, 2.2, (count, 3)) * size
            systems.append((positions, cell, pbc, float(rng.uniform(2.0, 4.5))))
    results, _ = search(systems)
    total = sum(same(found, system) for found, system in zip(results, systems, strict=True))
    assert total > 4000


def test_lattices_whose_atoms_lie_on_faces(search) -> None:
    """Sites on faces, edges and corners of the cell, where rounding decides to which side they are wrapped."""
    sites = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    hexagonal = np.array([[2.7, 0, 0], [-1.35, 1.35 * np.sqrt(3), 0], [0, 0, 4.3]])
    systems = [
        (sites @ (4.05 * np.eye(3)), 4.05 * np.eye(3), 1, 5.3),
        (sites @ (4.05 * np.eye(3)) - 1e-17, 4.05 * np.eye(3), 1, 5.3),
        (np.array([[0.0, 0.0, 0.0]]), hexagonal, 1, 6.0),
        (
            np.array([[1.0, 1.0, 1.0], [0.0, 0.0, -0.0]]) @ hexagonal + [[0, 0, 1.5], [0, 0, 0]],
            hexagonal,
            (1, 1, 0),
            6.0,
        ),
    ]
    results, _ = search(systems)
    assert same(results[0], systems[0]) == 4 * 42  # 12 + 6 + 24 neighbors within 5.3 Å of aluminium
    for found, system in zip(results[1:], systems[1:], strict=True):
        assert same(found, system)


def test_far_apart_atoms_and_long_cells_cost_no_memory(search) -> None:
    """Bins are as many as atoms, not as the space between them would hold."""
    rng = np.random.default_rng(1)
    far = np.concatenate([rng.uniform(0, 6, (30, 3)), rng.uniform(0, 6, (30, 3)) + 1e7])
    needle = np.diag([2.0, 2.0, 5000.0])
    systems = [(far, np.eye(3), 0, 3.0), (rng.uniform(0, 1, (200, 3)) @ needle, needle, 1, 3.0),
               (np.zeros((1, 3)), np.eye(3), 0, 3.0), (np.zeros((0, 3)), np.eye(3), 0, 3.0)]  # fmt: skip
    results, _ = search(systems)
    assert [same(f, s) > 0 for f, s in zip(results[:3], systems[:3], strict=True)] == [True, True, False]
    assert results[3][0] == 0
    assert len(results[3][1]) == 0


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ((np.array([[0.0, 0, 0], [0.0, np.nan, 0]]), np.eye(3), 0, 2.0), "the position of atom 1 is (0, nan, 0)"),
        ((np.zeros((2, 3)), np.eye(3), 0, 2.0), "atoms 0 and 1 are in one place"),
        ((np.array([[0.0, 0, 0], [9.0, 0, 0]]), 3 * np.eye(3), 1, 2.0), "atoms 0 and 1 are in one place"),
        ((np.zeros((1, 3)), np.array([[1, 0, 0], [2, 0, 0], [0, 0, 1.0]]), 1, 2.0), "spans no volume"),
        ((np.zeros((1, 3)), np.zeros((3, 3)), (0, 0, 1), 2.0), "spans no volume"),
        ((np.zeros((1, 3)), np.array([[1, 0, 0], [2, 0, 0], [0, 0, 1.0]]), (1, 1, 0), 2.0), "spans no volume"),
        ((np.zeros((1, 3)), np.full((3, 3), np.inf), 1, 2.0), "spans no volume"),
        ((np.zeros((1, 3)), 0.001 * np.eye(3), 1, 5.0), "the cell is so small beside the cutoff of 5 angstrom"),
        ((np.array([[5e9, 0, 0]]), np.eye(3), 1, 2.0), "the position of atom 0 is"),
    ],
)
def test_what_has_no_neighbors_is_refused(search, system, message: str) -> None:
    results, printed = search([system])
    assert results[0][0] == 1
    assert message in printed[0]
