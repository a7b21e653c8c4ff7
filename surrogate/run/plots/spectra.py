"""Power by scale, truth against forecast: shows blurring (lost small scales) that RMSE rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import matplotlib
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator
import numpy as np

from surrogate.core.types import UserError
from surrogate.run.style import (
    RC,
    TRUTH_COLOR,
    Picture,
    lead_order,
    lead_words,
    pick,
    representative,
    unit_text,
)

MOST_VARIABLES, MOST_LEADS = 6, 5


@dataclass(frozen=True)
class Spectrum:
    """Power of one variable at one lead, averaged over forecasts.

    Attributes:
        wavenumber: (K,); zero (the mean) cannot be drawn on a logarithmic axis and is left out there.
        truth, forecast: (K,) power in ``units``.
        label: of the wavenumber axis, such as ``"spherical harmonic degree"``.
    """

    key: str
    lead: str
    wavenumber: np.ndarray
    truth: np.ndarray
    forecast: np.ndarray
    label: str = "wavenumber"
    units: str = ""

    def __post_init__(self) -> None:
        if not np.shape(self.wavenumber) == np.shape(self.truth) == np.shape(self.forecast):
            raise UserError(
                f"spectrum of {self.key!r}: wavenumber, truth and forecast have shapes {np.shape(self.wavenumber)}, "
                f"{np.shape(self.truth)} and {np.shape(self.forecast)}; they must be equal"
            )


@matplotlib.rc_context(RC)
def spectra(items: Sequence[Spectrum]) -> Picture:
    """Power (above) and forecast / truth (below) against wavenumber, log–log, a colour for each lead."""
    if not items:
        raise UserError("no spectrum to draw")
    keys = representative(list(dict.fromkeys(s.key for s in items)), MOST_VARIABLES)
    leads = pick(lead_order(s.lead for s in items if s.key in keys), MOST_LEADS)
    # Light to dark with lead, the light end still visible on white.
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.25, 0.95, len(leads))) if len(leads) > 1 else ["#0072B2"]
    color = dict(zip(leads, shades, strict=True))
    columns = 2 if len(keys) == 4 else min(3, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Picture(max(5.2, 3.6 * columns), 3.7 * rows + 0.5)
    grid = figure.add_gridspec(rows, columns)
    for place, key in enumerate(keys):
        cell = grid[place // columns, place % columns].subgridspec(2, 1, height_ratios=[2.6, 1], hspace=0.04)
        top = figure.add_subplot(cell[0])
        bottom = figure.add_subplot(cell[1], sharex=top)
        mine = sorted((s for s in items if s.key == key and s.lead in color), key=lambda s: leads.index(s.lead))
        for s in mine:
            top.plot(s.wavenumber, s.truth, color=TRUTH_COLOR, linewidth=2.6, alpha=0.35, label="truth")
        for s in mine:
            top.plot(s.wavenumber, s.forecast, color=color[s.lead], linewidth=1.5, label=lead_words(s.lead))
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.asarray(s.forecast, float) / np.asarray(s.truth, float)
            bottom.plot(s.wavenumber, ratio, color=color[s.lead], linewidth=1.5)
        for ax in (top, bottom):
            ax.set_xscale("log", nonpositive="mask")
            ax.set_yscale("log", nonpositive="mask")
        top.set_ylim(_power_limits(mine))
        bottom.set_ylim(1 / 11, 11)
        bottom.yaxis.set_major_locator(FixedLocator([0.1, 1, 10]))
        bottom.yaxis.set_minor_locator(NullLocator())
        bottom.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
        bottom.axhline(1, color=TRUTH_COLOR, linewidth=0.9)
        top.tick_params(labelbottom=False)
        top.xaxis.set_minor_formatter(NullFormatter())
        top.set_title(key)
        if mine[0].units:
            top.set_ylabel(f"power ({unit_text(mine[0].units)})")
        else:
            top.set_ylabel("power")
        bottom.set_ylabel("forecast\n/ truth", fontsize=8)
        bottom.set_xlabel(mine[0].label)
        figure.align_ylabels([top, bottom])
    named = [l for l in leads if l != "PT0S"]  # noqa: E741
    handles = [Line2D([], [], color=TRUTH_COLOR, linewidth=2.6, alpha=0.5, label="truth")]
    handles += [
        Line2D([], [], color=color[lead], linewidth=1.8, label=f"forecast, {lead_words(lead)}") for lead in named
    ]
    if not named:
        handles.append(Line2D([], [], color=color[leads[0]], linewidth=1.8, label="forecast"))
    figure.legend(handles=handles, loc="outside upper left", ncols=6 if columns == 3 else 4 if columns == 2 else 2)
    return figure


def _power_limits(items: Sequence[Spectrum]) -> tuple[float, float]:
    """Twice around the truth's positive powers, so that a forecast's collapse or blow-up runs off, not in."""
    power = np.concatenate([np.asarray(s.truth, float)[np.asarray(s.wavenumber) > 0] for s in items])
    power = power[np.isfinite(power) & (power > 0)]
    if not power.size:
        return 0.1, 10.0
    # Fourteen decades is what double precision distinguishes; below is round-off.
    low, high = max(power.min(), power.max() * 1e-14), power.max()
    return float(low / 3), float(high * 3)
