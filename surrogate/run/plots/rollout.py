"""A long free rollout: does the surrogate stay on the attractor of the truth, drift, or break?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
import numpy as np

from surrogate.core.durations import Duration
from surrogate.core.types import UserError
from surrogate.run.style import (
    RC,
    SURROGATE_COLOR,
    TRUTH_COLOR,
    WORSE_COLOR,
    Picture,
    quantity,
    representative,
    squared_units,
    unit_text,
)

MOST = 6


@dataclass(frozen=True)
class RolloutSeries:
    """Area-weighted means of one variable along a free rollout.

    Attributes:
        days: (T,) since the start.
        mean: (T,) global mean of the forecast, in ``units``; NaN after it broke.
        truth_range: (least, greatest) global mean that the truth takes.
        truth_mean: (T,) of the truth at the same times, where there is one.
        variance, truth_variance: (T,) variance over the globe, in ``units`` squared.
        truth_variance_range: (least, greatest) of the truth's.
    """

    key: str
    units: str
    days: np.ndarray
    mean: np.ndarray
    truth_range: tuple[float, float] | None = None
    truth_mean: np.ndarray | None = None
    variance: np.ndarray | None = None
    truth_variance: np.ndarray | None = None
    truth_variance_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "truth_mean", "variance", "truth_variance"):
            values = getattr(self, name)
            if values is not None and np.shape(values) != np.shape(self.days):
                raise UserError(
                    f"rollout of {self.key!r}: {name} has shape {np.shape(values)}, days have {np.shape(self.days)}"
                )


@matplotlib.rc_context(RC)
def rollout(items: Sequence[RolloutSeries], summary: Mapping[str, Any] | None = None) -> Picture:
    """Global mean and variance against time with the truth's range shaded, the first non-finite value marked.

    Args:
        summary: ``summary["rollout"]``; adds drift and the marks of what broke.
    """
    if not items:
        raise UserError("no rollout to draw")
    keys = representative([s.key for s in items], MOST)
    items = [s for s in items if s.key in keys]
    variables = (summary or {}).get("variables") or {}
    columns = 2 if any(s.variance is not None for s in items) else 1
    figure = Picture(10.2 if columns == 2 else 6.5, 1.75 * len(items) + 0.75)
    axes = figure.subplots(len(items), columns, squeeze=False, sharex=True)
    handles: dict[str, Any] = {}
    for s, row in zip(items, axes, strict=True):
        facts = variables.get(s.key) or {}
        broken = _first_broken(s, facts)
        _panel(row[0], s.days, s.mean, s.truth_mean, s.truth_range, broken)
        row[0].set_title(s.key + _drift(facts, s.units), fontsize=9)
        row[0].set_ylabel(quantity("mean", s.units))
        if columns == 2:
            if s.variance is None:
                row[1].set_visible(False)
            else:
                _panel(row[1], s.days, s.variance, s.truth_variance, s.truth_variance_range, broken)
                row[1].set_ylabel(quantity("variance", squared_units(s.units)))
        for ax in row:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
    for ax in axes[-1]:
        ax.set_xlabel("time since start (days)")
    figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=4)
    figure.align_ylabels()
    return figure


def _panel(
    ax: Axes, days: np.ndarray, forecast: np.ndarray, truth: np.ndarray | None, band: tuple[float, float] | None,
    broken: float | None,
) -> None:  # fmt: skip
    known: list[float] = []
    if band is not None:
        ax.axhspan(*band, color=TRUTH_COLOR, alpha=0.10, linewidth=0, label="truth's range")
        known += band
    if truth is not None:
        ax.plot(days, truth, color=TRUTH_COLOR, linewidth=1.1, label="truth")
        known += [float(np.nanmin(truth)), float(np.nanmax(truth))] if np.isfinite(truth).any() else []
    ax.plot(days, forecast, color=SURROGATE_COLOR, linewidth=1.5, label="surrogate")
    finite = np.asarray(forecast, float)[np.isfinite(forecast)]
    if known and finite.size:
        # A blow-up runs off the panel; four of the truth's ranges beyond it is far enough to see that it does.
        low, high = min(known), max(known)
        span = (high - low) or abs(high) or 1.0
        low = min(low, max(float(finite.min()), low - 4 * span))
        high = max(high, min(float(finite.max()), high + 4 * span))
        ax.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    if broken is not None:
        ax.axvline(broken, color=WORSE_COLOR, linewidth=1.3, linestyle="--", label="first non-finite value")
        ax.annotate(f"day {broken:g}", (broken, 0.05), xycoords=("data", "axes fraction"), xytext=(4, 0),
                    textcoords="offset points", color=WORSE_COLOR, fontsize=8)  # fmt: skip
    ax.set_xlim(float(np.min(days)), float(np.max(days)))


def _first_broken(series: RolloutSeries, facts: Mapping[str, Any]) -> float | None:
    if facts.get("first_nonfinite"):
        duration = Duration.parse(facts["first_nonfinite"])
        # A calendar month has no fixed length; a mark on an axis of days may use the mean one.
        return duration.seconds / 86400 if duration.seconds else duration.months * 30.4375
    bad = ~np.isfinite(np.asarray(series.mean, float))
    return float(np.asarray(series.days)[bad][0]) if bad.any() else None


def _drift(facts: Mapping[str, Any], units: str) -> str:
    parts = []
    if facts.get("drift_per_year") is not None:
        # Signed, since the direction is what one acts on.
        parts.append(f"drift {facts['drift_per_year']:+.2g} {unit_text(units)} per year".replace("-", "−", 1))
    if facts.get("std_ratio") is not None:
        parts.append(f"std / truth's {facts['std_ratio']:.2f}")
    return f"   {', '.join(parts)}" if parts else ""
