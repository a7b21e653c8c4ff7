"""The training step of an experiment, compiled for devices that are not there. Runs in a process of its own."""

from __future__ import annotations

from dataclasses import asdict
import os
import re
import resource
import sys
import time
from typing import Any

import jax
import numpy as np

from surrogate.config import Experiment
from surrogate.core.types import PyTree, UserError
from surrogate.domains.base import Domain, find_domain
from surrogate.optim import make_optimizer
from surrogate.parallel.mesh import IN_ORDER, lay_out, mesh_sizes
from surrogate.parallel.placement import Placement
from surrogate.planning.collectives import collectives
from surrogate.planning.devices import find_devices
from surrogate.planning.hlo import Program
from surrogate.planning.memory import traffic
from surrogate.planning.target import Target
from surrogate.run.batches import Batches, place
from surrogate.run.program import StateBuilder, lower_step
from surrogate.run.step import make_train_step

_OUT_OF_MEMORY = re.compile(r"(?i)hbm.?oom|ran out of memory|out of memory|resource_exhausted|exceeded hbm")


def compile_plan(experiment: Experiment, target: Target, *, keep_text: str = "") -> dict[str, Any]:
    """What the compiler says of every program of the curriculum, as JSON values.

    Args:
        keep_text: a directory to write the compiled programs' text to; empty: nowhere.

    Raises:
        UserError: where the mesh does not divide the target, the data or the model.
    """
    began = time.perf_counter(), time.process_time()
    devices, compiler, notes = find_devices(target)
    domain, placement, more = open_domain(experiment, devices)
    config = experiment.train
    optimizer = make_optimizer(experiment.optim, config.steps)
    build = StateBuilder(domain, optimizer, config)
    shapes = jax.eval_shape(build)
    shardings = build.shardings(placement, shapes)
    state, constants = placed(placement, shapes, shardings, devices[0]), jax.eval_shape(domain.constants)
    constants = placement.shapes(constants, domain.constant_dims(constants))
    programs: dict[Any, dict[str, Any]] = {}
    for step in range(config.steps):
        key = domain.program(domain.stage(step))
        if key in programs:
            programs[key]["steps"] += 1
            continue
        stage = domain.stage(step)
        batch = domain.batch_shapes(stage, config.batch_size)
        batch = placement.shapes(batch, domain.batch_dims(batch))
        fn = make_train_step(domain, build.graphdef, optimizer, config, stage)
        arguments = tuple(
            _on(devices[0], tree) if placement.mesh is None else tree for tree in (state, constants, batch)
        )
        lowered = lower_step(fn, placement, shardings, arguments)
        # A rollout calls the model once a step of it.
        calls = max(stage, 1) if isinstance(stage, int) else 1
        found = _compiled(lowered, placement, target, keep_text, f"stage-{len(programs)}")
        sizes = {"constants": device_bytes(constants), "batch": device_bytes(batch)}
        programs[key] = {"stage": str(stage), "calls": calls, "steps": 1, "bytes": sizes, **found}
    return {
        "compiler": compiler,
        "notes": notes + more,
        "mesh": placement.sizes,
        "parameters": sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes["params"])),
        "state_bytes": sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(shapes)),
        "device_bytes": {
            "parameters": device_bytes(state["params"]),
            "optimizer": device_bytes(state["opt_state"]),
            "averages": device_bytes({n: v for n, v in state.items() if n in ("ema", "best")}),
        },
        "forward_flops": domain.flops(),
        "remat": bool(getattr(experiment.model, "remat", False)),
        "dtype": str(getattr(experiment.model, "dtype", "float32")),
        "programs": list(programs.values()),
        "seconds": time.perf_counter() - began[0],
        "cpu_seconds": time.process_time() - began[1],
        "host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "versions": {"jax": jax.__version__},
    }


def open_domain(experiment: Experiment, devices: list[Any]) -> tuple[Domain, Placement, list[str]]:
    """The domain by its shapes alone, the mesh over ``devices``, and what was assumed of both."""
    placement, notes = make_placement(experiment, devices)
    domain = place(find_domain(experiment.domain)(experiment), placement)
    notes += domain.open_shapes()
    Batches(domain, experiment.train, placement)  # refuses what the mesh does not divide
    return domain, placement, notes


def make_placement(experiment: Experiment, devices: list[Any]) -> tuple[Placement, list[str]]:
    sizes = mesh_sizes(experiment.mesh, len(devices), all_devices=True)
    if len(devices) == 1:
        return Placement(None), []
    mesh, along = lay_out(sizes, devices)
    return Placement(mesh), [] if along else [IN_ORDER]


def placed(placement: Placement, shapes: PyTree, shardings: PyTree | None, device: Any) -> PyTree:
    """Shapes with where they lie."""
    if shardings is None:
        return _on(device, shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _on(device: Any, tree: PyTree) -> PyTree:
    sharding = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def device_bytes(tree: PyTree) -> int:
    """Bytes on one device, without the padding of layouts."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        total += int(np.prod(shape)) * leaf.dtype.itemsize
    return total


def _compiled(lowered: Any, placement: Placement, target: Target, keep: str, name: str) -> dict[str, Any]:
    began = time.perf_counter(), time.process_time()
    try:
        compiled = lowered.compile()
    except Exception as error:  # the compiler's own kinds of error; only a want of memory is an answer
        if not _OUT_OF_MEMORY.search(str(error)):
            raise UserError(f"the compiler refused the step: {str(error).strip().splitlines()[0][:500]}") from error
        return {"fits": False, "refused": _sizes(str(error))}
    took = time.perf_counter() - began[0], time.process_time() - began[1]
    text = compiled.as_text()
    if keep:
        os.makedirs(keep, exist_ok=True)
        with open(os.path.join(keep, f"{name}.hlo"), "w", encoding="utf-8") as file:
            file.write(
                f"// {compiled.memory_analysis()}\n// compiled in {took[0]:.1f} s, {took[1]:.1f} s of CPU\n{text}"
            )
    program = Program(text)
    memory = compiled.memory_analysis()
    rows = [] if placement.mesh is None else collectives(program, placement.sizes, target.node)
    return {
        "fits": None,
        "memory": {
            "arguments": memory.argument_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
        },
        "collectives": [asdict(row) for row in rows],
        "touched_bytes": traffic(program),
        "unknown_loops": program.unknown,
        "compile_seconds": took[0],
        "compile_cpu_seconds": took[1],
    }


def _sizes(message: str) -> str:
    """The sentence of a compiler's message that has the sizes."""
    for line in message.splitlines():
        if re.search(r"(?i)used .* of|exceeded|allocat", line):
            return line.strip()
    return message.strip().splitlines()[0]


def describe(experiment: Experiment, target: Target) -> dict[str, int]:
    """Bytes of the whole train state, and rows and columns that a mesh can divide (0: none); nothing is compiled."""
    domain = find_domain(experiment.domain)(experiment)
    domain.open_shapes()
    optimizer = make_optimizer(experiment.optim, experiment.train.steps)
    shapes = jax.eval_shape(StateBuilder(domain, optimizer, experiment.train))
    size = sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    space = domain.space()
    return {"state_bytes": size, "rows": space.get("latitude", 1), "columns": space.get("longitude", 1)}
