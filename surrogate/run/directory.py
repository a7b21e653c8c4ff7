"""The run directory: where it is, what it holds, and whether a run in it may go on."""

from __future__ import annotations

from datetime import datetime
import json
import os
from pathlib import Path
from typing import Any

import yaml

from surrogate.config import Experiment
from surrogate.core.types import UserError
from surrogate.run.files import disk_error, write_bytes_atomic


def run_directory(experiment: Experiment) -> Path:
    """``run.dir`` if it is set, else a new ``<root>/<name>/<timestamp>`` with ``latest`` pointing at it.

    Raises:
        UserError: when the directory cannot be written to.
    """
    if experiment.run.dir:
        path = Path(experiment.run.dir).expanduser()
    else:
        path = (
            Path(experiment.run.root).expanduser() / experiment.name / datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise disk_error("write in the run directory", path, error) from error
    return path


def point_latest(path: Path) -> None:
    """Let ``latest`` beside the run point at it; done once the run has begun for certain."""
    link = path.parent / "latest"
    temporary = path.parent / f".latest-{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(path.name)
        if not link.exists() or link.is_symlink():
            temporary.replace(link)
        else:
            temporary.unlink()
    except OSError as error:
        raise disk_error("write the link 'latest' in", path.parent, error) from error


def write_config(path: Path, experiment: Experiment) -> None:
    """Write ``config.yaml``, or check it against the one of the run that is being resumed.

    What a command left that ended before its run began, for a mistake in it, does not count: the mended one may go there.

    Raises:
        UserError: when the directory holds a run of other settings, naming those that differ.
    """
    file = path / "config.yaml"
    current = json.loads(json.dumps(experiment.resolved))
    if file.exists() and _begun(path):
        before = yaml.safe_load(file.read_text())
        differing = sorted(_differences(_learnt(before), _learnt(current)))
        if differing:
            raise UserError(
                f"{path} holds a run with other settings ({', '.join(differing[:5])}); "
                "use the same ones to resume it, or another run.dir"
            )
        return
    text = "# The resolved configuration of this run.\n" + yaml.safe_dump(current, sort_keys=False, allow_unicode=True)
    write_bytes_atomic(file, text.encode())


def _begun(path: Path) -> bool:
    """Whether anything was trained in this directory, or was about to be."""
    checkpoints = path / "checkpoints"
    return (checkpoints.is_dir() and any(checkpoints.iterdir())) or any(
        (path / name).exists() for name in ("provenance.json", "metrics.jsonl", "model")
    )


def _learnt(config: dict[str, Any]) -> dict[str, Any]:
    """What decides the trained weights: how a run is shown or scored, and on what it runs, may change."""
    learnt = {k: v for k, v in config.items() if k not in ("run", "evaluate", "mesh", "launch", "plan")}
    if isinstance(learnt.get("train"), dict):
        learnt["train"] = {k: v for k, v in learnt["train"].items() if k not in ("reader_timeout", "replay_every")}
    return learnt


def _differences(a: Any, b: Any, where: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        found = []
        for key in {*a, *b}:
            name = f"{where}.{key}" if where else str(key)
            if key not in a or key not in b:
                found.append(name)
            else:
                found += _differences(a[key], b[key], name)
        return found
    return [] if a == b else [where]
