"""Crystals against analytic truth (springs, Lennard-Jones) and against ASE's own tools with its EMT."""

from dataclasses import replace

import numpy as np
import pytest

from surrogate.atomistic.calculators import CalculatorPredictor
from surrogate.atomistic.crystals import probe, probe_crystals
from surrogate.atomistic.elastic import elastic_constants
from surrogate.atomistic.phonons import THZ, dispersion, force_constants, supercell
from surrogate.atomistic.predict import Predicted
from surrogate.atomistic.prototypes import crystal
from surrogate.atomistic.relax import _State, relax
from surrogate.atomistic.state_equation import GPA, equation_of_state, fit_birch_murnaghan
from surrogate.core.types import UserError
from surrogate.models.neighbors import neighbor_list

EPS = 0.01  # eV


class Pairs:
    """A predictor of pair energies φ(r), cut off where they stand."""

    def __init__(self, energy, slope, cutoff):
        self.energy, self.slope, self.cutoff = energy, slope, cutoff

    def __call__(self, frames):
        energy, stress, forces, each = [], [], [], []
        for frame in frames:
            pairs = neighbor_list(frame.positions, frame.cell[0], frame.pbc[0], self.cutoff)
            d = frame.positions[pairs.senders] - frame.positions[pairs.receivers] + pairs.shifts @ frame.cell[0]
            r = np.linalg.norm(d, axis=1)
            pull = (self.slope(r) / r)[:, None] * d
            each.append(np.bincount(pairs.receivers, self.energy(r) / 2, frame.num_atoms))
            energy.append(each[-1].sum())
            total = np.zeros((frame.num_atoms, 3))
            np.add.at(total, pairs.receivers, pull)
            forces.append(total)
            stress.append(pull.T @ d / 2 / frame.volume[0])
        return Predicted(np.array(energy), np.concatenate(forces), np.array(stress), np.concatenate(each))


def lennard_jones(cutoff=12.0):
    """σ = 1 Å, and an ε that makes it about as stiff as a metal."""
    return Pairs(lambda r: 4 * EPS * (r**-12 - r**-6), lambda r: 4 * EPS * (-12 * r**-13 + 6 * r**-7), cutoff)


def springs(k, rest, cutoff=None):
    return Pairs(lambda r: k / 2 * (r - rest) ** 2, lambda r: k * (r - rest), cutoff or 1.15 * rest)


@pytest.fixture(scope="module")
def argon():
    """Relaxed face-centred cubic Lennard-Jones crystal."""
    frame, predicted = relax(lennard_jones(), crystal("Ar-fcc-1.6").frame)
    return frame, predicted


def test_lennard_jones_fcc_has_its_known_lattice_constant_and_energy(argon):
    frame, predicted = argon
    # Lattice sums 12.13188 and 14.45392 (Kittel, chapter 3); the tail beyond 12 σ is worth 0.06 %.
    assert predicted.energy[0] == pytest.approx(-EPS * 14.45392**2 / (2 * 12.13188), rel=1e-3)
    constant = np.cbrt(4 * frame.volume[0])
    assert constant == pytest.approx(np.sqrt(2) * (2 * 12.13188 / 14.45392) ** (1 / 6), rel=2e-4)


def test_lennard_jones_equation_of_state(argon):
    state = equation_of_state(lennard_jones(), argon[0], change=0.04)
    r = (2 * 12.13188 / 14.45392) ** (1 / 6)
    volume = r**3 / np.sqrt(2)
    # E = A V⁻⁴ − C V⁻²: B = 8 A V⁻⁵ at the minimum, and B' = 8.
    assert state.volume == pytest.approx(volume, rel=5e-4)
    assert state.bulk_modulus / GPA == pytest.approx(EPS * 8 * 2 * 12.13188 * r**-12 / volume, rel=4e-3)
    assert state.bulk_modulus_derivative == pytest.approx(8, rel=0.02)


def test_lennard_jones_elastic_constants_are_born_sums(argon):
    frame, _ = argon
    cell, volume = frame.cell[0], frame.volume[0]
    n = np.arange(-18, 19)
    d = np.stack(np.meshgrid(n, n, n, indexing="ij"), -1).reshape(-1, 3) @ cell
    r = np.linalg.norm(d, axis=1)
    d, r = d[(r > 0) & (r < 12)], r[(r > 0) & (r < 12)]
    stiff = EPS * (4 * (156 * r**-14 - 42 * r**-8) - 4 * (-12 * r**-14 + 6 * r**-8)) / r**2
    born = {
        "C11": (stiff * d[:, 0] ** 4).sum() / 2 / volume * GPA,
        "C12": (stiff * d[:, 0] ** 2 * d[:, 1] ** 2).sum() / 2 / volume * GPA,
    }
    elastic = elastic_constants(lennard_jones(), frame)
    found = elastic.constants()
    assert found["C11"] == pytest.approx(born["C11"], rel=2e-3)
    assert found["C12"] == pytest.approx(born["C12"], rel=2e-3)
    assert found["C44"] == pytest.approx(found["C12"], rel=5e-3)  # Cauchy: central forces, no pressure
    assert elastic.bulk_modulus == pytest.approx((found["C11"] + 2 * found["C12"]) / 3)
    assert elastic.stable
    state = equation_of_state(lennard_jones(), frame, change=0.03)
    assert elastic.bulk_modulus == pytest.approx(state.bulk_modulus, rel=5e-3)


def test_elastic_constants_relax_the_ions():
    """Springs between neighbours in diamond resist no shear of the bonds: C44 vanishes once the ions may move."""
    start = crystal("Si-diamond")
    predictor = springs(5.0, np.sqrt(3) / 4 * 5.43)
    elastic = elastic_constants(predictor, start.frame)
    found = elastic.constants()
    assert found["C11"] == pytest.approx(found["C12"], rel=1e-3)
    assert abs(found["C44"]) < 1e-2 * found["C11"]


def test_a_phonon_of_springs_is_the_analytic_one():
    k, start = 3.0, crystal("Cu-fcc")
    constants = force_constants(springs(k, 3.61 / np.sqrt(2)), start.frame, (4, 4, 4), displacement=1e-4)
    mass = constants.masses[0]
    bands = dispersion(constants, start.path)
    thz = lambda squares: THZ * np.sqrt(np.array(squares) * k / mass)  # noqa: E731
    np.testing.assert_allclose(bands.points["X"], thz([4, 4, 8]), rtol=1e-6)
    np.testing.assert_allclose(bands.points["L"], thz([2, 2, 8]), rtol=1e-6)
    np.testing.assert_allclose(bands.points["Γ"], 0, atol=1e-4)
    # Γ → X, also between the wave vectors of the supercell: 8 k sin²(qa/4), and 4 k sin²(qa/4) twice.
    zeta = (bands.distance[0] - bands.distance[0][0]) * 3.61
    wave = np.sin(np.pi * zeta / 2) ** 2
    np.testing.assert_allclose(bands.frequencies[0], thz(np.outer(wave, [4, 4, 8])), atol=1e-4)
    assert [name for _, name in bands.labels] == ["Γ", "X", "X", "K", "Γ", "L"]
    assert bands.lowest > -1e-3


def test_the_optical_phonon_of_two_masses():
    k, start = 2.0, crystal("CsCl-cscl")
    predictor = springs(k, np.sqrt(3) / 2 * 4.12)
    constants = force_constants(predictor, start.frame, (3, 3, 3), displacement=1e-4)
    found = constants.frequencies(np.zeros(3))[0]
    optical = THZ * np.sqrt(8 / 3 * k * (1 / constants.masses).sum())
    np.testing.assert_allclose(found, [0, 0, 0, *[optical] * 3], atol=1e-4)


def test_force_constants_keep_the_sum_rule_and_symmetry_of_a_noisy_potential():
    start, rng = crystal("Si-diamond"), np.random.default_rng(0)
    exact = springs(5.0, np.sqrt(3) / 4 * 5.43)

    def noisy(frames):
        predicted = exact(frames)
        return replace(predicted, forces=predicted.forces + rng.normal(0, 1e-4, predicted.forces.shape))

    constants = force_constants(noisy, start.frame, (3, 3, 3))
    assert constants.broken_sum_rule > 1e-3
    np.testing.assert_allclose(constants.values.sum((2, 3)), 0, atol=1e-12)
    total = constants.values.sum(2).reshape(6, 6)
    np.testing.assert_allclose(total, total.T, atol=1e-12)
    np.testing.assert_allclose(constants.frequencies(np.zeros(3))[0][:3], 0, atol=1e-5)


def test_an_unstable_crystal_has_negative_frequencies():
    """Neighbour springs that are compressed push sideways: the transverse branches go soft."""
    start = crystal("Cu-fcc")
    constants = force_constants(springs(3.0, 1.4 * 3.61 / np.sqrt(2), cutoff=3.0), start.frame, (4, 4, 4))
    assert dispersion(constants, start.path).lowest < -0.5


def test_relaxation_reaches_zero_force_and_stress_from_a_distorted_cell():
    start = crystal("Ar-hcp-1.15").frame
    rng = np.random.default_rng(1)
    strain = np.array([[0.03, 0.01, 0.0], [0.01, -0.02, 0.02], [0.0, 0.02, 0.04]])
    distorted = replace(
        start, positions=start.positions @ (np.eye(3) + strain) + rng.normal(0, 0.02, (2, 3)),
        cell=start.cell @ (np.eye(3) + strain),
    )  # fmt: skip
    predictor = lennard_jones(4.0)
    frame, predicted = relax(predictor, distorted)
    assert np.abs(predicted.forces).max() <= 2e-4
    assert np.abs(predicted.stress).max() <= 2e-5
    axes = np.linalg.norm(frame.cell[0], axis=1)
    assert axes[0] == pytest.approx(axes[1], rel=1e-4)
    assert axes[2] / axes[0] == pytest.approx(np.sqrt(8 / 3), rel=5e-3)
    kept, at_volume = relax(predictor, distorted, "volume", max_stress=1e-4)
    assert kept.volume[0] == pytest.approx(distorted.volume[0], rel=1e-12)
    deviator = at_volume.stress[0] - np.trace(at_volume.stress[0]) / 3 * np.eye(3)
    assert np.abs(deviator).max() <= 1e-4


def test_the_gradient_that_relaxes_is_that_of_the_energy():
    predictor, start = lennard_jones(4.0), crystal("Ar-hcp-1.15").frame
    state = _State(start, "free")
    rng = np.random.default_rng(0)
    here = rng.normal(0, 0.03, state.size)

    def at(x):
        state.x = x
        bent = state.deformation()
        state.frame = replace(
            start, positions=(start.positions + x[:6].reshape(2, 3)) @ bent, cell=start.cell @ bent
        )  # fmt: skip
        return predictor(state.frame)

    gradient = state.gradient(at(here))
    for i in range(state.size):
        step = 1e-5 * np.eye(state.size)[i]
        difference = (at(here + step).energy[0] - at(here - step).energy[0]) / 2e-5
        assert gradient[i] == pytest.approx(difference, rel=1e-5, abs=1e-5)
        at(here)


def test_what_falls_apart_is_a_sentence():
    """Repulsion without attraction."""
    with pytest.raises(UserError, match=r"Cu-fcc frame 0: the volume changed to .* times"):
        relax(Pairs(lambda r: r**-6, lambda r: -6 * r**-7, 6.0), crystal("Cu-fcc").frame)


def test_birch_murnaghan_recovers_its_own_parameters():
    truth = fit_birch_murnaghan(np.linspace(10, 13, 9), 0.02 * (np.linspace(10, 13, 9) - 11.4) ** 2)
    volumes = np.linspace(10.5, 12.5, 7)
    again = fit_birch_murnaghan(volumes, truth(volumes))
    for name in ("volume", "energy", "bulk_modulus", "bulk_modulus_derivative"):
        assert getattr(again, name) == pytest.approx(getattr(truth, name), rel=1e-7)
    assert again.residual < 1e-12
    with pytest.raises(UserError, match=r"no minimum between 10\.00 and 11\.00"):
        fit_birch_murnaghan(np.linspace(10, 11, 6), np.linspace(0, -1, 6))


# -- against ASE -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copper():
    emt = pytest.importorskip("ase.calculators.emt")
    return probe(CalculatorPredictor(emt.EMT), "Cu-fcc")


def test_equation_of_state_is_that_of_ase(copper):
    from ase.eos import EquationOfState

    state = copper.state
    v0, e0, b = EquationOfState(state.volumes, state.energies, eos="birchmurnaghan").fit()
    assert state.volume == pytest.approx(v0, rel=1e-5)
    assert state.energy == pytest.approx(e0, abs=1e-6)
    assert state.bulk_modulus == pytest.approx(b * GPA, rel=1e-3)
    assert copper.elastic.bulk_modulus == pytest.approx(state.bulk_modulus, rel=5e-3)


def test_phonons_are_those_of_ase(copper, tmp_path):
    from ase import Atoms
    from ase.calculators.emt import EMT
    from ase.phonons import Phonons

    frame = copper.crystal.frame
    atoms = Atoms("Cu", cell=frame.cell[0], pbc=True, masses=copper.constants.masses)
    phonons = Phonons(atoms, EMT(), supercell=copper.constants.grid, delta=0.01, name=str(tmp_path / "cache"))
    phonons.run()
    phonons.read(acoustic=True)
    # X, L and a point between: wave vectors of the supercell, where no interpolation enters.
    points = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0.5], [1 / 3, 1 / 3, 0.0], [1 / 3, 0.5, 5 / 6]])
    theirs = phonons.band_structure(points) / 4.135667696e-3  # eV of a quantum → THz
    np.testing.assert_allclose(copper.constants.frequencies(points), theirs, rtol=1e-4)


def test_probe_compares_with_a_reference_and_notes_what_fails(copper):
    from ase.calculators.emt import EMT

    emt = CalculatorPredictor(EMT)

    def softer(frames):
        p = emt(frames)
        return Predicted(0.9 * p.energy, 0.9 * p.forces, 0.9 * p.stress, 0.9 * p.atom_energies)

    table, pictures = probe_crystals(softer, ["Cu-fcc"], emt)
    of = table["Cu-fcc"]["properties"]
    assert of["C11"]["surrogate"] == pytest.approx(0.9 * of["C11"]["reference"], rel=1e-3)
    assert of["lattice_constant"]["reference"] == pytest.approx(3.5898, abs=1e-3)
    assert of["lattice_constant"]["units"] == "Å"
    x = table["Cu-fcc"]["phonons"]["X"]
    np.testing.assert_allclose(x["surrogate"], np.sqrt(0.9) * np.array(x["reference"]), rtol=1e-3)
    assert 0.2 < table["Cu-fcc"]["phonon_rmse"] < 0.4
    assert table["Cu-fcc"]["notes"] == []
    assert pictures["phonons"][0]["name"] == "Cu-fcc"

    def broken(frames):
        p = emt(frames)
        return replace(p, energy=p.energy * np.nan)

    table, _ = probe_crystals(broken, ["Cu-fcc"], emt)
    assert "surrogate" not in table["Cu-fcc"]["properties"]["C11"]
    assert table["Cu-fcc"]["notes"][0].startswith("surrogate: Cu-fcc frame 0: energy, forces or stress are not finite")


def test_supercells_keep_images_apart():
    assert supercell(crystal("Cu-fcc").frame) == (6, 6, 6)
    assert supercell(crystal("Cu3Au-L12").frame) == (5, 5, 5)  # an even number would be 864 atoms
