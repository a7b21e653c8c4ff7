"""Runs the cases of ``virtual`` in a process of their own, which has eight virtual devices."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

import pytest

HERE = Path(__file__).parent
# What is compiled here runs once: optimising it would take longer than running it.
FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(p.name for p in (HERE / "virtual").glob("test_*.py")))
def test_on_eight_virtual_devices(file: str) -> None:
    environ = os.environ | {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(HERE / "virtual" / file)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
