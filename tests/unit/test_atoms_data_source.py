"""From settings to splits: which frames are for what, what does not fit together, forces that belong to no energy."""

from __future__ import annotations

from dataclasses import replace
import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest

from surrogate.config import build
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_consistency import check_consistency, measure_consistency
from surrogate.data.atoms_ragged import write_ragged
from surrogate.data.atoms_source import AtomsDataConfig, open_atoms, provenance
from surrogate.data.atoms_units import from_voigt, to_voigt


def springs(num: int = 60, atoms: int = 5, seed: int = 0, *, name: str = "s.nc", spread: float = 0.08) -> Frames:
    """A crystal of springs between all atoms: energies, forces and stresses exact, and quadratic only nearly.

    E = ½ k Σ_{i<j} (|r_ij| − d_ij)², over the nearest image; the cell is strained at random.
    """
    rng = np.random.default_rng(seed)
    ideal = np.random.default_rng(99).uniform(0, 1, (atoms, 3))
    energies, forces, stresses, places, cells = [], [], [], [], []
    rest = None
    for i in range(num):
        strain = rng.normal(0, 0.02, (3, 3)) * (i > 0)
        cell = 6 * (np.eye(3) + (strain + strain.T) / 2)
        place = ideal @ cell + rng.normal(0, spread, (atoms, 3)) * (i > 0)
        apart = (place[:, None] - place) @ np.linalg.inv(cell)
        ideal_apart = ideal[:, None] - ideal
        vector = (apart - np.round(ideal_apart)) @ cell
        length = np.linalg.norm(vector, axis=-1) + np.eye(atoms)
        rest = length if rest is None else rest
        pull = 2.0 * (length - rest)
        energies.append(0.25 * 2.0 * ((length - rest) ** 2).sum())
        forces.append(-(pull / length)[..., None].__mul__(vector).sum(1))
        stresses.append(0.5 * np.einsum("ij,ija,ijb->ab", pull / length, vector, vector) / np.linalg.det(cell))
        places.append(place)
        cells.append(cell)
    return Frames(
        np.concatenate(places), np.tile(np.array([14, 14, 6, 6, 1])[:atoms], num), np.array(cells),
        np.ones((num, 3), bool), np.full(num, atoms), np.array(energies), np.concatenate(forces), np.array(stresses),
        groups=tuple(f"{name} run {k}" for k in range(6)), group=np.arange(num) * 6 // num, frame=np.arange(num),
    )  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ragged(tmp_path_factory.mktemp("atoms") / "s.nc", springs())


def numbers(frames: Frames) -> list[int]:
    return frames.frame.tolist()


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["frame", "group", "time"])
def test_fractions_share_out_every_frame_once(file: Path, by: str) -> None:
    config = AtomsDataConfig(paths=(str(file),), valid_fraction=0.15, test_fraction=0.2, split_by=by)  # type: ignore[arg-type]
    splits = open_atoms(config)
    assert sorted(i for s in splits.values() for i in numbers(s)) == list(range(60))
    again = open_atoms(config)
    assert {k: numbers(v) for k, v in splits.items()} == {k: numbers(v) for k, v in again.items()}
    sizes = {k: len(v) for k, v in splits.items()}
    if by == "frame":
        assert sizes == {"train": 39, "valid": 9, "test": 12}
        assert numbers(open_atoms(replace(config, seed=1))["valid"]) != numbers(splits["valid"])
    if by == "group":
        groups = [g for s in splits.values() for g in set(s.group.tolist())]
        assert len(groups) == len(set(groups)) == 6
        assert sizes["valid"] == 10
        assert sizes["test"] == 20
    if by == "time":  # of each of the six runs of ten: six, then two, then two
        assert numbers(splits["test"]) == [i for i in range(60) if i % 10 >= 8]
        assert numbers(splits["valid"]) == [i for i in range(60) if i % 10 in (6, 7)]


def test_files_of_their_own_are_not_shared_out(file: Path, tmp_path: Path) -> None:
    other = write_ragged(tmp_path / "t.nc", springs(8, seed=1, name="t.nc"))
    splits = open_atoms(AtomsDataConfig(root=str(tmp_path), paths=(str(file),), test_paths=("t.nc",)))
    assert {k: len(v) for k, v in splits.items()} == {"train": 54, "valid": 6, "test": 8}
    none = open_atoms(AtomsDataConfig(paths=(str(file),), valid_fraction=0, test_fraction=0))
    assert list(none) == ["train"]
    assert splits["test"].groups[0] == "t.nc run 0"
    globbed = open_atoms(AtomsDataConfig(root=str(tmp_path), paths=("*.nc",)))
    assert sum(map(len, globbed.values())) == 8
    assert sum(map(len, open_atoms(AtomsDataConfig(paths=(str(tmp_path),))).values())) == 8
    assert other.exists()


def test_slices_of_a_file(file: Path) -> None:
    splits = open_atoms(
        AtomsDataConfig(paths=(f"{file}@:40",), valid_paths=(f"{file}@40:50",), test_paths=(f"{file}@-10::3",))
    )
    assert [len(splits[k]) for k in ("train", "valid", "test")] == [40, 10, 4]
    assert numbers(splits["test"]) == [50, 53, 56, 59]
    with pytest.raises(UserError, match=r"data.test_paths: .*@39:41 is already in data.paths"):
        open_atoms(AtomsDataConfig(paths=(f"{file}@:40",), test_paths=(f"{file}@39:41",)))
    with pytest.raises(UserError, match="selects none of the 60 frames"):
        open_atoms(AtomsDataConfig(paths=(f"{file}@70:",)))


def test_a_learning_curve_takes_some_of_the_training_frames(file: Path) -> None:
    config = AtomsDataConfig(paths=(str(file),))
    whole, some = open_atoms(config), open_atoms(replace(config, train_frames=10))
    assert len(some["train"]) == 10
    assert set(numbers(some["train"])) < set(numbers(whole["train"]))
    assert numbers(some["test"]) == numbers(whole["test"])
    # A longer one contains the shorter one, so that a curve shows the data's growth alone.
    assert set(numbers(some["train"])) < set(numbers(open_atoms(replace(config, train_frames=20))["train"]))
    with pytest.raises(UserError, match="train_frames=100, but there are 48"):
        open_atoms(replace(config, train_frames=100))


def test_prepared_splits_are_the_same_when_read_back(file: Path, tmp_path: Path) -> None:
    config = AtomsDataConfig(paths=(str(file),), energy="energy", stress="stress")
    splits = open_atoms(config)
    store = write_ragged(tmp_path / "store.nc", splits)
    for source in ("store", "auto"):
        # A file's own name for the energy, as in the settings it was prepared with, still asks for it.
        again = open_atoms(replace(config, paths=(str(store),), source=source))
        for name, frames in splits.items():
            np.testing.assert_array_equal(frames.forces, again[name].forces)
            np.testing.assert_array_equal(frames.stress, again[name].stress)
    with pytest.raises(UserError, match=r"store.nc: is a store with splits of its own, so it is read alone"):
        open_atoms(replace(config, paths=(str(store), str(file))))
    with pytest.raises(UserError, match="holds no splits"):
        open_atoms(replace(config, source="store"))


def test_frames_that_are_in_two_splits_are_counted(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = write_ragged(tmp_path / "t.nc", Frames.concat([springs()[3:5], springs(6, seed=2)]))
    with caplog.at_level(logging.WARNING):
        open_atoms(AtomsDataConfig(paths=(str(file),), test_paths=(str(test),), valid_fraction=0))
    assert "3 of the 8 frames of test are in the training data too" in caplog.text  # two, and the ideal crystal
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        open_atoms(AtomsDataConfig(paths=(str(file),)))
    assert not caplog.text


def test_provenance_names_every_file(file: Path, tmp_path: Path) -> None:
    root = tmp_path / "system"
    (root / "set.000").mkdir(parents=True)
    (root / "type.raw").write_text("0")
    config = AtomsDataConfig(paths=(f"{file}@:5", f"{file}@5:9"), test_paths=(str(root),))
    first, second = provenance(config)
    assert first == {
        "path": str(file), "bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()
    }  # fmt: skip
    assert second["path"] == str(root)


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_come_from_plain_mappings() -> None:
    config = build(
        AtomsDataConfig,
        {"paths": ["a.xyz"], "stress": "virial", "stress_convention": "virial", "units": {"energy": "Ry"}, "properties": ["gap"],
         "property_units": {"gap": "Ha"}},
        "data",
    )  # fmt: skip
    assert config.units.energy == "Ry"
    assert config.property_units == {"gap": "Ha"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"energie": "E"}, "data.energie is not a setting; did you mean data.energy"),
        ({"valid_fraction": 1.0}, "valid_fraction=1.0 must be at least 0 and less than 1"),
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"energy": None, "forces": None}, "there is nothing to learn"),
        ({"train_frames": 0}, "train_frames=0"),
        ({"stress_convention": "tension"}, "stress is null"),
        (
            {"stress": "s", "stress_convention": "up"},
            "data.stress_convention='up' is not one of tension, compression, virial",
        ),
        ({"stress": "s", "stress_order": "xy"}, "data.stress_order='xy' is not one of xx,yy,zz,yz,xz,xy"),
        ({"units": {"energy": "parsec"}}, "units.energy: 'parsec' is not a unit of energy"),
        ({"stress": "s", "stress_convention": "tension", "units": {"stress": "eV"}}, "'eV' is not a unit of stress"),
        ({"source": "simulate", "test_paths": ["a"]}, "source=simulate brings its own splits"),
        ({"source": "vasp"}, "data.source='vasp' is not one of auto"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(AtomsDataConfig, settings, "data")


def test_absent_files_are_named(file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for settings, message in (
        ({}, "data.paths is empty"),
        (
            {"paths": (str(tmp_path / "a.xyz"),), "fetch": "run get-data"},
            r"a.xyz: no such file or directory; run get-data",
        ),
        ({"paths": (str(tmp_path / "*.xyz"),)}, "no such file"),
        ({"paths": (str(tmp_path / "empty"),)}, "the directory holds no atoms"),
        ({"paths": (str(file),), "source": "simulate"}, "data.source=simulate makes its own data"),
        ({"paths": (str(file), str(file))}, r"is already in data.paths"),
        ({"paths": (str(file),), "test_paths": (str(file),)}, r"data.test_paths: .* is already in data.paths"),
        ({"paths": (str(file),), "properties": ("gap",)}, "has no property 'gap'"),
    ):
        with pytest.raises(UserError, match=message):
            open_atoms(AtomsDataConfig(**settings))


def test_too_few_frames_for_the_fractions(tmp_path: Path) -> None:
    path = write_ragged(tmp_path / "s.nc", springs(2))
    with pytest.raises(
        UserError, match=r"too few for test_fraction=0.1, valid_fraction=0.1 by frame: train is left empty"
    ):
        open_atoms(AtomsDataConfig(paths=(str(path),)))


# --- forces that belong to the energies ------------------------------------------------------------------------------


def test_factors_are_one_when_all_is_right() -> None:
    found = check_consistency(springs())
    assert found.explained > 0.99
    assert found.forces[0] == pytest.approx(1, abs=0.05)
    assert found.stress[0] == pytest.approx(1, abs=0.05)
    alone = springs()
    assert measure_consistency(replace(alone, energy=None)).pairs == 0
    assert measure_consistency(alone[:3]).forces is None  # too few pairs to say


@pytest.mark.parametrize(
    ("kind", "factor", "message"),
    [
        ("forces", -1.0, "times the work of the forces, .*: the sign is reversed"),
        ("forces", 1 / 51.4221, "they are in Hartree/Bohr"),
        ("forces", 1 / 25.711, "they are in Rydberg/Bohr"),
        ("forces", 1 / 0.0433641, "they are in kcal/mol/Å"),
        ("forces", 7.0, "check their units"),
        ("stress", -1.0, "times the work of the stress, .*: the sign is reversed"),
        ("stress", 160.2176634, "they are in GPa"),
        ("stress", -1602.176634, "they are in kbar with the sign reversed"),
    ],
)
def test_wrong_signs_and_units_are_recognised(kind: str, factor: float, message: str, tmp_path: Path) -> None:
    right = springs()
    wrong = replace(right, **{kind: getattr(right, kind) * factor})
    with pytest.raises(UserError, match=message):
        check_consistency(wrong)
    if kind == "forces" and factor == -1:
        path = write_ragged(tmp_path / "w.nc", wrong)
        with pytest.raises(UserError, match=r"data.check_consistency=false trains on them as they are"):
            open_atoms(AtomsDataConfig(paths=(str(path),), stress="stress"))
        assert open_atoms(AtomsDataConfig(paths=(str(path),), stress="stress", check_consistency=False))


def test_a_wrong_order_of_the_stress_is_recognised() -> None:
    right = springs(spread=0.02)
    assert check_consistency(right).explained > 0.99
    for order, meant in (
        ("xx,yy,zz,xy,yz,xz", "yz,xz,xy and not xy,yz,xz"),
        ("xx,yy,zz,yz,xz,xy", "xy,yz,xz and not yz,xz,xy"),
    ):
        stored = to_voigt(right.stress)
        if order == "xx,yy,zz,yz,xz,xy":
            stored = stored[:, [0, 1, 2, 5, 3, 4]]
        with pytest.raises(UserError, match=rf"are {meant}: its order is wrong"):
            check_consistency(replace(right, stress=from_voigt(stored, order)))


def test_unrelated_frames_are_left_alone() -> None:
    """Random molecules: no pair is close, whatever the forces are."""
    rng = np.random.default_rng(0)
    frames = Frames(
        rng.uniform(0, 9, (300, 3)), np.tile([1, 6, 8], 100), np.zeros((100, 3, 3)), np.zeros((100, 3), bool),
        np.full(100, 3), rng.normal(size=100), rng.normal(size=(300, 3)),
    )  # fmt: skip
    assert check_consistency(frames).forces is None
