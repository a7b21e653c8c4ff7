"""Checkpoint intervals against a numerical minimum, rooflines against arithmetic by hand, targets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from surrogate.core.types import UserError
from surrogate.planning.checkpointing import daly_interval, goodput, plan_checkpoints, young_interval
from surrogate.planning.collectives import Traffic
from surrogate.planning.roofline import network_times, step_time
from surrogate.planning.target import Chip, parse_target

CHIP = Chip("test", {"bfloat16": 100e12}, 80e9, 2e12, 100e9, 10e9, 1.0, 1.0, "made up")


@pytest.mark.parametrize(("stall", "mean_time"), [(1.0, 1e4), (30.0, 2e4), (300.0, 8e3), (600.0, 3600.0)])
def test_the_interval_is_where_least_is_lost(stall: float, mean_time: float) -> None:
    best = minimize_scalar(
        lambda t: -goodput(t, stall, 0.0, mean_time), bounds=(1e-3 * mean_time, 5 * mean_time), method="bounded",
        options={"xatol": 1e-6 * mean_time},
    )  # fmt: skip
    assert daly_interval(stall, mean_time) == pytest.approx(best.x, rel=5e-3)
    # Young's is the first term: right where saving costs little beside the time between failures.
    assert young_interval(stall, mean_time) == pytest.approx(best.x, rel=1.1 * math.sqrt(stall / mean_time) + 1e-3)


def test_goodput_is_that_of_a_simulated_run() -> None:
    """Work in segments, failures at exponential times, restarts that can fail too."""
    rng, interval, stall, restart, mean = np.random.default_rng(0), 900.0, 60.0, 300.0, 4000.0
    clock = done = 0.0
    fails = rng.exponential(mean)
    while done < 4e6:
        needed = interval + stall
        if fails >= needed:
            fails -= needed
            clock += needed
            done += interval
            continue
        clock += fails
        while (fails := rng.exponential(mean)) < restart:
            clock += fails
        clock += restart
        fails -= restart
    assert goodput(interval, stall, restart, mean) == pytest.approx(done / clock, rel=0.02)


def test_checkpoints_of_many_hosts() -> None:
    found = plan_checkpoints(
        160e9, hosts=100, devices=800, failures=2e-5, restart=600.0, storage=2e9, storage_total=50e9, host_copy=10e9
    )
    assert found.write == pytest.approx(3.2)  # the file system's 50 GB/s, not the hosts' 200
    assert found.stall == pytest.approx(0.16)
    assert found.mean_time == pytest.approx(3600 / 0.016)
    assert found.restart == pytest.approx(600 + 6.4)
    assert 0.99 < found.goodput < 1


def test_a_roofline_by_hand() -> None:
    rows = [
        Traffic("all-gather", "fsdp", 8, 1, 0.0, 2e9, within=8),  # in a node: 20 ms
        Traffic("all-reduce", "data", 16, 1, 0.0, 4e9, within=1),  # between nodes: 400 ms
        Traffic("all-reduce", "data+fsdp", 32, 1, 0.0, 8e9, within=8),  # 8 adapters: 100 ms, and 80 ms within
    ]
    assert network_times(rows, CHIP) == {"node": pytest.approx(0.1), "network": pytest.approx(0.5)}
    # 8 parts of 1 GB, of which 3 go to others of the node (30 ms) and 4 to the other node, by the device's own adapter.
    exchange = [Traffic("all-to-all", "lat", 8, 1, 8e9, 7e9, within=4)]
    assert network_times(exchange, CHIP) == {"node": pytest.approx(0.03), "network": pytest.approx(0.4)}
    t = step_time(60e12, 1e12, rows, CHIP, dtype="bfloat16", efficiency=0.6, overlap=0.5)
    assert (t.compute, t.memory, t.communication) == (pytest.approx(1.0), pytest.approx(0.5), pytest.approx(0.6))
    assert (t.step, t.fastest, t.slowest) == (pytest.approx(1.3), pytest.approx(1.0), pytest.approx(1.6))
    assert t.bound == "compute"
    # What hides cannot be longer than the work that it hides behind.
    short = step_time(6e12, 0.0, rows, CHIP, dtype="bfloat16", efficiency=0.6, overlap=1.0)
    assert short.step == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("text", "devices", "node"),
    [
        ("tpu:v5p:16x20x28", 8960, 0),
        ("tpu:v5p:512", 512, 0),
        ("tpu:v5e:64", 64, 0),
        ("gpu:h100:140x8", 1120, 8),
        ("cpu:512", 512, 0),
    ],
)
def test_targets(text: str, devices: int, node: int) -> None:
    target = parse_target(text)
    assert (target.num_devices, target.node) == (devices, node)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tpu:v9:2x2", "not in the table of chips: tpu:v5p"),
        ("cuda:h100:8", "not of the form tpu:v5p"),
        ("tpu:v5p:100", "no slice of 100 chips"),
        ("tpu:v6e:512", "no slice of 512 chips"),
        ("gpu:h100:2x4x8", "nodes x GPUs"),
        ("gpu:h100:20", "no whole nodes of 8"),
        ("cpu:2x4", "cpu:8"),
        ("cpu:none", "not a number of devices"),
    ],
)
def test_targets_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_target(text)
