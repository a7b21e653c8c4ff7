"""Opening, running and closing again and again loses no memory; the 10,000 cycles are ``benchmarks/native/cycles.py``."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess

import pytest
from surrogates import make, need

from surrogate.exporting import native, plugins
from surrogate.exporting.write import export_bundle

SOURCE = Path(__file__).parents[2] / "benchmarks" / "native" / "cycles.c"


@pytest.fixture(scope="module")
def cycles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cycles.c and the library, with LeakSanitizer."""
    program = tmp_path_factory.mktemp("cycles") / "cycles"
    command = [need("cc"), "-std=c11", "-O1", "-g", "-fsanitize=leak", f"-I{native.HERE}", str(SOURCE),
               *map(str, native.library_sources()), "-o", str(program), *native.LIBRARIES]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in done.stderr:
        pytest.skip("the compiler has no LeakSanitizer")
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pjrt", "onnx"])
def test_cycles_leak_nothing(cycles: Path, backend: str, tmp_path: Path, library: native.Library) -> None:
    runtime, found = plugins.find_runtime(), plugins.installed("cpu")
    if backend == "onnx" and runtime is None:
        pytest.skip("the extra onnx is not installed (pip install 'surrogate[onnx]')")
    if backend == "pjrt" and not found:
        pytest.skip("no PJRT plugin for cpu is installed (pip install 'surrogate[native]')")
    surrogate = make(tmp_path / "m", shape=(2, 2), history=1, monthly=False, features=("position",), land=False)
    bundle = export_bundle(surrogate, tmp_path / "s.sg", batches=(1,), backends=(backend,))
    plugin = runtime.path if backend == "onnx" and runtime else found[0].path
    number = 100 if backend == "onnx" else 20
    environment = {**os.environ, "SURROGATE_PLUGIN": str(plugin), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [str(cycles), str(bundle), str(number)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    (first, early), (last, late) = (tuple(map(int, line.split("\t"))) for line in done.stdout.splitlines())
    assert (first, last) == (number // 10, number)
    assert late - early < 20_000, f"{late - early} KiB more after {last} cycles than after {first}"
