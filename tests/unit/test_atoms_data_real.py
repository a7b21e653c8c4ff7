"""Real data of the field, against values read by plain json, numpy and netCDF4, and against physics."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
import re

import numpy as np
import pytest

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_checks import check_copied_stress
from surrogate.data.atoms_consistency import check_consistency, measure_consistency
from surrogate.data.atoms_labels import AtomsUnits, Labels
from surrogate.data.atoms_source import AtomsDataConfig, open_atoms, read_atoms

# Frames in (train, test), mean |E| error of a constant per atom in meV, mean |F| in eV/Å: as the data's own page says.
MLEARN = {
    "Ni": (263, 31, 151, 0.498),
    "Cu": (262, 31, 135, 0.451),
    "Si": (214, 25, 286, 0.566),
    "Li": (241, 29, 50, 0.206),
}
HARTREE, BOHR, KCAL = 27.211386245988, 0.529177210903, 0.0433641


def plain(path: Path) -> list[tuple[str, list[list[str]]]]:
    """Second line and words of the atoms of each frame, by the shortest code there is."""
    lines, frames, at = path.read_text().splitlines(), [], 0
    while at < len(lines):
        count = int(lines[at])
        frames.append((lines[at + 1], [line.split() for line in lines[at + 2 : at + count + 2]]))
        at += count + 2
    return frames


def assert_like_plain(frames: Frames, path: Path, *, forces: bool = True) -> None:
    expected = plain(path)
    assert len(frames) == len(expected)
    for i in range(0, len(expected), 7):
        header, atoms = expected[i]
        part = frames[i]
        assert part.row_size[0] == len(atoms)
        assert part.energy[0] == float(re.search(r"energy=(\S+)", header)[1])
        np.testing.assert_array_equal(part.positions, [[float(v) for v in a[1:4]] for a in atoms])
        if forces:
            np.testing.assert_array_equal(part.forces, [[float(v) for v in a[4:7]] for a in atoms])
        lattice = re.search(r'Lattice="([^"]*)"', header)
        assert part.cell.ravel().tolist() == ([float(v) for v in lattice[1].split()] if lattice else [0] * 9)


@pytest.mark.parametrize("element", MLEARN)
def test_mlearn(shared_data: Path, element: str) -> None:
    paths = {name: shared_data / "mlearn" / f"{element}_{name}.extxyz" for name in ("train", "test")}
    splits = open_atoms(AtomsDataConfig(paths=(str(paths["train"]),), test_paths=(str(paths["test"]),)))
    num_train, num_test, energy_error, force_size = MLEARN[element]
    assert {k: len(v) for k, v in splits.items()} == {
        "train": num_train - round(num_train / 10), "valid": round(num_train / 10), "test": num_test,
    }  # fmt: skip
    train, test = read_atoms(str(paths["train"])), splits["test"]
    assert_like_plain(test, paths["test"])
    assert test.pbc.all()
    assert test.stats()["atoms_by_element"].keys() == {element}
    assert np.abs(test.forces).mean() == pytest.approx(force_size, abs=5e-4)
    constant = (train.energy / train.row_size).mean()
    assert np.abs(test.energy / test.row_size - constant).mean() * 1e3 == pytest.approx(energy_error, rel=0.05)


@pytest.mark.parametrize("element", ["Cu", "Ni", "Si"])
def test_mlearn_forces_and_stress_belong_to_the_energies(shared_data: Path, element: str) -> None:
    """The published six numbers of the training sets are kbar, positive under compression, in VASP's order: by the work they do."""
    labels = Labels(stress="virial_stress_raw", units=AtomsUnits(stress="kbar"), stress_convention="compression",
                    stress_order="xx,yy,zz,xy,yz,xz")  # fmt: skip
    found = measure_consistency(read_atoms(str(shared_data / "mlearn" / f"{element}_train.extxyz"), labels))
    assert found.explained > 0.97
    assert found.forces[0] == pytest.approx(1, abs=0.12)
    if found.stress is not None:
        assert found.stress[0] == pytest.approx(1, abs=0.1)
    assert element == "Cu" or found.stress is not None
    if element == "Si":  # whose lattices are skew enough to tell the orders apart
        wrong = replace(labels, stress_order="xx,yy,zz,yz,xz,xy")
        with pytest.raises(
            UserError, match=r"when the last three components of the stress are xy,yz,xz and not yz,xz,xy"
        ):
            check_consistency(read_atoms(str(shared_data / "mlearn" / "Si_train.extxyz"), wrong))


def test_mlearn_stress_of_the_test_set_is_a_copy(shared_data: Path) -> None:
    """The test files carry the stresses of the first training frames; asking for them is refused."""
    paths = [str(shared_data / "mlearn" / f"Cu_{name}.extxyz") for name in ("train", "test")]
    config = AtomsDataConfig(paths=(paths[0],), test_paths=(paths[1],), stress="virial_stress_raw", valid_fraction=0,
                             units=AtomsUnits(stress="kbar"), stress_convention="compression",
                             stress_order="xx,yy,zz,xy,yz,xz")  # fmt: skip
    with pytest.raises(UserError, match=r"Cu_train.extxyz frame 0 and .*Cu_test.extxyz frame 0 have the same stress"):
        open_atoms(config)
    check_copied_stress(read_atoms(paths[0], config))


def test_ethanol(shared_data: Path) -> None:
    counts = {"train": 1000, "test_MD": 1000, "train_eth_meth": 1300, "test_eth_meth": 1145}
    for name, count in counts.items():
        path = shared_data / "ethanol" / f"{name}.xyz"
        frames = read_atoms(str(path))
        assert len(frames) == count
        assert not frames.pbc.any()
        assert_like_plain(frames, path)
        assert set(np.unique(frames.species)) == {1, 6, 8}
    for name, count in {"isolated_atoms": 4, "test_H_removal": 60, "test_dimers": 429}.items():
        path = shared_data / "ethanol" / f"{name}.xyz"
        with pytest.raises(UserError, match=rf"{name}.xyz frame 0 has no forces 'forces'; .*data.forces=null"):
            read_atoms(str(path))
        frames = read_atoms(str(path), Labels(forces=None))
        assert len(frames) == count
        assert_like_plain(frames, path, forces=False)
    atoms = read_atoms(str(shared_data / "ethanol" / "isolated_atoms.xyz"), Labels(forces=None))
    assert dict(zip(atoms.species.tolist(), atoms.energy.round(3).tolist(), strict=True)) == {
        1: -13.568, 6: -1025.277, 8: -2035.571, 7: -1479.067,
    }  # fmt: skip


def test_water(shared_data: Path) -> None:
    frames = [read_atoms(str(shared_data / "water" / f"data_{i}")) for i in range(4)]
    assert [len(f) for f in frames] == [80, 160, 80, 80]
    for i, part in enumerate(frames):
        root = shared_data / "water" / f"data_{i}"
        assert part.row_size.tolist() == [192] * len(part)
        assert part.stats()["atoms_by_element"] == {"H": 128 * len(part), "O": 64 * len(part)}
        at = 0
        for directory in sorted(root.glob("set.*")):
            array = {n: np.load(directory / f"{n}.npy") for n in ("coord", "box", "energy", "force")}
            num = len(array["coord"])
            here = part[at : at + num]
            np.testing.assert_array_equal(here.energy, array["energy"].ravel())
            np.testing.assert_array_equal(here.forces.reshape(num, -1), array["force"])
            np.testing.assert_array_equal(here.positions.reshape(num, -1), array["coord"])
            np.testing.assert_array_equal(here.cell.reshape(num, -1), array["box"])
            at += num
        # Molecules: each O has two H within 1.3 Å through the periodic boundary, so order and cell are right.
        oxygen, hydrogen = part[0].positions[:64], part[0].positions[64:]
        edge = np.diag(part.cell[0])
        apart = oxygen[:, None] - hydrogen
        apart -= edge * np.round(apart / edge)
        assert ((np.linalg.norm(apart, axis=-1) < 1.3).sum(1) == 2).all()


def test_qm9(shared_data: Path) -> None:
    path = shared_data / "qm9" / "qm9_10k.npz"
    config = AtomsDataConfig(
        paths=(f"{path}@0:8000",), test_paths=(f"{path}@8000:",), energy=None, forces=None,
        properties=("HOMO_LUMO_gap_au", "Dipole_debye"),
        property_units={"HOMO_LUMO_gap_au": "Hartree", "Dipole_debye": "debye"},
    )  # fmt: skip
    splits = open_atoms(config)
    assert {k: len(v) for k, v in splits.items()} == {"train": 7200, "valid": 800, "test": 2000}
    assert splits["test"].property_units == {"HOMO_LUMO_gap_au": "eV", "Dipole_debye": "debye"}
    data = np.load(path)
    gap = data["HOMO_LUMO_gap_au"] * HARTREE
    np.testing.assert_allclose(splits["test"].properties["HOMO_LUMO_gap_au"], gap[8000:])
    np.testing.assert_array_equal(splits["test"].row_size, (data["numbers"][8000:] > 0).sum(1))
    assert splits["test"].frame[0] == 8000
    # The error of the mean of the training rows, as the data's own page says.
    error = np.abs(gap[8000:] - gap[:8000].mean()).mean()
    assert error == pytest.approx(1.11, abs=0.01)


def test_abinit_relaxations(shared_data: Path) -> None:
    netCDF4 = pytest.importorskip("netCDF4")
    for name, numbers, steps in (("al", [13], 4), ("sic", [6, 14], 7)):
        path = shared_data / "materials-netcdf" / f"{name}_relax_HIST.nc"
        frames = read_atoms(str(path), Labels(stress="stress"))
        assert len(frames) == steps
        with netCDF4.Dataset(path) as data:
            data.set_auto_mask(False)
            assert frames[0].species.tolist() == numbers == data["znucl"][:][data["typat"][:].astype(int) - 1].tolist()
            np.testing.assert_allclose(frames.energy, data["etotal"][:] * HARTREE, rtol=1e-12)
            np.testing.assert_allclose(frames.forces.reshape(data["fcart"].shape), data["fcart"][:] * HARTREE / BOHR)
            np.testing.assert_allclose(
                frames.positions.reshape(data["xcart"].shape), data["xcart"][:] * BOHR, atol=1e-9
            )
            np.testing.assert_allclose(frames.cell, data["rprimd"][:] * BOHR)
            found = frames.stress[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            np.testing.assert_allclose(found, data["strten"][:] * HARTREE / BOHR**3, atol=1e-15)


def test_abinit_stress_is_the_derivative_of_the_energy(shared_data: Path) -> None:
    """dE = tr σ / 3 dV, with sign and units; the first step of the relaxation changes the basis set's quality."""
    frames = read_atoms(str(shared_data / "materials-netcdf" / "sic_relax_HIST.nc"), Labels(stress="stress"))
    mean = np.trace(frames.stress, axis1=1, axis2=2) / 3
    steps = [(i, j) for i, j in pairwise(range(len(frames))) if i > 0]
    work = [(mean[i] + mean[j]) / 2 * (frames.volume[j] - frames.volume[i]) for i, j in steps]
    change = [frames.energy[j] - frames.energy[i] for i, j in steps]
    assert max(abs(c) for c in change) > 5e-5
    np.testing.assert_allclose(change, work, rtol=0.04, atol=2e-7)


def test_abinit_ground_state(shared_data: Path) -> None:
    netCDF4 = pytest.importorskip("netCDF4")
    path = shared_data / "materials-netcdf" / "si_scf_GSR.nc"
    frames = read_atoms(str(path), Labels(stress="stress"))
    assert frames.species.tolist() == [14, 14]
    with netCDF4.Dataset(path) as data:
        assert frames.energy[0] == pytest.approx(float(data["etotal"][...]) * HARTREE, rel=1e-12)
        np.testing.assert_allclose(frames.cell[0], data["primitive_vectors"][:] * BOHR)
        np.testing.assert_allclose(np.diag(frames.stress[0]), data["cartesian_stress_tensor"][:3] * HARTREE / BOHR**3)
    bond = frames.positions[1] - frames.positions[0]
    assert np.linalg.norm(bond) == pytest.approx(2.368, abs=0.002)  # √3/4 of a lattice constant of 5.47 Å


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ZnSe_hex_886.out_PHBST.nc", "phonon frequencies"), ("trf2_5.out_PHBST.nc", "phonon frequencies"),
     ("mg2si_GRUNS.nc", "Grüneisen parameters"), ("si_nscf_WFK.nc", "wave functions")],
)  # fmt: skip
def test_abinit_files_without_forces_are_refused(shared_data: Path, name: str, kind: str) -> None:
    with pytest.raises(
        UserError, match=rf"{name}: an ABINIT file with {kind} and a structure, but not energy and forces"
    ):
        read_atoms(str(shared_data / "materials-netcdf" / name))


ACE = "HCH2CO"  # the acetyl cap, in the order of AMBER's residue


@pytest.mark.parametrize(
    ("name", "species", "frames", "periodic"),
    [
        ("ace_mbondi3.nc", ACE, 10, False),
        ("ace_tip3p.nc", f"{ACE} (OH2)464", 10, True),
        ("posfor.ncdf", "C442", 2, False),
    ],
)
def test_amber_forces(shared_data: Path, name: str, species: str, frames: int, periodic: bool) -> None:
    netCDF4 = pytest.importorskip("netCDF4")
    path = shared_data / "materials-netcdf" / name
    found = read_atoms(str(path), Labels(energy=None, species=species))
    assert len(found) == frames
    assert found.pbc.all() == found.pbc.any() == periodic
    with netCDF4.Dataset(path) as data:
        np.testing.assert_allclose(found.forces.reshape(data["forces"].shape), data["forces"][:] * KCAL, rtol=2e-6)
        np.testing.assert_allclose(
            found.positions.reshape(data["coordinates"].shape), data["coordinates"][:], rtol=1e-7
        )
        if periodic:
            np.testing.assert_allclose(np.diagonal(found.cell, axis1=1, axis2=2), data["cell_lengths"][:])
    with pytest.raises(UserError, match=rf"{name}: AMBER's NetCDF holds no elements"):
        read_atoms(str(path), Labels(energy=None))
    with pytest.raises(UserError, match=rf"{name}: AMBER's NetCDF holds no energy; set data.energy=null"):
        read_atoms(str(path), Labels(species=species))


def test_amber_molecules_are_where_they_should_be(shared_data: Path) -> None:
    """Lengths of bonds: C=O of the acetyl group, O–H of the rigid TIP3P water (0.9572 Å)."""
    path = shared_data / "materials-netcdf" / "ace_tip3p.nc"
    frame = read_atoms(str(path), Labels(energy=None, species=f"{ACE} (OH2)464"))[3]
    place = frame.positions
    assert np.linalg.norm(place[5] - place[4]) == pytest.approx(1.23, abs=0.06)
    waters = place[6:].reshape(-1, 3, 3)
    np.testing.assert_allclose(np.linalg.norm(waters[:, 1] - waters[:, 0], axis=1), 0.9572, atol=2e-3)


@pytest.mark.parametrize(("name", "atoms"), [("bala.ncdf", 2661), ("cpptraj_traj.nc", 84), ("tz2.truncoct.nc", 5827)])
def test_amber_trajectories_without_forces(shared_data: Path, name: str, atoms: int) -> None:
    path = str(shared_data / "materials-netcdf" / name)
    with pytest.raises(UserError, match=rf"{name} has no forces 'forces'; it has coordinates"):
        read_atoms(path, Labels(energy=None, species=f"C{atoms}"))
    frames = read_atoms(path, Labels(energy=None, forces=None, species=f"C{atoms}"))
    assert frames.pbc.all()
    if name == "tz2.truncoct.nc":  # a truncated octahedron: V = 4/9 √3 a³
        edge = np.linalg.norm(frames.cell[0], axis=1)
        np.testing.assert_allclose(frames.volume[0], 4 / 9 * np.sqrt(3) * edge[0] ** 3, rtol=1e-4)


def test_every_file_of_the_materials_codes_was_looked_at(shared_data: Path) -> None:
    """A new file in the directory needs a line in the tests above."""
    seen = set(re.findall(r'"([\w.]+\.(?:nc|ncdf))"', Path(__file__).read_text())) | {
        "al_relax_HIST.nc",
        "sic_relax_HIST.nc",
    }
    assert {p.name for p in (shared_data / "materials-netcdf").iterdir()} <= seen
