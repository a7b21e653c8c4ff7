"""Files that are not those of an honest export are refused, by the C library and in Python, each for its reason."""

from __future__ import annotations

from collections.abc import Callable
import ctypes
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from surrogates import make

from surrogate.core.types import UserError
from surrogate.domains.fields_surrogate import FieldSurrogate
from surrogate.exporting import native, open_bundle, plugins, stablehlo
from surrogate.exporting import write as writing
from surrogate.exporting.files import ABI, pack, unpack
from surrogate.run.artefact import read_artefact, seal, unseal, write_artefact

NOWHERE = "/nowhere/plugin.so"
BUNDLE, PLUGIN = 3, 4  # surrogate_status


class Options(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t), ("plugin", ctypes.c_char_p), ("platform", ctypes.c_char_p),
        ("device", ctypes.c_int), ("lazy", ctypes.c_int), ("skip_self_test", ctypes.c_int),
    )  # fmt: skip


@pytest.fixture(scope="module")
def opens(library: native.Library) -> Callable[[Path], tuple[int, str]]:
    """Status and sentence of opening with a plugin that is not there: a good Bundle gets as far as that."""
    lib = ctypes.CDLL(str(library.library))
    lib.surrogate_last_error.restype = ctypes.c_char_p

    def open_bundle_in_c(directory: Path) -> tuple[int, str]:
        options, model = Options(struct_size=ctypes.sizeof(Options), plugin=NOWHERE.encode()), ctypes.c_void_p(1)
        status = lib.surrogate_open(ABI, str(directory).encode(), ctypes.byref(options), ctypes.byref(model))
        assert model.value is None
        return status, lib.surrogate_last_error().decode()

    return open_bundle_in_c


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, library: native.Library) -> Path:
    """A small bundle that was never run by a plugin, so that these tests need none."""
    directory = tmp_path_factory.mktemp("small")
    surrogate = make(directory / "model", shape=(3, 4), history=1, monthly=False, features=("position",), land=False)
    return writing.export_bundle(surrogate, directory / "small.sg", batches=(1, 2), unverified=("cpu",))


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy.sg"))


def reseal(directory: Path, change: Callable[[dict[str, Any]], None], files: dict[str, bytes] | None = None) -> None:
    """What someone who knows the format could write: hashes and digest are right."""
    manifest, content = read_artefact(directory)
    for key in ("digest", "files"):
        del manifest[key]
    change(manifest)
    write_artefact(directory, {**content, **(files or {})}, manifest)


@pytest.mark.slow
def test_an_honest_bundle_gets_as_far_as_the_plugin(original: Path, opens) -> None:
    status, sentence = opens(original)
    assert status == PLUGIN
    assert NOWHERE in sentence
    assert open_bundle(original).functions == ("step",)


def test_a_flipped_bit_anywhere_is_noticed_in_c(copy: Path, opens) -> None:
    rng = np.random.default_rng(0)
    silent = []
    for path in sorted(copy.iterdir()):
        data = path.read_bytes()
        # Every byte where the reader parses, a sample where it only hashes.
        dense = set(range(0, min(len(data), 300))) if path.name == "manifest.json" else set()
        for position in sorted(dense | {int(p) for p in rng.integers(0, len(data), 60)} | {len(data) - 1}):
            changed = bytearray(data)
            changed[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            if opens(copy)[0] != BUNDLE:
                silent.append((path.name, position))
        path.write_bytes(data)
    assert silent == []
    assert opens(copy)[0] == PLUGIN


def test_cut_missing_extra_linked(copy: Path, opens, tmp_path: Path) -> None:
    def refused(words: str) -> None:
        status, sentence = opens(copy)
        assert (status, words in sentence) == (BUNDLE, True), sentence
        with pytest.raises(UserError):
            open_bundle(copy)

    target = copy / "parameters.bin"
    data = target.read_bytes()
    target.write_bytes(data[:-1])
    refused(f"parameters.bin has {len(data) - 1} bytes where the manifest says {len(data)}")
    target.unlink()
    refused("parameters.bin: is missing")
    (tmp_path / "elsewhere").write_bytes(data)
    target.symlink_to(tmp_path / "elsewhere")
    refused("parameters.bin: is a link")
    target.unlink()
    target.mkdir()
    refused("parameters.bin: ")
    target.rmdir()
    os.mkfifo(target)
    refused("parameters.bin: is not a plain file")
    target.unlink()
    target.write_bytes(data)
    (copy / "extra.so").write_bytes(b"")
    refused("extra.so: is not named by the manifest")
    (copy / "extra.so").unlink()
    (copy / ".hidden").mkdir()
    refused(".hidden: is not named by the manifest")
    (copy / ".hidden").rmdir()
    assert opens(copy)[0] == PLUGIN
    assert opens(tmp_path)[0] == BUNDLE
    assert opens(target)[0] == BUNDLE


def set_key(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        at: Any = manifest
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_key("kind", value="surrogate"),
        set_key("kind", value=7),
        set_key("functions", value={}),
        set_key("functions", value=[]),
        set_key("functions", value=[1]),
        set_key("functions", 0, "inputs", value=[]),
        set_key("functions", 0, "inputs", 0, "shape", value=[-1, 3, 4]),
        set_key("functions", 0, "inputs", 0, "shape", value=[2**40, 2**40, 4]),
        set_key("functions", 0, "inputs", 0, "shape", value=[1.5, 3, 4]),
        set_key("functions", 0, "inputs", 0, "shape", value=[2, 3, 5]),  # its golden vector is of another shape
        set_key("functions", 0, "inputs", 0, "dims", value=["x"]),
        set_key("functions", 0, "inputs", 0, "dims", value=[1, 2, 3]),
        set_key("functions", 0, "inputs", 0, "dtype", value="float64"),
        set_key("functions", 0, "outputs", 0, "tolerance", value=[]),
        set_key("functions", 0, "outputs", 0, "tolerance", value=["x"]),
        set_key("functions", 0, "outputs", 0, "block", value=0),
        set_key("functions", 0, "golden_samples", value=10**9),
        set_key("functions", 0, "golden_samples", value=0),
        set_key("functions", 0, "programs", 0, "file", value="../program"),
        set_key("functions", 0, "programs", 0, "file", value="nothing"),
        set_key("functions", 0, "programs", 0, "batch", value=2),
        set_key("functions", 0, "programs", 0, "batch", value=0),
        set_key("functions", 0, "programs", 0, "batch", value=10**12),
        set_key("functions", 0, "parameters", value=["nothing"]),
        set_key("functions", 0, "parameters", value=[[]]),
        set_key("parameters", 0, "offset", value=1),
        set_key("parameters", 0, "offset", value=64 * 10**6),
        set_key("parameters", 0, "size", value=0),
        set_key("parameters", 0, "shape", value=[2**31, 2**31]),
        set_key("golden", value="golden.bin"),
        set_key("grid", "latitude", value=["north"]),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused_in_c(copy: Path, opens, change) -> None:
    reseal(copy, change)
    status, sentence = opens(copy)
    assert status == BUNDLE, sentence


def test_other_versions_are_named(copy: Path, opens) -> None:
    reseal(copy, set_key("abi", value=9))
    assert opens(copy) == (2, f"{copy} has format 1 and ABI 9; this libsurrogate reads format 1 and ABI up to {ABI}")
    reseal(copy, set_key("format", value=2))
    assert opens(copy)[0] == 2
    with pytest.raises(UserError, match="'bundle' of format 2"):
        open_bundle(copy)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[", b"[" * 100_000, b'{"a": 1', b'{"a": 1}}', b'{"a": 1, "a": 2}', b'{"a": 01}', b'{"a": -}', b'{"a": 1e}',
        b'{"a": "\\ud800"}', b'{"a": "\\u0000"}', b'{"a": "\\x"}', b'{"a": "\x01"}', b'{"a": tru}', b"{'a': 1}", b'{"a"}',
        b'{"a": NaN}', b'{"a": "\\', b'{"a": 1e999999999999}',
    ],
)  # fmt: skip
def test_a_manifest_that_is_no_json_is_refused_in_c(copy: Path, opens, text: bytes) -> None:
    path = copy / "manifest.json"
    record = seal({"x": 1}).decode()
    digest = json.loads(record)["digest"]
    import hashlib

    body = text[1:]
    good = hashlib.sha256(b"{" + body).hexdigest()
    path.write_bytes(b'{\n "digest": "' + good.encode() + b'",' + body)
    assert digest != good
    assert opens(copy)[0] == BUNDLE


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/b", "..", ".hidden", "", "manifest.json", "-x"])
def test_names_that_lead_elsewhere_are_refused_in_c(copy: Path, opens, name: str) -> None:
    path = copy / "manifest.json"
    manifest = unseal(path.read_bytes(), "manifest")
    del manifest["digest"]
    manifest["files"][name] = {"sha256": "0" * 64, "size": 0}
    path.write_bytes(seal(manifest))
    status, sentence = opens(copy)
    assert status == BUNDLE
    assert "may not name" in sentence


def test_the_bundle_never_says_where_code_is_loaded_from(copy: Path, opens, library, tmp_path: Path) -> None:
    """A path in the plugin's record is not followed, and a file of that name counts only with its hash."""
    module = tmp_path / "evil.so"
    (tmp_path / "evil.c").write_text(
        '#include <stdio.h>\n__attribute__((constructor)) static void run(void) { puts("RAN"); fflush(stdout); }\n'
    )
    command = ["cc", "-shared", "-fPIC", str(tmp_path / "evil.c"), "-o", str(module)]
    subprocess.run(command, check=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SURROGATE")}
    for name in (str(module), "../evil.so", "evil.so"):
        reseal(
            copy, set_key("plugins", value={"cpu": {"file": name, "sha256": "0" * 64, "package": "x", "version": "1"}})
        )
        done = subprocess.run(
            [str(library.checker), str(copy)], capture_output=True, text=True,
            env={**clean, "SURROGATE_PLUGIN_PATH": f"/nowhere:{tmp_path}"},
        )  # fmt: skip
        assert done.returncode == 1
        assert "RAN" not in done.stdout
        assert ("its SHA-256 is another" if name == "evil.so" else "no plugin for cpu") in done.stderr


def check_by_plugin(directory: Path, plugin: Path) -> str:
    with pytest.raises(UserError) as caught:
        native.check(directory, "cpu", plugin)
    return str(caught.value)


@pytest.mark.slow
def test_a_wrong_weight_is_found_by_the_self_test(copy: Path, plugin: Path) -> None:
    manifest, files = read_artefact(copy)
    arrays = {k: v.copy() for k, v in unpack(files["parameters.bin"], manifest["parameters"], "").items()}
    kernel = next(k for k in arrays if k.startswith("model/") and k.endswith("kernel"))
    arrays[kernel].flat[0] += 0.01
    reseal(copy, lambda m: None, {"parameters.bin": pack(arrays)[0]})
    text = check_by_plugin(copy, plugin)
    assert "step.cpu.1.mlir computes output '" in text
    assert "is allowed" in text
    with pytest.raises(UserError, match=r"step computes '.*' wrongly on this machine: it differs by"):
        open_bundle(copy)


@pytest.mark.slow
def test_programs_that_do_not_fit_the_manifest_are_refused(copy: Path, plugin: Path) -> None:
    """Nothing that a program may be makes the library write or read beyond what the manifest promises."""
    manifest, files = read_artefact(copy)
    shutil.copytree(copy, copy.with_name("other.sg"))
    reseal(copy, lambda m: None, {"step.cpu.1.mlir": b"not a program"})
    assert "step.cpu.1.mlir" in check_by_plugin(copy, plugin)
    # The program of two samples in the place of that of one.
    reseal(copy, lambda m: None, {"step.cpu.1.mlir": files["step.cpu.2.mlir"]})
    assert "its output 'temperature' is not of the manifest's shape" in check_by_plugin(copy, plugin)
    other = copy.with_name("other.sg")

    def fewer_parameters(m: dict[str, Any]) -> None:
        m["functions"][0]["parameters"] = m["functions"][0]["parameters"][:-1]

    reseal(other, fewer_parameters)
    assert "step.cpu.1.mlir" in check_by_plugin(other, plugin)
    reseal(other, set_key("functions", 0, "parameters", value=manifest["functions"][0]["parameters"][::-1]))
    assert "step.cpu.1.mlir" in check_by_plugin(other, plugin)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"platforms": ("gpu",)}, "platform 'gpu' is not one of"),
        ({"platforms": ("cuda",)}, "no plugin for cuda is installed"),
        ({"batches": ()}, "batches="),
        ({"batches": (0, 1)}, "batches="),
        ({"steps": (0,), "unverified": ("cpu",)}, "steps="),
        ({"tolerance": 2.0}, "tolerance=2.0"),
        ({"unverified": ("tpu",)}, "unverified names 'tpu'"),
        ({"plugins": {"cpu": "/nowhere/p.so"}}, "/nowhere/p.so, is not a file"),
    ],
)
def test_bad_options_of_an_export_are_told(tmp_path: Path, monkeypatch, arguments: dict[str, Any], words: str) -> None:
    monkeypatch.setattr(plugins, "installed", lambda platform: [])
    surrogate = make(tmp_path / "m", shape=(3, 4), history=1, monthly=False, features=(), land=False)
    with pytest.raises(UserError, match=words):
        writing.export_bundle(surrogate, tmp_path / "x.sg", **arguments)
    assert not (tmp_path / "x.sg").exists()


def test_an_export_replaces_bundles_and_nothing_else(original: Path, tmp_path: Path) -> None:
    surrogate = make(tmp_path / "m", shape=(3, 4), history=1, monthly=False, features=(), land=False)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for name in ("m", "file", "full"):
        with pytest.raises(UserError, match=f"{name} is there already and is not a Bundle"):
            writing.export_bundle(surrogate, tmp_path / name, unverified=("cpu",))
    bundle = Path(shutil.copytree(original, tmp_path / "old.sg"))
    writing.export_bundle(surrogate, bundle, batches=(3,), unverified=("cpu",))
    assert (bundle / "step.cpu.3.mlir").is_file()
    assert not (bundle / "step.cpu.1.mlir").exists()


@pytest.mark.slow
def test_a_target_that_misses_its_tolerance_is_not_published(
    tmp_path: Path, plugin: Path, library, monkeypatch
) -> None:
    """The program of the plugin's target computes something else than jax.jit did."""
    surrogate = make(tmp_path / "m", shape=(3, 4), history=1, monthly=False, features=(), land=False)
    lower = stablehlo.lower

    def wrong(function, platform, batch):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        def apply(parameters, inputs):  # type: ignore[no-untyped-def]
            first, *rest = function.apply(parameters, inputs)
            return (first * 1.0001, *rest)

        return lower(replace(function, apply=apply), platform, batch)

    monkeypatch.setattr(stablehlo, "lower", wrong)
    with pytest.raises(UserError, match=r"target cpu \(.*\.so\).*output 'temperature' wrongly"):
        writing.export_bundle(surrogate, tmp_path / "x.sg", batches=(1,), plugins={"cpu": str(plugin)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_opening_in_python_runs_and_reaches_nothing(original: Path) -> None:
    """No import, process, socket or write beyond what JAX does itself: seen by an audit hook once JAX is warm."""
    program = """
import os, sys
import jax, jax.numpy as jnp
from jax import export
from surrogate.exporting import caller
caller.open_bundle(sys.argv[1])
seen = []
def hook(event, arguments):
    if event.split(".")[0] in ("subprocess", "socket", "exec", "compile", "import", "os") or event == "open":
        if event in ("os.listdir", "os.scandir"):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        seen.append((event, str(arguments)[:200]))
sys.addaudithook(hook)
caller.open_bundle(sys.argv[1])
print("\\n".join(map(str, seen)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(original)], capture_output=True, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stdout.strip()


def test_a_layout_of_ours_is_that_of_the_plugins_own_header(tmp_path: Path) -> None:
    """Where the plugin's package brings the C header along, every struct, offset and index is compared with it."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        header = next(Path(str(f.locate())) for f in files("xla-cpu-pjrt") or () if f.name == "pjrt_c_api.h")
    except (PackageNotFoundError, StopIteration):
        pytest.skip("xla-cpu-pjrt, which holds the header, is not installed")
    structs = {
        "pj_error_destroy": ("Error_Destroy_Args", {"error": "error"}),
        "pj_error_message": ("Error_Message_Args", {"message_size": "message_size"}),
        "pj_on_event": ("Event_Await_Args", {"event": "event"}),
        "pj_named_value": ("NamedValue", {"type": "type", "value": "int64_value", "value_size": "value_size"}),
        "pj_client_create": ("Client_Create_Args", {"client": "client", "num_options": "num_options"}),
        "pj_on_client": ("Client_Destroy_Args", {"client": "client"}),
        "pj_client_platform_name": ("Client_PlatformName_Args", {"name": "platform_name"}),
        "pj_client_devices": ("Client_AddressableDevices_Args", {"devices": "addressable_devices"}),
        "pj_program": ("Program", {"code": "code", "format_size": "format_size"}),
        "pj_client_compile": ("Client_Compile_Args", {"options": "compile_options", "executable": "executable"}),
        "pj_layout_tiled": ("Buffer_MemoryLayout_Tiled", {"minor_to_major": "minor_to_major"}),
        "pj_layout": ("Buffer_MemoryLayout", {"of": "tiled", "type": "type"}),
        "pj_buffer_from_host": ("Client_BufferFromHostBuffer_Args", {
            "data": "data", "semantics": "host_buffer_semantics", "done_with_data": "done_with_host_buffer",
            "buffer": "buffer"}),
        "pj_on_executable": ("Executable_Destroy_Args", {"executable": "executable"}),
        "pj_executable_num_outputs": ("Executable_NumOutputs_Args", {"num_outputs": "num_outputs"}),
        "pj_executable_output_types": ("Executable_OutputElementTypes_Args", {"types": "output_types"}),
        "pj_executable_output_dimensions": ("Executable_OutputDimensions_Args", {"dims": "dims", "ranks": "dim_sizes"}),
        "pj_on_loaded": ("LoadedExecutable_Destroy_Args", {"executable": "executable"}),
        "pj_loaded_get_executable": ("LoadedExecutable_GetExecutable_Args", {"executable": "executable"}),
        "pj_execute_options": ("ExecuteOptions", {"launch_id": "launch_id", "incarnation_ids": "incarnation_ids"}),
        "pj_loaded_execute": ("LoadedExecutable_Execute_Args", {
            "options": "options", "arguments": "argument_lists", "outputs": "output_lists", "device": "execute_device"}),
        "pj_on_buffer": ("Buffer_Destroy_Args", {"buffer": "buffer"}),
        "pj_buffer_to_host": ("Buffer_ToHostBuffer_Args", {"host_layout": "host_layout", "done": "event"}),
    }  # fmt: skip
    functions = {
        "ERROR_DESTROY": "Error_Destroy", "ERROR_MESSAGE": "Error_Message", "PLUGIN_INITIALIZE": "Plugin_Initialize",
        "EVENT_DESTROY": "Event_Destroy", "EVENT_AWAIT": "Event_Await", "CLIENT_CREATE": "Client_Create",
        "CLIENT_DESTROY": "Client_Destroy", "CLIENT_PLATFORM_NAME": "Client_PlatformName",
        "CLIENT_ADDRESSABLE_DEVICES": "Client_AddressableDevices", "CLIENT_COMPILE": "Client_Compile",
        "BUFFER_FROM_HOST": "Client_BufferFromHostBuffer", "EXECUTABLE_DESTROY": "Executable_Destroy",
        "EXECUTABLE_NUM_OUTPUTS": "Executable_NumOutputs", "LOADED_DESTROY": "LoadedExecutable_Destroy",
        "LOADED_GET_EXECUTABLE": "LoadedExecutable_GetExecutable", "LOADED_EXECUTE": "LoadedExecutable_Execute",
        "BUFFER_DESTROY": "Buffer_Destroy", "BUFFER_TO_HOST": "Buffer_ToHostBuffer",
        "EXECUTABLE_OUTPUT_TYPES": "Executable_OutputElementTypes",
        "EXECUTABLE_OUTPUT_DIMENSIONS": "Executable_OutputDimensions",
    }  # fmt: skip
    lines = [f'#include "{header}"', f'#include "{native.HERE / "pjrt_abi.h"}"']
    for ours, (theirs, members) in structs.items():
        lines.append(f'_Static_assert(sizeof({ours}) == sizeof(PJRT_{theirs}), "{ours}");')
        for a, b in members.items():
            lines.append(f'_Static_assert(offsetof({ours}, {a}) == offsetof(PJRT_{theirs}, {b}), "{ours}.{a}");')
    for ours, theirs in functions.items():
        at = f"offsetof(pj_table, functions) + PJ_{ours} * sizeof(void *)"
        lines.append(f'_Static_assert({at} == offsetof(PJRT_Api, PJRT_{theirs}), "{theirs}");')
    for ours, theirs in (("PJ_TYPE_S32", "Buffer_Type_S32"), ("PJ_TYPE_F32", "Buffer_Type_F32"),
                         ("PJ_VALUE_INT64", "NamedValue_kInt64"), ("PJ_VALUE_INT64_LIST", "NamedValue_kInt64List"),
                         ("PJ_VALUE_BOOL", "NamedValue_kBool"), ("PJ_LAYOUT_TILED", "Buffer_MemoryLayout_Type_Tiled"),
                         ("PJ_COPY_DURING_CALL", "HostBufferSemantics_kImmutableOnlyDuringCall"),
                         ("PJ_UNTIL_TRANSFERRED", "HostBufferSemantics_kImmutableUntilTransferCompletes"),
                         ("PJ_ZERO_COPY", "HostBufferSemantics_kImmutableZeroCopy")):  # fmt: skip
        lines.append(f'_Static_assert((int){ours} == (int)PJRT_{theirs}, "{theirs}");')
    (tmp_path / "layout.c").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        ["cc", "-std=c11", "-fsyntax-only", str(tmp_path / "layout.c")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_surrogate_without_an_exported_form_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of the kind int have no exported form yet"):
        writing._functions(3, [1], "field", [1], (), 1e-6)
    surrogate = make(tmp_path / "m", shape=(3, 4), history=1, monthly=False, features=(), land=False)
    nameless = FieldSurrogate(surrogate.manifest, surrogate.frame, surrogate.graphdef, surrogate.params)
    with pytest.raises(UserError, match="no directory"):
        writing._functions(nameless, [1], "field", [1], (), 1e-6)


def mutate(copy: Path, tmp_path: Path, rounds: int, seed: int) -> int:
    """Rounds of random change with AddressSanitizer and UndefinedBehaviorSanitizer; how many reached the plugin."""
    program = tmp_path / "mutate"
    command = ["cc", "-std=c11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
               f"-I{native.HERE}", *map(str, native.library_sources()), str(Path(__file__).parent / "mutate.c"),
               "-o", str(program), *native.LIBRARIES]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in done.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert done.returncode == 0, done.stderr
    manifest, files = read_artefact(copy)
    for key in ("digest", "files"):
        del manifest[key]
    # Without the sources there is less to hash in every round.
    write_artefact(copy, {n: d for n, d in files.items() if n.endswith((".bin", ".mlir", ".jax"))}, manifest)
    done = subprocess.run([str(program), str(copy), str(rounds), str(seed)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


@pytest.mark.slow
def test_random_manifests_do_no_harm(copy: Path, library, tmp_path: Path) -> None:
    reached = mutate(copy, tmp_path, 500, 1)
    assert 0 < reached < 500  # some changes are harmless, and not all changes are


@pytest.mark.slow
def test_many_random_manifests_do_no_harm(copy: Path, library, tmp_path: Path) -> None:
    assert mutate(copy, tmp_path, 5_000, 2) > 0
