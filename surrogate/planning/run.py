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
from surrogate.planning.sweep import Candidate, sweep, sweep_table
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
    folder, texts = _directory(experiment), []
    record: dict[str, Any] = {}
    fits = True
    if config.target:
        candidates: list[Candidate] = []
        if config.sweep:
            experiment, candidates = sweep(experiment, say=print)
            record["sweep"] = [c.to_dict() for c in candidates]
            texts.append(sweep_table(candidates))
        plan = next((c.plan for c in candidates if c.best and c.plan), None) or make_plan(
            experiment, keep_text=str(folder.resolve() / "hlo") if config.keep_text else ""
        )
        fits = plan.fits
        record |= plan.to_dict()
        texts.insert(0, table(plan))
        if config.sweep and fits:
            _write_mesh(folder, plan)
        draw_plan(plan, folder / "plan.png")
        if config.scale:
            points = over_devices(experiment, plan, say=print)
            record["scale"] = [p.to_dict() for p in points]
            texts.append(points_table(points))
            draw_scale(points, plan, folder / "scale.png")
    if config.calibrate:
        measured: list[Measured] = calibrate(experiment)
        record["calibration"] = [m.to_dict() for m in measured]
        texts.append(comparison(measured))
    text = "\n".join(texts)
    print(text)
    write_json_atomic(folder / "plan.json", record)
    write_bytes_atomic(folder / "plan.txt", text.encode())
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


def _write_mesh(folder: Path, plan: Plan) -> None:
    """``mesh/planned.yaml``: use it with ``mesh=planned --config-dir FOLDER``."""
    header = (
        f"# {plan.experiment} on {plan.target}: the fastest that fitted. Use: mesh=planned --config-dir {folder.name}\n"
        f"# with train.batch_size={plan.batch_size} model.remat={str(plan.remat).lower()} model.dtype={plan.dtype}\n"
    )
    (folder / "mesh").mkdir(exist_ok=True)
    write_bytes_atomic(folder / "mesh" / "planned.yaml", (header + yaml.safe_dump(plan.mesh, sort_keys=False)).encode())
