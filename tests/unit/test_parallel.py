"""Meshes, rules, orders of rows and launchers, as far as one device can tell; tests/sharded has eight."""

from __future__ import annotations

from typing import Any

from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from surrogate.config import LaunchConfig, MeshConfig, build
from surrogate.core.types import UserError
from surrogate.data.pipeline import batch_indices
from surrogate.parallel import launch
from surrogate.parallel.mesh import AXES, make_mesh, mesh_sizes
from surrogate.parallel.placement import ONE_DEVICE
from surrogate.parallel.rules import SMALL, batch_dims, parameter_partition, partition


def sizes(**given: int) -> dict[str, int]:
    return {**dict.fromkeys(AXES, 1), **given}


@pytest.mark.parametrize(
    ("config", "devices", "expected"),
    [
        ({}, 8, {}),
        ({"data": -1}, 8, {"data": 8}),
        ({"data": -1, "lat": 2, "lon": 2}, 8, {"data": 2, "lat": 2, "lon": 2}),
        ({"lat": 3}, 8, {"lat": 3}),
        ({"fsdp": -1}, 1, {}),
    ],
)
def test_one_axis_takes_the_devices_that_are_left(config: dict, devices: int, expected: dict) -> None:
    assert mesh_sizes(MeshConfig(**config), devices) == sizes(**expected)


@pytest.mark.parametrize(
    ("config", "devices", "message"),
    [
        ({"lat": 4, "lon": 4}, 8, "mesh.lat=4 × mesh.lon=4 needs 16 devices; there are 8"),
        ({"data": -1, "lat": 3}, 8, "mesh.data=-1: mesh.lat=3 does not divide the 8 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(config: dict, devices: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mesh_sizes(MeshConfig(**config), devices)


def test_processes_leave_no_device_over() -> None:
    with pytest.raises(UserError, match=r"mesh.data=2 uses 2 of the 8 devices of all processes"):
        mesh_sizes(MeshConfig(data=2), 8, all_devices=True)


@pytest.mark.parametrize("values", [{"data": 0}, {"data": -1, "lat": -1}, {"rows": 2}])
def test_settings_that_make_no_mesh_are_refused_by_name(values: dict) -> None:
    with pytest.raises(UserError, match="mesh"):
        build(MeshConfig, values, "mesh")


def test_one_device_is_no_mesh_and_changes_nothing() -> None:
    assert make_mesh(MeshConfig()) is None
    assert make_mesh(MeshConfig(data=1, lat=1)) is None
    assert (ONE_DEVICE.row_order(12, 3) == np.arange(12)).all()
    box = ONE_DEVICE.box(4, {"latitude": 6, "longitude": 8})
    assert (box.rows == np.arange(4)).all()
    assert box.window == {"latitude": slice(0, 6), "longitude": slice(0, 8)}


def test_rules_divide_what_they_name() -> None:
    dims = ("batch", None, "latitude", "longitude")
    assert partition(dims, (8, 3, 16, 24, 5), sizes(data=2, fsdp=2, lat=4), "x") == P(
        ("data", "fsdp"), None, ("lat",), None
    )


def test_a_dim_that_is_not_divided_is_named_with_axis_and_numbers() -> None:
    with pytest.raises(
        UserError, match=r"mesh.lat=4 does not divide the 721 of the dim 'latitude' of the data \(8 × 721 × 1440\)"
    ):
        partition(("batch", "latitude", "longitude"), (8, 721, 1440), sizes(lat=4), "the data")


def test_a_batch_that_is_not_divided_stays_whole() -> None:
    assert batch_dims(("batch", "latitude"), 7, sizes(data=2)) == (None, "latitude")
    assert batch_dims(("batch", "latitude"), 8, sizes(data=2)) == ("batch", "latitude")


def test_parameters_are_divided_along_their_named_or_longest_dim() -> None:
    four = sizes(fsdp=4)
    assert parameter_partition((None, "embed", "mlp"), (6, 64, 256), four, "w") == P(None, "fsdp")
    assert parameter_partition(None, (3, 3, 32, 64), four, "kernel") == P(None, None, None, "fsdp")
    assert parameter_partition(None, (6,), four, "bias") == P()
    with pytest.raises(UserError, match=r"mesh.fsdp=4 divides no dim of the parameter a/kernel"):
        parameter_partition(None, (SMALL + 1, 3), four, "a/kernel")


class Mesh2x2:
    """Just enough of a mesh for the order of rows."""

    shape = sizes(data=2, fsdp=2)


def test_accumulated_parts_hold_the_same_samples_on_every_mesh() -> None:
    from surrogate.parallel.placement import Placement

    placement: Any = Placement(Mesh2x2())  # type: ignore[arg-type]
    parts, batch = 3, 24
    order = placement.row_order(batch, parts)
    by_device = order.reshape(4, batch // 4)  # what each device holds, in order
    for part in range(parts):
        share = batch // 4 // parts
        together = by_device[:, part * share : (part + 1) * share].ravel()
        assert (together == np.arange(part * batch // parts, (part + 1) * batch // parts)).all()
    with pytest.raises(
        UserError, match=r"mesh.data=2 × mesh.fsdp=2 does not divide the 3 samples of train.batch_size=9 in 3 parts"
    ):
        placement.check_batch(9, 3)


def test_the_order_of_samples_knows_nothing_of_devices() -> None:
    one = np.concatenate([batch_indices(3, step, 8, 21) for step in range(6)])
    other = np.concatenate([batch_indices(3, step, 4, 21) for step in range(12)])
    assert (one == other).all()


@pytest.mark.parametrize(
    ("environ", "config", "expected"),
    [
        ({}, {}, "none"),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, {}, "none"),  # sbatch without srun
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "8"}, {}, "slurm"),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "8"}, {"detect": "none"}, "none"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "x"}, {}, "openmpi"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, {}, "none"),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "8"},
         {"coordinator": "a:1", "num_processes": 2, "process_id": 0}, "explicit"),
    ],
)  # fmt: skip
def test_the_launcher_is_found_in_the_environment(environ: dict, config: dict, expected: str) -> None:
    assert launch.detect(LaunchConfig(**config), environ) == expected


def test_a_launcher_that_needs_mpi4py_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"PALS started 16 processes .* pip install mpi4py"):
        launch.detect(LaunchConfig(), {"PALS_SIZE": "16"})
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: object())
    assert launch.detect(LaunchConfig(), {"PALS_SIZE": "16"}) == "mpi4py"
    # OpenMPI 5 leaves JAX nothing to go by.
    assert launch.detect(LaunchConfig(), {"OMPI_COMM_WORLD_SIZE": "2"}) == "mpi4py"


def test_a_launcher_that_is_insisted_on_has_to_be_there() -> None:
    with pytest.raises(UserError, match=r"launch.detect=slurm"):
        launch.detect(LaunchConfig(detect="slurm"), {})


@pytest.mark.parametrize("address", ["localhost:1234", "127.0.1.1:1234", "[::1]:1234"])
def test_a_loopback_coordinator_is_refused_across_hosts(address: str) -> None:
    launch.check_coordinator(address, 1)
    with pytest.raises(UserError, match="there are 2 hosts"):
        launch.check_coordinator(address, 2)


def test_hosts_are_counted_from_what_the_launcher_says() -> None:
    launch.check_coordinator("node7:1234", 4)
    assert launch.known_hosts({}) == 1
    assert launch.known_hosts({"SLURM_STEP_NUM_NODES": "3"}) == 3
    assert launch.known_hosts({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}) == 2


@pytest.mark.parametrize(
    "values",
    [
        {"coordinator": "host:1"},
        {"num_processes": 2, "process_id": 0},
        {"coordinator": "host", "num_processes": 2, "process_id": 0},
        {"coordinator": "host:1", "num_processes": 2, "process_id": 2},
        {"heartbeat_timeout": 0},
    ],
)
def test_half_a_launch_is_refused(values: dict) -> None:
    with pytest.raises(UserError, match="launch"):
        build(LaunchConfig, values, "launch")
