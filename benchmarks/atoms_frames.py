"""Frames for the benchmarks of potentials, in a file that the references read without this package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from surrogate.data.atoms import Frames

LATTICE = 5.43  # Å, silicon


def rattled_silicon(frames: int, cells: int = 2, displacement: float = 0.1) -> Frames:
    """``frames`` diamond crystals of ``cells``³ cubes of 8 atoms, displaced at random (Å), with random labels."""
    rng = np.random.default_rng(0)
    corner = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0]]) / 4
    basis = np.concatenate([corner, corner + 0.25])
    origins = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    ideal = LATTICE * (origins + basis).reshape(-1, 3)
    atoms = frames * len(ideal)
    return Frames(
        positions=np.concatenate([ideal + rng.normal(0, displacement, ideal.shape) for _ in range(frames)]),
        species=np.full(atoms, 14),
        cell=np.tile(cells * LATTICE * np.eye(3), (frames, 1, 1)),
        pbc=np.ones((frames, 3), bool),
        row_size=np.full(frames, len(ideal)),
        energy=-4.6 * len(ideal) + rng.normal(0, 1, frames),
        forces=rng.normal(0, 0.5, (atoms, 3)),
    )


def write_frames(path: Path, parts: dict[str, Frames]) -> None:
    """Fully periodic frames of all parts in one file; those of the part ``test`` are marked as held out."""
    names = ("positions", "forces", "cell", "energy", "row_size")
    arrays = {name: np.concatenate([getattr(f, name) for f in parts.values()]) for name in names}
    numbers = np.concatenate([f.species for f in parts.values()])
    held = np.concatenate([np.full(len(f), name == "test") for name, f in parts.items()])
    if not all(f.pbc.all() for f in parts.values()):
        raise SystemExit("the references are built for frames that are periodic in all directions")
    np.savez(path, numbers=numbers, held=held, **arrays)
