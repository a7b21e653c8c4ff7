"""The whole result on one page: error over the best baseline's error, variable by lead."""

from __future__ import annotations

from collections.abc import Mapping
import math

import matplotlib
from matplotlib.colors import Normalize
import numpy as np

from surrogate.core.types import UserError
from surrogate.run.scores import Scores, compare, headline_metric, leads_of
from surrogate.run.style import RC, WORSE_COLOR, Picture, lead_axis, lead_words, metric_name, pick, unit_text

MOST_LEADS = 14


@matplotlib.rc_context(RC)
def scorecard(scores: Scores, baselines: Mapping[str, Scores], units: Mapping[str, str] | None = None) -> Picture:
    """Ratio of the surrogate's error to the best baseline's, for all variables and up to 14 leads.

    Blue (below 1) is better than every baseline, red worse. The colour is the ratio's logarithm, so that half
    and double are equally strong; the number is always written.

    Raises:
        UserError: if there is nothing to compare.
    """
    metrics = {v: metric for v in scores if (metric := headline_metric(scores, v))}
    variables = list(metrics)
    leads = pick(leads_of(scores, variables, set(metrics.values())), MOST_LEADS)
    cells = [[compare(scores, baselines, v, metrics[v], lead) for lead in leads] for v in variables]
    if not any(c.outcome != "unknown" for row in cells for c in row):
        raise UserError("a scorecard needs scores and at least one baseline; neither or only one is there")
    ratios = np.array([[c.ratio for c in row] for row in cells], float)
    # Infinite ratios and exact zeros sit at the ends of the scale.
    shade = np.ma.masked_invalid(np.log2(np.clip(np.nan_to_num(ratios, nan=np.nan, posinf=64.0), 1 / 64, 64)))
    height, width = shade.shape
    cell = 0.82 if width <= 8 else 0.66
    names_width = 0.075 * max(len(_row_name(v, units)) for v in variables)
    figure = Picture(max(5.2, cell * width + names_width + 0.3), 0.27 * height + 1.4)
    ax = figure.subplots()
    image = ax.imshow(shade, cmap=matplotlib.colormaps["RdBu_r"].with_extremes(bad="#EDEDED"), norm=Normalize(-1, 1),
                      aspect="auto", interpolation="nearest")  # fmt: skip
    for i, row in enumerate(cells):
        for j, c in enumerate(row):
            text, color = _cell_text(c.ratio, math.isfinite(c.value), c.outcome == "unknown")
            ax.text(j, i, text, ha="center", va="center", fontsize=8, color=color)
    names, unit = lead_axis(leads)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    if leads == ["PT0S"]:
        ax.set_xticks([0], [metric_name(next(iter(metrics.values())))])
    else:
        ax.set_xticks(range(width), [f"{n:g}" if n == round(n, 2) else f"{n:.1f}" for n in names])
        ax.set_xlabel(f"lead time ({unit})" if len(leads) > 1 else f"at {lead_words(leads[0])}", loc="left")
    ax.set_yticks(range(height), [_row_name(v, units) for v in variables])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.set_xticks(np.arange(-0.5, width), minor=True)
    ax.set_yticks(np.arange(-0.5, height), minor=True)
    ax.grid(which="minor", visible=True, color="white", linewidth=1.5)
    ax.tick_params(which="minor", length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    kinds = set(metrics.values())
    what = metric_name(kinds.pop()) if len(kinds) == 1 else "error"
    bar = figure.colorbar(image, ax=ax, location="bottom", extend="both", aspect=45, shrink=0.9, fraction=0.04,
                          pad=0.02, ticks=np.log2([0.5, 0.7, 1.0, 1.4, 2.0]))  # fmt: skip
    bar.ax.set_xticklabels(["0.5", "0.7", "1", "1.4", "2"])
    bar.set_label(f"{what} / best baseline's {what}\n(below 1: better than all)")
    bar.outline.set_visible(False)
    return figure


def _cell_text(ratio: float, finite: bool, unknown: bool) -> tuple[str, str]:
    if not finite:
        return "NaN", "white" if not unknown else WORSE_COLOR
    if unknown:
        return "–", "#777777"
    if math.isinf(ratio) or ratio >= 100:
        return ">100", "white"
    color = "white" if abs(math.log2(max(ratio, 1 / 64))) > 0.58 else "#222222"
    return (f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"), color


def _row_name(variable: str, units: Mapping[str, str] | None) -> str:
    unit = (units or {}).get(variable, "")
    return f"{variable}  ({unit_text(unit)})" if unit and unit != "1" else variable
