"""Readers of the formats of the field: against ASE, against files made by hand, and what each refuses."""

from __future__ import annotations

from pathlib import Path
import sys
import time

import numpy as np
import pytest

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_amber import cells_from_lengths_and_angles
from surrogate.data.atoms_ase import read_ase
from surrogate.data.atoms_deepmd import read_deepmd
from surrogate.data.atoms_extxyz import read_extxyz
from surrogate.data.atoms_labels import AtomsUnits, Labels
from surrogate.data.atoms_netcdf import read_netcdf
from surrogate.data.atoms_npz import read_npz
from surrogate.data.atoms_source import read_atoms
from surrogate.data.atoms_units import energy_factor, force_factor, length_factor, stress_factor

ATOMS_ONLY = Labels(energy=None, forces=None)

# --- extended XYZ ----------------------------------------------------------------------------------------------------

HEADER = (
    'Lattice="4 0 0 0 5 0 0 0 6" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 stress="1 2 3 4 5 6" pbc="T T F"'
)
BODY = "H 0 0 0 0.1 0.2 0.3\nO 1 1 1 -0.1 -0.2 -0.3\n"
ONE = f"2\n{HEADER}\n{BODY}"


def xyz(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "f.xyz"
    path.write_text(text)
    return path


def test_extxyz_by_hand(tmp_path: Path) -> None:
    labels = Labels(stress="stress", stress_convention="compression", stress_order="xx,yy,zz,yz,xz,xy",
                    units=AtomsUnits(stress="GPa"))  # fmt: skip
    path = xyz(tmp_path, ONE + "\n" + ONE.replace("-1.5", "2.5e-1").replace("\n", "\r\n") + "\n\n")
    frames = read_extxyz(path, labels)
    assert frames.energy.tolist() == [-1.5, 0.25]
    assert frames.species.tolist() == [1, 8, 1, 8]
    assert frames.positions[3].tolist() == [1, 1, 1]
    assert frames.forces[0].tolist() == [0.1, 0.2, 0.3]
    assert frames.cell[1].tolist() == [[4, 0, 0], [0, 5, 0], [0, 0, 6]]
    assert frames.pbc[0].tolist() == [True, True, False]
    gpa = stress_factor("GPa", "")
    np.testing.assert_allclose(frames.stress[0], -gpa * np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]]))
    assert frames.place(1) == f"{path} frame 1"
    assert frames.labels["stress"] == (
        "stress [GPa], stress, positive under compression (VASP's kB, pressure), order xx,yy,zz,yz,xz,xy"
    )


def test_extxyz_units(tmp_path: Path) -> None:
    units = AtomsUnits(length="Bohr", energy="Rydberg")
    frames = read_extxyz(xyz(tmp_path, ONE), Labels(stress="stress", stress_convention="virial",
                         stress_order="xx,yy,zz,xy,yz,xz", units=units))  # fmt: skip
    bohr, ry = length_factor("Bohr", ""), energy_factor("Rydberg", "")
    assert frames.energy[0] == pytest.approx(-1.5 * ry)
    assert frames.cell[0, 2, 2] == pytest.approx(6 * bohr)
    assert frames.positions[1, 0] == pytest.approx(bohr)
    assert frames.forces[0, 2] == pytest.approx(0.3 * ry / bohr)
    # A virial is an energy, −V σ; the fourth number is xy in this order.
    assert frames.stress[0, 0, 1] == pytest.approx(-4 * ry / (120 * bohr**3))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('pbc="T T F"', "pbc=[T, T, F]"), ('pbc="T T F"', 'pbc="true 1 False"'), ('pbc="T T F"', "pbc={T T F}"),
        ("energy=-1.5", "energy = -1.5"), ("energy=-1.5", 'energy="-1.5"'), ("energy=-1.5", "energy=[-1.5]"),
        ('Lattice="4 0 0 0 5 0 0 0 6"', "Lattice=[[4, 0, 0], [0, 5, 0], [0, 0, 6]]"),
        ("energy=-1.5", 'comment="a \\"quoted\\" word = 3" flag energy=-1.5'), ("H 0", "H  \t 0"),
        ("energy=-1.5", "energy=-1.5 energy=-1.5"),
    ],
)  # fmt: skip
def test_extxyz_spellings(tmp_path: Path, old: str, new: str) -> None:
    assert old in ONE
    same = read_extxyz(xyz(tmp_path, ONE))
    other = read_extxyz(xyz(tmp_path, ONE.replace(old, new)))
    for name in ("positions", "species", "cell", "pbc", "energy", "forces"):
        np.testing.assert_array_equal(getattr(same, name), getattr(other, name))


def test_plain_xyz_and_molecules(tmp_path: Path) -> None:
    frames = read_extxyz(xyz(tmp_path, "1\njust a comment, with a = sign\nHe 1 2 3\n"), ATOMS_ONLY)
    assert not frames.pbc.any()
    assert not frames.cell.any()
    numbered = "1\nProperties=Z:I:1:pos:R:3\n2 1 2 3\n"
    assert read_extxyz(xyz(tmp_path, numbered), ATOMS_ONLY).species.tolist() == [2]
    cell = 'Lattice="4 0 0 0 5 0 0 0 6" Properties=species:S:1:pos:R:3'
    assert read_extxyz(xyz(tmp_path, f"1\n{cell}\nHe 1 2 3\n"), ATOMS_ONLY).pbc.all()


def test_extxyz_properties_and_molecules_among_crystals(tmp_path: Path) -> None:
    molecule = "1\nenergy=3 gap=0.5\nHe 1 2 3\n"
    crystal = '1\nLattice="4 0 0 0 5 0 0 0 6" energy=4 gap=0.7 virial="1 0 0 0 2 0 0 0 3"\nHe 1 2 3\n'
    labels = Labels(forces=None, stress="virial", stress_convention="virial", properties=("gap",),
                    property_units={"gap": "Hartree"})  # fmt: skip
    frames = read_extxyz(xyz(tmp_path, molecule + crystal), labels)
    assert frames.has_stress.tolist() == [False, True]
    np.testing.assert_allclose(np.diag(frames.stress[1]), -np.array([1, 2, 3]) / 120)
    np.testing.assert_allclose(frames.properties["gap"], np.array([0.5, 0.7]) * energy_factor("Hartree", ""))
    assert frames.property_units == {"gap": "eV"}
    with pytest.raises(UserError, match=r"f.xyz frame 1 has no stress 'stress'.*it has virial.*data.stress=null"):
        read_extxyz(
            xyz(tmp_path, molecule + crystal), Labels(forces=None, stress="stress", stress_convention="tension")
        )


BAD_XYZ = [
    ("", "holds no frame"),
    ("x\n", "frame 0: a count of atoms was expected, got 'x'"),
    ("0\n\n", "frame 0: claims 0 atoms"),
    ("-3\n\n", "frame 0: claims -3 atoms"),
    (ONE + "99999999999\n" + HEADER + "\n" + BODY, "frame 1: claims 99999999999 atoms, and .* bytes are left"),
    (ONE + "3\n" + HEADER + "\n" + BODY, "frame 1: atom 2 should have 7 columns, the file ends there"),
    (ONE[:-12], "frame 0: atom 1 should have 7 columns, got 'O 1 1 1 -0"),
    (ONE.replace("O 1 1 1", "O 1 1"), "frame 0: atom 1 should have 7 columns, got 'O 1 1 -0.1"),
    (ONE.replace("O 1", "Xx 1"), "frame 0: atom 1 is 'Xx', which is not a chemical symbol"),
    (ONE.replace("O 1", "o 1"), "frame 0: atom 1 is 'o'.*did you mean O"),
    (ONE.replace("O 1", "O one"), "frame 0: pos 1 is 'one', not a number"),
    (ONE.replace("O 1", "O nan"), r"frame 0: atom 1 \(O\) has the position \[nan"),
    (ONE.replace("energy=-1.5", "energy=nan"), "frame 0: the energy is nan"),
    (ONE.replace("energy=-1.5", "Energy=-1.5"), "frame 0 has no energy 'energy'; did you mean 'Energy'"),
    (ONE.replace("energy=-1.5", "energy=abc"), "frame 0: energy 0 is 'abc', not a number"),
    (ONE.replace("energy=-1.5", 'energy="1 2"'), "energy='1 2' is not one number"),
    (ONE.replace("energy=-1.5", "energy=-1.5 energy=2"), "the key 'energy' stands twice, as '-1.5' and as '2'"),
    (ONE.replace("forces:R:3", "force:R:3"), "frame 0 has no forces 'forces'; did you mean 'force'"),
    (ONE.replace("forces:R:3", "forces:R:2:q:R:1"), "'forces' has 2 columns, forces needs 3"),
    (ONE.replace("forces:R:3", "forces:R"), "Properties=.* is not name:type:columns"),
    (ONE.replace("forces:R:3", "pos:R:3"), "the column 'pos' stands twice"),
    (ONE.replace("species:S", "kind:S"), "no column 'species'"),
    (ONE.replace("Lattice=", "lattice="), "the key 'lattice' must be spelt 'Lattice'"),
    (ONE.replace("0 0 6", "0 0"), "Lattice has 8 numbers"),
    (ONE.replace("0 5 0", "8 0 0"), "frame 0: the cell has no volume"),
    (ONE.replace('"T T F"', '"T T"'), "pbc='T T' is not three of T and F"),
    (ONE.replace("O 1 1 1", "O 4 5 0"), r"atom 0 \(H\) and atom 1 are in one place"),
]


@pytest.mark.parametrize(("text", "message"), BAD_XYZ)
def test_bad_extxyz_is_named(tmp_path: Path, text: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=f"f.xyz.*{message}"):
        read_extxyz(xyz(tmp_path, text))
    assert time.monotonic() - began < 5  # also for a count of 99,999,999,999


def test_extxyz_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "f.xyz"
    path.write_bytes(b"1\n\xff\xfe\x00\nHe 1 2 3\n")
    with pytest.raises(UserError, match="frame 0: is not text"):
        read_extxyz(path)
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        read_extxyz(tmp_path / "none.xyz")
    with pytest.raises(UserError, match="some frames have a stress of 6 numbers and some of 9"):
        read_extxyz(xyz(tmp_path, ONE + ONE.replace("1 2 3 4 5 6", "1 0 0 0 1 0 0 0 1")), Labels(stress="stress"))


def ase_images(num: int = 4) -> list:
    """Small crystals with EMT's labels, two with a vacancy."""
    pytest.importorskip("ase", reason="ASE is the materials extra")
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator

    images = []
    for i in range(num):
        atoms = bulk("Cu", "fcc", a=3.5 + 0.05 * i, cubic=True)
        atoms.numbers[0] = 79
        if i % 2:
            del atoms[3]
        atoms.rattle(0.1, seed=i)
        atoms.set_cell(atoms.cell.array + np.diag([0.1, 0, -0.1]) + 0.05 * np.eye(3)[::-1], scale_atoms=True)
        atoms.calc = EMT()
        results = {k: getattr(atoms, f"get_{n}")() for k, n in
                   (("energy", "potential_energy"), ("forces", "forces"), ("stress", "stress"))}  # fmt: skip
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["gap"] = 0.5 + i
        images.append(atoms)
    return images


def assert_like_ase(frames: Frames, images: list) -> None:
    assert len(frames) == len(images)
    for i, atoms in enumerate(images):
        part = frames[i]
        np.testing.assert_allclose(part.positions, atoms.positions, rtol=0, atol=1e-7)
        np.testing.assert_array_equal(part.species, atoms.numbers)
        np.testing.assert_allclose(part.cell[0], atoms.cell.array, rtol=0, atol=1e-7)
        np.testing.assert_array_equal(part.pbc[0], atoms.pbc)
        np.testing.assert_allclose(part.energy[0], atoms.get_potential_energy(), rtol=0, atol=1e-7)
        np.testing.assert_allclose(part.forces, atoms.get_forces(), rtol=0, atol=1e-7)
        np.testing.assert_allclose(part.stress[0], atoms.get_stress(voigt=False), rtol=0, atol=1e-7)
        assert part.properties["gap"][0] == atoms.info["gap"]


def test_extxyz_that_ase_wrote(tmp_path: Path) -> None:
    images = ase_images()
    from ase.io import write

    write(tmp_path / "f.extxyz", images)
    labels = Labels(stress="stress", stress_convention="tension", properties=("gap",))
    assert_like_ase(read_atoms(str(tmp_path / "f.extxyz"), labels), images)


# --- ASE's own -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["db", "json"])
def test_ase_databases(tmp_path: Path, suffix: str) -> None:
    images = ase_images()
    from ase.db import connect

    path = tmp_path / f"f.{suffix}"
    with connect(path) as database:
        for atoms in images:
            database.write(atoms, gap=atoms.info["gap"])
        bare = images[0].copy()
        del database[2]  # ids then have a hole
    labels = Labels(stress="stress", properties=("gap",))
    frames = read_atoms(str(path), labels)
    assert_like_ase(frames, [images[0], *images[2:]])
    assert frames.place(1) == f"{path} frame 2"
    with pytest.raises(UserError, match=r"frame 0 has no property 'gop'; did you mean 'gap'"):
        read_ase(path, Labels(properties=("gop",)))
    with pytest.raises(UserError, match=r"the convention of 'stress' is tension, data.stress_convention says virial"):
        read_ase(path, Labels(stress="stress", stress_convention="virial"))
    with connect(path) as database:
        database.write(bare)
    with pytest.raises(UserError, match=r"frame 4 has no energy 'energy'.*data.energy=null"):
        read_ase(path, Labels())
    assert len(read_ase(path, ATOMS_ONLY)) == 4


def test_ase_trajectories(tmp_path: Path) -> None:
    images = ase_images()
    from ase.io.trajectory import Trajectory

    with Trajectory(tmp_path / "f.traj", "w") as writer:
        for atoms in images:
            writer.write(atoms)
    assert_like_ase(read_atoms(str(tmp_path / "f.traj"), Labels(stress="stress", properties=("gap",))), images)


def test_damaged_ase_files(tmp_path: Path) -> None:
    pytest.importorskip("ase", reason="ASE is the materials extra")
    for suffix in ("db", "json", "traj"):
        path = tmp_path / f"f.{suffix}"
        path.write_bytes(b"not what it says" * 100)
        with pytest.raises(UserError, match=rf"f.{suffix}: ASE cannot read this"):
            read_ase(path)
        with pytest.raises(UserError, match=rf"g.{suffix}: no such file"):
            read_ase(tmp_path / f"g.{suffix}")


def test_without_ase_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n == "ase" or n.startswith("ase.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ase", None)
    for name in ("f.db", "f.traj"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(UserError, match=r"needs ASE .*pip install 'surrogate\[materials\]'"):
            read_ase(tmp_path / name)
    assert len(read_extxyz(xyz(tmp_path, ONE))) == 1  # the other readers do without


# --- DeePMD ----------------------------------------------------------------------------------------------------------


def deepmd(root: Path, *, types: str = "0 1 1", names: str | None = "O H") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "coord": rng.uniform(0, 5, (2, 9)), "box": np.tile(np.diag([5.0, 6, 7]).ravel(), (2, 1)),
        "energy": rng.normal(size=(2, 1)), "force": rng.normal(size=(2, 9)), "virial": np.tile(np.arange(9.0), (2, 1)),
        "dipole_size": rng.normal(size=2),
    }  # fmt: skip
    arrays["virial"] = (
        arrays["virial"].reshape(2, 3, 3) + arrays["virial"].reshape(2, 3, 3).transpose(0, 2, 1)
    ).reshape(2, 9)
    (root / "set.000").mkdir(parents=True)
    (root / "type.raw").write_text(types)
    if names:
        (root / "type_map.raw").write_text(names)
    for name, values in arrays.items():
        np.save(root / "set.000" / f"{name}.npy", values)
    return arrays


def test_deepmd_by_hand(tmp_path: Path) -> None:
    arrays = deepmd(tmp_path / "s")
    frames = read_atoms(str(tmp_path / "s"), Labels(stress="stress", properties=("dipole_size",)))
    np.testing.assert_array_equal(frames.species, [8, 1, 1, 8, 1, 1])
    np.testing.assert_array_equal(frames.positions.reshape(2, 9), arrays["coord"])
    np.testing.assert_array_equal(frames.forces.reshape(2, 9), arrays["force"])
    np.testing.assert_array_equal(frames.energy, arrays["energy"][:, 0])
    np.testing.assert_allclose(frames.stress, -arrays["virial"].reshape(2, 3, 3) / 210)  # σ = −virial / V
    assert frames.pbc.all()
    assert frames.groups == (f"{tmp_path}/s/set.000",)
    (tmp_path / "s" / "nopbc").touch()
    assert not read_deepmd(tmp_path / "s").pbc.any()


def test_deepmd_mixed_types(tmp_path: Path) -> None:
    deepmd(tmp_path / "s", types="0 0 0", names="H O Si")
    np.save(tmp_path / "s/set.000/real_atom_types.npy", np.array([[1, 0, 0], [2, -1, -1]]))
    frames = read_deepmd(tmp_path / "s")
    assert frames.species.tolist() == [8, 1, 1, 14]
    assert frames.row_size.tolist() == [3, 1]


def test_bad_deepmd_is_named(tmp_path: Path) -> None:
    root = tmp_path / "s"
    deepmd(root, names=None)
    with pytest.raises(UserError, match=r"no type_map.raw.*data.species, as 'O H'"):
        read_deepmd(root)
    assert read_deepmd(root, Labels(species="O H")).species.tolist() == [8, 1, 1] * 2
    with pytest.raises(UserError, match="types go to 1, 1 elements are named"):
        read_deepmd(root, Labels(species="O"))
    (root / "type_map.raw").write_text("O Q")
    with pytest.raises(UserError, match=r"type_map.raw: atom 1 is 'Q'"):
        read_deepmd(root)
    (root / "type_map.raw").write_text("O H")
    with pytest.raises(UserError, match=r"set.000 has no stress 'stres'; did you mean|set.000 has no stress 'stres'"):
        read_deepmd(root, Labels(stress="stres"))
    (root / "set.000/virial.npy").unlink()
    with pytest.raises(UserError, match=r"set.000 has no stress 'virial'; .*data.stress=null"):
        read_deepmd(root, Labels(stress="virial"))
    (root / "type.raw").write_text("0 1 1 1")
    with pytest.raises(UserError, match=r"coord.npy: has the shape \(2, 9\), expected frames × 12"):
        read_deepmd(root)
    (root / "type.raw").write_text("0 1 1")
    np.save(root / "set.000/energy.npy", np.zeros((3, 1)))
    with pytest.raises(UserError, match=r"energy.npy: has the shape \(3, 1\), expected 2 × 1"):
        read_deepmd(root)
    np.save(root / "set.000/energy.npy", np.array([{}, {}], object))
    with pytest.raises(UserError, match=r"energy.npy: is not a numpy array of numbers"):
        read_deepmd(root)  # a pickle is never opened
    whole = (root / "set.000/force.npy").read_bytes()
    np.save(root / "set.000/energy.npy", np.zeros((2, 1)))
    (root / "set.000/force.npy").write_bytes(whole[:-8])
    with pytest.raises(UserError, match=r"force.npy: is not a numpy array of numbers, or is cut short"):
        read_deepmd(root)
    with pytest.raises(UserError, match=r"is no DeePMD system: it has no type.raw"):
        read_deepmd(tmp_path)


# --- padded arrays ---------------------------------------------------------------------------------------------------


def test_npz_drops_what_fills_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = np.array([[8, 1, 1], [2, 0, 0]])
    arrays = {"numbers": numbers, "positions": rng.normal(size=(2, 3, 3)), "E": np.array([1.0, 2.0]),
              "F": rng.normal(size=(2, 3, 3)), "gap": np.array([0.3, 0.4])}  # fmt: skip
    np.savez(tmp_path / "f.npz", **arrays)
    frames = read_atoms(str(tmp_path / "f.npz"), Labels("E", "F", properties=("gap",), property_units={"gap": "Ha"}))
    assert frames.row_size.tolist() == [3, 1]
    assert frames.species.tolist() == [8, 1, 1, 2]
    np.testing.assert_array_equal(frames.forces, np.concatenate([arrays["F"][0], arrays["F"][1, :1]]))
    np.testing.assert_allclose(frames.properties["gap"], arrays["gap"] * energy_factor("Ha", ""))
    with pytest.raises(UserError, match=r"has no forces 'forces'.*data.forces=null"):
        read_npz(tmp_path / "f.npz", Labels("E"))
    with pytest.raises(UserError, match=r"'F' is float64 of the shape \(2, 3, 3\), expected numbers \(2,\)"):
        read_npz(tmp_path / "f.npz", Labels("F", None))
    np.savez(tmp_path / "g.npz", **arrays, cell=np.eye(3))
    with pytest.raises(UserError, match="has a cell, but no pbc"):
        read_npz(tmp_path / "g.npz", Labels("E", "F"))
    np.savez(tmp_path / "g.npz", **{**arrays, "E": np.array([{}, {}], object)})
    with pytest.raises(UserError, match=r"not a .npz file of numbers"):
        read_npz(tmp_path / "g.npz", Labels("E", "F"))
    data = (tmp_path / "f.npz").read_bytes()
    (tmp_path / "g.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"not a .npz file of numbers, or is damaged"):
        read_npz(tmp_path / "g.npz", Labels("E", "F"))


# --- ABINIT and AMBER, written by hand -------------------------------------------------------------------------------


def netcdf(path: Path, dims: dict[str, int], variables: dict, **attrs: str) -> Path:
    netCDF4 = pytest.importorskip("netCDF4")
    with netCDF4.Dataset(path, "w", format="NETCDF3_64BIT_OFFSET") as data:
        data.setncatts(attrs)
        for name, size in dims.items():
            data.createDimension(name, size)
        for name, (names, values, *units) in variables.items():
            kind = {"i": "i4", "S": "S1"}.get(np.asarray(values).dtype.kind, "f8")
            variable = data.createVariable(name, kind, names)
            if units:
                variable.units = units[0]
            variable.set_auto_maskandscale(False)
            variable[:] = values
    return path


def hist(path: Path, **changes) -> Path:
    rng = np.random.default_rng(0)
    cell = np.array([[8.0, 0.5, 0], [0, 9, 0.5], [0.5, 0, 10]])
    reduced = np.array([[[0, 0, 0], [0.5, 0.5, 0.4]], [[0, 0, 0.1], [0.5, 0.4, 0.5]]])
    variables = {
        "typat": (("natom",), np.array([2, 1])), "znucl": (("npsp",), np.array([6.0, 14.0])),
        "xred": (("time", "natom", "xyz"), reduced), "xcart": (("time", "natom", "xyz"), reduced @ cell, "bohr"),
        "rprimd": (("time", "a", "xyz"), np.stack([cell, cell]), "bohr"),
        "etotal": (("time",), np.array([-10.0, -10.5]), "Ha"),
        "fcart": (("time", "natom", "xyz"), rng.normal(size=(2, 2, 3)), "Ha/bohr"),
        "strten": (("time", "six"), np.arange(12.0).reshape(2, 6) * 1e-4, "Ha/bohr^3"),
    }  # fmt: skip
    variables = {k: v for k, v in {**variables, **changes}.items() if v is not None}
    return netcdf(path, {"time": 2, "natom": 2, "npsp": 2, "ntypat": 2, "xyz": 3, "a": 3, "six": 6}, variables)


def test_hist_by_hand(tmp_path: Path) -> None:
    frames = read_atoms(str(hist(tmp_path / "f_HIST.nc")), Labels(stress="stress"))
    ha, bohr = energy_factor("Ha", ""), length_factor("bohr", "")
    assert frames.species.tolist() == [14, 6, 14, 6]
    np.testing.assert_allclose(frames.energy, np.array([-10, -10.5]) * ha)
    np.testing.assert_allclose(frames.cell[0, 0], np.array([8, 0.5, 0]) * bohr)  # rows are vectors
    np.testing.assert_allclose(frames.positions[1], np.array([4.2, 4.75, 4.25]) * bohr)
    np.testing.assert_allclose(
        frames.forces.ravel()[:2], np.random.default_rng(0).normal(size=2) * force_factor("Ha/bohr", "")
    )
    expected = np.array([[6, 11, 10], [11, 7, 9], [10, 9, 8]]) * 1e-4 * ha / bohr**3  # yz, xz, xy follow the diagonal
    np.testing.assert_allclose(frames.stress[1], expected)
    assert frames.labels["stress"].startswith("strten [Ha/bohr^3], stress, positive under tension")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strten": None}, r"has no stress 'strten'; .*it has etotal, fcart"),
        ({"etotal": None}, r"has no energy 'etotal'"),
        (
            {"etotal": (("time",), np.array([-10.0, 9.969209968386869e36]), "Ha")},
            r"frame 1: the energy .* never written",
        ),
        ({"etotal": (("time",), np.array([-10.0, -10.5]), "furlong")}, "'furlong' is not a unit of energy"),
        (
            {"xcart": (("time", "natom", "xyz"), np.zeros((2, 2, 3)), "bohr")},
            r"frame 0: xcart and xred times rprimd differ",
        ),
        ({"typat": (("natom",), np.array([3, 1]))}, "types of atoms from 1 to 3, 2 are there"),
        ({"znucl": (("npsp",), np.array([6.5, 14.0]))}, "fractional nuclear charge 6.5"),
    ],
)
def test_bad_hist_is_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"f_HIST.nc.*{message}"):
        read_netcdf(hist(tmp_path / "f_HIST.nc", **changes), Labels(stress="stress"))


def test_truncated_netcdf_is_refused(tmp_path: Path) -> None:
    path = hist(tmp_path / "f_HIST.nc")
    path.write_bytes(path.read_bytes()[:1100])  # of 1208, and what the library fills up
    with pytest.raises(UserError, match="the file is truncated"):
        read_netcdf(path)
    with pytest.raises(UserError, match=r"holds no atoms that can be read: .*; it has x"):
        read_netcdf(netcdf(tmp_path / "g.nc", {"n": 2}, {"x": (("n",), np.zeros(2))}))


def test_cells_from_angles() -> None:
    lengths, angles = np.array([[3.0, 4, 5], [2, 2, 2]]), np.array([[80.0, 95, 110], [90, 90, 90]])
    cells = cells_from_lengths_and_angles(lengths, angles)
    np.testing.assert_allclose(np.linalg.norm(cells, axis=2), lengths)
    a, b, c = cells[0] / lengths[0][:, None]
    np.testing.assert_allclose(np.degrees(np.arccos([b @ c, a @ c, a @ b])), angles[0])
    np.testing.assert_array_equal(cells[1], np.eye(3) * 2)


TOPOLOGY = """%VERSION  VERSION_STAMP = V0001.000
%FLAG TITLE
%FORMAT(20a4)
water
%FLAG ATOMIC_NUMBER
%FORMAT(10I8)
       8       1       1
%FLAG MASS
%FORMAT(5E16.8)
  1.60000000E+01  1.00800000E+00  1.00800000E+00
"""


def test_amber_by_hand(tmp_path: Path) -> None:
    forces = np.arange(18.0).reshape(2, 3, 3)
    positions = np.random.default_rng(0).uniform(0, 9, (2, 3, 3))
    variables = {
        "coordinates": (("frame", "atom", "spatial"), positions, "angstrom"),
        "forces": (("frame", "atom", "spatial"), forces, "kilocalorie/mole/angstrom"),
        "cell_lengths": (("frame", "cell_spatial"), np.full((2, 3), 9.0), "angstrom"),
        "cell_angles": (("frame", "cell_angular"), np.full((2, 3), 90.0), "degree"),
    }  # fmt: skip
    dims = {"frame": 2, "atom": 3, "spatial": 3, "cell_spatial": 3, "cell_angular": 3}
    path = netcdf(tmp_path / "f.nc", dims, variables, Conventions="AMBER", ConventionVersion="1.0")
    (tmp_path / "w.prmtop").write_text(TOPOLOGY)
    (tmp_path / "w.xyz").write_text("3\n\nO 0 0 0\nH 1 0 0\nH 0 1 0\n")
    for species in ("OH2", str(tmp_path / "w.prmtop"), str(tmp_path / "w.xyz")):
        frames = read_netcdf(path, Labels(energy=None, species=species))
        assert frames.species.tolist() == [8, 1, 1] * 2
    np.testing.assert_allclose(frames.forces.reshape(2, 3, 3), forces * 0.0433641, rtol=1e-6)
    np.testing.assert_array_equal(frames.positions.reshape(2, 3, 3), positions)
    np.testing.assert_array_equal(frames.cell, np.tile(np.eye(3) * 9, (2, 1, 1)))
    for labels, message in (
        (Labels(species="OH2"), "AMBER's NetCDF holds no energy; set data.energy=null"),
        (Labels(None, stress="stress", species="OH2"), "holds no stress"),
        (Labels(None), r"holds no elements; name the topology .*data.species"),
        (Labels(None, species="OH3"), "has 3 atoms, data.species=OH3 has 4"),
        (Labels(None, "velocities", species="OH2"), "has no forces 'velocities'"),
        (Labels(None, species="OH2", units=AtomsUnits(forces="eV/angstrom")), "its forces is in kilocalorie"),
        (Labels(None, species=str(tmp_path / "none.parm7")), "none.parm7: cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            read_netcdf(path, labels)


def test_unknown_endings_are_named(tmp_path: Path) -> None:
    (tmp_path / "f.foo").touch()
    with pytest.raises(UserError, match=r"f.foo: the ending '.foo' is none of .xyz"):
        read_atoms(str(tmp_path / "f.foo"))
