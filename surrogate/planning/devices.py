"""Devices to compile for: of a compile-only topology where a plugin has one, else virtual ones of this CPU."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from surrogate.core.types import UserError
from surrogate.planning.gpus import GPUS, cuda_plugin, target_config
from surrogate.planning.target import Target

MOST_VIRTUAL = 2048
_COUNT = "--xla_force_host_platform_device_count"
_TRITON = "--xla_gpu_enable_triton_gemm"


def compiles_natively(target: Target) -> bool:
    """Whether the target's own compiler is installed here."""
    if target.kind == "gpu":
        return target.chip.name in GPUS and bool(cuda_plugin())
    return target.kind == "cpu" or importlib.util.find_spec("libtpu") is not None


def environment(target: Target) -> dict[str, str]:
    """Variables that the compiling process needs from its start.

    Raises:
        UserError: for more virtual devices than can be had.
    """
    found = {"JAX_PLATFORMS": "cpu"}
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(_COUNT)]
    native = compiles_natively(target)
    if target.kind == "tpu" and native:
        # It would look for the machine's own TPU in the cloud's metadata, and complain of what it does not find.
        found |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
        found["TPU_ACCELERATOR_TYPE"] = "v5p-8"
    elif target.kind == "gpu" and native:
        # Tiles of Triton's matrix products are tuned on a GPU; without one the compiler takes some that it then refuses.
        if not any(f.startswith(_TRITON) for f in flags):
            flags.append(f"{_TRITON}=false")
    else:
        if target.num_devices > MOST_VIRTUAL:
            extra = {"tpu": "tpu", "gpu": "cuda"}.get(target.kind)
            raise UserError(
                f"{target.text} has {target.num_devices} devices and its compiler is not installed; virtual devices "
                f"of the CPU go to {MOST_VIRTUAL}" + (f"; pip install 'surrogate[{extra}]'" if extra else "")
            )
        flags.append(f"{_COUNT}={target.num_devices}")
    return found | {"XLA_FLAGS": " ".join(flags)}


def find_devices(target: Target) -> tuple[list[Any], str, list[str]]:
    """The devices, by which compiler, and what that means for the numbers; in a process with :func:`environment`."""
    import jax

    if target.kind == "tpu" and compiles_natively(target):
        name = f"{target.chip.name}:{'x'.join(map(str, target.shape))}"
        return (
            _absent(target, "libtpu", f"slice {name}", topology_name=name),
            "libtpu, for a slice that is not there",
            [],
        )
    if target.kind == "gpu" and compiles_natively(target):
        # Slices x hosts x devices of a host: a slice is what NVLink joins, which is one node of these chips.
        name, chip = f"{target.shape[0]}x1x{target.shape[1]}", target.chip.name
        found = _absent(target, "the CUDA plugin", f"{chip} {name}", topology=name, target_config=target_config(chip))
        return found, f"XLA for {chip} by JAX's {cuda_plugin()} plugin, for GPUs that are not there", []
    devices = jax.devices("cpu")[: target.num_devices]
    if target.kind == "cpu":
        return devices, f"XLA for {target.num_devices} virtual CPU devices", []
    what = "libtpu is" if target.kind == "tpu" else "JAX's CUDA plugin is"
    note = (
        f"{what} not used here: compiled for {target.num_devices} virtual CPU devices; sizes of the partitioned "
        "program, not that chip's compiler. CPU code widens bfloat16 to float32, keeps more in memory and sums gradients "
        "whole, so temporaries, traffic and collectives of bfloat16 are too large, mostly twice, at most about four times"
    )
    return (
        devices,
        f"XLA for {target.num_devices} virtual CPU devices, instead of {target.kind}:{target.chip.name}",
        [note],
    )


def _absent(target: Target, plugin: str, what: str, **options: str) -> list[Any]:
    """Compile-only devices of a plugin."""
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(platform={"gpu": "cuda"}.get(target.kind, target.kind), **options)
    except NotImplementedError as error:
        raise UserError(f"{plugin} is installed and does not load: are its libraries installed too?") from error
    except Exception as error:  # whatever the plugin says of what it does not know, or misses
        raise UserError(f"{plugin} has no {what}: {str(error).strip().splitlines()[0][:300]}") from error
    if len(topology.devices) != target.num_devices:
        raise UserError(f"{plugin} makes {len(topology.devices)} devices of {what}, not {target.num_devices}")
    return list(topology.devices)
