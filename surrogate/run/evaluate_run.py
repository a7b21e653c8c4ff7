"""Scoring a finished run again: on another split, other leads or metrics, from its saved surrogate."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
from typing import Any

from surrogate.config import EvaluateConfig, Experiment
from surrogate.core.types import UserError
from surrogate.domains.base import find_domain
from surrogate.domains.fields import Fields
from surrogate.parallel import launch
from surrogate.parallel.agree import first_does, is_first
from surrogate.parallel.mesh import make_cpu_devices
from surrogate.parallel.placement import Placement
from surrogate.run.batches import place
from surrogate.run.provenance import write_json_atomic
from surrogate.run.results import draw, show
from surrogate.run.surrogate_files import load


def evaluate_run(
    directory: Path,
    experiment: Experiment,
    *,
    split: str = "test",
    on: tuple[str, ...] = (),
    evaluate: EvaluateConfig | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score the surrogate of ``directory`` on ``split`` and write ``scores-<split>.json`` beside its summary.

    Also ``plots-<split>/`` and ``report-<split>.html``, like those of the run.

    Args:
        experiment: the run's own, composed from its ``config.yaml``.
        on: other data of the same variables to score on, with the surrogate's own normalisation; they may lie on
            another grid where the model allows it.

    Raises:
        UserError: when the run has no surrogate yet or the split is empty.
    """
    make_cpu_devices(experiment.mesh)
    launch.start(experiment.launch)
    if not (directory / "model" / "manifest.json").is_file():
        raise UserError(f"{directory} holds no finished run: it has no model/manifest.json")
    domain_class = find_domain(experiment.domain)
    surrogate = load(directory, domain=domain_class)
    if evaluate is not None:
        experiment = replace(experiment, evaluate=evaluate)
    domain = place(domain_class(experiment), Placement.of(experiment.mesh))
    graphdef = surrogate.graphdef
    if on:
        if not isinstance(domain, Fields):
            raise UserError(f"on= is for gridded fields, not for the domain {experiment.domain!r}")
        domain.data = replace(domain.data, root="", paths=(), train_paths=(), valid_paths=(), test_paths=on)
        graphdef = domain.open_for(surrogate)
        split = "test"
    else:
        domain.open()
    evaluation = domain.evaluate(graphdef, surrogate.params, split)
    if not evaluation.scores:
        raise UserError(f"the split {split!r} of {directory} is empty: {'; '.join(evaluation.notes)}")
    summary = json.loads((directory / "summary.json").read_text())
    summary |= {
        "mesh": domain.placement.sizes,
        "scores": evaluation.scores, "baselines": evaluation.baselines, "units": evaluation.units, "notes": evaluation.notes,
    }  # fmt: skip
    if evaluation.rollout is not None:
        summary["rollout"] = evaluation.rollout
    summary |= evaluation.extra
    name = "-".join(Path(p).stem for p in on) if on else split
    target = directory / f"scores-{name}.json"

    def write() -> None:
        write_json_atomic(target, summary)
        draw(directory, json.loads(target.read_text()), evaluation, name)

    first_does(write)
    if not quiet and is_first():
        show(directory, summary, f"The scores are in {target}, with pictures in {directory / f'report-{name}.html'}")
    return summary
