"""Memory, step time and communication over the number of devices, each with the same work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from surrogate.config import Experiment
from surrogate.core.types import UserError
from surrogate.planning.plan import Plan, make_plan
from surrogate.planning.report import seconds, size
from surrogate.planning.target import parse_target


@dataclass(frozen=True)
class Point:
    """One number of devices: ``peak`` bytes, ``payload`` and ``wire`` bytes of collectives a device and step, seconds of it.

    ``reason`` says why there is no plan; the numbers are 0 then.
    """

    devices: int
    mesh: dict[str, int]
    batch_size: int
    fits: bool
    peak: float
    limit: float
    step: float
    compute: float
    memory: float
    communication: float
    payload: float
    wire: float
    cpu_seconds: float
    host_bytes: float
    compiler: str
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def over_devices(experiment: Experiment, plan: Plan, say: Callable[[str], None]) -> list[Point]:
    """A plan for each of ``plan.scale``: the axis ``data`` and the batch grow with the devices, the others stay.

    Raises:
        UserError: for a number of devices that the other axes of the mesh do not divide.
    """
    target = parse_target(experiment.plan.target)
    rest = plan.devices // plan.mesh["data"]
    each = plan.batch_size // plan.mesh["data"]
    targets = {}
    for count in experiment.plan.scale:  # all are checked before the first is compiled, which takes minutes
        if count % rest:
            axes = " × ".join(f"{n} {s}" for n, s in plan.mesh.items() if n != "data" and s > 1)
            raise UserError(f"plan.scale: {count} devices are no multiple of the {rest} of {axes}")
        targets[count] = target if count == plan.devices else target.with_devices(count)
    points = []
    for count, own_target in targets.items():
        if count == plan.devices:
            points.append(point(plan))
            continue
        data = count // rest
        own = replace(
            experiment,
            mesh=replace(experiment.mesh, data=data, **{n: plan.mesh[n] for n in ("fsdp", "lat", "lon")}),
            train=replace(experiment.train, batch_size=each * data),
            plan=replace(experiment.plan, target=own_target.text, scale=(), sweep=False),
        )
        points.append(point(make_plan(own)))
        last = points[-1]
        say(f"{count} devices: {size(last.peak)}, step {seconds(last.step)}, {size(last.wire)} sent")
    return sorted(points, key=lambda p: p.devices)


def point(plan: Plan) -> Point:
    """The numbers of a plan's program that needs most memory."""
    worst, time = plan.worst, plan.worst.time
    return Point(
        devices=plan.devices, mesh=plan.mesh, batch_size=plan.batch_size, fits=plan.fits, peak=worst.memory.get("peak", 0.0),
        limit=plan.assumptions["memory_bytes"], step=time.step if time else 0.0, compute=time.compute if time else 0.0,
        memory=time.memory if time else 0.0, communication=time.communication if time else 0.0,
        payload=sum(t.payload for t in worst.traffic), wire=sum(t.wire for t in worst.traffic),
        cpu_seconds=plan.compiled["cpu_seconds"], host_bytes=plan.compiled["host_bytes"], compiler=plan.compiler,
        reason=worst.reason,
    )  # fmt: skip


def points_table(points: list[Point]) -> str:
    lines = ["Over the number of devices, at the same work for each",
             f"  {'devices':>8}{'batch':>8}{'peak':>12}{'step':>12}{'payload':>12}{'sent':>12}{'planned in':>14}"]  # fmt: skip
    for p in points:
        lines.append(
            f"  {p.devices:>8}{p.batch_size:>8}{size(p.peak):>12}{seconds(p.step):>12}{size(p.payload):>12}{size(p.wire):>12}"
            f"{p.cpu_seconds:>8.0f} CPU s" + (f"  {p.reason}" if p.reason else "")
        )
    return "\n".join(lines) + "\n"
