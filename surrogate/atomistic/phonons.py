"""Phonons by finite displacements: force constants from forces in a supercell, frequencies anywhere in the zone.

    K. Parlinski, Z. Q. Li and Y. Kawazoe, 1997: First-principles determination of the soft mode in cubic ZrO2. Physical
    Review Letters 78, 4063–4066.

An atom moved by u gives forces F on all others: Φ = −∂F/∂u, central differences in three directions for every atom of
the primitive cell. With D_κα,κ'β(q) = Σ_R Φ(0κα, Rκ'β) exp(2πi q·R) / √(m_κ m_κ'), frequencies are the roots of its
eigenvalues (M. Born and K. Huang, 1954: Dynamical Theory of Crystal Lattices, section 38). In a periodic supercell the
force constant to an atom belongs to its nearest image, in equal shares to several that are equally near.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from surrogate.atomistic.predict import Predictor
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.masses import masses_of

# THz of 1 √(eV/Å²/u): √(eV/u) = 9822.6947 m/s, per Å, over 2π.
THZ = 15.633304
_MOST_ATOMS = 512


@dataclass(frozen=True)
class ForceConstants:
    """Force constants of a crystal with P atoms in its primitive cell, from a supercell of ``grid`` cells.

    Attributes:
        cell: (3, 3) Å, rows; ``positions``: (P, 3) Å; ``masses``: (P,) u.
        grid: cells along each vector; N in all.
        values: (P, 3, N, P, 3) eV/Å², Φ(0κα, Rκ'β), R in C order over ``grid``. Symmetric, and zero when all atoms move
            together (the acoustic sum rule).
        broken_sum_rule: eV/Å², largest |Σ Φ(0κα, Rκ'β)| over R and κ' before the rule was imposed: what rounding and the
            finite displacement do.
    """

    cell: np.ndarray
    positions: np.ndarray
    masses: np.ndarray
    grid: tuple[int, int, int]
    values: np.ndarray
    broken_sum_rule: float

    def frequencies(self, wave_vectors: np.ndarray) -> np.ndarray:
        """(K, 3 P) THz, ascending; an imaginary frequency (unstable) is given as a negative number.

        Args:
            wave_vectors: (K, 3) in units of the reciprocal vectors.
        """
        q = np.atleast_2d(np.asarray(wave_vectors, float))
        num = len(self.masses)
        dynamical = np.zeros((len(q), num, 3, num, 3), complex)
        for a, b, rows, images, shares in self._images():
            phase = np.exp(2j * np.pi * (q @ images.T)) * shares
            dynamical[:, a, :, b, :] = np.einsum("ke,eij->kij", phase, self.values[a, :, rows, b, :])
        root = np.sqrt(self.masses)
        dynamical /= root[None, :, None, None, None] * root[None, None, None, :, None]
        matrix = dynamical.reshape(len(q), 3 * num, 3 * num)
        squares = np.linalg.eigvalsh((matrix + matrix.conj().transpose(0, 2, 1)) / 2)
        return THZ * np.sign(squares) * np.sqrt(np.abs(squares))

    def _images(self) -> Iterator[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]]:
        """For each pair of atoms (a, b): indices of R, lattice vectors of the nearest images (E, 3), their shares (E,)."""
        cells = _cells(self.grid)
        shifts = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3) * np.array(self.grid)
        for a in range(len(self.masses)):
            for b in range(len(self.masses)):
                images = cells[:, None] + shifts[None]  # (N, 125, 3)
                distance = np.linalg.norm(images @ self.cell + self.positions[b] - self.positions[a], axis=-1)
                near = distance < distance.min(1, keepdims=True) + 1e-3
                rows, which = np.nonzero(near)
                yield a, b, rows, images[rows, which], 1 / near.sum(1)[rows]


@dataclass(frozen=True)
class Dispersion:
    """Frequencies along a path.

    Attributes:
        distance: per segment (K,) Å⁻¹ along the path (without 2π), going on from segment to segment.
        frequencies: per segment (K, 3 P) THz, negative for imaginary ones.
        labels: (distance, name) of the points of high symmetry.
        points: name → (3 P,) THz there.
    """

    distance: tuple[np.ndarray, ...]
    frequencies: tuple[np.ndarray, ...]
    labels: tuple[tuple[float, str], ...]
    points: dict[str, np.ndarray]

    @property
    def lowest(self) -> float:
        """THz; below about −0.1 the crystal is unstable."""
        return float(min(f.min() for f in self.frequencies))


def force_constants(
    predictor: Predictor, relaxed: Frames, grid: tuple[int, int, int] | None = None, displacement: float = 0.01
) -> ForceConstants:
    """Of one relaxed frame, the primitive cell.

    Args:
        grid: cells of the supercell along each vector; by default :func:`supercell`.
        displacement: Å; the error of a central difference goes with its square, rounding with its inverse.

    Raises:
        UserError: when a force is not finite.
    """
    grid = supercell(relaxed) if grid is None else grid
    num, cells = relaxed.num_atoms, _cells(grid)
    big = (cells @ relaxed.cell[0])[:, None] + relaxed.positions[None]  # (N, P, 3): R outermost
    size = len(cells) * num
    moves = [(a, axis, sign) for a in range(num) for axis in range(3) for sign in (1, -1)]
    positions = np.repeat(big.reshape(1, size, 3), len(moves), axis=0)
    for frame, (a, axis, sign) in enumerate(moves):
        positions[frame, a, axis] += sign * displacement
    frames = Frames(
        positions.reshape(-1, 3), np.tile(relaxed.species, len(cells) * len(moves)),
        np.repeat((relaxed.cell * np.array(grid)[None, :, None]), len(moves), axis=0), np.ones((len(moves), 3), bool),
        np.full(len(moves), size), groups=(f"{relaxed.groups[0]} displaced",),
    )  # fmt: skip
    forces = predictor(frames).forces.reshape(num, 3, 2, len(cells), num, 3)
    if not np.isfinite(forces).all():
        raise UserError(f"{relaxed.groups[0]}: a force is not finite when an atom is moved by {displacement} Å")
    values = -(forces[:, :, 0] - forces[:, :, 1]) / (2 * displacement)
    values, broken = _impose(values, grid)
    return ForceConstants(
        relaxed.cell[0], relaxed.positions, masses_of(relaxed.species, relaxed.place(0)), grid, values, broken
    )


def dispersion(
    constants: ForceConstants, path: Sequence[Sequence[tuple[str, np.ndarray]]], density: float = 150.0
) -> Dispersion:  # fmt: skip
    """Frequencies along ``path``: segments of (name, wave vector in units of the reciprocal vectors).

    Args:
        density: points per Å⁻¹ of the path, both ends of every piece among them.
    """
    reciprocal = np.linalg.inv(constants.cell).T
    start, labels = 0.0, []
    points: dict[str, np.ndarray] = {}
    distances, frequencies = [], []
    for segment in path:
        along, wave_vectors = [np.array([start])], [np.asarray(segment[0][1], float)[None]]
        labels.append((start, segment[0][0]))
        for (_, a), (name, b) in pairwise(segment):
            length = float(np.linalg.norm((b - a) @ reciprocal))
            fraction = np.linspace(0, 1, max(8, round(density * length)) + 1)[1:]
            along.append(start + fraction * length)
            wave_vectors.append(a + fraction[:, None] * (b - a))
            start += length
            labels.append((start, name))
        found = constants.frequencies(np.concatenate(wave_vectors))
        distances.append(np.concatenate(along))
        frequencies.append(found)
        for name, at in segment:
            points.setdefault(name, constants.frequencies(at)[0])
    return Dispersion(tuple(distances), tuple(frequencies), tuple(labels), points)


def supercell(frame: Frames, length: float = 15.0) -> tuple[int, int, int]:
    """Cells along each vector so that an atom and its image are ``length`` Å apart.

    Force constants reach twice a potential's cutoff, and in a supercell that is shorter soft branches near Γ turn
    imaginary: lithium's at 10 Å with a cutoff of 7, while 15 and 25 Å agree. Even numbers, which make points on the
    faces of the zone exact, where that keeps to 512 atoms.
    """
    cells = np.maximum(1, np.ceil(length / np.linalg.norm(frame.cell[0], axis=1)).astype(int))
    even = cells + cells % 2
    chosen = even if even.prod() * frame.num_atoms <= _MOST_ATOMS else cells
    return int(chosen[0]), int(chosen[1]), int(chosen[2])


def _cells(grid: tuple[int, int, int]) -> np.ndarray:
    """(N, 3) lattice vectors of the cells of a supercell, C order."""
    return np.stack(np.meshgrid(*[np.arange(n) for n in grid], indexing="ij"), -1).reshape(-1, 3)


def _impose(values: np.ndarray, grid: tuple[int, int, int]) -> tuple[np.ndarray, float]:
    """Symmetry Φ(0κα, Rκ'β) = Φ(0κ'β, −Rκα) and the acoustic sum rule; and how far the rule was from being kept.

    The sum over R is projected onto what is zero when all atoms move together, and the difference is put at R = 0:
    the least change, and symmetric.
    """
    num = values.shape[0]
    broken = float(np.abs(values.sum((2, 3))).max())
    opposite = np.ravel_multi_index(tuple((-_cells(grid) % np.array(grid)).T), grid)
    values = (values + values[:, :, opposite].transpose(3, 4, 2, 0, 1)) / 2
    total = values.sum(2).reshape(3 * num, 3 * num)
    together = np.tile(np.eye(3), (num, 1)) / np.sqrt(num)
    project = np.eye(3 * num) - together @ together.T
    change = project @ total @ project - total
    values[:, :, 0] += change.reshape(num, 3, num, 3)
    return values, broken
