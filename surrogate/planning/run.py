"""What ``python -m surrogate.plan`` does: plan, search, draw, calibrate, and write it all down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from surrogate.config import Experiment
from surrogate.core.types import UserError
from surrogate.planning.calibrate import Measured, calibrate, comparison
from surrogate.planning.picture import draw_plan, draw_scale
from surrogate.planning.plan import Plan, make_plan
from surrogate.planning.report import table
from surrogate.planning.scale import over_devices, points_table
from surrogate.planning.sweep import sweep, sweep_table
from surrogate.run.files import disk_error, write_bytes_atomic
from surrogate.run.provenance import write_json_atomic


def run_plan(experiment: Experiment) -> int:
    """Plan as ``plan.*`` says; returns the exit code: 0, or 1 where nothing fits.

    Raises:
        UserError: for a target, mesh or setting that makes no plan.
    """
    config = experiment.plan
    if not (config.target or config.calibrate):
        raise UserError("for what? give plan.target=tpu:v5p:16x20x28, plan.target=gpu:h100:140x8 or plan.target=cpu:8")
    folder = _directory(experiment)
    texts: list[str] = []
    record: dict[str, Any] = {}

    def keep(**parts: Any) -> None:
        """What is known so far, since the next part may take minutes and be ended."""
        record.update(parts)
        write_json_atomic(folder / "plan.json", record)
        write_bytes_atomic(folder / "plan.txt", "\n".join(texts).encode())

    def say(text: str) -> None:
        print(text, flush=True)

    fits = True
    if config.target:
        if config.sweep:
            experiment, candidates = sweep(experiment, say, lambda tried: keep(sweep=[c.to_dict() for c in tried]))
            texts.append(sweep_table(candidates))
        plan = make_plan(experiment, keep_text=str(folder.resolve() / "hlo") if config.keep_text else "")
        fits = plan.fits
        texts.insert(0, table(plan))
        keep(**plan.to_dict())
        if config.sweep and fits:
            _write_mesh(folder, plan, experiment)
        draw_plan(plan, folder / "plan.png")
        if config.scale:
            points = over_devices(experiment, plan, say)
            texts.append(points_table(points))
            keep(scale=[p.to_dict() for p in points])
            draw_scale(points, plan, folder / "scale.png")
    if config.calibrate:
        measured: list[Measured] = calibrate(experiment)
        texts.append(comparison(measured))
        keep(calibration=[m.to_dict() for m in measured])
    print("\n".join(texts))
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
    return 0 if fits else 1


def _directory(experiment: Experiment) -> Path:
    config = experiment.plan
    name = "plan-" + (config.target or "calibration").replace(":", "-")
    path = (
        Path(config.out).expanduser() if config.out else Path(experiment.run.root).expanduser() / experiment.name / name
    )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error("write the plan in", path, error) from error
    return path


def _write_mesh(folder: Path, plan: Plan, experiment: Experiment) -> None:
    """``mesh/planned.yaml``: use it with ``mesh=planned --config-dir FOLDER`` at the end of the command."""
    model = "".join(
        f" model.{name}={str(getattr(experiment.model, name)).lower()}"
        for name in ("remat", "dtype")
        if hasattr(experiment.model, name)
    )
    header = (
        f"# {plan.experiment} on {plan.target}: the fastest that fitted. Use, at the end of the command:\n"
        f"# train.batch_size={plan.batch_size}{model} mesh=planned --config-dir {folder}\n"
    )
    (folder / "mesh").mkdir(exist_ok=True)
    write_bytes_atomic(folder / "mesh" / "planned.yaml", (header + yaml.safe_dump(plan.mesh, sort_keys=False)).encode())
