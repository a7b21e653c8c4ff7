"""Real observations and simulations, against the netCDF4 module and facts known of them."""

from __future__ import annotations

from pathlib import Path

import netCDF4
import numpy as np
import pytest

from surrogate.core.durations import Duration
from surrogate.core.types import UserError
from surrogate.data.netcdf import VariableRequest, load_variable, open_trajectory

DATA = Path(__file__).parents[2].parent / "shared" / "data"
ERSST = DATA / "ersst" / "ersst_v3b_1960-2016.nc"
CMIP = DATA / "cmip6-access-esm1-5"
needs_ersst = pytest.mark.skipif(not ERSST.is_file(), reason="shared/data/ersst is not here")
needs_cmip = pytest.mark.skipif(not CMIP.is_dir(), reason="shared/data/cmip6-access-esm1-5 is not here")


@needs_ersst
def test_sea_surface_temperature() -> None:
    data = open_trajectory(str(ERSST), [VariableRequest("sst")])
    assert data.time_step == Duration(months=1)
    assert data.grid.shape == (89, 180)
    assert data.grid.periodic
    assert set(data.timeline.segment) == {0}
    assert [str(t)[:7] for t in data.timeline.time[[0, -1]]] == ["1960-01", "2016-12"]
    values = load_variable(data, "sst", allow_missing=True)
    with netCDF4.Dataset(ERSST) as file:
        expected = np.ma.filled(file["sst"][:], np.nan)
    np.testing.assert_array_equal(values, expected)
    with pytest.raises(UserError, match=r"sst: .* values are missing"):
        load_variable(data, "sst", allow_missing=False)


@needs_ersst
def test_nino_34_warms_in_1997() -> None:
    region = {"latitude": (-5.0, 5.0), "longitude": (-170.0, -120.0)}
    data = open_trajectory(str(ERSST), [VariableRequest("sst")], region=region)
    assert (data.grid.longitude[0], data.grid.longitude[-1]) == (-170.0, -120.0)
    months = data.timeline.time.astype("datetime64[M]")
    mean = load_variable(data, "sst", allow_missing=False).mean((1, 2))
    december = {year: float(mean[months == np.datetime64(f"{year}-12")][0]) for year in (1996, 1997, 1998)}
    # The strongest El Niño of the century, between two cold Decembers.
    assert december[1997] - december[1996] > 2.5
    assert december[1997] - december[1998] > 3.0


@needs_cmip
def test_one_trajectory_from_a_file_per_variable() -> None:
    requests = [VariableRequest("tas"), VariableRequest("rlut"), VariableRequest("rsdt")]
    data = open_trajectory(str(CMIP / "*_abrupt-4xCO2_*.nc"), requests)
    assert (data.calendar, data.time_step, len(data.timeline)) == ("proleptic_gregorian", Duration(months=1), 300)
    assert data.timeline.time[0].year == 101
    values = load_variable(data, "rlut", allow_missing=False)
    with netCDF4.Dataset(next(CMIP.glob("rlut_*abrupt*"))) as file:
        np.testing.assert_array_equal(values, file["rlut"][:])
    weights = data.grid.area_weights()
    # A quarter of the solar constant reaches the top of the atmosphere, whatever the model.
    assert abs(float((load_variable(data, "rsdt", allow_missing=False)[:300] * weights).mean()) - 340.2) < 2


@needs_cmip
def test_static_land_fraction_and_refusals() -> None:
    static = open_trajectory(str(next(CMIP.glob("sftlf_*"))), [VariableRequest("sftlf")], static=True)
    land = load_variable(static, "sftlf", allow_missing=False)
    assert land.shape == (1, 19, 36)
    assert abs(float((land[0] * static.grid.area_weights()).mean()) - 29) < 3
    with pytest.raises(UserError, match="'tos' is on a curvilinear grid"):
        open_trajectory(str(next(CMIP.glob("tos_*"))), [VariableRequest("tos")])
    with pytest.raises(UserError, match=r"0101-01-16.*010101-012512.nc and in .*010101-018012.nc"):
        open_trajectory(str(CMIP / "tas_*_piControl_*.nc"), [VariableRequest("tas")])


@needs_cmip
def test_a_land_variable_has_its_sea_masked() -> None:
    data = open_trajectory(str(next(CMIP.glob("gpp_*"))), [VariableRequest("gpp")])
    values = load_variable(data, "gpp", allow_missing=True)
    assert 0.5 < np.isnan(values[0]).mean() < 0.9
