"""Maps of truth, forecast and error (and of a model's input, where it has one)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
import numpy as np

from surrogate.core.spec import Grid
from surrogate.core.types import UserError
from surrogate.run.style import (
    MISSING_COLOR,
    RC,
    SURROGATE_COLOR,
    TRUTH_COLOR,
    WORSE_COLOR,
    Picture,
    lead_words,
    number,
    quantity,
)


@dataclass(frozen=True)
class MapPicture:
    """One variable at one valid time.

    Attributes:
        key: the variable's key, ``name`` or ``name@level``.
        latitude: (H,) degrees north, or y on a plane; ``longitude``: (W,) degrees east, or x.
        truth, forecast: (H, W) in ``units``; NaN (land, say) is grey.
        init_time: as written in titles; empty where there is no clock. ``lead``: ISO 8601.
        input: (H, W) what the model was given, shown beside a PDE's solution; None leaves it out.
    """

    key: str
    units: str
    latitude: np.ndarray
    longitude: np.ndarray
    truth: np.ndarray
    forecast: np.ndarray
    init_time: str = ""
    lead: str = "PT0S"
    kind: Literal["sphere", "plane"] = "sphere"
    input: np.ndarray | None = None
    input_name: str = "input"
    input_units: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.latitude), len(self.longitude))
        for name in ("truth", "forecast", "input"):
            values = getattr(self, name)
            if values is not None and np.shape(values) != shape:
                raise UserError(f"map of {self.key!r}: {name} has shape {np.shape(values)}, its grid has {shape}")


@matplotlib.rc_context(RC)
def field_map(picture: MapPicture) -> Picture:
    """Truth and forecast with the same limits, and forecast − truth about zero; lines where the grid is a row.

    The limits hold 99.6 % of the truth and follow the forecast up to one range beyond; arrows on the colour bar
    say when values lie outside. Root-mean-square error and bias below the error are area-weighted.
    """
    latitude, longitude = np.asarray(picture.latitude, float), np.asarray(picture.longitude, float)
    if 1 in (len(latitude), len(longitude)):
        return _lines(picture)
    truth, forecast = (np.ma.masked_invalid(np.asarray(a, float)) for a in (picture.truth, picture.forecast))
    error = forecast - truth
    panels: list[tuple[str, Any, dict[str, Any], str]] = []
    if picture.input is not None:
        given = np.ma.masked_invalid(np.asarray(picture.input, float))
        panels.append(("Input", given, _limits(given), quantity(picture.input_name, picture.input_units)))
    label = quantity(picture.key, picture.units)
    shared = _limits(truth, forecast)
    panels += [("Truth", truth, shared, label), ("Forecast", forecast, shared, label)]
    size = float(np.percentile(np.abs(error.compressed()), 99.5)) if error.count() else 0.0
    over = bool(error.count() and np.abs(error).max() > size)
    panels.append(("Forecast − truth", error, {"cmap": "RdBu_r", "vmin": -(size or 1e-12), "vmax": size or 1e-12,
                   "extend": "both" if over else "neither"}, quantity("error", picture.units)))  # fmt: skip

    aspect = (np.ptp(longitude) or 1.0) / (np.ptp(latitude) or 1.0)
    square = picture.kind == "sphere" or 0.2 < aspect < 5
    aspect = min(max(aspect, 0.6), 2.4) if square else 1.4
    across = 4.05 if aspect > 1.4 else 3.1
    figure = Picture(across * len(panels), (across - 0.55) / aspect + 1.4)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for place, (ax, (title, values, look, label)) in enumerate(zip(axes, panels, strict=True)):
        settings = dict(look)
        extend = settings.pop("extend")
        cmap = matplotlib.colormaps[settings.pop("cmap")].with_extremes(bad=MISSING_COLOR)
        ax.set_facecolor(MISSING_COLOR)
        mesh = ax.pcolormesh(longitude, latitude, values, cmap=cmap, shading="nearest", rasterized=True, **settings)
        ax.set_title(title)
        ax.grid(visible=False)
        _ticks(ax, picture.kind, latitude, longitude, first=place == 0)
        if square:
            ax.set_aspect("equal")
        bar = figure.colorbar(mesh, ax=ax, location="bottom", extend=extend, aspect=32, shrink=0.92, pad=0.02)
        bar.set_label(label + _note(title, picture, error))
        bar.ax.xaxis.set_major_locator(MaxNLocator(5))
        bar.outline.set_visible(False)
    figure.suptitle(_title(picture), x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


def _lines(picture: MapPicture) -> Picture:
    """A field of one row or column: curves instead of a map."""
    along = picture.longitude if len(picture.longitude) > 1 else picture.latitude
    x = np.asarray(along, float)
    truth, forecast = np.ravel(picture.truth).astype(float), np.ravel(picture.forecast).astype(float)
    figure = Picture(7.5, 4.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    if picture.input is not None:
        top.plot(
            x,
            np.ravel(picture.input),
            color="#8A8A8A",
            linestyle=":",
            label=quantity(picture.input_name, picture.input_units),
        )
    top.plot(x, truth, color=TRUTH_COLOR, linewidth=1.6, label="truth")
    top.plot(x, forecast, color=SURROGATE_COLOR, linewidth=2.0, linestyle="--", label="forecast")
    top.set_ylabel(quantity(picture.key, picture.units))
    top.legend(loc="best")
    bottom.axhline(0, color="#8A8A8A", linewidth=0.8)
    bottom.plot(x, forecast - truth, color=WORSE_COLOR, linewidth=1.4)
    bottom.set_ylabel(quantity("error", picture.units))
    row = len(picture.longitude) > 1
    on_sphere = "longitude (°E)" if row else "latitude (°N)"
    bottom.set_xlabel(on_sphere if picture.kind == "sphere" else "x" if row else "y")
    figure.suptitle(_title(picture), x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


def _limits(*fields: Any) -> dict[str, Any]:
    """Colour limits shared by fields, led by the first; about zero for a field of both signs (a wind)."""
    lead = fields[0].compressed() if fields[0].count() else np.zeros(1)
    low, high = np.percentile(lead, [0.2, 99.8])
    span = (high - low) or abs(high) or 1.0
    everything = np.concatenate([f.compressed() for f in fields] + [lead])
    low = min(low, max(np.percentile(everything, 0.2), low - span))
    high = max(high, min(np.percentile(everything, 99.8), high + span))
    if low < 0 < high and 1 / 3 < -low / high < 3:
        high = max(-low, high)
        low, cmap = -high, "PuOr_r"
    else:
        cmap = "viridis"
    if low == high:
        low, high = low - 0.5 * span, high + 0.5 * span
    under, over = everything.min() < low, everything.max() > high
    extend = "both" if under and over else "min" if under else "max" if over else "neither"
    return {"cmap": cmap, "vmin": float(low), "vmax": float(high), "extend": extend}


def _note(title: str, picture: MapPicture, error: Any) -> str:
    if title == "Forecast":
        bad = ~np.isfinite(np.asarray(picture.forecast, float)) & np.isfinite(np.asarray(picture.truth, float))
        return f"; {bad.mean():.1%} not finite" if bad.any() else ""
    if title != "Forecast − truth":
        return ""
    if not error.count():
        return "; nothing finite"
    order = np.argsort(picture.latitude)
    grid = Grid(
        tuple(map(float, np.asarray(picture.latitude)[order])), tuple(map(float, picture.longitude)), picture.kind
    )
    weights = np.where(error.mask, 0.0, grid.area_weights()[np.argsort(order)])
    mean = float(np.sum(weights * error.filled(0.0)) / weights.sum())
    rms = float(np.sqrt(np.sum(weights * error.filled(0.0) ** 2) / weights.sum()))
    return f"; RMSE {number(rms)}, bias {number(mean)}"


def _title(picture: MapPicture) -> str:
    lead = "" if picture.lead == "PT0S" else f", {lead_words(picture.lead)} ahead"
    start = f", started {picture.init_time}" if picture.init_time else ""
    return f"{picture.key}{lead}{start}"


def _ticks(ax: Axes, kind: str, latitude: np.ndarray, longitude: np.ndarray, first: bool) -> None:
    if kind == "plane":
        ax.set_xlabel("x")
        ax.set_ylabel("y" if first else "")
        return
    for axis, values, format_ in ((ax.xaxis, longitude, _east), (ax.yaxis, latitude, _north)):
        span = float(np.ptp(values))
        axis.set_major_locator(MultipleLocator(_interval(span)))
        axis.set_major_formatter(FuncFormatter(format_))
    ax.set_xlim(_edges(longitude))
    south, north = _edges(latitude)
    ax.set_ylim(max(-90.0, south), min(90.0, north))


def _edges(values: np.ndarray) -> tuple[float, float]:
    half = abs(float(values[1] - values[0])) / 2
    return float(values.min()) - half, float(values.max()) + half


def _interval(span: float) -> float:
    return next((step for step in (0.5, 1, 2, 5, 10, 20, 30, 60) if span / step <= 6), 60.0)


def _east(value: float, _: int | None = None) -> str:
    value = (value + 180) % 360 - 180
    return f"{abs(value):g}°" + ("" if value in (0, -180) else "E" if value > 0 else "W")


def _north(value: float, _: int | None = None) -> str:
    return f"{abs(value):g}°" + ("N" if value > 0 else "S" if value < 0 else "")
