"""The ASE calculator against the predictor, analytic crystals and ASE's own tools."""

from __future__ import annotations

from pathlib import Path
import tempfile
import threading

from flax import nnx
import jax
import numpy as np
from pair_potentials import LennardJones
import pytest

import surrogate as sg
from surrogate.atomistic.evaluation import Trained
from surrogate.atomistic.predict import ModelPredictor
from surrogate.data.atoms import Frames
from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.descriptor import Descriptor, DescriptorConfig

ase = pytest.importorskip("ase", reason="ASE is in the materials and test extras")

from ase.build import bulk  # noqa: E402
from ase.filters import FrechetCellFilter  # noqa: E402
from ase.md.verlet import VelocityVerlet  # noqa: E402
from ase.optimize import BFGS  # noqa: E402
from ase.units import fs  # noqa: E402

from surrogate.atomistic import calculator as module  # noqa: E402
from surrogate.atomistic.calculator import Calculator  # noqa: E402

LJ = LennardJones(AtomsGeometry((18,), 6.5, 50.0, reference_energies=(-2.0,)))


def alloy_potential(members: int = 0) -> Trained:
    geometry = AtomsGeometry((29, 79), 4.0, 18.0, scale=0.5, reference_energies=(-3.5, -2.0))
    config = DescriptorConfig(channels=4, l_max=2, correlation=2, basis=4, readout=4, zbl=True)

    def make(seed: int):
        return nnx.split(Descriptor(geometry, config, rngs=nnx.Rngs(seed)))

    graphdef, params = make(0)
    if members:
        params = jax.tree.map(lambda *x: np.stack(x), *[make(seed)[1] for seed in range(members)])
    return Trained(graphdef, params, geometry, members=members, spread_factor=(1.5, 0.5))


def alloys() -> list:
    """Eight atoms each: crystals periodic in all, two, one and no directions, sheared, far from the origin."""
    rng = np.random.default_rng(0)
    cube = bulk("Cu", "fcc", a=3.8, cubic=True) * (2, 1, 1)
    cube.symbols[[0, 3, 6]] = "Au"
    cube.positions += rng.normal(0, 0.1, cube.positions.shape)
    found = []
    for pbc in ((1, 1, 1), (1, 1, 0), (0, 0, 1), (0, 0, 0)):
        part = cube.copy()
        part.pbc = pbc
        found.append(part)
    strained = cube.copy()
    strained.set_cell(cube.cell.array @ (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3))), scale_atoms=True)
    strained.positions += [17, -9, 5]
    turned = cube.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    return [*found, strained, turned]


def frames(structures) -> Frames:
    return Frames(
        np.concatenate([a.positions for a in structures]), np.concatenate([a.numbers for a in structures]),
        np.array([a.cell.array for a in structures]), np.array([a.pbc for a in structures]),
        np.array([len(a) for a in structures]),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("members", [0, 3])
def test_it_says_what_the_predictor_says(members: int) -> None:
    trained, structures = alloy_potential(members), alloys()
    predictor = ModelPredictor(
        trained.graphdef, trained.params, trained.geometry, members=members, spread_factor=(1.5, 0.5)
    )  # fmt: skip
    expected = predictor(frames(structures))
    calculator = Calculator.of(trained)
    for i, atoms in enumerate(structures):
        atoms.calc = calculator
        rows = slice(8 * i, 8 * i + 8)
        np.testing.assert_allclose(atoms.get_potential_energy(), expected.energy[i], rtol=2e-6)
        assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
        np.testing.assert_allclose(atoms.get_potential_energies(), expected.atom_energies[rows], atol=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), expected.forces[rows], atol=5e-5)
        if atoms.pbc.all():
            np.testing.assert_allclose(atoms.get_stress(voigt=False), expected.stress[i], atol=2e-6)
        else:
            with pytest.raises(ase.calculators.calculator.PropertyNotImplementedError):
                atoms.get_stress()
        if members:
            np.testing.assert_allclose(calculator.results["energy_spread"], expected.energy_spread[i], rtol=1e-3)
            np.testing.assert_allclose(calculator.results["force_spread"], expected.force_spread[rows], atol=5e-5)
        else:
            assert "energy_spread" not in calculator.results
    # What is rotated has the same energy; a supercell has a multiple of it.
    np.testing.assert_allclose(expected.energy[-1], expected.energy[0], rtol=1e-6)
    large = structures[0] * (1, 2, 1)
    large.calc = calculator
    np.testing.assert_allclose(large.get_potential_energy(), 2 * expected.energy[0], rtol=1e-6)


def test_a_list_serves_while_it_is_complete_and_one_program_serves_all() -> None:
    rng = np.random.default_rng(1)
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * 2
    calculator = Calculator.of(LJ, skin=0.5)
    atoms.calc = calculator
    atoms.get_potential_energy()
    reused = 0
    for step in range(12):
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.004, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
        before, programs = calculator.neighbors.builds, module._compute._cache_size()
        got = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        reused += calculator.neighbors.builds == before
        assert module._compute._cache_size() == programs
        new = atoms.copy()
        new.calc = Calculator.of(LJ, skin=0.5)
        new.calc.neighbors._capacity = calculator.neighbors._capacity
        np.testing.assert_allclose(got[0], new.get_potential_energy(), rtol=1e-6, err_msg=str(step))
        np.testing.assert_allclose(got[1], new.get_forces(), atol=2e-6)
        np.testing.assert_allclose(got[2], new.get_stress(), atol=1e-8)
    assert 3 <= reused < 12
    assert calculator.neighbors.builds == 13 - reused
    # Another element or periodicity is another list, wherever the atoms are.
    builds = calculator.neighbors.builds
    atoms.pbc = (True, True, False)
    atoms.get_potential_energy()
    assert calculator.neighbors.builds == builds + 1


def test_a_strained_crystal_relaxes_to_the_cube_it_was() -> None:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * 2
    strain = np.array([[0.03, 0.02, 0], [0, -0.02, 0.01], [0, 0, 0.01]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.05, seed=2)
    atoms.calc = Calculator.of(LJ)
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=2e-4, steps=200)
    assert np.abs(atoms.get_stress()).max() < 1e-5
    lengths, angles = atoms.cell.lengths(), atoms.cell.angles()
    np.testing.assert_allclose(angles, 90, atol=0.05)
    np.testing.assert_allclose(lengths, lengths.mean(), rtol=1e-3)
    # The lattice constant of least energy, from energies of perfect crystals alone.
    edges = np.linspace(0.98, 1.02, 9) * lengths.mean() / 2
    energies = []
    for a in edges:
        ideal = bulk("Ar", "fcc", a=a, cubic=True) * 2
        ideal.calc = atoms.calc
        energies.append(ideal.get_potential_energy())
    fit = np.polyfit(edges, energies, 4)
    roots = np.roots(np.polyder(fit))
    best = min((r.real for r in roots if abs(r.imag) < 1e-9), key=lambda r: abs(r - edges.mean()))
    np.testing.assert_allclose(lengths.mean() / 2, best, rtol=2e-4)


def test_our_dynamics_are_ases() -> None:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * 2
    velocities = 0.0012 * np.random.default_rng(3).standard_normal((32, 3))
    run = sg.md(LJ, atoms, steps=25, save_every=25, time_step=4.0, velocities=velocities, quiet=True)
    atoms.calc = Calculator.of(LJ)
    atoms.set_velocities(velocities / fs)
    before = atoms.get_total_energy()
    VelocityVerlet(atoms, 4.0 * fs).run(25)
    np.testing.assert_allclose(run["positions"][-1], atoms.get_positions(), atol=1e-6)
    np.testing.assert_allclose(run["velocities"][-1], atoms.get_velocities() * fs, atol=1e-8)
    np.testing.assert_allclose(run["total_energy"][-1], atoms.get_total_energy(), atol=1e-5)
    np.testing.assert_allclose(run["temperature"][-1], atoms.get_temperature() * 32 / 31, rtol=1e-4)
    np.testing.assert_allclose(run["stress"][-1], atoms.get_stress(), atol=1e-7)
    assert abs(atoms.get_total_energy() - before) < 1e-3


def test_mistakes_are_named() -> None:
    calculator = Calculator.of(LJ)
    wrong = bulk("Cu", "fcc", a=3.6)
    wrong.calc = calculator
    with pytest.raises(sg.UserError, match="Cu frame 0: the element Cu was not in the training data"):
        wrong.get_potential_energy()
    close = ase.Atoms("Ar2", [[0, 0, 0], [0, 0, 0]], calculator=calculator)
    with pytest.raises(sg.UserError, match="in one place"):
        close.get_forces()
    lost = ase.Atoms("Ar2", [[0, 0, 0], [0, 0, 4]], calculator=calculator)
    lost.get_forces()
    lost.positions[1, 0] = np.nan
    with pytest.raises(sg.UserError, match="finite"):
        lost.get_forces()
    with pytest.raises(sg.UserError, match="skin"):
        Calculator.of(LJ, skin=-1.0)


def test_it_answers_over_a_socket_of_i_pi() -> None:
    """ASE's server drives it as an i-PI server would: forces and stress come back through the wire unchanged."""
    from ase.calculators.socketio import SocketClient, SocketIOCalculator

    name = f"surrogate-test-{Path(tempfile.mkdtemp()).name}"
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * 2
    atoms.rattle(0.1, seed=4)
    served, local = atoms.copy(), atoms.copy()
    served.calc, local.calc = Calculator.of(LJ), Calculator.of(LJ)
    failures: list[BaseException] = []

    def client() -> None:
        try:
            SocketClient(unixsocket=name, timeout=60).run(served, use_stress=True)
        except BaseException as error:
            failures.append(error)

    with SocketIOCalculator(unixsocket=name, timeout=60) as server:
        atoms.calc = server
        thread = threading.Thread(target=client, daemon=True)
        thread.start()
        for _ in range(3):
            np.testing.assert_allclose(atoms.get_forces(), local.get_forces(), atol=1e-6)
            np.testing.assert_allclose(atoms.get_potential_energy(), local.get_potential_energy(), rtol=1e-9)
            np.testing.assert_allclose(atoms.get_stress(), local.get_stress(), atol=1e-8)
            atoms.rattle(0.05, seed=5)
            local.positions[:] = atoms.positions
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert not failures
