"""What every interatomic potential has to obey, whatever it has learnt: add a model to ``MODELS`` to inherit it.

In float64, with random parameters, several species, a triclinic cell smaller than the cutoff, and every
term switched on. Each model is compiled once: all batches have one shape.
"""

from dataclasses import dataclass
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surrogate.models.atoms_base import AtomsGeometry, energy_forces_stress
from surrogate.models.base import find_model
from surrogate.models.graph import Capacity, pack, structure

CUTOFF = 4.0
MODELS = {
    "potential": {
        "channels": 6,
        "hidden": 4,
        "hidden_l": 2,
        "l_max": 2,
        "basis": 5,
        "readout": 5,
        "species_channels": 2,
    },
    "descriptor": {"channels": 6, "basis": 5, "readout": 5},
}
CAPACITY = Capacity(atoms=56, neighbors=40, graphs=3)
CELL = np.array([[4.6, 0.0, 0.0], [1.1, 4.9, 0.0], [-0.7, 0.9, 5.2]])


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def compiled(function):
    """Without XLA's optimisations: the tests spend their time compiling, not running."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@dataclass
class Case:
    """A model with random parameters, compiled for one shape."""

    model: str
    graphdef: Any
    params: Any
    predict: Any

    def __call__(self, *configurations, capacity=CAPACITY):
        """Predictions of configurations (positions, species, cell, pbc), each cut out of the batch."""
        found = [structure(*c, CUTOFF) for c in configurations]
        out = jax.tree.map(np.asarray, self.predict(self.params, pack(found, capacity, "float64")))
        ends = np.cumsum([0] + [len(s) for s in found])
        return [
            {
                "energy": out.energy[g], "interaction": out.interaction[g], "stress": out.stress[g],
                "forces": out.forces[ends[g] : ends[g + 1]], "atoms": out.atom_energies[ends[g] : ends[g + 1]],
            }
            for g in range(len(found))
        ]  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    with jax.enable_x64(True):
        geometry = AtomsGeometry((1, 8, 14), CUTOFF, 12.0, scale=0.8, reference_energies=(-1.5, -7.0, -3.25))
        cls = find_model(request.param)
        config = cls.Config(**MODELS[request.param], zbl=True, dtype="float64")
        graphdef, shapes = nnx.split(nnx.eval_shape(lambda: cls(geometry, config, rngs=nnx.Rngs(0))))
        # All parameters random: those that start at 0 or alike would hide what they do.
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda v: jnp.asarray(rng.normal(0, 1 / np.sqrt(v.shape[0] + 1), v.shape)), shapes)
        predict = compiled(lambda p, graph: energy_forces_stress(nnx.merge(graphdef, p), graph))
        return Case(request.param, graphdef, params, predict)


@pytest.fixture(scope="module")
def crystal():
    """Six atoms of three species in a triclinic cell, none closer than 1.4 Å."""
    rng = np.random.default_rng(0)
    grid = np.array([[0, 0, 0], [0.5, 0, 0.1], [0, 0.5, 0.2], [0.5, 0.5, 0.5], [0.1, 0, 0.5], [0.6, 0.1, 0.7]])
    return grid @ CELL + rng.uniform(-0.15, 0.15, (6, 3)), np.array([0, 1, 2, 2, 1, 2]), CELL, np.ones(3, bool)


@pytest.fixture(scope="module")
def molecule(crystal):
    return crystal[0], crystal[1], np.zeros((3, 3)), np.zeros(3, bool)


def rotation(seed, improper=False):
    matrix, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    matrix *= np.sign(np.diag(r))
    return matrix * np.sign(np.linalg.det(matrix)) * (-1 if improper else 1)


@pytest.mark.parametrize("improper", [False, True])
def test_rotation(case, crystal, improper):
    positions, species, cell, pbc = crystal
    q = rotation(1, improper)
    assert np.isclose(np.linalg.det(q), -1 if improper else 1)
    (before,), (after,) = case(crystal), case((positions @ q.T, species, cell @ q.T, pbc))
    assert abs(before["interaction"]) > 1e-2
    assert np.abs(before["forces"]).max() > 1e-2
    np.testing.assert_allclose(after["energy"], before["energy"], rtol=1e-11)
    np.testing.assert_allclose(after["atoms"], before["atoms"], rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(after["forces"], before["forces"] @ q.T, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(after["stress"], q @ before["stress"] @ q.T, rtol=1e-9, atol=1e-11)


def test_translation_and_wrapping(case, crystal):
    positions, species, cell, pbc = crystal
    (before,) = case(crystal)
    moved = positions + np.array([0.37, -8.1, 3.3]) + np.array([[2, -1, 0]] + [[0, 3, 1]] * 5) @ cell
    (after,) = case((moved, species, cell, pbc))
    np.testing.assert_allclose(after["energy"], before["energy"], rtol=1e-11)
    np.testing.assert_allclose(after["forces"], before["forces"], rtol=1e-9, atol=1e-10)


def test_permutation(case, crystal):
    positions, species, cell, pbc = crystal
    order = np.array([3, 5, 0, 2, 4, 1])
    (before,), (after,) = case(crystal), case((positions[order], species[order], cell, pbc))
    np.testing.assert_allclose(after["energy"], before["energy"], rtol=1e-12)
    np.testing.assert_allclose(after["atoms"], before["atoms"][order], rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(after["forces"], before["forces"][order], rtol=1e-9, atol=1e-10)


def test_species_matter(case, crystal):
    positions, species, cell, pbc = crystal
    (before,), (after,) = case(crystal), case((positions, species[[1, 0, 2, 3, 4, 5]], cell, pbc))
    assert abs(after["interaction"] - before["interaction"]) > 1e-3


@pytest.mark.parametrize("kind", ["crystal", "molecule"])
def test_forces_are_the_gradient(case, kind, request):
    positions, species, cell, pbc = request.getfixturevalue(kind)
    (here,) = case((positions, species, cell, pbc))
    step = 1e-4
    for atom, axis in ((0, 0), (2, 1), (5, 2)):
        energies = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[atom, axis] += sign * step
            energies.append(case((moved, species, cell, pbc))[0]["interaction"])
        expected = -(energies[0] - energies[1]) / (2 * step)
        np.testing.assert_allclose(here["forces"][atom, axis], expected, rtol=2e-6, atol=2e-7)


def test_stress_is_the_strain_derivative(case, crystal):
    positions, species, cell, pbc = crystal
    (here,) = case(crystal)
    volume = abs(np.linalg.det(cell))
    step = 1e-5
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2)):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[a, b] += sign * step / 2
            strain[b, a] += sign * step / 2
            deform = np.eye(3) + strain
            energies.append(case((positions @ deform, species, cell @ deform, pbc))[0]["interaction"])
        expected = (energies[0] - energies[1]) / (2 * step * volume)
        np.testing.assert_allclose(here["stress"][a, b], expected, rtol=1e-6, atol=1e-8)


def test_forces_and_torque_add_up_to_zero(case, molecule):
    (here,) = case(molecule)
    np.testing.assert_allclose(here["forces"].sum(0), 0, atol=1e-11)
    np.testing.assert_allclose(np.cross(molecule[0], here["forces"]).sum(0), 0, atol=1e-10)
    assert np.isnan(here["stress"]).all()  # there is no volume


def test_extensive_over_supercells(case, crystal):
    positions, species, cell, pbc = crystal
    (one,) = case(crystal)
    for repeats in ((2, 1, 1), (2, 2, 2)):
        offsets = np.stack(np.meshgrid(*(np.arange(k) for k in repeats), indexing="ij"), -1).reshape(-1, 3)
        many = (positions[None] + (offsets @ cell)[:, None]).reshape(-1, 3)
        big = (many, np.tile(species, len(offsets)), cell * np.array(repeats)[:, None], pbc)
        (all_,) = case(big)
        np.testing.assert_allclose(all_["energy"], len(offsets) * one["energy"], rtol=1e-11)
        np.testing.assert_allclose(all_["forces"], np.tile(one["forces"], (len(offsets), 1)), rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(all_["stress"], one["stress"], rtol=1e-9, atol=1e-11)


def test_additive_over_distant_parts(case, molecule):
    positions, species, cell, pbc = molecule
    (one,) = case(molecule)
    (two,) = case((np.concatenate([positions, positions + 100.0]), np.tile(species, 2), cell, pbc))
    np.testing.assert_allclose(two["energy"], 2 * one["energy"], rtol=1e-11)


def test_smooth_at_the_cutoff(case):
    """A neighbor that enters by δ changes the energy by δ³ or less, and its force is δ² or less."""

    def apart(distance):
        # A third atom, off the axis, makes sure that products and messages take part.
        positions = np.array([[0, 0, 0], [distance, 0, 0], [-1.2, 1.3, 0.4]])
        (out,) = case((positions, np.array([1, 2, 2]), np.zeros((3, 3)), np.zeros(3, bool)))
        return out["interaction"], out["forces"][1, 0]

    outside, force = apart(CUTOFF)
    assert force == 0
    assert apart(CUTOFF + 0.3)[0] == outside
    (e1, f1), (e2, f2) = apart(CUTOFF - 0.04), apart(CUTOFF - 0.02)
    assert abs(e1 - outside) > 1e-11
    assert (e1 - outside) / (e2 - outside) > 7
    assert f1 / f2 > 3.5


def test_smooth_between(case, molecule):
    """Along a path that crosses the cutoff of several pairs the energy is the integral of the force."""
    positions, species, cell, pbc = molecule
    path = np.linspace(0.2, 2.5, 121)
    energy, force = [], []
    for start in range(0, len(path), 3):
        shifted = [
            positions + np.array([x, 0.3 * x, 0]) * (np.arange(6) == 5)[:, None] for x in path[start : start + 3]
        ]
        for out in case(*((p, species, cell, pbc) for p in shifted)):
            energy.append(out["interaction"])
            force.append(out["forces"][5] @ np.array([1, 0.3, 0]))
    force, change = np.array(force), np.diff(energy[::2])
    work = -(path[1] - path[0]) / 3 * (force[:-2:2] + 4 * force[1:-1:2] + force[2::2])  # Simpson's rule
    np.testing.assert_allclose(change, work, atol=5e-4 * np.abs(change).max(), rtol=0)


def test_independent_of_the_batch(case, crystal, molecule):
    rng = np.random.default_rng(3)
    lone = (np.zeros((1, 3)), np.array([2]), np.zeros((3, 3)), np.zeros(3, bool))
    other = (crystal[0] + rng.normal(0, 0.1, (6, 3)), crystal[1][::-1], crystal[2] * 1.1, crystal[3])
    (alone,) = case(crystal)
    together = case(other, lone, crystal)[2]
    for key, value in alone.items():
        np.testing.assert_allclose(together[key], value, rtol=1e-11, atol=1e-12)
    assert np.isfinite(case(lone)[0]["energy"])
    assert case(molecule)[0]["energy"] != alone["energy"]


@pytest.mark.slow  # compiles once more
def test_independent_of_padding(case, crystal):
    (here,), (there,) = case(crystal), case(crystal, capacity=Capacity(atoms=9, neighbors=52, graphs=2))
    for key, value in here.items():
        np.testing.assert_allclose(there[key], value, rtol=1e-11, atol=1e-12)


def test_energy_is_reference_and_interaction(case, crystal):
    (here,) = case(crystal)
    references = np.array([-1.5, -7.0, -3.25])[crystal[1]].sum()
    np.testing.assert_allclose(here["energy"], references + here["interaction"], rtol=1e-12)
    np.testing.assert_allclose(here["atoms"].sum(), here["interaction"], rtol=1e-12)


@pytest.mark.slow
def test_training_gradient_of_forces(case, crystal):
    """The derivative of a force loss by the parameters, which passes twice through every rule of this package."""
    graph = pack([structure(*crystal, CUTOFF)], CAPACITY, "float64")
    rng = np.random.default_rng(4)
    target = jnp.asarray(rng.normal(size=(CAPACITY.atoms, 3)))

    def loss(out):
        real = graph.atom_mask[:, None]
        return jnp.sum(jnp.where(real, out.forces - target, 0) ** 2) + jnp.sum(out.virial**2) + out.interaction[0] ** 2

    def along(direction, t):
        return jax.tree.map(lambda p, d: p + t * d, case.params, direction)

    slope = compiled(jax.grad(lambda p, g: loss(energy_forces_stress(nnx.merge(case.graphdef, p), g))))
    gradient = slope(case.params, graph)
    for _ in range(3):  # along random signs, so that every parameter takes part
        direction = jax.tree.map(lambda v: jnp.asarray(rng.choice([-1.0, 1.0], v.shape)), case.params)
        step = 1e-6
        up, down = (loss(case.predict(along(direction, t), graph)) for t in (step, -step))
        expected = (up - down) / (2 * step)
        found = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
