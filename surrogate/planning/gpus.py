"""GPUs as XLA's compiler for them wants them described: the text form of its ``GpuTargetConfigProto``."""

from __future__ import annotations

from dataclasses import dataclass
import importlib.metadata
import importlib.util
import re

_PLUGINS = ("cuda13", "cuda12")


@dataclass(frozen=True)
class Gpu:
    """What the compiler asks of a GPU; sizes in bytes, the clock in GHz, the bandwidth in bytes/s.

    Attributes:
        name: as the driver gives it.
        capability: of CUDA, (major, minor).
        cores: multiprocessors; fpus: float32 units of one.
        shared, shared_block: shared memory of a multiprocessor, and what one block of threads can ask for of it.
        memory: that the driver shows, which is more than the GB on the box.
        links: of NVLink.
        source: of the numbers.
    """

    name: str
    capability: tuple[int, int]
    cores: int
    fpus: int
    clock: float
    shared: int
    shared_block: int
    l2: int
    memory: int
    bandwidth: int
    links: int
    source: str


_GUIDE = "shared memory: table of compute capabilities in the CUDA C++ Programming Guide, 228 and 227 KiB"
GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 1.98, 228 << 10, 227 << 10, 50 << 20, 84_942_979_072,
                3_352_320_000_000, 18,
                "NVIDIA H100 Tensor Core GPU Architecture (white paper): SXM5 has 132 multiprocessors of 128 float32 units, "
                "50 MB of L2, 18 links; 5,120 bits of memory at 2,619 MHz, twice a cycle: 3,352.32 GB/s; boost clock and memory "
                f"size: the driver's, as in xla/backends/gpu/target_config/specs/h100_sxm.txtpb of openxla/xla; {_GUIDE}"),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 1.41, 164 << 10, 163 << 10, 40 << 20, 85_100_068_864,
                2_039_040_000_000, 12,
                "NVIDIA A100 Tensor Core GPU Architecture (white paper): 108 multiprocessors of 64 float32 units, 40 MB of L2, "
                "1,410 MHz, 12 links; 5,120 bits of memory at 1,593 MHz, twice a cycle: 2,039.04 GB/s; memory size: the driver's, "
                "as in xla/backends/gpu/target_config/specs/a100_sxm_80.txtpb of openxla/xla; "
                f"{_GUIDE.replace('228 and 227', '164 and 163')}"),
}  # fmt: skip


def cuda_plugin() -> str:
    """The installed CUDA plugin of JAX, ``cuda13`` or ``cuda12``; empty without one."""
    if importlib.util.find_spec("jax_plugins") is None:
        return ""
    return next((name for name in _PLUGINS if importlib.util.find_spec(f"jax_plugins.xla_{name}")), "")


def target_config(chip: str) -> str:
    """The description of ``chip`` for ``jax.experimental.topologies``, with the versions of the libraries installed here.

    The limits of threads, blocks and registers are the same for compute capabilities 8.0 and 9.0 (CUDA C++ Programming
    Guide, technical specifications per compute capability). Rates of execution units, which XLA's own files have for some
    chips, are left out: they are optional.
    """
    gpu = GPUS[chip]
    cuda = cuda_plugin().removeprefix("cuda") or "13"
    # What the kernels may use depends on these; the least that JAX asks for where the libraries are the machine's own.
    runtime = _version(("nvidia-cuda-runtime", f"nvidia-cuda-runtime-cu{cuda}"), (int(cuda), 0, 0))
    dnn = _version((f"nvidia-cudnn-cu{cuda}",), (9, 8, 0))
    return f"""gpu_device_info {{
  name: "{gpu.name}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {gpu.capability[0]} minor: {gpu.capability[1]} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus}
  clock_rate_ghz: {gpu.clock}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: {48 << 10}
  shared_memory_per_block_optin: {gpu.shared_block}
  shared_memory_per_core: {gpu.shared}
  l2_cache_size: {gpu.l2}
  device_memory_size: {gpu.memory}
  memory_bandwidth: {gpu.bandwidth}
  device_interconnect_info {{ active_links: {gpu.links} }}
}}
platform_name: "CUDA"
dnn_version_info {{ {_fields(dnn)} }}
runtime_version {{ {_fields(runtime)} }}
device_description_str: "{gpu.name}"
"""


def _version(packages: tuple[str, ...], least: tuple[int, int, int]) -> tuple[int, int, int]:
    for package in packages:
        try:
            found = re.match(r"(\d+)\.(\d+)\.(\d+)", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            continue
        if found and int(found[1]) == least[0]:
            return int(found[1]), int(found[2]), int(found[3])
    return least


def _fields(version: tuple[int, int, int]) -> str:
    return " ".join(f"{name}: {value}" for name, value in zip(("major", "minor", "patch"), version, strict=True))
