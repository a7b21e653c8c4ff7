"""Calling the C test program with systems, whole or cut up as an MD code would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from potentials import System


@dataclass(frozen=True)
class Given:
    """What is put into a ``surrogate_system``; ``index`` are the atoms that positions are of, ghosts last."""

    positions: np.ndarray
    numbers: np.ndarray
    num_ghosts: int = 0
    cell: np.ndarray | None = None
    pbc: tuple[bool, ...] = (False,) * 3
    owners: np.ndarray | None = None
    lists: list[np.ndarray] | None = None
    index: np.ndarray | None = None

    def bytes(self) -> bytes:
        lists = self.lists or []
        head = [
            len(self.numbers) - self.num_ghosts, self.num_ghosts, self.owners is not None, len(lists),
            sum(map(len, lists)), *self.pbc, self.cell is not None,
        ]  # fmt: skip
        cell = np.zeros((3, 3)) if self.cell is None else self.cell
        parts = [np.array(head, np.int64), np.array(cell, np.float64), np.array(self.positions, np.float64),
                 np.array(self.numbers, np.int32)]  # fmt: skip
        if self.owners is not None:
            parts.append(np.array(self.owners, np.int32))
        if lists:
            parts += [np.array([len(n) for n in lists], np.int32), np.concatenate(lists).astype(np.int32)]
        return b"".join(p.tobytes() for p in parts)


def whole(system: System) -> Given:
    return Given(system.positions, system.numbers, cell=system.cell, pbc=tuple(map(bool, system.pbc)))


def process(system: System, mine: np.ndarray, reach: float) -> Given:
    """The atoms ``mine`` of one process, with all copies of atoms within ``reach`` of one of them as ghosts."""
    spans = [range(-4, 5) if p else (0,) for p in system.pbc]
    places, owners = [], []
    for shift in itertools.product(*spans):
        images = system.positions + np.array(shift, float) @ system.cell
        near = np.linalg.norm(images[:, None] - system.positions[mine][None], axis=-1).min(1) < reach
        if shift == (0, 0, 0):
            near[mine] = False
        places.append(images[near])
        owners.append(np.flatnonzero(near))
    index = np.concatenate([mine, *owners])
    positions = np.concatenate([system.positions[mine], *places])
    return Given(positions, system.numbers[index], len(index) - len(mine), system.cell, index=index)


def with_lists(given: Given, num_lists: int, radius: float, owners: bool = False) -> Given:
    """With the full neighbor lists of the first ``num_lists`` atoms, marked as LAMMPS marks bonds in the upper bits."""
    lists = []
    for i in range(num_lists):
        near = np.linalg.norm(given.positions - given.positions[i], axis=1) < radius
        near[i] = False
        lists.append(np.flatnonzero(near) | (1 << 30))
    count = len(given.numbers) - given.num_ghosts
    where = np.argsort(given.index[:count])[given.index[count:]] if owners and given.index is not None else None
    return Given(given.positions, given.numbers, given.num_ghosts, given.cell, given.pbc, where, lists, given.index)


def atoms_in_c(
    program: Callable[[str], Path], run: Callable[..., Any], bundle: Path, systems: Sequence[Given], folder: Path,
    threads: int = 0, calls: int = 0,
) -> tuple[list[dict[str, Any]], list[str]]:  # fmt: skip
    """Results of each system (``status`` alone for one that was refused), and the lines that were printed."""
    (folder / "in").write_bytes(b"".join(g.bytes() for g in systems))
    done = run(program("atoms.c"), bundle, folder / "in", folder / "out", threads, calls)
    assert done.returncode == 0, done.stderr
    values, at, results = np.fromfile(folder / "out"), 0, []

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        size = int(np.prod(shape, dtype=int))
        at += size
        return values[at - size : at].reshape(shape)

    for given in systems:
        everyone = len(given.numbers)
        found: dict[str, Any] = {"status": int(take()), "energy": float(take())}
        found |= {"virial": take(3, 3), "stress": take(3, 3)}
        found["used"] = tuple(int(x) for x in take(3))
        if found["status"] == 0:
            found |= {"forces": take(everyone, 3), "atom_energies": take(everyone - given.num_ghosts)}
            found["atom_virials"] = take(everyone, 3, 3)
        results.append(found)
    assert at == len(values)
    return results, done.stdout.splitlines()


def summed(system: System, parts: Sequence[tuple[Given, dict[str, Any]]]) -> dict[str, Any]:
    """Results of processes put together: forces on ghosts go back to the atoms that they are copies of."""
    n = len(system.numbers)
    forces, energies = np.zeros((n, 3)), np.zeros(n)
    for given, found in parts:
        assert given.index is not None
        np.add.at(forces, given.index, found["forces"])
        energies[given.index[: len(found["atom_energies"])]] += found["atom_energies"]
    return {
        "energy": sum(found["energy"] for _, found in parts), "forces": forces, "atom_energies": energies,
        "virial": sum(found["virial"] for _, found in parts),
    }  # fmt: skip
