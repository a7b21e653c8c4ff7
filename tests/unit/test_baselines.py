"""Baselines against synthetic truths whose best forecasts are known, and against published scores."""

from pathlib import Path

import cftime
import numpy as np
import pytest
import scipy.linalg

from surrogate.core.durations import Duration
from surrogate.core.spec import Grid, Spec, Variable
from surrogate.core.types import UserError
from surrogate.metrics import (
    Accumulator,
    Climatology,
    IndexDefinition,
    TrainingFields,
    applicable_baselines,
    find_baseline,
    fit_baselines,
    index_series,
)
from surrogate.metrics.principal_components import PrincipalComponents, RidgeChoice, solve_ridge

DAY = Duration(0, 86400)
GRID = Grid((-60.0, -20.0, 20.0, 60.0), (0.0, 90.0, 180.0, 270.0))
DATA = Path(__file__).parents[2].parent / "shared" / "data"


def spec_of(channels=1, grid=GRID, step=DAY, forcings=0):
    outputs = [Variable(f"x{i}", "prognostic" if step else "diagnostic") for i in range(channels)]
    return Spec((*outputs, *(Variable(f"f{i}", "forcing") for i in range(forcings))), grid, step)


def training(states, times=None, segments=None, stride=1, mask=None, **spec):
    states = [np.asarray(s, np.float32) for s in states]
    the_spec = spec.pop("spec", None) or spec_of(states[0].shape[-1], **spec)
    weights = np.repeat(the_spec.grid.area_weights()[..., None], states[0].shape[-1], axis=-1)
    if mask is not None:
        weights = weights * mask
    times = times or [np.arange(len(s)) for s in states]
    segments = segments or [np.zeros(len(s), int) for s in states]
    return TrainingFields(the_spec, states, times, segments, weights, stride)


def dates(start, number, unit="D"):
    return np.datetime64(start, unit).astype("datetime64[ns]") + np.arange(number) * np.timedelta64(1, unit)


# ---- climatology


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard"])
def test_daily_climatology_recovers_a_known_season(calendar):
    year = {"noleap": 365, "360_day": 360}.get(calendar, 365.25)
    rng = np.random.default_rng(0)
    amplitude, phase = rng.uniform(5, 10, (4, 4, 2)), rng.uniform(0, 1, (4, 4, 2))

    def truth(days):
        angle = 2 * np.pi * (days[:, None, None, None] / year - phase)
        return 280 + amplitude * np.cos(angle) + 2 * np.sin(2 * angle)

    days = np.arange(6 * 365)
    if calendar == "standard":
        time, later = dates("1988-01-01", len(days)), dates("1996-03-01", 200)
        later_days = (later - time[0]) / np.timedelta64(1, "D") + 0.0
    else:
        time = cftime.num2date(days, "days since 0001-01-01", calendar)
        later_days = 20 * year + np.arange(200.0)
        later = cftime.num2date(later_days, "days since 0001-01-01", calendar)
    fit = Climatology().fit(training([truth(days) + rng.normal(0, 1, (len(days), 4, 4, 2))], [time]))
    assert fit.season.kind == "day_of_year"
    assert fit.season.harmonics == 2
    assert np.abs(fit(later) - truth(later_days)).max() < 0.25


def test_monthly_climatology_is_the_mean_of_each_month():
    rng = np.random.default_rng(1)
    time = cftime.num2date(np.arange(120) * 30 + 14, "days since 0200-01-01", "360_day")
    x = rng.normal(0, 1, (120, 4, 4, 1)) + 10 * np.sin(np.arange(120) * 2 * np.pi / 12)[:, None, None, None] ** 3
    fit = Climatology().fit(training([x], [time]))
    assert fit.season.kind == "month"
    np.testing.assert_allclose(fit(time[7:8])[0], x[7::12].mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("time", [dates("2000-01-01", 800), np.arange(800)])
def test_a_run_without_seasons_gets_a_constant(time):
    rng = np.random.default_rng(2)
    x = np.empty((800, 4, 4, 2))
    x[0] = rng.normal(size=(4, 4, 2))
    for i in range(1, 800):
        x[i] = 0.9 * x[i - 1] + rng.normal(size=(4, 4, 2))
    fit = Climatology().fit(training([x + 1e4], [time]))
    assert fit.season.kind == "constant"
    np.testing.assert_allclose(fit(time[:3]), np.broadcast_to(1e4 + x.mean(axis=0), (3, 4, 4, 2)), rtol=1e-6)


def test_a_daily_cycle_is_found_in_six_hourly_data():
    time = dates("2001-01-01", 4 * 40, "h")[0] + np.arange(160) * np.timedelta64(6, "h")
    cycle = np.array([0.0, 3.0, 8.0, 2.0])
    x = cycle[np.arange(160) % 4][:, None, None, None] + np.random.default_rng(3).normal(0, 0.5, (160, 4, 4, 1))
    fit = Climatology().fit(training([x], [time]))
    assert fit.season.diurnal
    np.testing.assert_allclose(fit(time[:4]).mean(axis=(1, 2, 3)), cycle, atol=0.1)


def test_climatology_keeps_the_mask():
    mask = np.ones((4, 4, 1), bool)
    mask[1, 2] = False
    x = np.random.default_rng(4).normal(size=(30, 4, 4, 1))
    x[:, ~mask] = np.nan
    value = Climatology().fit(training([x], mask=mask))(np.arange(2))
    assert np.isnan(value[:, ~mask]).all()
    assert np.isfinite(value[:, mask]).all()


def test_a_season_that_the_data_lack_is_refused():
    with pytest.raises(UserError, match="they have 2 of the 12 months"):
        Climatology("month").fit(training([np.zeros((50, 4, 4, 1))], [dates("2000-01-01", 50)]))
    with pytest.raises(UserError, match="no dates"):
        Climatology("day_of_year").fit(training([np.zeros((50, 4, 4, 1))]))


# ---- pairs


def test_pairs_never_cross_a_segment_or_a_trajectory():
    segments = [np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 0])]
    train = training([np.zeros((7, 4, 4, 1)), np.zeros((2, 4, 4, 1))], segments=segments)
    assert [o.tolist() for o in train.origins(1)] == [[0, 1, 3, 4, 5], [0]]
    assert [o.tolist() for o in train.origins(3)] == [[3], []]
    assert [o.tolist() for o in train.origins(9)] == [[], []]
    strided = training([np.zeros((7, 4, 4, 1))], segments=segments[:1], stride=2)
    assert [o.tolist() for o in strided.origins(1)] == [[0, 3, 4]]


def test_a_jump_between_segments_does_not_change_the_damping():
    """Two pieces of x(t+1) = −x(t), joined so that the pair across the gap would look like persistence."""
    signs = (-1.0) ** np.arange(40)
    x = np.concatenate([signs, signs[::-1]])[:, None, None, None] * np.ones((1, 4, 4, 1))
    whole, split = (find_baseline("damped_persistence", Climatology("constant").fit(training([x]))) for _ in range(2))
    split.fit(training([x], segments=[np.repeat([0, 1], 40)]), [2, 39])
    whole.fit(training([x]), [2, 39])
    assert (split.factors[2] == 1).all()
    assert (whole.factors[2] < 1).all()


# ---- damped persistence


def test_damped_persistence_recovers_an_ar1_coefficient():
    rng = np.random.default_rng(5)
    a = rng.uniform(0.3, 0.95, (4, 4, 2))
    x = np.zeros((6000, 4, 4, 2))
    for i in range(1, len(x)):
        x[i] = a * x[i - 1] + rng.normal(size=a.shape)
    model = find_baseline("damped_persistence")
    model.fit(training([x[:3000] + 50, x[3000:] + 50], stride=2), [1, 2])
    np.testing.assert_allclose(model.factors[1], a**2, atol=0.06)
    np.testing.assert_allclose(model.factors[2], a**4, atol=0.08)
    state = 50 + np.ones((1, 4, 4, 2), np.float32)
    forecast = model.predict(state, np.arange(1), np.arange(1) + 2, 1)
    mean = model.climatology(np.arange(1))
    np.testing.assert_allclose(forecast, mean + model.factors[1] * (state - mean), rtol=1e-6)


def test_damping_is_clipped():
    growing = np.exp(0.1 * np.arange(60)) * (-1.0) ** (np.arange(60) // 30)
    alternating = (-1.0) ** np.arange(60)
    x = np.stack([growing, alternating], -1)[:, None, None, :] * np.ones((1, 4, 4, 1))
    model = find_baseline("damped_persistence")
    model.fit(training([x]), [1])
    assert model.factors[1].min() == 0
    assert model.factors[1].max() <= 1


# ---- linear inverse model


def linear_system(steps, seed, size=6):
    """x(t+1) = A x(t) + noise in ``size`` patterns of a 4 × 4 × 2 field, and the optimal error of a forecast."""
    rng = np.random.default_rng(0)
    rotation = scipy.linalg.block_diag(*[0.97 * np.array([[np.cos(w), -np.sin(w)], [np.sin(w), np.cos(w)]])
                                         for w in (0.3, 0.6, 1.0)])  # fmt: skip
    patterns = np.linalg.qr(rng.normal(size=(32, size)))[0]
    rng = np.random.default_rng(seed)
    z = np.zeros((steps, size))
    for i in range(1, steps):
        z[i] = rotation @ z[i - 1] + rng.normal(size=size)

    def optimal(lead):
        powers = [np.linalg.matrix_power(rotation, i) @ patterns.T for i in range(lead)]
        return np.sqrt(sum((p**2).sum() for p in powers) / 32)

    return (z @ patterns.T).reshape(steps, 4, 4, 2) + 270, optimal


def test_linear_inverse_model_approaches_the_optimal_error():
    x, _ = linear_system(1000, 1)
    test, optimal = linear_system(3000, 2)
    plane = Grid((0.0, 1.0, 2.0, 3.0), (0.0, 1.0, 2.0, 3.0), "plane")
    train = training([x], grid=plane)
    baselines = fit_baselines(train, [1, 4], Climatology().fit(train))
    for lead in (1, 4):
        origin = np.arange(len(test) - lead)
        error = {}
        for name, model in baselines.items():
            forecast = model.predict(test[:-lead].astype(np.float32), origin, origin + lead, lead)
            error[name] = np.sqrt(((forecast - test[lead:]) ** 2).mean())
        assert error["linear_inverse_model"] == pytest.approx(optimal(lead), rel=0.05)
        assert error["linear_inverse_model"] < 0.9 * min(error["damped_persistence"], error["climatology"])


def test_linear_inverse_model_of_noise_is_climatology():
    x = np.random.default_rng(6).normal(size=(400, 4, 4, 2))
    model = find_baseline("linear_inverse_model")
    model.fit(training([x]), [1])
    forecast = model.predict(x[:50].astype(np.float32), np.arange(50), np.arange(50) + 1, 1)
    assert forecast.std() < 0.35


def test_linear_inverse_model_keeps_the_mask():
    mask = np.ones((4, 4, 2), bool)
    mask[0, 0, 1] = False
    x, _ = linear_system(500, 3)
    x[:, ~mask] = np.nan
    model = find_baseline("linear_inverse_model")
    model.fit(training([x], mask=mask), [1])
    forecast = model.predict(x[:3].astype(np.float32), np.arange(3), np.arange(3) + 1, 1)
    assert (np.isnan(forecast) == ~mask).all()


def test_lead_and_length_mistakes():
    x, _ = linear_system(30, 4)
    train = training([x])
    for name in ("linear_inverse_model", "damped_persistence"):
        model = find_baseline(name)
        model.fit(train, [1])
        with pytest.raises(UserError, match="not fitted for a lead of 2 steps"):
            model.predict(x[:1], np.arange(1), np.arange(1) + 2, 2)
    with pytest.raises(UserError, match="lead of P10D needs a longer training split"):
        find_baseline("linear_inverse_model").fit(train, [10])
    with pytest.raises(UserError, match="P40D apart"):
        find_baseline("damped_persistence").fit(train, [40])


# ---- principal components


def test_principal_components_equal_a_singular_value_decomposition():
    x, _ = linear_system(300, 5)
    train = training([x[:100], x[100:]])
    climatology = Climatology("constant").fit(train)
    pcs = PrincipalComponents(climatology, train.weights).fit(train.state, train.time, [100, 200], 6)
    anomaly = x - x.mean(axis=0)
    area = train.weights / train.weights.sum(axis=(0, 1))
    std = np.sqrt((anomaly**2 * area).sum(axis=(1, 2)).mean(axis=0))
    y = (anomaly / std * np.sqrt(area)).reshape(300, -1)
    singular = np.linalg.svd(y, compute_uv=False)[:6]
    np.testing.assert_allclose(pcs.variance, singular**2 / 300, rtol=1e-4)
    np.testing.assert_allclose(pcs.patterns.T @ pcs.patterns, np.eye(6), atol=1e-4)
    # six patterns made the data, so six components give them back
    back = pcs.expand(pcs.project(x.astype(np.float32), np.arange(300)))
    np.testing.assert_allclose(back, anomaly, atol=2e-3)


def test_ridge_choice_measures_the_held_out_error():
    rng = np.random.default_rng(7)
    x, noise = rng.normal(size=(60, 8)), rng.normal(size=(60, 3))
    y = x[:, :2] @ rng.normal(size=(2, 3)) + 0.1 * noise
    choice = RidgeChoice(x[:40], y[:40], x[40:], y[40:])
    assert choice.components == 2
    k = choice.components
    a = solve_ridge(x[:40, :k].T @ x[:40, :k], x[:40, :k].T @ y[:40], choice.penalty)
    assert choice.error == pytest.approx(((y[40:] - x[40:, :k] @ a) ** 2).sum(), rel=1e-9)


# ---- maps from forcings to outputs


def map_training(forcing, output):
    spec = spec_of(output.shape[-1], step=Duration(), forcings=forcing.shape[-1])
    weights = np.repeat(GRID.area_weights()[..., None], output.shape[-1], axis=-1)
    n = len(output)
    return TrainingFields(
        spec, [output.astype(np.float32)], [np.arange(n)], [np.arange(n)], weights, 1, [forcing.astype(np.float32)]
    )


def test_linear_model_with_scalar_forcing_is_pattern_scaling():
    rng = np.random.default_rng(8)
    scalar, pattern = rng.uniform(0, 4, 80), rng.normal(2, 1, (4, 4, 1))
    forcing = np.ones((80, 4, 4, 1)) * scalar[:, None, None, None]
    output = 280 + scalar[:, None, None, None] * pattern
    train = map_training(forcing, output)
    assert applicable_baselines(train.spec) == ("climatology", "linear_model")
    models = fit_baselines(train, [0], Climatology().fit(train))
    new = np.full((1, 4, 4, 1), 8.0, np.float32)
    forecast = models["linear_model"].predict(None, np.arange(1), np.arange(1), 0, new)
    np.testing.assert_allclose(forecast[0], 280 + 8 * pattern, atol=0.01)
    climatology = models["climatology"].predict(None, np.arange(1), np.arange(1), 0)
    np.testing.assert_allclose(climatology[0], output.mean(axis=0), rtol=1e-6)


def test_linear_model_finds_a_linear_map_between_fields():
    rng = np.random.default_rng(9)
    operator = rng.normal(size=(16, 32))
    forcing = rng.normal(size=(300, 16))
    output = (forcing @ operator).reshape(-1, 4, 4, 2) + 0.01 * rng.normal(size=(300, 4, 4, 2))
    train = map_training(forcing.reshape(-1, 4, 4, 1), output)
    model = fit_baselines(train, [0], Climatology().fit(train))["linear_model"]
    new = rng.normal(size=(20, 16))
    forecast = model.predict(None, np.arange(20), np.arange(20), 0, new.reshape(-1, 4, 4, 1).astype(np.float32))
    np.testing.assert_allclose(forecast.reshape(20, -1), new @ operator, atol=0.1)


def test_which_baselines_apply():
    assert applicable_baselines(spec_of())[-1] == "linear_inverse_model"
    assert applicable_baselines(spec_of(step=Duration())) == ("climatology",)
    train = training([np.zeros((30, 4, 4, 1))])
    climatology = Climatology().fit(train)
    with pytest.raises(UserError, match="'linear_model' does not apply"):
        fit_baselines(train, [1], climatology, ["linear_model"])
    with pytest.raises(UserError, match="'persistance' does not exist; did you mean 'persistence'"):
        fit_baselines(train, [1], climatology, ["persistance"])
    with pytest.raises(UserError, match="no forcing"):
        find_baseline("linear_model").fit(train, [0])


# ---- published scores


@pytest.fixture(scope="module")
def ersst():
    path = DATA / "ersst" / "ersst_v3b_1960-2016.nc"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    import xarray as xr

    with xr.open_dataset(path) as data:
        sst, time = data["sst"].values[..., None], data["time"].values
        year, month = data["time"].dt.year.values, data["time"].dt.month.values
        grid = Grid(tuple(map(float, data["lat"].values)), tuple(map(float, data["lon"].values)))
    return sst, time, year, month, grid


LEADS = (1, 3, 6)
PUBLISHED = {
    "climatology": (0.626, 0.626, 0.626),
    "persistence": (0.311, 0.512, 0.609),
    "damped_persistence": (0.309, 0.484, 0.555),
}


@pytest.mark.parametrize(
    ("frozen", "tolerance"),
    [
        # cells under permanent ice (constant at −1.8 °C) left out: to the published digits
        (True, 0.0006),
        # the whole ocean: 0.5% lower, since those cells have no error
        (False, 0.004),
    ],
)
def test_published_scores_of_sea_surface_temperature_anomalies(ersst, frozen, tolerance):
    """Training 1960–1999, targets 2007–2016, anomalies from the training months, areas as weights (K)."""
    sst, time, year, month, grid = ersst
    trained = year <= 1999
    anomaly = sst.copy()
    for m in range(1, 13):
        anomaly[month == m] -= sst[trained & (month == m)].mean(axis=0)
    mask = np.isfinite(sst).all(axis=0)
    if frozen:
        mask &= np.nan_to_num(anomaly[trained].std(axis=0)) > 0.02
    spec = spec_of(grid=grid, step=Duration(1))
    weights = grid.area_weights()[..., None] * mask
    train = TrainingFields(spec, [anomaly[trained]], [time[trained]], [np.zeros(trained.sum(), int)], weights)
    climatology = Climatology().fit(train)
    assert climatology.season.kind == "constant"
    models = fit_baselines(train, LEADS, climatology, list(PUBLISHED))
    target = np.flatnonzero((year >= 2007) & (year <= 2016))
    nino = IndexDefinition("nino34", "x0", (-5, 5), (-170, -120))
    for i, lead in enumerate(LEADS):
        for name, model in models.items():
            forecast = model.predict(anomaly[target - lead], time[target - lead], time[target], lead)
            scores = Accumulator(["rmse"], weights)
            scores.add(forecast, anomaly[target])
            assert scores.finalize()["rmse"][0] == pytest.approx(PUBLISHED[name][i], abs=tolerance), (name, lead)
        series = Accumulator(["correlation"], np.ones((1, 1, 1)))
        series.add(*(index_series(anomaly[at], [nino], spec, mask) for at in (target - lead, target)))
        assert series.finalize()["correlation"][0] == pytest.approx((0.95, 0.70, 0.29)[i], abs=0.005)


def test_raw_temperatures_give_the_same_damped_persistence(ersst):
    """The baseline takes the season out by itself: anomalies prepared beforehand are not needed."""
    sst, time, year, _, grid = ersst
    sst = sst[:, 30:60]
    grid = Grid(grid.latitude[30:60], grid.longitude)
    trained = year <= 1999
    weights = grid.area_weights()[..., None] * np.isfinite(sst).all(axis=0)
    spec = spec_of(grid=grid, step=Duration(1))
    train = TrainingFields(spec, [sst[trained]], [time[trained]], [np.zeros(trained.sum(), int)], weights)
    climatology = Climatology().fit(train)
    assert climatology.season.kind == "month"
    prepared = TrainingFields(spec, [sst[trained] - climatology(time[trained])], train.time, train.segment, weights)
    raw, anomalies = find_baseline("damped_persistence", climatology), find_baseline("damped_persistence")
    raw.fit(train, [3])
    anomalies.fit(prepared, [3])
    np.testing.assert_allclose(raw.factors[3], anomalies.factors[3], atol=2e-3)


def test_fits_see_the_training_split_alone_and_leave_it_as_it_was():
    x, _ = linear_system(260, 8)
    x = x.astype(np.float32)
    forecasts = []
    for disturbance in (0.0, 1e6):
        whole = x.copy()
        whole[200:] += disturbance
        train = training([whole[:200]])
        before = whole.copy()
        models = fit_baselines(train, [2], Climatology().fit(train))
        np.testing.assert_array_equal(whole, before)
        forecasts.append([m.predict(x[:5], np.arange(5), np.arange(5) + 2, 2) for m in models.values()])
    np.testing.assert_array_equal(forecasts[0], forecasts[1])
