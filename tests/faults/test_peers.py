"""One of two processes is lost: the other ends soon, says why, and its code asks for another start."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys
import time

import pytest

from surrogate.parallel.peers import EXIT_PEER_LOST, is_loss

sys.path.insert(0, str(Path(__file__).parents[1] / "sharded"))
from test_processes import WAIT, finish, start

HEARTBEAT = 10


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_the_other_process_ends_with_a_sentence(lost: int, tiny_settings: list[str], tmp_path: Path) -> None:
    directory = tmp_path / "run"
    words = [*tiny_settings, f"run.dir={directory}", "mesh=data", "train.steps=100000", "train.checkpoint_every=100000",
             "train.valid_every=100000", f"launch.heartbeat_timeout={HEARTBEAT}"]  # fmt: skip
    processes = start(words, 2)
    rows, deadline = directory / "metrics.jsonl", time.monotonic() + WAIT
    while not (rows.exists() and rows.read_text().count("\n") > 1) and time.monotonic() < deadline:
        assert all(p.poll() is None for p in processes), [p.communicate() for p in processes]
        time.sleep(0.2)
    processes[lost].kill()
    began = time.monotonic()
    other = processes[1 - lost]
    try:
        other.wait(WAIT)
    except subprocess.TimeoutExpired:
        pytest.fail("the other process stays")
    assert time.monotonic() - began < 3 * HEARTBEAT
    (code, text) = finish(processes)[1 - lost]
    # Of a lost first process JAX may notice before the collective operation does, and ends this one by a signal of its own.
    assert code in ((EXIT_PEER_LOST,) if lost else (EXIT_PEER_LOST, -6)), text
    if code == EXIT_PEER_LOST:
        assert f"process {1 - lost} of 2 on" in text
        assert "another process of this run was lost" in text
    else:
        assert "another task died" in text
    assert json.loads((directory / "goodput.jsonl").read_text().splitlines()[0])["step"] == 0


def test_a_loss_is_told_from_other_errors() -> None:
    closed = ValueError("UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:14533")
    wrapped = RuntimeError("in step 3")
    wrapped.__cause__ = closed
    assert is_loss(closed)
    assert is_loss(wrapped)
    assert not is_loss(ValueError("RESOURCE_EXHAUSTED: out of memory"))
