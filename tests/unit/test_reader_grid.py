"""Latitude, longitude, level: order, seams, regions, and files that disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from surrogate.core.types import UserError
from surrogate.data.netcdf import VariableRequest, load_levels, load_variable, open_trajectory

LAT = np.arange(-80.0, 81.0, 20)
LON = np.arange(0.0, 360.0, 15)


def field_of(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """A value that says where it is, whatever turn of the circle its longitude is written in."""
    lat, lon = np.meshgrid(lat, np.mod(np.round(lon, 3), 360.0), indexing="ij")
    return (lat * 1000 + lon).astype(np.float32)


def write(path: Path, lat: np.ndarray, lon: np.ndarray, day: int = 0, **more: Any) -> str:
    xr.Dataset(
        {"tas": (("time", "lat", "lon"), field_of(lat, lon)[None], {"units": more.get("units", "K")})},
        {
            "time": ("time", [day], {"units": "days since 2000-01-01"}),
            "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": "degrees_east"}),
        },
    ).to_netcdf(path, engine="scipy")
    return str(path)


def check_places(entry: str, **options: Any) -> Any:
    """Read, and prove that every value is where the coordinates say."""
    data = open_trajectory(entry, [VariableRequest("tas")], **options)
    values = load_variable(data, "tas", allow_missing=False)
    lat, lon = np.array(data.grid.latitude), np.array(data.grid.longitude)
    assert (np.diff(lat) > 0).all()
    assert (np.diff(lon) > 0).all()
    for field in values:
        np.testing.assert_allclose(field, field_of(lat, lon), atol=0.05)
    np.testing.assert_array_equal(data.dataset["latitude"], lat)
    np.testing.assert_array_equal(data.dataset["longitude"], lon)
    return data.grid


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "lon",
    [LON, LON - 180, np.r_[LON[12:], LON[:12]], np.r_[LON[:12], LON[12:] - 360], LON[::-1], LON + 345, LON - 7.5],
    ids=["0-360", "-180-180", "180-165", "0-165,-180", "descending", "345-690", "offset"],
)
def test_a_global_grid_comes_out_the_same_whatever_its_seam(tmp_path: Path, lon: np.ndarray, flip: bool) -> None:
    grid = check_places(write(tmp_path / "a.nc", LAT[::-1] if flip else LAT, lon))
    assert grid.periodic
    assert grid.longitude[0] >= 0
    assert grid.longitude[-1] < 360


def test_the_first_column_repeated_at_360_is_dropped(tmp_path: Path) -> None:
    grid = check_places(write(tmp_path / "a.nc", LAT, np.r_[LON, 360.0]))
    assert grid.longitude == tuple(LON)
    assert grid.periodic


def test_a_rounding_below_zero_stays_the_first_column(tmp_path: Path) -> None:
    grid = check_places(write(tmp_path / "a.nc", LAT, LON - 1e-7))
    assert len(grid.longitude) == 24
    assert abs(grid.longitude[0]) < 1e-6


@pytest.mark.parametrize(
    ("lon", "expected"),
    [
        (np.arange(-20.0, 31, 10), (-20, 30)),
        (np.arange(340.0, 391, 10), (340, 390)),
        (np.r_[np.arange(340.0, 360, 10), np.arange(0.0, 31, 10)], (340, 390)),
        (np.r_[np.arange(0.0, 31, 10), np.arange(340.0, 360, 10)], (-20, 30)),
        (np.r_[np.arange(150.0, 181, 10), np.arange(-170.0, -149, 10)], (150, 210)),
    ],
    ids=["across-0", "beyond-360", "wrapped", "hole", "date-line"],
)
def test_a_regional_grid_stays_in_one_piece(tmp_path: Path, lon: np.ndarray, expected: tuple[float, float]) -> None:
    grid = check_places(write(tmp_path / "a.nc", LAT, lon))
    assert (grid.longitude[0], grid.longitude[-1]) == expected
    assert not grid.periodic


@pytest.mark.parametrize("lon", [LON, LON - 180], ids=["0-360", "-180-180"])
@pytest.mark.parametrize(
    ("west", "east", "expected"),
    [(-30, 45, (-30, 45)), (330, 45, (330, 405)), (150, 210, (150, 210)), (150, -150, (150, 210)), (10, 50, (15, 45))],
)
def test_regions_across_greenwich_and_the_date_line(
    tmp_path: Path, lon: np.ndarray, west: float, east: float, expected: tuple[float, float]
) -> None:
    region = {"longitude": (west, east), "latitude": (-25, 60)}
    grid = check_places(write(tmp_path / "a.nc", LAT[::-1], lon), region=region)
    assert (grid.longitude[0], grid.longitude[-1]) == expected
    assert grid.latitude == (-20.0, 0.0, 20.0, 40.0, 60.0)
    assert not grid.periodic


def test_regions_that_hold_nothing_or_two_pieces(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", LAT, np.arange(0.0, 91, 10))
    with pytest.raises(UserError, match=r"a\.nc.*longitude \[200, 220\] holds no cell.*0 to 90"):
        check_places(path, region={"longitude": (200, 220)})
    with pytest.raises(UserError, match=r"a\.nc.*two pieces"):
        check_places(path, region={"longitude": (80, 370)})
    with pytest.raises(UserError, match=r"latitude \[85, 89\] holds no cell"):
        check_places(path, region={"latitude": (85, 89)})
    assert check_places(path, region={"longitude": (-180, 180)}).longitude == tuple(np.arange(0.0, 91, 10))


def test_a_latitude_off_by_a_millionth_loses_no_row(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", LAT, LON, 0)
    write(tmp_path / "b.nc", LAT + 1e-6, LON, 1)
    write(tmp_path / "c.nc", LAT.astype(np.float32)[::-1], LON - 180, 2)
    grid = check_places(str(tmp_path))
    assert grid.latitude == tuple(LAT)
    write(tmp_path / "d.nc", LAT + 0.5, LON, 3)
    with pytest.raises(UserError, match=r"d\.nc.*latitude.*a\.nc"):
        check_places(str(tmp_path))


def test_a_grid_of_another_size_names_both_files(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", LAT, LON, 0)
    write(tmp_path / "b.nc", LAT[1:], LON, 1)
    with pytest.raises(UserError, match=r"b\.nc.*latitude has 8 values, but 9 in .*a\.nc"):
        check_places(str(tmp_path))


def test_units_that_disagree_name_both_files_and_units(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", LAT, LON, 0, units="K")
    write(tmp_path / "b.nc", LAT, LON, 1, units="kelvin")
    check_places(str(tmp_path))
    write(tmp_path / "c.nc", LAT, LON, 2, units="degC")
    with pytest.raises(UserError, match=r"c\.nc.*'degC'.*'K'.*a\.nc"):
        check_places(str(tmp_path))


@pytest.mark.parametrize(
    ("lat", "reason"),
    [
        (np.r_[LAT[:4], np.nan, LAT[5:]], "missing at index 4"),
        (np.r_[LAT[:4], LAT[3], LAT[5:]], "not monotonic"),
        (LAT * 2, "beyond the poles"),
    ],
)
def test_latitudes_that_make_no_grid(tmp_path: Path, lat: np.ndarray, reason: str) -> None:
    with pytest.raises(UserError, match=f"a.nc.*{reason}"):
        open_trajectory(write(tmp_path / "a.nc", lat, LON), [VariableRequest("tas")])


def test_dims_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", LAT, LON)
    with xr.open_dataset(path) as dataset:
        dataset.transpose("lon", "time", "lat").to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    check_places(str(tmp_path / "b.nc"))


def levels_file(path: Path, values: list[float], units: str, name: str = "ta", day: int = 0) -> str:
    data = np.asarray(values, np.float32)[None, :, None, None] + np.zeros((2, 1, 3, 4), np.float32)
    data /= 100 if units == "Pa" else 1
    xr.Dataset(
        {name: (("time", "plev", "lat", "lon"), data, {"units": "K"})},
        {
            "time": ("time", [day, day + 1], {"units": "days since 2000-01-01"}),
            "plev": ("plev", np.asarray(values), {"units": units, "positive": "down"}),
            "lat": ("lat", [-30.0, 0.0, 30.0], {"units": "degrees_north"}),
            "lon": ("lon", [0.0, 90.0, 180.0, 270.0], {"units": "degrees_east"}),
        },
    ).to_netcdf(path, engine="scipy")
    return str(path)


def test_levels_are_in_hectopascals_and_in_the_order_asked(tmp_path: Path) -> None:
    levels_file(tmp_path / "a.nc", [100000, 85000, 50000, 20000], "Pa")
    levels_file(tmp_path / "b.nc", [200, 500, 850, 1000], "millibar", day=2)
    data = open_trajectory(str(tmp_path), [VariableRequest("ta", (500.0, 850.0))])
    assert data.dataset["ta"].dims == ("time", "level", "latitude", "longitude")
    assert data.dataset["level"].values.tolist() == [500.0, 850.0]
    assert data.dataset["level"].attrs["units"] == "hPa"
    for level in (500.0, 850.0):
        assert (load_variable(data, "ta", level, allow_missing=False) == level).all()
    with pytest.raises(UserError, match=r"no level 700 hPa; it has 1000, 850, 500, 200"):
        open_trajectory(str(tmp_path), [VariableRequest("ta", (700.0,))])
    with pytest.raises(UserError, match="name one"):
        load_variable(data, "ta", allow_missing=False)
    both = load_levels(data, "ta", allow_missing=False)
    assert both.shape == (4, 2, 3, 4)
    assert (both == np.array([500.0, 850.0])[:, None, None]).all()


def test_variables_with_levels_of_their_own(tmp_path: Path) -> None:
    levels_file(tmp_path / "a.nc", [850, 500], "hPa", "ta")
    levels_file(tmp_path / "b.nc", [25000, 5000], "Pa", "zg")
    data = open_trajectory(str(tmp_path), [VariableRequest("ta"), VariableRequest("zg", (250.0,))])
    assert load_variable(data, "ta", 850, allow_missing=False).max() == 850
    assert load_variable(data, "zg", 250, allow_missing=False).min() == 250
    assert load_variable(data, "zg", allow_missing=False).shape == (2, 3, 4)


def test_plane_series_static_and_curvilinear(tmp_path: Path) -> None:
    time = ("time", [0, 1, 2], {"units": "days since 2000-01-01"})
    dataset = xr.Dataset(
        {
            "h": (("time", "y", "x"), np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 4)),
            "co2": (("time", "one"), np.array([[280.0], [281.0], [282.0]])),
            "relief": (("y", "x"), np.arange(8.0).reshape(2, 4)),
            "curved": (("time", "j", "i"), np.zeros((3, 2, 4))),
        },
        {
            "time": time,
            "y": ("y", [2000.0, 1000.0], {"units": "m"}),
            "x": ("x", [0.0, 1000.0, 2000.0, 3000.0], {"units": "m"}),
            "lat": (("j", "i"), np.zeros((2, 4)), {"units": "degrees_north"}),
            "lon": (("j", "i"), np.zeros((2, 4)), {"units": "degrees_east"}),
        },
    )
    path = str(tmp_path / "a.nc")
    dataset.to_netcdf(path, engine="scipy")
    data = open_trajectory(path, [VariableRequest("h"), VariableRequest("co2")])
    assert (data.grid.kind, data.grid.periodic, data.grid.latitude) == ("plane", False, (1000.0, 2000.0))
    np.testing.assert_array_equal(load_variable(data, "h", allow_missing=False)[0], [[4, 5, 6, 7], [0, 1, 2, 3]])
    assert data.dataset["co2"].dims == ("time",)
    series = load_variable(data, "co2", allow_missing=False)
    assert series.shape == (3, 2, 4)
    np.testing.assert_array_equal(series[:, 1, 3], [280, 281, 282])
    static = open_trajectory(path, [VariableRequest("relief")], static=True)
    assert load_variable(static, "relief", allow_missing=False).shape == (1, 2, 4)
    assert len(static.timeline) == 0
    with pytest.raises(UserError, match="listed as static, but has 3 times"):
        open_trajectory(path, [VariableRequest("h")], static=True)
    with pytest.raises(UserError, match="'relief' has no time; list it under statics"):
        open_trajectory(path, [VariableRequest("relief")])
    with pytest.raises(UserError, match="'curved' is on a curvilinear grid"):
        open_trajectory(path, [VariableRequest("curved")])


def test_degrees_south_and_west_are_turned_round(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", LAT, np.arange(10.0, 60, 10))
    dataset = xr.open_dataset(path, decode_times=False, engine="scipy").load()
    dataset["lat"].attrs["units"], dataset["lon"].attrs["units"] = "degrees_south", "degrees_west"
    dataset.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    data = open_trajectory(str(tmp_path / "b.nc"), [VariableRequest("tas")])
    assert data.grid.longitude == (-50.0, -40.0, -30.0, -20.0, -10.0)
    expected = field_of(LAT, np.arange(10.0, 60, 10))[::-1, ::-1]
    np.testing.assert_array_equal(load_variable(data, "tas", allow_missing=False)[0], expected)
