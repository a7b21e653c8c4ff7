"""The ledger of a run's seconds."""

from __future__ import annotations

import json
from pathlib import Path
import time
from typing import Any

import pytest

from surrogate.cli import load_experiment
from surrogate.run import loop
from surrogate.run.goodput import Goodput


def test_what_was_done_beyond_the_checkpoint_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "goodput.jsonl"
    first = Goodput(path)
    first.resume(0)
    first.add("compiling", 5.0)
    for step in (10, 20, 30):
        first.add("stepping", 1.0)
        first.add("reading", 0.25)
        first.record(step)
    # Killed at step 30 with a checkpoint of step 20.
    second = Goodput(path)
    second.resume(20)
    second.add("compiling", 1.0)
    second.add("stepping", 1.0)
    second.record(30)
    found = second.summary()
    assert found["sessions"] == 2
    assert found["seconds"]["lost"] == pytest.approx(1.25)
    assert found["seconds"]["stepping"] == pytest.approx(3.0)
    assert found["seconds"]["reading"] == pytest.approx(0.5)
    assert found["seconds"]["compiling"] == pytest.approx(6.0)
    assert found["goodput"] == pytest.approx(3.0 / (3.0 + 0.5 + 6.0 + 1.25))
    # Killed again before its first checkpoint: a third session goes on from step 20 too.
    third = Goodput(path)
    third.resume(20)
    assert third.summary()["seconds"]["lost"] == pytest.approx(2.25)
    assert third.summary()["seconds"]["stepping"] == pytest.approx(2.0)


def test_seconds_are_those_of_the_clock(tmp_path: Path) -> None:
    ledger = Goodput(tmp_path / "goodput.jsonl", writes=False)
    with pytest.raises(ValueError, match="x"), ledger.during("saving"):
        raise ValueError("x")
    assert 0 < ledger.summary()["seconds"]["saving"] + 1e-3 < 10
    assert not ledger.path.exists()


@pytest.mark.slow
def test_no_second_of_a_save_counts_as_stepping_too(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, pause = loop.Checkpoints.save, 1.5

    def slow(self: Any, *arguments: Any) -> None:
        time.sleep(pause)
        original(self, *arguments)

    monkeypatch.setattr(loop.Checkpoints, "save", slow)
    words = [*tiny_settings, "train.steps=4", "train.checkpoint_every=2", "train.log_every=1", f"run.dir={tmp_path}"]
    monkeypatch.setattr(loop, "publish", lambda *arguments: {})
    loop.run_training(load_experiment("", words), quiet=True)
    last = json.loads((tmp_path / "goodput.jsonl").read_text().splitlines()[-1])
    assert last["saving"] > 2 * pause  # after the second step, and at the end
    assert last["stepping"] < pause
