"""Relaxing periodic cells: positions and cell vectors to where forces and stress vanish.

A quasi-Newton method on gradients alone (BFGS with limited steps and no line search; J. Nocedal and S. Wright, Numerical
Optimization, 2nd ed., section 6.1): energies in float32 are too coarse for a line search near the minimum, forces and
stresses are not. Variables are displacements of the atoms in the undeformed cell (Å) and a symmetric strain times a
length, chosen so that both are about equally stiff. Many cells are relaxed side by side, a call of the predictor a step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from surrogate.atomistic.predict import Predicted, Predictor
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames

Cell = Literal["free", "volume", "fixed"]  # what of the cell may change: everything, all but the volume, nothing

_STIFFNESS = 10.0  # eV/Å², of an atom in a crystal; the first guess of the Hessian
_MODULUS = 1.0  # eV/Å³ (160 GPa), likewise
_LONGEST, _MOST_STRAIN = 0.08, 0.03  # Å, and strain, a step
_I = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def relax(
    predictor: Predictor, frames: Frames, cell: Cell = "free", *,
    max_force: float = 2e-4, max_stress: float = 2e-5, max_steps: int = 200,
) -> tuple[Frames, Predicted]:  # fmt: skip
    """Frames at their nearest minimum, each by itself, and the predictions there.

    Args:
        frames: periodic in all directions.
        max_force: eV/Å, largest component of any force that is left.
        max_stress: eV/Å³, likewise of the stress (2e-5 is 0.003 GPa); of its deviator where the volume is kept.

    Raises:
        UserError: when a cell doubles or halves its volume, a prediction is not finite, or ``max_steps`` do not suffice.
    """
    if not frames.pbc.all():
        raise ValueError("only cells that are periodic in all directions are relaxed here")
    state = [_State(frames[i], cell) for i in range(len(frames))]
    found: list[Predicted | None] = [None] * len(frames)
    active = list(range(len(frames)))
    for _ in range(max_steps + 1):
        now = _together([state[i].frame for i in active], frames)
        predicted = predictor(now)
        going = []
        for place, i in enumerate(active):
            one = _part(predicted, now, place)
            found[i] = one
            if not (np.isfinite(one.forces).all() and np.isfinite(one.stress).all() and np.isfinite(one.energy).all()):
                raise UserError(f"{frames.place(i)}: energy, forces or stress are not finite while it is relaxed")
            if not state[i].converged(one, max_force, max_stress):
                going.append((i, one))
        if not going:
            break
        for i, one in going:
            state[i].step(one, frames.place(i))
        active = [i for i, _ in going]
    else:
        force = max(float(np.abs(one.forces).max()) for _, one in going)
        raise UserError(
            f"{frames.place(going[0][0])}: not relaxed after {max_steps} steps, a force of {force:.2g} eV/Å is left"
        )
    return _together([s.frame for s in state], frames), _joined([p for p in found if p is not None])


class _State:
    """One cell on its way."""

    def __init__(self, frame: Frames, cell: Cell) -> None:
        self.start, self.frame, self.mode = frame, frame, cell
        self.volume = float(frame.volume[0])
        self.length = np.sqrt(_MODULUS * self.volume / _STIFFNESS)
        self.size = 3 * frame.num_atoms + (0 if cell == "fixed" else 6)
        self.x = np.zeros(self.size)
        self.hessian = _STIFFNESS * np.eye(self.size)
        self.last: tuple[np.ndarray, np.ndarray] | None = None

    def deformation(self) -> np.ndarray:
        """(3, 3): 1 + strain."""
        if self.mode == "fixed":
            return np.eye(3)
        found = np.eye(3) + _matrix(self.x[-6:]) / self.length
        return found / np.cbrt(np.linalg.det(found)) if self.mode == "volume" else found

    def stress(self, predicted: Predicted) -> np.ndarray:
        sigma = predicted.stress[0]
        return sigma - np.trace(sigma) / 3 * np.eye(3) if self.mode == "volume" else sigma

    def converged(self, predicted: Predicted, max_force: float, max_stress: float) -> bool:
        forces = np.abs(predicted.forces).max() <= max_force
        return bool(forces and (self.mode == "fixed" or np.abs(self.stress(predicted)).max() <= max_stress))

    def gradient(self, predicted: Predicted) -> np.ndarray:
        """Of the energy, which is a function of ``x``: dE = −Σ F·d(u D) + V σ : dD D⁻¹ with D the deformation."""
        deformation = self.deformation()
        parts = [-(predicted.forces @ deformation).ravel()]
        if self.mode != "fixed":
            volume = float(self.frame.volume[0])
            virial = volume * self.stress(predicted) @ np.linalg.inv(deformation)
            virial = (virial + virial.T) / 2
            # An off-diagonal strain stands in two places of the matrix, so its derivative is the sum of both.
            parts.append(np.array([(1 if i == j else 2) * virial[i, j] for i, j in _I]) / self.length)
        return np.concatenate(parts)

    def step(self, predicted: Predicted, place: str) -> None:
        gradient = self.gradient(predicted)
        if self.last is not None:
            moved, change = self.x - self.last[0], gradient - self.last[1]
            along = float(moved @ change)
            if along > 1e-10 * float(np.linalg.norm(moved) * np.linalg.norm(change)):
                pushed = self.hessian @ moved
                self.hessian += np.outer(change, change) / along - np.outer(pushed, pushed) / float(moved @ pushed)
        self.last = self.x.copy(), gradient
        values, vectors = np.linalg.eigh(self.hessian)
        move = -vectors @ ((vectors.T @ gradient) / np.maximum(np.abs(values), 1e-3))
        longest = float(np.abs(move).max() / _LONGEST)
        if self.mode != "fixed":
            longest = max(longest, float(np.abs(move[-6:]).max() / self.length / _MOST_STRAIN))
        self.x = self.x + move / max(1.0, longest)
        deformation = self.deformation()
        moved_to = self.start.positions + self.x[: 3 * self.start.num_atoms].reshape(-1, 3)
        new = replace(self.start, positions=moved_to @ deformation, cell=self.start.cell @ deformation)
        ratio = float(new.volume[0]) / self.volume
        if not 0.5 < ratio < 2 or np.linalg.det(deformation) <= 0:
            raise UserError(f"{place}: the volume changed to {ratio:.2f} times the initial one while it was relaxed")
        self.frame = new


def _matrix(strain: np.ndarray) -> np.ndarray:
    """(6,) tensor components xx, yy, zz, yz, xz, xy → (3, 3)."""
    full = np.zeros((3, 3))
    for value, (i, j) in zip(strain, _I, strict=True):
        full[i, j] = full[j, i] = value
    return full


def _together(parts: list[Frames], like: Frames) -> Frames:
    """Single frames as one, without labels, which would be those of another geometry."""
    return Frames(
        np.concatenate([p.positions for p in parts]), np.concatenate([p.species for p in parts]),
        np.concatenate([p.cell for p in parts]), np.concatenate([p.pbc for p in parts]),
        np.concatenate([p.row_size for p in parts]), groups=like.groups,
        group=np.concatenate([p.group for p in parts]), frame=np.concatenate([p.frame for p in parts]),
    )  # fmt: skip


def _part(predicted: Predicted, frames: Frames, i: int) -> Predicted:
    rows = slice(int(frames.offsets[i]), int(frames.offsets[i + 1]))
    return Predicted(
        predicted.energy[i : i + 1], predicted.forces[rows], predicted.stress[i : i + 1], predicted.atom_energies[rows]
    )


def _joined(parts: list[Predicted]) -> Predicted:
    return Predicted(*(
        np.concatenate([getattr(p, name) for p in parts]) for name in ("energy", "forces", "stress", "atom_energies")
    ))  # fmt: skip
