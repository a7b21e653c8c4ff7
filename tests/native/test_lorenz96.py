"""The Fortran example from training to MPI: its closure beats none, and two ranks give the bits of one."""

from __future__ import annotations

import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest
from surrogates import need

EXAMPLE = Path(__file__).parents[2] / "examples" / "fortran_lorenz96"
pytestmark = pytest.mark.slow


def shell(*words: object, cwd: Path, **extra: str) -> str:
    done = subprocess.run(
        [str(w) for w in words], capture_output=True, text=True, cwd=cwd, env={**os.environ, **extra}, timeout=1200
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as its README says: trained for less long, exported, compiled in a copy of the Bundle."""
    need("gfortran")
    directory = tmp_path_factory.mktemp("lorenz96")
    words = ("--members", 24, "--times", 12, "--steps", 800)
    shell(sys.executable, EXAMPLE / "train_closure.py", directory / "work", *words, cwd=directory)
    build = Path(shutil.copytree(directory / "work" / "closure.sg", directory / "build"))
    for name in ("ring.F90", "lorenz96.F90"):
        shutil.copy(EXAMPLE / name, build)
    text = (EXAMPLE / "README.md").read_text()
    found = re.search(r"    (cc -std=c11 .*?-lpthread)", text, re.DOTALL)
    assert found is not None
    words = found[1].replace("\\\n", " ").split()
    shell(
        *(w for word in words for w in (sorted(p.name for p in build.glob(word)) if "*" in word else [word])), cwd=build
    )
    found = re.search(r"    (gfortran -O2 .*)", text)
    assert found is not None
    shell(*found[1].replace("$PWD", str(build)).split(), cwd=build)
    settings = (directory / "work" / "polynomial.nml").read_text() + "&run members=16, length=6 /\n"
    (build / "settings.nml").write_text(settings)
    return build


@pytest.fixture(scope="module")
def serial(built: Path, plugin: Path) -> str:
    words = ("./lorenz96", "../work/closure.sg", "settings.nml", "states.bin")
    return shell(*words, cwd=built, SURROGATE_PLUGIN=str(plugin))


def table(text: str) -> dict[str, list[float]]:
    rows = [line.split() for line in text.splitlines()[1:5]]
    return {row[0]: [float(v) for v in row[1:]] for row in rows}


def test_the_learned_closure_beats_none_and_keeps_the_climate(serial: str) -> None:
    runs = table(serial)
    _, _, distance, soon, later = (0, 1, 2, 3, 4)
    for column in (distance, soon, later):
        assert runs["surrogate"][column] < 0.7 * runs["none"][column], serial
    # Means and deviations of X within a tenth of the truth's deviation; without a closure they are not.
    mean, deviation = runs["truth"][:2]
    assert abs(runs["surrogate"][0] - mean) < 0.1 * deviation < abs(runs["none"][0] - mean)
    assert abs(runs["surrogate"][1] - deviation) < 0.1 * deviation
    share = float(re.search(r"outside the training data: +([\d.]+)", serial)[1])  # type: ignore[index]
    assert share < 0.05


def test_two_ranks_give_the_bits_of_one(built: Path, serial: str, plugin: Path) -> None:
    for tool in ("mpif90", "mpirun"):
        need(tool)
    found = re.search(r"    mpif90 (.*)", (EXAMPLE / "README.md").read_text())
    assert found is not None
    shell("mpif90", *found[1].replace("$PWD", str(built)).split(), cwd=built)
    root = ("--allow-run-as-root",) if os.geteuid() == 0 else ()
    words = (
        "mpirun",
        *root,
        "--oversubscribe",
        "-n",
        2,
        "./lorenz96_mpi",
        "../work/closure.sg",
        "settings.nml",
        "mpi.bin",
    )
    text = shell(*words, cwd=built, SURROGATE_PLUGIN=str(plugin), PJRT_NPROC="1")
    assert (built / "mpi.bin").read_bytes() == (built / "states.bin").read_bytes()
    assert table(text) == table(serial)
