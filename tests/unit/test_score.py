"""``surrogate.score``: the leads of fitted baselines are times, not positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import surrogate as sg
from surrogate.core.durations import Duration
from surrogate.core.spec import Grid, Spec, Variable
from surrogate.domains.fields_xarray import to_dataset

BASELINES = ["persistence", "climatology", "damped_persistence", "linear_inverse_model"]
DAY = np.timedelta64(1, "D")


@pytest.fixture(scope="module")
def data(waves_file: Path) -> xr.Dataset:
    with xr.open_dataset(waves_file) as waves:
        return waves.load()


def forecast(data: xr.Dataset, step: int, steps: int) -> xr.Dataset:
    """The truth with an error that grows with the lead, from ten initial times after the first hundred days."""
    grid = Grid(tuple(data["latitude"].values), tuple(data["longitude"].values))
    variables = (Variable("tas", "prognostic", "K"), Variable("psl", "prognostic", "Pa"))
    leads = step * np.arange(1, steps + 1)
    fields = np.stack([data[v.name].values for v in variables], axis=-1)
    values = np.stack([fields[100 + leads + i] + 0.1 * leads[:, None, None, None] for i in range(10)])
    initial = data["time"].values[100:110]
    valid = initial[:, None] + leads * DAY
    return to_dataset(values, Spec(variables, grid, Duration(seconds=86400 * step)), initial, valid, "made up")


def scored(made: xr.Dataset, data: xr.Dataset, training: xr.Dataset) -> xr.DataArray:
    return sg.score(made, data, metrics=["rmse", "acc"], baselines=BASELINES, training=training)["score"]


def test_a_score_depends_on_the_lead_and_not_on_which_other_leads_are_there(data: xr.Dataset) -> None:
    training = data.isel(time=slice(0, 100))
    whole = scored(forecast(data, 1, 4), data, training)
    np.testing.assert_allclose(
        whole.sel(forecast="surrogate", variable="tas", metric="rmse"), [0.1, 0.2, 0.3, 0.4], rtol=1e-3
    )
    some = scored(forecast(data, 1, 4).isel(lead_time=[1, 3]), data, training)
    xr.testing.assert_allclose(some, whole.isel(lead_time=[1, 3]))
    coarse = scored(forecast(data, 2, 2), data, training)
    xr.testing.assert_allclose(coarse, whole.isel(lead_time=[1, 3]))


def test_training_that_is_too_coarse_or_has_seen_the_truth_is_refused(data: xr.Dataset) -> None:
    made = forecast(data, 1, 2)
    with pytest.raises(sg.UserError, match="P1D is not a whole number of time steps of P2D"):
        scored(made, data, data.isel(time=slice(0, 100, 2)))
    with pytest.raises(sg.UserError, match="training and the forecast share 11 times"):
        scored(made, data, data)


def test_a_metric_of_ones_own(data: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from surrogate.metrics import base

    monkeypatch.setattr(base, "_METRICS", dict(base._METRICS))

    @base.register_metric("normalised_mean_bias")
    class NormalisedMeanBias:
        name = "normalised_mean_bias"

        def statistics(self, prediction, target, climatology, weights):  # type: ignore[no-untyped-def]
            error, size = weights * (prediction - target), weights * np.abs(target)
            return {"error": error.sum((0, 1, 2)), "size": size.sum((0, 1, 2))}

        def finalize(self, sums):  # type: ignore[no-untyped-def]
            return sums["error"] / sums["size"]

    scores = sg.score(forecast(data, 1, 2), data, metrics=["normalised_mean_bias"])["score"].sel(variable="tas")
    np.testing.assert_allclose(scores.squeeze(), np.array([0.1, 0.2]) / 280, rtol=2e-3)
