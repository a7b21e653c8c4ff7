"""Molecular dynamics against analytic solutions, conservation laws and ASE's own integrator."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from pair_potentials import LennardJones, Spring
import pytest
import xarray as xr

import surrogate as sg
from surrogate.atomistic import dynamics
from surrogate.atomistic.dynamics import DynamicsError
from surrogate.atomistic.evaluation import Trained
from surrogate.atomistic.places import edge_vectors_of, joined, moved, places_of
from surrogate.atomistic.thermal import ACCELERATION, KB, maxwell_boltzmann
from surrogate.atomistic.trajectory import energy_drift
from surrogate.data.atoms import Frames
from surrogate.data.masses import STANDARD_WEIGHTS
from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.graph import Capacity, pack, structure
from surrogate.models.neighbors import neighbor_list

ARGON = 18
LJ = LennardJones(AtomsGeometry((ARGON,), 6.5, 50.0, reference_energies=(-2.0,)))
SPRING = Spring(AtomsGeometry((ARGON,), 3.0, 1.0))


def crystal(size=2, a=5.3, stir=0.0, seed=0):
    """Face-centred cubic argon, displaced at random by ``stir`` Å."""
    sites = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    cells = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    positions = (a * (cells + sites)).reshape(-1, 3)
    positions = positions + np.random.default_rng(seed).normal(0, stir, positions.shape) if stir else positions
    return one(positions, a * size * np.eye(3), True)


def one(positions, cell=None, pbc=False):
    num = len(positions)
    cell = np.zeros((3, 3)) if cell is None else cell
    return Frames(
        positions, np.full(num, ARGON), cell[None], np.broadcast_to(pbc, (1, 3)), np.array([num]), groups=("argon",)
    )  # fmt: skip


def md(model, atoms, **settings):
    return sg.md(model, atoms, quiet=True, **settings)


# -- arithmetic -------------------------------------------------------------------------------------


def test_split_positions_keep_small_steps_and_differences() -> None:
    rng = np.random.default_rng(0)
    start, steps = rng.uniform(-300, 300, (50, 3)), rng.normal(0, 3e-3, (2000, 50, 3)).astype("f4")
    add = jax.jit(lambda p, s: jax.lax.scan(lambda p, x: (moved(p, x), None), p, s)[0])
    end = add(jax.tree.map(jnp.asarray, places_of(start, "float32")), steps)
    error = np.abs(joined(end) - (start + steps.astype(float).sum(0)))
    assert error.max() < 1e-7  # plain float32 is off by 1e-3
    with pytest.raises(sg.UserError, match="too far out"):
        places_of(np.array([1e5]), "float32")


def test_vectors_between_split_positions_are_rounded_once() -> None:
    rng = np.random.default_rng(1)
    cell = np.array([[9.1, 0, 0], [2.3, 8.7, 0], [-1.9, 1.3, 9.7]])
    positions = rng.uniform(-1, 2, (20, 3)) @ cell + 150
    found = structure(positions, np.zeros(20, int), cell, True, 5.0)
    graph = jax.tree.map(jnp.asarray, pack([found], Capacity(20, found.max_neighbors, 1)))
    vectors = jax.jit(edge_vectors_of)(places_of(positions, "float32"), places_of(cell, "float32"), graph)
    listed = neighbor_list(positions, cell, True, 5.0)
    exact = positions[listed.senders] - positions[listed.receivers] + listed.shifts @ cell
    got = np.moveaxis(np.asarray(vectors), 0, -1)[np.asarray(graph.neighbor_mask)]
    assert np.abs(got - exact).max() < 4e-7


def test_masses_are_the_standard_weights() -> None:
    data = pytest.importorskip("ase.data")
    known = data.atomic_masses_iupac2016[1 : len(STANDARD_WEIGHTS) + 1]
    ours = np.array(STANDARD_WEIGHTS)
    stable = np.isfinite(ours)
    np.testing.assert_allclose(ours[stable], known[stable], rtol=1e-4)


def test_drawn_velocities_have_the_temperature_and_no_momentum() -> None:
    masses = np.random.default_rng(0).uniform(1, 200, 500)
    v = maxwell_boltzmann(masses, 450.0, np.random.default_rng(1))
    assert np.abs((masses[:, None] * v).sum(0)).max() < 1e-10
    energy = 0.5 * masses[:, None] * v**2 / ACCELERATION
    np.testing.assert_allclose(2 * energy.sum() / (3 * 499 * KB), 450, rtol=1e-9)
    # Equipartition between light and heavy atoms.
    light = masses < 100
    assert abs(energy[light].mean() / energy[~light].mean() - 1) < 0.2


# -- constant energy --------------------------------------------------------------------------------


def test_a_spring_swings_as_the_discrete_equation_says() -> None:
    mass, dt, stretch = 40.0, 5.0, 0.1
    found = md(
        SPRING, one(np.array([[0, 0, 0], [0, 0, 2 + stretch]])), steps=300, save_every=1, time_step=dt,
        velocities=np.zeros((2, 3)), masses=np.full(2, mass),
    )  # fmt: skip
    omega = np.sqrt(Spring.stiffness * ACCELERATION / (mass / 2))
    # Verlet's recursion of a harmonic oscillator is solved by cos(θ n) with 2 sin(θ / 2) = ω dt.
    theta = 2 * np.arcsin(omega * dt / 2)
    length = found["positions"].diff("atom").isel(atom=0, xyz=2).values
    np.testing.assert_allclose(length - 2, stretch * np.cos(theta * np.arange(301)), atol=5e-6)
    np.testing.assert_allclose(found["time"], np.arange(301) * dt / 1000)
    np.testing.assert_allclose(
        found["potential_energy"], 0.5 * Spring.stiffness * (length - 2) ** 2, atol=1e-6
    )  # fmt: skip
    assert np.isnan(found["stress"]).all()
    assert np.isnan(found["pressure"]).all()


def test_the_error_of_the_energy_is_of_second_order() -> None:
    deviation = []
    for dt in (4.0, 8.0):
        run = md(LJ, crystal(), steps=int(1600 / dt), save_every=1, time_step=dt, temperature=60)
        deviation.append(float(run["total_energy"].std()))
    assert 3.2 < deviation[1] / deviation[0] < 4.8


def test_energy_and_momentum_stay() -> None:
    run = md(LJ, crystal(), steps=5000, save_every=20, time_step=4.0, temperature=60)
    assert abs(energy_drift(run)) < 1e-4  # meV/atom/ps
    momentum = (run["velocities"] * run["mass"]).sum("atom")
    assert np.abs(momentum).max() < 1e-5 * float(np.abs(run["velocities"] * run["mass"]).sum("atom").max())
    assert int(run["atoms_lost"].max()) == 0
    centre = run["positions"].mean("atom")
    assert np.abs(centre - centre[0]).max() < 1e-5
    # Half of the energy goes into displacements.
    assert 20 < float(run["temperature"].isel(time=slice(50, None)).mean()) < 40
    assert run.attrs["neighbor_list_rebuilds"] < 1000


def test_the_stored_stress_and_energy_are_the_potentials() -> None:
    run = md(LJ, crystal(), steps=20, save_every=20, time_step=4.0, temperature=60)
    cell = run["cell"].values
    positions = run["positions"].values[-1]
    energy, strains = [], (-1e-3, 1e-3)

    def lennard_jones(positions: np.ndarray, cell: np.ndarray) -> float:
        pairs = neighbor_list(positions, cell, True, 6.5)
        d = positions[pairs.senders] - positions[pairs.receivers] + pairs.shifts @ cell
        r = np.sqrt((d**2).sum(1))
        return 0.5 * float(np.asarray(LJ.pair(jnp.asarray(r, "float32")), float).sum())

    for strain in strains:
        energy.append(lennard_jones(positions * (1 + strain), cell * (1 + strain)))
    volume = np.linalg.det(cell)
    slope = (energy[1] - energy[0]) / (strains[1] - strains[0]) / volume
    np.testing.assert_allclose(run["stress"][-1, :3].sum(), slope, rtol=2e-3)
    np.testing.assert_allclose(run["potential_energy"][-1], lennard_jones(positions, cell) - 2 * 32, rtol=1e-6)
    ideal = 2 * float(run["kinetic_energy"][-1]) / (3 * volume)
    np.testing.assert_allclose(run["pressure"][-1], 160.21766 * (ideal - slope / 3), rtol=2e-3, atol=1e-5)


# -- thermostat -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_langevin_samples_the_canonical_ensemble() -> None:
    """100 free dimers: kinetic energy by equipartition, and the mean square of the bonds' stretching by quadrature."""
    kelvin, num = 300.0, 100
    place = np.stack(np.meshgrid(*[np.arange(5)] * 3), -1).reshape(-1, 3)[:num] * 50.0
    positions = np.stack([place, place + np.array([0, 0, 2.0])], 1).reshape(-1, 3)
    run = md(
        SPRING, one(positions), ensemble="nvt", temperature=kelvin, friction=20.0, steps=3000, save_every=20,
        time_step=5.0, seed=3, skin=4.0,
    ).isel(time=slice(20, None))  # fmt: skip
    assert abs(float(run["temperature"].mean()) / kelvin - 1) < 0.02
    bonds = run["positions"].values.reshape(-1, num, 2, 3)
    length = np.sqrt(((bonds[:, :, 1] - bonds[:, :, 0]) ** 2).sum(-1))
    r = np.linspace(1.5, 2.5, 2001)
    weight = r**2 * np.exp(-0.5 * Spring.stiffness * (r - 2) ** 2 / (KB * kelvin))
    expected = (weight * (r - 2) ** 2).sum() / weight.sum()
    assert abs(((length - 2) ** 2).mean() / expected - 1) < 0.05
    once = md(SPRING, one(positions), ensemble="nvt", steps=20, save_every=20, skin=4.0, seed=3)
    other = md(SPRING, one(positions), ensemble="nvt", steps=20, save_every=20, skin=4.0, seed=4)
    assert not np.allclose(once["positions"], other["positions"])


# -- lists, blocks, capacities ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_skin_changes_nothing() -> None:
    settings = {"steps": 200, "save_every": 50, "time_step": 4.0, "temperature": 200.0}
    always = md(LJ, crystal(), skin=0.0, **settings)
    seldom = md(LJ, crystal(), skin=0.6, **settings)
    assert always.attrs["neighbor_list_rebuilds"] == 201
    assert 1 < seldom.attrs["neighbor_list_rebuilds"] < 40
    np.testing.assert_allclose(seldom["positions"], always["positions"], atol=2e-5)
    np.testing.assert_allclose(seldom["total_energy"], always["total_energy"], atol=1e-5)


@pytest.mark.slow
def test_an_overflow_gets_room_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clusters that fly into each other's reach: what had 3 neighbors gets more."""
    cluster = 3.8 / np.sqrt(2) * np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])
    start = one(np.concatenate([cluster, cluster + np.array([13.0, 0, 0])]))
    velocities = np.repeat([[0.01, 0, 0], [-0.01, 0, 0]], 4, axis=0)
    settings = {"steps": 80, "save_every": 10, "time_step": 4.0, "skin": 0.3, "velocities": velocities}
    monkeypatch.setattr(dynamics, "roomy", lambda slots: 12)
    roomy = md(LJ, start, **settings)
    assert roomy.attrs["neighbor_list_enlarged"] == 0
    asked = []

    def tight(slots: int) -> int:
        asked.append(slots)
        return 3 if slots <= 3 else 12

    monkeypatch.setattr(dynamics, "roomy", tight)
    run = md(LJ, start, **settings)
    # What the start needs fits, so it was on the way that more was needed.
    assert asked[0] == 3
    assert len(asked) == 2
    assert run.attrs["neighbor_list_enlarged"] == 1
    np.testing.assert_array_equal(run["time"], roomy["time"])
    for name in ("positions", "velocities", "total_energy"):
        np.testing.assert_allclose(run[name], roomy[name], atol=1e-5)
    assert float(np.abs(run["potential_energy"] - run["potential_energy"][0]).max()) > 0.01  # they did meet


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"steps": 157, "save_every": 7, "time_step": 4.0, "temperature": 200.0, "ensemble": "nvt"}
    monkeypatch.setattr(dynamics, "RECORD_BYTES", 32 * 64 * 5)  # five records a block
    whole = md(LJ, crystal(), **settings)
    monkeypatch.setattr(dynamics, "BLOCK_SECONDS", 0.0)  # the fewest steps a block
    pieces = md(LJ, crystal(), **settings)
    np.testing.assert_allclose(pieces["time"], np.arange(0, 158, 7) * 0.004)
    xr.testing.assert_identical(pieces, whole)


def test_a_trajectory_goes_on_where_another_ended() -> None:
    settings = {"save_every": 20, "time_step": 4.0, "temperature": 60.0}
    whole = md(LJ, crystal(), steps=60, **settings)
    first = md(LJ, crystal(), steps=40, **settings)
    rest = md(
        LJ, one(first["positions"].values[-1], first["cell"].values, True), steps=20,
        velocities=first["velocities"].values[-1], **settings,
    )  # fmt: skip
    np.testing.assert_allclose(rest["positions"][-1], whole["positions"][-1], atol=1e-6)


# -- ensembles of potentials, atoms that leave, mistakes --------------------------------------------


@pytest.mark.slow
def test_an_ensemble_moves_by_its_mean_and_says_how_sure_it_is() -> None:
    single = Trained.of(LJ)
    params = jax.tree.map(lambda x: jnp.asarray([0.8, 1.0, 1.2]) * x, single.params)
    start = crystal(stir=0.1)
    run = md(replace(single, params=params, members=3, spread_factor=(2.0, 1.0)), start, steps=20, time_step=4.0)
    mean = md(LJ, start, steps=20, time_step=4.0)
    np.testing.assert_allclose(run["positions"], mean["positions"], atol=1e-5)
    interaction = mean["potential_energy"].values + 2 * 32
    np.testing.assert_allclose(run["energy_spread"], 2 * 0.2 * np.abs(interaction), rtol=1e-3)
    assert run["force_spread"].dims == ("time", "atom")
    assert float(run["force_spread"].min()) > 0


def test_an_atom_that_leaves_is_counted_and_one_that_was_alone_is_not() -> None:
    positions = np.array([[0, 0, 0], [3.8, 0, 0], [0, 3.8, 0], [50, 50, 50]], float)
    velocities = np.zeros((4, 3))
    velocities[2] = [0, 0.02, 0]
    run = md(LJ, one(positions), steps=500, save_every=100, velocities=velocities)
    assert run["atoms_lost"].values.tolist() == [0, 0, 1, 1, 1, 1]


def test_what_explodes_names_step_and_atom() -> None:
    near = np.array([[0, 0, 0], [6, 0, 0], [6, 1.0, 0]])
    with pytest.raises(
        DynamicsError, match=r"argon frame 0: at step 0 \(0 fs\) atom [12] \(Ar\) would go .* Å"
    ) as caught:
        md(LJ, one(near), steps=10)
    assert caught.value.dataset.sizes["time"] == 1
    single = Trained.of(LJ)
    broken = replace(single, params=jax.tree.map(lambda x: x * np.nan, single.params))
    with pytest.raises(DynamicsError, match=r"at step 0 .* the force on atom 0 \(Ar\) is nan") as caught:
        md(broken, crystal(), steps=10)
    assert caught.value.dataset.sizes["time"] == 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"ensemble": "npt"}, "ensemble='npt' is not one of nve, nvt"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"save_every": 2.5}, "save_every must be"),
        ({"temperature": -1.0}, r"temperature \(K\)"),
        ({"time_step": 0.0}, r"time_step \(fs\)"),
        ({"skin": float("nan")}, r"skin \(Å\)"),
        ({"ensemble": "nvt", "friction": 0.0}, r"friction \(1/ps\)"),
        ({"velocities": np.zeros((3, 3))}, r"velocities must be finite, of shape \(32, 3\)"),
        ({"masses": np.zeros(32)}, "masses must be 32 positive numbers"),
    ],
)
def test_settings_that_cannot_be(settings, text) -> None:
    with pytest.raises(sg.UserError, match=text):
        md(LJ, crystal(), **{"steps": 2, **settings})


def test_atoms_that_cannot_be() -> None:
    ase = pytest.importorskip("ase")
    from ase.constraints import FixAtoms

    with pytest.raises(sg.UserError, match="argon frame 0: the element"):
        md(LJ, replace(crystal(), species=np.full(32, 29)), steps=2)
    with pytest.raises(sg.UserError, match="2 frames"):
        md(LJ, Frames.concat([crystal(), crystal()]), steps=2)
    atoms = ase.Atoms("Ar2", [[0, 0, 0], [0, 0, 4]])
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(sg.UserError, match="constraints"):
        md(LJ, atoms, steps=2)
    with pytest.raises(sg.UserError, match="got list"):
        md(LJ, [], steps=2)
    with pytest.raises(sg.UserError, match="got dict"):
        md({}, crystal(), steps=2)
    with pytest.raises(sg.UserError, match="at least 3"):
        energy_drift(md(LJ, crystal(), steps=10, save_every=10))


def test_a_trajectory_is_written_and_read(tmp_path) -> None:
    run = md(LJ, crystal(), steps=20, time_step=4.0)
    run.to_netcdf(tmp_path / "md.nc")
    with xr.open_dataset(tmp_path / "md.nc") as again:
        xr.testing.assert_identical(again.load(), run)
    assert all("units" in v.attrs for v in run.data_vars.values())


@pytest.mark.slow
def test_the_probe_gives_what_summary_and_pictures_take() -> None:
    from surrogate.atomistic.probe_dynamics import probe_dynamics, repeated

    small = crystal(size=1)
    large = repeated(small, (1, 2, 3))
    assert large.num_atoms == 24
    np.testing.assert_allclose(np.linalg.norm(large.cell[0], axis=1), [5.3, 10.6, 15.9])
    np.testing.assert_allclose(large.positions[4 * 4 : 4 * 5], small.positions + np.array([0, 5.3, 5.3]))
    seen = []
    facts, pictures, run = probe_dynamics(
        LJ, small, "argon", kelvin=60, picoseconds=1.0, equilibration=0.8, time_step=4.0, reference=small,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert facts["argon"]["atoms"] == 48
    assert abs(facts["argon"]["drift"]) < 0.1
    assert facts["argon"]["notes"] == []
    assert 30 < facts["argon"]["temperature"] < 100
    (conservation,), (radial,) = pictures["dynamics"], pictures["radial"]
    assert conservation["time"].shape == conservation["total_energy"].shape == conservation["temperature"].shape
    assert conservation["time"][0] == 0
    assert radial["surrogate"].shape == radial["distance"].shape == radial["reference"].shape
    np.testing.assert_allclose(run["time"][-1], 1.0, atol=0.01)
    assert seen[-1] == (450, 450)
    broken = Trained.of(LJ)
    broken = replace(broken, params=jax.tree.map(lambda x: x * np.nan, broken.params))
    facts, pictures, _ = probe_dynamics(broken, small, "argon", time_step=4.0)
    assert "the force on atom 0 (Ar) is nan" in facts["argon"]["notes"][0]
    assert facts["argon"]["picoseconds"] == 0
    assert pictures == {"dynamics": [], "radial": []}
