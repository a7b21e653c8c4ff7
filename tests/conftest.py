"""Shared fixtures: small data made here, and the shared real data where they are."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest
import xarray as xr

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory() -> Iterator[None]:
    """Forget compiled programs, thousands in the end, where a process has grown large; to do so always would compile twice."""
    yield
    statm = Path("/proc/self/statm")
    if statm.exists() and int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 2.5e9:
        jax.clear_caches()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of shared real data; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared data are not on this machine")
    return SHARED


def waves(times: int = 120, height: int = 8, width: int = 16, seed: int = 0) -> xr.Dataset:
    """Daily fields of two variables: waves that travel eastward, and their square. Predictable, not trivial."""
    rng = np.random.default_rng(seed)
    lat = (np.arange(height) + 0.5) * 180 / height - 90
    lon = np.arange(width) * 360 / width
    phase, cosine = np.deg2rad(lon), np.cos(np.deg2rad(lat))
    total = np.zeros((times, height, width))
    for m in (1, 2, 3):
        amplitude = np.zeros(times, complex)
        for t in range(1, times):
            noise = rng.normal() + 1j * rng.normal()
            amplitude[t] = 0.95 * amplitude[t - 1] * np.exp(-0.5j * m) + 0.3 * noise
        total += np.real(amplitude[:, None, None] * np.exp(1j * m * phase)) * (cosine**m)[:, None]
    time = np.datetime64("2001-01-01", "ns") + np.arange(times) * np.timedelta64(1, "D")
    dims = ("time", "latitude", "longitude")
    return xr.Dataset(
        {
            "tas": (dims, (280 + total).astype("f4"), {"units": "K", "standard_name": "air_temperature"}),
            "psl": (dims, (1e5 + 100 * total**2).astype("f4"), {"units": "Pa"}),
        },
        {
            "time": time,
            "latitude": ("latitude", lat, {"units": "degrees_north", "standard_name": "latitude"}),
            "longitude": ("longitude", lon, {"units": "degrees_east", "standard_name": "longitude"}),
        },
    )


@pytest.fixture(scope="session")
def waves_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "waves.nc"
    waves().to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture(scope="session")
def tiny_settings(waves_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a run that takes seconds."""
    cache = tmp_path_factory.mktemp("xla")
    return [
        f"data.paths=[{waves_file}]", "data.variables=[tas,psl]", "data.leads=[1D,2D]",
        "data.split={train:[0.0,0.7],valid:[0.7,0.8],test:[0.8,1.0]}",
        "model=mlp", "model.hidden=16", "model.layers=1",
        "train.steps=12", "train.batch_size=4", "train.log_every=2", "train.valid_every=6", "train.checkpoint_every=4",
        f"run.compilation_cache={cache}",
    ]  # fmt: skip
