"""A process of its own for each compilation: the parent's side starts it, ``python -m`` of this file is it.

A compiler for absent hardware may end its process; the settings of devices can only be made before JAX starts.
"""

from __future__ import annotations

from dataclasses import replace
import json
import os
from pathlib import Path
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from typing import Any

from surrogate.config import Experiment
from surrogate.core.types import UserError
from surrogate.planning.devices import environment
from surrogate.planning.target import Target

# Of absl's log: severity with the date, time, thread, file] message.
_FATAL = re.compile(r"F\d{4} [\d:.]+ +\d+ (.*)")


def run_in_child(task: str, experiment: Experiment, target: Target, **options: Any) -> dict[str, Any]:
    """``task(experiment, target, **options)`` in a new process with the target's devices; ``task`` is ``module:function``.

    Raises:
        UserError: what the function raised, or that the process ended without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="surrogate-plan-") as folder:
        request, answer = Path(folder) / "request", Path(folder) / "answer.json"
        # Read by nobody else: the folder is this user's alone.
        request.write_bytes(pickle.dumps((task, replace(experiment, resolved={}), target, options)))
        variables = {**os.environ, **environment(target), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-m", "surrogate.planning.child", str(request), str(answer)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if not answer.is_file():
            if done.returncode == -9:
                raise UserError(
                    f"compiling for {target.text} was killed, for want of this machine's memory most likely"
                )
            raise UserError(f"compiling for {target.text} {_ended(done.returncode, done.stderr)}") from RuntimeError(
                done.stderr  # all of it with traceback=true
            )
        found = json.loads(answer.read_text())
    if "error" in found:
        raise UserError(found["error"])
    return found


def _ended(status: int, output: str) -> str:
    """How a process without an answer ended: by the failed check of its compiler, if there is one, else its last lines."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    fatal = next((match[1] for line in lines if (match := _FATAL.match(line))), "")
    name = next((s.name for s in signal.Signals if s == -status), "")
    how = (
        f"was ended by its compiler ({name or f'status {status}'})" if fatal or name else f"ended with status {status}"
    )
    return f"{how} and no answer: {fatal[:500] or ' | '.join(lines[-3:])}"


def main() -> None:
    import importlib

    request, answer = Path(sys.argv[1]), Path(sys.argv[2])
    task, experiment, target, options = pickle.loads(request.read_bytes())
    module, _, name = task.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)(experiment, target, **options)
    except UserError as error:
        found = {"error": str(error)}
    answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
