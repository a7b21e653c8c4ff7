"""All pictures of a run, to files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import re
from typing import Any

from surrogate.run.plots.atoms import AtomsPictures, draw_atoms
from surrogate.run.plots.maps import MapPicture, field_map
from surrogate.run.plots.rollout import MOST as MOST_ROLLOUTS
from surrogate.run.plots.rollout import RolloutSeries, rollout
from surrogate.run.plots.scorecard import scorecard
from surrogate.run.plots.skill import MOST, skill
from surrogate.run.plots.spectra import Spectrum, spectra
from surrogate.run.plots.training import training
from surrogate.run.scores import by_lead, compare, headline_metric, held_out, metrics_of
from surrogate.run.style import Picture, lead_words, metric_name

_DPI = 144


@dataclass(frozen=True)
class Pictures:
    """Array data for the pictures of a run; what is empty is not drawn.

    Attributes:
        units: variable key → units, for the axes of the scores; units of maps and rollouts are added.
    """

    maps: Sequence[MapPicture] = ()
    spectra: Sequence[Spectrum] = ()
    rollout: Sequence[RolloutSeries] = ()
    atoms: AtomsPictures = field(default_factory=AtomsPictures)
    units: Mapping[str, str] = field(default_factory=dict)

    def all_units(self) -> dict[str, str]:
        return {m.key: m.units for m in self.maps} | {s.key: s.units for s in self.rollout} | dict(self.units)


def write_plots(
    directory: Path | str, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], pictures: Pictures
) -> list[Path]:
    """Draw everything that the data allow and write it as ``directory/*.png``, in the order of a report.

    The caption is inside each PNG (text field ``Description``), so that a picture on its own says what it shows.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    split, scores = held_out(summary)
    baselines = summary.get("baselines") or {}
    units = dict(summary.get("units") or {}) | pictures.all_units()
    written: list[Path] = []

    def write(name: str, figure: Picture, caption: str) -> None:
        path = directory / f"{name}.png"
        figure.savefig(path, dpi=_DPI, metadata={"Description": caption, "Software": None})
        written.append(path)

    comparable = any(
        compare(scores, baselines, v, m, lead).outcome != "unknown"
        for v in scores
        if (m := headline_metric(scores, v))
        for lead in by_lead(scores, v, m)
    )
    if comparable:
        caption = (
            "Scorecard: the surrogate's error over the best baseline's, every variable. Blue and below 1: better than "
            "every baseline. Red and above 1: worse than at least one."
        )
        write("scorecard", scorecard(scores, baselines, units=units), caption)
    for metric in metrics_of(scores):
        having = [v for v in scores if by_lead(scores, v, metric)]
        decides = any(headline_metric(scores, v) == metric for v in having)
        if decides or metric in ("acc", "correlation"):
            some = f" {MOST} of {len(having)} variables; the scorecard has all." if len(having) > MOST else ""
            zero = " The axis starts at zero." if decides else ""
            caption = f"{metric_name(metric)} on the {split} split, surrogate and baselines.{zero}{some}"
            write(f"skill_{_safe(metric)}", skill(scores, baselines, metric=metric, units=units), caption)
    for number_of, item in enumerate(pictures.maps):
        when = "" if item.lead == "PT0S" else f" {lead_words(item.lead)} ahead"
        caption = f"{item.key}{when}: truth, forecast and their difference. Grey: no value."
        write(f"map_{number_of:02d}_{_safe(item.key)}_{_safe(item.lead)}", field_map(item), caption)
    if pictures.spectra:
        caption = (
            "Power by scale. Below 1 in the lower panels: the forecast is smoother than the truth; above: noisier. "
            "The mean (wavenumber zero) is left out."
        )
        write("spectra", spectra(pictures.spectra), caption)
    if pictures.rollout:
        keys = len({s.key for s in pictures.rollout})
        some = f" {MOST_ROLLOUTS} of {keys} variables." if keys > MOST_ROLLOUTS else ""
        caption = f"Free rollout, never corrected by data: mean and variance over the domain against the truth's.{some}"
        write("rollout", rollout(pictures.rollout, summary.get("rollout")), caption)
    draw_atoms(pictures.atoms, split, write)
    if any("loss" in row for row in rows):
        write("training", training(rows), "Loss, learning rate and gradient norm during training.")
    return written


def _safe(name: str) -> str:
    """A file name that any system takes, whatever the variable is called."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "variable"
