"""Error against the uncertainty that foretold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np

from surrogate.core.types import UserError
from surrogate.run.plots.log_ticks import log_ticks
from surrogate.run.style import FAINT, INK, RC, SURROGATE_COLOR, Picture, number, quantity, words


@dataclass(frozen=True)
class Uncertainty:
    """Bins of equal number, by predicted standard deviation.

    Attributes:
        spread, error: (K,) root mean square of the predicted standard deviations and of the errors in each bin.
        factor: √⟨error²/spread²⟩, and ``spearman``, the rank correlation of |error| and spread.
    """

    key: str
    units: str
    spread: np.ndarray
    error: np.ndarray
    factor: float
    spearman: float

    def __post_init__(self) -> None:
        if np.shape(self.spread) != np.shape(self.error):
            raise UserError(
                f"uncertainty of {self.key!r}: {np.shape(self.spread)} spreads, {np.shape(self.error)} errors"
            )


@matplotlib.rc_context(RC)
def uncertainty(items: Sequence[Uncertainty]) -> Picture:
    """A panel a variable on logarithmic axes; on the diagonal the spread is the error. Below: too cautious."""
    if not items:
        raise UserError("no uncertainty to draw")
    figure = Picture(max(4.6, 4.1 * len(items)), 4.3)
    for ax, item in zip(figure.subplots(1, len(items), squeeze=False)[0], items, strict=True):
        spread, error = np.asarray(item.spread, float), np.asarray(item.error, float)
        both = np.concatenate([spread, error])
        both = both[np.isfinite(both) & (both > 0)]
        low, high = (both.min() / 1.4, both.max() * 1.4) if both.size else (0.1, 1.0)
        ax.plot([low, high], [low, high], color=INK, linewidth=0.9, label="as predicted")
        ax.fill_between([low, high], [low / 2, high / 2], [2 * low, 2 * high], color=FAINT, alpha=0.45, linewidth=0,
                        label="within a factor of 2")  # fmt: skip
        ax.plot(spread, error, "o-", color=SURROGATE_COLOR, linewidth=1.5, markersize=4.5, label="bins of equal number")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(low, high)
        ax.set_ylim(low, high)
        for axis in (ax.xaxis, ax.yaxis):
            log_ticks(axis, low, high)
        ax.set_aspect("equal")
        ax.set_title(words(item.key))
        ax.set_xlabel(quantity("predicted standard deviation", item.units))
        ax.set_ylabel(quantity("RMS error", item.units))
        ax.text(0.97, 0.03, f"error / spread {number(item.factor)}\nSpearman {number(item.spearman)}",
                transform=ax.transAxes, ha="right", va="bottom", fontsize=8,
                bbox={"facecolor": "white", "edgecolor": FAINT, "boxstyle": "round,pad=0.25"})  # fmt: skip
        ax.legend(loc="upper left", fontsize=8)
    return figure
