"""Score against lead time, the surrogate beside every baseline: small multiples, one variable each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
import numpy as np

from surrogate.core.types import UserError
from surrogate.run.scores import HEADLINE, Scores, by_lead, leads_of
from surrogate.run.style import (
    FAINT,
    RC,
    SURROGATE,
    WORSE_COLOR,
    Picture,
    colors,
    lead_axis,
    lead_words,
    line_style,
    metric_name,
    number,
    representative,
    with_units,
    words,
)

MOST = 9
# Beyond this many times the worst baseline the surrogate's curve is cut and its value written: a forecast
# that blows up would otherwise flatten everything one wants to compare.
_CUT = 3.0


@matplotlib.rc_context(RC)
def skill(
    scores: Scores,
    baselines: Mapping[str, Scores],
    variables: str | Sequence[str] | None = None,
    metric: str = "rmse",
    units: Mapping[str, str] | None = None,
) -> Picture:
    """``metric`` against lead time; bars where there is one lead only.

    Args:
        scores: variable → metric → ISO 8601 lead → value, in the variable's own units.
        baselines: the same for each baseline's name.
        variables: which to show; by default at most nine that stand for all.
        units: variable → units, for the axes.

    Raises:
        UserError: if a variable has no such metric, or none has.
    """
    available = [v for v in scores if by_lead(scores, v, metric)]
    if isinstance(variables, str):
        variables = [variables]
    shown = list(variables) if variables is not None else representative(available, MOST)
    for variable in shown:
        if variable not in available:
            raise UserError(f"no {metric} score of {variable!r}; scored are: {', '.join(available) or 'none'}")
    if not shown:
        raise UserError(f"no variable has a {metric} score")
    leads = leads_of(scores, shown, [metric])
    names = [n for n in baselines if any(by_lead(baselines[n], v, metric) for v in shown)]
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    bars = len(leads) < 2
    height = 1.0 + 0.24 * (len(names) + 1) if bars else 2.35
    figure = Picture(max(5.0, 3.45 * columns), height * rows + 0.55)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=not bars)
    for place, ax in enumerate(axes.flat):
        if place >= len(shown):
            ax.set_visible(False)
            continue
        draw = _bars if bars else _curves
        draw(ax, scores, baselines, shown[place], metric, names, leads)
        ax.set_title(shown[place])
        label = with_units(metric_name(metric), units if metric in (*HEADLINE, "bias") else None, shown[place])
        if metric == "relative_l2":
            label = metric_name(metric)
        (ax.set_xlabel if bars else ax.set_ylabel)(label)
        below = place + columns >= len(shown)
        if below and not bars:
            ax.set_xlabel(f"lead time ({lead_axis(leads)[1]})")
            ax.tick_params(labelbottom=True)
    if not bars and names:
        handles = [Line2D([], [], **line_style(n, names), label=words(n)) for n in (SURROGATE, *names)]
        wide = columns == 3 or len(handles) < 3
        figure.legend(handles=handles, loc="outside upper left", ncols=5 if wide else 2, handlelength=2.8)
    return figure


def _curves(
    ax: Axes, scores: Scores, baselines: Mapping[str, Scores], variable: str, metric: str, names: Sequence[str],
    leads: Sequence[str],
) -> None:  # fmt: skip
    axis = dict(zip(leads, lead_axis(leads)[0], strict=True))
    rivals: list[float] = []
    for name in names:
        values = by_lead(baselines[name], variable, metric)
        if values:
            ax.plot([axis[k] for k in values if k in axis], [v for k, v in values.items() if k in axis],
                    label=words(name), markevery=max(1, len(values) // 8), **line_style(name, names))  # fmt: skip
            rivals += [v for v in values.values() if math.isfinite(v)]
    mine = by_lead(scores, variable, metric)
    x, y = [axis[lead] for lead in mine], list(mine.values())
    ax.plot(x, y, label=SURROGATE, markevery=max(1, len(x) // 8), **line_style(SURROGATE, names))
    finite = [v for v in y if math.isfinite(v)]
    ticks = sorted({round(v, 6) for v in axis.values()})
    if len(ticks) <= 6 and min(np.diff(ticks), default=1) >= max(ticks) / 9:
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    if metric in HEADLINE:
        limit = max(rivals or finite or [1.0])
        limit = min(max([*finite, limit]), _CUT * limit) * 1.08 or 1.0
        ax.set_ylim(0, limit)
        off = [(a, b) for a, b in zip(x, y, strict=True) if b > limit]
        if off:
            _note(ax, f"off the scale: {number(off[-1][1])} at {lead_words(list(mine)[x.index(off[-1][0])])}", top=True)
    elif metric in ("acc", "correlation"):
        ax.set_ylim(min([0.0, *[1.05 * v for v in finite + rivals]]), 1.03)
        ax.axhline(0, color="#8A8A8A", linewidth=0.8, zorder=1)
    elif metric in ("bias", "activity"):
        ax.axhline(float(metric == "activity"), color="#8A8A8A", linewidth=0.8, zorder=1)
    broken = [lead for lead, value in mine.items() if not math.isfinite(value)]
    if broken:
        _note(ax, f"not finite from {lead_words(broken[0])} on")


def _bars(
    ax: Axes, scores: Scores, baselines: Mapping[str, Scores], variable: str, metric: str, names: Sequence[str],
    leads: Sequence[str],
) -> None:  # fmt: skip
    lead = leads[0]
    rows: list[tuple[str, float]] = [(SURROGATE, by_lead(scores, variable, metric).get(lead, math.nan))]
    rows += [(n, by_lead(baselines[n], variable, metric).get(lead, math.nan)) for n in names]
    places: list[Any] = list(range(len(rows)))
    shade = colors(names)
    ax.barh(places, [value for _, value in rows], color=[shade[name] for name, _ in rows], height=0.66)
    widest = max((abs(v) for _, v in rows if math.isfinite(v)), default=1.0) or 1.0
    for place, (_, value) in zip(places, rows, strict=True):
        failed = not math.isfinite(value)
        at = 0.0 if failed else max(value, 0.0)
        ax.text(at + 0.02 * widest, place, "not finite" if failed else number(value), va="center", fontsize=8,
                color=WORSE_COLOR if failed else "#222222")  # fmt: skip
    ax.set_yticks(places, [words(name) for name, _ in rows])
    ax.invert_yaxis()
    low = min([0.0, *(v for _, v in rows if math.isfinite(v))])
    ax.set_xlim(1.2 * low, 1.22 * widest)
    ax.grid(axis="y", visible=False)


def _note(ax: Axes, text: str, top: bool = False) -> None:
    """In the corner that the curves leave free: below rising errors, or above those that a blow-up pressed down."""
    place, side = (0.96, "top") if top else (0.05, "bottom")
    ax.text(0.98, place, text, transform=ax.transAxes, ha="right", va=side, fontsize=8, color=WORSE_COLOR,
            bbox={"facecolor": "white", "edgecolor": FAINT, "boxstyle": "round,pad=0.25"}, zorder=9)  # fmt: skip
