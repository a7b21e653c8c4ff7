"""The base of a step: linear inverse model of the leading patterns, damped persistence of the rest."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import surrogate as sg
from surrogate.cli import load_experiment
from surrogate.core.durations import Duration
from surrogate.core.spec import Grid, Spec, Variable
from surrogate.core.types import UserError
from surrogate.data.normalize import Normalizer, fit_normalizer
from surrogate.data.settings import SplitConfig
from surrogate.data.source import MemorySource, Timeline
from surrogate.data.splits import make_splits
from surrogate.data.step_base import StepBase
from surrogate.domains.forecast import base_step
from surrogate.run.loop import run_training

GRID = Grid((-60.0, -20.0, 20.0, 60.0), tuple(float(x) for x in range(0, 360, 45)))


def fitted(fields: np.ndarray, kind: str, horizon: int = 2) -> Normalizer:
    """The normaliser of (T, H, W) daily fields, all of them for training."""
    time = np.datetime64("2000-01-01", "ns") + np.arange(len(fields)) * np.timedelta64(1, "D")
    line = Timeline("a.nc", time, np.zeros(len(time), int), np.zeros(len(time), int), ("a.nc",))
    spec = Spec((Variable("t", "prognostic", "K"),), GRID, Duration(seconds=86400))
    empty = np.zeros((*fields.shape, 0), np.float32)
    arrays = {"prognostic": fields[..., None].astype(np.float32), "diagnostic": empty, "forcing": empty}
    source = MemorySource(spec, (line,), [arrays], np.zeros((*GRID.shape, 0), np.float32))
    splits = make_splits((line,), ("all",), SplitConfig((0.0, 1.0), None, None))
    return fit_normalizer(source, splits, rollout=horizon, base=kind)


def spiral(times: int, decay: float, angle: float, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Two patterns that turn into each other: x(t) = Re(aᵗ (p + i q)), driven by noise; (T, 4, 8)."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(size=(2, *GRID.shape))
    state, out = 1.0 + 0j, []
    for _ in range(times):
        out.append((state * (p + 1j * q)).real)
        state = state * decay * np.exp(1j * angle) + noise * (rng.normal() + 1j * rng.normal())
    return np.array(out)


def base_of(normalizer: Normalizer) -> StepBase:
    assert normalizer.base is not None
    return normalizer.base


def test_two_patterns_that_turn_are_forecast_exactly() -> None:
    # Five whole periods: the mean that normalisation subtracts is the constant alone.
    fields = spiral(100, 1.0, 2 * np.pi / 20) + 3
    normalizer = fitted(fields, "linear_inverse_model", horizon=4)
    base = base_of(normalizer)
    states = normalizer.normalize("prognostic", fields[..., None].astype(np.float32))
    forecast = states[:1]
    for t in range(1, 20):
        forecast = base.step(forecast)
        assert np.abs(forecast - states[t]).max() < 1e-3, t


def test_the_propagator_has_the_eigenvalues_of_the_process() -> None:
    normalizer = fitted(spiral(6000, 0.95, 0.4, noise=0.3), "linear_inverse_model", horizon=4)
    values = np.linalg.eigvals(base_of(normalizer).propagator.astype(np.float64))
    leading = values[np.argsort(-np.abs(values))[:2]]
    # A regression on 6,000 steps of this process knows its eigenvalue to about (1 − 0.95²)^½ / 6000^½ = 0.004.
    np.testing.assert_allclose(np.abs(leading), 0.95, atol=0.015)
    np.testing.assert_allclose(np.abs(np.angle(leading)), 0.4, atol=0.015)


def test_noise_that_no_pattern_shares_is_left_to_damped_persistence() -> None:
    rng = np.random.default_rng(1)
    fields = np.zeros((600, *GRID.shape))
    for t in range(1, 600):
        fields[t] = 0.8 * fields[t - 1] + rng.normal(size=GRID.shape)
    both = [base_of(fitted(fields, kind)) for kind in ("linear_inverse_model", "damped_persistence")]
    assert len(both[0].patterns) == 0
    np.testing.assert_array_equal(both[0].memory, both[1].memory)
    np.testing.assert_allclose(both[1].memory.mean(), 0.8, atol=0.02)
    x = fields - fields.mean()
    expected = np.clip((x[1:] * x[:-1]).sum(0) / (x[:-1] ** 2).sum(0), 0, 1)
    np.testing.assert_allclose(both[1].memory[..., 0], expected, atol=2e-3)


def test_no_pattern_grows() -> None:
    growing = spiral(120, 1.02, 0.3, noise=0.01)
    base = base_of(fitted(growing, "linear_inverse_model"))
    assert len(base.patterns)
    assert np.abs(np.linalg.eigvals(base.propagator.astype(np.float64))).max() <= 1 + 1e-5


def test_projection_and_patterns_are_dual_and_the_compiled_step_is_the_plain_one() -> None:
    normalizer = fitted(spiral(300, 0.97, 0.3, noise=0.2), "linear_inverse_model")
    base = base_of(normalizer)
    k = len(base.patterns)
    np.testing.assert_allclose(np.einsum("khwp,lhwp->kl", base.projection, base.patterns), np.eye(k), atol=1e-4)
    state = np.random.default_rng(0).normal(size=(3, *GRID.shape, 1)).astype(np.float32)
    arrays = jax.tree.map(jnp.asarray, base.arrays())
    np.testing.assert_allclose(jax.jit(base_step)(arrays, state), base.step(state), rtol=1e-4, atol=1e-5)
    again = Normalizer.from_arrays(normalizer.spec, normalizer.arrays()).base
    assert again is not None
    np.testing.assert_array_equal(again.step(state), base.step(state))


def test_a_record_too_short_to_choose_from_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"data\.base=linear_inverse_model needs a longer training split"):
        fitted(spiral(8, 0.97, 0.3), "linear_inverse_model", horizon=3)


@pytest.mark.slow
def test_a_surrogate_keeps_its_base(tiny_settings: list[str], waves_file: Path, tmp_path: Path) -> None:
    import xarray as xr

    settings = [*tiny_settings, f"run.dir={tmp_path / 'run'}", "data.base=linear_inverse_model", "train.steps=4"]
    summary = run_training(load_experiment("", settings), quiet=True).summary
    model = sg.load(tmp_path / "run")
    data = xr.open_dataset(waves_file)
    scores = sg.score(model.rollout(data.isel(time=slice(96, 118)), lead_time="2D"), data, metrics=["rmse"])
    for key in ("tas", "psl"):
        got = float(scores["score"].sel(forecast="surrogate", variable=key, metric="rmse", lead_time="P2D"))
        assert got == pytest.approx(summary["scores"]["test"][key]["rmse"]["P2D"], rel=2e-4)
    # Waves that travel are forecast by their patterns from the first step of training.
    damped = summary["baselines"]["damped_persistence"]["tas"]["rmse"]["P1D"]
    assert summary["scores"]["test"]["tas"]["rmse"]["P1D"] < 0.8 * damped
