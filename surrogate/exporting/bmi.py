"""A Bundle of a field surrogate as a component of the Basic Model Interface (Hutton et al. 2020), through bmipy.

    model = SurrogateBmi()
    model.initialize("surrogate.yaml")
    while model.get_current_time() < model.get_end_time():
        model.update()

The configuration is YAML:

    bundle: climate.sg            # what python -m surrogate.export wrote
    initial: start.nc             # the prognostic variables, at least as many times as the surrogate's history
    forcings: forcings.nc         # optional: forcing variables at the times that are predicted; else set_value gives them
    end: 30D                      # optional: how long the model means to run
    function: step                # optional

Relative paths are beside the configuration. Variables are named as in the Bundle, their values are in its units, float32.
Grids are rectilinear: (latitude, longitude), or (level, latitude, longitude). Time is in seconds since the last
time of ``initial``; where the step is a calendar month, so is each update.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bmipy
import numpy as np
import xarray as xr

from surrogate.core.calendars import advance, fields_of
from surrogate.core.durations import Duration
from surrogate.core.types import UserError
from surrogate.exporting.caller import Bundle, open_bundle

_KEYS = {"bundle": True, "initial": True, "forcings": False, "end": False, "function": False}
_GREGORIAN = {"standard", "gregorian", "proleptic_gregorian"}


class SurrogateBmi(bmipy.Bmi):
    """See the module's text. Raises :class:`surrogate.core.types.UserError` for what a person can mend."""

    bundle: Bundle
    _start: Any  # a date of the Bundle's calendar
    _now: Any

    # -- life ------------------------------------------------------------------------------------

    def initialize(self, config_file: str) -> None:
        settings, where = _read_settings(Path(config_file))
        self.bundle = open_bundle(where / settings["bundle"])
        manifest = self.bundle.manifest
        self._function = str(settings.get("function") or self.bundle.functions[0])
        entry = next((e for e in manifest["functions"] if e["name"] == self._function), None)
        if entry is None:
            raise UserError(f"{config_file}: {settings['bundle']} has no function {self._function!r}")
        if entry.get("kind", "field") != "field" or entry["steps"] != 1:
            raise UserError(
                f"{config_file}: {self._function} is no step of fields, which is what a BMI model updates by"
            )
        self._step = Duration.parse(manifest["time_step"])
        if not self._step:
            raise UserError(f"{settings['bundle']} maps forcings to outputs: it has no time to advance")
        self._inputs = {a["name"]: a for a in entry["inputs"] if a["role"] != "time"}
        self._outputs = {a["name"]: a for a in entry["outputs"]}
        self._dated = any(a["role"] == "time" for a in entry["inputs"])
        self._latitude = np.asarray(manifest["grid"]["latitude"], np.float64)
        self._longitude = np.asarray(manifest["grid"]["longitude"], np.float64)
        self._find_grids()
        # The present value of each variable, in one place for get_value_ptr; and older states, oldest first.
        self._values = {n: np.full(self._shape(n), np.nan, np.float32) for n in {**self._outputs, **self._inputs}}
        self._past: dict[str, np.ndarray] = {}
        self._read_initial(where / settings["initial"])
        self._forcings = None
        if settings.get("forcings"):
            self._forcings = _open(where / settings["forcings"]).load()
        self._given: set[str] = set()
        self._end = np.inf
        if settings.get("end"):
            try:
                steps = Duration.parse(str(settings["end"])).steps_of(self._step)
            except ValueError as error:
                raise UserError(f"{config_file}: end: {error}") from error
            self._end = _seconds(self._start, advance(self._start, self._step, steps))

    def update(self) -> None:
        following = advance(self._now, self._step, 1)
        inputs: dict[str, Any] = {}
        for name, argument in self._inputs.items():
            if argument["role"] == "forcing":
                self._find_forcing(name, argument, following)
            value: Any = self._values[name]
            if name in self._past:
                value = np.concatenate([self._past[name], value[None]])
            inputs[name] = value[None]
        if self._dated:
            inputs["date"] = fields_of(np.array([self._now])).astype(np.int32)
        outputs = self.bundle(inputs, self._function)
        for name, past in self._past.items():
            past[:-1] = past[1:]
            past[-1] = self._values[name]
        for name, found in outputs.items():
            self._values[name][...] = np.asarray(found)[0]
        self._now = following
        self._given.clear()

    def update_until(self, time: float) -> None:
        # Half a millisecond: times of long runs are not exact in floating point.
        while self.get_current_time() < time - 5e-4:
            following = _seconds(self._start, advance(self._now, self._step, 1))
            if following > time + 5e-4:
                raise UserError(
                    f"update_until({time:g}): the steps of {self._step} reach {self.get_current_time():g} s and {following:g} s"
                )
            self.update()

    def finalize(self) -> None:
        for name in ("bundle", "_values", "_past", "_forcings"):
            self.__dict__.pop(name, None)

    # -- variables -------------------------------------------------------------------------------

    def get_component_name(self) -> str:
        return str(self.bundle.manifest["name"])

    def get_input_item_count(self) -> int:
        return len(self._inputs)

    def get_output_item_count(self) -> int:
        return len(self._outputs)

    def get_input_var_names(self) -> tuple[str, ...]:  # type: ignore[override, unused-ignore]
        return tuple(self._inputs)

    def get_output_var_names(self) -> tuple[str, ...]:  # type: ignore[override, unused-ignore]
        return tuple(self._outputs)

    def get_var_grid(self, name: str) -> int:
        return self._grids.index(self._levels(name))

    def get_var_type(self, name: str) -> str:
        return str(self._value(name).dtype)

    def get_var_units(self, name: str) -> str:
        return str(self._argument(name)["units"])

    def get_var_itemsize(self, name: str) -> int:
        return self._value(name).itemsize

    def get_var_nbytes(self, name: str) -> int:
        return self._value(name).nbytes

    def get_var_location(self, name: str) -> str:
        self._value(name)
        return "node"

    def get_value_ptr(self, name: str) -> np.ndarray:
        return self._value(name).reshape(-1)

    def get_value(self, name: str, dest: np.ndarray) -> np.ndarray:
        dest[...] = self._value(name).reshape(dest.shape)
        return dest

    def get_value_at_indices(self, name: str, dest: np.ndarray, inds: np.ndarray) -> np.ndarray:
        dest[...] = self.get_value_ptr(name)[inds].reshape(dest.shape)
        return dest

    def set_value(self, name: str, src: np.ndarray) -> None:
        self._settable(name)
        self._value(name)[...] = np.asarray(src).reshape(self._value(name).shape)

    def set_value_at_indices(self, name: str, inds: np.ndarray, src: np.ndarray) -> None:
        self._settable(name)
        self.get_value_ptr(name)[inds] = np.asarray(src).reshape(-1)

    # -- time ------------------------------------------------------------------------------------

    def get_start_time(self) -> float:
        return 0.0

    def get_current_time(self) -> float:
        return _seconds(self._start, self._now)

    def get_end_time(self) -> float:
        return float(self._end)

    def get_time_units(self) -> str:
        return "s"

    def get_time_step(self) -> float:
        return _seconds(self._now, advance(self._now, self._step, 1))

    # -- grids -----------------------------------------------------------------------------------

    def get_grid_rank(self, grid: int) -> int:
        return len(self._grid_shape(grid))

    def get_grid_size(self, grid: int) -> int:
        return int(np.prod(self._grid_shape(grid)))

    def get_grid_type(self, grid: int) -> str:
        self._grid_shape(grid)
        return "rectilinear"

    def get_grid_shape(self, grid: int, shape: np.ndarray) -> np.ndarray:
        shape[...] = self._grid_shape(grid)
        return shape

    def get_grid_x(self, grid: int, x: np.ndarray) -> np.ndarray:
        self._grid_shape(grid)
        x[...] = self._longitude
        return x

    def get_grid_y(self, grid: int, y: np.ndarray) -> np.ndarray:
        self._grid_shape(grid)
        y[...] = self._latitude
        return y

    def get_grid_z(self, grid: int, z: np.ndarray) -> np.ndarray:
        if self.get_grid_rank(grid) < 3:
            raise UserError(f"grid {grid} has no third dimension")
        z[...] = self._grids[grid]
        return z

    def get_grid_node_count(self, grid: int) -> int:
        return self.get_grid_size(grid)

    def get_grid_spacing(self, grid: int, spacing: np.ndarray) -> np.ndarray:
        raise NotImplementedError("get_grid_spacing: a rectilinear grid has coordinates, see get_grid_x and get_grid_y")

    def get_grid_origin(self, grid: int, origin: np.ndarray) -> np.ndarray:
        raise NotImplementedError("get_grid_origin: a rectilinear grid has coordinates, see get_grid_x and get_grid_y")

    def get_grid_edge_count(self, grid: int) -> int:
        raise NotImplementedError(_STRUCTURED)

    def get_grid_face_count(self, grid: int) -> int:
        raise NotImplementedError(_STRUCTURED)

    def get_grid_edge_nodes(self, grid: int, edge_nodes: np.ndarray) -> np.ndarray:
        raise NotImplementedError(_STRUCTURED)

    def get_grid_face_edges(self, grid: int, face_edges: np.ndarray) -> np.ndarray:
        raise NotImplementedError(_STRUCTURED)

    def get_grid_face_nodes(self, grid: int, face_nodes: np.ndarray) -> np.ndarray:
        raise NotImplementedError(_STRUCTURED)

    def get_grid_nodes_per_face(self, grid: int, nodes_per_face: np.ndarray) -> np.ndarray:
        raise NotImplementedError(_STRUCTURED)

    # -- inside ----------------------------------------------------------------------------------

    def _argument(self, name: str) -> dict[str, Any]:
        found = self._outputs.get(name) or self._inputs.get(name)
        if found is None:
            known = ", ".join({**self._inputs, **self._outputs})
            raise UserError(f"the surrogate has no variable {name!r}; there are {known}")
        return found

    def _value(self, name: str) -> np.ndarray:
        self._argument(name)
        return self._values[name]

    def _settable(self, name: str) -> None:
        if name not in self._inputs:
            self._argument(name)
            raise UserError(f"{name!r} is an output of the surrogate and cannot be set")
        self._given.add(name)

    def _levels(self, name: str) -> tuple[float, ...]:
        argument = self._argument(name)
        return tuple(argument["attrs"].get("level", ())) if "level" in argument["dims"] else ()

    def _shape(self, name: str) -> tuple[int, ...]:
        levels = self._levels(name)
        return (*((len(levels),) if levels else ()), len(self._latitude), len(self._longitude))

    def _find_grids(self) -> None:
        """A grid for each set of levels, the one without levels first."""
        others = {self._levels(name) for name in {**self._inputs, **self._outputs}} - {()}
        self._grids: list[tuple[float, ...]] = [(), *sorted(others)]

    def _grid_shape(self, grid: int) -> tuple[int, ...]:
        if not 0 <= grid < len(self._grids):
            raise UserError(f"there is no grid {grid}; the last is {len(self._grids) - 1}")
        levels = self._grids[grid]
        return (*((len(levels),) if levels else ()), len(self._latitude), len(self._longitude))

    def _read_initial(self, path: Path) -> None:
        data = _open(path)
        if "time" not in data.dims:
            raise UserError(f"{path} has no dimension time")
        calendar, own = str(data["time"].dt.calendar), str(self.bundle.manifest["calendar"])
        if calendar != own and not {calendar, own} <= _GREGORIAN:
            raise UserError(f"{path} is in the calendar {calendar}, the surrogate in {own}")
        self._start = self._now = data["time"].values[-1]
        for name, argument in self._inputs.items():
            if argument["role"] != "prognostic":
                continue
            history = argument["shape"][0] if "history" in argument["dims"] else 1
            if data.sizes["time"] < history:
                raise UserError(f"{path} has {data.sizes['time']} times; the surrogate needs the last {history}")
            fields = self._field(data, name, argument, path)[-history:]
            self._values[name][...] = fields[-1]
            if history > 1:
                self._past[name] = fields[:-1].copy()
        if any(a["role"] == "prognostic" and "history" in a["dims"] for a in self._inputs.values()):
            self._check_spacing(data["time"].values, path)

    def _check_spacing(self, time: np.ndarray, path: Path) -> None:
        count = max((len(p) for p in self._past.values()), default=0) + 1
        for earlier, later in zip(time[-count:-1], time[len(time) - count + 1 :], strict=True):
            if advance(earlier, self._step, 1) != later:
                raise UserError(f"{path}: {earlier} and {later} are not a step of {self._step} apart")

    def _field(self, data: xr.Dataset, name: str, argument: dict[str, Any], path: Path) -> np.ndarray:
        """(time, [level,] H, W) of a variable, on the Bundle's levels and grid."""
        if name not in data:
            raise UserError(f"{path} has no variable {name!r}; it has {', '.join(map(str, data.data_vars))}")
        field, levels = data[name], self._levels(name)
        rows, columns = argument["dims"][-2:]
        dims = ["time", *(["level"] if levels else []), rows, columns]
        if set(field.dims) != set(dims):
            raise UserError(
                f"{path}: {name!r} has the dimensions {', '.join(map(str, field.dims))}, expected {', '.join(dims)}"
            )
        units = str(field.attrs.get("units", argument["units"]))
        if units != argument["units"]:
            raise UserError(f"{path}: {name!r} is in {units}, the surrogate takes {argument['units']}")
        if levels:
            missing = [v for v in levels if v not in field["level"].values]
            if missing:
                raise UserError(f"{path}: {name!r} has no level {missing[0]:g}")
            field = field.sel(level=list(levels))
        field = field.transpose(*dims).sortby(rows)
        for dim, own in ((rows, self._latitude), (columns, self._longitude)):
            values = np.asarray(field[dim].values, np.float64)
            if values.shape != own.shape or not np.allclose(values, own, atol=1e-4):
                raise UserError(f"{path}: {dim} of {name!r} is not that of the surrogate")
        return field.values.astype(np.float32)

    def _find_forcing(self, name: str, argument: dict[str, Any], when: Any) -> None:
        """What set_value gave since the last update counts; else the file's value at the time predicted."""
        if name in self._given:
            return
        if self._forcings is None:
            if np.isnan(self._values[name]).all():
                raise UserError(
                    f"the forcing {name!r} was not set: call set_value, or name forcings in the configuration"
                )
            return
        at = np.flatnonzero(self._forcings["time"].values == when)
        if not len(at):
            raise UserError(f"the forcings have no time {when}; they end at {self._forcings['time'].values[-1]}")
        field = self._field(self._forcings.isel(time=[int(at[0])]), name, argument, Path("forcings"))
        self._values[name][...] = field[0]


_STRUCTURED = "the grid is rectilinear: it has no edges and faces of its own"


def _read_settings(path: Path) -> tuple[dict[str, Any], Path]:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"the configuration {path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"the configuration {path} is not a table of settings")
    for key in settings:
        if key not in _KEYS:
            raise UserError(f"{path}: {key} is not a setting; there are {', '.join(_KEYS)}")
    for key, needed in _KEYS.items():
        if needed and not settings.get(key):
            raise UserError(f"{path}: {key} is missing")
    return settings, path.resolve().parent


def _open(path: Path) -> xr.Dataset:
    try:
        return xr.open_dataset(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _seconds(start: Any, end: Any) -> float:
    difference = end - start
    if isinstance(difference, np.timedelta64):
        return float(difference / np.timedelta64(1, "ms")) / 1000
    return float(difference.total_seconds())
