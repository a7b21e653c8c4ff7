"""From the settings of gridded data to a ``Source``: what is read, in which roles, on which grid."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from surrogate.config import build
from surrogate.core.durations import Duration
from surrogate.core.spec import Role, Spec, Variable
from surrogate.core.types import UserError
from surrogate.core.units import same_units
from surrogate.data.derived import derive
from surrogate.data.lazy import LazySource
from surrogate.data.netcdf import (
    TrajectoryData,
    VariableRequest,
    list_variables,
    load_levels,
    load_variable,
    open_trajectory,
    provenance,
)
from surrogate.data.settings import FieldsDataConfig, requested_levels
from surrogate.data.source import DYNAMIC_ROLES, MemorySource, Source

_SETTINGS: dict[Role, str] = {
    "prognostic": "variables", "diagnostic": "diagnostics", "forcing": "forcings", "static": "statics",
}  # fmt: skip
_DYNAMIC: tuple[Role, ...] = ("prognostic", "diagnostic", "forcing")
_TIMES = 16


def open_source(
    config: FieldsDataConfig, *, lazily: bool = False, headers: bool = False
) -> tuple[Source, tuple[str, ...]]:
    """Open everything that ``config`` names.

    Args:
        lazily: read in blocks when asked (to prepare a store) what is larger than ``memory_gb``.
        headers: read no field and hash no file now, whatever the size: static fields alone, and what ``derived`` asks for.

    Returns:
        The source, and per trajectory ``all`` or the one split that it is reserved for.

    Raises:
        UserError: for files, variables, levels, units, grids and steps that are missing or do not fit.
    """
    if config.source == "declared":
        raise UserError(
            "data=declared describes data that are not at hand, for surrogate.plan; to train give files: "
            "data.source=netcdf data.paths=[FILE.nc], or data.source=store data.paths=[STORE.zarr]"
        )
    if config.source == "store":
        from surrogate.data.prepared import open_prepared

        return open_prepared(config)
    if config.source == "arrays":
        from surrogate.data.arrays import open_arrays

        return open_arrays(config)
    if config.source == "simulate":
        config = _simulated(config)
    entries, roles = _entries(config)
    requests = _requests(config, entries[0])
    trajectories = [_open(entry, config, requests) for entry in entries]
    for entry, data in zip(entries[1:], trajectories[1:], strict=True):
        _check_same_grid(trajectories[0], data, entry)
    static_entry = [_resolve(p, config) for p in config.static_paths] or entries[:1]
    variables = {role: _variables(role, requests[role], trajectories[0]) for role in _DYNAMIC}
    static_variables, static, static_files = _static(config, requests["static"], static_entry, trajectories[0])
    step, stride = _time_step(config, trajectories, is_forecast=bool(variables["prognostic"]))
    for data in trajectories[1:]:
        _check_same_units(trajectories[0], data)
    too_large = _too_large(config, variables, trajectories)
    if too_large and not (lazily or headers):
        raise UserError(too_large)
    derived: list[Variable] = []
    series: list[np.ndarray] = []
    for data in trajectories:
        derived, values = derive(config.derived, data.entry, data.timeline.time, data.grid, partial(_channel, data))
        series.append(values)
    spec = Spec(
        (*variables["prognostic"], *variables["diagnostic"], *variables["forcing"], *derived, *static_variables),
        trajectories[0].grid, step, trajectories[0].calendar, config.history if variables["prognostic"] else 1,
    )  # fmt: skip
    if headers:
        return LazySource(spec, trajectories, series, static, stride, [], allow_missing=config.allow_missing), roles
    with ThreadPoolExecutor(1) as beside:
        # The hashes of the files are computed while the numbers are read.
        described = beside.submit(lambda: [f for data in trajectories for f in provenance(data)])
        fields = [] if too_large else _fields(config, trajectories, variables, series)
        files = described.result() + static_files
    unique = list({f["path"]: f for f in files}.values())
    if too_large:
        lazy = LazySource(spec, trajectories, series, static, stride, unique, allow_missing=config.allow_missing)
        return lazy, roles
    return MemorySource(spec, tuple(d.timeline for d in trajectories), fields, static, stride, unique), roles


def _fields(
    config: FieldsDataConfig,
    trajectories: list[TrajectoryData],
    variables: dict[Role, tuple[Variable, ...]],
    series: list[np.ndarray],
) -> list[dict[str, np.ndarray]]:
    """Per trajectory, role → (T, H, W, C); ``series`` are forcings that hold everywhere, (T, F), and come last."""
    fields = []
    for data, values in zip(trajectories, series, strict=True):
        arrays: dict[str, np.ndarray] = {
            role: _load(data, variables[role], allow_missing=config.allow_missing) for role in _DYNAMIC
        }
        if values.shape[-1]:
            everywhere = np.broadcast_to(values[:, None, None, :], (len(values), *data.grid.shape, values.shape[-1]))
            arrays["forcing"] = np.concatenate([arrays["forcing"], everywhere], axis=-1)
        fields.append(arrays)
    return fields


# -- entries -------------------------------------------------------------------------------------


def _simulated(config: FieldsDataConfig) -> FieldsDataConfig:
    from surrogate.data.simulate import HeldSuarezConfig, held_suarez
    from surrogate.data.waiting import bar_for

    settings = build(HeldSuarezConfig, config.simulate, "data.simulate")
    with bar_for("simulating the Held-Suarez climate", "days") as progress:
        path = held_suarez(settings, progress=progress)
    return replace(config, source="netcdf", paths=(str(path),))


def _resolve(path: str, config: FieldsDataConfig) -> str:
    text = str(Path(path).expanduser()) if path.startswith("~") else path
    if "://" in text or not config.root or Path(text).is_absolute():
        return text
    return str(Path(config.root).expanduser() / text)


def _entries(config: FieldsDataConfig) -> tuple[list[str], tuple[str, ...]]:
    groups = {"all": config.paths, "train": config.train_paths, "valid": config.valid_paths, "test": config.test_paths}
    entries = [_resolve(p, config) for paths in groups.values() for p in paths]
    if not entries:
        raise UserError("data.paths is empty; give files, globs, directories or Zarr stores: data.paths=[run.nc]")
    for entry in entries:
        twice = entries.count(entry) > 1
        if twice:
            raise UserError(f"data.paths: {entry} is listed twice")
    if config.fetch:
        for entry in entries:
            if "://" not in entry and not any(c in entry for c in "*?[") and not Path(entry.partition("#")[0]).exists():
                raise UserError(f"{entry} does not exist; {config.fetch}")
    roles = tuple(split for split, paths in groups.items() for _ in paths)
    return entries, roles


def _requests(config: FieldsDataConfig, entry: str) -> dict[Role, dict[str, tuple[float, ...] | None]]:
    wanted = {role: requested_levels(getattr(config, setting), setting) for role, setting in _SETTINGS.items()}
    if not wanted["prognostic"] and not wanted["diagnostic"]:
        raise UserError(f"data.variables is empty; {list_variables(entry, dict(config.storage_options) or None)}")
    seen: dict[str, str] = {}
    for role, setting in _SETTINGS.items():
        for name in wanted[role]:
            if name in seen:
                raise UserError(
                    f"{name!r} is listed in data.{seen[name]} and in data.{setting}; a variable has one role"
                )
            seen[name] = setting
    return wanted


def _open(entry: str, config: FieldsDataConfig, requests: dict[Role, dict[str, Any]]) -> TrajectoryData:
    wanted = [VariableRequest(n, levels) for role in DYNAMIC_ROLES for n, levels in requests[role].items()]  # type: ignore[index]
    data = open_trajectory(
        entry, wanted, region=config.region or None, fill_values=config.fill_values,
        storage_options=dict(config.storage_options) or None,
    )  # fmt: skip
    if len(data.timeline) < 2:
        raise UserError(f"{entry} has {len(data.timeline)} time step; at least two are needed to learn from")
    return data


# -- channels ------------------------------------------------------------------------------------


def _variables(role: Role, requests: dict[str, tuple[float, ...] | None], data: TrajectoryData) -> tuple[Variable, ...]:
    """One variable a channel, levels ascending as in the files."""
    channels = []
    for name in requests:
        array = data.dataset[name]
        dim = next((str(d) for d in array.dims if str(d).startswith("level")), None)
        standard, long = (str(array.attrs.get(k, "")) for k in ("standard_name", "long_name"))
        units = str(array.attrs.get("units", "1")) or "1"
        if dim is None:
            channels.append(Variable(name, role, units, standard_name=standard, long_name=long))
            continue
        level_units = str(array[dim].attrs.get("units", ""))
        there = [float(v) for v in array[dim].values]
        for level in there:
            channels.append(Variable(name, role, units, level, level_units, standard, long))
    return tuple(channels)


def _channel(data: TrajectoryData, name: str) -> np.ndarray:
    return load_variable(data, name, allow_missing=True)


def _load(data: TrajectoryData, variables: tuple[Variable, ...], *, allow_missing: bool) -> np.ndarray:
    """(T, H, W, C) float32."""
    result = np.empty((len(data.timeline), *data.grid.shape, len(variables)), np.float32)
    for name in dict.fromkeys(v.name for v in variables):
        channels = [i for i, v in enumerate(variables) if v.name == name]
        if variables[channels[0]].level is None:
            result[..., channels[0]] = load_variable(data, name, allow_missing=allow_missing)
        else:
            # One pass over the file: stored chunks often hold all the levels.
            levels = load_levels(data, name, allow_missing=allow_missing)
            # A few times at once, which stay in the cache while channel after channel is put between the others.
            for start in range(0, len(levels), _TIMES):
                for number, channel in enumerate(channels):
                    result[start : start + _TIMES, ..., channel] = levels[start : start + _TIMES, number]
    return result


def _static(
    config: FieldsDataConfig, requests: dict[str, Any], entries: list[str], reference: TrajectoryData
) -> tuple[tuple[Variable, ...], np.ndarray, list[dict[str, Any]]]:
    empty = np.zeros((*reference.grid.shape, 0), np.float32)
    if not requests:
        return (), empty, []
    variables: list[Variable] = []
    columns: list[np.ndarray] = []
    files: list[dict[str, Any]] = []
    left = dict(requests)
    for entry in entries:
        present = {n: v for n, v in left.items() if len(entries) == 1 or _has(entry, n)}
        if not present:
            continue
        data = open_trajectory(
            entry, [VariableRequest(n, v) for n, v in present.items()], static=True, region=config.region or None,
            fill_values=config.fill_values, storage_options=dict(config.storage_options) or None,
        )  # fmt: skip
        _check_same_grid(reference, data, entry)
        for variable in _variables("static", present, data):
            values = load_variable(data, variable.name, variable.level, allow_missing=True)[0]
            variables.append(variable)
            columns.append(np.nan_to_num(values, nan=0.0))
        files += provenance(data)
        left = {n: v for n, v in left.items() if n not in present}
    if left:
        raise UserError(f"data.statics: {', '.join(left)} is in none of {', '.join(entries)}")
    return tuple(variables), np.stack(columns, axis=-1), files


def _has(entry: str, name: str) -> bool:
    try:
        open_trajectory(entry, [VariableRequest(name)], static=True)
    except UserError as error:
        return "no variable" not in str(error)
    return True


# -- agreement -----------------------------------------------------------------------------------


def _check_same_grid(first: TrajectoryData, other: TrajectoryData, entry: str) -> None:
    a, b = first.grid, other.grid
    if (
        a.shape != b.shape
        or not np.allclose(a.latitude, b.latitude, atol=1e-4)
        or not np.allclose(a.longitude, b.longitude, atol=1e-4)
    ):
        raise UserError(
            f"{entry} is on a grid of {b.shape[0]} × {b.shape[1]} from latitude {b.latitude[0]:g} and longitude "
            f"{b.longitude[0]:g}, {first.entry} on {a.shape[0]} × {a.shape[1]} from {a.latitude[0]:g} and {a.longitude[0]:g}"
        )


def _check_same_units(first: TrajectoryData, other: TrajectoryData) -> None:
    if other.calendar != first.calendar:
        raise UserError(f"{other.entry} has the calendar {other.calendar}, {first.entry} has {first.calendar}")
    for name in first.dataset.data_vars:
        a, b = (str(d.dataset[name].attrs.get("units", "")) for d in (first, other))
        if not same_units(a, b):
            raise UserError(f"{name!r} is in {a!r} in {first.entry} but in {b!r} in {other.entry}")


def _time_step(
    config: FieldsDataConfig, trajectories: list[TrajectoryData], *, is_forecast: bool
) -> tuple[Duration, int]:
    """The model's step, and how many file steps it is."""
    spacing = trajectories[0].time_step
    for data in trajectories:
        if data.time_step is None:
            raise UserError(f"{data.entry}: the times have no regular spacing, so there is no time step to learn")
        if data.time_step != spacing:
            raise UserError(f"{data.entry} has a time step of {data.time_step}, {trajectories[0].entry} of {spacing}")
    assert spacing is not None
    if not is_forecast:
        return Duration(), 1
    if config.time_step is None:
        return spacing, 1
    step = Duration.parse(config.time_step)
    try:
        return step, step.steps_of(spacing)
    except ValueError as error:
        raise UserError(f"data.time_step: {error}, the spacing of {trajectories[0].entry}") from None


def _too_large(
    config: FieldsDataConfig, variables: dict[Any, tuple[Variable, ...]], trajectories: list[TrajectoryData]
) -> str:
    """Why the data are not loaded; empty when they fit."""
    channels = sum(len(v) for v in variables.values())
    size = sum(len(d.timeline) * int(np.prod(d.grid.shape)) * channels * 4 for d in trajectories) / 2**30
    if size <= config.memory_gb:
        return ""
    return (
        f"the data take {size:.1f} GiB in memory, data.memory_gb allows {config.memory_gb:g}; "
        "make a store of them with python -m surrogate.prepare and train with data=store"
    )
