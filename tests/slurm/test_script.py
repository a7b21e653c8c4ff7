"""The script of a preset in a real Slurm, with a stand-in for the training that costs no time: what happens to the job."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import signal
import subprocess
import time

from cluster import Slurm, wait_for
import pytest

from surrogate.parallel.script import batch_script
from surrogate.parallel.site import SiteConfig

# Two of them know each other's process; told to stop they leave a newer checkpoint, of which rank 0 makes one.
TRAINING = """#!/bin/bash
run=${@: -1}; run=${run#run.dir=}; mkdir -p "$run/checkpoints"
newest() { ls "$run/checkpoints" | sort -n | tail -n 1 | grep . || echo 0; }
me="$run/${SLURM_RESTART_COUNT:-0}.$SLURM_STEP_ID"
stop() { [ "$SLURM_PROCID" = 1 ] || mkdir "$run/checkpoints/$(($(newest) + 10))"; exit 99; }
trap stop TERM
[ "$SLURM_PROCID" = 1 ] || echo "start ${SLURM_RESTART_COUNT:-0} from $(newest)" >> "$run/starts"
echo $$ > "$me.$SLURM_PROCID"    # last: whoever sees it may end this process
while [ $SECONDS -lt 1800 ]; do    # should nobody end it
    sleep 0.2    # the signal may end it before it comes to this shell
    other="$me.$((1 - SLURM_PROCID))"
    if [ -s "$other" ] && ! kill -0 "$(cat "$other")" 2>/dev/null; then echo "my peer was lost" >&2; exit 76; fi
done
exit 1
"""


class Job:
    def __init__(self, slurm: Slurm, directory: Path, **site: object) -> None:
        self.slurm, self.run, self.output = slurm, directory / "run", directory / "job.out"
        training = directory / "training"
        training.write_text(TRAINING)
        training.chmod(0o755)
        settings = {"processes": 2, "partition": "low", "python": str(training), **site}
        config = SiteConfig(system="a test", source=("https://slurm.schedmd.com",), read="2026-11-24", **settings)  # type: ignore[arg-type]
        script = directory / "job.sh"
        script.write_text(batch_script(config, [f"run.dir={self.run}"], name="stand-in", preset="test"))
        self.requeued = 0.0
        self.number = slurm("sbatch", "--parsable", f"--output={self.output}", str(script))

    def started(self, *lines: str) -> Callable[[], bool]:
        """Whether these are the starts so far."""
        file = self.run / "starts"
        return lambda: file.exists() and file.read_text().splitlines() == list(lines)

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def state(self) -> str:
        return self.slurm.job(self.number)["JobState"]

    def now(self) -> bool:
        """Running, without the two minutes for which Slurm holds a requeued job back.

        Five seconds of them are left: until then the node may still refuse a job whose earlier start it was told to end.
        """
        if self.state() == "PENDING":
            self.requeued = self.requeued or time.monotonic()
            if time.monotonic() > self.requeued + 5:
                command = ["scontrol", "update", f"JobId={self.number}", "StartTime=now"]
                subprocess.run(command, env=self.slurm.environ, capture_output=True)
                time.sleep(1)
        return self.state() == "RUNNING"

    def processes(self, restart: int, step: int) -> list[int]:
        """Process ids of a step, by rank."""
        files = [self.run / f"{restart}.{step}.{rank}" for rank in (0, 1)]
        wait_for("both processes", lambda: all(f.exists() and f.read_text().strip() for f in files), self.said)
        return [int(f.read_text()) for f in files]


@pytest.fixture
def job(slurm: Slurm, tmp_path: Path) -> Job:
    return Job(slurm, tmp_path)


def test_a_lost_process_preemption_and_scancel(slurm: Slurm, job: Job) -> None:
    wait_for("the first start", job.started("start 0 from 0"), job.said)
    os.kill(job.processes(0, 0)[1], signal.SIGKILL)
    wait_for("the second start", job.started("start 0 from 0", "start 0 from 0"), job.said)
    assert "exit code 76" in job.said()  # of the other process, which Slurm leaves alone
    assert "a process was lost (exit code 137): starting again from step 0" in job.said()
    job.processes(0, 1)

    urgent = slurm("sbatch", "--parsable", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    wait_for("the job back in the queue", lambda: job.state() == "PENDING", job.said)
    assert [p.name for p in (job.run / "checkpoints").iterdir()] == ["10"]
    wait_for("the urgent job's end", lambda: slurm.job(urgent)["JobState"] == "COMPLETED")
    wait_for("the requeued job", job.now, job.said)
    wait_for("the third start", job.started("start 0 from 0", "start 0 from 0", "start 1 from 10"), job.said)
    job.processes(1, 0)

    slurm("scancel", job.number)
    wait_for("the job's end", lambda: job.state() == "CANCELLED", job.said)
    wait_for("the processes' end", lambda: not slurm("squeue", "--noheader", "--states=completing"), job.said)
    assert sorted(p.name for p in (job.run / "checkpoints").iterdir()) == ["10", "20"]
    assert slurm.job(job.number)["Restarts"] == "1"


def test_a_signal_by_hand_requeues(slurm: Slurm, job: Job) -> None:
    job.processes(0, 0)
    slurm("scancel", "--signal=TERM", job.number)
    wait_for("the job back in the queue", lambda: job.state() == "PENDING", job.said)
    wait_for("the requeued job", job.now, job.said)
    wait_for("the second start", job.started("start 0 from 0", "start 1 from 10"), job.said)
    slurm("scancel", job.number)
    wait_for("the job's end", lambda: job.state() == "CANCELLED", job.said)


@pytest.mark.slow
def test_the_time_limit_requeues(slurm: Slurm, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, time="00:01:30", signal=30)
    job.processes(0, 0)
    wait_for("the job back in the queue", lambda: job.state() == "PENDING", job.said)
    wait_for("the requeued job", job.now, job.said)
    wait_for("the second start", job.started("start 0 from 0", "start 1 from 10"), job.said)
    assert "CANCELLED" not in job.said() or "TIME LIMIT" not in job.said()
    slurm("scancel", job.number)
    wait_for("the job's end", lambda: job.state() == "CANCELLED", job.said)
