"""Scores of predictions for frames beside the constant energies of the species, and the arrays of parity plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from surrogate.atomistic.predict import Predicted, Predictor
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.elements import SYMBOLS
from surrogate.metrics.atomistic import UNITS, ErrorTable

BASELINE = "constant_energy"
_MEV = 1000.0


class Scored(NamedTuple):
    """What :func:`evaluate_frames` found.

    ``scores``: variable → metric → value; ``baselines``: name → scores. ``pictures["parity"]``: keyword arguments of
    ``surrogate.run.plots.Parity``, one a variable.
    """

    scores: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, dict[str, float]]]
    pictures: dict[str, Any]


def evaluate_frames(
    predictor: Predictor, frames: Frames, references: Mapping[int, float] | np.ndarray
) -> Scored:  # fmt: skip
    """Predict ``frames`` and score what they have labels for.

    ``energy_per_atom`` (meV/atom, one value a frame), ``forces`` (eV/Å, components), ``forces@Cu`` by element where
    there are several, and ``stress`` (eV/Å³, nine components) of the frames that have one; each with ``mae``, ``rmse``
    and ``max_error``. The baseline ``constant_energy`` gives every atom the energy of its species and so neither force
    nor stress.

    Args:
        references: eV an atom, by atomic number (a mapping, or an array whose index is the atomic number): as fitted on
            the training split.

    Raises:
        UserError: for frames without labels, none at all, or an element without a reference energy.
    """
    if not len(frames):
        raise UserError("there are no frames to score")
    return score_predictions(predictor(frames), frames, references)


def score_predictions(
    predicted: Predicted, frames: Frames, references: Mapping[int, float] | np.ndarray
) -> Scored:  # fmt: skip
    """As :func:`evaluate_frames`, of predictions made before."""
    if frames.energy is None and frames.forces is None and not frames.has_stress.any():
        raise UserError(f"{frames.place(0)} has neither energy nor forces nor stress to score against")
    surrogate, constant = ErrorTable(), ErrorTable()
    parity: list[dict[str, Any]] = []
    size = frames.row_size
    if frames.energy is not None:
        baseline = constant_energies(frames, references)
        for table, energy in ((surrogate, predicted.energy), (constant, baseline)):
            table.add("energy_per_atom", _MEV * (energy - frames.energy) / size)
        # Energies themselves differ by thousands of eV between compositions; what is left after the constants is the
        # part that a model has to find.
        parity.append(_parity("energy_per_atom", (frames.energy - baseline) / size, (predicted.energy - baseline) / size,
                              "eV/atom"))  # fmt: skip
    if frames.forces is not None:
        elements = np.unique(frames.species)
        zero = np.zeros_like(frames.forces)
        for table, forces in ((surrogate, predicted.forces), (constant, zero)):
            error = forces - frames.forces
            table.add("forces", error)
            for z in elements if len(elements) > 1 else ():
                table.add(f"forces@{SYMBOLS[z]}", error, frames.species == z)
        groups = np.repeat(np.array(SYMBOLS)[frames.species], 3) if len(elements) > 1 else None
        parity.append(_parity("forces", frames.forces, predicted.forces, UNITS["forces"], groups))
    having = frames.has_stress
    if having.any():
        target = frames.stress[having]  # type: ignore[index]
        surrogate.add("stress", predicted.stress[having] - target)
        constant.add("stress", -target)
        upper = (slice(None), *np.triu_indices(3))
        parity.append(_parity("stress", target[upper], predicted.stress[having][upper], UNITS["stress"]))
    return Scored(surrogate.scores(), {BASELINE: constant.scores()}, {"parity": parity})


def constant_energies(frames: Frames, references: Mapping[int, float] | np.ndarray) -> np.ndarray:
    """(n,) eV: sums of the reference energies of the atoms.

    Raises:
        UserError: for an element without one.
    """
    table = dict(references) if isinstance(references, Mapping) else dict(enumerate(np.asarray(references, float)))
    numbers, inverse = np.unique(frames.species, return_inverse=True)
    for z in numbers:
        if not np.isfinite(table.get(int(z), np.nan)):
            known = ", ".join(SYMBOLS[int(k)] for k in table) if isinstance(references, Mapping) else "others"
            raise UserError(f"there is no reference energy of {SYMBOLS[z]}, only of {known}")
    each = np.array([table[int(z)] for z in numbers], float)[inverse]
    totals = np.zeros(len(frames))
    np.add.at(totals, frames.frame_of_atom, each)
    return totals


def _parity(
    key: str, truth: np.ndarray, predicted: np.ndarray, units: str, groups: np.ndarray | None = None
) -> dict[str, Any]:
    return {"key": key, "truth": truth.ravel(), "predicted": predicted.ravel(), "units": units, "groups": groups}
