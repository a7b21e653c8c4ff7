"""Predicted against true energies, forces and stresses, and the distribution of what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
import numpy as np

from surrogate.core.types import UserError
from surrogate.run.plots.log_ticks import log_ticks
from surrogate.run.style import FAINT, INK, RC, SURROGATE_COLOR, WORSE_COLOR, Picture, number, quantity

# Beyond this many points a scatter is a blot: their density is shown instead.
_MOST_POINTS = 2000
_GROUP_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_NAMES = {"energy_per_atom": "energy per atom"}


@dataclass(frozen=True)
class Parity:
    """All predictions of one variable.

    Attributes:
        key: the variable; ``units``: of the values.
        truth, predicted: (K,) each.
        groups: (K,) names, say of elements, whose residuals are drawn apart; None for one group.
    """

    key: str
    units: str
    truth: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("predicted", "groups"):
            values = getattr(self, name)
            if values is not None and np.shape(values) != np.shape(self.truth):
                raise UserError(
                    f"parity of {self.key!r}: {name} has shape {np.shape(values)}, truth {np.shape(self.truth)}"
                )


@matplotlib.rc_context(RC)
def parity(items: Sequence[Parity]) -> Picture:
    """A column a variable: predicted against true above, residuals (predicted − true) on a logarithmic scale below.

    Limits are those of the truth, widened by a tenth; predictions outside are counted in the panel, never hidden in
    silence. Energies are shown without the constant energies of the species where ``evaluate_frames`` gives them so.
    """
    if not items:
        raise UserError("no predictions to draw")
    figure = Picture(3.75 * len(items) + 0.3, 6.1)
    top, bottom = figure.subplots(2, len(items), squeeze=False, height_ratios=[1.55, 1])
    for item, above, below in zip(items, top, bottom, strict=True):
        _points(figure, above, item)
        _residuals(below, item)
    return figure


def _points(figure: Picture, ax: Axes, item: Parity) -> None:
    truth, predicted = np.asarray(item.truth, float), np.asarray(item.predicted, float)
    low, high = float(truth.min()), float(truth.max())
    margin = 0.1 * ((high - low) or abs(high) or 1.0)
    low, high = low - margin, high + margin
    ax.plot([low, high], [low, high], color=INK, linewidth=0.9, zorder=4)
    inside = (predicted >= low) & (predicted <= high)
    if inside.sum() > _MOST_POINTS:
        shown = ax.hexbin(
            truth[inside], predicted[inside], gridsize=55, extent=(low, high, low, high), norm=LogNorm(), mincnt=1,
            cmap="viridis", linewidths=0.1,
        )  # fmt: skip
        shown.set_clim(1, max(2.0, float(np.max(np.asarray(shown.get_array())))))
        bar = figure.colorbar(shown, ax=ax, location="right", aspect=30, pad=0.02, fraction=0.05)
        bar.set_label("values in a cell", fontsize=8)
        bar.outline.set_visible(False)
    else:
        for color, mask, label in _groups(item):
            use = mask & inside
            ax.plot(
                truth[use], predicted[use], "o", color=color, markersize=3, alpha=0.55, markeredgewidth=0, label=label
            )
        if item.groups is not None:
            ax.legend(loc="lower right", markerscale=1.6)
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_aspect("equal")
    ax.set_title(_name(item.key))
    ax.set_xlabel(quantity("true", item.units))
    ax.set_ylabel(quantity("predicted", item.units))
    factor, units = _residual_units(item)
    error = factor * (predicted - truth)
    sizes = (("RMSE", _rms(error)), ("MAE", float(np.mean(np.abs(error)))))
    text = "\n".join([f"{len(truth):,} values", *(f"{name} {number(size)} {units}" for name, size in sizes)])
    box = {"facecolor": "white", "edgecolor": FAINT, "boxstyle": "round,pad=0.25", "alpha": 0.9}
    ax.text(0.03, 0.97, text, transform=ax.transAxes, va="top", fontsize=8, bbox=box, zorder=6)
    if not inside.all():
        lost = int((~inside).sum())
        ax.text(0.97, 0.03, f"{lost:,} outside or not finite", transform=ax.transAxes, ha="right", fontsize=8,
                color=WORSE_COLOR, bbox=box, zorder=6)  # fmt: skip


def _residuals(ax: Axes, item: Parity) -> None:
    factor, units = _residual_units(item)
    error = factor * (np.asarray(item.predicted, float) - np.asarray(item.truth, float))
    finite = np.isfinite(error)
    span = float(np.percentile(np.abs(error[finite]), 99.8)) * 1.15 if finite.any() else 0.0
    span = span or 1e-12
    edges = np.linspace(-span, span, 2 * int(np.clip(np.sqrt(len(error)), 6, 30)) + 2)
    for color, mask, label in _groups(item):
        # What is farther out is counted in the last bins, so that the tails show that there is more.
        values = np.clip(error[mask & finite], -span, span)
        ax.hist(values, edges.tolist(), histtype="step", color=color, linewidth=1.5, label=label)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.7)
    log_ticks(ax.yaxis, *ax.get_ylim())
    ax.set_xlim(-1.02 * span, 1.02 * span)
    ax.set_xlabel(quantity("predicted − true", units))
    ax.set_ylabel("values")
    if item.groups is not None:
        ax.legend(loc="upper right", fontsize=8)
    beyond = int((np.abs(error[finite]) > span).sum())
    if beyond:
        ax.set_title(f"{beyond:,} farther out, in the last bins", fontsize=7.5, fontweight="normal")


def _groups(item: Parity) -> list[tuple[Any, np.ndarray, str]]:
    if item.groups is None:
        return [(SURROGATE_COLOR, np.ones(len(item.truth), bool), "")]
    names = list(dict.fromkeys(item.groups.tolist()))
    return [(_GROUP_COLORS[i % len(_GROUP_COLORS)], item.groups == name, name) for i, name in enumerate(names)]


def _residual_units(item: Parity) -> tuple[float, str]:
    """Energies per atom are some eV, their errors some meV."""
    return (1000.0, f"m{item.units}") if item.units == "eV/atom" else (1.0, item.units)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _name(key: str) -> str:
    return _NAMES.get(key, key)
