"""One variable of one file in the package's order, and the same variable of many files end to end in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import itertools
from typing import Any
import uuid

import dask.array as da
import numpy as np
import xarray as xr

from surrogate.core.spec import Grid
from surrogate.core.types import UserError
from surrogate.core.units import same_units
from surrogate.data import timeaxis
from surrogate.data.axes import axes_of
from surrogate.data.coordinates import attributes_kept, horizontal, levels_of, select_levels
from surrogate.data.decoding import Decoding, decoding_of
from surrogate.data.files import RawFile

# A block is read and decoded whole; this many values keep a few of them in memory beside the result.
_BLOCK_VALUES = 16_000_000


@dataclass
class Piece:
    """One variable of one file.

    Attributes:
        array: Dask, float32, (time, level, row, column) as far as the variable has them.
        times: (T,) dates, or numbers where read raw; one 0 for a static field.
        order: where each time of the joined trajectory comes from, set when pieces are joined.
    """

    path: str
    array: da.Array
    times: np.ndarray
    calendar: str
    levels: np.ndarray | None
    level_units: str
    grid: Grid | None
    attrs: dict[str, str]
    decoding: Decoding
    order: np.ndarray = field(default_factory=lambda: np.zeros(0, int))


def open_piece(
    file: RawFile,
    name: str,
    wanted: Sequence[float] | None,
    region: Mapping[str, tuple[float, float]] | None,
    fill_values: Sequence[float],
    *,
    raw_time: bool,
    static: bool,
) -> Piece:
    """Find a variable's axes, and select before anything is read.

    Raises:
        UserError: from axes, times, levels, grid or attributes, naming the file and the variable.
    """
    path, dataset = file.path, file.dataset
    axes = axes_of(dataset, name, path, raw_time=raw_time, static=static)
    stored = dataset[name].variable
    decoding = decoding_of(stored.attrs, stored.dtype, fill_values, f"{path}: {name!r}")
    if static:
        if axes.time and axes.time[0] and stored.sizes[axes.time[0]] != 1:
            raise UserError(f"{path}: {name!r} is listed as static, but has {stored.sizes[axes.time[0]]} times")
        times, calendar = np.zeros(1, int), "none"
    elif axes.time is None:
        raise UserError(f"{path}: {name!r} has no time; list it under statics")
    else:
        times, calendar = _times(dataset, axes.time, name, path, raw_time=raw_time)

    drop = {dim: 0 for dim in axes.squeezed}
    order: list[str] = []
    if axes.time and axes.time[0]:
        if static:
            drop[axes.time[0]] = 0
        else:
            order.append(axes.time[0])
    selection: dict[str, Any] = {}
    levels, level_units = None, ""
    if axes.level is not None:
        dim, coordinate = axes.level
        available, level_units = levels_of(dataset, coordinate, path)
        if wanted is not None:
            picked = select_levels(available, wanted, level_units, name, path)
            levels, selection[dim] = available[picked], picked
            order.append(dim)
        elif len(available) > 1:
            levels = available
            order.append(dim)
        else:
            drop[dim] = 0
    elif wanted is not None:
        raise UserError(f"{path}: {name!r} has no level dimension, so no level {', '.join(f'{w:g}' for w in wanted)}")
    cells = horizontal(dataset, axes, region, path)
    lazy = stored if not (drop or selection) else stored.isel({**drop, **selection})
    if cells is not None and axes.rows and axes.columns:
        order += [axes.rows[0], axes.columns[0]]
        array = _blocks(lazy.transpose(*order), decoding, cells.rows, cells.columns)
    else:
        array = _decoded(lazy.transpose(*order), decoding)
    if not static and axes.time and axes.time[0] is None:
        array = array[None]
    return Piece(
        path, array, times, calendar, levels, level_units, cells.grid if cells else None,
        attributes_kept(stored.attrs), decoding,
    )  # fmt: skip


def _times(
    dataset: xr.Dataset, axis: tuple[str | None, str | None], name: str, path: str, *, raw_time: bool
) -> tuple[np.ndarray, str]:
    dim, coordinate = axis
    if coordinate is None:
        if raw_time and dim is not None:
            return np.arange(dataset.sizes[dim]), "none"
        raise UserError(f"{path}: the time dimension {dim!r} of {name!r} has no coordinate; raw_time numbers it")
    variable = dataset.variables[coordinate]
    raw = np.atleast_1d(np.asarray(variable.values))
    where = f"{path}: time coordinate {coordinate!r}"
    if len(raw) == 0:
        raise UserError(f"{where} is empty")
    if raw_time:
        return timeaxis.numbers(raw, variable.attrs, where), "none"
    return timeaxis.decode_times(raw, variable.attrs, where)


def _runs(index: np.ndarray) -> list[slice]:
    """An index as consecutive slices: a whole axis, a flip or a roll costs one or two."""
    if len(index) < 2:
        return [slice(int(index[0]), int(index[0]) + 1)] if len(index) else []
    steps = np.diff(index)
    cuts = [0, *(np.flatnonzero(np.abs(steps) != 1) + 1), len(index)]
    slices = []
    for start, stop in itertools.pairwise(cuts):
        first, last = int(index[start]), int(index[stop - 1])
        if last >= first:
            slices.append(slice(first, last + 1))
        else:
            slices.append(slice(first, last - 1 if last else None, -1))
    return slices


def _blocks(lazy: xr.Variable, decoding: Decoding, rows: np.ndarray, columns: np.ndarray) -> da.Array:
    row_dim, column_dim = lazy.dims[-2:]
    bands = []
    for band in _runs(rows):
        parts = []
        for part in _runs(columns):
            flips = tuple(slice(None, None, -1) if s.step == -1 else slice(None) for s in (band, part))
            forward = {row_dim: _forward(band), column_dim: _forward(part)}
            parts.append(_decoded(lazy.isel(forward), decoding)[(Ellipsis, *flips)])
        bands.append(da.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0])
    return da.concatenate(bands, axis=-2) if len(bands) > 1 else bands[0]


def _forward(run: slice) -> slice:
    return slice((run.stop if run.stop is not None else -1) + 1, run.start + 1) if run.step == -1 else run


def _decoded(lazy: xr.Variable, decoding: Decoding) -> da.Array:
    """A Dask array in blocks of whole fields, a multiple of the stored chunk in the first dimension."""
    chunks: dict[Any, int] = {dim: -1 for dim in lazy.dims}
    preferred = lazy.encoding.get("preferred_chunks", {})
    if lazy.ndim == 4:
        # Levels apart where they are stored apart, so that one level can be read alone.
        chunks[lazy.dims[1]] = int(preferred.get(lazy.dims[1], 1))
    if lazy.ndim:
        leading = lazy.dims[0]
        per_step = max(1, lazy.size // max(1, lazy.shape[0]))
        stored = int(preferred.get(leading, 1))
        chunks[leading] = max(1, min(lazy.shape[0], stored * max(1, _BLOCK_VALUES // per_step // stored)))
    blocks = lazy.chunk(chunks, name=f"read-{uuid.uuid4().hex}")
    return da.map_blocks(decoding, blocks.data, dtype=np.float32, meta=np.zeros((0,) * lazy.ndim, np.float32))


def order_times(name: str, pieces: list[Piece]) -> tuple[np.ndarray, str]:
    """Sort the times of all files together, and tell each piece the order.

    Returns:
        (T,) strictly increasing times and their calendar.

    Raises:
        UserError: for calendars that differ, and for a time that occurs twice, naming both files.
    """
    first = pieces[0]
    for piece in pieces[1:]:
        if piece.calendar != first.calendar:
            raise UserError(
                f"{piece.path}: {name!r} has calendar {piece.calendar!r}, but {first.calendar!r} in {first.path}"
            )
    parts = [piece.times for piece in pieces]
    if len({part.dtype.kind for part in parts}) > 1:
        parts = [timeaxis.to_cftime(part, first.calendar) for part in parts]
    times = np.concatenate(parts)
    owner = np.concatenate([np.full(len(part), i) for i, part in enumerate(parts)])
    order = np.argsort(times, kind="stable")
    ordered = times[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(same):
        at = int(same[0])
        one, two = (pieces[owner[order[i]]].path for i in (at, at + 1))
        both = f"twice in {one}" if one == two else f"in {one} and in {two}"
        raise UserError(f"{name!r}: time {timeaxis.text(ordered[at])} occurs {both} ({len(same)} times repeat)")
    for piece in pieces:
        piece.order = order
    return ordered, first.calendar


def join_variable(name: str, pieces: list[Piece], *, static: bool) -> tuple[da.Array, dict[str, str]]:
    """The pieces end to end in time, and their attributes.

    Raises:
        UserError: for units, levels or static values that disagree between files, naming both.
    """
    first = pieces[0]
    for piece in pieces[1:]:
        _check_agreement(name, first, piece)
    if static:
        for piece in pieces[1:]:
            if not np.array_equal(first.array.compute(), piece.array.compute(), equal_nan=True):
                raise UserError(f"{piece.path}: the static {name!r} differs from that in {first.path}")
        return first.array, first.attrs
    # A snapped latitude or a whole turn of longitude is the first file's: values are joined by position.
    joined = da.concatenate([p.array for p in pieces], axis=0) if len(pieces) > 1 else first.array
    if not np.array_equal(first.order, np.arange(len(first.order))):
        joined = _take(joined, [p.array for p in pieces], first.order)
    return joined, first.attrs


def _take(joined: da.Array, parts: list[da.Array], order: np.ndarray) -> da.Array:
    """Reorder in time; whole files in another order are only concatenated again."""
    starts = np.concatenate([[0], np.cumsum([len(p) for p in parts])])
    owner = np.searchsorted(starts, order, side="right") - 1
    turns = np.concatenate([[True], np.diff(owner) != 0])
    sequence = owner[turns]
    if len(set(sequence.tolist())) == len(sequence) == len(parts):
        pieces = [parts[i] for i in sequence]
        if np.array_equal(np.concatenate([np.arange(starts[i], starts[i + 1]) for i in sequence]), order):
            return da.concatenate(pieces, axis=0)
    return joined[order]


def _check_agreement(name: str, first: Piece, piece: Piece) -> None:
    a, b = (p.attrs.get("units", "") for p in (first, piece))
    if not same_units(a, b):
        raise UserError(f"{piece.path}: {name!r} is in {b or 'no units'!r}, but in {a or 'no units'!r} in {first.path}")
    if (first.grid is None) != (piece.grid is None):
        raise UserError(f"{piece.path}: {name!r} is on a grid in one file only, the other is {first.path}")
    if first.levels is None and piece.levels is None:
        return
    if (
        first.levels is None
        or piece.levels is None
        or first.level_units != piece.level_units
        or first.levels.shape != piece.levels.shape
        or not np.allclose(first.levels, piece.levels, rtol=1e-4)
    ):
        raise UserError(
            f"{piece.path}: {name!r} has levels {_list(piece.levels)} {piece.level_units}, "
            f"but {_list(first.levels)} {first.level_units} in {first.path}"
        )


def _list(values: np.ndarray | None) -> str:
    return "none" if values is None else ", ".join(f"{v:g}" for v in values)
