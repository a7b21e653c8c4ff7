"""GPUs that are not there: their description, the environment, XLA's GPU text, and a compilation where the plugin is."""

from __future__ import annotations

import importlib
from pathlib import Path
import re
import sys

import pytest

from surrogate.cli import load_experiment
from surrogate.core.types import UserError
from surrogate.planning import devices, gpus
from surrogate.planning.child import run_in_child
from surrogate.planning.collectives import collectives
from surrogate.planning.gpus import GPUS, cuda_plugin, target_config
from surrogate.planning.hlo import Program
from surrogate.planning.memory import traffic
from surrogate.planning.plan import make_plan
from surrogate.planning.target import CHIPS, parse_target

# As the CUDA compiler writes it: every collective is started and awaited, the result of a start holds the operand too, except
# that of an all-reduce; groups in three notations; a loop whose trips stand among other keys.
STARTED = """HloModule jit_step, is_scheduled=true, num_partitions=16

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (arg: (s32[], bf16[64,512], bf16[64,512])) -> (s32[], bf16[64,512], bf16[64,512]) {
  %arg = (s32[], bf16[64,512]{1,0}, bf16[64,512]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = bf16[64,512]{1,0} get-tuple-element(%arg), index=1
  %w = bf16[64,512]{1,0} get-tuple-element(%arg), index=2
  %all-gather-start = (bf16[64,512]{1,0}, bf16[256,512]{1,0}) all-gather-start(%w), channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=4], device_ids=([4,4]T(1,0)) {'axis_0'}, dimensions={0}, use_global_device_ids=true, backend_config={"collective_backend_config":{"is_sync":false}}
  %all-gather-done = bf16[256,512]{1,0} all-gather-done(%all-gather-start)
  %reduce-scatter-start = ((bf16[256,512]{1,0}), bf16[64,512]{1,0}) reduce-scatter-start(%all-gather-done), channel_id=2, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=4], device_ids=([4,4]T(1,0)) {'axis_0'}, use_global_device_ids=true, dimensions={0}, to_apply=%add
  %reduce-scatter-done = bf16[64,512]{1,0} reduce-scatter-done(%reduce-scatter-start)
  %all-to-all-start = ((bf16[64,512]{1,0}), bf16[64,512]{1,0}) all-to-all-start(%x), channel_id=3, replica_groups={{0,4,8,12},{1,5,9,13},{2,6,10,14},{3,7,11,15}}, dimensions={0}
  %all-to-all-done = bf16[64,512]{1,0} all-to-all-done(%all-to-all-start)
  ROOT %out = (s32[], bf16[64,512]{1,0}, bf16[64,512]{1,0}) tuple(%i, %all-to-all-done, %reduce-scatter-done)
}

%condition (arg.1: (s32[], bf16[64,512], bf16[64,512])) -> pred[] {
  %arg.1 = (s32[], bf16[64,512]{1,0}, bf16[64,512]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (x.0: bf16[64,512], w.0: bf16[64,512], s.0: f32[8]) -> bf16[64,512] {
  %x.0 = bf16[64,512]{1,0} parameter(0)
  %w.0 = bf16[64,512]{1,0} parameter(1)
  %s.0 = f32[8]{0} parameter(2)
  %begin = s32[] constant(0)
  %init = (s32[], bf16[64,512]{1,0}, bf16[64,512]{1,0}) tuple(%begin, %x.0, %w.0)
  %while.24 = (s32[], bf16[64,512]{1,0}, bf16[64,512]{1,0}) while(%init), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"12"},"known_init_step":{"init":"0","step":"1"},"known_induction_variable":{"tuple_index":"0"},"dynamic_variables":[]}
  %y = bf16[64,512]{1,0} get-tuple-element(%while.24), index=1
  %all-reduce-start = (bf16[64,512]{1,0}, f32[8]{0}) all-reduce-start(%y, %s.0), channel_id=4, replica_groups=mesh['axis_0'=16,'axis_1'=1] {'axis_0'}, use_global_device_ids=true, to_apply=%add
  %all-reduce-done = (bf16[64,512]{1,0}, f32[8]{0}) all-reduce-done(%all-reduce-start)
  ROOT %total = bf16[64,512]{1,0} get-tuple-element(%all-reduce-done), index=0
}
"""
MESH = {"data": 4, "fsdp": 4, "lat": 1, "lon": 1}
PART = 64 * 512 * 2  # bytes of an array of bf16[64,512]


def test_started_operations_are_counted_once_with_the_bytes_of_their_operands() -> None:
    program = Program(STARTED)
    rows = {(r.kind, r.axes): r for r in collectives(program, MESH, node=8)}
    assert program.unknown == []
    counted = {key: (r.group, r.count, r.payload, r.within) for key, r in rows.items()}
    assert counted == {
        ("all-gather", "fsdp"): (4, 12, 12 * 4 * PART, 4),
        ("reduce-scatter", "fsdp"): (4, 12, 12 * 4 * PART, 4),
        ("all-to-all", "data"): (4, 12, 12 * PART, 2),  # four nodes' worth of steps of 4: two members on each node of 8
        ("all-reduce", "data+fsdp"): (16, 1, PART + 8 * 4, 8),
    }


def test_memory_of_started_operations_is_read_and_written_once() -> None:
    # A trip: 1 part gathered to 4, 4 scattered to 1, 1 exchanged for 1; after the loop both arrays read and written.
    assert traffic(Program(STARTED)) == 12 * (5 + 5 + 2) * PART + 2 * (PART + 8 * 4)


# -- the description ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "float32", "bits", "memory_clock"),
    [("h100", 66.9e12, 5120, 2619e6), ("a100", 19.5e12, 5120, 1593e6)],
)
def test_gpus_have_the_figures_of_their_data_sheets(name: str, float32: float, bits: int, memory_clock: float) -> None:
    """Products of the description against the vendor's sums: FLOP/s outside of the tensor cores, GB/s, NVLink."""
    gpu, chip = GPUS[name], CHIPS["gpu"][name]
    assert gpu.cores * gpu.fpus * 2 * gpu.clock * 1e9 == pytest.approx(float32, rel=2e-3)
    assert gpu.bandwidth == pytest.approx(bits / 8 * memory_clock * 2, rel=1e-6)
    assert gpu.bandwidth == pytest.approx(chip.bandwidth, rel=2e-3)
    assert gpu.links * 25e9 == chip.node  # one way, of both generations
    assert chip.memory <= gpu.memory <= 80 * 2**30
    assert gpu.shared_block == gpu.shared - 1024  # the system keeps 1 KiB of every block


def test_every_gpu_of_the_table_is_described() -> None:
    assert set(GPUS) == set(CHIPS["gpu"])


@pytest.mark.parametrize("name", sorted(GPUS))
def test_the_description_has_every_field_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"nvidia-cudnn-cu12": "9.10.2.21", "nvidia-cuda-runtime-cu12": "12.9.79"}

    def version(package: str) -> str:
        if package not in versions:
            raise importlib.metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(gpus, "cuda_plugin", lambda: "cuda12")
    monkeypatch.setattr(importlib.metadata, "version", version)
    text = target_config(name)
    assert text.count("{") == text.count("}")
    fields = re.findall(r"^ *(\w+)(?:: | \{)", text, re.MULTILINE)
    assert len(fields) == len(set(fields))
    assert "dnn_version_info { major: 9 minor: 10 patch: 2 }" in text
    assert "runtime_version { major: 12 minor: 9 patch: 79 }" in text
    values = dict(re.findall(r"^ *(\w+): (\S+)$", text, re.MULTILINE))
    assert int(values["memory_bandwidth"]) == GPUS[name].bandwidth
    assert int(values["block_dim_limit_x"]) == 2147483647
    assert int(values["core_count"]) == GPUS[name].cores
    versions.clear()  # libraries of the machine
    assert "runtime_version { major: 12 minor: 0 patch: 0 }" in target_config(name)


# -- where the plugin is, and where it is not -----------------------------------------------------------


def test_the_plugin_is_found_by_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = cuda_plugin()
    package = tmp_path / "jax_plugins" / "xla_cuda12"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('found, not imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [n for n in sys.modules if n == "jax_plugins"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    assert cuda_plugin() == (installed or "cuda12")


def test_the_environment_of_a_gpus_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    target = parse_target("gpu:h100:1120x8")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(devices, "cuda_plugin", lambda: "cuda13")
    assert devices.compiles_natively(target)
    assert devices.environment(target) == {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false"}
    own = "--xla_gpu_enable_triton_gemm=true --xla_dump_to=there"
    monkeypatch.setenv("XLA_FLAGS", f"{own} --xla_force_host_platform_device_count=4")
    assert devices.environment(target)["XLA_FLAGS"] == own

    monkeypatch.setattr(devices, "cuda_plugin", lambda: "")
    monkeypatch.setenv("XLA_FLAGS", "")
    assert not devices.compiles_natively(target)
    with pytest.raises(UserError, match=r"8960 devices .* go to 2048; pip install 'surrogate\[cuda\]'"):
        devices.environment(target)
    fewer = devices.environment(parse_target("gpu:h100:16x8"))
    assert fewer["XLA_FLAGS"] == "--xla_force_host_platform_device_count=128"


def test_a_compiler_that_ends_its_process_is_one_sentence(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ends.py").write_text(
        "import os, sys\n"
        "def check(*_):\n"
        "    sys.stderr.write('F1129 17:33:22.618752   20200 tiles.cc:220] Check failed: 4 == 3\\n*** stack trace\\n')\n"
        "    sys.stderr.flush()\n"
        "    os.abort()\n"
        "def quietly(*_):\n"
        "    os._exit(7)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    target = parse_target("cpu:2")
    with pytest.raises(UserError) as refused:
        run_in_child("ends:check", load_experiment("", tiny_settings), target)
    assert str(refused.value) == (
        "compiling for cpu:2 was ended by its compiler (SIGABRT) and no answer: tiles.cc:220] Check failed: 4 == 3"
    )
    with pytest.raises(UserError, match="ended with status 7 and no answer"):
        run_in_child("ends:quietly", load_experiment("", tiny_settings), target)


@pytest.mark.skipif(not cuda_plugin(), reason="JAX's CUDA plugin is not installed")
def test_a_step_is_compiled_for_gpus_by_their_own_compiler(tiny_settings: list[str]) -> None:
    """Beside the same mesh of virtual CPU devices: the same arguments, and half of what is exchanged, in bfloat16."""
    words = [
        *(s for s in tiny_settings if not s.startswith("model")),
        *("model=transformer", "model.channels=64", "model.layers=2", "model.heads=4", "model.scan=true", "model.dtype=bfloat16"),
        *("train.curriculum=[{start: 0.0, rollout: 1}]", "train.batch_size=8", "mesh.data=4", "mesh.fsdp=2", "mesh.lat=2"),
    ]  # fmt: skip
    plans = [make_plan(load_experiment("", [*words, f"plan.target={t}"])) for t in ("gpu:h100:2x8", "cpu:16")]
    (gpu,), (cpu,) = (plan.programs for plan in plans)
    assert plans[0].devices == 16
    assert "h100" in plans[0].compiler
    assert not [note for note in plans[0].notes if "virtual" in note or "loop" in note]
    assert gpu.memory["arguments"] == pytest.approx(cpu.memory["arguments"], rel=0.02)
    assert gpu.fits
    exchanged = [
        sum(r.payload for r in program.traffic if (r.kind, r.axes) == ("all-to-all", "lat")) for program in (gpu, cpu)
    ]
    assert exchanged[0] == pytest.approx(exchanged[1] / 2)
    assert exchanged[0] > 0
