"""Settings of gridded data: what to read, its roles, its splits and leads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from surrogate.core.durations import Duration
from surrogate.core.spec import parse_variable
from surrogate.core.types import UserError

Bounds = tuple[Any, Any]


@dataclass(frozen=True)
class SplitConfig:
    """Each split as ``[start, end]``: inclusive dates, or fractions of each trajectory in time order."""

    train: Bounds | None = (0.0, 0.8)
    valid: Bounds | None = (0.8, 0.9)
    test: Bounds | None = (0.9, 1.0)

    def __post_init__(self) -> None:
        for name in ("train", "valid", "test"):
            bounds = getattr(self, name)
            if bounds is None:
                continue
            low, high = bounds
            numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in bounds]
            # A bare year is a date, whether YAML read it as a number or as text.
            fractions = all(numbers) and all(0 <= v <= 1 for v in bounds)
            if not fractions and any(numbers) and not all(isinstance(v, int) and v > 1 for v in bounds):
                raise ValueError(f"split.{name}={list(bounds)} must be two dates, or two fractions between 0 and 1")
            if fractions and not low < high:
                raise ValueError(f"split.{name}={list(bounds)} is empty: its start is not before its end")

    def is_fraction(self, name: str) -> bool:
        bounds = getattr(self, name)
        return bounds is not None and all(isinstance(v, (int, float)) and v <= 1 for v in bounds)


@dataclass(frozen=True)
class DerivedForcing:
    """A forcing computed from a trajectory itself; ``kind`` names a function of ``data/derived.py``."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FieldsDataConfig:
    """Gridded data of one study.

    Attributes:
        source: ``netcdf`` (any NetCDF, Zarr or GRIB), ``simulate`` (Held–Suarez), ``store`` (what
            ``surrogate.prepare`` wrote), ``arrays`` (``.npz`` tables of maps) or ``declared``: none, for a plan.
        paths: one trajectory an entry: a file, a glob, a directory or a Zarr store. Relative entries
            are below ``root``.
        train_paths, valid_paths, test_paths: trajectories that belong to one split alone; ``split``
            then bounds the dates used of them.
        fetch: what to tell a person whose files are absent.
        variables: prognostic variables: ``name``, ``name@level`` or ``{name: [levels]}``.
        diagnostics, forcings, statics: the same for the other roles.
        derived: forcings computed from the trajectory (global means, radiative forcing).
        features: ``position`` (unit vector on the sphere, or x and y), ``season`` and ``diurnal`` (sine
            and cosine of the time of year and of day at the predicted time). By default the position,
            the season where training has all months, the time of day where the step is shorter than a day.
        time_step: the model's step, a multiple of the files' spacing, which is the default.
        history: how many past states a step sees.
        anomaly: ``month`` subtracts the training split's climatology of each calendar month.
        base: what the model's increments are added to: the state; the state damped at each point by its lagged
            regression over one step in the training split, where anomalies are forgotten locally; or a
            linear inverse model of its leading patterns with the rest damped, where slow patterns are
            shared across the map and the record is too short to learn them from nothing.
        augment: ``transpose`` also trains on samples with rows and columns exchanged, and predicts the mean over
            both orientations, where domain, sampling and law of scalar fields allow it.
        region: ``{latitude: [south, north], longitude: [west, east]}``, degrees.
        leads: what is scored.
        declared: grid and times of data that are not at hand, so that ``surrogate.plan`` has shapes; see
            ``surrogate.data.declared``.
        memory_gb: data larger than this are not loaded; ``surrogate.prepare`` makes a store of them.
    """

    source: Literal["netcdf", "simulate", "store", "arrays", "declared"] = "netcdf"
    root: str = ""
    fetch: str = ""
    paths: tuple[str, ...] = ()
    train_paths: tuple[str, ...] = ()
    valid_paths: tuple[str, ...] = ()
    test_paths: tuple[str, ...] = ()
    variables: tuple[Any, ...] = ()
    diagnostics: tuple[Any, ...] = ()
    forcings: tuple[Any, ...] = ()
    statics: tuple[Any, ...] = ()
    derived: tuple[DerivedForcing, ...] = ()
    features: tuple[Literal["position", "season", "diurnal"], ...] | None = None
    static_paths: tuple[str, ...] = ()
    time_step: str | None = None
    history: int = 1
    anomaly: Literal["none", "month"] = "none"
    base: Literal["persistence", "damped_persistence", "linear_inverse_model"] = "persistence"
    augment: Literal["none", "transpose"] = "none"
    region: dict[str, tuple[float, float]] = field(default_factory=dict)
    split: SplitConfig = SplitConfig()
    leads: tuple[str, ...] = ("1D", "3D", "5D")
    fill_values: tuple[float, ...] = ()
    allow_missing: bool = True
    memory_gb: float = 8.0
    storage_options: dict[str, Any] = field(default_factory=dict)
    simulate: dict[str, Any] = field(default_factory=dict)
    declared: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.history < 1:
            raise ValueError(f"history={self.history} must be at least 1")
        if self.memory_gb <= 0:
            raise ValueError(f"memory_gb={self.memory_gb} must be positive")
        for lead in self.leads:
            Duration.parse(lead)
        if not self.leads:
            raise ValueError("leads is empty: name at least one, such as [1D]")
        if self.time_step is not None and not Duration.parse(self.time_step):
            raise ValueError("time_step must be longer than zero")
        if unknown := set(self.region) - {"latitude", "longitude"}:
            raise ValueError(f"region has {', '.join(sorted(unknown))}; it takes latitude and longitude")
        for role in ("variables", "diagnostics", "forcings", "statics"):
            requested_levels(getattr(self, role), role)


def requested_levels(entries: tuple[Any, ...], where: str) -> dict[str, tuple[float, ...] | None]:
    """``("tas", "ta@500", {"ua": [500, 850]})`` → ``{"tas": None, "ta": (500,), "ua": (500, 850)}``.

    ``None`` asks for a variable without levels, or for all the levels that it has.

    Raises:
        UserError: for an entry that is neither a name nor ``{name: [levels]}``.
    """
    wanted: dict[str, tuple[float, ...] | None] = {}
    for entry in entries:
        if isinstance(entry, str):
            name, level = parse_variable(entry)
            pairs: list[tuple[str, tuple[float, ...] | None]] = [(name, None if level is None else (level,))]
        elif isinstance(entry, Mapping):
            pairs = []
            for name, levels in entry.items():
                try:
                    numbers = None if levels is None else tuple(float(v) for v in levels)
                except (TypeError, ValueError):
                    raise UserError(f"data.{where}: the levels of {name!r} must be a list of numbers") from None
                pairs.append((str(name), numbers))
        else:
            raise UserError(f"data.{where}: {entry!r} is neither a variable's name nor {{name: [levels]}}")
        for name, levels in pairs:
            earlier = wanted.get(name, ())
            if name in wanted and (earlier is None or levels is None):
                raise UserError(f"data.{where}: {name!r} is listed twice")
            wanted[name] = levels if levels is None else (*(earlier or ()), *levels)
    return wanted
