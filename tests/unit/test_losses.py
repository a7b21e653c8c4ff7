"""The loss against a plain sum, its gradient against the exact one, and the channel weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surrogate.core.durations import Duration
from surrogate.core.spec import Grid, Spec, Variable
from surrogate.core.types import UserError
from surrogate.losses import level_weights, weighted_mse


@pytest.fixture
def fields():
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 1.5, (5, 6, 3)).astype(np.float32)
    weights[:2, :3, 1] = 0
    prediction, target = (rng.normal(size=(4, 5, 6, 3)).astype(np.float32) for _ in range(2))
    return prediction, target, weights, np.array([1.0, 2.0, 0.5], np.float32)


def plain(prediction, target, weights, channel_weights):
    means = [
        np.average(((prediction - target) ** 2)[..., c].mean(0).astype(float), weights=weights[..., c])
        for c in range(len(channel_weights))
    ]
    return np.average(means, weights=channel_weights)


def test_value(fields):
    assert float(weighted_mse(*fields)) == pytest.approx(plain(*fields), rel=1e-6)


def test_a_unit_error_costs_one(fields):
    prediction, _, weights, v = fields
    assert float(weighted_mse(prediction, prediction + 1, weights, v)) == pytest.approx(1, rel=1e-6)


def test_leading_axes_are_samples(fields):
    p, t, w, v = fields
    stacked = weighted_mse(p.reshape(2, 2, 5, 6, 3), t.reshape(2, 2, 5, 6, 3), w, v)
    assert float(stacked) == pytest.approx(float(weighted_mse(p, t, w, v)), rel=1e-6)


def test_gradient_is_exact(fields):
    """∂L/∂p = 2 v_c w (p − t) / (N Σ_space w_c Σ v)."""
    p, t, w, v = fields
    gradient = jax.grad(weighted_mse)(jnp.asarray(p), t, w, v)
    exact = 2 * v * w * (p - t) / (4 * w.sum(axis=(0, 1)) * v.sum())
    np.testing.assert_allclose(gradient, exact, rtol=1e-5, atol=1e-9)


def test_missing_values_change_neither_value_nor_gradient(fields):
    p, t, w, v = fields
    hole = np.where(w > 0, t, np.nan)
    assert float(weighted_mse(p, hole, w, v)) == float(weighted_mse(p, t, w, v))
    gradient = np.asarray(jax.grad(weighted_mse)(jnp.asarray(p), hole, w, v))
    assert np.isfinite(gradient).all()
    assert (gradient[:, w == 0] == 0).all()


def test_a_channel_without_data_counts_nothing(fields):
    p, t, w, v = fields
    w = w.copy()
    w[..., 2] = 0
    expected = plain(p[..., :2], t[..., :2], w[..., :2], v[:2])
    assert float(weighted_mse(p, t, w, v)) == pytest.approx(expected, rel=1e-6)


def test_bfloat16_is_summed_in_float32():
    shape = (2, 64, 64, 1)
    prediction = jnp.full(shape, 1.0, jnp.bfloat16)
    value = weighted_mse(prediction, np.zeros(shape), np.ones(shape[1:]), np.ones(1))
    assert value.dtype == jnp.float32
    assert float(value) == 1.0


def test_a_nan_inside_the_mask_is_not_hidden(fields):
    p, t, w, v = fields
    t = t.copy()
    t[0, 4, 4, 0] = np.nan
    assert np.isnan(float(weighted_mse(p, t, w, v)))


def spec_of(units="hPa"):
    variables = [Variable("t", "prognostic", level=float(p), level_units=units) for p in (250, 500, 750)]
    return Spec((*variables, Variable("ps", "prognostic"), Variable("pr", "diagnostic")),
                Grid((0.0,), (0.0, 1.0)), Duration(0, 3600))  # fmt: skip


def test_equal_weights():
    np.testing.assert_array_equal(level_weights(spec_of()), np.ones(5, np.float32))


def test_pressure_weights_share_the_variables_weight():
    weights = level_weights(spec_of(), per_level="pressure")
    np.testing.assert_allclose(weights, [0.5, 1.0, 1.5, 1.0, 1.0], rtol=1e-6)


def test_a_level_wins_over_its_variable_and_the_mean_is_one():
    weights = level_weights(spec_of(), {"t": 2.0, "t@500": 0.0, "pr": 0.5})
    np.testing.assert_allclose(weights, np.array([2, 0, 2, 1, 0.5]) * 5 / 5.5, rtol=1e-6)
    assert weights.mean() == pytest.approx(1)


def test_a_table_of_levels():
    weights = level_weights(spec_of(), per_level={"250": 0.0, "500": 1.0, "750": 2.0})
    np.testing.assert_allclose(weights, [0, 1, 2, 1, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"temp": 1.0},), "'temp': it is not an output; there are t@250"),
        (({"t": -1.0},), "'t' is -1.0"),
        (({"t": 0.0, "ps": 0.0, "pr": 0.0},), "every loss weight is 0"),
        (({}, "mass"), "'mass' is not one of equal, pressure"),
        (({}, {"300": 1.0}), "level 300: no output has it"),
        (({}, {"250": -1.0}), "level 250 is -1.0"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        level_weights(spec_of(), *arguments)


def test_heights_are_no_pressures():
    with pytest.raises(UserError, match="t@250: levels in 'm' are no pressures"):
        level_weights(spec_of("m"), per_level="pressure")


def test_relative_l2_is_the_metric_and_its_gradient_is_finite_at_the_truth() -> None:
    from surrogate.losses import relative_l2
    from surrogate.metrics import Accumulator

    rng = np.random.default_rng(5)
    prediction, target = rng.normal(size=(2, 6, 4, 5, 2)).astype("f4")
    weights = rng.uniform(0.5, 1.5, size=(4, 5, 2))
    sums = Accumulator(["relative_l2"], weights)
    sums.add(prediction, target)
    expected = float(np.dot(sums.finalize()["relative_l2"], [1, 3]) / 4)
    assert float(relative_l2(prediction, target, weights, np.array([1.0, 3.0]))) == pytest.approx(expected, rel=1e-5)
    gradient = jax.grad(lambda p: relative_l2(p, target, weights, np.ones(2)))(target)
    assert np.isfinite(gradient).all()


def test_relative_h1_adds_the_differences_of_neighbours_that_are_both_there() -> None:
    from surrogate.losses import relative_h1, relative_l2

    x, y = np.meshgrid(np.arange(6.0), np.arange(5.0))
    target = np.stack([x + 2 * y + 1])[..., None]
    whole = np.ones((5, 6, 1))
    # The error is 0.1 x: its values, its 25 differences of 0.1 along rows, none along columns.
    error, size = 0.01 * (x**2).sum() + 25 * 0.01, (target**2).sum() + 25 + 4 * 24
    got = relative_h1(target + 0.1 * x[None, ..., None], target, whole, np.ones(1))
    assert float(got) == pytest.approx(np.sqrt(error / size), rel=1e-5)
    # A constant error has no differences: only the target's norm grows.
    shifted = [float(f(target + 0.3, target, whole, np.ones(1))) for f in (relative_h1, relative_l2)]
    assert shifted[0] < shifted[1]
    masked = whole.copy()
    masked[2, 3] = 0
    prediction = target + 0.2
    prediction[0, 2, 3] = 1e6
    assert float(relative_h1(prediction, target, masked, np.ones(1))) < 1
    gradient = jax.grad(lambda p: relative_h1(p, target, masked, np.ones(1)))(jax.numpy.asarray(target))
    assert np.isfinite(gradient).all()
