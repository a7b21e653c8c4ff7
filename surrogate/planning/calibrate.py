"""Predicted beside measured, on what can be run here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from surrogate.config import Experiment, MeshConfig, Stage
from surrogate.planning.child import run_in_child
from surrogate.planning.collectives import Traffic
from surrogate.planning.report import seconds
from surrogate.planning.roofline import step_time
from surrogate.planning.target import Chip, parse_target


@dataclass(frozen=True)
class Measured:
    """Seconds of a step, and the rates of this machine that the prediction was made with."""

    devices: int
    predicted: float
    fastest: float
    slowest: float
    measured: float
    shortest: float
    longest: float
    bound: str
    flops_rate: float
    bandwidth: float
    network: float

    @property
    def error(self) -> float:
        """(predicted − measured) / measured"""
        return self.predicted / self.measured - 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"error": self.error}


def calibrate(experiment: Experiment) -> list[Measured]:
    """The experiment's step on 1 and on 2 devices of this CPU, which halve the batch.

    The roofline takes matrix products, memory and exchange at the rates that small programs reach here at the same time
    (so ``plan.efficiency`` is 1): what is compared is the model of a step, not a table of this machine.
    """
    found = []
    for count in (1, 2):
        target = parse_target(f"cpu:{count}")
        own = replace(
            experiment,
            mesh=MeshConfig(data=count),
            train=replace(experiment.train, curriculum=(Stage(0.0, experiment.train.curriculum[0].rollout),)),
        )
        compiled = run_in_child("surrogate.planning.program:compile_plan", own, target)
        measured = run_in_child("surrogate.planning.measure:measure_step", own, target)
        program = compiled["programs"][0]
        chip = Chip(
            "this CPU", dict.fromkeys(("float32", "bfloat16"), measured["flops"]), 0.0, measured["bandwidth"],
            measured["network"], measured["network"], 0.0, 0.0, "measured",
        )  # fmt: skip
        forward = compiled["forward_flops"] * program["calls"] * own.train.batch_size / count
        predicted = step_time(
            (4 if compiled["remat"] else 3) * forward, program["touched_bytes"], [Traffic(**t) for t in program["collectives"]],
            chip, dtype="float32", efficiency=1.0, overlap=experiment.plan.overlap,
        )  # fmt: skip
        found.append(
            Measured(
                count, predicted.step, predicted.fastest, predicted.slowest, measured["step"], measured["shortest"],
                measured["longest"], predicted.bound, measured["flops"], measured["bandwidth"], measured["network"],
            )
        )  # fmt: skip
    return found


def comparison(measured: list[Measured]) -> str:
    lines = ["Calibration: a step on this machine's CPU",
             f"  {'devices':>8}{'predicted':>12}{'measured':>12}{'(from':>12}{'to)':>12}{'error':>9}  bound by"]  # fmt: skip
    for m in measured:
        lines.append(
            f"  {m.devices:>8}{seconds(m.predicted):>12}{seconds(m.measured):>12}{seconds(m.shortest):>12}"
            f"{seconds(m.longest):>12}{m.error:>+9.0%}  {m.bound} ({m.flops_rate / 1e9:.0f} GFLOP/s, "
            f"{m.bandwidth / 1e9:.1f} GB/s, exchange {m.network / 1e9:.1f} GB/s a device)"
        )
    return "\n".join(lines) + "\n"
