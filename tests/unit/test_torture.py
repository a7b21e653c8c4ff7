"""Thirty files that break readers: each reads with the right values, or is refused with a reason.

The expected values come from the netCDF4 module, which masks and unpacks by code of its own; the
reordering that the reader promises is written out per file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from surrogate.core.types import UserError
from surrogate.data.netcdf import VariableRequest, load_variable, open_trajectory

FILES = Path(__file__).parents[2].parent / "shared" / "data" / "reader-torture"
pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason="shared/data/reader-torture is not here")


@dataclass(frozen=True)
class Reads:
    """A variable that reads: dimensions and times as expected, values as netCDF4 gives them after ``reorder``."""

    file: str
    name: str
    shape: tuple[int, ...]
    first: str
    last: str
    calendar: str
    step: str
    units: str
    latitude: tuple[float, float] | None = None
    longitude: tuple[float, float] | None = None
    periodic: bool = False
    reorder: Callable[[np.ndarray], np.ndarray] = np.asarray
    level: float | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """A variable that is refused when opened, or when its values are loaded, for a reason with these words."""

    file: str
    name: str
    words: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


RAW = {"raw_time": True}
STATIC = {"static": True}

TABLE: list[Reads | Refused] = [
    # Years 1 to 5 of a calendar spelt NOLEAP, longitude under a name of its own.
    Reads("00040101.precip_monthly.nc", "condensation_rain", (12, 64, 128), "0004-01-17 00:00:00",
          "0004-12-17 00:00:00", "noleap", "P1M", "kg/m/m/s", (-87.8638, 87.8638), (0.0, 357.1875), True),
    Reads("00040101.precip_monthly.nc", "zsurf", (64, 128), "", "", "none", "None", "m",
          (-87.8638, 87.8638), (0.0, 357.1875), True, options=STATIC),
    # Station reports: text, times as text, points.
    Refused("95031800_sao.cdf", "id", ("'id'", "text")),
    Refused("95031800_sao.cdf", "T", ("'T'", "share dimension 'report'", "points")),
    Refused("GFWED_sample_2017.nc", "FWI", ("'FWI'", "share dimension 'loc'", "points")),
    # Five dimensions, four of them with no place on a grid.
    Refused("PM_MPI-ESM-LR_ds.nc", "tos", ("'tos'", "dimension 'period'", "size 5")),
    # int16 with int32 marks, a valid_min, latitude descending, longitude from -177.5, times 1 … 12 in "months".
    Refused("absolute.nc", "tem", ("'time'", "'months'", "raw_time")),
    Reads("absolute.nc", "tem", (12, 36, 72), "1", "12", "none", "None", "celsius", (-87.5, 87.5), (2.5, 357.5), True,
          lambda a: np.roll(a[:, ::-1], 36, axis=2), options=RAW),
    # Year 21 of 360 days, valid_range, longitude to 375, 33 depths.
    Reads("archv.0021_016_00_3zu.nc", "u", (1, 52, 57), "0021-01-01 00:00:00", "0021-01-01 00:00:00", "360_day", "None",
          "m/s", (-19.6058, 63.1138), (263.0, 375.0), reorder=lambda a: a[:, 0], level=0.0),
    # A calendar that does not exist ("365_days") and a reference date that does not either (0000-00-00).
    Refused("b003_TS_200-299.nc", "TS", ("'time'", "365_days", "raw_time")),
    Reads("b003_TS_200-299.nc", "TS", (100, 64, 128), "6113.0", "9125.0", "none", "None", "K", (-87.8638, 87.8638),
          (0.0, 357.1875), True, options=RAW),
    # Integers never written: the library's fill, undeclared.
    Refused("cell_methods.nc", "cube_axes_0", ("cube_axes_0", "-2.14748365e+09", "fill_values", "1970-01-01")),
    # "months since jan 1899", series without a grid.
    Refused("climdiv_prcp_1899-1999.nc", "PRECT_AL_CD1", ("'months since jan 1899'", "not a date")),
    Reads("climdiv_prcp_1899-1999.nc", "PRECT_AL_CD1", (1212,), "0", "1211", "none", "None", "inches", options=RAW),
    Refused("data_C4.nc", "sample_data", ("'sample_data'", "mesh")),
    # int16, scalar time, latitude descending.
    Reads("era5_1995-07-14T12.nc", "t2m", (1, 105, 237), "1995-07-14T12:00:00", "1995-07-14T12:00:00", "standard",
          "None", "K", (24.0, 50.0), (-125.0, -66.0), reorder=lambda a: a[None, ::-1]),
    # int16 with _FillValue NaN and a negative scale, a "month" that is no date.
    Refused("eraint_uvz.nc", "u", ("'month'", "raw_time")),
    Reads("eraint_uvz.nc", "u", (2, 241, 480), "1", "7", "none", "None", "m s**-1", (-90.0, 90.0), (0.0, 359.25), True,
          lambda a: np.roll(a[:, 1, ::-1], 240, axis=2), level=500.0, options=RAW),
    Refused("fice.nc", "fice", ("'time'", "'days'", "raw_time")),
    Reads("fice.nc", "fice", (120, 49, 100), "0.0", "3619.0", "none", "None", " ", (-77.4, 90.0), (1.8, 358.2), True,
          options=RAW),
    # "months since", one January and then Februaries.
    Reads("hgt.nc", "HGT", (21, 73, 144), "1958-01-01T00:00:00", "1977-02-01T00:00:00", "standard", "P12M", "gpm",
          (-90.0, 90.0), (0.0, 357.5), True),
    Refused("hswm_d000000p000.g2.nc", "height", ("'height'", "'grid_cells'", "mesh")),
    Refused("hswm_d000000p000.g2.nc", "char_time", ("'char_time'", "text")),
    Refused("mesh_C12.nc", "dynamics_face_nodes", ("mesh",), STATIC),
    Refused("msftmz_Omon_NorCPM1_historical_r22i1p1f1_grz_185001.nc", "msftmz", ("'msftmz'", "'basin'", "size 3")),
    # One longitude, hybrid levels.
    Reads("o3_AERmon_MPI-ESM1-2-LR_historical_r1i1p1f1_gn_185001_zm.nc", "o3", (1, 96, 1), "1850-01-16T12:00:00",
          "1850-01-16T12:00:00", "proleptic_gregorian", "None", "mol mol-1", (-88.5722, 88.5722), (0.0, 0.0),
          reorder=lambda a: a[:, 0], level=0.99615),
    # A projection's plane whose only field was never filled; its 2-D latitudes hold 9.97e36, undeclared.
    Refused("projection_origin_attributes.nc", "tmean", ("tmean", "nothing but missing values", "1910-07-01")),
    Refused("projection_origin_attributes.nc", "lat", ("lat", "9.96920997e+36", "fill_values"), STATIC),
    Refused("sfbay_2020_met.nc", "__xarray_dataarray_variable__", ("text",)),
    # missing_value and _FillValue differ; the mask of observations changes in time.
    Reads("sfcwind_E-OBS_mon_195001-202112.nc", "sfcwind", (864, 4, 6), "1950-01-01T00:00:00", "2021-12-01T00:00:00",
          "standard", "P1M", "m s-1", (25.0625, 62.5625), (-24.9375, 37.5625)),
    Refused("sfcwind_E-OBS_mon_195001-202112.nc", "sfcwind",
            ("sfcwind", "1980-01-01", "latitude 37.5625", "same at all times")),
    # julian; pressure in Pa.
    Reads("ta_Amon_IITM-ESM_historical_r1i1p1f1_gn_201001-201412.nc", "ta", (60, 2, 2), "2010-01-16 12:00:00",
          "2014-12-16 12:00:00", "julian", "P1M", "K", (86.6532, 88.542), (0.0, 1.875), reorder=lambda a: a[:, 1],
          level=925.0),
    Refused("ta_ps_850.nc", "ta", ("'ta'", "'ncells'", "mesh")),
    Reads("tas_Amon_HadGEM2-ES_rcp85_r1i1p1_229912-229912.nc", "tas", (1, 2, 2), "2299-12-16 00:00:00",
          "2299-12-16 00:00:00", "360_day", "None", "K", (-90.0, 35.0), (0.0, 187.5)),
    Refused("test_monotonic_coordinate.nc", "wind1", ("'wind1'", "1970-01-01T01:00:00", "twice")),
    Refused("test_monotonic_coordinate.nc", "wind2", ("'time2'", "1 of 3 times are missing", "index 2")),
    Refused("test_monotonic_coordinate.nc", "wind3", ("'time3'", "1 of 3 times are missing", "index 1")),
    Refused("tos_ocean_bipolar_grid.nc", "tos", ("'tos'", "curvilinear")),
    Refused("units.nc", "cube_0", ("'time'", "'wibble'", "raw_time")),
    Reads("units.nc", "cube_0", (5,), "0", "4", "none", "None", "kelvin", options=RAW),
    Refused("v1.nc", "v1", ("'v1'", "mesh")),
    # A series without a grid, 365_day.
    Reads("zostoga_Omon_CanCM4_rcp45_r1i1p1_200601-203512.nc", "zostoga", (360,), "2006-01-16 12:00:00",
          "2035-12-16 12:00:00", "noleap", "P1M", "m"),
]  # fmt: skip


def identify(row: Reads | Refused) -> str:
    options = "".join(f"-{name}" for name in row.options)
    return f"{type(row).__name__.lower()}-{row.file[:24]}-{row.name[:16]}{options}"


def request_of(row: Reads) -> VariableRequest:
    return VariableRequest(row.name, None if row.level is None else (row.level,))


# The independent reader warns of the packed file whose _FillValue is NaN.
@pytest.mark.filterwarnings("ignore:.*_FillValue not used", "ignore:invalid value encountered in cast")
@pytest.mark.parametrize("row", [r for r in TABLE if isinstance(r, Reads)], ids=identify)
def test_reads_right(row: Reads) -> None:
    data = open_trajectory(str(FILES / row.file), [request_of(row)], **row.options)
    array = data.dataset[row.name]
    if "level" in array.dims:
        array = array.squeeze("level")
    assert array.shape == row.shape
    assert array.dtype == np.float32
    assert data.calendar == row.calendar
    assert str(data.time_step) == row.step
    assert array.attrs["units"] == row.units
    times = data.timeline.time
    if row.options != STATIC:
        assert [str(t)[:19] for t in (times[0], times[-1])] == [row.first, row.last]
    for what in ("latitude", "longitude"):
        ends = getattr(row, what)
        if ends is not None:
            values = getattr(data.grid, what)
            np.testing.assert_allclose((values[0], values[-1]), ends, atol=1e-4)
            assert (np.diff(values) > 0).all()
    assert data.grid.periodic == row.periodic
    with netCDF4.Dataset(FILES / row.file) as file:
        independent = np.ma.filled(np.ma.asarray(file[row.name][:], np.float64), np.nan)
    expected = row.reorder(independent)
    np.testing.assert_allclose(array.values, expected.astype(np.float32), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("row", [r for r in TABLE if isinstance(r, Refused)], ids=identify)
def test_refused_with_a_reason(row: Refused) -> None:
    def open_and_load() -> None:
        data = open_trajectory(str(FILES / row.file), [VariableRequest(row.name)], **row.options)
        load_variable(data, row.name, allow_missing=True)

    with pytest.raises(UserError) as refusal:
        open_and_load()
    message = str(refusal.value)
    assert [word for word in (*row.words, row.file) if word not in message] == []
    assert "\n" not in message


def test_the_table_names_every_file() -> None:
    assert {row.file for row in TABLE} == {path.name for path in FILES.iterdir()}
