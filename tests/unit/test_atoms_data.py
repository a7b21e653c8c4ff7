"""Configurations in memory and as ragged NetCDF: parts, units, checks, the round trip."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
import os
from pathlib import Path
import sys

import numpy as np
import pytest
from scipy import constants

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_checks import check_copied_stress, check_frames
from surrogate.data.atoms_labels import AtomsUnits, Labels
from surrogate.data.atoms_ragged import has_splits, read_ragged, read_splits, write_ragged
from surrogate.data.atoms_units import (
    energy_factor,
    force_factor,
    from_voigt,
    length_factor,
    property_factor,
    stress_factor,
    to_tension,
    to_voigt,
)
from surrogate.data.elements import NUM_ELEMENTS, SYMBOLS, atomic_numbers, parse_formula, symbols_of


def make_frames(sizes: tuple[int, ...] = (3, 1, 4), seed: int = 0, *, groups: tuple[str, ...] = ("a.xyz",)) -> Frames:
    """Random periodic configurations with every label; atoms at least 0.3 Å from each other."""
    rng = np.random.default_rng(seed)
    total, num = sum(sizes), len(sizes)
    stress = rng.normal(size=(num, 3, 3)) * 0.1
    return Frames(
        positions=rng.permutation(np.arange(total))[:, None] * np.array([0.7, 0.0, 0.0]) + rng.uniform(0, 0.2, (total, 3)),
        species=rng.integers(1, 30, total), cell=np.eye(3) * 20 + rng.normal(size=(num, 3, 3)) * 0.1,
        pbc=np.ones((num, 3), bool), row_size=np.array(sizes), energy=rng.normal(size=num) * 100,
        forces=rng.normal(size=(total, 3)), stress=stress + stress.transpose(0, 2, 1),
        properties={"gap": rng.normal(size=num)}, property_units={"gap": "eV"}, groups=groups,
        group=rng.integers(0, len(groups), num), frame=np.arange(num) + 5, labels={"energy": "E [Ha]", "forces": "F [eV/Å]", "stress": "S [GPa]", "gap": "gap [eV]"},
    )  # fmt: skip


ARRAYS = ("positions", "species", "cell", "pbc", "row_size", "energy", "forces", "stress", "frame")


def assert_same(a: Frames, b: Frames) -> None:
    for name in ARRAYS:
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert left.dtype == right.dtype, name
            np.testing.assert_array_equal(left, right, err_msg=name)  # NaN equals NaN
    assert [a.groups[g] for g in a.group] == [b.groups[g] for g in b.group]
    assert a.property_units == b.property_units
    assert a.labels == b.labels
    for name, values in a.properties.items():
        np.testing.assert_array_equal(values, b.properties[name])


# --- parts and wholes ------------------------------------------------------------------------------------------------


def test_selection_takes_the_atoms_along() -> None:
    frames = make_frames((3, 1, 4, 2))
    index = np.array([3, 0, 3])
    part = frames[index]
    starts = [0, 3, 4, 8, 10]
    expected = [frames.forces[starts[i] : starts[i + 1]] for i in index]
    np.testing.assert_array_equal(part.forces, np.concatenate(expected))
    np.testing.assert_array_equal(part.energy, frames.energy[index])
    np.testing.assert_array_equal(part.properties["gap"], frames.properties["gap"][index])
    assert part.row_size.tolist() == [2, 3, 2]
    assert part.place(1) == "a.xyz frame 5"
    assert_same(frames[1:3], frames[np.array([False, True, True, False])])
    assert_same(frames[-1], frames[[3]])
    assert len(frames[0:0]) == 0
    assert frames[0:0].num_atoms == 0
    with pytest.raises(IndexError):
        frames[4]


def test_cut_and_joined_is_the_same() -> None:
    frames = make_frames((3, 1, 4, 2), groups=("a.xyz", "b.xyz"))
    assert_same(Frames.concat([frames[:1], frames[1:3], frames[3:]]), frames)
    assert_same(Frames.concat(list(frames)), frames)


def test_joining_merges_groups_by_name() -> None:
    joined = Frames.concat(
        [make_frames(groups=("a.xyz",)), make_frames(groups=("b.xyz",)), make_frames(groups=("a.xyz",))]
    )
    assert joined.groups == ("a.xyz", "b.xyz")
    assert joined.group.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("kind", ["energy", "forces", "stress"])
def test_joining_refuses_a_label_that_some_lack(kind: str) -> None:
    lacks = replace(make_frames(groups=("lacks.xyz",)), **{kind: None})
    with pytest.raises(UserError, match=f"lacks.xyz has no {kind}, has.xyz does"):
        Frames.concat([make_frames(groups=("has.xyz",)), lacks])
    with pytest.raises(UserError, match=f"lacks.xyz has no {kind}, has.xyz does"):
        Frames.concat([lacks, make_frames(groups=("has.xyz",))])


def test_joining_refuses_properties_in_other_units() -> None:
    with pytest.raises(UserError, match=r"gap.*eV.*gap.*debye"):
        Frames.concat([make_frames(), replace(make_frames(), property_units={"gap": "debye"})])


def test_shapes_are_checked() -> None:
    frames = make_frames()
    with pytest.raises(ValueError, match=r"forces has shape \(7, 3\), expected \(8, 3\)"):
        replace(frames, forces=frames.forces[1:])
    with pytest.raises(ValueError, match="not symmetric"):
        replace(frames, stress=frames.stress + np.triu(np.ones((3, 3)), 1))


def test_stats_are_those_of_numpy() -> None:
    frames = make_frames()
    stats = frames.stats()
    assert stats["frames"] == 3
    assert stats["atoms"] == 8
    assert stats["force_rms"] == pytest.approx(np.sqrt((frames.forces**2).mean()))
    assert stats["energy_per_atom"] == [min(frames.energy / [3, 1, 4]), max(frames.energy / [3, 1, 4])]
    assert sum(stats["atoms_by_element"].values()) == 8
    pressure = [-s.trace() / 3 / (1e9 / constants.e * 1e-30) for s in frames.stress]
    assert stats["pressure_gpa"] == pytest.approx([min(pressure), max(pressure)])


# --- elements and units ----------------------------------------------------------------------------------------------


def test_elements() -> None:
    assert NUM_ELEMENTS == 118
    assert len(set(SYMBOLS)) == 119
    assert atomic_numbers(["H", "Si", "Au", "Og"], "x").tolist() == [1, 14, 79, 118]
    assert symbols_of(np.array([26, 92])) == ["Fe", "U"]
    with pytest.raises(UserError, match=r"f.xyz frame 2: atom 1 is 'CU'.*did you mean Cu\?"):
        atomic_numbers(["Cu", "CU"], "f.xyz frame 2")
    with pytest.raises(UserError, match="atom 0 is 'X'"):
        atomic_numbers(["X"], "f")


def test_formulas_keep_their_order() -> None:
    assert parse_formula("O2 H4", "x").tolist() == [8, 8, 1, 1, 1, 1]
    assert parse_formula("HCH2CO (OH2)3", "x").tolist() == [1, 6, 1, 1, 6, 8] + [8, 1, 1] * 3
    assert parse_formula("(C(OH)2)2 Si", "x").tolist() == [6, 8, 1, 8, 1, 6, 8, 1, 8, 1, 14]
    for wrong in ("", "2H", "(H", "H)", "h2", "H2-O", "H0", "Xx"):
        with pytest.raises(UserError, match=r"formula|chemical symbol"):
            parse_formula(wrong, "data.species")
    with pytest.raises(UserError, match="more than 10000000 atoms"):
        parse_formula("O H99999999999999", "data.species")


def test_units_agree_with_scipy() -> None:
    """Up to the revisions of CODATA, which change the ninth digit."""
    value = {name: constants.physical_constants[name][0] for name in ("Hartree energy in eV", "Bohr radius")}
    hartree, bohr = value["Hartree energy in eV"], value["Bohr radius"] * 1e10
    kcal = constants.calorie * 1000 / constants.N_A / constants.e
    close = {"rel": 1e-8}
    assert energy_factor("Hartree", "") == pytest.approx(hartree, **close)
    assert energy_factor("Ry", "") == pytest.approx(hartree / 2, **close)
    assert energy_factor("kcal/mol", "") == energy_factor("kilocalorie/mole", "") == pytest.approx(kcal, **close)
    assert energy_factor("kJ/mol", "") == pytest.approx(kcal / 4.184, **close)
    assert length_factor("bohr", "") == pytest.approx(bohr, **close)
    assert length_factor("Å", "") == length_factor("angstrom", "") == 1
    assert force_factor("Ha/bohr", "") == pytest.approx(hartree / bohr, **close)
    assert force_factor("kilocalorie/mole/angstrom", "") == pytest.approx(kcal, **close)
    assert force_factor("eV angstrom-1", "") == force_factor("eV/Å", "") == 1
    assert stress_factor("GPa", "") == pytest.approx(1e9 * 1e-30 / constants.e, **close)
    assert stress_factor("kbar", "") == pytest.approx(1e8 * 1e-30 / constants.e, **close)
    assert stress_factor("Ha/bohr^3", "") == pytest.approx(hartree / bohr**3, **close)
    assert stress_factor("eV/angstrom**3", "") == stress_factor("eV angstrom-3", "") == stress_factor("eV/Å³", "") == 1
    assert property_factor("Hartree") == (pytest.approx(hartree, **close), "eV")
    assert property_factor("debye") == (1, "debye")


@pytest.mark.parametrize(
    ("call", "text"),
    [(energy_factor, "parsec"), (length_factor, "eV"), (force_factor, "eV"), (stress_factor, "eV/angstrom^2"),
     (stress_factor, "bohr^3"), (force_factor, "GPa")],
)  # fmt: skip
def test_unknown_units_are_named(call, text: str) -> None:
    with pytest.raises(UserError, match=r"x.nc: '.*' is not a unit of"):
        call(text, "x.nc")


def test_an_atomic_unit_of_anything_is_refused() -> None:
    with pytest.raises(UserError, match="Hartree or Bohr"):
        property_factor("au")


def test_voigt_orders_and_signs() -> None:
    tensor = np.array([[[1.0, 6, 5], [6, 2, 4], [5, 4, 3]]])
    np.testing.assert_array_equal(to_voigt(tensor), [[1, 2, 3, 4, 5, 6]])
    np.testing.assert_array_equal(from_voigt(to_voigt(tensor)), tensor)
    np.testing.assert_array_equal(from_voigt(np.array([[1.0, 2, 3, 6, 4, 5]]), "xx,yy,zz,xy,yz,xz"), tensor)
    with pytest.raises(UserError, match="order of the six components"):
        from_voigt(to_voigt(tensor), "xx,yy,zz,xy,xy,xz")
    volume = np.array([8.0])
    same = {
        "tension": tensor, "compression": -tensor, "virial": -8 * tensor,
    }  # fmt: skip
    for convention, stored in same.items():
        for shape in ((1, 9), (1, 3, 3)):
            found = to_tension(stored.reshape(shape), volume, convention, "", 0.5, str)
            np.testing.assert_allclose(found, tensor / 2)
    with pytest.raises(UserError, match="stress is not symmetric"):
        to_tension(np.arange(9.0)[None], volume, "tension", "", 1, str)


# --- refused ---------------------------------------------------------------------------------------------------------


def crystal(**changes) -> Frames:
    """Two frames: two atoms in a cube of 4 Å, and a molecule."""
    base = {
        "positions": np.array([[0.0, 0, 0], [2, 2, 2], [0, 0, 0], [0, 0, 0.8]]), "species": np.array([14, 14, 1, 1]),
        "cell": np.stack([np.eye(3) * 4, np.zeros((3, 3))]), "pbc": np.array([[True] * 3, [False] * 3]),
        "row_size": np.array([2, 2]), "energy": np.array([-1.0, -2.0]), "forces": np.zeros((4, 3)),
        "stress": np.stack([np.zeros((3, 3)), np.full((3, 3), np.nan)]), "groups": ("f.nc",),
    }  # fmt: skip
    return Frames(**{**base, **changes})


def changed(array: np.ndarray, index, value) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


GOOD = crystal()
FLAT = np.stack([np.array([[4.0, 0, 0], [0, 4, 0], [4, 4, 0]]), np.zeros((3, 3))])
REFUSED = [
    ({"positions": changed(GOOD.positions, (3, 1), np.nan)}, r"f.nc frame 1: atom 1 \(H\) has the position .*nan.*not finite"),
    ({"positions": changed(GOOD.positions, (1, 1), 9.97e36)}, r"f.nc frame 0: atom 1 \(Si\).*never written"),
    ({"forces": changed(GOOD.forces, (2, 0), np.inf)}, r"f.nc frame 1: atom 0 \(H\) has the force .*inf"),
    ({"forces": changed(GOOD.forces, (0, 0), 1e6)}, r"f.nc frame 0: atom 0 \(Si\) has a force of 1e\+06 eV/Å.*units"),
    ({"energy": np.array([1.0, np.nan])}, r"f.nc frame 1: the energy is nan: not finite"),
    ({"energy": np.array([9.97e36, 1.0])}, r"f.nc frame 0: the energy is 9.97e\+36.*never written"),
    ({"properties": {"gap": np.array([1.0, np.nan])}}, r"f.nc frame 1: the gap is nan"),
    ({"species": np.array([14, 0, 1, 1])}, r"f.nc frame 0: atom 1 has the atomic number 0, elements are 1 to 118"),
    ({"species": np.array([14, 14, 1, 119])}, r"f.nc frame 1: atom 1 has the atomic number 119"),
    ({"cell": FLAT}, r"f.nc frame 0: the cell has no volume"),
    ({"cell": np.zeros((2, 3, 3))}, r"f.nc frame 0: pbc along vector 0 of a cell that has no extent"),
    ({"cell": changed(GOOD.cell, (0, 0, 0), np.nan)}, r"f.nc frame 0: the cell is .*nan.*not finite"),
    ({"pbc": np.array([[True] * 3, [False, False, True]])}, r"f.nc frame 1: pbc along vector 2"),
    ({"stress": np.full((2, 3, 3), np.nan)}, r"f.nc frame 0: the stress is .*not finite"),
    ({"stress": np.stack([np.eye(3) * 1e3, np.full((3, 3), np.nan)])}, r"f.nc frame 0 has a stress of 1.6e\+05 GPa"),
    ({"positions": changed(GOOD.positions, 1, [0, 0.01, 0])}, r"f.nc frame 0: atom 0 \(Si\) and atom 1 are in one place"),
    ({"positions": changed(GOOD.positions, 1, [3.99, 4.01, -0.01])}, r"atom 0 \(Si\) and atom 1 are in one place"),
    ({"positions": changed(GOOD.positions, 1, [8.0, -4, 0])}, r"atom 0 \(Si\) and atom 1 are in one place \(0 Å apart"),
    ({"positions": changed(GOOD.positions, 3, [0, 0, 0.02])}, r"f.nc frame 1: atom 0 \(H\) and atom 1 are in one place"),
]  # fmt: skip


def test_what_is_right_passes() -> None:
    assert check_frames(GOOD) is GOOD
    # The same place in another frame, 0.06 Å apart, and the same place modulo a vector that does not repeat.
    check_frames(crystal(positions=changed(GOOD.positions, 3, [0, 0, 0.06])))
    slab = np.array([[True, True, False], [False] * 3])
    check_frames(crystal(pbc=slab, positions=changed(GOOD.positions, 1, [0, 0, 4])))
    check_frames(crystal(pbc=slab, cell=changed(GOOD.cell, (0, 2), 0)))


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_is_wrong_is_named(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_frames(crystal(**changes))


def test_close_atoms_are_found_as_by_brute_force() -> None:
    """Against all 125 nearest images, in skew cells with mixed periodicity."""
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(300):
        cell = np.eye(3) + rng.uniform(-0.4, 0.4, (3, 3))
        pbc = rng.random(3) < 0.6
        places = rng.uniform(-2, 3, (2, 3)) @ cell
        shift = rng.integers(-2, 3, 3) * (pbc if rng.random() < 0.7 else 1)
        places[1] = places[0] + shift @ cell + rng.normal(0, 0.03, 3)
        images = np.stack(np.meshgrid(*[np.arange(-3, 4) if p else [0] for p in pbc], indexing="ij"), -1).reshape(-1, 3)
        near = np.linalg.norm(places[1] - places[0] + images @ cell, axis=1).min() <= 0.05
        frames = Frames(places, np.array([1, 1]), cell[None], pbc[None], np.array([2]))
        try:
            check_frames(frames)
            found = False
        except UserError as error:
            found = "in one place" in str(error)
        assert found == near
        seen.add(bool(near))
    assert seen == {True, False}


def test_copied_stress_is_refused() -> None:
    frames = make_frames((2,) * 6)
    check_copied_stress(frames)
    stress = frames.stress.copy()
    stress[3:] = stress[:3]
    with pytest.raises(UserError, match=r"a.xyz frame 5 and a.xyz frame 8 have the same stress .* 2 other pairs"):
        check_copied_stress(replace(frames, stress=stress))
    twice = replace(frames, stress=stress, energy=np.concatenate([frames.energy[:3]] * 2))
    check_copied_stress(twice)  # the same configuration, relabelled by nobody
    check_copied_stress(replace(frames, stress=np.tile(np.eye(3) * 0.1, (6, 1, 1))))  # by symmetry


# --- the file --------------------------------------------------------------------------------------------------------


def test_round_trip_is_exact(tmp_path: Path) -> None:
    frames = make_frames((3, 1, 4), groups=("a/b.xyz", "ü µ"))
    path = write_ragged(tmp_path / "a.nc", frames)
    assert_same(read_ragged(path), frames)
    bare = replace(frames, labels={}, energy=None, forces=None, stress=None, properties={})
    assert_same(read_ragged(write_ragged(tmp_path / "b.nc", bare)), bare)
    assert not has_splits(path)


def test_round_trip_of_molecules_without_stress(tmp_path: Path) -> None:
    frames = crystal(stress=np.stack([np.eye(3) * 0.1, np.full((3, 3), np.nan)]))
    found = read_ragged(write_ragged(tmp_path / "a.nc", frames))
    assert_same(found, replace(frames, labels=found.labels))
    assert found.has_stress.tolist() == [True, False]


def test_splits_come_back(tmp_path: Path) -> None:
    frames = make_frames((3, 1, 4, 2))
    path = write_ragged(tmp_path / "a.nc", {"test": frames[3:], "train": frames[:2], "valid": frames[2:3]})
    assert has_splits(path)
    found = read_splits(path)
    assert list(found) == ["train", "valid", "test"]
    for name, part in (("train", frames[:2]), ("valid", frames[2:3]), ("test", frames[3:])):
        assert_same(found[name], part)
    assert list(read_splits(write_ragged(path, {"train": frames, "test": frames[:0]}))) == ["train"]
    with pytest.raises(UserError, match="not holdout"):
        write_ragged(path, {"holdout": frames})
    with pytest.raises(UserError, match="no frame to write"):
        write_ragged(path, frames[:0])
    with pytest.raises(UserError, match="holds no splits"):
        read_splits(write_ragged(path, frames))


def test_what_is_asked_for_must_be_there(tmp_path: Path) -> None:
    frames = make_frames()
    labels = {k: v for k, v in frames.labels.items() if k != "stress"}
    frames = replace(frames, stress=None, labels=labels)
    path = write_ragged(tmp_path / "a.nc", frames)
    found = read_ragged(path, Labels(forces=None, properties=("gap",)))
    assert found.forces is None
    assert found.properties["gap"].tolist() == frames.properties["gap"].tolist()
    with pytest.raises(UserError, match=r"a.nc has no stress 'stress'; .*data.stress=null"):
        read_ragged(path, Labels(stress="stress"))
    with pytest.raises(UserError, match=r"a.nc has no property 'gip'; did you mean 'gap'\?"):
        read_ragged(path, Labels(properties=("gip",)))
    with pytest.raises(UserError, match=r"its energy is in eV, data.units.energy says Hartree"):
        read_ragged(path, Labels(units=AtomsUnits(energy="Hartree")))
    assert_same(read_ragged(path, Labels(units=AtomsUnits("Å", "eV"), properties=("gap",))), frames)


def test_the_netcdf_library_reads_what_the_conventions_say(tmp_path: Path) -> None:
    netCDF4 = pytest.importorskip("netCDF4")
    frames = make_frames()
    with netCDF4.Dataset(write_ragged(tmp_path / "a.nc", frames)) as data:
        assert data.Conventions == "CF-1.11"
        assert data["row_size"].sample_dimension == "atom"
        assert data["row_size"][:].tolist() == [3, 1, 4]
        np.testing.assert_array_equal(data["position"][:], frames.positions)
        np.testing.assert_array_equal(data["stress"][:], to_voigt(frames.stress))
        assert data["stress"].sign_convention == "tension"
        assert data["stress"].voigt_order == "xx,yy,zz,yz,xz,xy"
        units = {n: data[n].units for n in ("position", "cell", "energy", "force", "stress", "property_gap")}
        assert units == {
            "position": "angstrom", "cell": "angstrom", "energy": "eV", "force": "eV angstrom-1",
            "stress": "eV angstrom-3", "property_gap": "eV",
        }  # fmt: skip
        assert data["energy"].source_label == "E [Ha]"
        assert all(v.filters()["fletcher32"] for n, v in data.variables.items() if v.dtype is not str)


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_ragged(tmp_path / "a.nc", make_frames())
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*a.nc: No space left on device"):
        write_ragged(path, make_frames(seed=1))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def edit(path: Path, name: str, index, value) -> None:
    import h5netcdf

    with h5netcdf.File(path, "a") as file:
        file.variables[name][index] = value


def test_counts_beyond_the_file_are_refused(tmp_path: Path) -> None:
    for counts, message in (
        ([3, 1, 5], "frame 2: claims 5 atoms, 4 are left of 8"),
        ([3, 2**31 - 1, 4], "frame 1: claims 2147483647 atoms, 5 are left of 8"),
        ([3, -1, 6], "frame 1: claims -1 atoms"),
        ([3, 1, 3], "the frames have 7 atoms, the file holds 8"),
    ):
        path = write_ragged(tmp_path / "a.nc", make_frames())
        edit(path, "row_size", slice(None), np.array(counts, np.int32))
        with pytest.raises(UserError, match=message):
            read_ragged(path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of half-opened HDF5
def test_every_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Numbers never change in silence."""
    frames = make_frames((40, 30))
    path = write_ragged(tmp_path / "a.nc", frames)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    noticed = 0
    for place in rng.integers(0, len(data), 16):
        broken = data.copy()
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            found = read_ragged(path)
        except UserError:
            noticed += 1
            continue
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(found, name), getattr(frames, name))
    assert noticed > 0


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_ragged(tmp_path / "a.nc", make_frames())
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(UserError, match=r"a.nc: cannot be read, damaged or cut short"):
        read_ragged(path)


def test_ragged_files_of_others(tmp_path: Path) -> None:
    """Other names, other units, a packed variable, a sign that must be said."""
    netCDF4 = pytest.importorskip("netCDF4")
    path = tmp_path / "other.nc"
    with netCDF4.Dataset(path, "w") as data:
        for name, size in (("obs", 3), ("config", 2), ("xyz", 3), ("v", 3), ("six", 6)):
            data.createDimension(name, size)

        def put(name: str, dims: tuple, values, **attrs) -> None:
            variable = data.createVariable(name, "f8" if np.asarray(values).dtype.kind == "f" else "i4", dims)
            variable.setncatts(attrs)
            variable[:] = values

        put("count", ("config",), [1, 2], sample_dimension="obs")
        put("positions", ("obs", "xyz"), np.arange(9.0).reshape(3, 3), units="bohr")
        put("numbers", ("obs",), [3, 4, 5])
        put("lattice", ("config", "v", "xyz"), np.stack([np.eye(3) * 30] * 2), units="bohr")
        put("e_tot", ("config",), [1.0, 2.0], units="Ry")
        put("forces", ("obs", "xyz"), np.ones((3, 3)), units="Ha/bohr")
        put("s", ("config", "six"), np.arange(12.0).reshape(2, 6) * 0.01, units="GPa")
    labels = Labels(energy="e_tot", stress="s", stress_convention="compression", stress_order="xx,yy,zz,xy,yz,xz")
    frames = read_ragged(path, labels)
    bohr, hartree = length_factor("bohr", ""), energy_factor("Ha", "")
    np.testing.assert_allclose(frames.positions, np.arange(9.0).reshape(3, 3) * bohr)
    np.testing.assert_allclose(frames.cell[1], np.eye(3) * 30 * bohr)
    assert frames.pbc.all()
    np.testing.assert_allclose(frames.energy, np.array([1.0, 2.0]) * hartree / 2)
    np.testing.assert_allclose(frames.forces, hartree / bohr)
    assert frames.stress[1, 0, 1] == pytest.approx(-0.09 * stress_factor("GPa", ""))
    with pytest.raises(UserError, match=r"say which convention 's' has, data.stress_convention= tension"):
        read_ragged(path, replace(labels, stress_convention=None))
    with pytest.raises(UserError, match=r"say which order 's' has, data.stress_order= xx,yy,zz,yz,xz,xy; xx"):
        read_ragged(path, replace(labels, stress_order=None))
    with netCDF4.Dataset(path, "a") as data:
        data["e_tot"].delncattr("units")
    with pytest.raises(UserError, match=r"e_tot has no attribute units; say in data.units"):
        read_ragged(path, labels)
    assert read_ragged(path, replace(labels, units=AtomsUnits(energy="eV"))).energy.tolist() == [1.0, 2.0]


def test_labels_that_mean_nothing_are_refused() -> None:
    for settings, message in (
        ({"stress_convention": "tension"}, "stress is null"),
        ({"property_units": {"gap": "eV"}}, "property_units has gap"),
        ({"properties": ("gap",), "property_units": {"gap": "au"}}, "property_units.gap: .*Hartree or Bohr"),
    ):
        with pytest.raises(ValueError, match=message):
            Labels(**settings)
    for settings in ({"units": "x"},):
        with pytest.raises(UserError, match=r"units.energy: 'x' is not a unit of energy"):
            AtomsUnits(energy=settings["units"])


def test_offsets_and_owners_agree() -> None:
    frames = make_frames((3, 1, 4))
    assert frames.offsets.tolist() == [0, 3, 4, 8]
    for i, (a, b) in enumerate(pairwise(frames.offsets)):
        assert (frames.frame_of_atom[a:b] == i).all()


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on the size of a file fails a write as a full disk does, with EFBIG instead of ENOSPC."""
    import resource

    path = write_ragged(tmp_path / "a.nc", make_frames())
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*a.nc: File too large"):
            write_ragged(path, make_frames((400,) * 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]
    with pytest.raises(UserError, match=r"cannot write .*b.nc: No such file or directory"):
        write_ragged(tmp_path / "none" / "b.nc", make_frames())


def test_what_is_written_is_cf(tmp_path: Path) -> None:
    """The checker of the IOOS community finds nothing, recommendations included."""
    pytest.importorskip("compliance_checker.runner", reason="compliance-checker is in the test extra")
    from test_cf import findings

    frames = make_frames((3, 1, 4, 2), groups=("a.xyz", "b.xyz"))
    assert findings(write_ragged(tmp_path / "a.nc", {"train": frames[:3], "test": frames[3:]})) == []
