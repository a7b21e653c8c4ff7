"""The climate example as its README says: trained, exported, and stepped in C, C++, Fortran and under MPI."""

from __future__ import annotations

import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from surrogates import need
import xarray as xr

from surrogate.cli import load_experiment
from surrogate.data.simulate import HeldSuarezConfig, held_suarez
from surrogate.run.loop import run_training
from surrogate.run.surrogate_files import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "climate"
FIELDS = ("temperature", "u_component_of_wind", "v_component_of_wind", "surface_pressure", "z500")
MEMBERS, STEPS = 3, 4
pytestmark = pytest.mark.slow


def shell(words: list[object], cwd: Path, **extra: str) -> str:
    done = subprocess.run(
        [str(w) for w in words], capture_output=True, text=True, cwd=cwd, env={**os.environ, **extra}, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def record() -> Path:
    """The shortest record whose climate is that of the experiment: its grid, its levels, its variables."""
    return held_suarez(HeldSuarezConfig(days=16, spin_up_days=1, levels=4, truncation=10))


@pytest.fixture(scope="module")
def trained(record: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("climate") / "run"
    settings = [
        "data.simulate={days: 16, spin_up_days: 1, levels: 4, truncation: 10}", "data.leads=[1D]", "model=mlp",
        "model.hidden=16", "model.layers=1", "train.steps=6", "train.batch_size=4", "evaluate.rollout=", "evaluate.max_samples=4",
        f"run.dir={directory}",
    ]  # fmt: skip
    assert run_training(load_experiment("climate", settings), quiet=True).status == "complete"
    return directory


@pytest.fixture(scope="module")
def built(trained: Path, record: Path, plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README does: bundle, states, and the programs compiled in a copy of the bundle."""
    for tool in ("gfortran", "c++", "mpif90", "mpirun"):
        need(tool)
    work = tmp_path_factory.mktemp("callers")
    shell(
        [
            sys.executable,
            "-m",
            "surrogate.export",
            f"run={trained}",
            "out=climate.sg",
            "batches=[1]",
            "platforms=[cpu]",
        ],
        work,
    )
    words = [sys.executable, EXAMPLE / "states.py", "climate.sg", record, "states.bin", "--members", MEMBERS]
    shell(words, work)
    build = Path(shutil.copytree(work / "climate.sg", work / "build"))
    for name in ("climate.c", "climate.cpp", "climate.F90"):
        shutil.copy(EXAMPLE / name, build)
    text = (EXAMPLE / "README.md").read_text()
    commands = re.findall(r"^ +((?:cc|c\+\+|gfortran|mpif90) .*)$", text, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        words = command.replace("$PWD", str(build)).split()
        shell(
            [w for word in words for w in (sorted(p.name for p in build.glob(word)) if "*" in word else [word])], build
        )
    return build


def fields(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    values, place, found = np.fromfile(path, np.float32), 0, {}
    for name in FIELDS:
        size = MEMBERS * int(np.prod(shapes[name]))
        found[name] = values[place : place + size].reshape(MEMBERS, *shapes[name])
        place += size
    assert place == len(values)
    return found


def test_every_language_forecasts_what_the_surrogate_forecasts(
    trained: Path, record: Path, built: Path, plugin: Path
) -> None:
    """Bits of C, C++ and Fortran are equal; two ranks and ``rollout`` differ by rounding, their batches being others."""
    where = {"SURROGATE_PLUGIN": str(plugin)}
    for program in ("climate_c", "climate_cpp", "climate_f"):
        text = shell(
            [f"./{program}", "../climate.sg", "../states.bin", MEMBERS, STEPS, f"{program}.bin"], built, **where
        )
        assert text.count("mean of temperature") == STEPS
    words = [
        "mpirun",
        "--allow-run-as-root",
        "--oversubscribe",
        "-n",
        2,
        "./climate_mpi",
        "../climate.sg",
        "../states.bin",
    ]
    text = shell([*words, MEMBERS, STEPS, "mpi.bin"], built, PJRT_NPROC="1", **where)
    assert "rank 1" in text
    reference = (built / "climate_c.bin").read_bytes()
    assert (built / "climate_cpp.bin").read_bytes() == reference
    assert (built / "climate_f.bin").read_bytes() == reference

    with xr.open_dataset(record, engine="h5netcdf") as data:
        starts = data.isel(time=np.linspace(0, data.sizes["time"] - 1, MEMBERS).astype(int)).load()
    surrogate = load(trained)
    forecasts = [surrogate.rollout(starts.isel(time=[k]), f"{STEPS}D") for k in range(MEMBERS)]
    shapes = {name: starts[name].shape[1:] for name in FIELDS}
    for file in ("climate_c.bin", "mpi.bin"):
        for name, got in fields(built / file, shapes).items():
            assert np.isfinite(got).all()
            for k, forecast in enumerate(forecasts):
                wanted = forecast[name].isel(init_time=0, lead_time=-1)
                # rollout may give latitude in another order than the record.
                if "latitude" in wanted.dims:
                    wanted = wanted.sel(latitude=starts["latitude"], longitude=starts["longitude"])
                spread = float(starts[name].std())
                np.testing.assert_allclose(
                    got[k], wanted.to_numpy(), rtol=2e-5, atol=2e-5 * spread, err_msg=f"{file} {name}"
                )
