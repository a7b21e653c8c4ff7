"""Against a real Slurm: a script of a preset through preemption, a lost process and scancel; a sweep as an array."""

from __future__ import annotations

from collections.abc import Callable
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from cluster import Slurm, wait_for
import pytest

pytestmark = pytest.mark.slow


def steps(directory: Path) -> list[int]:
    """Checkpoints that there are."""
    found = directory / "checkpoints"
    return sorted(int(p.name) for p in found.iterdir() if p.name.isdigit()) if found.is_dir() else []


def resumed(directory: Path) -> list[int]:
    """Steps that later starts went on from."""
    file = directory / "provenance.json"
    history = json.loads(file.read_text()).get("history", []) if file.exists() else []
    return [event["step"] for event in history if event["event"] == "resume"]


def trains(directory: Path, starts: int) -> Callable[[], bool]:
    """Whether as many starts as that have come to train, the last one for some steps."""

    def check() -> bool:
        rows = directory / "metrics.jsonl"
        if len(resumed(directory)) != starts - 1 or not rows.exists():
            return False
        last = max((json.loads(line)["step"] for line in rows.read_text().split("\n")[:-1]), default=0)
        return last >= (resumed(directory) or [0])[-1] + 4

    return check


def launch(slurm: Slurm, words: list[str], script: Path) -> str:
    """Submit what surrogate.launch prints; the number of the job."""
    script.write_text(slurm(sys.executable, "-m", "surrogate.launch", "--script", "generic", f"site.python={sys.executable}",
                            *words))  # fmt: skip
    return slurm("sbatch", "--parsable", f"--output={script.parent}/job.out", str(script))


def test_two_processes_through_preemption_a_lost_process_and_scancel(
    slurm: Slurm, tiny_settings: list[str], tmp_path: Path
) -> None:
    run, output = tmp_path / "run", tmp_path / "job.out"
    words = [*tiny_settings, f"run.dir={run}", "mesh=data", "train.steps=100000", "train.checkpoint_every=100000",
             "train.valid_every=100000", "launch.heartbeat_timeout=10"]  # fmt: skip
    job = launch(slurm, ["site.processes=2", "site.partition=low", *words], tmp_path / "job.sh")

    def said() -> str:
        return output.read_text() if output.exists() else ""

    wait_for("the first steps", trains(run, 1), said)
    assert "2 processes (slurm) on 1 host(s)" in said()

    # Something more urgent wants the node: saved by both at one step, and back into the queue.
    urgent = slurm("sbatch", "--parsable", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    wait_for("the job back in the queue", lambda: slurm.job(job)["JobState"] == "PENDING", said)
    assert len(steps(run)) == 1, said()
    assert json.loads((run / "summary.json").read_text())["status"] == "stopped"
    wait_for("the urgent job's end", lambda: slurm.job(urgent)["JobState"] == "COMPLETED")
    wait_for("the requeued job", lambda: "StartTime" in slurm.job(job) and _now(slurm, job), said)
    wait_for("steps after the requeue", trains(run, 2), said)
    assert slurm.job(job)["Restarts"] == "1"
    assert resumed(run) == steps(run)

    # One process is killed: the other ends by itself, with a sentence, and the script starts both again.
    os.kill(slurm.process(job, rank=1), signal.SIGKILL)
    began = time.monotonic()
    wait_for("the end of the other process", lambda: "a process was lost" in said(), said)
    assert time.monotonic() - began < 120  # 10 s without a sign of life, on a machine that may be slow
    assert "process 0 of 2 on" in said()
    assert "another process of this run was lost" in said()
    wait_for("steps after the loss", trains(run, 3), said)
    assert slurm.job(job)["Restarts"] == "1"
    assert resumed(run) == [steps(run)[0]] * 2

    # Cancelled: saved once more, and not put back.
    slurm("scancel", job)
    wait_for("the job's end", lambda: slurm.job(job)["JobState"] == "CANCELLED", said)
    wait_for("the processes' end", lambda: not slurm("squeue", "--noheader", "--states=completing"), said)
    assert len(steps(run)) == 2, said()
    assert steps(run)[-1] > resumed(run)[-1]


def _now(slurm: Slurm, job: str) -> bool:
    """Skip the two minutes for which Slurm holds a requeued job back."""
    if slurm.job(job)["JobState"] == "PENDING":
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], env=slurm.environ, capture_output=True)
        time.sleep(1)
    return slurm.job(job)["JobState"] == "RUNNING"


def test_a_sweep_is_an_array(slurm: Slurm, tiny_settings: list[str], tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    words = [*tiny_settings, f"run.root={tmp_path}", "name=sweep", "train.steps=4", "launch=slurm", "train.seed=0,1",
             "hydra.launcher.partition=low", "hydra.launcher.timeout_min=30"]  # fmt: skip
    slurm(sys.executable, "-m", "surrogate.train", "-m", *words)
    runs = sorted((tmp_path / "sweep").glob("slurm-*"))
    assert [p.name.rpartition("_")[2] for p in runs] == ["0", "1"]  # elements of one array
    assert len({p.name.partition("_")[0] for p in runs}) == 1
    summaries = [json.loads((p / "summary.json").read_text()) for p in runs]
    assert [s["status"] for s in summaries] == ["complete", "complete"]
    seeds = [json.loads((p / "provenance.json").read_text())["config"]["train"]["seed"] for p in runs]
    assert seeds == [0, 1]
