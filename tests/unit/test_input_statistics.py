"""Statistics of training inputs: distances that mean what they say, and what gridded data give for them."""

from __future__ import annotations

import numpy as np
import pytest

from surrogate.cli import load_experiment
from surrogate.data.input_statistics import LEVELS, InputStatistics, fit_inputs
from surrogate.domains.fields import Fields
from surrogate.domains.fields_inputs import FIELD, POINT


def gaussian(number: int, channels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlated samples, their true mean and covariance."""
    rng = np.random.default_rng(5)
    root = rng.normal(size=(channels, channels)) / np.sqrt(channels) + np.eye(channels)
    mean = rng.normal(0, 100, channels)
    scale = 10.0 ** rng.uniform(-3, 3, channels)
    root = root * scale[:, None]
    samples = np.random.default_rng(seed).normal(size=(number, channels)) @ root.T + mean
    return samples, mean, root @ root.T


def distance(statistics: InputStatistics, values: np.ndarray) -> np.ndarray:
    z = (values - statistics.mean) / statistics.std
    return np.sqrt(((z @ statistics.factor().T) ** 2).mean(-1))


def test_the_distance_is_that_of_mahalanobis_and_a_typical_sample_has_one() -> None:
    samples, mean, covariance = gaussian(20_000, 6)
    statistics = fit_inputs(samples)
    assert statistics is not None
    new, _, _ = gaussian(4_000, 6, seed=1)
    exact = np.sqrt(np.einsum("ni,ij,nj->n", new - mean, np.linalg.inv(covariance), new - mean) / 6)
    np.testing.assert_allclose(distance(statistics, new), exact, rtol=0.05)
    assert np.sqrt((exact**2).mean()) == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(statistics.low, samples.min(0))
    np.testing.assert_array_equal(statistics.high, samples.max(0))


@pytest.mark.parametrize("number", [60, 5_000])
def test_the_share_of_new_samples_beyond_a_threshold_is_the_one_asked_for(number: int) -> None:
    """With few samples as well: distances are of samples that the fit has not seen."""
    samples, _, _ = gaussian(number, 20)
    statistics = fit_inputs(samples)
    assert statistics is not None
    new, _, _ = gaussian(20_000, 20, seed=2)
    for quantile, tolerance in ((0.5, 0.15), (0.9, 0.08)):
        beyond = (distance(statistics, new) > statistics.threshold(quantile)).mean()
        assert beyond == pytest.approx(1 - quantile, abs=tolerance if number == 60 else 0.02)
    assert list(LEVELS) == sorted(LEVELS)


def test_combinations_are_far_where_each_input_is_ordinary() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=2_000)
    samples = np.stack([first, first + 0.05 * rng.normal(size=2_000)], axis=-1)
    statistics = fit_inputs(samples)
    assert statistics is not None
    together, against = distance(statistics, np.array([[2.0, 2.0], [2.0, -2.0]]))
    assert together < statistics.threshold(0.999) < 10 < against


def test_inputs_that_never_change_and_that_repeat_each_other() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(280, 5, 500)
    statistics = fit_inputs(np.stack([one, one, np.full(500, 7.0)], axis=-1))
    assert statistics is not None
    near, far = distance(statistics, np.array([[280.0, 280.0, 7.0], [280.0, 280.0, 8.0]]))
    assert near < 1
    assert far > 1e3
    assert np.isfinite(statistics.factor()).all()


def test_too_few_samples_say_nothing() -> None:
    assert fit_inputs(np.zeros((9, 3))) is None
    assert fit_inputs(np.zeros((100, 0))) is None
    assert InputStatistics.from_arrays({"center.forcing": np.zeros(1)}, FIELD) is None


def test_arrays_come_back() -> None:
    statistics = fit_inputs(gaussian(100, 3)[0])
    assert statistics is not None
    again = InputStatistics.from_arrays(statistics.arrays("x."), "x.")
    assert again is not None
    assert again.samples == 100
    np.testing.assert_array_equal(again.correlation, statistics.correlation)


def test_gridded_data_give_the_statistics_of_their_training_split(tiny_settings) -> None:
    settings = [*tiny_settings, "data.history=2", "data.features=[]"]
    domain = Fields(load_experiment("", settings))
    domain.open()
    arrays = domain.artefact()[1]
    samples = domain.samples("train", 1)
    area = domain.spec.grid.area_weights()
    states = []
    for number, start in samples:
        fields = domain.source.read(int(number), np.array([start - 1, start]))["prognostic"].astype(np.float64)
        states.append(np.concatenate([fields[0], fields[1]], axis=-1))
    values = np.stack(states)  # (N, H, W, history × P)
    whole = InputStatistics.from_arrays(arrays, FIELD)
    assert whole is not None
    assert whole.samples == len(samples) <= 512
    np.testing.assert_allclose(whole.mean, (values * area[..., None]).mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_array_equal(whole.low, values.min((0, 1, 2)))
    np.testing.assert_array_equal(whole.high, values.max((0, 1, 2)))
    single = InputStatistics.from_arrays(arrays, POINT)
    assert single is not None
    flat = values.reshape(-1, values.shape[-1])
    if single.samples == len(flat):
        np.testing.assert_allclose(single.std, flat.std(0), rtol=1e-9)
    assert (single.low >= flat.min(0)).all()
    assert (single.high <= flat.max(0)).all()


def test_a_surrogate_bound_to_places_keeps_no_columns(tiny_settings) -> None:
    domain = Fields(load_experiment("", [*tiny_settings, "data.features=[position]"]))
    domain.open()
    arrays = domain.artefact()[1]
    assert f"{FIELD}low" in arrays
    assert f"{POINT}low" not in arrays
