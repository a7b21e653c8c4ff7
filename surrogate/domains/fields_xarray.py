"""Between xarray and the arrays of a field model: by name, unit, level and grid, never by position."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from surrogate.core.calendars import calendar_of, has_calendar
from surrogate.core.spec import Role, Spec, Variable
from surrogate.core.types import UserError
from surrogate.core.units import same_units
from surrogate.data.axes import role_of

# Degrees; grids that are the same to the rounding of float32 are the same.
GRID_TOLERANCE = 1e-4


def horizontal_dims(kind: str, names: Iterable[str]) -> tuple[str, str]:
    """Names of the rows' and columns' dims; on a plane ``y`` and ``x``, unless variables are called so."""
    if kind == "sphere":
        return "latitude", "longitude"
    return ("row", "column") if {"x", "y"} & set(names) else ("y", "x")


def read_fields(data: xr.Dataset, spec: Spec, role: Role, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The variables of a role in the order of ``spec``: (T, H, W, C) float32 in its units, and times (T,).

    Raises:
        UserError: for a variable or level that is missing, other units, another grid.
    """
    if isinstance(data, xr.DataArray):
        data = data.to_dataset(name=data.name or spec.role(role)[0].name)
    channels, time = [], None
    for variable in spec.role(role):
        if variable.name not in data:
            raise UserError(f"{where} has no variable {variable.name!r}; it has {', '.join(map(str, data.data_vars))}")
        array = data[variable.name]
        _check_units(array, variable, where)
        dims = {role_of(str(d), data.variables[d]) if d in data.variables else str(d): d for d in array.dims}
        values, own = _on_grid(_at_level(array, variable, dims, where), variable, spec, dims, where)
        if time is not None and not (len(own) == len(time) and (own == time).all()):
            raise UserError(f"{where}: {variable.name!r} has other times than {spec.role(role)[0].name!r}")
        time = own
        channels.append(values)
    if time is None:
        raise UserError(f"the model has no {role} variable")
    return np.stack(channels, axis=-1), time


def _check_units(array: xr.DataArray, variable: Variable, where: str) -> None:
    units = array.attrs.get("units")
    if units is None:
        if variable.units not in ("", "1"):
            raise UserError(f"{where}: {variable.name!r} has no units attribute; the model expects {variable.units!r}")
    elif not same_units(str(units), variable.units):
        raise UserError(f"{where}: {variable.name!r} is in {units!r}, the model was trained on {variable.units!r}")


def _at_level(array: xr.DataArray, variable: Variable, dims: dict[Any, Any], where: str) -> xr.DataArray:
    if variable.level is None:
        if "level" in dims:
            raise UserError(f"{where}: {variable.name!r} has levels, the model's has none")
        return array
    if "level" not in dims:
        raise UserError(f"{where}: {variable.name!r} has no levels; the model needs {variable.key!r}")
    levels = np.asarray(array[dims["level"]].values, np.float64)
    close = np.flatnonzero(np.isclose(levels, variable.level, rtol=1e-5))
    if len(close) != 1:
        raise UserError(f"{where}: {variable.name!r} has levels {levels.tolist()}, the model needs {variable.level:g}")
    return array.isel({dims["level"]: int(close[0])})


def _on_grid(
    array: xr.DataArray, variable: Variable, spec: Spec, dims: dict[Any, Any], where: str
) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = ("latitude", "longitude") if spec.grid.kind == "sphere" else ("y", "x")
    time = dims.get("time", "time" if "time" in array.dims else None)
    # A plane's variables may themselves be called x and y.
    plain = {"y": "row", "x": "column"}
    found = (dims.get(name) or next((d for d in array.dims if d == plain.get(name)), None) for name in (rows, columns))
    horizontal = [d for d in found if d is not None]
    others = [d for d in array.dims if d not in (time, *horizontal)]
    if time is None and len(others) == 1:
        time = others.pop()  # samples without a time
    if others:
        raise UserError(f"{where}: {variable.name!r} has the dimension {others[0]!r}, which the model does not know")
    if not horizontal:  # one number a time, the same everywhere
        series = array if time is not None else array.expand_dims("time")
        values = np.broadcast_to(np.asarray(series.values, np.float32)[:, None, None], (series.size, *spec.grid.shape))
        return values, _times(series)
    if len(horizontal) != 2:
        raise UserError(
            f"{where}: {variable.name!r} needs {rows} and {columns}, it has {', '.join(map(str, array.dims))}"
        )
    array = array if time is not None else array.expand_dims("time")
    time = time or "time"
    array = array.transpose(time, *horizontal)
    lat, lon = (np.asarray(array[d].values, np.float64) for d in horizontal)
    order_lat, order_lon = np.argsort(lat), np.argsort(lon)
    own_lat, own_lon = np.asarray(spec.grid.latitude), np.asarray(spec.grid.longitude)
    if spec.grid.kind == "sphere":
        lon = own_lon[0] + np.mod(lon - own_lon[0] + GRID_TOLERANCE, 360) - GRID_TOLERANCE
        order_lon = np.argsort(lon)
    same = lat.shape == own_lat.shape and lon.shape == own_lon.shape
    if not same or max(np.abs(lat[order_lat] - own_lat).max(), np.abs(lon[order_lon] - own_lon).max()) > GRID_TOLERANCE:
        raise UserError(
            f"{where}: {variable.name!r} is on {len(lat)} × {len(lon)} points from {lat.min():g} to {lat.max():g} and "
            f"{lon.min():g} to {lon.max():g}; the model's grid is {spec.grid.shape[0]} × {spec.grid.shape[1]} from "
            f"{own_lat[0]:g} to {own_lat[-1]:g} and {own_lon[0]:g} to {own_lon[-1]:g}"
        )
    values = np.asarray(array.values, np.float32)[:, order_lat][:, :, order_lon]
    return values, _times(array)


def _times(array: xr.DataArray) -> np.ndarray:
    if "time" in array.coords:
        return np.atleast_1d(array["time"].values)
    name = array.dims[0]
    return np.atleast_1d(array[name].values) if name in array.coords else np.arange(array.shape[0])


def to_dataset(
    outputs: np.ndarray, spec: Spec, initial: np.ndarray, valid: np.ndarray | None, title: str
) -> xr.Dataset:
    """Outputs in physical units as a CF dataset.

    Args:
        outputs: (N, K, H, W, C) forecasts, or (N, H, W, C) of a map.
        initial: (N,) initial times, or the samples' times. ``valid``: (N, K) valid times, None for a map.
    """
    forecast = valid is not None
    samples = "time" if has_calendar(initial) else "sample"
    front: tuple[str, ...] = ("init_time", "lead_time") if forecast else (samples,)
    sphere = spec.grid.kind == "sphere"
    rows, columns = horizontal_dims(spec.grid.kind, (v.name for v in spec.variables))
    coords: dict[str, Any] = {}
    if sphere:
        coords[rows] = (rows, np.asarray(spec.grid.latitude), _attrs("latitude", "degrees_north", "Y"))
        coords[columns] = (columns, np.asarray(spec.grid.longitude), _attrs("longitude", "degrees_east", "X"))
    else:
        # Without an axis attribute: CF's checker takes dimensionless Y and X for latitude and longitude.
        for name, values in ((rows, spec.grid.latitude), (columns, spec.grid.longitude)):
            coords[name] = (name, np.asarray(values), {"long_name": f"{name} coordinate", "units": "1"})
    if forecast:
        hours = spec.time_step.seconds / 3600 * np.arange(1, outputs.shape[1] + 1)
        units = "hours"
        if spec.time_step.months:
            # CF discourages months as a unit of time; they are what a step of monthly means is.
            hours, units = spec.time_step.months * np.arange(1.0, outputs.shape[1] + 1), "months"
        coords["init_time"] = ("init_time", initial, _named("forecast_reference_time", "initial time"))
        period = {"units": units, "long_name": "lead time"} | (
            {"standard_name": "forecast_period"} if units == "hours" else {}
        )
        coords["lead_time"] = ("lead_time", hours, period)
        coords["valid_time"] = (front, valid, _named("time", "valid time"))
    elif has_calendar(initial):
        coords["time"] = ("time", initial, _named("time", "time") | {"axis": "T"})
    else:
        coords["sample"] = ("sample", initial, {"long_name": "sample", "units": "1"})
    data: dict[str, Any] = {}
    for name in dict.fromkeys(v.name for v in spec.outputs):
        members = [(i, v) for i, v in enumerate(spec.outputs) if v.name == name]
        first = members[0][1]
        attrs = {"units": first.units} | {
            k: getattr(first, k) for k in ("standard_name", "long_name") if getattr(first, k)
        }
        attrs.setdefault("long_name", name)
        if first.standard_name.endswith("temperature"):
            attrs["units_metadata"] = "temperature: on_scale"
        if first.level is None:
            data[name] = ((*front, rows, columns), outputs[..., members[0][0]], attrs)
            continue
        levels = tuple(v.level for _, v in members)
        dim = _level_dim(coords, levels, first.level_units, name)
        stacked = np.moveaxis(outputs[..., [i for i, _ in members]], -1, len(front))
        data[name] = ((*front, dim, rows, columns), stacked, attrs)
    history = f"made by the Python package surrogate: {title}"
    result = xr.Dataset(data, coords, {"Conventions": "CF-1.11", "title": title, "source": title, "history": history})
    for name in ("init_time", "valid_time", "time"):
        if name in result.coords and has_calendar(np.ravel(result[name].values)):
            result[name].encoding.update(units="hours since 1900-01-01 00:00:00", dtype="float64")
            calendar = calendar_of(np.ravel(result[name].values))
            result[name].encoding["calendar"] = calendar
            if calendar in ("standard", "gregorian", "proleptic_gregorian", "julian"):
                result[name].attrs["units_metadata"] = "leap_seconds: none"
    for name in data:
        result[name].encoding["_FillValue"] = np.float32(9.96921e36)
    for coordinate in result.coords:
        result[coordinate].encoding["_FillValue"] = None
    return result


def _attrs(name: str, units: str, axis: str) -> dict[str, str]:
    return {"standard_name": name, "long_name": name, "units": units, "axis": axis}


def _named(standard_name: str, long_name: str) -> dict[str, str]:
    return {"standard_name": standard_name, "long_name": long_name}


def _level_dim(coords: dict[str, Any], levels: tuple[float | None, ...], units: str, name: str) -> str:
    """``level``, or ``level_<variable>`` where a variable has levels of its own."""
    values = np.asarray(levels, np.float64)
    pressure = units in ("hPa", "Pa", "mbar", "millibar")
    attrs = {"units": units or "1", "axis": "Z", "positive": "down", "long_name": "level"}
    if pressure:
        attrs |= {"standard_name": "air_pressure", "long_name": "pressure level"}
    for dim in ("level", f"level_{name}"):
        if dim not in coords:
            coords[dim] = (dim, values, attrs)
            return dim
        if np.array_equal(coords[dim][1], values):
            return dim
    raise UserError(f"the levels of {name!r} cannot be named")
