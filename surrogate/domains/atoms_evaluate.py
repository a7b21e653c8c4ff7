"""Scores of a potential beside the energies of its species alone, or of a property beside its mean and its composition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import logging
from typing import Any, cast

import numpy as np

from surrogate.atomistic.calculators import CalculatorPredictor
from surrogate.atomistic.calibration import calibration
from surrogate.atomistic.crystals import probe_crystals
from surrogate.atomistic.evaluate import score_predictions
from surrogate.atomistic.evaluation import Trained
from surrogate.atomistic.predict import ModelPredictor, Predicted
from surrogate.atomistic.probe_dynamics import large_enough, probe_dynamics
from surrogate.atomistic.reference_dynamics import reference_frames
from surrogate.core.types import PyTree, UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_settings import AtomsDataConfig
from surrogate.data.waiting import bar_for
from surrogate.domains.atoms_surrogate import without_labels
from surrogate.domains.base import Evaluation
from surrogate.metrics.atomistic import units_of

log = logging.getLogger(__name__)


def evaluate_atoms(domain: Any, graphdef: Any, params: PyTree, split: str = "test") -> Evaluation:
    """Score the frames of ``split``. The spreads of an ensemble are calibrated on the validation split first."""
    frames = domain.splits.get(split)
    units = {domain.meaning.target: domain.meaning.units}
    if frames is None or not len(frames):
        return Evaluation({}, {}, units, notes=[f"no {split} split was given, so nothing was scored"])
    if domain.meaning.target != "energy":
        return _evaluate_property(domain, graphdef, params, split, frames)
    return _evaluate_potential(domain, graphdef, params, split, frames)


def _evaluate_potential(domain: Any, graphdef: Any, params: PyTree, split: str, frames: Frames) -> Evaluation:
    """Errors; of an ensemble the uncertainty; crystals and dynamics, beside the method of the data where it is here."""
    notes: list[str] = []
    predictor = domain.predictor(graphdef, params)
    if domain.meaning.members:
        predictor.spread_factor = _calibrate(predictor, domain.splits.get("valid"), notes)
        domain.meaning = replace(domain.meaning, spread_factor=predictor.spread_factor)
    geometry = domain.meaning.geometry
    predicted = predictor(frames)
    scored = score_predictions(predicted, frames, dict(zip(geometry.species, geometry.references(), strict=True)))
    pictures, extra = dict(scored.pictures), {}
    if domain.meaning.members:
        try:
            reliable = calibration(predicted, frames)
        except UserError as error:  # a training that has ended well is not thrown away for it
            reliable = {}
            notes.append(f"the uncertainty could not be compared with the errors: {error}")
        extra["uncertainty"] = {name: found.summary() for name, found in reliable.items()}
        pictures["uncertainty"] = [found.picture() for found in reliable.values()]
    settings = domain.experiment.evaluate
    make_calculator = reference_method(domain.data)
    reference = None if make_calculator is None else CalculatorPredictor(make_calculator)
    names = domain.crystals
    if names:
        log.info("probing %s: equation of state, elastic constants, phonons", ", ".join(names))
        extra["crystals"], curves = probe_crystals(predictor, names, reference)
        pictures |= curves
    if settings.dynamics:
        extra["dynamics"], curves = _dynamics(domain, graphdef, params, frames, predicted, make_calculator)
        pictures |= curves
    units = units_of(scored.scores)
    return Evaluation(
        {split: cast(Any, scored.scores)}, cast(Any, scored.baselines), units, pictures={"atoms": pictures},
        notes=notes, extra=extra,
    )  # fmt: skip


def _calibrate(predictor: ModelPredictor, valid: Frames | None, notes: list[str]) -> tuple[float, float]:
    """Factors of the spreads of energies and forces; 1 where they cannot be found, with a note that says why."""
    if valid is None or not len(valid):
        notes.append("there is no validation split, so the ensemble's spreads are not calibrated")
        return 1.0, 1.0
    try:
        found = calibration(predictor(valid), valid)
    except UserError as error:
        notes.append(f"the ensemble's spreads are not calibrated: {error}")
        return 1.0, 1.0
    energy, forces = (found[k].factor if k in found else 1.0 for k in ("energy_per_atom", "forces"))
    return energy, forces


def reference_method(data: AtomsDataConfig) -> Callable[[], Any] | None:
    """What makes a calculator of the method behind the data, where that can be had here."""
    if data.source != "simulate":
        return None
    from surrogate.data.simulate_atoms import reference_calculator

    return reference_calculator


def _dynamics(
    domain: Any,
    graphdef: Any,
    params: PyTree,
    frames: Frames,
    predicted: Predicted,
    make_calculator: Callable[[], Any] | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Dynamics from the configuration of lowest energy per atom of those that are scored."""
    settings, meaning = domain.experiment.evaluate, domain.meaning
    start = without_labels(frames[int(np.argmin(predicted.energy / frames.row_size))])
    log.info("molecular dynamics from %s", start.place(0))
    model = Trained(graphdef, params, meaning.geometry, meaning.dtype, meaning.members, meaning.spread_factor)
    start = large_enough(start)
    known = None
    if make_calculator is not None and start.pbc.all():
        known = reference_frames(make_calculator, start, settings.temperature)
    with bar_for("molecular dynamics", "steps") as progress:
        table, pictures, _ = probe_dynamics(
            model, start, f"{start.place(0)}, {start.num_atoms} atoms", kelvin=settings.temperature,
            picoseconds=settings.dynamics, reference=known, reference_name="the data's method", progress=progress,
        )  # fmt: skip
    return table, pictures


def _evaluate_property(domain: Any, graphdef: Any, params: PyTree, split: str, frames: Frames) -> Evaluation:
    """MAE and RMSE of the property; baselines are its mean and a fit to the composition, both of the training split."""
    meaning, train = domain.meaning, domain.splits["train"]
    share = (lambda f: f.row_size) if meaning.pooling == "mean" else (lambda f: np.ones(len(f)))
    truth = cast(np.ndarray, frames.energy) / share(frames)
    known = meaning.reference_of(frames) / share(frames)
    guess = domain.predictor(graphdef, params)(frames).energy / share(frames)
    mean = np.full(len(frames), np.mean(train.energy / share(train)))

    def errors(values: np.ndarray) -> dict[str, float]:
        error = values - truth
        return {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}

    name = meaning.target
    scores: Any = {split: {name: errors(guess)}}
    baselines: Any = {"mean": {name: errors(mean)}, "composition": {name: errors(known)}}
    parity = {"key": name, "truth": truth, "predicted": guess, "units": meaning.units, "groups": None}
    return Evaluation(scores, baselines, {name: meaning.units}, pictures={"atoms": {"parity": [parity]}})
