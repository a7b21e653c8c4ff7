"""LAMMPS running dynamics with an exported potential: the example is built as its page says, and compared with ASE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import re
import shutil
import subprocess

import numpy as np
from potentials import SPECIES, System, crystal, make_potential
import pytest
from surrogates import need

from surrogate.exporting.write import export_bundle

EXAMPLE = Path(__file__).parents[2] / "examples" / "lammps"
BAR_PER = 1.6021765e6  # bar in an eV/Å³, as LAMMPS' metal units have it
MASSES = (26.98, 63.55)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alloy(plugin, library, tmp_path_factory):  # type: ignore[no-untyped-def]
    out = tmp_path_factory.mktemp("lammps") / "alloy.sg"
    return export_bundle(
        make_potential("potential"), out, capacities=[(32, 64), (120, 64)], plugins={"cpu": str(plugin)}
    )


@pytest.fixture(scope="module")
def lmp(alloy, tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    """``lmp_surrogate``, by the lines of the example's page."""
    need("cmake")
    need("mpicxx")
    folder = tmp_path_factory.mktemp("lmp")
    if not any(Path(p, "lammps/lammps.h").is_file() for p in ("/usr/include", "/usr/local/include")):
        pytest.skip("the headers of LAMMPS are not installed (apt-get install liblammps-dev)")
    for command in (["cmake", "-S", str(EXAMPLE), "-B", "build", f"-DBUNDLE={alloy}"],
                    ["cmake", "--build", "build", "--target", "lmp_surrogate"]):  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "lmp_surrogate"


@dataclass(frozen=True)
class Trajectory:
    """What LAMMPS said, and what it wrote of atoms: a row each step that was written."""

    thermo: dict[str, np.ndarray]
    positions: np.ndarray  # (steps, n, 3)
    forces: np.ndarray
    output: str


def lammps(run, lmp: Path, alloy: Path, system: System, folder: Path, processes: int = 1, **variables) -> Trajectory:  # type: ignore[no-untyped-def]
    """Run ``in.nve``; the cell of ``system`` must have its vectors in LAMMPS' orientation."""
    cell, n = system.cell, len(system.numbers)
    low = np.where(system.pbc, 0.0, -20.0)  # room for what is not periodic
    high = np.where(system.pbc, np.diag(cell), 40.0)
    lines = ["an alloy", "", f"{n} atoms", "2 atom types", ""]
    lines += [f"{a:.17g} {b:.17g} {x}lo {x}hi" for a, b, x in zip(low, high, "xyz", strict=True)]
    if system.pbc.all():
        lines += [f"{cell[1, 0]:.17g} {cell[2, 0]:.17g} {cell[2, 1]:.17g} xy xz yz"]
    lines += ["", "Masses", "", *(f"{t + 1} {m}" for t, m in enumerate(MASSES)), "", "Atoms # atomic", ""]
    for i, (number, r) in enumerate(zip(system.numbers, system.positions, strict=True)):
        lines.append(f"{i + 1} {SPECIES.index(number) + 1} {r[0]:.17g} {r[1]:.17g} {r[2]:.17g}")
    (folder / "data").write_text("\n".join(lines) + "\n")
    settings = {"bundle": alloy, "data": folder / "data", "elements": "Al Cu", **variables}
    if not system.pbc.all():
        settings["boundary"] = " ".join("p" if p else "f" for p in system.pbc)
    words = [str(lmp), "-in", str(EXAMPLE / "in.nve"), "-log", "none"]
    for name, value in settings.items():
        words += ["-var", name, str(value)]
    if processes > 1:
        words = [need("mpirun"), "--allow-run-as-root", "--oversubscribe", "-n", str(processes), *words]
    inside = folder / f"run{processes}"
    inside.mkdir(exist_ok=True)
    # The working directory is where the dump goes.
    done = run("sh", "-c", 'cd "$0" && exec "$@"', inside, *words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    head, body = re.search(r"^ *(Step .*?)$(.*?)^Loop time", done.stdout, re.M | re.S).groups()  # type: ignore[union-attr]
    table = np.array([line.split() for line in body.strip().splitlines() if "WARNING" not in line], float)
    frames = (inside / "dump.nve").read_text().split("ITEM: TIMESTEP")[1:]
    atoms = np.array([[line.split() for line in f.split("fz\n")[1].split("\n")[:n]] for f in frames], float)
    thermo = dict(zip(head.split(), table.T, strict=True))
    return Trajectory(thermo, atoms[:, :, 2:5], atoms[:, :, 5:8], done.stdout)


def test_lammps_is_the_ase_calculator_and_conserves_energy(alloy, lmp, run, tmp_path) -> None:
    """A triclinic crystal at constant energy, 300 steps: forces, energy and pressure of the first and last are ASE's."""
    ase = pytest.importorskip("ase")
    from surrogate.exporting.ase_bundle import BundleCalculator

    system = crystal(2, skew=0.1)
    found = lammps(run, lmp, alloy, system, tmp_path, steps=300, temperature=0, every=10, step=0.0005)
    assert len(found.positions) == 31
    atoms = ase.Atoms(
        system.numbers, found.positions[0], cell=system.cell, pbc=True, calculator=BundleCalculator(alloy)
    )
    size = np.abs(found.forces[0]).max()
    for k in (0, -1):
        atoms.positions = found.positions[k]
        np.testing.assert_allclose(found.forces[k], atoms.get_forces(), atol=2e-6 * size)
        assert found.thermo["PotEng"][k] == pytest.approx(atoms.get_potential_energy(), abs=2e-6)
        assert found.thermo["c_total"][k] == pytest.approx(found.thermo["PotEng"][k], abs=1e-9)
    assert np.linalg.norm(found.positions[-1] - found.positions[0], axis=1).max() > 0.02
    # Without velocities the pressure is that of the virial.
    atoms.positions = found.positions[0]
    stress = atoms.get_stress()  # xx yy zz yz xz xy
    pressure = [found.thermo[name][0] for name in ("Pxx", "Pyy", "Pzz", "Pyz", "Pxz", "Pxy")]
    np.testing.assert_allclose(-np.array(pressure) / BAR_PER, stress, atol=3e-6 * np.abs(stress).max())
    drift = np.ptp(found.thermo["TotEng"])
    assert drift < 0.01 * np.ptp(found.thermo["PotEng"]), found.thermo["TotEng"]


def test_two_processes_are_one(alloy, lmp, run, tmp_path) -> None:
    """Each gives the library its ghosts; the forces on them go back through LAMMPS."""
    from test_atoms import bar

    system = bar()
    one, two = (
        lammps(run, lmp, alloy, system, tmp_path, processes, steps=40, temperature=200, every=20)
        for processes in (1, 2)
    )
    assert "2 by 1 by 1 MPI processor grid" in two.output
    assert np.abs(one.forces[0]).max() > 0.1
    for k, tolerance in ((0, 2e-6), (-1, 1e-4)):
        size = np.abs(one.forces[k]).max()
        np.testing.assert_allclose(two.forces[k], one.forces[k], atol=tolerance * size)
        assert two.thermo["PotEng"][k] == pytest.approx(one.thermo["PotEng"][k], abs=tolerance * 10)
    np.testing.assert_allclose(two.thermo["Pxx"][0], one.thermo["Pxx"][0], rtol=1e-4)


def test_lammps_is_told_what_a_system_needs(alloy, lmp, run, tmp_path) -> None:
    """More atoms than the largest program takes: LAMMPS stops with the sentence of the library."""
    system = crystal(5, skew=0.0)
    with pytest.raises(
        AssertionError, match=r"125 atoms with up to \d+ neighbors within 4 angstrom fit into no capacity"
    ):
        lammps(run, lmp, alloy, system, tmp_path, steps=1)
    shutil.rmtree(tmp_path / "run1")
    with pytest.raises(AssertionError, match="the potential does not know the element Fe"):
        lammps(run, lmp, alloy, crystal(2, skew=0.1), tmp_path, steps=1, elements="Al Fe")
