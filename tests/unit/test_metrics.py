"""Metrics against analytic values, and chunks against the whole."""

import math

import numpy as np
import pytest
import scipy.special

from surrogate.core.durations import Duration
from surrogate.core.spec import Grid, Spec, Variable
from surrogate.core.types import UserError
from surrogate.metrics import (
    Accumulator,
    IndexDefinition,
    PowerSpectrum,
    find_metric,
    index_series,
    metric_names,
    register_metric,
    spectrum_unavailable,
)

ALL = ("rmse", "mae", "bias", "acc", "activity", "target_activity", "correlation", "relative_l2")


def sphere(height=24, width=48):
    step = 180 / height
    return Grid(tuple(-90 + step * (np.arange(height) + 0.5)), tuple(360 / width * np.arange(width)))


def gaussian(height=16, width=32):
    nodes, _ = np.polynomial.legendre.leggauss(height)
    return Grid(tuple(np.rad2deg(np.arcsin(nodes))), tuple(360 / width * np.arange(width)))


def harmonic(grid, degree, order):
    """Real spherical harmonic of mean square 1 on the sphere, (H, W), by scipy."""
    theta = np.deg2rad(90 - np.asarray(grid.latitude))[:, None]
    phi = np.deg2rad(np.asarray(grid.longitude))[None, :]
    y = scipy.special.sph_harm_y(degree, order, theta, phi) * math.sqrt(4 * math.pi)
    return y.real * (math.sqrt(2) if order else 1)


def weights_of(grid, channels=1):
    return np.repeat(grid.area_weights()[..., None], channels, axis=-1)


@pytest.fixture
def chunks():
    rng = np.random.default_rng(0)
    grid = sphere()
    weights = weights_of(grid, 3)
    weights[:10, :7, 1] = 0
    prediction, target, climatology = (rng.normal(280, 10, (11, *weights.shape)).astype(np.float32) for _ in range(3))
    target[:, weights == 0] = np.nan
    prediction[:, weights == 0] = np.nan
    return prediction, target, climatology, weights


def accumulate(arrays, pieces, metrics=ALL):
    prediction, target, climatology, weights = arrays
    total = None
    for piece in np.array_split(np.arange(len(target)), pieces):
        part = Accumulator(metrics, weights)
        part.add(prediction[piece], target[piece], climatology[piece])
        total = part if total is None else total + part
    return total


@pytest.mark.parametrize("pieces", [2, 4, 11])
def test_chunks_agree_with_the_whole(chunks, pieces):
    whole, parts = accumulate(chunks, 1).finalize(), accumulate(chunks, pieces)
    assert parts.num_samples == 11
    for name in ALL:
        np.testing.assert_allclose(parts.finalize()[name], whole[name], rtol=1e-11, atol=1e-12, err_msg=name)


def test_adding_to_one_accumulator_agrees_with_merging(chunks):
    prediction, target, climatology, weights = chunks
    one = Accumulator(ALL, weights)
    for piece in (slice(0, 4), slice(4, 11)):
        one.add(prediction[piece], target[piece], climatology[piece])
    merged = accumulate(chunks, 3).finalize()
    for name, value in one.finalize().items():
        np.testing.assert_allclose(value, merged[name], rtol=1e-11, atol=1e-12)


def test_rmse_equals_a_plain_computation_with_a_mask(chunks):
    prediction, target, _, weights = chunks
    got = accumulate(chunks, 1).finalize()
    for c in range(3):
        inside = weights[..., c] > 0
        w = weights[..., c][inside]
        error = (prediction[..., c].astype(float) - target[..., c].astype(float))[:, inside]
        assert got["rmse"][c] == pytest.approx(np.sqrt(np.average((error**2).mean(0), weights=w)), rel=1e-12)
        assert got["mae"][c] == pytest.approx(np.average(np.abs(error).mean(0), weights=w), rel=1e-12)
        assert got["bias"][c] == pytest.approx(np.average(error.mean(0), weights=w), rel=1e-9)


def test_constant_offset():
    grid = sphere()
    target = np.random.default_rng(1).normal(250, 5, (3, *grid.shape, 1))
    accumulator = Accumulator(["rmse", "mae", "bias"], weights_of(grid))
    accumulator.add(target - 2.5, target)
    scores = accumulator.scores()["0"]
    assert scores == pytest.approx({"rmse": 2.5, "mae": 2.5, "bias": -2.5}, rel=1e-10)


def test_area_weights_count_rows_by_their_area():
    """An error of 1 poleward of 60° only: the cap's share of the sphere is (1 − sin 60°)."""
    grid = sphere(36, 4)
    target = np.zeros((1, *grid.shape, 1))
    prediction = target + (np.abs(np.asarray(grid.latitude)) > 60)[None, :, None, None]
    accumulator = Accumulator(["rmse", "bias"], weights_of(grid))
    accumulator.add(prediction, target)
    share = 1 - math.sin(math.radians(60))
    assert accumulator.finalize()["bias"][0] == pytest.approx(share, rel=1e-12)
    assert accumulator.finalize()["rmse"][0] == pytest.approx(math.sqrt(share), rel=1e-12)


def test_area_weights_integrate_spherical_harmonics():
    """⟨Y_lm⟩ = δ_l0 and ⟨Y_lm²⟩ = 1, to the second order of the midpoint rule."""
    errors = []
    for height in (24, 48):
        grid = sphere(height, 2 * height)
        area = grid.area_weights() / grid.area_weights().sum()
        worst = 0.0
        for degree, order in [(0, 0), (1, 0), (2, 0), (2, 1), (3, 2), (4, 0), (5, 5)]:
            y = harmonic(grid, degree, order)
            worst = max(worst, abs((area * y).sum() - (degree == 0)), abs((area * y * y).sum() - 1))
        errors.append(worst)
    assert errors[0] < 0.02
    assert errors[1] < errors[0] / 3.5


@pytest.mark.parametrize(("factor", "expected"), [(0.3, 1.0), (7.0, 1.0), (-2.0, -1.0)])
def test_acc_of_a_scaled_anomaly(factor, expected):
    grid = sphere()
    rng = np.random.default_rng(2)
    climatology, anomaly = rng.normal(280, 20, (4, *grid.shape, 1)), rng.normal(0, 3, (4, *grid.shape, 1))
    accumulator = Accumulator(["acc", "activity", "target_activity"], weights_of(grid))
    accumulator.add(climatology + factor * anomaly, climatology + anomaly, climatology)
    scores = accumulator.scores()["0"]
    assert scores["acc"] == pytest.approx(expected, abs=1e-12)
    assert scores["activity"] == pytest.approx(abs(factor) * scores["target_activity"], rel=1e-10)


def test_acc_is_uncentred():
    """Uniform anomalies of the same sign correlate perfectly; of orthogonal patterns not at all."""
    grid = sphere()
    ones = np.ones((1, *grid.shape, 1))
    accumulator = Accumulator(["acc"], weights_of(grid))
    accumulator.add(2 * ones, 3 * ones)
    assert accumulator.finalize()["acc"][0] == pytest.approx(1)
    accumulator = Accumulator(["acc"], weights_of(grid))
    accumulator.add(harmonic(grid, 1, 1)[None, ..., None], harmonic(grid, 2, 1)[None, ..., None])
    assert accumulator.finalize()["acc"][0] == pytest.approx(0, abs=1e-12)


def test_acc_of_climatology_is_undefined():
    grid = sphere()
    climatology = np.full((2, *grid.shape, 1), 280.0)
    accumulator = Accumulator(["acc", "correlation"], weights_of(grid))
    accumulator.add(climatology, climatology + 1, climatology)
    assert np.isnan(accumulator.finalize()["acc"][0])
    assert np.isnan(accumulator.finalize()["correlation"][0])


def test_activity_of_a_harmonic_is_its_amplitude():
    grid = gaussian()
    field = (5 * harmonic(grid, 3, 2) + 100)[None, ..., None]
    accumulator = Accumulator(["activity"], weights_of(grid))
    accumulator.add(field, field, np.zeros_like(field))
    assert accumulator.finalize()["activity"][0] == pytest.approx(5, rel=5e-3)


def test_relative_l2_is_the_mean_of_ratios():
    target = np.stack([np.ones((4, 4, 1)), 10 * np.ones((4, 4, 1))])
    prediction = target + np.array([0.5, 1.0])[:, None, None, None]
    accumulator = Accumulator(["relative_l2"], np.ones((4, 4, 1)))
    accumulator.add(prediction, target)
    assert accumulator.finalize()["relative_l2"][0] == pytest.approx((0.5 + 0.1) / 2)


def test_correlation_of_series_equals_numpy():
    rng = np.random.default_rng(3)
    p, t = rng.normal(27, 1, (40, 1, 1, 2)), rng.normal(27, 1, (40, 1, 1, 2))
    accumulator = Accumulator(["correlation"], np.ones((1, 1, 2)))
    accumulator.add(p, t)
    expected = [np.corrcoef(p[:, 0, 0, i], t[:, 0, 0, i])[0, 1] for i in range(2)]
    np.testing.assert_allclose(accumulator.finalize()["correlation"], expected, rtol=1e-9)


def test_a_forecast_that_blew_up_has_no_score():
    grid = sphere()
    target = np.zeros((2, *grid.shape, 2), np.float32)
    prediction = target.copy()
    prediction[1, 3, 4, 0] = np.nan
    accumulator = Accumulator(["rmse", "bias"], weights_of(grid, 2))
    accumulator.add(prediction, target)
    assert np.isnan(accumulator.finalize()["rmse"][0])
    assert accumulator.finalize()["rmse"][1] == 0


def test_a_missing_target_inside_the_mask_names_the_channel():
    grid = sphere()
    target = np.zeros((2, *grid.shape, 2), np.float32)
    target[0, 0, 0, 1] = np.nan
    accumulator = Accumulator(["rmse"], weights_of(grid, 2), keys=["tas", "ta@500"])
    with pytest.raises(UserError, match=r"ta@500: the target is missing at 1 "):
        accumulator.add(np.zeros_like(target), target)


def test_mistakes_in_use():
    assert set(ALL) <= set(metric_names())
    with pytest.raises(UserError, match="'rsme' does not exist; did you mean 'rmse'"):
        find_metric("rsme")
    with pytest.raises(ValueError, match="registered twice"):
        register_metric("rmse")(lambda: find_metric("mae"))
    accumulator = Accumulator(["rmse"], np.ones((4, 4, 1)))
    with pytest.raises(ValueError, match="no forecast"):
        accumulator.finalize()
    with pytest.raises(ValueError, match="must both be"):
        accumulator.add(np.zeros((1, 4, 4, 2)), np.zeros((1, 4, 4, 1)))
    with pytest.raises(ValueError, match="same metrics"):
        accumulator + Accumulator(["mae"], np.ones((4, 4, 1)))
    with pytest.raises(ValueError, match="same weights"):
        accumulator + Accumulator(["rmse"], 2 * np.ones((4, 4, 1)))


# ---- indices


def index_spec(grid):
    return Spec((Variable("sst", "prognostic"), Variable("z", "prognostic", level=500.0)), grid, Duration(1), history=1)


@pytest.mark.parametrize("longitude", [(190.0, 240.0), (-170.0, -120.0)])
def test_nino34_is_the_mean_over_its_box(longitude):
    grid = Grid(tuple(np.arange(-88.0, 89, 2)), tuple(np.arange(0.0, 360, 2)))
    spec, mask = index_spec(grid), np.ones((*grid.shape, 2), bool)
    definition = IndexDefinition("nino34", "sst", (-5, 5), longitude)
    weights = definition.weights(spec, mask)
    assert weights.sum() == pytest.approx(1)
    rows, columns, channels = np.nonzero(weights)
    assert set(np.asarray(grid.latitude)[rows]) == {-4.0, -2.0, 0.0, 2.0, 4.0}
    assert np.asarray(grid.longitude)[columns].min() == 190
    assert np.asarray(grid.longitude)[columns].max() == 240
    assert set(channels) == {0}
    field = np.zeros((2, *grid.shape, 2), np.float32)
    field[1, ..., 0] = np.asarray(grid.longitude)
    series = index_series(field, [definition], spec, mask)
    assert series.shape == (2, 1, 1, 1)
    np.testing.assert_allclose(series[:, 0, 0, 0], [0, 215], rtol=1e-7)


def test_an_index_across_the_date_line_of_the_grid_and_land():
    grid = Grid((-10.0, 0.0, 10.0), (0.0, 90.0, 180.0, 270.0))
    spec, mask = index_spec(grid), np.ones((*grid.shape, 2), bool)
    mask[1, 0, 1] = False
    weights = IndexDefinition("box", "z@500", (-1, 1), (260, 10)).weights(spec, mask)
    assert np.argwhere(weights).tolist() == [[1, 3, 1]]


def test_index_mistakes():
    grid = Grid((-10.0, 0.0, 10.0), (0.0, 90.0, 180.0, 270.0))
    spec, mask = index_spec(grid), np.ones((*grid.shape, 2), bool)
    with pytest.raises(UserError, match="'tos' is not an output; there are sst, z@500"):
        IndexDefinition("a", "tos", (-1, 1), (0, 10)).weights(spec, mask)
    with pytest.raises(UserError, match="no cell of 'sst' with data"):
        IndexDefinition("a", "sst", (2, 3), (0, 10)).weights(spec, mask)
    with pytest.raises(ValueError, match=r"south, north"):
        IndexDefinition("a", "sst", (5, -5), (0, 10))


# ---- spectra


def test_zonal_spectrum_of_a_cosine():
    """A cos(kλ) has power A²/2 at k alone; the constant sits at 0."""
    grid = sphere()
    field = 3 + 4 * np.cos(5 * np.deg2rad(grid.longitude))[None, None, :, None] * np.ones((2, 24, 1, 1))
    spectrum = PowerSpectrum(grid)
    power = spectrum(field)[:, 0]
    expected = np.zeros(25)
    expected[0], expected[5] = 9, 8
    np.testing.assert_allclose(power, expected, atol=1e-12)
    assert spectrum.wavenumber[-1] == 24


@pytest.mark.parametrize("width", [9, 10])
def test_zonal_spectrum_sums_to_the_variance(width):
    grid = sphere(6, width)
    x = np.random.default_rng(4).normal(2, 3, (5, 6, width, 2))
    power = PowerSpectrum(grid)(x)
    area = grid.area_weights()[:, 0] / grid.area_weights()[:, 0].sum()
    np.testing.assert_allclose(power[1:].sum(0), np.einsum("nhc,h->c", x.var(axis=2), area) / 5, rtol=1e-12)
    np.testing.assert_allclose(power.sum(0), np.einsum("nhwc,h->c", x**2, area) / (5 * width), rtol=1e-12)


@pytest.mark.parametrize("grid", [gaussian(16, 32), sphere(33, 64), Grid(tuple(np.linspace(-90, 90, 25)),
                                                                      tuple(7.5 * np.arange(48)))])  # fmt: skip
def test_total_wavenumber_spectrum_of_harmonics(grid):
    parts = {(0, 0): 2.0, (3, 0): 1.5, (3, 2): -0.5, (7, 7): 3.0, (6, 1): 0.25}
    field = sum(a * harmonic(grid, *lm) for lm, a in parts.items())[None, ..., None]
    spectrum = PowerSpectrum(grid, "total")
    power = spectrum(field)[:, 0]
    expected = np.zeros(len(spectrum.wavenumber))
    for (degree, _), a in parts.items():
        expected[degree] += a * a
    np.testing.assert_allclose(power, expected, atol=1e-9)
    assert power[1:].sum() == pytest.approx(1.5**2 + 0.5**2 + 3**2 + 0.25**2)


def test_total_wavenumber_reaches_further_on_a_gaussian_grid():
    assert PowerSpectrum(gaussian(16, 32), "total").wavenumber[-1] == 15
    assert PowerSpectrum(sphere(16, 32), "total").wavenumber[-1] == 7


@pytest.mark.parametrize("periodic", [True, False])
def test_radial_spectrum_sums_to_the_variance(periodic):
    grid = Grid(tuple(np.arange(12) * 0.1), tuple(np.arange(20) * 0.1), "plane", periodic)
    x = np.random.default_rng(5).normal(1, 2, (3, 12, 20, 2))
    power = PowerSpectrum(grid)(x)
    np.testing.assert_allclose(power[1:].sum(0), x.var(axis=(1, 2)).mean(0), rtol=1e-12)
    np.testing.assert_allclose(power[0], (x.mean(axis=(1, 2)) ** 2).mean(0), rtol=1e-12)


def test_radial_spectrum_finds_the_wave():
    grid = Grid(tuple(np.arange(16) / 16), tuple(np.arange(16) / 16), "plane", True)
    wave = np.cos(2 * np.pi * 4 * np.asarray(grid.longitude))[None, None, :, None] * np.ones((1, 16, 1, 1))
    power = PowerSpectrum(grid)(wave)[:, 0]
    assert power[4] == pytest.approx(0.5)
    assert power.sum() == pytest.approx(0.5)
    half = np.cos(np.pi * 6 * (np.asarray(grid.latitude) + 1 / 32))[None, :, None, None] * np.ones((1, 1, 16, 1))
    assert PowerSpectrum(grid)(half)[3, 0] == pytest.approx(0.5)


def test_spectra_of_chunks_add_and_masked_channels_are_unavailable():
    grid = sphere(6, 12)
    mask = np.ones((6, 12, 2), bool)
    mask[0, 0, 1] = False
    x = np.random.default_rng(6).normal(size=(5, 6, 12, 2))
    spectrum = PowerSpectrum(grid, mask=mask)
    a, b = spectrum.statistics(x[:2]), spectrum.statistics(x[2:])
    merged = spectrum.finalize({k: a[k] + b[k] for k in a})
    np.testing.assert_allclose(merged[:, 0], spectrum(x)[:, 0], rtol=1e-12)
    assert np.isnan(merged[:, 1]).all()
    assert "masked" in spectrum.unavailable[1]


def test_spectra_that_would_be_wrong_are_refused():
    region = Grid((10.0, 20.0, 30.0), (0.0, 10.0, 20.0), periodic=False)
    assert "region" in spectrum_unavailable(region)
    assert not spectrum_unavailable(sphere(), "total")
    with pytest.raises(UserError, match="whole sphere"):
        PowerSpectrum(region, "total")
    with pytest.raises(UserError, match="needs a plane"):
        PowerSpectrum(sphere(), "radial")
