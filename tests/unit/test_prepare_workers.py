"""Preparing by Dask's workers: the bytes of the serial store, whoever is killed on the way."""

from __future__ import annotations

from functools import partial
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import xarray as xr

from surrogate.cli import load_experiment
from surrogate.core.types import UserError
from surrogate.data.cluster import Workers, working
from surrogate.data.source import Source
from surrogate.domains.fields import Fields
from surrogate.run.prepare_store import prepare_store

distributed = pytest.importorskip("distributed")

FILES, TIMES, SHAPE = 14, 20, (60, 120)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Many trajectories with a mask of land that is a block in its own."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(5)
    lat = (np.arange(SHAPE[0]) + 0.5) * 180 / SHAPE[0] - 90
    lon = np.arange(SHAPE[1]) * 360 / SHAPE[1]
    land = rng.random(SHAPE) < 0.3
    for number in range(FILES):
        values = (280 + rng.normal(size=(TIMES, *SHAPE)) * (1 + np.abs(lat))[:, None]).astype("f4")
        values[:, land] = np.nan
        time = np.datetime64("2001-01-01", "ns") + (number * 100 + np.arange(TIMES)) * np.timedelta64(1, "D")
        xr.Dataset(
            {"sst": (("time", "latitude", "longitude"), values, {"units": "K"})},
            {
                "time": time,
                "latitude": ("latitude", lat, {"units": "degrees_north"}),
                "longitude": ("longitude", lon, {"units": "degrees_east"}),
            },
        ).to_netcdf(folder / f"{number:02d}.nc", engine="h5netcdf")
    paths = ",".join(str(folder / f"{n:02d}.nc") for n in range(FILES))
    return [
        f"data.paths=[{paths}]", "data.variables=[sst]", "data.leads=[1D]", "data.anomaly=month",
        "data.split={train:[0.0,0.7],valid:[0.7,0.85],test:[0.85,1.0]}", "data.memory_gb=0.00001",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def serial(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return tree(prepare_store(load_experiment("", settings), str(tmp_path_factory.mktemp("serial") / "a.zarr")))


@pytest.fixture(scope="module")
def client() -> Any:
    with working("2", "") as client:
        yield client


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def address(client: Any) -> str:
    return client.scheduler_info()["address"]


def test_workers_make_the_bytes_of_the_serial_store(
    settings: list[str], serial: dict[str, bytes], client: Any, tmp_path: Path
) -> None:
    """Statistics, shards and manifest: the order of sums does not depend on who works."""
    out = prepare_store(load_experiment("", settings), str(tmp_path / "b.zarr"), scheduler=address(client))
    assert tree(out) == serial
    assert sum("/prognostic/c/" in name for name in serial) == FILES


def killed_once(source: Source, block: tuple[Path, int]) -> int:
    """Of block 3 the first worker dies."""
    marker, number = block
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * len(source.timelines)


def killed_always(source: Source, block: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_one_that_always_dies_is_named(
    settings: list[str], client: Any, tmp_path: Path
) -> None:
    pool = Workers(client, partial(Fields.open_blocks, load_experiment("", settings).data))
    blocks = [(tmp_path / "killed", number) for number in range(8)]
    assert list(pool.each(killed_once, blocks)) == [FILES * number for number in range(8)]
    assert (tmp_path / "killed").exists()
    with pytest.raises(UserError, match="died again and again at one block"):
        list(pool.each(killed_always, [0]))


@pytest.mark.slow
def test_a_preparation_that_is_killed_goes_on_to_the_same_bytes(
    settings: list[str], serial: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "c.zarr"
    command = [sys.executable, "-m", "surrogate.prepare", f"out={out}", "workers=2", *settings]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path)
    log = out / ".done.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") > 2):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (out / "manifest.json").exists()
    done = {
        name: (out / name).stat().st_mtime_ns for name in serial if (out / name).exists() and "/prognostic/c/" in name
    }
    assert len(done) > 2
    subprocess.run(command, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert tree(out) == serial
    kept = sum((out / name).stat().st_mtime_ns == written for name, written in done.items())
    assert kept > 2, "the shards that were done are not written again"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"workers": "two"}, "expected a number of processes"),
        ({"workers": "0"}, "expected a number of processes"),
        ({"workers": "2", "scheduler": "tcp://127.0.0.1:1"}, "give one"),
        ({"scheduler": "no/such/file.json"}, "no Dask scheduler answers there"),
    ],
)
def test_mistakes_are_one_sentence(settings: list[str], tmp_path: Path, options: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare_store(load_experiment("", settings), str(tmp_path / "d.zarr"), **options)


def test_errors_of_the_data_come_back_from_the_workers(settings: list[str], client: Any, tmp_path: Path) -> None:
    """With the names in them, as without workers."""
    first = settings[0].removeprefix("data.paths=[").split(",")[0]
    data = xr.load_dataset(first)
    data["sst"][4, 7, 30] = np.inf
    data.to_netcdf(tmp_path / "inf.nc", engine="h5netcdf")
    words = [f"data.paths=[{tmp_path}/inf.nc]", "data.anomaly=none", *(s for s in settings[1:] if "anomaly" not in s)]
    messages = []
    for options in ({}, {"scheduler": address(client)}):
        with pytest.raises(UserError, match=r"sst: infinite at .*inf\.nc") as caught:
            prepare_store(load_experiment("", words), str(tmp_path / "e.zarr"), **options)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
