"""What is written is CF: the checker of the IOOS community finds no error in forecasts or simulated records."""

from __future__ import annotations

from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr

import surrogate as sg
from surrogate.core.durations import Duration
from surrogate.core.spec import Grid, Spec, Variable
from surrogate.data.simulate import HeldSuarezConfig, held_suarez
from surrogate.domains.fields_xarray import read_fields, to_dataset

runner = pytest.importorskip("compliance_checker.runner", reason="compliance-checker is in the test extra")

SPHERE = Grid(tuple(np.arange(-78.75, 90, 22.5)), tuple(np.arange(0, 360, 22.5)))
DAY = np.timedelta64(1, "D")


def findings(path: Path) -> list[str]:
    """Every failure of the suite that the file's own Conventions names, recommendations included."""
    with xr.open_dataset(path, decode_cf=False) as data:
        conventions = data.attrs["Conventions"]
    suite = runner.CheckSuite()
    suite.load_all_available_checkers()
    groups = suite.run_all(suite.load_dataset(str(path)), [conventions.lower().replace("cf-", "cf:")], [])
    found = []
    for results, errors in groups.values():
        found += [f"the checker failed: {name}: {error[0]!r}" for name, error in errors.items()]
        for result in results:
            passed, total = result.value if isinstance(result.value, tuple) else (int(bool(result.value)), 1)
            if passed < total:
                found += [f"{result.name}: {message}" for message in result.msgs]
    return found


def unexpected(path: Path) -> list[str]:
    """Without one recommendation that a forecast cannot follow: it has two dimensions of time, T is one of them."""
    return [
        f for f in findings(path) if not ("recommended order T, Z, Y, X" in f and "init_time (T), lead_time (U)" in f)
    ]


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def forecast(variables: tuple[Variable, ...], step: Duration, initial: np.ndarray, valid: np.ndarray) -> xr.Dataset:
    spec = Spec(variables, SPHERE, step)
    return to_dataset(values(*valid.shape, *SPHERE.shape, len(variables)), spec, initial, valid, "a forecast")


def test_the_checker_finds_what_is_wrong(tmp_path: Path) -> None:
    zeros = np.zeros(3, np.float32)
    data = xr.Dataset(
        {
            "t": ("time", zeros, {"units": "m", "standard_name": "air_temperature"}),
            "u": ("time", zeros, {"units": "m", "standard_name": "not_a_name"}),
        },
        {"time": ("time", np.arange(3.0), {"units": "days since 2000-01-01", "standard_name": "time"})},
        {"Conventions": "CF-1.11"},
    )
    data.to_netcdf(tmp_path / "bad.nc")
    text = "\n".join(findings(tmp_path / "bad.nc"))
    assert "standard_name not_a_name is not defined" in text
    assert 'Units "m" for variable t must be convertible' in text


def test_a_forecast_on_levels_of_several_kinds(tmp_path: Path) -> None:
    initial = np.datetime64("2001-01-01", "ns") + np.arange(2) * DAY
    variables = (
        Variable("temperature", "prognostic", "K", 0.5, "1", "air_temperature"),
        Variable("temperature", "prognostic", "K", 0.8, "1", "air_temperature"),
        Variable("z", "prognostic", "m", 500.0, "hPa", "geopotential_height"),
        Variable("psl", "prognostic", "Pa"),
    )
    result = forecast(variables, Duration(seconds=86400), initial, initial[:, None] + np.arange(1, 4) * DAY)
    result.to_netcdf(tmp_path / "f.nc")
    assert unexpected(tmp_path / "f.nc") == []
    with xr.open_dataset(tmp_path / "f.nc", decode_timedelta=False) as again:
        assert again["init_time"].attrs["standard_name"] == "forecast_reference_time"
        assert again["lead_time"].attrs["standard_name"] == "forecast_period"
        np.testing.assert_array_equal(again["valid_time"].values, result["valid_time"].values)
        np.testing.assert_array_equal(again["temperature"].values, result["temperature"].values)
        assert again["z"].dims == ("init_time", "lead_time", "level_z", "latitude", "longitude")


def test_a_monthly_forecast_without_leap_years_and_with_missing_points(tmp_path: Path) -> None:
    initial = np.array([cftime.DatetimeNoLeap(2001, m, 16) for m in (1, 2)])
    valid = np.array([[cftime.DatetimeNoLeap(2001, m + k, 16) for k in (1, 2, 3)] for m in (1, 2)])
    sst = Variable("sst", "prognostic", "degC", standard_name="sea_surface_temperature")
    result = forecast((sst,), Duration(months=1), initial, valid)
    result["sst"][..., 2, 3] = np.nan
    result.to_netcdf(tmp_path / "m.nc")
    assert unexpected(tmp_path / "m.nc") == []
    with xr.open_dataset(tmp_path / "m.nc", decode_timedelta=False) as again:
        assert again["valid_time"].dt.calendar == "noleap"
        assert again["valid_time"].values[1, 2] == valid[1, 2]
        assert int(np.isnan(again["sst"]).sum()) == 6


def test_a_map_on_a_plane_whose_variables_are_called_x_and_y(tmp_path: Path) -> None:
    grid = Grid(tuple(np.arange(4) / 4), tuple(np.arange(5) / 5), "plane", False)
    spec = Spec((Variable("y", "diagnostic"), Variable("x", "forcing")), grid, Duration(), "none")
    result = to_dataset(values(3, 4, 5, 1), spec, np.arange(3), None, "a map")
    assert result["y"].dims == ("sample", "row", "column")
    result.to_netcdf(tmp_path / "p.nc")
    assert findings(tmp_path / "p.nc") == []
    inputs = xr.Dataset({"x": result["y"]})  # what comes out can go in
    np.testing.assert_array_equal(read_fields(inputs, spec, "forcing", "data")[0], result["y"].values[..., None])


@pytest.mark.slow
def test_what_a_trained_surrogate_forecasts(tiny_settings: list[str], waves_file: Path, tmp_path: Path) -> None:
    experiment = sg.load_experiment("", [*tiny_settings, "train.steps=2", f"run.dir={tmp_path / 'run'}"])
    surrogate = sg.fit(experiment, quiet=True)
    with xr.open_dataset(waves_file) as data:
        surrogate.rollout(data.isel(time=slice(0, 2)), lead_time="2D").to_netcdf(tmp_path / "t.nc")
    assert unexpected(tmp_path / "t.nc") == []


@pytest.mark.slow
def test_a_simulated_record(tmp_path: Path) -> None:
    config = HeldSuarezConfig(truncation=10, levels=4, days=1, spin_up_days=0, interval_hours=12)
    pytest.importorskip("dinosaur", reason="dinosaur is in the climate and test extras")
    # CF section 7.1: terms that depend on the level are named by their bounds there; the checker wants them equal.
    mistaken = "'level_bounds' has attr 'formula_terms'"
    assert [f for f in findings(held_suarez(config, tmp_path)) if mistaken not in f] == []
