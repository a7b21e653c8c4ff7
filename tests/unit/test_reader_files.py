"""Files: damaged, unknown, grouped, and what is recorded about them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import hashlib
import importlib.util
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from surrogate.core.types import UserError
from surrogate.data.classic import check_complete
from surrogate.data.netcdf import VariableRequest, list_variables, load_variable, open_trajectory, provenance

FORMATS = ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA", "NETCDF4"]


def write(path: Path, form: str, unlimited: bool = True, group: str = "") -> np.ndarray:
    """Through the netCDF4 module: what users' files are written with."""
    values = np.random.default_rng(5).normal(280, 10, (7, 3, 5)).astype("f4")
    with netCDF4.Dataset(path, "w", format=form) as root:
        file = root.createGroup(group) if group else root
        for name, size in (("time", None if unlimited else 7), ("lat", 3), ("lon", 5)):
            file.createDimension(name, size)
        time = file.createVariable("time", "f8", ("time",))
        time.units = "days since 2000-01-01"
        for name, data, units in (("lat", [-1.0, 0.0, 1.0], "degrees_north"), ("lon", np.arange(5.0), "degrees_east")):
            variable = file.createVariable(name, "f4", (name,))
            variable[:] = data
            variable.units = units
        short = file.createVariable("flag", "i2", ("time", "lat"))
        tas = file.createVariable("tas", "f4", ("time", "lat", "lon"))
        tas.units = "K"
        time[:] = np.arange(7)
        short[:] = np.arange(21).reshape(7, 3)
        tas[:] = values
    return values


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("unlimited", [True, False])
def test_every_format_reads_and_every_truncation_is_noticed(tmp_path: Path, form: str, unlimited: bool) -> None:
    path = tmp_path / "a.nc"
    values = write(path, form, unlimited)
    data = open_trajectory(str(path), [VariableRequest("tas")])
    np.testing.assert_array_equal(load_variable(data, "tas", allow_missing=False), values)
    whole = path.read_bytes()
    # From the last byte of data (the pad of the last record apart) down into the header.
    for size in [len(whole) - 4, *range(len(whole) - 5, 8, -(len(whole) // 12))]:
        cut = tmp_path / "cut.nc"
        cut.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"cut\.nc: "):
            load_variable(open_trajectory(str(cut), [VariableRequest("tas")]), "tas", allow_missing=False)


@pytest.mark.parametrize("form", FORMATS[:3])
@pytest.mark.parametrize("unlimited", [True, False])
def test_the_length_a_header_promises_is_exact(tmp_path: Path, form: str, unlimited: bool) -> None:
    path = tmp_path / "a.nc"
    write(path, form, unlimited)
    check_complete(str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(UserError, match="truncated"):
        check_complete(str(path))


def test_one_record_variable_is_not_padded(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("t", None)
        file.createVariable("b", "i1", ("t",))[:] = np.arange(5)
    check_complete(str(path))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="truncated"):
        check_complete(str(path))


def test_damaged_compressed_data_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    values = np.random.default_rng(6).normal(280, 10, (40, 30, 50)).astype("f4")
    coordinates = {
        "time": ("time", np.arange(40), {"units": "days since 2000-01-01"}),
        "lat": ("lat", np.linspace(-10, 10, 30), {"units": "degrees_north"}),
        "lon": ("lon", np.arange(50.0), {"units": "degrees_east"}),
    }
    dataset = xr.Dataset({"tas": (("time", "lat", "lon"), values)}, coordinates)
    dataset.to_netcdf(path, engine="h5netcdf", encoding={"tas": {"zlib": True, "fletcher32": True}})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.nc: 'tas' cannot be read"):
        load_variable(open_trajectory(str(path), [VariableRequest("tas")]), "tas", allow_missing=False)


def test_groups_are_opened_or_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    values = write(path, "NETCDF4", group="model/surface")
    data = open_trajectory(f"{path}#/model/surface", [VariableRequest("tas")])
    np.testing.assert_array_equal(load_variable(data, "tas", allow_missing=False), values)
    with pytest.raises(UserError, match=r"no variable 'tas'.*#/GROUP.*model/surface"):
        open_trajectory(str(path), [VariableRequest("tas")])
    with pytest.raises(UserError, match=r"a\.nc.*'nowhere'"):
        open_trajectory(f"{path}#/nowhere", [VariableRequest("tas")])


def test_an_unknown_name_gets_the_names_that_exist(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", "NETCDF4")
    with pytest.raises(UserError, match=r"no variable 'tass'; did you mean 'tas'\? It has: flag, tas"):
        open_trajectory(str(tmp_path / "a.nc"), [VariableRequest("tass")])
    assert list_variables(str(tmp_path / "a.nc")) == "flag, tas"


def test_what_is_not_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.nc").write_text("not a file of numbers")
    for entry, reason in (
        ("nothing.nc", "no such file"), ("*.h5", "no such file"), ("empty", "no NetCDF, Zarr or GRIB"),
        ("text.nc", "neither NetCDF, Zarr nor GRIB"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=reason):
            open_trajectory(str(tmp_path / entry), [VariableRequest("tas")])
    with pytest.raises(UserError, match="only Zarr stores are read from a URL"):
        open_trajectory("https://localhost/a.nc", [VariableRequest("tas")])


def test_grib_without_its_extra_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.grib").write_bytes(b"GRIB\x00\x00\x00\x02")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "cfgrib" else find(name, *a))
    with pytest.raises(UserError, match=r"a\.grib.*surrogate\[grib\]"):
        open_trajectory(str(tmp_path / "a.grib"), [VariableRequest("t")])


def test_provenance_is_of_the_bytes_read(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", "NETCDF3_CLASSIC")
    data = open_trajectory(str(tmp_path), [VariableRequest("tas")])
    content = (tmp_path / "a.nc").read_bytes()
    expected = {"path": str(tmp_path / "a.nc"), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert provenance(data) == [expected]


@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_64BIT_DATA"])
def test_many_threads_read_the_same_file(tmp_path: Path, form: str) -> None:
    values = write(tmp_path / "a.nc", form)

    def read(_: int) -> np.ndarray:
        data = open_trajectory(str(tmp_path / "a.nc"), [VariableRequest("tas")])
        return load_variable(data, "tas", allow_missing=False)

    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(read, range(12)):
            np.testing.assert_array_equal(got, values)


def test_grib_with_its_extra(tmp_path: Path) -> None:
    eccodes = pytest.importorskip("eccodes", reason="the grib extra is not installed")
    pytest.importorskip("cfgrib", reason="the grib extra is not installed")
    lat, lon = np.arange(90.0, -91, -10), np.arange(0.0, 360, 10)
    with open(tmp_path / "a.grib", "wb") as file:
        for hour in (0, 6, 12, 18):
            for level in (850, 500):
                message = eccodes.codes_grib_new_from_samples("regular_ll_pl_grib2")
                keys = {
                    "Ni": 36,
                    "Nj": 19,
                    "dataDate": 20200101,
                    "dataTime": hour * 100,
                    "shortName": "t",
                    "level": level,
                }
                for axis, first, last, letter in (("latitude", 90, -90, "j"), ("longitude", 0, 350, "i")):
                    keys |= {f"{axis}OfFirstGridPointInDegrees": first, f"{axis}OfLastGridPointInDegrees": last}
                    keys[f"{letter}DirectionIncrementInDegrees"] = 10
                for key, value in keys.items():
                    eccodes.codes_set(message, key, value)
                values = 250 + hour + level / 100 + lat[:, None] / 10 + lon / 1000
                eccodes.codes_set_values(message, values.ravel())
                eccodes.codes_write(message, file)
                eccodes.codes_release(message)
    data = open_trajectory(str(tmp_path / "a.grib"), [VariableRequest("t", (500.0, 850.0))])
    assert str(data.time_step) == "PT6H"
    got = load_variable(data, "t", 850, allow_missing=False)
    expected = 250 + 8.5 + np.arange(0, 24, 6)[:, None, None] + lat[::-1, None] / 10 + lon / 1000
    np.testing.assert_allclose(got, expected, atol=0.02)
    assert [p.name for p in tmp_path.iterdir()] == ["a.grib"]
