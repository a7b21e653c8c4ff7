"""Radial distributions and correlations in time against what is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from surrogate.atomistic.correlations import mean_squared_displacement, velocity_autocorrelation
from surrogate.atomistic.structure import radial_distribution
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames

SITES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def frames(positions, species, cell, pbc=True, count=1) -> Frames:
    return Frames(
        np.reshape(positions, (-1, 3)), np.tile(species, count), np.tile(cell, (count, 1, 1)),
        np.broadcast_to(pbc, (count, 3)), np.full(count, len(species)),
    )  # fmt: skip


def trajectory(positions, velocities=None, symbols=None, step=0.01) -> xr.Dataset:
    times, num, _ = positions.shape
    return xr.Dataset(
        {
            "positions": (("time", "atom", "xyz"), positions),
            "velocities": (("time", "atom", "xyz"), positions if velocities is None else velocities),
        },
        {
            "time": np.arange(times) * step, "symbol": ("atom", symbols or ["Ar"] * num),
            "atomic_number": ("atom", np.full(num, 18)), "cell": (("cell_vector", "xyz"), 10 * np.eye(3)),
            "periodic": ("cell_vector", np.ones(3, int)),
        },
    )  # fmt: skip


def test_an_ideal_gas_has_none() -> None:
    rng = np.random.default_rng(0)
    cell = np.array([[12.0, 0, 0], [3, 11, 0], [-2, 1, 13]])
    species = np.repeat([29, 79], [150, 50])
    places = rng.uniform(size=(20, 200, 3)) @ cell
    found = radial_distribution(frames(places, species, cell, count=20), r_max=9.0, bins=18)
    assert found["pair"].values.tolist() == ["all", "Cu-Cu", "Cu-Au", "Au-Au"]
    # N − 1 others; about four times the noise of the counts, from some thousand pairs to a hundred thousand.
    np.testing.assert_allclose(found["g"].sel(pair="all")[3:], 1 - 1 / 200, atol=0.06)
    np.testing.assert_allclose(found["g"].sel(pair="all")[-4:], 1 - 1 / 200, atol=0.015)
    np.testing.assert_allclose(found["g"].sel(pair="Cu-Au")[6:], 1, atol=0.06)
    np.testing.assert_allclose(found["g"].sel(pair="Au-Au")[8:], 1 - 1 / 50, atol=0.1)
    volume = 4 / 3 * np.pi * 9.0**3 / np.linalg.det(cell)
    np.testing.assert_allclose(found["coordination"].sel(pair="all")[-1], 199 * volume, rtol=0.01)


def test_shells_of_a_face_centred_crystal() -> None:
    a, cell = 4.0, 4.0 * np.eye(3)
    species = np.array([79, 29, 29, 29])  # Cu₃Au
    found = radial_distribution(frames(SITES @ cell, species, cell), r_max=6.0, bins=121)
    # 12, 6, 24 and 12 neighbors at a/√2, a, a√1.5 and a√2, in a cell that the distances exceed.
    shells = a * np.sqrt([0.5, 1.0, 1.5, 2.0])

    def within(pair: str, r: float) -> float:
        return float(found["coordination"].sel(pair=pair).sel(r_outer=r, method="nearest"))

    between = [*((shells[1:] + shells[:-1]) / 2), 5.9]
    assert [round(within("all", r), 9) for r in between] == [12, 18, 42, 54]
    assert [round(within("Cu-Au", r), 9) for r in between] == [4, 4, 12, 12]
    assert [round(within("Cu-Cu", r), 9) for r in between] == [8, 14, 30, 42]
    assert [round(within("Au-Au", r), 9) for r in between] == [0, 6, 6, 18]
    g = found["g"].sel(pair="all")
    np.testing.assert_allclose(g["r"][g > 0], shells, atol=0.05)
    chosen = radial_distribution(frames(SITES @ cell, species, cell), pairs=["Au-Cu", ("Cu", "Cu")], r_max=3.0)
    assert chosen["pair"].values.tolist() == ["Au-Cu", "Cu-Cu"]
    np.testing.assert_allclose(chosen["coordination"][:, -1], [12, 8])


def test_a_trajectory_is_the_mean_of_its_frames() -> None:
    positions = np.random.default_rng(1).uniform(0, 10, (5, 30, 3))
    a = radial_distribution(trajectory(positions), r_max=6.0, bins=12)
    b = radial_distribution(frames(positions, np.full(30, 18), 10 * np.eye(3), count=5), r_max=6.0, bins=12)
    xr.testing.assert_allclose(a, b)
    each = [radial_distribution(trajectory(positions[i : i + 1]), r_max=6.0, bins=12)["g"] for i in range(5)]
    np.testing.assert_allclose(a["g"], np.mean(each, 0))


def test_what_has_no_radial_distribution() -> None:
    cell, species = 5 * np.eye(3), np.array([29, 79])
    places = np.array([[0.0, 0, 0], [1, 1, 1]])
    with pytest.raises(UserError, match="not periodic in all directions"):
        radial_distribution(frames(places, species, cell, pbc=(True, True, False)))
    with pytest.raises(UserError, match="has no Ni; it has Cu, Au"):
        radial_distribution(frames(places, species, cell), pairs=["Cu-Ni"])
    with pytest.raises(UserError, match="written Cu-Au"):
        radial_distribution(frames(places, species, cell), pairs=["CuAuCu"])
    with pytest.raises(UserError, match="r_max"):
        radial_distribution(frames(places, species, cell), r_max=-1)
    with pytest.raises(UserError, match="expected a trajectory"):
        radial_distribution(xr.Dataset())


def test_displacements_of_a_random_walk_and_of_free_flight() -> None:
    rng = np.random.default_rng(2)
    walk = 100 + rng.normal(0, 0.1, (400, 60, 3)).cumsum(0)
    found = mean_squared_displacement(trajectory(walk))["msd"].sel(element="Ar")
    direct = [((walk[t:] - walk[: 400 - t]) ** 2).sum(-1).mean() for t in (0, 1, 7, 250, 399)]
    np.testing.assert_allclose(found.values[[0, 1, 7, 250, 399]], direct, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found[1:40], 3 * 0.01 * np.arange(1, 40), rtol=0.1)
    velocity = rng.normal(size=(2, 3))
    flight = np.arange(20)[:, None, None] * velocity
    found = mean_squared_displacement(trajectory(flight, symbols=["Cu", "Au"]))
    assert found["element"].values.tolist() == ["Cu", "Au"]
    np.testing.assert_allclose(found["msd"], (velocity**2).sum(1)[:, None] * np.arange(20) ** 2, atol=1e-9)
    uneven = trajectory(flight).assign_coords(time=np.arange(20.0) ** 2)
    with pytest.raises(UserError, match="evenly spaced"):
        mean_squared_displacement(uneven)


def test_velocities_of_an_oscillator_are_correlated_like_it() -> None:
    times, phases = np.arange(300) * 0.05, np.linspace(0, 2 * np.pi, 50, endpoint=False)
    swing = np.zeros((300, 50, 3))
    swing[..., 1] = np.cos(2.0 * times[:, None] + phases)
    found = velocity_autocorrelation(trajectory(swing, step=0.05))["vacf"].sel(element="Ar")
    np.testing.assert_allclose(found, 0.5 * np.cos(2.0 * times), atol=1e-9)
