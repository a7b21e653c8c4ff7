"""What a finished run leaves behind: summary, pictures, report, the Surrogate, and a word about them."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
import sys
from typing import Any

import jax
import yaml

from surrogate.core.spec import Variable
from surrogate.core.types import PyTree
from surrogate.domains.base import Evaluation
from surrogate.parallel.agree import first_does, is_first
from surrogate.run.files import json_text
from surrogate.run.plots import AtomsPictures, MapPicture, Pictures, RolloutSeries, Spectrum, write_plots
from surrogate.run.provenance import append_history, read_jsonl, write_json_atomic
from surrogate.run.report import write_report
from surrogate.run.scores import scores_table, verdict
from surrogate.run.surrogate_files import write_surrogate

log = logging.getLogger(__name__)


def write_summary(run: Any, status: str, steps: int, evaluation: Evaluation | None = None) -> dict[str, Any]:
    """Write ``summary.json`` and return it; see the design for its keys."""
    summary: dict[str, Any] = {
        "experiment": run.experiment.name,
        "status": status,
        "steps": steps,
        "seconds": run.seconds(),
        "parameters": run.num_parameters,
        "model": run.experiment.model_name,
        "mesh": dict(run.mesh),
        "devices": f"{math.prod(run.mesh.values())} x {jax.devices()[0].platform}",
        "processes": jax.process_count(),
        "throughput": run.throughput(),
        "goodput": run.goodput.summary(),
    }
    if evaluation is not None:
        summary |= {
            "scores": evaluation.scores,
            "baselines": evaluation.baselines,
            "units": evaluation.units,
            "notes": evaluation.notes,
        }
        if evaluation.rollout is not None:
            summary["rollout"] = evaluation.rollout
        summary |= evaluation.extra
    first_does(lambda: write_json_atomic(run.directory / "summary.json", summary))
    return json.loads(json_text(summary))


def draw(directory: Path, summary: dict[str, Any], evaluation: Evaluation, name: str = "") -> list[Path]:
    """Write ``plots/*.png`` and ``report.html`` of an evaluated run; of a later evaluation, with ``-name`` behind both."""
    suffix = f"-{name}" if name else ""
    arrays = evaluation.pictures or {}
    pictures = Pictures(
        maps=[MapPicture(**m) for m in arrays.get("maps", ())],
        spectra=[Spectrum(**s) for s in arrays.get("spectra", ())],
        rollout=[RolloutSeries(**r) for r in arrays.get("rollout", ())],
        atoms=AtomsPictures.of(arrays.get("atoms", {})),
        units=evaluation.units,
    )
    rows = read_jsonl(directory / "metrics.jsonl")
    plots = write_plots(directory / f"plots{suffix}", summary, rows, pictures)
    for stale in set((directory / f"plots{suffix}").glob("*.png")) - set(plots):  # of an earlier evaluation
        stale.unlink()
    provenance = json.loads((directory / "provenance.json").read_text())
    config = (directory / "config.yaml").read_text()
    write_report(directory / f"report{suffix}.html", summary, rows, plots, config, provenance)
    return plots


def publish(run: Any, graphdef: Any, params: PyTree, steps: int) -> dict[str, Any]:
    """Score the surrogate, save it, draw it, and say where everything is."""
    if not run.quiet and is_first():
        log.info("scoring on the test split beside the baselines")
    with run.goodput.during("scoring"):
        evaluation = run.domain.evaluate(graphdef, params)
    summary = write_summary(run, "complete", steps, evaluation)
    first_does(lambda: _publish(run, graphdef, params, steps, evaluation, summary))
    return summary


def _publish(
    run: Any, graphdef: Any, params: PyTree, steps: int, evaluation: Evaluation, summary: dict[str, Any]
) -> None:
    provenance = json.loads((run.directory / "provenance.json").read_text())
    facts = {k: provenance[k] for k in ("created", "git", "packages", "seeds", "data")}
    facts |= {"steps": steps, "scores": summary.get("scores", {}), "baselines": summary.get("baselines", {})}
    write_surrogate(run.directory / "model", run.domain, graphdef, params, facts, model_card(run, summary))
    draw(run.directory, summary, evaluation)
    append_history(run.directory / "provenance.json", {"event": "complete", "step": steps})
    if not run.quiet:
        show(run.directory, summary)


def show(directory: Path, summary: dict[str, Any], closing: str = "") -> None:
    """The table of scores and ``closing`` (by default the places of everything), on standard output."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 100)
    for table in scores_table(summary):
        console.print(table)
    for note in summary.get("notes") or ():
        console.print(f"note: {note}")
    print(
        closing
        or f"Everything is in {directory}: report.html (open it first), summary.json, plots/, "
        f"model/ (surrogate.load({str(directory)!r}))"
    )


def model_card(run: Any, summary: dict[str, Any]) -> str:
    """``MODEL_CARD.md``: what it is, on what it was trained, how good it is and where it is not."""
    meaning = run.domain.artefact()[0]
    if "spec" in meaning:
        found_in = (Variable(**v) for v in meaning["spec"].get("variables", ()))
        variables = "\n".join(f"- `{variable.key}` ({variable.units}), {variable.role}" for variable in found_in)
        what = f"; time step {meaning['spec'].get('time_step', 'none')}"
    else:
        variables = "\n".join(f"- `{key}` ({units})" for key, units in summary.get("units", {}).items())
        species = meaning.get("species", ())
        what = f" of {', '.join(species)}, cutoff {meaning['cutoff']:g} Å" if species else ""
    files = "\n".join(f"- {f.get('path')}, SHA-256 {f.get('sha256')}" for f in run.domain.provenance())
    found = verdict(summary)
    return f"""# {run.experiment.name}

A {run.experiment.model_name} surrogate with {run.num_parameters:,} parameters{what}.

## Scores
{found.text}

The whole table, with the baselines, is in `summary.json` of the run and in this directory's manifest.

## Variables
{variables}

## Trained on
{files or "- data without files"}

## Settings
```yaml
{yaml.safe_dump(run.experiment.resolved, sort_keys=False).strip()}
```

## Limits
It was fitted to one data set and is right, at best, within the range of that training data; on other climates, grids
or forcings, other elements, phases or temperatures, its errors are unknown until they are measured.
"""
