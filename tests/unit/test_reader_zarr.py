"""Zarr: both versions, consolidated or not, over HTTP, with chunks or codecs that must not pass."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
import http.server
import json
from pathlib import Path
import pickle
import shutil
import threading
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from surrogate.core.durations import Duration
from surrogate.core.types import UserError
from surrogate.data.netcdf import TrajectoryData, VariableRequest, load_variable, open_trajectory, provenance
from surrogate.data.zarr import ERA5_STATICS, ERA5_URL, check_codecs, open_era5

LAT = np.linspace(-87.1875, 87.1875, 16)
LON = np.arange(0, 360, 360 / 32)
LEVELS = [500, 700, 850]


def weatherbench(path: Path, version: int = 2, **options: Any) -> xr.Dataset:
    """A store in the layout of WeatherBench 2: (time, level, longitude, latitude), level in hPa, 6-hourly."""
    rng = np.random.default_rng(7)
    upper, surface = ("time", "level", "longitude", "latitude"), ("time", "longitude", "latitude")
    sizes = {"time": 12, "level": 3, "longitude": 32, "latitude": 16}

    def fields(dims: tuple[str, ...], mean: float, units: str) -> tuple[Any, ...]:
        return dims, rng.normal(mean, 10, [sizes[d] for d in dims]).astype("f4"), {"units": units}

    dataset = xr.Dataset(
        {
            "temperature": fields(upper, 260, "K"),
            "geopotential": fields(upper, 50000, "m**2 s**-2"),
            "2m_temperature": fields(surface, 285, "K"),
            "land_sea_mask": (("longitude", "latitude"), rng.uniform(0, 1, (32, 16)).astype("f4")),
        },
        {
            "time": np.datetime64("1959-01-01", "ns") + np.arange(12) * np.timedelta64(6, "h"),
            "level": ("level", LEVELS, {"units": "hPa"}),
            "longitude": ("longitude", LON, {"units": "degrees_east"}),
            "latitude": ("latitude", LAT, {"units": "degrees_north"}),
        },
    )
    dataset["temperature"].attrs["long_name"] = "Temperature"
    chunks = {"temperature": (5, 3, 32, 16), "geopotential": (5, 3, 32, 16), "2m_temperature": (5, 32, 16)}
    encoding = {name: {"chunks": size} for name, size in chunks.items()}
    dataset.to_zarr(path, zarr_format=version, encoding=encoding, **options)
    return dataset


def check_era5(data: TrajectoryData, written: xr.Dataset) -> None:
    assert data.dataset["temperature"].dims == ("time", "level", "latitude", "longitude")
    assert data.dataset["temperature"].attrs["long_name"] == "Temperature"
    assert data.time_step == Duration(seconds=21600)
    assert data.grid.periodic
    assert data.grid.has_poles
    for level in (850.0, 500.0):
        expected = written["temperature"].sel(level=level).transpose("time", "latitude", "longitude")
        np.testing.assert_array_equal(load_variable(data, "temperature", level, allow_missing=False), expected)
    expected = written["2m_temperature"].transpose("time", "latitude", "longitude")
    np.testing.assert_array_equal(load_variable(data, "2m_temperature", allow_missing=False), expected)


REQUESTS = [VariableRequest("temperature", (850.0, 500.0)), VariableRequest("2m_temperature")]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The directory over HTTP on the loopback interface, for as long as one test lasts."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("version", [2, 3])
def test_era5_over_http(tmp_path: Path, served: str, version: int) -> None:
    written = weatherbench(tmp_path / "era5.zarr", version, consolidated=True)
    check_era5(open_era5(REQUESTS, f"{served}/era5.zarr"), written)
    static = open_era5([VariableRequest(ERA5_STATICS[1])], f"{served}/era5.zarr", static=True)
    np.testing.assert_array_equal(
        load_variable(static, "land_sea_mask", allow_missing=False)[0], written["land_sea_mask"].T
    )
    assert provenance(static) == [{"path": f"{served}/era5.zarr", "bytes": None, "sha256": None}]
    with pytest.raises(UserError, match="did you mean 'temperature'"):
        open_era5([VariableRequest("temperatur")], f"{served}/era5.zarr")
    with pytest.raises(UserError, match="no Zarr group there"):
        open_era5(REQUESTS, f"{served}/absent.zarr")


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_chunk_missing_on_a_server_is_noticed(tmp_path: Path, served: str, caplog: pytest.LogCaptureFixture) -> None:
    weatherbench(tmp_path / "era5.zarr", 3, consolidated=True)
    (tmp_path / "era5.zarr" / "temperature" / "c" / "1" / "0" / "0" / "0").unlink()
    data = open_era5(REQUESTS, f"{served}/era5.zarr")
    load_variable(data, "2m_temperature", allow_missing=False)
    assert "absent" not in caplog.text
    with pytest.raises(UserError, match=r"missing at .*1959-01-02T06"):
        load_variable(data, "temperature", 850, allow_missing=True)
    assert "chunk temperature/c/1/0/0/0 is absent" in caplog.text


def test_the_default_store_is_the_public_one() -> None:
    assert ERA5_URL.startswith("gs://weatherbench2/datasets/era5/")


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_both_versions_with_and_without_consolidation(tmp_path: Path, version: int, consolidated: bool) -> None:
    written = weatherbench(tmp_path / "a.zarr", version, consolidated=consolidated)
    data = open_trajectory(str(tmp_path / "a.zarr"), REQUESTS)
    check_era5(data, written)
    record = provenance(data)[0]
    assert record["bytes"] == sum(p.stat().st_size for p in (tmp_path / "a.zarr").rglob("*") if p.is_file())
    assert len(record["sha256"]) == 64


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("fill", ["NaN", 0.0, -5.0])
def test_a_missing_chunk_is_noticed(tmp_path: Path, version: int, fill: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.zarr"
    weatherbench(path, version, consolidated=False)
    metadata = path / "geopotential" / (".zarray" if version == 2 else "zarr.json")
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"fill_value": fill}))
    chunk = "geopotential/1.0.0.0" if version == 2 else "geopotential/c/1/0/0/0"
    (path / chunk).unlink()
    data = open_trajectory(str(path), [VariableRequest("geopotential", (500.0,))])
    # A fill that means missing (NaN; in version 2 any but zero) leaves a hole that the check of values finds.
    hole = fill == "NaN" or (version == 2 and fill != 0.0)
    with pytest.raises(
        UserError, match=r"missing at .*1959-01-02T06" if hole else f"chunk {chunk} is absent and would"
    ):
        load_variable(data, "geopotential", allow_missing=True)
    assert (f"chunk {chunk} is absent and reads as missing" in caplog.text) == hole


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_missing_shard_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    weatherbench(path, 3)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    values = np.asarray(group["2m_temperature"])
    attributes = dict(group["2m_temperature"].attrs)
    shutil.rmtree(path / "2m_temperature")
    array = group.create_array(
        "2m_temperature", shape=values.shape, dtype="f4", chunks=(1, 32, 16), shards=(6, 32, 16),
        dimension_names=("time", "longitude", "latitude"), attributes=attributes,
    )  # fmt: skip
    array[:] = values
    zarr.consolidate_metadata(path)
    data = open_trajectory(str(path), [VariableRequest("2m_temperature")])
    np.testing.assert_array_equal(load_variable(data, "2m_temperature", allow_missing=False), values.transpose(0, 2, 1))
    (path / "2m_temperature" / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(UserError, match="chunk 2m_temperature/c/0/0/0 is absent"):
        load_variable(
            open_trajectory(str(path), [VariableRequest("2m_temperature")]), "2m_temperature", allow_missing=True
        )


def test_zeros_are_not_missing_where_zero_is_merely_zarrs_default(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    rain = np.random.default_rng(8).exponential(1, (4, 3, 5)).astype("f4")
    rain[1] = 0.0
    for name, data, dims, units in (
        ("rain", rain, ["time", "lat", "lon"], "mm"), ("time", np.arange(4) + 1, ["time"], "days since 2000-01-01"),
        ("lat", np.array([-1.0, 0.5, 1.0]), ["lat"], "degrees_north"),
        ("lon", np.arange(5.0), ["lon"], "degrees_east"),
    ):  # fmt: skip
        array = group.create_array(name, shape=data.shape, dtype=data.dtype, fill_value=0, chunks=data.shape)
        array[...] = data
        array.attrs.update({"_ARRAY_DIMENSIONS": dims, "units": units})
    data = open_trajectory(str(tmp_path / "a.zarr"), [VariableRequest("rain")])
    np.testing.assert_array_equal(load_variable(data, "rain", allow_missing=False), rain)


class Trap:
    """Unpickling this writes a file: what a codec that runs code would do."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("consolidated", [True, False])
def test_a_pickle_codec_is_refused_and_never_run(tmp_path: Path, consolidated: bool) -> None:
    path = tmp_path / "a.zarr"
    weatherbench(path, 2, consolidated=consolidated)
    metadata = json.loads((path / "2m_temperature" / ".zarray").read_text())
    metadata.update(filters=[{"id": "pickle"}], compressor=None, dtype="|O", fill_value=None)
    (path / "2m_temperature" / ".zarray").write_text(json.dumps(metadata))
    if consolidated:
        whole = json.loads((path / ".zmetadata").read_text())
        whole["metadata"]["2m_temperature/.zarray"] = metadata
        (path / ".zmetadata").write_text(json.dumps(whole))
    for chunk in (path / "2m_temperature").glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Trap(str(tmp_path / "ran"))))
    with pytest.raises(UserError, match=r"'2m_temperature' uses the codec 'pickle', which runs code"):
        open_trajectory(str(path), REQUESTS)
    assert not (tmp_path / "ran").exists()


def test_codecs_inside_shards_and_unknown_ones() -> None:
    inner = [{"name": "bytes"}, {"name": "numcodecs.pickle"}]
    shard = {"name": "sharding_indexed", "configuration": {"codecs": inner, "index_codecs": [{"name": "crc32c"}]}}
    with pytest.raises(UserError, match=r"numcodecs\.pickle"):
        check_codecs({"zarr_format": 3, "codecs": [shard]}, "a", "store")
    with pytest.raises(UserError, match="my-own"):
        check_codecs({"zarr_format": 3, "codecs": [{"name": "my-own"}]}, "a", "store")
    check_codecs({"zarr_format": 3, "codecs": [{"name": "bytes"}, {"name": "zstd"}, {"name": "crc32c"}]}, "a", "store")


def test_a_store_that_needs_a_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    from zarr.storage import FsspecStore

    def absent(*_: Any, **__: Any) -> None:
        raise ImportError("gcsfs")

    monkeypatch.setattr(FsspecStore, "from_url", absent)
    with pytest.raises(UserError, match=r"gs:// needs gcsfs.*surrogate\[cloud\]"):
        open_era5(REQUESTS)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_groups_and_stores_in_a_directory(tmp_path: Path) -> None:
    written = weatherbench(tmp_path / "deep.zarr", 3, group="runs/first")
    check_era5(open_trajectory(f"{tmp_path / 'deep.zarr'}#/runs/first", REQUESTS), written)
    with pytest.raises(UserError, match="no Zarr group at 'runs/second'"):
        open_trajectory(f"{tmp_path / 'deep.zarr'}#/runs/second", REQUESTS)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_store_that_grew_step_by_step_may_lack_its_first_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = weatherbench(tmp_path / "whole.zarr", 3)
    for step in range(12):
        time = {"chunks": (1,), "units": "hours since 1959-01-01", "dtype": "int64"}
        how: dict[str, Any] = {"append_dim": "time"} if step else {"encoding": {"time": time}}
        written[["2m_temperature"]].isel(time=[step]).to_zarr(tmp_path / "a.zarr", zarr_format=3, **how)
    assert not (tmp_path / "a.zarr" / "time" / "c" / "0").exists()
    data = open_trajectory(str(tmp_path / "a.zarr"), [VariableRequest("2m_temperature")])
    assert str(data.timeline.time[0])[:13] == "1959-01-01T00"
    assert set(data.timeline.segment) == {0}
    assert "chunk time/c/0 is absent and reads as zero" in caplog.text
    (tmp_path / "a.zarr" / "time" / "c" / "5").unlink()
    with pytest.raises(UserError, match="chunk time/c/5 is absent"):
        open_trajectory(str(tmp_path / "a.zarr"), [VariableRequest("2m_temperature")])
