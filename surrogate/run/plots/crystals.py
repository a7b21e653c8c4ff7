"""Crystals: equations of state and phonon dispersions, the surrogate beside the method that made its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any

import matplotlib
from matplotlib.lines import Line2D
import numpy as np

from surrogate.core.types import UserError
from surrogate.run.style import RC, SURROGATE_COLOR, TRUTH_COLOR, WORSE_COLOR, Picture, number

_MOST = 6
_LOOK: dict[str, dict[str, Any]] = {
    "reference": {"color": TRUTH_COLOR, "linewidth": 1.3, "zorder": 3},
    "surrogate": {"color": SURROGATE_COLOR, "linewidth": 2.0, "linestyle": "--", "zorder": 4},
}


@dataclass(frozen=True)
class StateCurves:
    """The equation of state of one crystal by one or both methods.

    ``surrogate`` and ``reference`` hold ``volumes`` (K,) Å³/atom and ``energies`` (K,) eV/atom as computed,
    ``fit_volumes`` and ``fit_energies`` of the fitted curve, ``volume`` Å³/atom and ``energy`` eV/atom of its minimum and
    ``bulk_modulus`` in GPa; None where a method gave none.
    """

    name: str
    surrogate: Mapping[str, Any] | None = None
    reference: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PhononBands:
    """The phonon dispersion of one crystal by one or both methods.

    ``surrogate`` and ``reference`` hold, a segment of the path an entry, ``distance`` (K,) and ``frequencies`` (K, branches)
    in THz (imaginary ones negative), and ``labels``: (distance, name) of the points of high symmetry.
    """

    name: str
    surrogate: Mapping[str, Any] | None = None
    reference: Mapping[str, Any] | None = None


@matplotlib.rc_context(RC)
def state_equations(items: Sequence[StateCurves]) -> Picture:
    """Energy against volume, each method's energies counted from its own minimum; a panel a crystal."""
    items = _some(items)
    figure, axes = _panels(len(items), 3.6, 3.1)
    for ax, item in zip(axes, items, strict=False):
        notes = []
        for method in ("reference", "surrogate"):
            curve = getattr(item, method)
            if curve is None:
                continue
            look = _LOOK[method]
            ax.plot(curve["fit_volumes"], 1000 * (np.asarray(curve["fit_energies"]) - curve["energy"]), **look)
            ax.plot(curve["volumes"], 1000 * (np.asarray(curve["energies"]) - curve["energy"]), "o",
                    color=look["color"], markersize=3.2, zorder=look["zorder"],
                    markerfacecolor="white" if method == "reference" else look["color"])  # fmt: skip
            ax.axvline(curve["volume"], color=look["color"], linewidth=0.8, linestyle=":", zorder=2)
            notes.append(f"{method}: V {curve['volume']:.3f}, B {number(curve['bulk_modulus'])}")
        ax.set_title(item.name)
        ax.set_xlabel("volume (Å³/atom)")
        ax.set_ylabel("energy above the\nminimum (meV/atom)")
        ax.set_ylim(bottom=0)
        ax.text(0.5, 0.97, "\n".join(notes), transform=ax.transAxes, ha="center", va="top", fontsize=7.5)
    _legend(figure, items, marker="o")
    return figure


@matplotlib.rc_context(RC)
def phonon_bands(items: Sequence[PhononBands]) -> Picture:
    """Frequencies along the path through the Brillouin zone; below zero, in red, is unstable."""
    items = _some(items)
    figure, axes = _panels(len(items), 4.9, 3.3, most_columns=2)
    for ax, item in zip(axes, items, strict=False):
        # Each method's path is scaled to the first one's length: the zones of two lattice constants differ a little.
        end = None
        lowest = 0.0
        for method in ("reference", "surrogate"):
            bands = getattr(item, method)
            if bands is None:
                continue
            length = float(bands["distance"][-1][-1])
            end = end or length
            for distance, frequencies in zip(bands["distance"], bands["frequencies"], strict=True):
                ax.plot(np.asarray(distance) * end / length, frequencies, **(_LOOK[method] | {"linewidth": 1.2}))
                lowest = min(lowest, float(np.min(frequencies)))
            _ticks(ax, bands["labels"], end / length)
        ax.axhline(0, color=WORSE_COLOR if lowest < -0.1 else "#8A8A8A", linewidth=0.9, zorder=2)
        if lowest < -0.1:
            ax.axhspan(1.1 * lowest, 0, color=WORSE_COLOR, alpha=0.07, linewidth=0)
        ax.set_ylim(bottom=1.1 * lowest if lowest < -0.1 else 0)
        if end:
            ax.set_xlim(0, end)
        ax.set_title(item.name)
        ax.set_ylabel("frequency (THz)")
        ax.grid(axis="x", visible=False)
    _legend(figure, items)
    return figure


def _ticks(ax: Any, labels: Sequence[tuple[float, str]], scale: float) -> None:
    names: dict[float, str] = {}
    for at, name in labels:
        place = round(at * scale, 6)
        # Where the path jumps, both names stand at one place; the same point in another zone is one name.
        names[place] = name if names.get(place, name) == name else f"{names[place]}|{name}"
    for place in names:
        ax.axvline(place, color="#BBBBBB", linewidth=0.8, zorder=1)
    ax.set_xticks(list(names), list(names.values()))


def _some(items: Sequence[Any]) -> list[Any]:
    shown = [item for item in items if item.surrogate is not None or item.reference is not None][:_MOST]
    if not shown:
        raise UserError("no crystal to draw")
    return shown


def _panels(count: int, width: float, height: float, most_columns: int = 3) -> tuple[Picture, list[Any]]:
    columns = min(most_columns, count)
    rows = math.ceil(count / columns)
    figure = Picture(max(5.0, width * columns), height * rows + 0.45)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes


def _legend(figure: Picture, items: Sequence[Any], marker: str = "") -> None:
    methods = [m for m in ("surrogate", "reference") if any(getattr(i, m) is not None for i in items)]
    handles = [
        Line2D([], [], **_LOOK[m], marker=marker, markersize=3.5, markerfacecolor="white" if m == "reference" else None,
               label=m)
        for m in methods
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper left", ncols=2, handlelength=3)
