"""Latitude, longitude and level in the one order that the package keeps them in, and grids that must agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from surrogate.core.spec import Grid
from surrogate.core.types import UserError
from surrogate.data.axes import Axes

_PASCALS = ("pa", "pascal", "pascals")
_HECTOPASCALS = ("hpa", "hectopascal", "hectopascals", "mb", "mbar", "millibar", "millibars")


@dataclass(frozen=True)
class Horizontal:
    """A grid in the package's order, and the file's rows and columns that make it."""

    grid: Grid
    rows: np.ndarray
    columns: np.ndarray


def horizontal(
    dataset: xr.Dataset, axes: Axes, region: Mapping[str, Sequence[float]] | None, where: str
) -> Horizontal | None:
    """Latitude ascending; longitude ascending, in [0, 360) where the grid goes round; the region cut out.

    Raises:
        UserError: for coordinates that are missing, repeated, unordered or out of range, and for a
            region without cells or in two pieces.
    """
    if axes.rows is None or axes.columns is None:
        return None
    rows = _values(dataset, axes.rows, where)
    columns = _values(dataset, axes.columns, where)
    region = region or {}
    if axes.kind == "plane":
        y, row_index = _within(*_ascending(rows, where, axes.rows[0]), region.get("latitude"), "latitude", where)
        x, column_index = _within(
            *_ascending(columns, where, axes.columns[0]), region.get("longitude"), "longitude", where
        )
        return Horizontal(Grid(_floats(y), _floats(x), "plane", False), row_index, column_index)
    if rows.min() < -90.001 or rows.max() > 90.001:
        raise UserError(
            f"{where}: latitude {axes.rows[1]!r} runs from {rows.min():g} to {rows.max():g}, beyond the poles"
        )
    lat, row_index = _within(*_ascending(rows, where, axes.rows[0]), region.get("latitude"), "latitude", where)
    lon, column_index, periodic = _longitudes(columns, where, axes.columns[0])
    if "longitude" in region:
        lon, column_index, periodic = _cut_longitudes(lon, column_index, periodic, region["longitude"], where)
    return Horizontal(Grid(_floats(np.clip(lat, -90, 90)), _floats(lon), "sphere", periodic), row_index, column_index)


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _values(dataset: xr.Dataset, axis: tuple[str, str | None], where: str) -> np.ndarray:
    dim, coordinate = axis
    if coordinate is None:
        return np.arange(dataset.sizes[dim], dtype=np.float64)
    variable = dataset.variables[coordinate]
    stored = np.asarray(variable.values)
    values = stored.astype(np.float64)
    if stored.dtype.kind == "f" and stored.dtype.itemsize == 4:
        # 0.1 stored in float32 is 0.10000000149: back to the digits that were meant.
        values = np.array([float(str(v)) for v in stored])
    scale, offset = (float(np.ravel(variable.attrs.get(k, d))[0]) for k, d in (("scale_factor", 1), ("add_offset", 0)))
    missing = ~np.isfinite(values)
    for fill in np.atleast_1d(variable.attrs.get("_FillValue", np.nan)):
        missing |= stored == fill
    if missing.any():
        raise UserError(f"{where}: coordinate {coordinate!r} is missing at index {int(np.flatnonzero(missing)[0])}")
    values = values * scale + offset
    units = str(variable.attrs.get("units", "")).strip().lower()
    if units.startswith(("degrees_s", "degree_s", "degrees_w", "degree_w")):
        return -values
    return np.rad2deg(values) if units.startswith("radian") else values


def _ascending(values: np.ndarray, where: str, dim: str) -> tuple[np.ndarray, np.ndarray]:
    index = np.arange(len(values))
    if len(values) > 1 and values[0] > values[-1]:
        index = index[::-1]
    ordered = values[index]
    steps = np.diff(ordered)
    if (steps <= 0).any():
        at = int(np.flatnonzero(steps <= 0)[0])
        raise UserError(f"{where}: {dim!r} is not monotonic: {ordered[at]:g} is followed by {ordered[at + 1]:g}")
    return ordered, index


def _within(
    values: np.ndarray, index: np.ndarray, bounds: Sequence[float] | None, what: str, where: str
) -> tuple[np.ndarray, np.ndarray]:
    if bounds is None:
        return values, index
    low, high = sorted(map(float, bounds))
    keep = (values >= low - 1e-4) & (values <= high + 1e-4)
    if not keep.any():
        raise UserError(
            f"{where}: region {what} [{low:g}, {high:g}] holds no cell; "
            f"the grid runs from {values[0]:g} to {values[-1]:g}"
        )
    return values[keep], index[keep]


def _longitudes(values: np.ndarray, where: str, dim: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Unwrap, order, and start a grid that goes round at the first longitude of [0, 360)."""
    if np.abs(values).max() > 720:
        raise UserError(f"{where}: longitude {dim!r} runs from {values.min():g} to {values.max():g}, not degrees east")
    unwrapped = values.copy()
    steps = np.diff(values)
    if len(steps) and (steps > 0).any() and (steps < 0).any():
        # A seam inside the row, such as 0 … 179, -180 … -1: one jump against the direction of the rest.
        direction = 1.0 if (steps > 0).sum() > (steps < 0).sum() else -1.0
        unwrapped[1:] += 360 * direction * np.cumsum(steps * direction < 0)
    unwrapped, index = _ascending(unwrapped, where, dim)
    if len(values) < 2:
        return unwrapped, index, False
    steps = np.diff(unwrapped)
    typical = float(np.median(steps))
    span = unwrapped[-1] - unwrapped[0]
    if abs(span - 360) < 1e-3 * typical:  # the first column once more at the end
        unwrapped, index, span = unwrapped[:-1], index[:-1], unwrapped[-2] - unwrapped[0]
        steps = steps[:-1]
    if span >= 360:
        raise UserError(f"{where}: longitude {dim!r} goes round more than once, {unwrapped[0]:g} to {unwrapped[-1]:g}")
    widest = int(np.argmax(steps))
    if steps[widest] > max(1.5 * typical, 360 - span):
        # A region stored as 0 … 10, 350 … 359: the row begins after the hole.
        unwrapped = np.concatenate([unwrapped[widest + 1 :] - 360, unwrapped[: widest + 1]])
        index = np.concatenate([index[widest + 1 :], index[: widest + 1]])
        steps, span = np.diff(unwrapped), unwrapped[-1] - unwrapped[0]
    uniform = np.abs(steps - typical).max() <= 0.02 * typical
    if not (uniform and abs(360 - span - typical) <= 0.02 * typical):
        return unwrapped, index, False
    wrapped = _modulo(unwrapped, 0.0)
    order = np.argsort(wrapped, kind="stable")
    return wrapped[order], index[order], True


def _modulo(values: np.ndarray, start: float) -> np.ndarray:
    """Into [start, start + 360), where a hair below the end counts as the start."""
    shifted = np.mod(values - start, 360.0)
    shifted = np.where(shifted > 360 - 1e-4, shifted - 360, shifted)
    moved = values + 360 * np.rint((start + shifted - values) / 360)
    return np.where(np.abs(moved - start) < 1e-9, start, moved)


def _cut_longitudes(
    lon: np.ndarray, index: np.ndarray, periodic: bool, bounds: Sequence[float], where: str
) -> tuple[np.ndarray, np.ndarray, bool]:
    west, east = map(float, bounds)
    if east < west:
        east += 360
    if east - west >= 360:
        return lon, index, periodic
    widest = np.diff(lon).max() if len(lon) > 1 else 360.0
    moved = _modulo(lon, west)
    order = np.argsort(moved, kind="stable")
    moved, index = moved[order], index[order]
    keep = moved <= east + 1e-4
    if not keep.any():
        raise UserError(
            f"{where}: region longitude [{west:g}, {east:g}] holds no cell; "
            f"the grid runs from {lon[0]:g} to {lon[-1]:g}"
        )
    moved, index = moved[keep], index[keep]
    if len(moved) > 1 and np.diff(moved).max() > 1.5 * widest:
        raise UserError(f"{where}: region longitude [{west:g}, {east:g}] is in two pieces of this regional grid")
    if periodic and len(moved) == len(lon):
        return lon, index[np.argsort(_modulo(moved, 0.0))], True
    return moved, index, False


def check_same_grid(first: Grid, other: Grid, first_where: str, where: str) -> None:
    """The same cells up to rounding and whole turns.

    Raises:
        UserError: naming both files, the coordinate and both values.
    """
    if first.kind != other.kind:
        raise UserError(f"{where}: the grid is a {other.kind}, but in {first_where} a {first.kind}")
    for what in ("latitude", "longitude"):
        a, b = np.array(getattr(first, what)), np.array(getattr(other, what))
        if len(a) != len(b):
            raise UserError(f"{where}: {what} has {len(b)} values, but {len(a)} in {first_where}")
        gap = np.abs(b - a)
        if what == "longitude" and first.kind == "sphere":
            gap = np.abs(np.mod(b - a + 180, 360) - 180)
        tolerance = 1e-3 * np.diff(a).min() if len(a) > 1 else 1e-4
        if (gap > tolerance).any():
            at = int(np.argmax(gap))
            raise UserError(f"{where}: {what} {b[at]:.9g} at index {at}, but {a[at]:.9g} in {first_where}")


def levels_of(dataset: xr.Dataset, coordinate: str, where: str) -> tuple[np.ndarray, str]:
    """(L,) level values, pressures in hPa, and their units."""
    values = _values(dataset, (coordinate, coordinate), where)
    units = str(dataset.variables[coordinate].attrs.get("units", "")).strip()
    if units.lower() in _PASCALS:
        # Dividing keeps whole hPa whole, where multiplying by 0.01 would not.
        return values / 100, "hPa"
    return values, "hPa" if units.lower() in _HECTOPASCALS else units


def select_levels(available: np.ndarray, wanted: Sequence[float], units: str, name: str, where: str) -> list[int]:
    """Positions of the wanted levels.

    Raises:
        UserError: for one that is absent, with those that are there.
    """
    chosen = []
    for level in wanted:
        near = np.flatnonzero(np.isclose(available, level, rtol=1e-4, atol=1e-6))
        if len(near) != 1:
            there = ", ".join(f"{v:g}" for v in available)
            raise UserError(f"{where}: {name!r} has no level {level:g} {units}".rstrip() + f"; it has {there}")
        chosen.append(int(near[0]))
    return chosen


def attributes_kept(attrs: Mapping[str, Any]) -> dict[str, str]:
    """The attributes that describe values after decoding."""
    return {key: str(attrs[key]) for key in ("units", "standard_name", "long_name", "cell_methods") if key in attrs}
