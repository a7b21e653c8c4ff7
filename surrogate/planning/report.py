"""A plan for people: one page of text."""

from __future__ import annotations

from surrogate.planning.plan import Plan, ProgramPlan


def table(plan: Plan) -> str:
    """The plan as text, its assumptions written out."""
    axes = " × ".join(f"{name} {size}" for name, size in plan.mesh.items() if size > 1) or "one device"
    lines = [
        f"{plan.experiment} on {plan.target}",
        f"  {plan.parameters:,} parameters, {plan.dtype}{', layers recomputed' if plan.remat else ''}, "
        f"batch {plan.batch_size}, mesh {axes}",
        f"  compiled by {plan.compiler}",
        "",
        f"{'FITS' if plan.fits else 'DOES NOT FIT'}",
    ]
    for program in plan.programs:
        lines += _program(program, plan)
    lines += ["", *_run(plan), "", *_assumptions(plan)]
    if plan.notes:
        lines += ["", "Notes", *(f"  - {note}" for note in plan.notes)]
    own = plan.compiled
    lines += ["", f"Planned in {own['seconds']:.0f} s ({own['cpu_seconds']:.0f} s of CPU time) within "
              f"{own['host_bytes'] / 1e9:.1f} GB of this machine's memory"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _program(program: ProgramPlan, plan: Plan) -> list[str]:
    name = f"stage {program.stage} of the curriculum, {program.steps:,} steps"
    lines = ["", name if len(plan.programs) > 1 else f"{program.steps:,} steps"]
    if program.reason:
        lines.append(f"  {program.reason}")
    lines.append("  memory of a device")
    of = {"parameters", "optimizer", "averages", "constants", "batch"}
    for key, value in program.memory.items():
        lines.append(f"    {key:<14}{size(value):>12}{'  (of the arguments)' if key in of else ''}")
    if program.time is None:
        return lines
    t = program.time
    lines += [
        f"  a step of a device: {number(program.flops / 1e12)} TFLOP of the model, {number(program.computed / 1e12)} with what is "
        f"recomputed; {size(program.touched)} of memory touched",
        "  collectives of a step",
        f"    {'kind':<22}{'axes':<16}{'group':>6}{'number':>8}{'payload':>12}{'sent':>12}",
    ]
    for row in program.traffic[:12]:
        lines.append(
            f"    {row.kind:<22}{row.axes:<16}{row.group:>6}{row.count:>8}{size(row.payload):>12}{size(row.wire):>12}"
        )
    rest = program.traffic[12:]
    if rest:
        lines.append(f"    and {len(rest)} more, {size(sum(r.wire for r in rest))} sent")
    levels = ", ".join(f"{name} {seconds(value)}" for name, value in t.levels.items())
    lines += [
        f"  step {seconds(t.step)} (from {seconds(t.fastest)} to {seconds(t.slowest)}): compute {seconds(t.compute)}, "
        f"memory {seconds(t.memory)}, {levels}; {t.bound} bounds it",
        f"  {program.share_of_peak:.1%} of peak by the model's FLOPs",
    ]
    return lines


def _run(plan: Plan) -> list[str]:
    c = plan.checkpoints
    lines = [
        "checkpoints",
        f"  {size(c.bytes)} each, written in {seconds(c.write)}, the loop waits {seconds(c.stall)}",
        f"  an interruption every {seconds(c.mean_time)}; save every {seconds(c.interval)} (Daly 2006; Young 1974: "
        f"{seconds(c.young)}); goodput {c.goodput:.1%}",
    ]
    if plan.fits:
        each = plan.step
        lines[-1] += f"; that is train.checkpoint_every={max(1, round(c.interval / each))}"
        lines += [
            "the whole run",
            f"  {plan.hours:,.1f} hours, {plan.hours * plan.devices:,.0f} device hours, ${plan.dollars:,.0f}, "
            f"{plan.megawatt_hours:,.1f} MWh, interruptions included",
        ]
    return lines


def _assumptions(plan: Plan) -> list[str]:
    a = plan.assumptions
    return [
        "Assumptions (plan.* changes them)",
        f"  - {a['chip']}",
        f"  - step = max(compute, memory) + communication − what hides: {a['overlap']:.0%} of communication, at most all of "
        f"the work; matrix products reach {a['efficiency']:.0%} of {a['peak_flops'][plan.dtype] / 1e12:g} TFLOP/s; no latency",
        f"  - {a['memory_bytes_per_s'] / 1e9:g} GB/s of memory; a device sends {a['node_bytes_per_s'] / 1e9:g} GB/s within a "
        f"node or slice and {a['network_bytes_per_s'] / 1e9:g} GB/s beyond; rings",
        f"  - ${a['dollars_per_device_hour']:g} and {a['watts_per_device']:g} W × {a['pue']:g} (PUE) a device and hour",
        f"  - {a['failures_per_device_hour']:g} interruptions a device and hour (419 in 54 days of 16,384 GPUs: Llama Team 2024, "
        f"arXiv:2407.21783), {a['restart_seconds']:g} s to restart",
        f"  - checkpoints: {a['storage_bytes_per_s_of_host'] / 1e9:g} GB/s a host of {a['devices_per_host']} device(s), "
        f"{a['storage_bytes_per_s'] / 1e9:g} GB/s in all, {a['host_copy_bytes_per_s'] / 1e9:g} GB/s from devices to host",
    ]


def size(value: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{number(value / scale)} {unit}"
    return f"{value:.0f} B"


def seconds(value: float) -> str:
    for unit, scale in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if value >= scale * (2 if scale > 1 else 1):
            return f"{number(value / scale)} {unit}"
    return f"{number(value * 1e6)} µs" if value else "0"


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"
