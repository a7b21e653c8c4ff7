"""How results look and are written: colours, names, numbers, leads. One place, so that every picture agrees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import io
import math
import re
from typing import Any

from matplotlib.figure import Figure

from surrogate.core.durations import Duration

SURROGATE = "surrogate"
TRUTH_COLOR = "#111111"
SURROGATE_COLOR = "#0072B2"
WORSE_COLOR = "#B3261E"
MISSING_COLOR = "#C8C8C8"
INK, FAINT = "#222222", "#D9D9D9"

# Okabe and Ito's palette, told apart with any colour vision; markers and dashes repeat the distinction in grey print.
_KNOWN = {
    "persistence": "#D55E00",
    "climatology": "#6B6B6B",
    "damped_persistence": "#E69F00",
    "linear_inverse_model": "#009E73",
    "constant_energy": "#8C6D46",
}
_SPARE = ("#CC79A7", "#56B4E9", "#8C510A", "#7A5195", "#A6761D", "#1B9E77")
_MARKERS, _DASHES = "sD^vPX*", ("--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
_ACRONYMS = {"rmse": "RMSE", "mae": "MAE", "mse": "MSE", "acc": "ACC", "crps": "CRPS", "relative_l2": "relative L2",
             "max_error": "largest error"}  # fmt: skip

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": "#8A8A8A",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    # A variable's name may hold a dollar sign or an underscore; neither is mathematics.
    "text.parse_math": False,
}


class Picture(Figure):
    """A figure that shows itself in a notebook though pyplot never saw it."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=110, layout="constrained")

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def colors(names: Iterable[str]) -> dict[str, str]:
    """A colour for every forecast; the surrogate's and each common baseline's never change."""
    unknown = sorted(set(names) - set(_KNOWN) - {SURROGATE})
    return {SURROGATE: SURROGATE_COLOR, **_KNOWN} | {n: _SPARE[i % len(_SPARE)] for i, n in enumerate(unknown)}


def line_style(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Matplotlib line settings of one forecast among the baselines ``names``."""
    color = colors(names)[name]
    if name == SURROGATE:
        return {"color": color, "linewidth": 2.4, "marker": "o", "markersize": 5, "zorder": 5}
    order = list(_KNOWN) + sorted(set(names) - set(_KNOWN))
    place = order.index(name)
    return {
        "color": color, "linewidth": 1.4, "linestyle": _DASHES[place % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)], "markersize": 3.8, "zorder": 3,
    }  # fmt: skip


def words(name: str) -> str:
    """``"damped_persistence"`` → ``"damped persistence"``."""
    return name.replace("_", " ")


def metric_name(metric: str) -> str:
    return _ACRONYMS.get(metric, words(metric))


def number(value: float | None) -> str:
    """Three significant digits; ``"NaN"`` for what is not a number, never an empty cell."""
    if value is None or math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(float(f"{value:.3g}"))  # rounded first: 9.999 is 10.0, not 10.00
    if value and not 1e-3 <= size < 99_999.5:
        return f"{value:.2e}".replace("-", "−")
    decimals = 0 if size >= 100 else 2 - math.floor(math.log10(size)) if size else 0
    text = f"{value:.{max(0, decimals)}f}"
    return text.replace("-", "−")


def lead_order(leads: Iterable[str]) -> list[str]:
    """ISO 8601 leads, shortest first, without repeats."""
    return sorted(set(leads), key=lambda lead: (Duration.parse(lead).months, Duration.parse(lead).seconds))


def pick(items: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of ``items``, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def lead_axis(leads: Sequence[str]) -> tuple[list[float], str]:
    """Leads as numbers, and their unit: the largest that the longest lead holds twice."""
    durations = [Duration.parse(lead) for lead in leads]
    if any(d.months for d in durations):
        return [float(d.months) for d in durations], "months"
    longest = max((d.seconds for d in durations), default=0)
    for seconds, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if longest >= 2 * seconds:
            return [d.seconds / seconds for d in durations], unit
    return [float(d.seconds) for d in durations], "seconds"


def lead_words(lead: str) -> str:
    """``"P1D"`` → ``"1 day"``, ``"PT36H"`` → ``"36 hours"``, ``"P3M"`` → ``"3 months"``."""
    duration = Duration.parse(lead)
    if duration.months:
        return _count(duration.months, "month")
    for seconds, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if duration.seconds and duration.seconds % seconds == 0:
            return _count(duration.seconds // seconds, unit)
    return "same time"


def list_words(items: Sequence[str]) -> str:
    """``["a", "b", "c"]`` → ``"a, b and c"``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def leads_words(leads: Sequence[str]) -> str:
    """``["P1D", "P3D", "P5D"]`` → ``"1, 3 and 5 days"``; mixed units are spelled out."""
    texts = [lead_words(lead) for lead in leads]
    units = {text.split(" ", 1)[1].rstrip("s") for text in texts if " " in text and text[0].isdigit()}
    if len(texts) > 1 and len(units) == 1 and all(text[0].isdigit() for text in texts):
        return f"{list_words([text.split(' ')[0] for text in texts])} {units.pop()}s"
    return list_words(texts)


def representative(keys: Sequence[str], most: int) -> list[str]:
    """At most ``most`` variables that stand for all: every name once, then further levels, in the given order.

    A name's first level is its middle one, the next ones its ends.
    """
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(key.partition("@")[0], []).append(key)
    queues = [_outward(group) for group in groups.values()]
    chosen: list[str] = []
    while len(chosen) < min(most, len(keys)):
        for queue in queues:
            if queue and len(chosen) < most:
                chosen.append(queue.pop(0))
    return [key for key in keys if key in set(chosen)]


def with_units(text: str, units: Mapping[str, str] | None, key: str) -> str:
    """``"RMSE (K)"``; dimensionless stays bare."""
    return quantity(text, (units or {}).get(key, ""))


def quantity(text: str, unit: str) -> str:
    """``"temperature (K)"``; dimensionless stays bare."""
    return f"{text} ({unit_text(unit)})" if unit and unit != "1" else text


def unit_text(unit: str) -> str:
    """``"m2 s-2"`` → ``"m² s⁻²"``."""
    if unit.lower() in ("degc", "deg_c", "degree_celsius", "degrees_celsius", "celsius"):
        return "°C"
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return re.sub(r"(?<=[A-Za-zμµÅ°])(?:\*\*|\^)?(-?\d+)\b", lambda m: m[1].translate(raised), unit)


def squared_units(unit: str) -> str:
    """``"m2 s-2"`` → ``"m⁴ s⁻⁴"``; what is not a plain product is bracketed."""
    parts = [re.fullmatch(r"([A-Za-zμµÅ°]+)(?:\*\*|\^)?(-?\d+)?", part) for part in unit.split()]
    if not unit.split() or any(part is None for part in parts):
        return f"[{unit_text(unit)}]²" if unit and unit != "1" else ""
    return unit_text(" ".join(f"{part[1]}{2 * int(part[2] or 1)}" for part in parts if part))


def _outward(group: list[str]) -> list[str]:
    middle, ends = group[len(group) // 2], [group[0], group[-1]]
    first = list(dict.fromkeys([middle, *ends]))
    return first + [key for key in group if key not in first]


def _count(number_of: int, unit: str) -> str:
    return f"{number_of} {unit}" if number_of == 1 else f"{number_of} {unit}s"
