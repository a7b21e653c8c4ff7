"""A run that submitit started as an element of a Slurm array (``launch=slurm``)."""

from __future__ import annotations

from collections.abc import Mapping
import os
import subprocess
import sys
from typing import NoReturn

from surrogate.core.types import UserError

EXIT = 99


def in_array(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process belongs to a Slurm job of submitit's."""
    return environ.get("SUBMITIT_EXECUTOR") == "slurm" and "SLURM_JOB_ID" in environ


def requeue(environ: Mapping[str, str] = os.environ) -> NoReturn:
    """Put the job that this process belongs to back into the queue, after its run was stopped and saved.

    Ends the process with code 99, without a result: submitit waits for that of the job's next start.

    Raises:
        UserError: where Slurm does not do it.
    """
    if environ.get("SLURM_PROCID", "0") == "0":
        # An element of an array has a number of its own beside the array's, which would requeue all of them.
        command = ["scontrol", "requeue", environ["SLURM_JOB_ID"]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"stopped and saved, but {' '.join(command)} failed: {done.stderr.strip()}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT)
