"""Values: packing, fills, valid ranges, and what must not pass as a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from surrogate.core.types import UserError
from surrogate.data.checks import undeclared_fill
from surrogate.data.decoding import decoding_of
from surrogate.data.netcdf import VariableRequest, load_variable, open_trajectory

SHAPE = (5, 4, 6)


def write(path: Path, stored: np.ndarray, day: int = 0, **attrs: Any) -> str:
    """Numbers exactly as stored, with the attributes given."""
    xr.Dataset(
        {"v": (("time", "lat", "lon"), stored, attrs)},
        {
            "time": ("time", np.arange(len(stored)) + day, {"units": "days since 2000-01-01"}),
            "lat": ("lat", [-45.0, -15.0, 15.0, 45.0], {"units": "degrees_north"}),
            "lon": ("lon", np.arange(0.0, 360, 60), {"units": "degrees_east"}),
        },
    ).to_netcdf(path, engine="h5netcdf", encoding={"v": {"_FillValue": None}} if "_FillValue" not in attrs else None)
    return str(path)


def read(path: str, allow_missing: bool = False, **options: Any) -> np.ndarray:
    data = open_trajectory(path, [VariableRequest("v")], **options)
    return load_variable(data, "v", allow_missing=allow_missing)


def temperatures(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(220, 310, SHAPE).astype(np.float32)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "u1", "u2"])
def test_packed_integers_are_unpacked_in_double_precision(tmp_path: Path, dtype: str) -> None:
    limits = np.iinfo(dtype)
    stored = np.random.default_rng(1).integers(limits.min // 2, limits.max // 2, SHAPE).astype(dtype)
    scale, offset = 0.0008410823912189279, 295.92633727130436
    got = read(write(tmp_path / "a.nc", stored, scale_factor=scale, add_offset=offset))
    expected = np.array([float(v) * scale + offset for v in stored.ravel()]).reshape(SHAPE)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected.astype(np.float32))


def test_files_packed_differently_join_to_the_same_values(tmp_path: Path) -> None:
    whole = temperatures().astype(np.float64)
    for name, scale, day in (("a", 0.01, 0), ("b", 0.005, 5)):
        stored = np.rint((whole - 265) / scale).astype("i2")
        write(tmp_path / f"{name}.nc", stored, day, scale_factor=scale, add_offset=265.0)
    got = read(str(tmp_path))
    np.testing.assert_allclose(got[:5], whole, atol=0.0051)
    np.testing.assert_allclose(got[5:], whole, atol=0.0026)


@pytest.mark.parametrize(
    ("dtype", "attrs", "stored"),
    [
        ("f4", {"_FillValue": np.float32(-999)}, -999),
        ("f4", {"missing_value": np.float32(1e20)}, 1e20),
        ("f4", {"missing_value": 1e20}, 1e20),  # a double mark on single values
        ("f8", {"missing_value": np.float32(1e20)}, 1e20),
        ("f4", {"_FillValue": np.float32(-1e30), "missing_value": np.float32(-999)}, -999),
        ("f4", {"_FillValue": np.float32(-1e30), "missing_value": np.float32(-999)}, -1e30),
        ("f4", {"missing_value": np.array([-1.0, -2.0])}, -2),
        ("i2", {"missing_value": np.int32(-9999), "scale_factor": 0.01}, -9999),
        ("f4", {"valid_range": np.array([100, 400], "f4")}, 99),
        ("f4", {"valid_min": np.float32(100)}, -5),
        ("f4", {"valid_max": np.float32(400)}, 401),
        ("i2", {"valid_max": np.int16(400), "scale_factor": 0.1}, 401),  # a range in stored numbers
        ("i2", {"valid_max": 40.0, "scale_factor": 0.1}, 401),  # and in physical ones, by its type
    ],
)
def test_declared_missing_values_become_nan(tmp_path: Path, dtype: str, attrs: dict[str, Any], stored: float) -> None:
    values = temperatures().astype(dtype)
    values[:, 2, 3] = stored
    got = read(write(tmp_path / "a.nc", values, **attrs), allow_missing=True)
    assert np.isnan(got[:, 2, 3]).all()
    assert np.isnan(got).sum() == 5
    with pytest.raises(UserError, match=r"v: 5 values are missing.*a\.nc, time 2000-01-01.*latitude 15, longitude 180"):
        read(str(tmp_path / "a.nc"))


def test_the_bounds_of_a_valid_range_are_valid() -> None:
    values = np.array([0.1, 0.2, 0.3], np.float32)
    rule = decoding_of({"valid_range": np.array([0.1, 0.3])}, values.dtype, (), "v")
    np.testing.assert_array_equal(rule(values), values)


def test_unsigned_bytes() -> None:
    rule = decoding_of({"_Unsigned": "true", "scale_factor": 0.5}, np.dtype("i1"), (), "v")
    np.testing.assert_array_equal(rule(np.array([0, 127, -128, -1], "i1")), [0, 63.5, 64, 127.5])
    rule = decoding_of({"_Unsigned": "true", "_FillValue": np.int16(-1)}, np.dtype(">i2"), (), "v")
    np.testing.assert_array_equal(rule(np.array([1, -2, -1], ">i2")), [1, 65534, np.nan])


@pytest.mark.parametrize("attrs", [{"scale_factor": 0.0}, {"valid_range": np.array([1.0])}, {"_FillValue": "none"}])
def test_attributes_that_make_no_sense(attrs: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"a.nc"):
        decoding_of(attrs, np.dtype("f4"), (), "a.nc")


@pytest.mark.parametrize(
    "fill", [9.969209968386869e36, 1e20, -1e20, 1e36, -9e33, -999.0, -9999.0, -99.9, 9999.0, -32767.0, 99999.0]
)
def test_an_undeclared_fill_is_an_error_that_says_how_to_declare_it(tmp_path: Path, fill: float) -> None:
    values = temperatures()
    values[3, 1, 2] = fill
    path = write(tmp_path / "a.nc", values)
    with pytest.raises(
        UserError, match=r"v: 1 values of .*a\.nc, time 2000-01-04.*latitude -15, longitude 120.*fill_values"
    ) as e:
        read(path, allow_missing=True)
    declared = float(str(e.value).split("fill_values: [")[1].rstrip("]"))
    assert np.float32(declared) == np.float32(fill)
    with pytest.raises(UserError, match=r"missing at .*a\.nc, time 2000-01-04"):
        read(path, allow_missing=True, fill_values=[declared])
    values[:, 1, 2] = fill
    got = read(write(tmp_path / "b.nc", values), allow_missing=True, fill_values=[declared])
    assert np.isnan(got).sum() == 5


def test_the_default_fill_of_packed_integers(tmp_path: Path) -> None:
    stored = np.random.default_rng(2).integers(-3000, 3000, SHAPE).astype("i2")
    stored[:, 0, 0] = -32767
    path = write(tmp_path / "a.nc", stored, scale_factor=0.01, add_offset=273.15)
    with pytest.raises(UserError, match=r"-54\.5\d* look like a fill"):
        read(path, allow_missing=True)
    got = read(path, allow_missing=True, fill_values=[-32767])
    assert np.isnan(got).sum() == 5


def test_sentinels_that_are_data_pass() -> None:
    rng = np.random.default_rng(3)
    depth = np.rint(rng.uniform(-6000, 3000, 20000)).astype(np.float32)  # whole metres, -999 among them
    depth[7] = -999
    pressure = rng.uniform(950, 1050, 5000).astype(np.float32)
    pressure[:3] = 999.0
    heat = (rng.uniform(-1, 1, 5000) * 1e22).astype(np.float32)
    for values in (depth, pressure, heat, np.zeros(10, np.float32), np.full(10, 999, np.float32)):
        assert undeclared_fill(values, np.isfinite(values)) is None


def test_sentinels_inside_the_range_are_found_by_their_number() -> None:
    flux = np.random.default_rng(4).uniform(-2000, 2000, 20000).astype(np.float32)
    flux[:300] = -999
    assert undeclared_fill(flux, np.isfinite(flux)) == -999


def test_a_mask_constant_in_time_passes_and_a_changing_one_does_not(tmp_path: Path) -> None:
    values = temperatures()
    values[:, :2, 1] = np.nan
    got = read(write(tmp_path / "a.nc", values), allow_missing=True)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(values))
    values[2, 3, 5] = np.nan
    with pytest.raises(UserError, match=r"v: missing at .*b\.nc, time 2000-01-03T00:00:00, latitude 45, longitude 300"):
        read(write(tmp_path / "b.nc", values), allow_missing=True)
    values[4, 0, 0] = np.inf
    with pytest.raises(UserError, match=r"infinite at .*c\.nc, time 2000-01-05"):
        read(write(tmp_path / "c.nc", values), allow_missing=True)
    with pytest.raises(UserError, match="nothing but missing"):
        read(write(tmp_path / "d.nc", np.full(SHAPE, np.nan, "f4")), allow_missing=True)


def test_the_file_named_is_the_one_that_holds_the_time(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", temperatures(0), 0)
    bad = temperatures(1)
    bad[1, 0, 0] = np.nan
    write(tmp_path / "b.nc", bad, 5)
    with pytest.raises(UserError, match=r"b\.nc, time 2000-01-07") as refusal:
        read(str(tmp_path))
    assert "a.nc" not in str(refusal.value)
