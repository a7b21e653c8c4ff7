"""The mesh: devices along the axes ``data``, ``fsdp``, ``lat`` and ``lon``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import logging
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh
import numpy as np

from surrogate.config import MeshConfig
from surrogate.core.types import UserError

AXES = ("data", "fsdp", "lat", "lon")
log = logging.getLogger(__name__)


def mesh_sizes(config: MeshConfig, num_devices: int, *, all_devices: bool = False) -> dict[str, int]:
    """Devices along each axis, -1 replaced.

    Args:
        all_devices: whether none may be left over, as where they belong to several processes.

    Raises:
        UserError: when there are too few devices, or too many for the axes to use all.
    """
    sizes = config.sizes()
    free = [name for name, size in sizes.items() if size == -1]
    given = {name: size for name, size in sizes.items() if size > 1}
    product = math.prod(given.values())
    words = " × ".join(f"mesh.{name}={size}" for name, size in given.items()) or "one device"
    if product > num_devices:
        raise UserError(f"{words} needs {product} devices; there are {num_devices}")
    if free:
        if num_devices % product:
            raise UserError(f"mesh.{free[0]}=-1: {words} does not divide the {num_devices} devices that there are")
        sizes[free[0]] = num_devices // product
    elif all_devices and product != num_devices:
        raise UserError(
            f"{words} uses {product} of the {num_devices} devices of all processes; set one axis to -1, such as mesh.data=-1"
        )
    return sizes


def make_cpu_devices(config: MeshConfig) -> None:
    """Divide this process's CPU into ``config.cpu_devices`` devices; before the first use of one.

    Raises:
        UserError: when it is too late for that.
    """
    if not config.cpu_devices:
        return
    try:
        jax.config.update("jax_num_cpu_devices", config.cpu_devices)
    except RuntimeError as error:
        if jax.local_device_count("cpu") != config.cpu_devices:
            raise UserError(
                f"mesh.cpu_devices={config.cpu_devices}: this process has used its {jax.local_device_count('cpu')} CPU "
                "device(s) already; begin in a new process"
            ) from error


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """The mesh over all devices of all processes; None where it is one device, for which no program changes.

    A mesh that is smaller than the devices of a single process takes the first of them.

    Raises:
        UserError: as :func:`mesh_sizes`.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(config, len(devices), all_devices=jax.process_count() > 1)
    count = math.prod(sizes.values())
    if count == 1:
        return None
    mesh, along = lay_out(sizes, devices[:count])
    if not along:
        log.warning(IN_ORDER)
    return mesh


IN_ORDER = (
    "the mesh lies on the torus in the order of its chips, not along its axes: links are shared, and slower than stated"
)


def lay_out(sizes: Mapping[str, int], devices: Sequence[jax.Device]) -> tuple[Mesh, bool]:
    """The mesh over all of ``devices``, and whether its axes lie along those of the torus that the devices may form."""
    shape = tuple(sizes[name] for name in AXES)
    # Explicit axes, JAX's default, refuse an ordinary nnx.Linear; the sizes' keyword differs between versions.
    types = (AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(shape, AXES, types, devices=devices), True
    except NotImplementedError:  # JAX knows no assignment of these axes to those of the torus
        return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=types), False


def active_mesh() -> AbstractMesh | None:
    """The mesh that is set around the trace at hand; None without one, and within a shard of it."""
    mesh: Any = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.axis_names != AXES or any(kind == AxisType.Manual for kind in mesh.axis_types):
        return None
    return mesh


def shards(axis: str) -> int:
    """Devices along ``axis`` of the mesh that is set around the trace at hand; 1 without one."""
    mesh = active_mesh()
    return 1 if mesh is None else mesh.shape[axis]


def is_spatial() -> bool:
    """Whether fields are divided into blocks of rows or columns."""
    return shards("lat") * shards("lon") > 1


def batch_shards() -> int:
    """Parts that the mesh of the trace at hand divides a batch into."""
    return shards("data") * shards("fsdp")
