"""From what a compiler says of a step to what a run costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from surrogate.config import Experiment, PlanConfig
from surrogate.core.types import UserError
from surrogate.planning.checkpointing import Checkpointing, plan_checkpoints
from surrogate.planning.child import run_in_child
from surrogate.planning.collectives import Traffic
from surrogate.planning.roofline import StepTime, step_time
from surrogate.planning.target import Target, parse_target, priced


@dataclass(frozen=True)
class ProgramPlan:
    """One program of the curriculum.

    Attributes:
        stage, steps: of the curriculum, and updates in it.
        memory: bytes of a device; ``peak`` is their sum; empty where the compiler ran out.
        flops: of the model, a step and device; ``computed`` with what is computed again.
        share_of_peak: of the model's FLOPs in the estimated time.
    """

    stage: str
    steps: int
    fits: bool
    reason: str
    memory: dict[str, float]
    flops: float
    computed: float
    touched: float
    traffic: tuple[Traffic, ...]
    time: StepTime | None
    share_of_peak: float


@dataclass(frozen=True)
class Plan:
    """All that ``plan.json`` holds."""

    experiment: str
    target: str
    chip: str
    devices: int
    mesh: dict[str, int]
    batch_size: int
    dtype: str
    remat: bool
    parameters: int
    compiler: str
    notes: tuple[str, ...]
    assumptions: dict[str, Any]
    programs: tuple[ProgramPlan, ...]
    fits: bool
    hours: float
    dollars: float
    megawatt_hours: float
    checkpoints: Checkpointing
    compiled: dict[str, float]

    @property
    def worst(self) -> ProgramPlan:
        """The program that needs most memory: the one that does not fit, if there is one."""
        return max(self.programs, key=lambda p: (not p.fits, p.memory.get("peak", 0.0)))

    @property
    def step(self) -> float:
        """Seconds of a step, the mean over the run; infinite where it does not fit."""
        if not all(p.time for p in self.programs):
            return float("inf")
        return sum(p.time.step * p.steps for p in self.programs if p.time) / sum(p.steps for p in self.programs)

    def to_dict(self) -> dict[str, Any]:
        return {"plan": 1, **asdict(self), "step_seconds": self.step if self.fits else None}


def make_plan(experiment: Experiment, *, keep_text: str = "") -> Plan:
    """Compile the experiment's training step for ``plan.target`` and derive time, cost and energy of the run.

    Raises:
        UserError: for a target that is unknown, or a mesh that does not divide it.
    """
    if not experiment.plan.target:
        raise UserError("for what? give plan.target=tpu:v5p:16x20x28, plan.target=gpu:h100:140x8 or plan.target=cpu:8")
    target = parse_target(experiment.plan.target)
    found = run_in_child("surrogate.planning.program:compile_plan", experiment, target, keep_text=keep_text)
    return derive(found, experiment, target)


def derive(found: dict[str, Any], experiment: Experiment, target: Target) -> Plan:
    """The plan that follows from ``compile_plan``'s answer."""
    config, train = experiment.plan, experiment.train
    price, watts, memory = priced(target.chip, config)
    programs = tuple(_program(p, found, experiment, target, memory) for p in found["programs"])
    fits = all(p.fits for p in programs)
    hosts = -(-target.num_devices // target.per_host)
    checkpoints = plan_checkpoints(
        found["state_bytes"], hosts=hosts, devices=target.num_devices, failures=config.failures, restart=config.restart,
        storage=config.storage * 1e9, storage_total=config.storage_total * 1e9, host_copy=config.host_copy * 1e9,
    )  # fmt: skip
    seconds = sum(p.time.step * p.steps for p in programs if p.time) / max(checkpoints.goodput, 1e-9)
    hours = seconds / 3600 if fits else float("inf")
    return Plan(
        experiment=experiment.name, target=target.words, chip=target.chip.name, devices=target.num_devices, mesh=found["mesh"],
        batch_size=train.batch_size, dtype=found["dtype"], remat=found["remat"], parameters=found["parameters"],
        compiler=found["compiler"], notes=tuple(found["notes"] + _loops(found)),
        assumptions=_assumptions(config, target, price, watts, memory), programs=programs, fits=fits, hours=hours,
        dollars=hours * target.num_devices * price, megawatt_hours=hours * target.num_devices * watts * config.pue / 1e6,
        checkpoints=checkpoints,
        compiled={"seconds": found["seconds"], "cpu_seconds": found["cpu_seconds"], "host_bytes": found["host_bytes"]},
    )  # fmt: skip


def _program(
    program: dict[str, Any], found: dict[str, Any], experiment: Experiment, target: Target, memory: float
) -> ProgramPlan:
    config, count = experiment.plan, target.num_devices
    forward = found["forward_flops"] * program["calls"] * experiment.train.batch_size / count
    flops = 3 * forward  # a backward pass costs twice the forward one
    computed = flops + (forward if found["remat"] else 0.0)
    if "memory" not in program:
        stated = {**found["device_bytes"], **program["bytes"]}
        return ProgramPlan(program["stage"], program["steps"], False, program["refused"], stated, flops, computed,
                           0.0, (), None, 0.0)  # fmt: skip
    parts = dict(program["memory"])
    parts["peak"] = sum(parts.values())
    traffic = tuple(Traffic(**row) for row in program["collectives"])
    time = step_time(
        computed, program["touched_bytes"], traffic, target.chip, dtype=found["dtype"], efficiency=config.efficiency,
        overlap=config.overlap,
    )  # fmt: skip
    fits = not memory or parts["peak"] <= memory
    reason = "" if fits else f"needs {parts['peak'] / 1e9:.1f} GB of {memory / 1e9:.1f} GB"
    share = flops / time.step / target.chip.peak[found["dtype"]]
    stated = {**found["device_bytes"], **program["bytes"], **parts}
    return ProgramPlan(program["stage"], program["steps"], fits, reason, stated, flops, computed,
                       program["touched_bytes"], traffic, time, share)  # fmt: skip


def _loops(found: dict[str, Any]) -> list[str]:
    names = [name for p in found["programs"] for name in p.get("unknown_loops", [])]
    return (
        [f"the trips of {len(names)} loop(s) were not found and taken as one: {', '.join(names[:4])}"] if names else []
    )


def _assumptions(config: PlanConfig, target: Target, price: float, watts: float, memory: float) -> dict[str, Any]:
    chip = target.chip
    return {
        "chip": chip.source, "peak_flops": chip.peak, "memory_bytes": memory, "memory_bytes_per_s": chip.bandwidth,
        "node_bytes_per_s": chip.node, "network_bytes_per_s": chip.network, "efficiency": config.efficiency,
        "overlap": config.overlap, "dollars_per_device_hour": price, "watts_per_device": watts, "pue": config.pue,
        "failures_per_device_hour": config.failures, "restart_seconds": config.restart,
        "storage_bytes_per_s_of_host": config.storage * 1e9, "storage_bytes_per_s": config.storage_total * 1e9,
        "host_copy_bytes_per_s": config.host_copy * 1e9, "devices_per_host": target.per_host,
    }  # fmt: skip
