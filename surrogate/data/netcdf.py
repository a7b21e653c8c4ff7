"""Gridded data from NetCDF, Zarr or GRIB as one trajectory in one order, or an error that says why not.

An entry of ``data.paths`` becomes a :class:`TrajectoryData`: files joined along time by their
coordinates, dims ``time, level, latitude, longitude``, latitude ascending, longitude ascending from
[0, 360) where the grid goes round, pressure levels in hPa, values in float32 with NaN where missing.
Nothing is matched approximately, filled or dropped without an error or a logged warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from surrogate.core.durations import Duration
from surrogate.core.spec import Grid
from surrogate.core.types import UserError
from surrogate.data import timeaxis
from surrogate.data.checks import check_values
from surrogate.data.coordinates import check_same_grid
from surrogate.data.files import RawFile, describe, open_files, unknown_variable
from surrogate.data.join import Piece, join_variable, open_piece, order_times
from surrogate.data.source import Timeline
from surrogate.data.zarr import is_remote

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VariableRequest:
    """A variable by its name in the file.

    Attributes:
        name: as in the file.
        levels: in hPa for pressures, otherwise in the file's units; ``None`` for a variable without
            levels, or all the levels that it has.
    """

    name: str
    levels: tuple[float, ...] | None = None


@dataclass(frozen=True)
class TrajectoryData:
    """One trajectory, opened and not yet read.

    Attributes:
        entry: what messages call it.
        dataset: Dask-backed float32 variables of dims ``(time, level, latitude, longitude)`` as far as each
            has them. Variables whose levels differ from the first's have dims ``level_2``, …
        timeline: times, segments between gaps, and the file of each time. Static data has no times.
        grid: (H, W); 1 × 1 when no variable has a grid.
        time_step: the spacing of the files; ``None`` for one time or none, or where no spacing holds.
        calendar: CF name; ``none`` for times read raw and for static data.
        files: every file that was read.
        suspects: variable → fills to look for beside the usual ones.
    """

    entry: str
    dataset: xr.Dataset
    timeline: Timeline
    grid: Grid
    time_step: Duration | None
    calendar: str
    files: tuple[str, ...]
    suspects: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def open_trajectory(
    entry: str,
    requests: Sequence[VariableRequest],
    *,
    static: bool = False,
    region: Mapping[str, tuple[float, float]] | None = None,
    fill_values: Sequence[float] = (),
    raw_time: bool = False,
    storage_options: dict[str, Any] | None = None,
) -> TrajectoryData:
    """Open a file, glob, directory or Zarr store as one trajectory.

    Args:
        entry: a path, glob, directory, store or URL of a store; ``file.nc#/group`` for a group.
        requests: variables to read. Each may be in files of its own; their times must be the same.
        static: the variables have no time (a time of size one is dropped).
        region: ``latitude: (south, north)`` and ``longitude: (west, east)`` in degrees, inclusive; west may be
            greater than east. The result keeps the region's longitudes, contiguous.
        fill_values: numbers that mean missing although no attribute says so.
        raw_time: take times as bare numbers, for axes that say no date.
        storage_options: for fsspec; remote stores are read anonymously unless these say otherwise.

    Raises:
        UserError: for anything that cannot be read with certainty: which file, which variable, why.
    """
    if not requests:
        raise UserError(f"{entry}: no variable is asked for")
    files = open_files(entry, storage_options)
    chosen: dict[str, list[Piece]] = {}
    for request in requests:
        if request.name in chosen:
            raise UserError(f"{entry}: variable {request.name!r} is asked for twice")
        holders = [file for file in files if request.name in file.dataset.variables]
        if not holders:
            raise unknown_variable(request.name, files, entry)
        chosen[request.name] = [
            open_piece(file, request.name, request.levels, region, fill_values, raw_time=raw_time, static=static)
            for file in holders
        ]
    grid = _common_grid(chosen)
    paths = tuple(dict.fromkeys(piece.path for pieces in chosen.values() for piece in pieces))
    timeline, step, calendar = _timeline(entry, chosen, paths, raw_time=raw_time, static=static)
    dataset = _assemble(chosen, grid, timeline, static=static)
    suspects = {
        name: tuple({suspect for piece in pieces for suspect in piece.decoding.suspects})
        for name, pieces in chosen.items()
    }
    return TrajectoryData(entry, dataset, timeline, grid, step, calendar, paths, suspects)


def _common_grid(chosen: Mapping[str, list[Piece]]) -> Grid:
    placed = [(name, piece) for name, pieces in chosen.items() for piece in pieces if piece.grid is not None]
    if not placed:
        return Grid((0.0,), (0.0,), "plane", False)
    first_name, first = placed[0]
    assert first.grid is not None
    for name, piece in placed[1:]:
        assert piece.grid is not None
        check_same_grid(first.grid, piece.grid, f"{first.path} ({first_name})", f"{piece.path} ({name})")
    return first.grid


def _timeline(
    entry: str, chosen: Mapping[str, list[Piece]], paths: tuple[str, ...], *, raw_time: bool, static: bool
) -> tuple[Timeline, Duration | None, str]:
    if static:
        return Timeline(entry, np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), paths), None, "none"
    reference: tuple[str, np.ndarray] | None = None
    source, calendar = np.zeros(0, int), "none"
    for name, pieces in chosen.items():
        times, calendar_here = order_times(name, pieces)
        if reference is None:
            reference, calendar = (name, times), calendar_here
            origin = np.concatenate([np.full(len(p.times), paths.index(p.path)) for p in pieces])
            source = origin[pieces[0].order]
        elif calendar_here != calendar or len(times) != len(reference[1]) or not (times == reference[1]).all():
            here, there = f"{_span(times)} ({calendar_here})", f"{_span(reference[1])} ({calendar})"
            raise UserError(
                f"{entry}: {name!r} has {here}, but {reference[0]!r} has {there}; "
                "the variables of one trajectory need the same times"
            )
    assert reference is not None
    times = reference[1]
    if raw_time:
        return Timeline(entry, times, np.zeros(len(times), int), source, paths), None, "none"
    step, segment = timeaxis.spacing(times)
    _warn_of_gaps(entry, times, segment, step, [paths[i] for i in source])
    return Timeline(entry, times, segment, source, paths), step, calendar


def _span(times: np.ndarray) -> str:
    return f"{len(times)} times from {timeaxis.text(times[0])} to {timeaxis.text(times[-1])}"


def _warn_of_gaps(
    entry: str, times: np.ndarray, segment: np.ndarray, step: Duration | None, files: Sequence[str]
) -> None:
    if step is None and len(times) > 1:
        logger.warning("%s: the times have no common spacing, so no two of them make a step", entry)
        return
    gaps = np.flatnonzero(np.diff(segment))
    for at in gaps[:5]:
        logger.warning(
            "%s: gap in time: %s (%s) and %s (%s) are not one step of %s apart; no sample crosses it",
            entry, timeaxis.text(times[at]), files[at], timeaxis.text(times[at + 1]), files[at + 1], step,
        )  # fmt: skip
    if len(gaps) > 5:
        logger.warning("%s: %d more gaps in time", entry, len(gaps) - 5)


def _assemble(chosen: Mapping[str, list[Piece]], grid: Grid, timeline: Timeline, *, static: bool) -> xr.Dataset:
    variables: dict[str, xr.Variable] = {}
    coordinates: dict[str, Any] = {} if static else {"time": timeline.time}
    level_dims: list[tuple[str, np.ndarray]] = []
    for name, pieces in chosen.items():
        array, attrs = join_variable(name, pieces, static=static)
        first = pieces[0]
        dims = [] if static else ["time"]
        if first.levels is not None:
            for dim, values in level_dims:
                if np.array_equal(values, first.levels) and coordinates[dim].attrs["units"] == first.level_units:
                    break
            else:
                dim = "level" if not level_dims else f"level_{len(level_dims) + 1}"
                level_dims.append((dim, first.levels))
                coordinates[dim] = xr.Variable((dim,), first.levels, {"units": first.level_units})
            dims.append(dim)
        if first.grid is not None:
            dims += ["latitude", "longitude"]
        variables[name] = xr.Variable(dims, array, attrs)
    if any("latitude" in v.dims for v in variables.values()):
        sphere = grid.kind == "sphere"
        for what, standard in (("latitude", "degrees_north"), ("longitude", "degrees_east")):
            attrs = {"units": standard, "standard_name": what} if sphere else {}
            coordinates[what] = xr.Variable((what,), np.array(getattr(grid, what)), attrs)
    return xr.Dataset(variables, coordinates)


def load_variable(data: TrajectoryData, name: str, level: float | None = None, *, allow_missing: bool) -> np.ndarray:
    """Read one variable, at one level where it has levels, and check every value.

    Returns:
        (T, H, W) float32; static fields have T = 1, series without a grid are broadcast over it (read-only).

    Raises:
        UserError: for missing values (with ``allow_missing``, for those whose pattern changes in time), for
            infinite values and for undeclared fills: file, variable, time and place.
    """
    array = select_variable(data, name, level)
    values = _read(data, name, array)
    if "time" not in array.dims:
        values = values[None]
    check_block(data, name, values, allow_missing=allow_missing, level=level)
    if "latitude" not in array.dims:
        values = np.broadcast_to(values[:, None, None], (len(values), *data.grid.shape))
    return values


def load_levels(data: TrajectoryData, name: str, *, allow_missing: bool) -> np.ndarray:
    """Read a variable at all of its levels at once: one pass over the file where levels share stored chunks.

    Returns:
        (T, L, H, W) float32 in the order of the variable's level coordinate; T = 1 for static fields.

    Raises:
        UserError: as :func:`load_variable`, and for a variable without levels.
    """
    array = data.dataset[name]
    dim = _level_dim(array)
    if dim is None:
        raise UserError(f"{data.entry}: {name!r} has no levels")
    values = _read(data, name, array if "time" in array.dims else array.expand_dims("time"))
    for index, level in enumerate(array[dim].values):
        check_block(data, name, values[:, index], allow_missing=allow_missing, level=float(level))
    if "latitude" not in array.dims:
        values = np.broadcast_to(values[..., None, None], (*values.shape, *data.grid.shape))
    return values


def _level_dim(array: xr.DataArray) -> str | None:
    return next((str(d) for d in array.dims if str(d).startswith("level")), None)


def _read(data: TrajectoryData, name: str, array: xr.DataArray) -> np.ndarray:
    try:
        return np.asarray(array.values, np.float32)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{', '.join(data.files[:3])}: {name!r} cannot be read, damaged or cut short "
            f"({type(error).__name__}: {error})"
        ) from error


def select_variable(data: TrajectoryData, name: str, level: float | None = None) -> xr.DataArray:
    """One channel, not yet read: (time, latitude, longitude) as far as the variable has them.

    Raises:
        UserError: for a name or a level that was not asked for.
    """
    if name not in data.dataset.data_vars:
        raise UserError(
            f"{data.entry}: {name!r} was not opened; there are {', '.join(map(str, data.dataset.data_vars))}"
        )
    array = data.dataset[name]
    dim = _level_dim(array)
    if dim is None:
        if level is not None:
            raise UserError(f"{data.entry}: {name!r} has no levels, so none at {level:g}")
        return array
    there = array[dim].values
    if level is None and len(there) != 1:
        raise UserError(f"{data.entry}: {name!r} has the levels {', '.join(f'{v:g}' for v in there)}; name one")
    near = [0] if level is None else np.flatnonzero(np.isclose(there, level, rtol=1e-4, atol=1e-6)).tolist()
    if not near:
        raise UserError(f"{data.entry}: {name!r} has no level {level:g}; it has {', '.join(f'{v:g}' for v in there)}")
    return array.isel({dim: near[0]})


def check_block(
    data: TrajectoryData,
    name: str,
    values: np.ndarray,
    *,
    allow_missing: bool,
    level: float | None = None,
    first_time: int = 0,
) -> None:
    """Check values (T, H, W) or (T,) that begin at time index ``first_time``; for reading piece by piece.

    Raises:
        UserError: as :func:`load_variable`.
    """

    def place(index: tuple[int, ...]) -> str:
        parts = []
        if len(data.timeline):
            when = first_time + index[0]
            parts += [
                str(data.timeline.files[data.timeline.source[when]]),
                f"time {timeaxis.text(data.timeline.time[when])}",
            ]
        else:
            parts.append(data.files[0])
        if level is not None:
            parts.append(f"level {level:g}")
        if len(index) == 3:
            what = ("latitude", "longitude") if data.grid.kind == "sphere" else ("y", "x")
            parts.append(f"{what[0]} {data.grid.latitude[index[1]]:g}, {what[1]} {data.grid.longitude[index[2]]:g}")
        return ", ".join(parts)

    label = name if level is None else f"{name}@{level:g}"
    check_values(
        values, name=label, place=place, allow_missing=allow_missing, suspects=tuple(data.suspects.get(name, ()))
    )


def list_variables(entry: str, storage_options: dict[str, Any] | None = None) -> str:
    """Names of the variables (and groups) of an entry, for messages."""
    return describe(open_files(entry, storage_options), entry)


def provenance(data: TrajectoryData) -> list[dict[str, Any]]:
    """``path``, ``bytes`` and ``sha256`` of every file that was read.

    A local Zarr store counts as one file: the hash of the sorted list of its files' names and hashes. A remote
    store has ``None`` for both: it is not read twice only to be hashed.
    """
    return [fingerprint(path) for path in data.files]


def fingerprint(path: str) -> dict[str, Any]:
    """``path``, ``bytes`` and ``sha256`` of one file, or of a directory as if it were one."""
    if is_remote(path):
        return {"path": path, "bytes": None, "sha256": None}
    root = Path(path)
    if root.is_file():
        return {"path": path, "bytes": root.stat().st_size, "sha256": _sha256(root)}
    members = sorted(p for p in root.rglob("*") if p.is_file())
    listing = hashlib.sha256()
    for member in members:
        listing.update(f"{member.relative_to(root).as_posix()} {_sha256(member)}\n".encode())
    return {"path": path, "bytes": sum(m.stat().st_size for m in members), "sha256": listing.hexdigest()}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = [
    "RawFile", "TrajectoryData", "VariableRequest", "check_block", "list_variables", "load_levels",
    "load_variable",
    "open_trajectory", "provenance", "select_variable",
]  # fmt: skip
