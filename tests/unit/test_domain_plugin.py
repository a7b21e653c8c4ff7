"""A domain and a model of a user's own, trained from their directory with nothing of the repository edited."""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import surrogate as sg

PLUGIN = Path(__file__).parents[1] / "plugin"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example in a directory of its own, whose module can be imported."""
    shutil.copytree(PLUGIN, tmp_path / "plugin", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    for name in ("lorenz96", "two_convolutions"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "plugin"


def experiment(plugin: Path, *overrides: str) -> sg.Experiment:
    words = ["train.batch_size=32", "train.log_every=50", f"run.dir={plugin.parent / 'run'}", *overrides]
    return sg.load_experiment("lorenz96", words, config_dir=plugin / "conf")


@pytest.mark.slow
def test_a_domain_of_ones_own_trains_scores_and_loads(plugin: Path) -> None:
    surrogate = sg.fit(experiment(plugin, "train.steps=300", "train.ema=0.9"), quiet=True)
    import lorenz96

    truth = lorenz96.simulate(lorenz96.Data(states=100, seed=7))
    error = np.sqrt(np.mean((surrogate.step(truth[:-1]) - truth[1:]) ** 2))
    persistence = np.sqrt(np.mean((truth[:-1] - truth[1:]) ** 2))
    assert error < 0.5 * persistence
    again = sg.load(plugin.parent / "run", domain=lorenz96.Lorenz96)
    np.testing.assert_array_equal(again.step(truth), surrogate.step(truth))
    with pytest.raises(sg.UserError, match="domain 'lorenz96:Lorenz96' does not exist"):
        sg.load(plugin.parent / "run")  # loading never imports what a file names


@pytest.mark.slow
def test_the_command_line_finds_a_domain_in_a_directory_of_ones_own(plugin: Path) -> None:
    words = [sys.executable, "-m", "surrogate.train", "--config-dir", "conf", "+experiment=lorenz96"]
    environment = {**os.environ, "PYTHONPATH": str(Path(sg.__file__).parents[1])}
    done = subprocess.run(
        [*words, "train.steps=20", "run.dir=run"],
        cwd=plugin, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "persistence" in done.stdout
    assert (plugin / "run" / "model" / "manifest.json").is_file()


@pytest.mark.slow
def test_a_field_model_of_ones_own_trains_and_loads(
    plugin: Path, tiny_settings: list[str], waves_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [s for s in tiny_settings if not s.startswith("model")]
    run = plugin.parent / "fields"
    words = [*settings, "model=two_convolutions", "model.width=8", "train.steps=2", f"run.dir={run}"]
    surrogate = sg.fit(sg.load_experiment("", words, config_dir=plugin / "conf"), quiet=True)
    import two_convolutions

    monkeypatch.setattr("surrogate.models.base._CHOSEN", {})  # another process, in which nobody chose the class
    with pytest.raises(sg.UserError, match=r"hand its class to surrogate\.load"):
        sg.load(run)
    again = sg.load(run, model=two_convolutions.TwoConvolutions)
    with xr.open_dataset(waves_file) as data:
        state = data.isel(time=[0]).load()
    xr.testing.assert_equal(again.rollout(state, lead_time="2D"), surrogate.rollout(state, lead_time="2D"))


def test_settings_of_the_domain_and_model_are_checked_by_name(plugin: Path) -> None:
    with pytest.raises(sg.UserError, match=r"data\.site is not a setting; did you mean data\.sites\?"):
        experiment(plugin, "data.site=5")
    with pytest.raises(sg.UserError, match=r"model\.width='wide' must be a whole number"):
        experiment(plugin, "model.width=wide")
    with pytest.raises(sg.UserError, match=r"data: needs at least 4 sites"):
        experiment(plugin, "data.sites=3")
    with pytest.raises(sg.UserError, match=r"domain 'lorenz97:Lorenz' cannot be imported"):
        experiment(plugin, "domain='lorenz97:Lorenz'")
    with pytest.raises(sg.UserError, match=r"domain 'lorenz96:Net' is not a subclass of surrogate\.Domain"):
        experiment(plugin, "domain='lorenz96:Net'")
    with pytest.raises(sg.UserError, match=r"model 'lorenz96:simulate' is not an nnx\.Module class"):
        experiment(plugin, "model.name='lorenz96:simulate'")


def test_check_domain_passes_an_honest_domain(plugin: Path) -> None:
    import lorenz96

    sg.testing.check_domain(lorenz96.Lorenz96(experiment(plugin)))


def test_check_domain_catches_dishonest_ones(plugin: Path) -> None:
    import lorenz96

    class Leaking(lorenz96.Lorenz96):
        def open(self) -> None:
            super().open()
            self.parts["test"] = np.concatenate([self.parts["train"][-150:], self.parts["test"]])

    class Restless(lorenz96.Lorenz96):
        noise = np.random.default_rng(0)

        def batch(self, split, indices, stage):  # type: ignore[no-untyped-def]
            batch = super().batch(split, indices, stage)
            return batch | {"state": batch["state"] + self.noise.normal(size=batch["state"].shape).astype("f4")}

    class Entangled(lorenz96.Lorenz96):
        def batch(self, split, indices, stage):  # type: ignore[no-untyped-def]
            batch = super().batch(split, indices, stage)
            return batch | {"state": batch["state"] - batch["state"].mean()}

    class Missing(lorenz96.Lorenz96):
        def batch(self, split, indices, stage):  # type: ignore[no-untyped-def]
            batch = super().batch(split, indices, stage)
            return batch | {"target": np.where(batch["target"] > 0, np.nan, batch["target"])}

    class Idle(lorenz96.Lorenz96):
        def loss(self, model, constants, batch, key, stage):  # type: ignore[no-untyped-def]
            return (batch["state"] ** 2).mean(), {}

    for domain, message in (
        (Leaking, "the splits leak"),
        (Restless, "must be deterministic"),
        (Entangled, "depends on the others"),
        (Missing, "not finite"),
        (Idle, "does not depend on the parameters"),
    ):
        with pytest.raises(AssertionError, match=message):
            sg.testing.check_domain(domain(experiment(plugin)))
