"""Which dimension of a variable is time, level, latitude or longitude, and which variables cannot be placed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import xarray as xr

from surrogate.core.types import UserError

_STANDARD_NAMES = {
    "time": "time", "latitude": "latitude", "longitude": "longitude",
    "projection_x_coordinate": "x", "projection_y_coordinate": "y",
    "air_pressure": "level", "height": "level", "altitude": "level", "depth": "level", "model_level_number": "level",
}  # fmt: skip
_NAMES = {
    "time": ("time", "t", "valid_time", "mt", "time_counter", "times"),
    "latitude": ("latitude", "lat", "lats", "nav_lat", "xlat"),
    "longitude": ("longitude", "lon", "lons", "nav_lon", "xlong"),
    "level": ("level", "lev", "levels", "plev", "pressure", "isobaricinhpa", "isobaric", "pressure_level", "depth",
              "height", "altitude", "z", "sigma", "olevel", "deptht", "depthu", "depthv", "model_level", "hybrid"),
    "x": ("x", "xc", "projection_x_coordinate"), "y": ("y", "yc", "projection_y_coordinate"),
}  # fmt: skip
_BY_NAME = {name: role for role, names in _NAMES.items() for name in names}
# Axes that number times without dating them: only on request (raw_time).
UNDATED = ("month", "year", "day", "date", "season", "record", "step", "timestep")
_LENGTHS = ("m", "km", "metre", "meter", "metres", "meters", "kilometre", "kilometer", "kilometers", "kilometres")
_INTERPOLATE = "interpolate it to a latitude-longitude grid first"


def role_of(name: str, variable: xr.Variable) -> str | None:
    """``time``, ``level``, ``latitude``, ``longitude``, ``x`` or ``y`` by standard name, units, axis and name."""
    attrs = {key: str(variable.attrs.get(key, "")).strip().lower() for key in ("standard_name", "units", "axis")}
    standard = attrs["standard_name"]
    if standard in _STANDARD_NAMES:
        return _STANDARD_NAMES[standard]
    if standard in ("forecast_reference_time", "forecast_period", "realization"):
        return None
    if standard.startswith(("atmosphere_", "ocean_")) and standard.endswith("_coordinate"):
        return "level"
    units = attrs["units"].replace(" ", "_")
    if units in ("degrees_north", "degree_north", "degrees_n", "degree_n", "degreen", "degreesn"):
        return "latitude"
    if units in ("degrees_east", "degree_east", "degrees_e", "degree_e", "degreee", "degreese"):
        return "longitude"
    named = _BY_NAME.get(name.lower())
    if " since " in attrs["units"]:
        return "time"
    if attrs["axis"] in ("t", "z"):
        return {"t": "time", "z": "level"}[attrs["axis"]]
    if attrs["axis"] in ("x", "y") and named not in ("latitude", "longitude"):
        return attrs["axis"]
    if named is None and "positive" in variable.attrs:
        return "level"
    return named


@dataclass(frozen=True)
class Axes:
    """Dimension and coordinate variable of each role of one variable (``None``: the role is absent)."""

    time: tuple[str | None, str | None] | None = None
    level: tuple[str, str] | None = None
    rows: tuple[str, str | None] | None = None
    columns: tuple[str, str | None] | None = None
    kind: Literal["sphere", "plane", "none"] = "none"
    squeezed: tuple[str, ...] = ()


def axes_of(dataset: xr.Dataset, name: str, where: str, *, raw_time: bool, static: bool) -> Axes:
    """Find the roles of a variable's dimensions.

    Raises:
        UserError: for meshes, points, curvilinear grids, text, and dimensions with no known role.
    """
    variable = dataset.variables[name]
    if variable.dtype.kind not in "fiub":
        raise UserError(f"{where}: {name!r} holds text or records ({variable.dtype}), not numbers")
    if "mesh" in variable.attrs or any(v.attrs.get("cf_role") == "mesh_topology" for v in dataset.variables.values()):
        raise UserError(f"{where}: {name!r} is on an unstructured mesh (UGRID); {_INTERPOLATE}")
    found: dict[str, tuple[str, str | None]] = {}
    squeezed: list[str] = []
    unknown: list[str] = []
    for dim in map(str, variable.dims):
        role, coordinate = _role_of_dim(dataset, dim, where, name)
        if role is None and raw_time and dim.lower() in UNDATED:
            role, coordinate = "time", dim if dim in dataset.variables else None
        if role in found:
            raise UserError(f"{where}: {name!r} has two {role} dimensions, {found[role][0]!r} and {dim!r}")
        if role is not None:
            found[role] = (dim, coordinate)
        elif variable.sizes[dim] == 1:
            squeezed.append(dim)
        else:
            unknown.append(dim)
    _refuse_curvilinear(dataset, variable, name, found, where)
    for dim in unknown:
        raise UserError(
            f"{where}: dimension {dim!r} (size {variable.sizes[dim]}) of {name!r} is neither time, level, latitude "
            f"nor longitude{_hint(dataset, dim)}"
        )
    time: tuple[str | None, str | None] | None = found.get("time")
    if time is None and not static:
        time = _scalar_time(dataset, variable)
    level = found.get("level")
    if level is not None and level[1] is None:
        raise UserError(f"{where}: level dimension {level[0]!r} of {name!r} has no coordinate values")
    kind, rows, columns = _horizontal_roles(found, name, where)
    return Axes(time, (level[0], str(level[1])) if level else None, rows, columns, kind, tuple(squeezed))


def _role_of_dim(dataset: xr.Dataset, dim: str, where: str, name: str) -> tuple[str | None, str | None]:
    candidates = {
        str(n): v for n, v in dataset.variables.items() if v.dims == (dim,) and v.dtype.kind in "iuf" and n != name
    }
    roles = {n: role_of(n, v) for n, v in candidates.items()}
    if "valid_time" in roles and "time" in (roles.get(dim), _BY_NAME.get(dim.lower())):
        return "time", "valid_time"  # where the other is the time at which a forecast began
    if roles.get(dim):
        return roles[dim], dim
    placed = {role: n for n, role in roles.items() if role in ("latitude", "longitude")}
    if len(placed) == 2:
        raise UserError(
            f"{where}: latitude and longitude share dimension {dim!r}: {name!r} is at points, not on a grid"
        )
    auxiliary = [
        n for n, role in roles.items() if role in ("latitude", "longitude", "time", "level") and n not in UNDATED
    ]
    named = _BY_NAME.get(dim.lower())
    listed = str(dataset.variables[name].attrs.get("coordinates", "")).split()
    for n in auxiliary:
        if n in listed or roles[n] == named or named in (None, "x", "y"):
            return roles[n], n
    return named, dim if dim in dataset.variables and dataset.variables[dim].dims == (dim,) else None


def _hint(dataset: xr.Dataset, dim: str) -> str:
    if dim.lower() in UNDATED:
        return "; raw_time takes it as a time that is numbered, not dated"
    if dim in dataset.variables and "grid_l" in str(dataset.variables[dim].attrs.get("standard_name", "")):
        return f"; it belongs to a rotated pole: {_INTERPOLATE}"
    if any(word in dim.lower() for word in ("cell", "mesh", "node", "face", "pix")):
        return f"; if it is an unstructured mesh, {_INTERPOLATE}"
    return ""


def _refuse_curvilinear(
    dataset: xr.Dataset, variable: xr.Variable, name: str, found: Mapping[str, tuple[str, str | None]], where: str
) -> None:
    if "latitude" in found and "longitude" in found:
        return
    for n, v in dataset.variables.items():
        if v.ndim == 2 and set(v.dims) <= set(variable.dims) and role_of(str(n), v) in ("latitude", "longitude"):
            # Projection coordinates in metres make a regular plane, whatever latitudes accompany them.
            lengths = [found[r][1] for r in ("x", "y") if r in found]
            if len(lengths) == 2 and all(c and _is_length(dataset.variables[c]) for c in lengths):
                return
            raise UserError(
                f"{where}: {name!r} is on a curvilinear grid ({n!r} has dimensions {', '.join(map(str, v.dims))}); "
                + _INTERPOLATE
            )


def _is_length(variable: xr.Variable) -> bool:
    return str(variable.attrs.get("units", "")).strip().lower() in _LENGTHS


def _scalar_time(dataset: xr.Dataset, variable: xr.Variable) -> tuple[None, str] | None:
    listed = str(variable.attrs.get("coordinates", "")).split()
    for n in ("valid_time", "time", *listed):
        scalar = dataset.variables.get(n)
        if scalar is not None and scalar.ndim == 0 and scalar.dtype.kind in "iuf" and role_of(n, scalar) == "time":
            return None, n
    return None


def _horizontal_roles(
    found: Mapping[str, tuple[str, str | None]], name: str, where: str
) -> tuple[Literal["sphere", "plane", "none"], tuple[str, str | None] | None, tuple[str, str | None] | None]:
    for kind, row, column in (("sphere", "latitude", "longitude"), ("plane", "y", "x")):
        have = [r for r in (row, column) if r in found]
        if len(have) == 1:
            missing = column if have[0] == row else row
            raise UserError(f"{where}: {name!r} has {have[0]} (dimension {found[have[0]][0]!r}) but no {missing}")
        if have:
            if kind == "sphere" and not all(found[r][1] for r in (row, column)):
                raise UserError(f"{where}: the latitude or longitude of {name!r} has no coordinate values")
            return kind, found[row], found[column]  # type: ignore[return-value]
    return "none", None, None
