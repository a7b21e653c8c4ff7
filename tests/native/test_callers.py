"""A bundle called from C, C++, Fortran and Python without its framework gives what the surrogate's rollout gives."""

from __future__ import annotations

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
import pytest
from surrogates import arguments, make, need, weather
from test_functions import START, call, close, forecast_of, functions

from surrogate.cli import load_experiment
from surrogate.core.types import UserError
from surrogate.domains.fields_surrogate import FieldSurrogate
from surrogate.exporting import native, open_bundle
from surrogate.exporting.function import Function
from surrogate.exporting.write import export_bundle
from surrogate.run.loop import run_training
from surrogate.run.surrogate_files import load


def samples_of(surrogate: FieldSurrogate, count: int) -> dict[str, np.ndarray]:
    """``count`` different samples of the inputs of ``step``."""
    starts = [weather(surrogate, START["noleap"], 2, 1, seed=k) for k in range(count)]
    parts = [arguments(data, surrogate, 1) for data in starts]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def drive(program, run, bundle: Path, function, inputs, tmp_path: Path, batch=0, threads=1, calls=1):  # type: ignore[no-untyped-def]
    """Outputs of the C driver: name → (samples, *shape)."""
    count = len(inputs[function.inputs[0].name])
    (tmp_path / "in").write_bytes(b"".join(np.ascontiguousarray(inputs[a.name]).tobytes() for a in function.inputs))
    done = run(
        program("driver.c"), bundle, function.name, count, batch, threads, calls, tmp_path / "in", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    values, outputs, position = np.fromfile(tmp_path / "out", np.float32), {}, 0
    for a in function.outputs:
        size = count * int(np.prod(a.shape))
        outputs[a.name] = values[position : position + size].reshape(count, *a.shape)
        position += size
    assert position == len(values)
    return outputs


@pytest.mark.slow
def test_a_trained_surrogate_steps_in_c_as_it_rolls_out(
    tiny_settings, waves_file, plugin, program, run, tmp_path
) -> None:
    """The whole way: train, export by the command, a time loop in C, against ``rollout``."""
    import xarray as xr

    directory = tmp_path / "run"
    assert run_training(load_experiment("", [*tiny_settings, f"run.dir={directory}"]), quiet=True).status == "complete"
    command = [sys.executable, "-m", "surrogate.export", f"run={directory}", f"out={tmp_path / 'w.sg'}", "batches=[1]",
               f"plugins={{cpu:{plugin}}}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    surrogate = load(directory)
    data = xr.open_dataset(waves_file).isel(time=slice(100, 101)).load()
    forecast = surrogate.rollout(data, "3D")
    (step,) = functions(surrogate)
    state = {name: data[name].values for name in ("tas", "psl")}
    for k in range(3):
        state = drive(program, run, tmp_path / "w.sg", step, state, tmp_path)
        for name in ("tas", "psl"):
            close(state[name][0], forecast[name].values[0, k])


NINE = 9  # samples for which the references of the rich surrogate are compiled


@pytest.fixture(scope="module")
def step(rich: FieldSurrogate) -> Function:
    return functions(rich)[0]


@pytest.mark.parametrize(
    ("count", "batch"),
    [(7, 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 0), (3, 0), (4, 0), (9, 4), (2, 1)))],
)
def test_any_number_of_samples_in_c(rich, step, bundle, program, run, tmp_path, count: int, batch: int) -> None:
    """Whole batches, single samples and padded ones, of a bundle with programs for 1 and 4."""
    inputs = samples_of(rich, count)
    outputs = drive(program, run, bundle, step, inputs, tmp_path, batch)
    for name, expected in call(step, inputs, NINE).items():
        close(outputs[name], expected)


@pytest.mark.slow
def test_threads_agree_to_the_bit(plugin, program, run, tmp_path) -> None:
    """Four threads, each with a context of its own, and a Fourier neural operator."""
    surrogate = make(
        tmp_path / "fno", model="fno", settings={"width": 4, "layers": 1}, shape=(8, 16), history=1, land=False,
        monthly=False, features=("position",),
    )  # fmt: skip
    (step,) = functions(surrogate)
    out = export_bundle(surrogate, tmp_path / "fno.sg", batches=(1,), plugins={"cpu": str(plugin)})
    inputs = {name: value for name, value in samples_of(surrogate, 1).items() if name != "date"}
    outputs = drive(program, run, out, step, inputs, tmp_path, threads=4, calls=250)
    for name, expected in call(step, inputs).items():
        close(outputs[name], expected, 2e-6)


def test_outputs_may_be_the_inputs(plugin, program, run, tmp_path) -> None:
    surrogate = make(tmp_path / "m", shape=(3, 4), history=1, monthly=False, features=("position",), land=False)
    out = export_bundle(surrogate, tmp_path / "s.sg", batches=(2,), plugins={"cpu": str(plugin)})
    done = run(program("inplace.c"), out)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 16 * 2  # temperature and salinity, at every alignment


def test_c_errors_are_sentences(bundle, program, run) -> None:
    done = run(program("errors.c"), bundle)
    assert done.returncode == 0, done.stderr
    found = {line.split("\t")[0]: (int(line.split("\t")[1]), line.split("\t")[2]) for line in done.stdout.splitlines()}
    for what in ("open", "create", "none", "close"):
        assert found[what][0] == 0, found[what]
    expected = {
        "abi": (2, "compiled against ABI 2"), "null": (1, "needs a directory"), "struct_size": (2, "struct_size is 3"),
        "no_plugin": (4, "/nowhere/plugin.so"), "bare_name": (4, "./libc.so.6"), "not_a_plugin": (4, "errors_c"),
        "platform": (1, "no programs for the platform cuda"), "device": (4, "no device 5"),
        "function": (1, "no function 'leap'"), "batch": (1, "no program of batch 3"), "index": (1, "none at 99"),
        "close_in_use": (1, "in use by 1 contexts"), "samples": (1, "-1 samples"), "huge": (1, "more than memory"),
        "bytes": (1, "input 'temperature' has 0 bytes; 2 samples of it are 1920"),
        "out_bytes": (1, "output 'temperature' has 0 bytes; 2 samples of it are 960"),
        "null_input": (1, "input 'salinity' is NULL"), "null_inputs": (1, "the inputs are NULL"),
        "null_context": (1, "context is NULL"), "find": (-1, "no input 'pressure'"),
    }  # fmt: skip
    for what, (status, words) in expected.items():
        assert found[what][0] == status, (what, found[what])
        assert words in found[what][1], (what, found[what])


@pytest.mark.slow
def test_cpp(step, bundle, program, run) -> None:
    done = run(program("caller.cpp"), bundle)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    inputs = {}
    for a in step.inputs:
        shape = (3, *a.shape)
        values = (np.arange(np.prod(shape)) % 97 + 200).reshape(shape).astype(np.float32)
        inputs[a.name] = values if a.dtype == "float32" else np.tile(np.array([2001, 5, 17, 6, 0, 0], np.int32), (3, 1))
    expected = call(step, inputs, NINE)
    got = {words[1]: words for words in (line.split() for line in lines) if words[0] == "output"}
    assert set(got) == set(expected)
    for a in step.outputs:
        words = got[a.name][2 + len(a.units.split()) :]
        close(np.array(words, np.float32).reshape(3, *a.shape), expected[a.name])
    assert [line for line in lines if line.startswith("refused 3 cannot open the Bundle /nowhere")]
    assert [line for line in lines if line.startswith("refused 1 step: input 'temperature' has")]
    assert [line for line in lines if line.startswith("refused 1 step has no input 'pressure'")]


def test_fortran(step, bundle, program, run, tmp_path) -> None:
    done = run(program("caller.f90"), bundle, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    # In numpy the same formulas with the dimensions in C order, counted from 1 as in Fortran.
    s, h, k, j, i = np.meshgrid(*(np.arange(1, n + 1) for n in (5, 2, 2, 6, 10)), indexing="ij")
    inputs = {
        "temperature": 230 + i + 2.5 * j + 7 * k - 3 * h + 0.25 * s,
        "salinity": (33 + 0.1 * i + 0.31 * j - 0.2 * h + 0.05 * s)[:, :, 0],
        "insolation": (300 + 10 * i - 4 * j + s)[:, 0, 0],
    }
    arrays = {name: value.astype(np.float32) for name, value in inputs.items()}
    arrays["date"] = np.array([[2001, 2 * n, 28, 18, 0, 0] for n in range(1, 6)], np.int32)
    expected = call(step, arrays, NINE)
    values, position = np.fromfile(tmp_path / "out", np.float32), 0
    for a in step.outputs:
        size = 5 * int(np.prod(a.shape))
        close(values[position : position + size].reshape(5, *a.shape), expected[a.name], 2e-6)
        position += size
    close(values[position:].reshape(6, 10), expected["rain"][1], 2e-6)

    assert lines["info"] == "info PT6H noleap"
    assert lines["shape"] == "shape 10 6 2 2"
    assert lines["dims"] == "dims longitude, latitude, level, history; K; diagnostic"
    assert lines["levels"] == "levels 500.0 850.0"
    assert lines["latitude"].startswith("latitude -75.0 -45.0")
    refusals = {
        "nowhere": "3 cannot open the Bundle /nowhere", "plugin": "4 the plugin cannot be loaded",
        "function": "1 ", "unset": "1 step: input 'temperature' was not set",
        "transposed": "1 step: input 'temperature' was given with shape (6, 10, 2, 2, 5); expected (10, 6, 2, 2) or "
        "(10, 6, 2, 2, samples): longitude, latitude, level, history",
        "name": "1 step has no input 'pressure'", "rank": "1 step: input 'temperature' was given with 1 dimensions",
        "type": "1 step: input 'date' is an array of integers",
        "samples": "1 step: input 'insolation' has 1 samples, 'temperature' has 5",
        "get": "1 step: output 'rain' was given for 1 samples, where 5 were run", "in_use": "1 ",
        "destroyed": "1 the function was not created",
    }  # fmt: skip
    for what, text in refusals.items():
        assert lines[what].startswith(f"{what} {text}"), lines[what]


def test_the_bundles_own_example_builds_and_runs(step, bundle, library, run, tmp_path: Path) -> None:
    """Three steps of constant fields, the history moved on between them, as its time loop does."""
    need("gfortran")
    for name in ("surrogate.f90", "example.f90"):
        shutil.copy(bundle / name, tmp_path)
    command = ["gfortran", "-Wall", "-std=f2018", "-o", "example", "surrogate.f90", "example.f90",
               f"-L{library.directory}", "-lsurrogate", f"-Wl,-rpath,{library.directory}"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = run(tmp_path / "example", bundle)
    assert done.returncode == 0, done.stderr
    inputs = {}
    for a in step.inputs:
        values = step.golden[a.name]
        constant = np.float32(f"{float(np.nanmean(values)):.6e}") if a.role != "time" else values[0]
        inputs[a.name] = np.broadcast_to(constant, (1, *a.shape)).astype(a.dtype).copy()
    for _ in range(3):
        outputs = call(step, inputs, NINE)
        for name in ("temperature", "salinity"):
            inputs[name] = np.concatenate([inputs[name][:, 1:], outputs[name][:, None]], axis=1)
    for line in done.stdout.splitlines():
        name, low, high = line.split()[0].strip(":"), float(line.split()[1]), float(line.split()[3])
        assert low == pytest.approx(np.nanmin(outputs[name]), rel=2e-6), line
        assert high == pytest.approx(np.nanmax(outputs[name]), rel=2e-6), line
    assert len(done.stdout.splitlines()) == len(outputs)


def test_python_needs_jax_alone(rich, bundle, tmp_path) -> None:
    inputs = samples_of(rich, 3)
    np.savez(tmp_path / "in.npz", **inputs)
    program = """
import sys, json, numpy as np
from surrogate.exporting import native, open_bundle
from surrogate.exporting.function import Function
bundle = open_bundle(sys.argv[1])
outputs = bundle(dict(np.load(sys.argv[2] + "/in.npz")))
np.savez(sys.argv[2] + "/out.npz", **{k: np.asarray(v) for k, v in outputs.items()})
print(json.dumps(sorted({m.split(".")[0] for m in sys.modules})))
"""
    command = [sys.executable, "-c", program, str(bundle), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert "jax" in loaded
    assert not loaded & {"flax", "hydra", "omegaconf", "orbax", "optax", "xarray", "tensorstore"}
    outputs = np.load(tmp_path / "out.npz")
    for name, expected in forecast_outputs(rich).items():
        close(outputs[name], expected)


def forecast_outputs(rich: FieldSurrogate) -> dict[str, np.ndarray]:
    """What ``rollout`` gives for :func:`samples_of` three."""
    rows = [forecast_of(rich, weather(rich, START["noleap"], 2, 1, seed=k), 1, 1) for k in range(3)]
    return {name: np.stack([row[name][0] for row in rows]) for name in rows[0]}


def test_python_callers_are_told_what_is_wrong(rich, bundle) -> None:
    opened = open_bundle(bundle, check=False)
    inputs = samples_of(rich, 2)
    with pytest.raises(UserError, match=r"no input 'pressure'; it takes temperature"):
        opened({**inputs, "pressure": inputs["salinity"]})
    with pytest.raises(UserError, match="needs the input 'salinity'"):
        opened({k: v for k, v in inputs.items() if k != "salinity"})
    with pytest.raises(UserError, match=r"'salinity' has shape \(2, 2, 10, 6\), expected \(2, 2, 6, 10\)"):
        opened({**inputs, "salinity": inputs["salinity"].swapaxes(2, 3)})
    with pytest.raises(UserError, match=r"'date' is float32, expected int32"):
        opened({**inputs, "date": inputs["date"].astype(np.float32)})
    with pytest.raises(UserError, match="no function 'leap'"):
        opened(inputs, "leap")
    assert opened.inputs()[0]["fortran_shape"] == [10, 6, 2, 2, None]


def test_the_documented_line_builds_the_library_from_the_bundle_alone(bundle: Path, run, tmp_path: Path) -> None:
    text = (bundle / "surrogate.h").read_text()
    start = text.index("cc -std=c11")
    line = text[start : text.index("-lpthread", start) + 9].replace("\\\n *", " ")  # a comment's line that goes on
    for name in native.SOURCES:
        (tmp_path / name).write_bytes((bundle / name).read_bytes())
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    needed = subprocess.run(["readelf", "-d", "libsurrogate.so"], cwd=tmp_path, capture_output=True, text=True).stdout
    assert {w.strip("[]") for w in needed.split() if w.startswith("[lib")} <= {
        "libc.so.6",
        "libdl.so.2",
        "libpthread.so.0",
    }


@pytest.mark.slow
def test_cmake_builds_library_checker_and_module_from_the_bundle(bundle: Path, run, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    for command in (["cmake", "-S", str(bundle), "-B", "build"], ["cmake", "--build", "build"],
                    ["cmake", "--install", "build", "--prefix", "installed"]):  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    installed = {p.name for p in (tmp_path / "installed").rglob("*")}
    assert {"libsurrogate.so", "surrogate.h", "surrogate.hpp", "surrogate-check"} <= installed
    if shutil.which("gfortran"):
        assert {"surrogate.mod", "libsurrogate_fortran.a"} <= installed
    library = next(p.parent for p in (tmp_path / "installed").rglob("libsurrogate.so"))
    checker = next((tmp_path / "installed").rglob("surrogate-check"))
    done = run(checker, bundle, LD_LIBRARY_PATH=str(library))
    assert done.returncode == 0, done.stderr
    assert "step/4/rain\t" in done.stdout
