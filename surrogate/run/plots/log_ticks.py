"""Ticks of logarithmic axes."""

from __future__ import annotations

import math

from matplotlib.axis import Axis
from matplotlib.ticker import NullFormatter, NullLocator

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Mark what lies between ``low`` and ``high``, in plain text: matplotlib's own labels are mathematics, which is off.

    Powers of ten; below two decades also numbers between them, since one lone power of ten says nothing.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if high / low > 100:
        ticks = [10.0**d for d in decades if low <= 10.0**d <= high][:: math.ceil(len(decades) / 8)]
        labels = ["10" + str(round(math.log10(tick))).translate(_SUPERSCRIPTS) for tick in ticks]
    else:
        marks = (1, 2, 5) if high / low > 4 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
        near = [m * 10.0**d for d in decades for m in marks if low * 0.9 <= m * 10.0**d <= high * 1.1]
        ticks = [tick for tick in near if low <= tick <= high] or near
        labels = [f"{tick:g}" for tick in ticks]
        axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_ticks(ticks, labels)
