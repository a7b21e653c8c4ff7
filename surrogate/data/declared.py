"""What fixes the shapes of a training without its numbers: for plans, which must not read or simulate gigabytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from surrogate.config import build
from surrogate.core.durations import Duration
from surrogate.core.spec import ROLES, Grid, Spec, Variable
from surrogate.core.types import UserError
from surrogate.data.gridded import open_source
from surrogate.data.settings import FieldsDataConfig, requested_levels
from surrogate.data.source import WHOLE, Source, Timeline, Window

_SETTINGS = {"prognostic": "variables", "diagnostic": "diagnostics", "forcing": "forcings", "static": "statics"}


@dataclass(frozen=True)
class DeclaredConfig:
    """``data.declared``: a regular grid and regular times.

    Attributes:
        rows, columns: of the files; ``data.region`` then cuts rows of latitude.
        kind: ``sphere`` or ``plane``.
        poles: whether the outermost rows lie on the poles (721 rows of 0.25°), or half a row beside them.
        times: how many, ``spacing`` apart from ``start`` on.
    """

    rows: int
    columns: int
    kind: Literal["sphere", "plane"] = "sphere"
    poles: bool = True
    start: str = "1979-01-01"
    spacing: str = "6h"
    times: int = 1000

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "times"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 2")
        if not Duration.parse(self.spacing).seconds:
            raise ValueError(f"spacing={self.spacing} must be a fixed time such as 6h")


class DeclaredSource:
    """A source whose values nobody has."""

    def __init__(self, spec: Spec, timeline: Timeline, stride: int) -> None:
        self.spec, self.stride = spec, stride
        self.timelines: tuple[Timeline, ...] = (timeline,)
        self.static = np.zeros((*spec.grid.shape, len(spec.role("static"))), np.float32)

    def read(self, trajectory: int, indices: np.ndarray, window: Window = WHOLE) -> dict[str, np.ndarray]:
        raise UserError("these data are declared, not at hand: they can be planned for, not read")

    def provenance(self) -> list[dict[str, Any]]:
        return []


def open_headers(config: FieldsDataConfig) -> tuple[Source, tuple[str, ...]]:
    """As :func:`surrogate.data.gridded.open_source`, with no more than spec, times and static fields.

    Raises:
        UserError: as that, and for a declaration that fixes no shapes.
    """
    if config.source == "declared":
        if not config.declared:
            raise UserError("data.declared is empty; give data.declared.rows and data.declared.columns")
        return _declare(config, build(DeclaredConfig, config.declared, "data.declared"))
    if config.source == "simulate":
        return _simulated(config)
    return open_source(config, headers=True)


def _declare(config: FieldsDataConfig, declared: DeclaredConfig) -> tuple[Source, tuple[str, ...]]:
    variables = []
    for role in ROLES:
        for name, levels in requested_levels(getattr(config, _SETTINGS[role]), _SETTINGS[role]).items():
            variables += [Variable(name, role, level=level) for level in (levels or (None,))]
    latitude, longitude, periodic = _axes(declared)
    latitude = _cut(latitude, config)
    grid = Grid(tuple(latitude.tolist()), tuple(longitude.tolist()), declared.kind, periodic)
    return _source(config, variables, grid, Duration.parse(declared.spacing), declared.times, declared.start)


def _axes(declared: DeclaredConfig) -> tuple[np.ndarray, np.ndarray, bool]:
    rows, columns = declared.rows, declared.columns
    if declared.kind == "plane":
        return np.arange(rows, dtype=np.float64), np.arange(columns, dtype=np.float64), False
    latitude = np.linspace(-90, 90, rows) if declared.poles else (np.arange(rows) + 0.5) * 180 / rows - 90
    return latitude, np.arange(columns) * 360 / columns, True


def _cut(latitude: np.ndarray, config: FieldsDataConfig) -> np.ndarray:
    if "longitude" in config.region:
        raise UserError("data.region.longitude: declare the columns of the region instead, data.declared.columns")
    if "latitude" not in config.region:
        return latitude
    low, high = sorted(config.region["latitude"])
    kept = latitude[(latitude >= low - 1e-4) & (latitude <= high + 1e-4)]
    if len(kept) < 2:
        raise UserError(f"data.region.latitude=[{low:g}, {high:g}] leaves {len(kept)} of the declared rows")
    return kept


def _source(
    config: FieldsDataConfig, variables: list[Variable], grid: Grid, spacing: Duration, times: int, start: str
) -> tuple[Source, tuple[str, ...]]:
    prognostic = any(v.role == "prognostic" for v in variables)
    step = Duration.parse(config.time_step) if config.time_step is not None else spacing
    try:
        stride = step.steps_of(spacing) if prognostic else 1
    except ValueError as error:
        raise UserError(f"data.time_step: {error}") from None
    if config.derived:
        raise UserError("data.derived needs the data themselves; a plan without them takes none")
    spec = Spec(tuple(variables), grid, step if prognostic else Duration(), history=config.history if prognostic else 1)
    first = np.datetime64(start, "ns")
    time = first + np.arange(times) * np.timedelta64(spacing.seconds, "s").astype("timedelta64[ns]")
    timeline = Timeline("the declared data", time, np.zeros(times, int), np.zeros(times, int))
    return DeclaredSource(spec, timeline, stride), ("all",)


def _simulated(config: FieldsDataConfig) -> tuple[Source, tuple[str, ...]]:
    """The record that :mod:`surrogate.data.simulate` would write: the same grid, levels and times."""
    from surrogate.data.simulate import HeldSuarezConfig

    settings = build(HeldSuarezConfig, config.simulate, "data.simulate")
    nodes = -(-(3 * settings.truncation + 1) // 4)
    latitude = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(2 * nodes)[0]))
    longitude = np.arange(4 * nodes) * 360 / (4 * nodes)
    grid = Grid(tuple(_cut(latitude, config).tolist()), tuple(longitude.tolist()))
    sigma = tuple(((np.arange(settings.levels) + 0.5) / settings.levels).tolist())
    whole = {"surface_pressure", "z500"}
    variables = []
    for role in ROLES:
        for name, levels in requested_levels(getattr(config, _SETTINGS[role]), _SETTINGS[role]).items():
            chosen: tuple[float | None, ...] = (None,) if name in whole else levels or sigma
            variables += [Variable(name, role, level=level) for level in chosen]
    spacing = Duration(0, settings.interval_hours * 3600)
    return _source(
        replace(config, paths=()), variables, grid, spacing, settings.days * settings.records_per_day, "2000-01-01"
    )
