"""ONNX Runtime behind the header that PJRT is behind: equal results, refusals, threads, and the choice between the two."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from surrogates import make
from test_callers import drive, samples_of
from test_files import reseal, set_key
from test_functions import call, close, functions

from surrogate.core.types import UserError
from surrogate.domains.fields_surrogate import FieldSurrogate
from surrogate.exporting import native, onnx, plugins
from surrogate.exporting import write as writing
from surrogate.exporting.backends import Backends, faster
from surrogate.exporting.files import pack, unpack
from surrogate.exporting.function import Argument, Function
from surrogate.exporting.write import export_bundle
from surrogate.run.artefact import read_artefact

BUNDLE, PLUGIN, COMPILE, INVALID = 3, 4, 5, 1  # surrogate_status


@pytest.fixture(scope="session")
def runtime() -> Path:
    """ONNX Runtime, where the extra ``onnx`` is installed."""
    found = plugins.find_runtime()
    if onnx.missing() or found is None:
        pytest.skip("the extra onnx is not installed (pip install 'surrogate[onnx]')")
    return found.path


@pytest.fixture(scope="session")
def both(
    rich: FieldSurrogate, plugin: Path, runtime: Path, library: native.Library, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The rich surrogate for both backends, batches 1 and 4."""
    out = tmp_path_factory.mktemp("both") / "rich.sg"
    return export_bundle(rich, out, batches=(1, 4), plugins={"cpu": str(plugin)}, backends=("pjrt", "onnx"))


@pytest.fixture
def copy(both: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(both, tmp_path / "copy.sg"))


@pytest.fixture
def by_onnx(run: Callable[..., Any], runtime: Path) -> Callable[..., Any]:
    return partial(run, SURROGATE_BACKEND="onnx", SURROGATE_ONNXRUNTIME=str(runtime))


def check(library: native.Library, *words: object, **extra: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SURROGATE")}
    command = [str(library.checker), *(str(w) for w in words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**clean, **extra})


@pytest.mark.parametrize(("count", "batch"), [(7, 0), (1, 0), (9, 4)])
def test_any_number_of_samples_by_onnx(rich, both, program, by_onnx, tmp_path, count: int, batch: int) -> None:
    """Dates, history, levels, land and a climatology, in whole and padded batches."""
    (step,) = functions(rich)
    inputs = samples_of(rich, count)
    outputs = drive(program, by_onnx, both, step, inputs, tmp_path, batch)
    for name, expected in call(step, inputs, 9).items():
        close(outputs[name], expected)


def test_threads_by_onnx_agree_to_the_bit(rich, both, program, by_onnx, tmp_path) -> None:
    (step,) = functions(rich)
    inputs = samples_of(rich, 2)
    outputs = drive(program, by_onnx, both, step, inputs, tmp_path, threads=4, calls=1000)
    for name, expected in call(step, inputs, 9).items():
        close(outputs[name], expected)


def test_outputs_may_be_the_inputs_by_onnx(plugin, runtime, program, by_onnx, tmp_path) -> None:
    surrogate = make(tmp_path / "m", shape=(3, 4), history=1, monthly=False, features=("position",), land=False)
    out = export_bundle(surrogate, tmp_path / "s.sg", batches=(2,), backends=("onnx",))
    done = by_onnx(program("inplace.c"), out)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 16 * 2  # temperature and salinity, at every alignment
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["backend"] == {"cpu": "onnx"}
    assert {p["backend"] for p in manifest["functions"][0]["programs"]} == {"onnx"}


def test_who_names_the_backend(copy: Path, library, plugin: Path, runtime: Path) -> None:
    """Option, then environment, then the kind of the plugin that is named, then the Bundle's record."""

    def used(*words: object, **extra: str) -> str:
        done = check(library, copy, *words, **extra)
        assert done.returncode == 0, done.stderr
        return done.stdout.split("\t")[0]

    where = {"SURROGATE_PLUGIN_PATH": f"{plugin.parent}:{runtime.parent}"}
    for recorded in ("pjrt", "onnx"):
        reseal(copy, set_key("backend", value={"cpu": recorded}))
        assert used(**where) == recorded
        assert used("--plugin", plugin) == "pjrt"
        assert used(SURROGATE_PLUGIN=str(runtime)) == "onnx"
        assert used("--backend", "pjrt", SURROGATE_BACKEND="onnx", **where) == "pjrt"
        assert used(SURROGATE_BACKEND="onnx", **where) == "onnx"
        both_named = {"SURROGATE_PLUGIN": str(plugin), "SURROGATE_ONNXRUNTIME": str(runtime)}
        assert used("--backend", "onnx", **both_named) == "onnx"


def test_refusals_name_what_is_wrong(copy: Path, library, plugin: Path, runtime: Path, tmp_path: Path) -> None:
    def refused(*words: object, **extra: str) -> str:
        done = check(library, copy, *words, **extra)
        assert done.returncode == 1, done.stdout
        return done.stderr

    assert "no backend 'tensorrt': there are pjrt and onnx" in refused("--backend", "tensorrt")
    assert "is not ONNX Runtime" in refused("--backend", "onnx", "--plugin", plugin)
    assert "is no PJRT plugin" in refused("--backend", "pjrt", "--plugin", runtime)
    assert "of PJRT's threads the variable PJRT_NPROC decides" in refused("--plugin", plugin, "--threads", "2")
    assert "threads is -1" in refused("--plugin", runtime, "--threads", "-1")
    assert "cannot be loaded" in refused("--backend", "onnx", "--plugin", "/nowhere/libonnxruntime.so.1.99.0")
    text = refused("--backend", "onnx")
    assert f"set SURROGATE_PLUGIN to the path of {runtime.name} (of onnxruntime " in text
    (tmp_path / runtime.name).write_bytes(b"another")
    assert "its SHA-256 is another" in refused("--backend", "onnx", SURROGATE_PLUGIN_PATH=str(tmp_path))
    done = check(library, copy, "--plugin", runtime, "--threads", "2")
    assert done.returncode == 0, done.stderr

    def without_onnx(manifest: dict[str, Any]) -> None:
        programs = manifest["functions"][0]["programs"]
        programs[:] = [p for p in programs if p["backend"] == "pjrt"]

    reseal(copy, without_onnx)
    assert "no program of 'step' for the backend onnx on cpu; there are some for pjrt" in refused("--plugin", runtime)


def test_programs_that_do_not_fit_the_manifest_are_refused_by_onnx(copy: Path, library, runtime: Path) -> None:
    manifest, files = read_artefact(copy)
    programs = manifest["functions"][0]["programs"]
    place = next(i for i, p in enumerate(programs) if p["file"] == "step.cpu.1.onnx")
    parameters = programs[place]["parameters"]

    def refused(change: Callable[[dict[str, Any]], None], new: bytes | None = None) -> str:
        reseal(copy, change, {"step.cpu.1.onnx": new or files["step.cpu.1.onnx"]})
        done = check(library, copy, "--plugin", runtime)
        assert done.returncode == 1, done.stdout
        return done.stderr

    def same(manifest: dict[str, Any]) -> None:
        manifest["functions"][0]["programs"][place]["parameters"] = parameters

    assert "step.cpu.1.onnx" in refused(same, b"not a program")
    assert "'temperature' is not of the manifest's name and shape" in refused(same, files["step.cpu.4.onnx"])

    def set_parameters(value: Any) -> Callable[[dict[str, Any]], None]:
        return set_key("functions", 0, "programs", place, "parameters", value=value)

    assert "lacks a parameter of a program" in refused(set_parameters(["nothing"]))
    assert "describes a program improperly" in refused(set_parameters("all"))
    assert "step.cpu.1.onnx" in refused(set_parameters(parameters[1:]))
    swapped = [*parameters[1:], parameters[0]]  # their names decide, not their order
    reseal(copy, set_parameters(swapped), {"step.cpu.1.onnx": files["step.cpu.1.onnx"]})
    assert check(library, copy, "--plugin", runtime).returncode == 0


def test_a_wrong_weight_is_found_by_the_self_test_by_onnx(copy: Path, library, runtime: Path) -> None:
    manifest, files = read_artefact(copy)
    arrays = {k: v.copy() for k, v in unpack(files["parameters.bin"], manifest["parameters"], "").items()}
    kernel = next(k for k in arrays if k.startswith("model/") and k.endswith("kernel"))
    arrays[kernel].flat[0] += 0.1
    reseal(copy, lambda m: None, {"parameters.bin": pack(arrays)[0]})
    done = check(library, copy, "--plugin", runtime)
    assert done.returncode == 1
    assert "step.cpu.1.onnx computes output '" in done.stderr


def test_the_onnx_file_is_one_for_anyone(both: Path, rich: FieldSurrogate, runtime: Path) -> None:
    """onnxruntime alone opens it where it lies; weights stand once, in parameters.bin; no path of this machine."""
    import onnxruntime

    (step,) = functions(rich)
    session = onnxruntime.InferenceSession(str(both / "step.cpu.4.onnx"), providers=["CPUExecutionProvider"])
    inputs = samples_of(rich, 4)
    feeds = {f"input/{a.name}": inputs[a.name].astype(a.dtype) for a in step.inputs}
    outputs = session.run([f"output/{a.name}" for a in step.outputs], feeds)
    expected = call(step, inputs, 9)
    for argument, value in zip(step.outputs, outputs, strict=True):
        close(value, expected[argument.name])
    data = (both / "step.cpu.4.onnx").read_bytes()
    import onnx as format_of_onnx

    graph = format_of_onnx.load(both / "step.cpu.4.onnx", load_external_data=False).graph
    outside = {w.name for w in graph.initializer if w.data_location == format_of_onnx.TensorProto.EXTERNAL}
    assert outside
    assert outside == set(step.parameters) & {w.name for w in graph.initializer}
    for pattern in (str(Path(__file__).parents[2]), ".py", "site-packages"):
        assert pattern.encode() not in data


def fourier(size: int = 16) -> Function:
    """A function with a real Fourier transform in it, as XLA has it and ONNX's converter has not."""
    rng = np.random.default_rng(0)
    parameters = {"filter": rng.normal(size=(size, size // 2 + 1)).astype(np.float32)}

    def apply(given: tuple[Any, ...], inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        spectrum = jnp.fft.rfft2(jnp.asarray(inputs[0]))
        return (jnp.fft.irfft2(spectrum * given[0], s=(size, size)) + jnp.tanh(inputs[0]),)

    argument = Argument("height", "prognostic", "m", ("y", "x"), (size, size))
    golden = {"height": rng.normal(size=(2, size, size)).astype(np.float32)}
    return Function("step", (argument,), (argument,), parameters, apply, golden)


@pytest.fixture
def fourier_surrogate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FieldSurrogate:
    """Something that is exported as :func:`fourier`."""
    monkeypatch.setattr(writing, "field_functions", lambda surrogate, golden, steps: [fourier()])
    monkeypatch.setattr(writing, "_statistics", lambda surrogate: {})  # they are not fourier()'s
    return make(tmp_path / "m", shape=(3, 4), history=1, monthly=False, features=(), land=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("fno", {"width": 4, "layers": 1, "modes": [2, 2]}),
        ("sfno", {"width": 4, "layers": 1}),
        ("transformer", {"channels": 16, "layers": 1, "heads": 2, "patch": 2}),
        ("unet", {"channels": [8, 16], "blocks": 1}),
    ],
)
def test_networks_for_fields_convert(model, settings, plugin, runtime, tmp_path) -> None:
    """The export compares both backends with the golden samples and publishes nothing that misses its tolerance."""
    surrogate = make(
        tmp_path / "m", model=model, settings=settings, shape=(8, 16), history=1, land=False, monthly=False,
        features=("position",),
    )  # fmt: skip
    where = {"cpu": str(plugin)}
    out = export_bundle(surrogate, tmp_path / "m.sg", batches=(1,), plugins=where, backends=("pjrt", "onnx"))
    programs = json.loads((out / "manifest.json").read_text())["functions"][0]["programs"]
    assert sorted(p["backend"] for p in programs) == ["onnx", "pjrt"]


def test_a_function_that_does_not_convert(fourier_surrogate, plugin, runtime, library, tmp_path) -> None:
    said: list[str] = []
    out = export_bundle(
        fourier_surrogate, tmp_path / "f.sg", batches=(1,), plugins={"cpu": str(plugin)}, say=said.append
    )
    (line,) = [text for text in said if text.startswith("no programs for onnx")]
    assert "step for onnx, batch 1: it does not convert" in line
    manifest = json.loads((out / "manifest.json").read_text())
    assert "runtimes" not in manifest
    assert [p["backend"] for p in manifest["functions"][0]["programs"]] == ["pjrt"]
    with pytest.raises(UserError, match=r"target onnx: step for onnx, batch 1: it does not convert: .*FFT"):
        export_bundle(fourier_surrogate, tmp_path / "g.sg", batches=(1,), backends=("onnx",))
    assert not (tmp_path / "g.sg").exists()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_fourier_transform_in_four_threads_does_not_hang(
    fourier_surrogate, library, program, run, tmp_path, which: int
) -> None:
    """4 × 1,000 calls, on every plugin that is installed: some have been seen to wait for ever; ``run`` has a timeout."""
    found = plugins.installed("cpu")
    if which >= len(found):
        pytest.skip(f"{len(found)} PJRT plugins for cpu are installed")
    out = export_bundle(
        fourier_surrogate, tmp_path / "f.sg", batches=(1,), plugins={"cpu": str(found[which].path)}, backends=("pjrt",)
    )
    inputs = {"height": np.random.default_rng(1).normal(size=(1, 16, 16)).astype(np.float32)}
    on_it = partial(run, SURROGATE_PLUGIN=str(found[which].path))
    outputs = drive(program, on_it, out, fourier(), inputs, tmp_path, threads=4, calls=1000)
    parameter = fourier().parameters["filter"]
    expected = np.fft.irfft2(np.fft.rfft2(inputs["height"].astype(np.float64)) * parameter, s=(16, 16))
    close(outputs["height"], (expected + np.tanh(inputs["height"])).astype(np.float32), 2e-6)


def test_onnx_that_misses_its_tolerance_is_not_published(
    runtime, plugin, library, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surrogate = make(tmp_path / "m", shape=(3, 4), history=1, monthly=False, features=("position",), land=False)
    convert = onnx.convert

    def wrong(function: Function, batch: int, table: Any) -> tuple[bytes, list[str]]:
        from dataclasses import replace

        def apply(parameters: Any, inputs: Any) -> Any:
            first, *rest = function.apply(parameters, inputs)
            return (first * 1.0001, *rest)

        return convert(replace(function, apply=apply), batch, table)

    monkeypatch.setattr(onnx, "convert", wrong)
    said: list[str] = []
    given: dict[str, Any] = {"batches": (1,), "plugins": {"cpu": str(plugin)}, "say": said.append}
    out = export_bundle(surrogate, tmp_path / "x.sg", **given)
    assert any(re.search("no programs for onnx, which cannot be published: .*'temperature' wrongly", t) for t in said)
    assert not list(out.glob("*.onnx"))
    with pytest.raises(UserError, match=r"target cpu \(libonnx.*output 'temperature' wrongly"):
        export_bundle(surrogate, tmp_path / "y.sg", **given, backends=("onnx", "pjrt"))
    assert not (tmp_path / "y.sg").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"named": ["tflite"]}, "backend 'tflite' is not one of pjrt, onnx"),
        ({"named": []}, "leaves nothing"),
        ({"named": ["onnx"], "platforms": ["cpu", "cuda"]}, "serve the cpu alone"),
        ({"named": ["onnx"], "runtime": "/nowhere/libonnxruntime.so"}, "/nowhere/libonnxruntime.so, is not a file"),
        ({"named": ["onnx", "pjrt"], "unverified": ["cpu"]}, "target onnx: "),
    ],
)
def test_bad_choices_of_backends_are_told(arguments: dict[str, Any], words: str) -> None:
    given = {"named": None, "platforms": ["cpu"], "unverified": [], "runtime": ""}
    with pytest.raises(UserError, match=words):
        Backends.choose(**{**given, **arguments})


def test_without_the_extra_onnx_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "missing", lambda: ["jax2onnx"])
    chosen = Backends.choose(None, ["cpu"], [], "")
    assert chosen.pjrt
    assert chosen.runtime is None
    said: list[str] = []
    chosen.convert([], [], {}, [], [1], said.append)
    assert said == ["no programs for onnx: jax2onnx is not installed (pip install 'surrogate[onnx]')"]
    with pytest.raises(UserError, match=r"target onnx: jax2onnx is not installed"):
        Backends.choose(["onnx"], ["cpu"], [], "")


def test_the_clearly_faster_backend_serves() -> None:
    def record(*times: float) -> dict[str, Any]:
        return {"microseconds": {f"step/{k}/microseconds": t for k, t in enumerate(times)}}

    assert faster(record(10, 100), record(5, 100)) == "onnx"
    assert faster(record(10, 100), record(5, 200)) == "pjrt"
    assert faster(record(10, 100), record(9, 90)) == "pjrt"
    assert faster(None, record(9)) == "onnx"


def test_the_places_of_functions_are_those_of_the_header(tmp_path: Path) -> None:
    """No wheel brings the C header of ONNX Runtime; where one is at hand, every place and constant is compared."""
    header = os.environ.get("ONNXRUNTIME_C_API_H", "")
    if not header:
        pytest.skip("ONNXRUNTIME_C_API_H does not name an onnxruntime_c_api.h")
    names = {
        "CREATE_STATUS": "CreateStatus", "ERROR_CODE": "GetErrorCode", "ERROR_MESSAGE": "GetErrorMessage",
        "CREATE_ENV": "CreateEnv", "DISABLE_TELEMETRY": "DisableTelemetryEvents",
        "CREATE_SESSION_FROM_ARRAY": "CreateSessionFromArray", "CREATE_SESSION_OPTIONS": "CreateSessionOptions",
        "SET_EXECUTION_MODE": "SetSessionExecutionMode", "SET_OPTIMIZATION": "SetSessionGraphOptimizationLevel",
        "SET_INTRA_THREADS": "SetIntraOpNumThreads", "SET_INTER_THREADS": "SetInterOpNumThreads",
        "INPUT_COUNT": "SessionGetInputCount", "OUTPUT_COUNT": "SessionGetOutputCount",
        "INPUT_TYPE": "SessionGetInputTypeInfo", "OUTPUT_TYPE": "SessionGetOutputTypeInfo",
        "INPUT_NAME": "SessionGetInputName", "OUTPUT_NAME": "SessionGetOutputName",
        "CREATE_RUN_OPTIONS": "CreateRunOptions", "CREATE_TENSOR_WITH_DATA": "CreateTensorWithDataAsOrtValue",
        "AS_TENSOR_TYPE": "CastTypeInfoToTensorInfo", "ELEMENT_TYPE": "GetTensorElementType",
        "NUM_DIMENSIONS": "GetDimensionsCount", "DIMENSIONS": "GetDimensions",
        "CREATE_CPU_MEMORY": "CreateCpuMemoryInfo", "ALLOCATOR_FREE": "AllocatorFree",
        "DEFAULT_ALLOCATOR": "GetAllocatorWithDefaultOptions", "RELEASE_ENV": "ReleaseEnv",
        "RELEASE_STATUS": "ReleaseStatus", "RELEASE_MEMORY": "ReleaseMemoryInfo", "RELEASE_SESSION": "ReleaseSession",
        "RELEASE_VALUE": "ReleaseValue", "RELEASE_RUN_OPTIONS": "ReleaseRunOptions", "RELEASE_TYPE": "ReleaseTypeInfo",
        "RELEASE_SESSION_OPTIONS": "ReleaseSessionOptions", "ADD_CONFIG": "AddSessionConfigEntry",
        "RUN_WITH_BINDING": "RunWithBinding", "CREATE_BINDING": "CreateIoBinding", "RELEASE_BINDING": "ReleaseIoBinding",
        "BIND_INPUT": "BindInput", "BIND_OUTPUT": "BindOutput", "ADD_EXTERNAL_INITIALIZERS": "AddExternalInitializers",
    }  # fmt: skip
    source = (native.HERE / "onnx_abi.h").read_text()
    assert set(re.findall(r"  OX_(\w+) = \d+,?\n", source.partition("ox_function {")[2].partition("}")[0])) == set(
        names
    )
    lines = [f'#include "{header}"', f'#include "{native.HERE / "onnx_abi.h"}"']
    for ours, theirs in names.items():
        lines.append(f'_Static_assert(OX_{ours} * sizeof(void *) == offsetof(OrtApi, {theirs}), "{theirs}");')
    for a, b in (("LOG_FATAL", "ORT_LOGGING_LEVEL_FATAL"), ("SEQUENTIAL", "ORT_SEQUENTIAL"),
                 ("OPTIMIZE_ALL", "ORT_ENABLE_ALL"), ("DEVICE_ALLOCATOR", "OrtDeviceAllocator"),
                 ("MEMORY_DEFAULT", "OrtMemTypeDefault"), ("FLOAT32", "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT"),
                 ("INT32", "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32")):  # fmt: skip
        lines.append(f'_Static_assert((int)OX_{a} == (int){b}, "{b}");')
    lines.append('_Static_assert(offsetof(ox_base, version) == offsetof(OrtApiBase, GetVersionString), "base");')
    (tmp_path / "layout.c").write_text("#include <stddef.h>\n" + "\n".join(lines) + "\n")
    done = subprocess.run(
        ["cc", "-std=c11", "-fsyntax-only", str(tmp_path / "layout.c")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
