"""Exported functions as JAX sees them: what ``rollout`` computes, in physical units, in any calendar."""

from __future__ import annotations

import calendar as gregorian
import datetime
from pathlib import Path
from typing import Any

import cftime
import jax
import numpy as np
import pytest
from surrogates import RICH, arguments, make, weather
import xarray as xr

from surrogate.core.calendars import advance, month_of, year_fraction
from surrogate.core.durations import Duration
from surrogate.core.spec import Variable
from surrogate.core.types import UserError
from surrogate.domains.fields_surrogate import FieldSurrogate
from surrogate.exporting import stablehlo
from surrogate.exporting.dates import ProgramCalendar
from surrogate.exporting.fields import field_functions, groups
from surrogate.exporting.function import Argument, Function, compare, tolerances
from surrogate.run.artefact import read_artefact
from surrogate.run.surrogate_files import decode_netcdf


def functions(surrogate: FieldSurrogate, *steps: int) -> list[Function]:
    assert surrogate.directory is not None
    return field_functions(surrogate, decode_netcdf(read_artefact(surrogate.directory)[1]["golden.nc"]), steps or (1,))


_COMPILED: dict[int, tuple[Function, Any]] = {}


def call(function: Function, inputs: dict[str, np.ndarray], batch: int = 0) -> dict[str, np.ndarray]:
    """The function by ``jax.jit``; with ``batch`` the samples are repeated up to it, so that one compilation serves."""
    count = len(next(iter(inputs.values())))
    _, compiled = _COMPILED.setdefault(id(function), (function, jax.jit(function.apply)))
    arrays = tuple(np.resize(inputs[a.name], (batch or count, *inputs[a.name].shape[1:])) for a in function.inputs)
    outputs = compiled(tuple(function.parameters.values()), arrays)
    return {a.name: np.asarray(v)[:count] for a, v in zip(function.outputs, outputs, strict=True)}


def close(got: np.ndarray, expected: np.ndarray, relative: float = 1e-6) -> None:
    """Equal to float32 rounding of the largest magnitude, missing where the other is missing."""
    assert got.shape == expected.shape
    assert (np.isnan(got) == np.isnan(expected)).all()
    assert np.nanmax(np.abs(got - expected)) <= relative * np.nanmax(np.abs(expected))


def forecast_of(surrogate: FieldSurrogate, data: xr.Dataset, at: int, steps: int) -> dict[str, np.ndarray]:
    """name → (steps, [level,] H, W) from ``rollout``, levels in the order of the spec."""
    history = data.isel(time=slice(at + 1 - surrogate.spec.history, at + 1))
    lead = str(surrogate.spec.time_step * steps)
    forecast = surrogate.rollout(history, lead, forcings=data).isel(init_time=0)
    result = {}
    for name in dict.fromkeys(v.name for v in surrogate.spec.outputs):
        values = forecast[name]
        levels = [v.level for v in surrogate.spec.outputs if v.name == name]
        if levels[0] is not None:
            dim = next(d for d in values.dims if str(d).startswith("level"))
            values = values.sel({dim: levels}).transpose("lead_time", dim, "latitude", "longitude")
        result[name] = values.values
    return result


# The last day of a month and of a year, so that months and years change within the steps.
START = {
    "noleap": cftime.DatetimeNoLeap(2003, 12, 31, 12),
    "360_day": cftime.Datetime360Day(2003, 2, 30, 12),
    "proleptic_gregorian": np.datetime64("2004-02-28T18:00:00", "ns"),
    "julian": cftime.DatetimeJulian(1900, 2, 28, 18),
}


def fast(names: list[str], quick: str) -> list:
    """All names, those besides ``quick`` only in the slow set: compiling is what takes the time."""
    return [n if n == quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("calendar", fast(sorted(START), "noleap"))
def test_steps_are_those_of_the_rollout_through_months_seasons_and_hours(calendar: str, tmp_path: Path) -> None:
    surrogate = make(tmp_path / "s", calendar=calendar)
    data = weather(surrogate, START[calendar], 2, 4)
    step, four = functions(surrogate, 1, 4)
    expected = forecast_of(surrogate, data, 1, 4)
    together = call(four, arguments(data, surrogate, 1, 4))
    for name in expected:
        close(together[name][0], expected[name])
    inputs = arguments(data, surrogate, 1)
    for k in range(4):  # as a caller does it: the state in physical units, the history moved on, the date advanced
        outputs = call(step, inputs)
        for name in expected:
            close(outputs[name][0], expected[name][k])
        if k < 3:
            new = arguments(data, surrogate, 2 + k)
            for name in ("temperature", "salinity"):
                new[name] = np.concatenate([inputs[name][:, 1:], outputs[name][:, None]], axis=1)
            inputs = new


def test_monthly_steps_keep_the_season(tmp_path: Path) -> None:
    surrogate = make(tmp_path / "s", step="1M", calendar="proleptic_gregorian", features=("season",), history=1)
    data = weather(surrogate, np.datetime64("1999-11-30", "ns"), 1, 3)
    expected = forecast_of(surrogate, data, 0, 3)
    got = call(functions(surrogate, 3)[0], arguments(data, surrogate, 0, 3))
    for name in expected:
        close(got[name][0], expected[name])


def test_a_map_is_the_rollout_of_its_forcings(tmp_path: Path) -> None:
    variables = tuple(v for v in RICH if v.role != "prognostic")
    surrogate = make(tmp_path / "s", variables=variables, history=1, step="0", monthly=False, features=("position",))
    data = weather(surrogate, np.datetime64("2001-01-01", "ns"), 1, 0)
    function = functions(surrogate)[0]
    assert [a.name for a in function.inputs] == ["insolation"]
    got = call(function, {"insolation": data["insolation"].values})
    close(got["rain"], surrogate.rollout(data)["rain"].values)
    with pytest.raises(UserError, match="maps forcings"):
        functions(surrogate, 1, 2)


def test_missing_points_are_ignored_and_others_spread(tmp_path: Path) -> None:
    surrogate = make(tmp_path / "s")
    function = functions(surrogate)[0]
    inputs = {name: value[:1].copy() for name, value in function.golden.items()}
    expected = call(function, inputs)
    land = np.isnan(inputs["salinity"])
    assert land.any()
    assert np.isnan(expected["salinity"]).any()
    filled = {**inputs, "salinity": np.where(land, np.float32(1e20), inputs["salinity"])}
    for name, value in call(function, filled).items():
        np.testing.assert_array_equal(value, expected[name])
    hole = {**inputs, "temperature": inputs["temperature"].copy()}
    hole["temperature"][0, -1, 0, 5, 9] = np.nan
    assert np.isnan(call(function, hole)["temperature"][0, :, 5, 9]).all()
    for wrong in ([2001, 13, 1, 0, 0, 0], [2001, 2, 29, 0, 0, 0], [2001, 1, 1, 24, 0, 0], [2001, 0, 1, 0, 0, 0]):
        outputs = call(function, {**inputs, "date": np.array([wrong], np.int32)})
        assert all(np.isnan(v).all() for v in outputs.values()), wrong


def test_levels_are_one_argument_in_the_order_of_the_spec() -> None:
    assert groups(RICH[:3]) == [("temperature", [0, 2]), ("salinity", [1])]
    # One name for two things: every channel goes by its own key.
    mixed = (
        Variable("t", "prognostic", "K", 500.0),
        Variable("t", "diagnostic", "K", 850.0),
        Variable("u", "prognostic"),
    )
    assert groups(mixed) == [("t@500", [0]), ("t@850", [1]), ("u", [2])]


def test_the_manifests_shapes_in_both_orders() -> None:
    argument = Argument("t", "prognostic", "K", ("level", "latitude", "longitude"), (3, 6, 10))
    record = argument.to_dict()
    assert record["c_shape"] == [None, 3, 6, 10]
    assert record["fortran_shape"] == [10, 6, 3, None]
    assert record["fortran_dims"] == ["longitude", "latitude", "level", "sample"]


_CFTIME = {
    "noleap": cftime.DatetimeNoLeap, "all_leap": cftime.DatetimeAllLeap, "360_day": cftime.Datetime360Day,
    "julian": cftime.DatetimeJulian, "proleptic_gregorian": cftime.DatetimeProlepticGregorian,
}  # fmt: skip


@pytest.mark.parametrize("name", fast(sorted(_CFTIME), "proleptic_gregorian"))
def test_dates_are_those_of_cftime(name: str) -> None:
    rng = np.random.default_rng(3)
    rows = []
    for year in [*range(1896, 1902), *range(1999, 2005), 2100, 2400, 12]:
        for month in range(1, 13):
            last = 30 if name == "360_day" else gregorian.monthrange(2000 if name == "all_leap" else 2001, month)[1]
            rows += [(year, month, 1, 0, 0, 0), (year, month, last, 23, 59, 59)]
            rows.append((year, month, int(rng.integers(1, last + 1)), *(int(rng.integers(0, n)) for n in (24, 60, 60))))
    if name not in ("noleap", "360_day"):
        rows += [(2000, 2, 29, 12, 0, 0), (2004, 2, 29, 23, 0, 0)]
    dates = np.array(rows, np.int32)
    times = [_CFTIME[name](*row) for row in rows]
    program = ProgramCalendar(name)
    moves = [(Duration.parse(s), n) for s, n in (
        ("10min", 1), ("6h", 0), ("6h", -3), ("1D", 1), ("1D", -1), ("73h", 2), ("400D", -3), ("1M", 1), ("13M", -2)
    )]  # fmt: skip

    @jax.jit
    def compute(dates):  # type: ignore[no-untyped-def]
        reached = [program.advance(dates, step, number) for step, number in moves]
        return program.valid(dates), [
            (fields, program.month(fields), program.features(fields, ("season", "diurnal"))) for fields in reached
        ]

    valid, results = compute(dates)
    assert np.asarray(valid).all()
    for (step, number), (fields, month, features) in zip(moves, results, strict=True):
        expected = np.array([advance(t, step, number) for t in times])
        want = np.array([(t.year, t.month, t.day, t.hour * 3600 + t.minute * 60 + t.second) for t in expected])
        np.testing.assert_array_equal(np.stack(fields, axis=-1), want)
        np.testing.assert_array_equal(month, month_of(expected))
        angle = 2 * np.pi * np.stack([year_fraction(expected), want[:, 3] / 86400], axis=-1)
        exact = np.stack([np.sin(angle[:, 0]), np.cos(angle[:, 0]), np.sin(angle[:, 1]), np.cos(angle[:, 1])], axis=-1)
        assert np.abs(features - exact).max() < 2e-7


def test_impossible_dates_are_told_from_possible_ones() -> None:
    program = ProgramCalendar("standard")
    for year, month, day in ((2001, 2, 29), (1900, 2, 29), (2001, 4, 31), (2001, 0, 1), (2001, 1, 0)):
        assert not bool(program.valid(np.array([year, month, day, 0, 0, 0], np.int32)))
        with pytest.raises(ValueError, match=r"month|day"):
            datetime.date(year, month, day)
    assert bool(program.valid(np.array([2000, 2, 29, 23, 59, 59], np.int32)))
    with pytest.raises(UserError, match=r"'none'"):
        ProgramCalendar("none")


def test_tolerances_bound_the_anomaly_where_the_mean_is_large() -> None:
    pressure = Argument("p", "prognostic", "Pa", ("y", "x"), (2, 2), sizes=(300.0,))
    values = np.full((1, 2, 2), 1e5, np.float32)
    (limit,), block = tolerances(pressure, values, 1e-6, 1)
    assert block == 4
    assert 2 * np.spacing(np.float32(1e5)) < limit < 1e-6 * 1e5
    assert tolerances(pressure, values, 1e-6, 3)[0][0] == pytest.approx(3 * limit)
    # Levels of different magnitude have tolerances of their own.
    humidity = Argument("q", "prognostic", "1", ("level", "y", "x"), (2, 2, 2))
    levels = np.stack([np.full((2, 2), 1e-2), np.full((2, 2), 1e-6)])[None].astype(np.float32)
    limits, block = tolerances(humidity, levels, 1e-6, 1)
    assert block == 4
    assert limits == pytest.approx([1e-8, 1e-12])
    entry = {"tolerance": limits, "block": block}
    wrong = levels.copy()
    wrong[0, 1, 1, 0] += 1e-8
    error, limit = compare(entry, levels, wrong)
    assert error > limit == pytest.approx(1e-12)
    wrong[0, 0, 0, 0] = np.nan
    assert compare(entry, levels, wrong)[0] == np.inf
    assert compare(entry, levels, levels) == (0.0, limits[0])


def test_programs_hold_no_paths_and_take_every_argument(tmp_path: Path) -> None:
    function = functions(make(tmp_path / "s"))[0]
    program = stablehlo.lower(function, "cpu", 3)
    assert str(Path(__file__).parents[2]).encode() not in program
    assert b".py" not in program
    assert len(stablehlo.lower(function, "cuda", 3)) > 0
    with pytest.raises(UserError, match=r"bad for cpu, batch 2.*declared"):
        stablehlo.lower(Function(
            "bad", function.inputs, function.outputs[::-1], function.parameters, function.apply, function.golden
        ), "cpu", 2)  # fmt: skip
