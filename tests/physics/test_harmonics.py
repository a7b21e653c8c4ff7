"""The spherical transform and operator against analytic truth: harmonics of SciPy, exact rotations."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y

from surrogate.core.spec import Grid
from surrogate.core.types import UserError
from surrogate.models.base import FieldGeometry
from surrogate.models.harmonics import (
    analyse,
    harmonic_matrices,
    legendre,
    quadrature_weights,
    row_kind,
    synthesise,
    zonal_convolution,
)
from surrogate.models.sfno import SFNO, SFNOConfig

LMAX = 10


def rows(kind: str, height: int) -> np.ndarray:
    if kind == "gauss":
        return np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(height)[0]))
    if kind == "equiangular with poles":
        return np.linspace(-90, 90, height)
    regular = (np.arange(height) + 0.5) * 180 / height - 90
    return regular if kind == "equiangular without poles" else regular + 0.8 * np.sin(np.arange(height))


def globe(kind: str, height: int, width: int, start: float = 0.0) -> Grid:
    return Grid(tuple(rows(kind, height)), tuple(start + np.arange(width) * 360 / width))


KINDS = ("gauss", "equiangular with poles", "equiangular without poles", "general")
GRIDS = [globe(kind, 24, 48, start) for kind, start in zip(KINDS, (0.0, -180.0, 3.75, 0.0), strict=True)]


def harmonics(latitude: np.ndarray, longitude: np.ndarray, lmax: int) -> np.ndarray:
    """Y_lm for m ≥ 0, (lmax + 1, lmax + 1 [m], ...) complex, by SciPy at any points (degrees)."""
    theta, phi = np.deg2rad(90 - latitude), np.deg2rad(longitude)
    zero = np.zeros(np.broadcast(theta, phi).shape, complex)
    return np.array(
        [[sph_harm_y(n, m, theta, phi) if m <= n else zero for m in range(lmax + 1)] for n in range(lmax + 1)]
    )


def coefficients(lmax: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    a = np.tril(rng.normal(size=(lmax + 1, lmax + 1)) + 1j * rng.normal(size=(lmax + 1, lmax + 1)))
    a[:, 0] = a[:, 0].real
    return a


def evaluate(a: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """The real field with coefficients ``a`` at any points."""
    y = harmonics(latitude, longitude, len(a) - 1)
    twice = np.where(np.arange(len(a)) == 0, 1, 2)
    return np.einsum("m,lm,lm...->...", twice, a, y).real


def on_grid(a: np.ndarray, grid: Grid) -> np.ndarray:
    return evaluate(a, np.asarray(grid.latitude)[:, None], np.asarray(grid.longitude)[None, :])


def inside(field: np.ndarray) -> jnp.ndarray:
    """(H, W) → the models' (W, H, 1)."""
    return jnp.asarray(field.T[..., None], jnp.float32)


@pytest.mark.parametrize("grid", GRIDS, ids=KINDS)
def test_every_harmonic_is_a_unit_vector(grid):
    matrices = harmonic_matrices(grid, LMAX)
    assert matrices.lmax == LMAX
    y = harmonics(np.asarray(grid.latitude)[:, None], np.asarray(grid.longitude)[None, :], LMAX)
    index = [(n, m) for n in range(LMAX + 1) for m in range(n + 1)]
    # The real part of Y_lm has the coefficient 1/2 for m > 0, its mirror at −m holding the other half.
    fields = np.stack([y[n, m].real * (2 if m else 1) for n, m in index], axis=-1)
    got = np.asarray(analyse(jnp.asarray(fields.transpose(1, 0, 2), jnp.float32), matrices))
    expected = np.zeros_like(got)
    for i, (n, m) in enumerate(index):
        expected[m, 0, n, i] = 1
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("grid", GRIDS, ids=KINDS)
def test_coefficients_round_trip_and_parseval(grid):
    matrices = harmonic_matrices(grid, LMAX)
    a = coefficients(LMAX)
    field = on_grid(a, grid)
    z = analyse(inside(field), matrices)
    np.testing.assert_allclose(np.asarray(z[:, 0, :, 0] + 1j * z[:, 1, :, 0]).T, a, atol=1e-5)
    np.testing.assert_allclose(np.asarray(synthesise(z, matrices))[..., 0].T, field, atol=2e-5)
    if row_kind(np.asarray(grid.latitude)) == "general":
        return  # its quadrature is of second order; only the least-squares analysis is exact
    # 2 LMAX < H, so the quadrature of the square is exact: ∫ f² dΩ = Σ_l Σ_m |a_lm|².
    integral = 2 * np.pi * (quadrature_weights(grid) @ (field**2).mean(axis=1))
    power = (np.abs(a) ** 2 * np.where(np.arange(LMAX + 1) == 0, 1, 2)).sum()
    assert integral == pytest.approx(power, rel=1e-9)


@pytest.mark.parametrize(("kind", "degree"), [(KINDS[0], 31), (KINDS[1], 15), (KINDS[2], 15)])
def test_quadrature_is_exact_to_its_degree(kind, degree):
    grid = globe(kind, 16, 32)
    assert row_kind(np.asarray(grid.latitude)) == kind
    x = np.sin(np.deg2rad(grid.latitude))
    got = [quadrature_weights(grid) @ x**n for n in range(degree + 1)]
    np.testing.assert_allclose(got, [2 / (n + 1) if n % 2 == 0 else 0 for n in range(degree + 1)], atol=1e-13)


def test_legendre_is_orthonormal_at_high_degree():
    x, w = np.polynomial.legendre.leggauss(180)
    p = legendre(170, 170, np.rad2deg(np.arcsin(x)))
    for m in (0, 1, 60, 169):
        gram = 2 * np.pi * (p[m, m:] * w) @ p[m, m:].T
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-11)


def test_laplacian_has_eigenvalue_minus_l_l_plus_1():
    """∇² through coefficients against finite differences of the field at random points."""
    grid, a = GRIDS[0], coefficients(LMAX, 3)
    matrices = harmonic_matrices(grid, LMAX)
    degree = np.arange(LMAX + 1)
    z = analyse(inside(on_grid(a, grid)), matrices) * (-degree * (degree + 1.0))[:, None]
    got = np.asarray(z[:, 0, :, 0] + 1j * z[:, 1, :, 0]).T
    lat, lon = np.array([-50.0, 3.0, 41.0]), np.array([20.0, 111.0, 300.0])
    h = 1e-2
    f, s = evaluate(a, lat, lon), np.deg2rad(h)
    north, south = evaluate(a, lat + h, lon), evaluate(a, lat - h, lon)
    east, west = evaluate(a, lat, lon + h), evaluate(a, lat, lon - h)
    cos = np.cos(np.deg2rad(lat))
    laplacian = (north - 2 * f + south) / s**2 - np.tan(np.deg2rad(lat)) * (north - south) / (2 * s)
    laplacian += (east - 2 * f + west) / (s * cos) ** 2
    np.testing.assert_allclose(evaluate(got, lat, lon), laplacian, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("grid", GRIDS, ids=KINDS)
def test_zonal_convolution_commutes_with_any_rotation(grid):
    matrices = harmonic_matrices(grid, LMAX)
    a = coefficients(LMAX, 1)
    weight = np.random.default_rng(2).normal(size=(LMAX + 1, 1, 1))
    turn = Rotation.from_euler("zyz", [33, 71, -140], degrees=True)
    lat, lon = np.deg2rad(np.meshgrid(grid.latitude, grid.longitude, indexing="ij"))
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    turned = turn.apply(points.reshape(-1, 3)).reshape(points.shape)
    new_lat, new_lon = np.rad2deg(np.arcsin(turned[..., 2])), np.rad2deg(np.arctan2(turned[..., 1], turned[..., 0]))

    rotated_input = evaluate(a, new_lat, new_lon)
    got = zonal_convolution(inside(rotated_input)[..., None], jnp.asarray(weight, jnp.float32), matrices)
    expected = evaluate(a * weight[:, :, 0], new_lat, new_lon)  # filtered first, rotated after
    assert np.abs(rotated_input - on_grid(a, grid)).max() > 1  # the rotation does something
    np.testing.assert_allclose(np.asarray(got)[..., 0, 0].T, expected, atol=5e-5)


def sfno(grid: Grid, **settings) -> SFNO:
    geometry = FieldGeometry(grid, num_state=2, num_forcing=1, num_static=0, num_outputs=2)
    defaults = {"width": 8, "layers": 3, "lmax": LMAX, "head_scale": 1.0}
    return SFNO(geometry, SFNOConfig(**{**defaults, **settings}), rngs=nnx.Rngs(0))


def run(model, *arrays):
    """One compilation instead of one for each operation, which is where eager tests spend their time."""
    return jax.jit(lambda *a: model(*a))(*arrays)


def inputs(grid: Grid, seed: int = 0) -> tuple:
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(2, *grid.shape, c)).astype(np.float32) for c in (2, 1)]
    return arrays[0], arrays[1], np.zeros((*grid.shape, 0), np.float32)


def test_sfno_commutes_with_a_turn_about_the_axis():
    grid = GRIDS[1]
    model, (state, forcing, static) = sfno(grid), inputs(grid)
    got = run(model, np.roll(state, 7, axis=2), np.roll(forcing, 7, axis=2), static)
    np.testing.assert_allclose(got, np.roll(run(model, state, forcing, static), 7, axis=2), atol=1e-5)


def test_sfno_parameters_serve_another_grid():
    coarse, fine = globe("gauss", 16, 32), globe("equiangular with poles", 33, 64)
    a = [coefficients(4, seed) / 10 for seed in range(3)]
    model = sfno(coarse, layers=1, activation="relu", lmax=12)
    other = sfno(fine, layers=1, activation="relu", lmax=12)
    nnx.update(other, nnx.state(model))

    def output(model, grid):
        x = np.stack([on_grid(c, grid) for c in a], axis=-1)[None].astype(np.float32)
        return np.asarray(run(model, x[..., :2], x[..., 2:], np.zeros((*grid.shape, 0), np.float32)))

    # Means over the globe of a pointwise nonlinear function of the same field, by either grid's quadrature.
    means = [
        np.einsum("h,bhwc->c", quadrature_weights(g), output(m, g)) / (2 * g.shape[1])
        for m, g in ((model, coarse), (other, fine))
    ]
    np.testing.assert_allclose(means[0], means[1], rtol=0.03, atol=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}])
def test_sfno_scan_and_remat_change_nothing(change):
    grid = GRIDS[0]
    np.testing.assert_allclose(run(sfno(grid, **change), *inputs(grid)), run(sfno(grid), *inputs(grid)), atol=1e-5)


def test_sfno_bfloat16_is_close():
    grid = GRIDS[0]
    full, half = (np.asarray(run(sfno(grid, dtype=d), *inputs(grid))) for d in ("float32", "bfloat16"))
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.1 * np.abs(full).max()


@pytest.mark.parametrize(("shape", "lmax"), [((8, 16), 7), ((9, 12), 8), ((15, 8), 14)])
def test_small_grids_keep_the_parameter_shapes(shape, lmax):
    grid = globe("gauss", *shape)
    model = sfno(grid, lmax=20)
    assert harmonic_matrices(grid, 20).lmax == lmax
    assert model.spectral[...].shape == (3, 21, 8, 8)
    assert run(model, *inputs(grid)).shape == (2, *shape, 2)
    assert SFNO.flops(model.geometry, model.config) > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "plane"}, "plane"),
        ({"latitude": tuple(np.linspace(20, 60, 24))}, "latitudes 20 to 60"),
        ({"periodic": False}, "whole globe"),
        ({"longitude": tuple(np.sort(np.arange(48) * 7.5 + (np.arange(48) % 2)))}, "equal steps of 7.5"),
    ],
)
def test_other_grids_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        sfno(dataclasses.replace(GRIDS[2], **change))


def test_settings_are_validated():
    with pytest.raises(UserError, match="model sfno: lmax must be at least 1, got 0"):
        SFNOConfig(lmax=0)
    with pytest.raises(UserError, match="model sfno: width must be at least 1, got 0"):
        SFNOConfig(width=0)
