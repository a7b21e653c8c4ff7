"""Scores of a potential beside the energies of its species alone, or of a property beside its mean and its composition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np

from surrogate.atomistic.calibration import calibration
from surrogate.atomistic.evaluate import evaluate_frames
from surrogate.core.types import PyTree
from surrogate.data.atoms import Frames
from surrogate.domains.base import Evaluation


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
    notes: list[str] = []
    if domain.meaning.members:
        domain.meaning = replace(domain.meaning, spread_factor=(1.0, 1.0))
        valid = domain.splits.get("valid")
        if valid is None:
            notes.append("there is no validation split, so the ensemble's spreads are not calibrated")
        else:
            found = calibration(domain.predictor(graphdef, params)(valid), valid)
            factors = tuple(found[k].factor if k in found else 1.0 for k in ("energy_per_atom", "forces"))
            domain.meaning = replace(domain.meaning, spread_factor=factors)
    predictor = domain.predictor(graphdef, params)
    geometry = domain.meaning.geometry
    references = dict(zip(geometry.species, geometry.references(), strict=True))
    scored = evaluate_frames(predictor, frames, references)
    return Evaluation(
        {split: cast(Any, scored.scores)}, cast(Any, scored.baselines), {}, pictures={"atoms": scored.pictures}, notes=notes
    )  # fmt: skip


def _evaluate_property(domain: Any, graphdef: Any, params: PyTree, split: str, frames: Frames) -> Evaluation:
    """MAE and RMSE of the property; baselines are its mean and a fit to the composition, both of the training split."""
    meaning, train = domain.meaning, domain.splits["train"]
    share = (lambda f: f.row_size) if meaning.pooling == "mean" else (lambda f: np.ones(len(f)))
    truth = frames.energy / share(frames)
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
