"""Do forces and stresses belong to the energies? What no header says and every wrong sign or unit breaks.

Between two configurations of the same atoms the energy changes by the work of the forces and of the stress,

    ΔE ≈ −½ Σ (F₁·Δs C₁ + F₂·Δs C₂) + ½ (V₁ σ₁ : C₁⁻¹ΔC + V₂ σ₂ : C₂⁻¹ΔC),

with fractional coordinates s and cells C (rows): the trapezoidal rule, exact where the energy is quadratic. Fitted
over pairs that are close, ΔE = a W_forces + b W_stress gives a = b = 1 when names, units and signs are right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_checks import completed_cells

_MAX_FRAMES = 80  # of one composition that are compared with each other
_MAX_BUCKETS = 4
_MAX_ATOMS = 1000  # of a frame: beyond, all pairs of 80 would take a second
_MIN_PAIRS = 10
# Å an atom may have moved, plus 5 Å times the strain: as far as a crystal's energy is nearly quadratic.
_NEAR = 1.0
_CLEAR = 0.9  # fraction of the variance of ΔE that the fit must explain before a small factor is believed
_SURE = 0.97  # … before another order of the stress's components is
_SIGMAS = 5.0  # standard errors from zero before any factor is
# What mistakes look like: the factor that the values still need.
_MISTAKES = {
    -1.0: "the sign is reversed",
    51.4221: "they are in Hartree/Bohr",
    25.7110: "they are in Rydberg/Bohr",
    0.0433641: "they are in kcal/mol/Å, or the energies are not in kcal/mol",
    23.0605: "the energies are in kcal/mol",
    27.2114: "the energies are in eV and the others in Hartree, or the reverse",
    0.0367493: "the energies are in Hartree",
    0.529177: "lengths are in Bohr in one and in Å in the other",
    1.88973: "lengths are in Bohr in one and in Å in the other",
    0.00624151: "they are in GPa",
    -0.00624151: "they are in GPa with the sign reversed",
    0.000624151: "they are in kbar",
    -0.000624151: "they are in kbar with the sign reversed",
}


@dataclass(frozen=True)
class Consistency:
    """What the fit found.

    Attributes:
        pairs: how many pairs of configurations there were.
        explained: fraction of the mean square of ΔE that the fit explains.
        forces, stress: the factors a and b with their standard errors; ``None`` where the pairs do not determine them.
    """

    pairs: int
    explained: float = 0.0
    forces: tuple[float, float] | None = None
    stress: tuple[float, float] | None = None


def check_consistency(frames: Frames) -> Consistency:
    """Refuse forces or stresses that clearly do not belong to the energies.

    Only clear cases. Where configurations are too far apart for a quadratic energy, the factor comes out too small,
    never negative and never large: those two are refused when five standard errors from zero, a factor below a half
    only where the fit explains 90%. Data without close pairs are left alone.

    Raises:
        UserError: with the factor that was found, and the mistake that it looks like; or for components of the stress
            that explain the energies in another order only.
    """
    found = measure_consistency(frames)
    if found.explained < _CLEAR:
        _check_order(frames, found)
    for kind in ("forces", "stress"):
        if (fitted := getattr(found, kind)) is None:
            continue
        factor, error = fitted
        clear = abs(factor) > _SIGMAS * error
        if not clear or 0.5 <= factor <= 2.5 or (0 < factor < 0.5 and found.explained < _CLEAR):
            continue
        guess = next((text for value, text in _MISTAKES.items() if abs(factor / value - 1) < 0.1), None)
        if guess is None:
            guess = "the sign is reversed" if factor < 0 else "check their units"
        raise UserError(
            f"{frames.groups[0]}: between {found.pairs} pairs of similar frames the energy changes by {factor:.3g} ± "
            f"{error:.1g} times the work of the {kind}, and should by 1 (read as {frames.labels.get(kind, kind)}): {guess}; "
            "data.check_consistency=false trains on them as they are"
        )
    return found


def _check_order(frames: Frames, found: Consistency) -> None:
    """Would the stress fit if its last three components were meant in the other of the two common orders?"""
    if frames.stress is None or found.pairs < _MIN_PAIRS:
        return
    ase = ((1, 2), (0, 2), (0, 1))  # yz, xz, xy
    vasp = ((0, 1), (1, 2), (0, 2))  # xy, yz, xz
    for read_as, meant in ((ase, vasp), (vasp, ase)):
        stress = frames.stress.copy()
        for (i, j), (a, b) in zip(read_as, meant, strict=True):
            stress[:, a, b] = stress[:, b, a] = frames.stress[:, i, j]
        other = measure_consistency(replace(frames, stress=stress))
        if other.explained > _SURE and other.explained > found.explained + 0.1:
            names = [",".join("xyz"[i] + "xyz"[j] for i, j in pairs) for pairs in (read_as, meant)]
            raise UserError(
                f"{frames.groups[0]}: between {found.pairs} pairs of similar frames forces and stress explain "
                f"{100 * found.explained:.0f}% of the changes of the energy, and {100 * other.explained:.0f}% when the last "
                f"three components of the stress are {names[1]} and not {names[0]}: its order is wrong "
                f"(read as {frames.labels.get('stress', 'stress')}); data.check_consistency=false trains on it as it is"
            )


def measure_consistency(frames: Frames) -> Consistency:
    """The factors a and b, by least squares."""
    if frames.energy is None or (frames.forces is None and frames.stress is None):
        return Consistency(0)
    rows = [row for members in _buckets(frames) for row in _works(frames, members)]
    if len(rows) < _MIN_PAIRS:
        return Consistency(len(rows))
    change, by_forces, by_stress = np.array(rows).T
    columns = {"forces": by_forces, "stress": by_stress}
    size = {k: float(np.sqrt(np.mean(v**2))) for k, v in columns.items()}
    scale = float(np.sqrt(np.mean(change**2)))
    used = [k for k in columns if size[k] > 0]
    if not used or scale == 0:
        return Consistency(len(rows))
    matrix = np.stack([columns[k] / size[k] for k in used], axis=-1)
    weights, *_ = np.linalg.lstsq(matrix, change, rcond=None)
    left = float(np.mean((change - matrix @ weights) ** 2))
    spread = np.sqrt(np.diag(np.linalg.pinv(matrix.T @ matrix)) * left)
    factors = {
        kind: (float(weight / size[kind]), float(error / size[kind]))
        for kind, weight, error in zip(used, weights, spread, strict=True)
        if abs(weight) > 0.2 * scale  # what contributes next to nothing is not determined, and must not be judged
    }
    return Consistency(len(rows), 1 - left / scale**2, factors.get("forces"), factors.get("stress"))


def _buckets(frames: Frames) -> list[np.ndarray]:
    """Numbers of frames with the same atoms in the same order, the largest sets first."""
    offsets = frames.offsets
    sets: dict[bytes, list[int]] = {}
    labelled = np.ones(len(frames), bool) if frames.stress is None else frames.has_stress | ~frames.pbc.any(1)
    for i in np.flatnonzero((frames.row_size <= _MAX_ATOMS) & labelled):
        key = frames.species[offsets[i] : offsets[i + 1]].tobytes() + frames.pbc[i].tobytes()
        sets.setdefault(key, []).append(int(i))
    largest = sorted(sets.values(), key=len, reverse=True)[:_MAX_BUCKETS]
    # A run of neighbours from the middle of the set's frames would all be one trajectory; spread them.
    return [
        np.array(m)[np.linspace(0, len(m) - 1, min(len(m), _MAX_FRAMES)).astype(int)] for m in largest if len(m) > 1
    ]


def _works(frames: Frames, members: np.ndarray) -> list[tuple[float, float, float]]:
    """(ΔE, W_forces, W_stress) of each member and the member nearest to it."""
    part = frames[members]
    num, atoms = len(part), int(part.row_size[0])
    cells = completed_cells(part)
    reduced = np.einsum("nai,nij->naj", part.positions.reshape(num, atoms, 3), np.linalg.inv(cells))
    periodic = part.pbc[0]
    volume = np.abs(np.linalg.det(part.cell))
    forces = np.zeros((num, atoms, 3)) if part.forces is None else part.forces.reshape(num, atoms, 3)
    stress = np.zeros((num, 3, 3)) if part.stress is None else np.nan_to_num(part.stress)
    energy = np.asarray(part.energy)
    rows: dict[tuple[int, int], tuple[float, float, float]] = {}
    for i in range(num):
        step = reduced - reduced[i]
        step = np.where(periodic, step - np.round(step), step)
        strain = np.einsum("ij,njk->nik", np.linalg.inv(cells[i]), cells - cells[i])
        # Forces give no work when all atoms move together: leave the drift out of the distance.
        moved = np.einsum("nai,ij->naj", step - step.mean(1, keepdims=True), cells[i])
        far = np.sqrt((moved**2).sum(2).max(1)) + 5 * np.abs(strain).max((1, 2))
        far[i] = np.inf
        same = (np.abs(step).max((1, 2)) < 1e-12) & (np.abs(strain).max((1, 2)) < 1e-12)
        far[same] = np.inf
        if part.stress is None:
            far[np.abs(strain).max((1, 2)) > 1e-9] = np.inf  # the work of the cell would be missing
        if part.forces is None:
            far[np.abs(moved).max((1, 2)) > 1e-6] = np.inf
        j = int(np.argmin(far))
        if far[j] > _NEAR:
            continue
        pair = (min(i, j), max(i, j))
        back = np.linalg.inv(cells[j]) @ (cells[j] - cells[i])
        by_forces = -0.5 * float(np.sum(forces[i] * (step[j] @ cells[i])) + np.sum(forces[j] * (step[j] @ cells[j])))
        by_stress = 0.5 * float(volume[i] * np.sum(stress[i] * strain[j]) + volume[j] * np.sum(stress[j] * back))
        rows[pair] = (float(energy[j] - energy[i]), by_forces, by_stress)
    return list(rows.values())
