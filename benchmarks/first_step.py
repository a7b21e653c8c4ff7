"""Seconds from the command to the first training step, with an empty and with a warm compilation cache.

    python benchmarks/first_step.py [+experiment=climate ...]

Runs ``python -m surrogate.train`` with the given overrides (default: ``+experiment=climate``) twice, watches the run
directory for the first line of ``metrics.jsonl`` and stops it there with SIGTERM. The line of a step is
written once the next one is under way, so the time is an upper bound. Data that the experiment simulates
should be in the cache already: run it once before. Prints a line of JSON a run, with the peak memory.
"""

from __future__ import annotations

import json
from pathlib import Path
import resource
import signal
import subprocess
import sys
import tempfile
import time


def first_step(overrides: list[str], directory: Path, cache: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "surrogate.train", *overrides, f"run.dir={directory}",
               f"run.compilation_cache={cache}", "train.log_every=1"]  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    rows = directory / "metrics.jsonl"
    while process.poll() is None and not (rows.exists() and rows.stat().st_size):
        time.sleep(0.05)
    elapsed = time.perf_counter() - began
    if process.poll() is not None:
        assert process.stderr is not None
        sys.exit(f"the run ended before its first step: {process.stderr.read()[-500:]}")
    process.send_signal(signal.SIGTERM)
    _, usage = process.communicate(), resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"first_step_s": elapsed, "peak_memory_bytes": usage.ru_maxrss * 1024}


def main() -> None:
    overrides = sys.argv[1:] or ["+experiment=climate"]
    if {"-h", "--help"} & set(overrides):
        print(__doc__)
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("cold", "warm"):
            result = first_step(overrides, Path(scratch, name), Path(scratch, "cache"))
            print(json.dumps({"compilation_cache": name, "overrides": overrides, **result}), flush=True)


if __name__ == "__main__":
    main()
