"""The training step run on this machine's CPU, and what the roofline needs to know of it. In a process of its own."""

from __future__ import annotations

from collections.abc import Callable
import statistics
import time
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from surrogate.config import Experiment
from surrogate.core.types import PyTree
from surrogate.optim import make_optimizer
from surrogate.planning.program import open_domain
from surrogate.planning.target import Target
from surrogate.run.program import StateBuilder, lower_step
from surrogate.run.step import make_train_step

_SIDE, _ELEMENTS = 1024, 2**23


def measure_step(experiment: Experiment, target: Target, *, repeats: int = 5) -> dict[str, float]:
    """Median seconds of a step of the first stage on noise, and the machine's rates, measured before and after it."""
    devices = jax.devices("cpu")[: target.num_devices]
    domain, placement, _ = open_domain(experiment, devices)
    config = experiment.train
    optimizer = make_optimizer(experiment.optim, config.steps)
    build = StateBuilder(domain, optimizer, config)
    shardings = build.shardings(placement, jax.eval_shape(build))
    state = jax.jit(build, **({} if shardings is None else {"out_shardings": shardings}))()
    constants = domain.constants()
    constants = placement.put(constants, domain.constant_dims(constants))
    stage = domain.stage(0)
    shapes = domain.batch_shapes(stage, config.batch_size)
    rng = np.random.default_rng(0)
    batch: PyTree = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), shapes)
    batch = placement.put(batch, domain.batch_dims(batch))
    step = make_train_step(domain, build.graphdef, optimizer, config, stage)
    program = lower_step(step, placement, shardings, (state, constants, batch)).compile()
    rates = [machine_rates(devices)]
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        state, scalars = program(state, constants, batch)
        jax.block_until_ready(scalars)
        seconds.append(time.perf_counter() - began)
    rates.append(machine_rates(devices))
    # The first step warms up. Rates from both sides of the steps: the machine may not be this process's alone.
    found = {name: statistics.mean(r[name] for r in rates) for name in rates[0]}
    return {"step": statistics.median(seconds[1:]), "shortest": min(seconds[1:]), "longest": max(seconds[1:]), **found}


def machine_rates(devices: list[Any]) -> dict[str, float]:
    """Of a device while all work: FLOP/s of float32 matrix products, bytes/s of its memory, bytes/s sent to others."""
    count = len(devices)
    mesh = Mesh(np.asarray(devices), ("all",))
    split = NamedSharding(mesh, PartitionSpec("all"))
    a = jax.device_put(np.ones((count, _SIDE, _SIDE), np.float32), split)
    x = jax.device_put(np.ones((count, _ELEMENTS), np.float32), split)
    products = _seconds(jax.jit(lambda a: a @ a), a)
    copies = _seconds(jax.jit(lambda x: x + 1), x)
    found = {"flops": 2 * _SIDE**3 / products, "bandwidth": 8 * _ELEMENTS / copies, "network": float("inf")}
    if count > 1:
        total = jax.shard_map(
            lambda x: jax.lax.psum(x, "all"), mesh=mesh, in_specs=PartitionSpec("all"), out_specs=PartitionSpec()
        )
        found["network"] = 2 * 4 * _ELEMENTS * (count - 1) / count / _seconds(jax.jit(total), x)
    return found


def _seconds(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    jax.block_until_ready(fn(x))
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(fn(x))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
