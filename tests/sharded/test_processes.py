"""Two processes over loopback: one run, one directory; a signal to either stops both; one process goes on alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

import pytest

from surrogate.run.artefact import decode_tensors, read_artefact

WAIT = 600.0  # for a machine that has other things to do


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(words: list[str], processes: int, devices: int = 1) -> list[subprocess.Popen[str]]:
    """The training command in ``processes`` processes of ``devices`` virtual devices each."""
    port, flags = free_port(), f"--xla_force_host_platform_device_count={devices}"
    found = []
    for number in range(processes):
        own = [
            f"launch.coordinator=127.0.0.1:{port}",
            f"launch.num_processes={processes}",
            f"launch.process_id={number}",
        ]
        command = [sys.executable, "-m", "surrogate.train", *words, *(own if processes > 1 else [])]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | {
            "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path),
        }  # fmt: skip
        pipe = subprocess.PIPE
        found.append(subprocess.Popen(command, env=environ, stdout=pipe, stderr=pipe, text=True))
    return found


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    try:
        outputs = [p.communicate(timeout=WAIT)[1] for p in processes]
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
    return [(p.returncode, text) for p, text in zip(processes, outputs, strict=True)]


def weights(directory: Path) -> dict[str, bytes]:
    tensors = decode_tensors(read_artefact(directory / "model")[1]["weights.safetensors"])
    return {name: value.tobytes() for name, value in tensors.items()}


@pytest.mark.slow
def test_two_processes_train_one_run(tiny_settings: list[str], tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    found = finish(start([*tiny_settings, f"run.dir={two}", "mesh=data"], 2))
    assert [code for code, _ in found] == [0, 0], found
    assert "2 processes (explicit) on 1 host(s)" in found[0][1]
    assert "processes" not in found[1][1]
    assert [code for code, _ in finish(start([*tiny_settings, f"run.dir={one}", "mesh=data"], 1, devices=2))] == [0]
    summaries = [json.loads((d / "summary.json").read_text()) for d in (two, one)]
    assert [s["processes"] for s in summaries] == [2, 1]
    assert all(s["mesh"]["data"] == 2 and s["devices"] == "2 x cpu" for s in summaries)
    each = summaries[0]["throughput"]["bytes_read_by_process"]
    # Each its own half of the same samples. The reader is a batch or two ahead at the end, in either.
    assert each[0] == pytest.approx(each[1], rel=0.3)
    assert sum(each) == pytest.approx(summaries[1]["throughput"]["bytes_read"], rel=0.3)
    assert weights(two) == weights(one)
    assert summaries[0]["scores"] == summaries[1]["scores"]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_one_step_and_one_alone_goes_on(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    words = [*tiny_settings, f"run.dir={directory}", "mesh=data", "train.steps=100000", "train.checkpoint_every=100000",
             "train.valid_every=100000", "train.log_every=50"]  # fmt: skip
    processes = start(words, 2)
    rows, deadline = directory / "metrics.jsonl", time.monotonic() + WAIT
    while not (rows.exists() and rows.read_text().count("\n") > 1) and time.monotonic() < deadline:
        assert all(p.poll() is None for p in processes), [p.communicate() for p in processes]
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGTERM)
    found = finish(processes)
    assert [code for code, _ in found] == [75, 75], found
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert [int(p.name) for p in (directory / "checkpoints").iterdir() if p.name.isdigit()] == [summary["steps"]]
    for word in ("train.steps", "mesh", "launch"):
        words = [w for w in words if not w.startswith(f"{word}=")]
    processes = start([*words, "train.steps=100000"], 1)
    lines = rows.read_text().count("\n")
    while rows.read_text().count("\n") <= lines and time.monotonic() < deadline + WAIT:
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.2)
    processes[0].send_signal(signal.SIGTERM)
    assert [code for code, _ in finish(processes)] == [75]
    history = json.loads((directory / "provenance.json").read_text())["history"]
    assert history[0]["event"] == "resume"
    assert history[0]["step"] == summary["steps"]
    assert history[0]["processes"] == 1


@pytest.mark.slow
def test_what_one_process_cannot_do_ends_both_with_its_reason(tiny_settings: list[str], tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    found = finish(start([*tiny_settings, f"run.dir={taken}", "mesh=data"], 2))
    assert [code for code, _ in found] == [2, 2], found
    assert all(str(taken) in text.splitlines()[-1] for _, text in found), found
