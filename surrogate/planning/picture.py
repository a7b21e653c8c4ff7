"""Pictures of plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.ticker import FuncFormatter

from surrogate.planning.plan import Plan
from surrogate.planning.report import number
from surrogate.planning.scale import Point
from surrogate.run.style import RC, WORSE_COLOR, Picture

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#E69F00", "#009E73", "#6B6B6B"


def draw_plan(plan: Plan, path: Path) -> None:
    """Memory of a device beside its limit, the parts of a step's time, and bytes sent along each mesh axis."""
    program = plan.worst
    with rc_context(RC):
        picture = Picture(10.5, 3.2)
        left, middle, right = picture.subplots(1, 3)
        _bars(left, _memory_parts(program.memory), 1e9, "GB of a device")
        limit = plan.assumptions["memory_bytes"]
        if limit:
            left.axvline(limit / 1e9, color=WORSE_COLOR, lw=1.5)
            left.set_title(f"memory: {'fits in' if plan.fits else 'more than'} {limit / 1e9:.0f} GB")
        if program.time is not None:
            t = program.time
            unit, label = (1.0, "s") if t.step >= 1 else (1e-3, "ms") if t.step >= 1e-3 else (1e-6, "µs")
            _bars(middle, {"compute": t.compute, "memory": t.memory, **t.levels, "step": t.step}, unit, label)
            middle.set_title(f"time of a step: {program.share_of_peak:.0%} of peak")
        sent: dict[str, float] = {}
        for row in program.traffic:
            name = f"{row.kind} ({row.axes})"
            sent[name] = sent.get(name, 0.0) + row.wire
        _bars(right, dict(sorted(sent.items(), key=lambda i: -i[1])[:7]), 1e9, "GB sent by a device")
        right.set_title("collectives of a step")
        picture.suptitle(f"{plan.experiment} on {plan.target}", x=0.01, ha="left", fontsize=10)
        picture.savefig(path)


def _memory_parts(memory: dict[str, float]) -> dict[str, float]:
    names = ("parameters", "optimizer", "averages", "constants", "batch", "temporaries", "peak")
    return {name: memory[name] for name in names if memory.get(name)}


def _bars(axes: Any, values: dict[str, float], unit: float, label: str) -> None:
    names = list(values)[::-1]
    numbers = [values[n] / unit for n in names]
    axes.barh(names, numbers, color=[_GREY if n in ("peak", "step") else _BLUE for n in names])
    for place, value in enumerate(numbers):
        axes.annotate(number(value), (value, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlabel(label)
    axes.margins(x=0.18)
    axes.grid(axis="y", visible=False)


def draw_scale(points: list[Point], plan: Plan, path: Path) -> None:
    """Memory, step time and communication against the number of devices; no file where none was compiled to the end."""
    known = [p for p in points if p.step]
    if not known:
        return
    with rc_context(RC):
        picture = Picture(10.5, 3.4)
        panels = picture.subplots(1, 3)
        count = [p.devices for p in known]
        _line(panels[0], count, [p.peak / 1e9 for p in known], "peak", _BLUE, "o-")
        if known[0].limit:
            panels[0].axhline(known[0].limit / 1e9, color=WORSE_COLOR, lw=1.2, label="limit")
        panels[0].set(title="memory of a device", ylabel="GB")
        for name, color, style in (("step", _GREY, "s-"), ("compute", _BLUE, "o-"), ("memory", _GREEN, "^--"),
                                   ("communication", _ORANGE, "v:")):  # fmt: skip
            _line(panels[1], count, [getattr(p, name) for p in known], name, color, style)
        panels[1].set(title="time of a step", ylabel="s")
        _line(panels[2], count, [p.payload / 1e9 for p in known], "payload", _BLUE, "o-")
        _line(panels[2], count, [p.wire / 1e9 for p in known], "sent in rings", _ORANGE, "v:")
        panels[2].set(title="communication of a device", ylabel="GB a step")
        for axes in panels:
            axes.set_xscale("log", base=2)
            axes.set_xticks(count)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
            axes.tick_params(axis="x", rotation=45)
            axes.minorticks_off()
            axes.set_ylim(0, 1.08 * max(max(line.get_ydata()) for line in axes.lines))
            axes.set_xlabel("devices")
            axes.legend(fontsize=8)
        picture.suptitle(f"{plan.experiment}, {plan.parameters / 1e9:.3g} × 10⁹ parameters, on {plan.chip}, "
                         "the same work for each device", x=0.01, ha="left", fontsize=10)  # fmt: skip
        picture.savefig(path)


def _line(axes: Any, x: list[int], y: list[float], label: str, color: str, style: str) -> None:
    axes.plot(x, y, style, color=color, label=label, ms=4, lw=1.5)
