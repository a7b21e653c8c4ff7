"""Devices to compile for: of a compile-only topology where a plugin has one, else virtual ones of this CPU."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from surrogate.core.types import UserError
from surrogate.planning.target import Target

MOST_VIRTUAL = 2048
_COUNT = "--xla_force_host_platform_device_count"


def compiles_natively(target: Target) -> bool:
    """Whether the target's own compiler is installed here."""
    return target.kind == "cpu" or (target.kind == "tpu" and importlib.util.find_spec("libtpu") is not None)


def environment(target: Target) -> dict[str, str]:
    """Variables that the compiling process needs from its start.

    Raises:
        UserError: for more virtual devices than can be had.
    """
    found = {"JAX_PLATFORMS": "cpu"}
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(_COUNT)]
    if target.kind == "tpu" and compiles_natively(target):
        # It would look for the machine's own TPU in the cloud's metadata, and complain of what it does not find.
        found |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
        found["TPU_ACCELERATOR_TYPE"] = "v5p-8"
    else:
        if target.num_devices > MOST_VIRTUAL:
            raise UserError(
                f"{target.text} has {target.num_devices} devices and its compiler is not installed; virtual devices "
                f"of the CPU go to {MOST_VIRTUAL}" + ("; pip install 'surrogate[tpu]'" if target.kind == "tpu" else "")
            )
        flags.append(f"{_COUNT}={target.num_devices}")
    return found | {"XLA_FLAGS": " ".join(flags)}


def find_devices(target: Target) -> tuple[list[Any], str, list[str]]:
    """The devices, by which compiler, and what that means for the numbers; in a process with :func:`environment`."""
    import jax

    if target.kind == "tpu" and compiles_natively(target):
        from jax.experimental import topologies

        name = f"{target.chip.name}:{'x'.join(map(str, target.shape))}"
        try:
            topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
        except Exception as error:  # whatever the plugin says of a shape that it does not know
            raise UserError(f"libtpu has no slice {name}: {str(error).strip().splitlines()[0][:300]}") from error
        if len(topology.devices) != target.num_devices:
            raise UserError(f"libtpu makes {len(topology.devices)} devices of {name}, not {target.num_devices}")
        return list(topology.devices), "libtpu, for a slice that is not there", []
    devices = jax.devices("cpu")[: target.num_devices]
    if target.kind == "cpu":
        return devices, f"XLA for {target.num_devices} virtual CPU devices", []
    what = "libtpu is" if target.kind == "tpu" else "a compile-only CUDA plugin is"
    note = (
        f"{what} not used here: compiled for {target.num_devices} virtual CPU devices; sizes of the partitioned "
        "program, not that chip's compiler. CPU code widens bfloat16 to float32 and keeps more in memory, so temporaries, "
        "traffic and collectives of bfloat16 are up to twice too large"
    )
    return (
        devices,
        f"XLA for {target.num_devices} virtual CPU devices, instead of {target.kind}:{target.chip.name}",
        [note],
    )
