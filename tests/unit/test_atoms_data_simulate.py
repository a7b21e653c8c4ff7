"""The alloy that is simulated here: its physics, that it is the same again, and its file."""

from __future__ import annotations

import dataclasses
import multiprocessing
from pathlib import Path
import sys

import numpy as np
import pytest

from surrogate.config import build
from surrogate.core.types import UserError
from surrogate.data.atoms_ragged import read_splits
from surrogate.data.atoms_source import AtomsDataConfig, open_atoms
from surrogate.data.simulate_atoms import _EMT, AlloyConfig, _langevin, simulate_alloy

TINY = AlloyConfig(
    trajectories=2, valid_trajectories=1, test_trajectories=1, frames=3, interval=2, equilibration=4, size=1, lattices=4
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[float, float]]]:
    pytest.importorskip("ase", reason="ASE is the materials extra")
    calls: list[tuple[float, float]] = []
    path = simulate_alloy(TINY, tmp_path_factory.mktemp("cache"), lambda done, total: calls.append((done, total)))
    return path, calls


def energy_and_labels(
    numbers: np.ndarray, cell: np.ndarray, positions: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    from ase import Atoms
    from ase.calculators.emt import EMT

    atoms = Atoms(numbers=numbers, positions=positions, cell=cell, pbc=True, calculator=EMT())
    return atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)


def test_labels_are_those_of_emt(tiny) -> None:
    for frames in read_splits(tiny[0]).values():
        for i in range(0, len(frames), 4):
            part = frames[i]
            energy, forces, stress = energy_and_labels(part.species, part.cell[0], part.positions)
            np.testing.assert_allclose(part.energy[0], energy, atol=1e-10)
            np.testing.assert_allclose(part.forces, forces, atol=1e-9)
            np.testing.assert_allclose(part.stress[0], stress, atol=1e-10)


def test_forces_and_stress_are_derivatives_of_the_energy(tiny) -> None:
    """By central differences over positions, and over all nine strains: the sign is tension positive."""
    part = read_splits(tiny[0])["train"][1]
    numbers, cell, place = part.species, part.cell[0], part.positions
    step = 1e-4
    for atom, axis in ((0, 0), (1, 2), (3, 1)):
        shift = np.zeros_like(place)
        shift[atom, axis] = step
        up, down = (energy_and_labels(numbers, cell, place + s * shift)[0] for s in (1, -1))
        assert part.forces[atom, axis] == pytest.approx(-(up - down) / (2 * step), abs=1e-5)
    volume = part.volume[0]
    assert np.abs(part.stress[0]).max() > 1e-3
    for i, j in np.ndindex(3, 3):
        strain = np.zeros((3, 3))
        strain[i, j] = step
        up, down = (
            energy_and_labels(numbers, cell @ (np.eye(3) + s * strain), place @ (np.eye(3) + s * strain))[0]
            for s in (1, -1)
        )
        assert part.stress[0, i, j] == pytest.approx((up - down) / (2 * step) / volume, abs=2e-6)


def test_splits_are_trajectories(tiny) -> None:
    splits = read_splits(tiny[0])
    assert {k: len(v) for k, v in splits.items()} == {"train": 2 * 3 + 20, "valid": 3 + 5, "test": 3 + 5}
    for name, frames in splits.items():
        assert {frames.groups[g].split("/")[0] for g in frames.group} == {name}
    assert tiny[1][-1] == (42, 42)
    assert splits["train"].place(0).startswith("train/md-000 Cu")
    assert splits["train"].place(0).endswith("300 K frame 0")


def test_frames_of_the_default_are_spread(tiny) -> None:
    frames = read_splits(tiny[0])["train"]
    assert {29, 79} == set(frames.species.tolist())
    strain = frames.volume / np.median(frames.volume)
    assert strain.max() / strain.min() > 1.3
    assert (frames.stress != 0).any()
    ideal = [i for i in range(len(frames)) if "lattice" in frames.place(i) and np.abs(frames[i].forces).max() < 1e-9]
    assert len(ideal) == 10  # every other lattice, where only the stress is left to learn from


def test_the_same_settings_give_the_same_numbers(tiny, tmp_path: Path) -> None:
    again, other = (read_splits(simulate_alloy(c, tmp_path)) for c in (TINY, dataclasses.replace(TINY, seed=1)))
    first = read_splits(tiny[0])
    for name in first:
        for array in ("positions", "species", "energy", "forces", "stress", "cell"):
            np.testing.assert_array_equal(getattr(first[name], array), getattr(again[name], array))
        assert not np.array_equal(first[name].cell, other[name].cell)
    # More of them leave the others as they are.
    more = read_splits(simulate_alloy(dataclasses.replace(TINY, trajectories=3), tmp_path))["train"]
    np.testing.assert_array_equal(more[:6].positions, first["train"][:6].positions)


def test_settings_come_from_lists_and_whole_numbers() -> None:
    settings = {"elements": ["Ni", "Al"], "temperatures": [300, 600], "volume_range": [0, 0.1], "time_step": 4}
    config = build(AlloyConfig, settings, "data.simulate")
    assert config == AlloyConfig(
        elements=("Ni", "Al"), temperatures=(300.0, 600.0), volume_range=(0.0, 0.1), time_step=4.0
    )
    same = AlloyConfig(elements=("Ni", "Al"), temperatures=(300, 600), volume_range=(0, 0.1), time_step=4)
    assert config.file_name == same.file_name  # 4 and 4.0 fs are one simulation


def test_every_setting_changes_the_file_name() -> None:
    changed = {
        "elements": ("Ni", "Al"), "size": 3, "trajectories": 5, "valid_trajectories": 5, "test_trajectories": 5, "frames": 5,
        "interval": 5, "equilibration": 5, "time_step": 2.0, "temperatures": (10.0,), "volume_range": (0.0, 0.0),
        "strain": 0.01, "lattices": 3, "seed": 1,
    }  # fmt: skip
    assert set(changed) == {f.name for f in dataclasses.fields(AlloyConfig)}
    names = {AlloyConfig().file_name, *(AlloyConfig(**{k: v}).file_name for k, v in changed.items())}
    assert len(names) == len(changed) + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"elements": ("Cu", "Fe")}, "EMT knows Al, Cu, Ag, Au, Ni, Pd, Pt, not 'Fe'"),
        ({"elements": ("Cu", "Cu")}, "two different elements"),
        ({"size": 0}, "simulate.size=0 must be a whole number from 1 to 6"),
        ({"frames": True}, "simulate.frames=True"),
        ({"temperatures": ()}, r"simulate.temperatures=\[\]"),
        ({"time_step": 20.0}, "simulate.time_step=20.0 must be above 0 and at most 8 fs"),
        ({"volume_range": (0.1, -0.1)}, "simulate.volume_range"),
        ({"strain": 0.5}, "simulate.strain=0.5"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        AlloyConfig(**settings)


def test_the_second_time_nothing_is_simulated(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surrogate.data.simulate_atoms._write", None)
    assert simulate_alloy(TINY, tiny[0].parent) == tiny[0]
    assert [p.name for p in tiny[0].parent.iterdir() if p.name.endswith(".partial")] == []


def test_damaged_files_and_other_settings_are_noticed(tiny, tmp_path: Path) -> None:
    path = tmp_path / TINY.file_name
    path.write_bytes(tiny[0].read_bytes()[:1000])
    with pytest.raises(UserError, match=r"is damaged .*; delete it to simulate it again"):
        simulate_alloy(TINY, tmp_path)
    path.write_bytes(tiny[0].read_bytes())
    other = dataclasses.replace(TINY, seed=5)
    (tmp_path / other.file_name).write_bytes(tiny[0].read_bytes())
    with pytest.raises(UserError, match=r"holds .*delete it to simulate it again"):
        simulate_alloy(other, tmp_path)


def test_without_ase_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n == "ase" or n.startswith("ase.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ase", None)
    with pytest.raises(UserError, match=r"simulating an alloy needs ASE .*pip install 'surrogate\[materials\]'"):
        simulate_alloy(TINY, tmp_path)
    assert list(tmp_path.iterdir()) == []


def _simulate(directory: Path) -> None:
    simulate_alloy(TINY, directory)


@pytest.mark.slow
def test_two_processes_make_one_file(tmp_path: Path) -> None:
    pytest.importorskip("ase", reason="ASE is the materials extra")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_simulate, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0, 0]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f".{TINY.file_name}.lock", TINY.file_name])


def test_open_atoms_gives_what_is_asked_for(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURROGATE_CACHE", str(tiny[0].parent))
    settings = dataclasses.asdict(TINY)
    splits = open_atoms(AtomsDataConfig(source="simulate", stress="stress", simulate=settings))
    assert splits["train"].stress is not None
    assert list(splits) == ["train", "valid", "test"]
    assert open_atoms(AtomsDataConfig(source="simulate", simulate=settings))["train"].stress is None
    with pytest.raises(UserError, match=r"data.simulate.frams is not a setting; did you mean data.simulate.frames"):
        open_atoms(AtomsDataConfig(source="simulate", simulate={"frams": 3}))


class _Springs:
    """A harmonic crystal in the potential's place: its canonical distribution is known."""

    def __init__(self, rest: np.ndarray, stiffness: float) -> None:
        self.rest, self.stiffness = rest, stiffness

    def forces(self, positions: np.ndarray) -> np.ndarray:
        return -self.stiffness * (positions - self.rest)


def test_dynamics_sample_the_canonical_ensemble() -> None:
    """⟨x²⟩ = k_B T / K of free oscillators, exactly for BAOAB at any stable step; light and heavy atoms alike."""
    pytest.importorskip("ase", reason="ASE is the materials extra")
    numbers = np.array([13, 79] * 200)
    rest = np.zeros((400, 3))
    config = AlloyConfig(frames=60, interval=20, equilibration=200)
    springs: _EMT = _Springs(rest, 3.0)  # type: ignore[assignment]
    frames = list(_langevin(config, springs, numbers, rest, 600.0, np.random.default_rng(0)))
    assert len(frames) == 60
    square = np.mean([p**2 for p, _ in frames], axis=(0, 2))
    for kind in (13, 79):
        assert square[numbers == kind].mean() == pytest.approx(8.617333262e-5 * 600 / 3, rel=0.03)
