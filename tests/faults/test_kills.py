"""Three kills of a whole run: the short twin of benchmarks/kills.py."""

from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_after_three_kills_the_state_is_that_of_a_run_left_alone(tmp_path: Path) -> None:
    ledger = tmp_path / "kills.jsonl"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(PROGRAM), "kills=3", "steps=24", f"out={ledger}", "seed=1"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [row["kill"] for row in rows if "kill" in row] == [1, 2, 3]
    ends = [row for row in rows if "bitwise_equal" in row]
    assert ends
    assert all(row["bitwise_equal"] and row["samples_equal"] for row in ends)
    assert all(row["final"] == rows[0]["final"] for row in ends)
