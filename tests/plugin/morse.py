"""Small alloys and clusters whose energies, forces and stresses are those of Morse pairs."""

from __future__ import annotations

from typing import Any

import numpy as np

from surrogate.data.atoms import Frames
from surrogate.models.neighbors import neighbor_list

DEPTH, WIDTH, LENGTH, CUTOFF = 0.4, 1.6, 2.6, 5.0  # eV, 1/Å, Å
ALONE = {29: -3.5, 79: -2.0}  # eV an atom


def morse(
    positions: np.ndarray, species: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces and stress of Morse pairs, smoothly ended at the cutoff, stronger between unlike species."""
    found = neighbor_list(positions, cell, pbc, CUTOFF)
    i, j = found.receivers, found.senders
    d = positions[j] - positions[i] + found.shifts @ cell
    r = np.linalg.norm(d, axis=1)
    depth = DEPTH * np.where(species[i] == species[j], 1.0, 1.5)
    e = np.exp(-WIDTH * (r - LENGTH))
    well, slope = depth * (e * e - 2 * e), -2 * WIDTH * depth * (e * e - e)
    x = r / CUTOFF
    fade, fall = (1 - x**2) ** 2, -4 * x * (1 - x**2) / CUTOFF
    energy, derivative = well * fade, slope * fade + well * fall
    pull = (0.5 * derivative / r)[:, None] * d
    forces = np.zeros_like(positions)
    np.add.at(forces, i, pull)
    np.add.at(forces, j, -pull)
    volume = abs(np.linalg.det(cell)) if pbc.all() else np.nan
    stress = np.einsum("ea,eb->ab", pull, d) / volume
    return 0.5 * energy.sum() + sum(ALONE[int(z)] for z in species), forces, stress


def make_frames(count: int, seed: int = 0) -> Frames:
    """Small periodic alloys and clusters of 4 to 9 atoms."""
    rng = np.random.default_rng(seed)
    sites = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    parts: dict[str, list[Any]] = {
        k: [] for k in ("positions", "species", "cell", "pbc", "row_size", "energy", "forces", "stress")
    }
    for n in range(count):
        if n % 3 == 2:
            grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)
            positions = 2.6 * grid[rng.permutation(27)[: rng.integers(4, 10)]] + rng.normal(0, 0.15, 3)
            positions = positions + rng.normal(0, 0.12, positions.shape)
            cell, pbc = np.zeros((3, 3)), np.zeros(3, bool)
        else:
            cell = 3.8 * np.eye(3) * rng.uniform(0.95, 1.08) + rng.normal(0, 0.05, (3, 3))
            positions, pbc = sites @ cell + rng.normal(0, 0.1, (4, 3)), np.ones(3, bool)
        species = rng.choice([29, 79], len(positions)).astype(np.int32)
        energy, forces, stress = morse(positions, species, cell, pbc)
        values = (positions, species, cell, pbc, len(positions), energy, forces, stress)
        for name, value in zip(parts, values, strict=True):
            parts[name].append(value)
    joined = {
        k: np.concatenate(v) if k in ("positions", "species", "forces") else np.stack(v) for k, v in parts.items()
    }
    return Frames(**joined, properties={"charm": joined["energy"] / joined["row_size"]}, property_units={"charm": "eV"})
