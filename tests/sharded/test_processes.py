"""Processes over loopback: one run, one directory; a signal to either of two stops both; three go on, or one alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
import shutil
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
def test_a_signal_to_one_process_stops_both_at_one_step_and_three_or_one_go_on(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    words = [*tiny_settings, "train.batch_size=6", "train.steps=100000", "train.checkpoint_every=100000",
             "train.valid_every=100000", "train.log_every=1"]  # fmt: skip

    def go_on(directory: Path, count: int) -> None:
        """For some steps, then a signal to the last process."""
        rows, deadline = directory / "metrics.jsonl", time.monotonic() + WAIT
        lines = rows.read_text().count("\n") if rows.exists() else 0
        processes = start([*words, f"run.dir='{directory}'", *(["mesh=data"] if count > 1 else [])], count)
        while not (rows.exists() and rows.read_text().count("\n") > lines + 8) and time.monotonic() < deadline:
            assert all(p.poll() is None for p in processes), [p.communicate() for p in processes]
            time.sleep(0.1)
        processes[-1].send_signal(signal.SIGTERM)
        found = finish(processes)
        assert [code for code, _ in found] == [75] * count, found

    directory = tmp_path / "run"
    go_on(directory, 2)
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["status"] == "stopped"
    stopped = summary["steps"]
    assert [int(p.name) for p in (directory / "checkpoints").iterdir() if p.name.isdigit()] == [stopped]
    losses = {}
    for count in (3, 1):
        copy = tmp_path / f"on {count}"
        shutil.copytree(directory, copy)
        go_on(copy, count)
        history = json.loads((copy / "provenance.json").read_text())["history"]
        assert [(e["event"], e["step"], e["processes"]) for e in history] == [("resume", stopped, count)]
        lines = map(json.loads, (copy / "metrics.jsonl").read_text().splitlines())
        losses[count] = {r["step"]: r["loss"] for r in lines if stopped < r["step"] <= stopped + 6}
    # The same state, samples and global batch; sums over devices are in another order.
    assert list(losses[1]) == [stopped + k for k in range(1, 7)]
    assert losses[3] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_what_one_process_cannot_do_ends_both_with_its_reason(tiny_settings: list[str], tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    found = finish(start([*tiny_settings, f"run.dir={taken}", "mesh=data"], 2))
    assert [code for code, _ in found] == [2, 2], found
    assert all(str(taken) in text.splitlines()[-1] for _, text in found), found
