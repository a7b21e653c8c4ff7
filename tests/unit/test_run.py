"""A whole small run through the command line's own path: files, resumption, faults, bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import xarray as xr

import surrogate as sg
from surrogate.cli import load_experiment
from surrogate.core.types import UserError
from surrogate.run.loop import run_training
from surrogate.run.surrogate_files import load


@pytest.fixture(scope="module")
def finished(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run") / "a"
    experiment = load_experiment("", [*tiny_settings, f"run.dir={directory}", "evaluate.rollout=40D"])
    assert run_training(experiment, quiet=True).status == "complete"
    return directory


def weights(directory: Path) -> dict[str, bytes]:
    from surrogate.run.artefact import decode_tensors, read_artefact

    tensors = decode_tensors(read_artefact(directory / "model")[1]["weights.safetensors"])
    return {name: value.tobytes() for name, value in tensors.items()}


@pytest.mark.slow
def test_a_run_leaves_what_the_design_promises(finished: Path) -> None:
    for name in (
        "config.yaml",
        "summary.json",
        "metrics.jsonl",
        "provenance.json",
        "report.html",
        "model/manifest.json",
    ):
        assert (finished / name).is_file(), name
    assert list((finished / "plots").glob("*.png"))
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["status"] == "complete"
    assert summary["steps"] == 12
    assert set(summary["baselines"]) == {"persistence", "climatology", "damped_persistence", "linear_inverse_model"}
    for scores in (summary["scores"]["test"], *summary["baselines"].values()):
        assert set(scores) == {"tas", "psl"}
        assert set(scores["tas"]["rmse"]) == {"P1D", "P2D"}
        assert all(0 < v < 1e5 for v in scores["psl"]["rmse"].values())
    assert summary["rollout"]["length"] == "P40D"
    assert summary["rollout"]["variables"]["tas"]["first_nonfinite"] is None
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == [2, 4, 6, 8, 10, 12]
    assert all(np.isfinite(r["loss"]) for r in rows if "loss" in r)
    provenance = json.loads((finished / "provenance.json").read_text())
    assert len(provenance["data"][0]["sha256"]) == 64


def test_persistence_is_scored_as_an_independent_computation(finished: Path, waves_file: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    with xr.open_dataset(waves_file) as data:
        values, lat = data["tas"].values.astype(np.float64), data["latitude"].values
    area = np.diff(np.sin(np.deg2rad(np.linspace(-90, 90, len(lat) + 1))))
    for steps, lead in ((1, "P1D"), (2, "P2D")):
        start = np.arange(96, 120 - 2)  # the last fifth, with room for the longest lead
        error = (values[start] - values[start + steps]) ** 2
        expected = np.sqrt(np.average(error.mean((0, 2)), weights=area))
        assert summary["baselines"]["persistence"]["tas"]["rmse"][lead] == pytest.approx(expected, rel=1e-5)


def test_the_surrogates_score_follows_from_its_own_rollout(finished: Path, waves_file: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    model = load(finished)
    data = xr.open_dataset(waves_file)
    forecast = model.rollout(data.isel(time=slice(96, 118)), lead_time="2D")
    scores = sg.score(forecast, data, metrics=["rmse"], baselines=["persistence"])
    for name, table in (("surrogate", summary["scores"]["test"]), ("persistence", summary["baselines"]["persistence"])):
        for key in ("tas", "psl"):
            for lead in ("P1D", "P2D"):
                got = float(scores["score"].sel(forecast=name, variable=key, metric="rmse", lead_time=lead))
                assert got == pytest.approx(table[key]["rmse"][lead], rel=2e-4), (name, key, lead)


@pytest.mark.slow
def test_a_run_interrupted_and_resumed_ends_with_the_same_bits(
    finished: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    from surrogate.run import loop

    directory = tmp_path / "b"
    experiment = load_experiment("", [*tiny_settings, f"run.dir={directory}"])

    class Killed(BaseException):
        pass

    original = loop._Run._log

    def fail_at_step_ten(self, pending, schedule):  # type: ignore[no-untyped-def]
        original(self, pending, schedule)
        if pending[0] >= 8:
            raise Killed

    loop._Run._log = fail_at_step_ten  # type: ignore[method-assign]
    try:
        with pytest.raises(Killed):
            run_training(experiment, quiet=True)
    finally:
        loop._Run._log = original  # type: ignore[method-assign]
    assert not (directory / "model").exists()
    assert run_training(experiment, quiet=True).status == "complete"
    assert weights(directory) == weights(finished)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in rows if "loss" in r]
    assert steps == sorted(set(steps))
    events = [e["event"] for e in json.loads((directory / "provenance.json").read_text())["history"]]
    assert events == ["resume", "complete"]


def test_resuming_with_other_settings_is_refused(finished: Path, tiny_settings: list[str]) -> None:
    experiment = load_experiment("", [*tiny_settings, f"run.dir={finished}", "optim.learning_rate=0.1"])
    with pytest.raises(UserError, match=r"other settings \(optim\.learning_rate\)"):
        run_training(experiment, quiet=True)


@pytest.mark.slow
def test_a_command_that_is_mended_may_use_its_directory_again(tiny_settings: list[str], tmp_path: Path) -> None:
    wrong, right = (
        load_experiment("", [*tiny_settings, *words, f"run.dir={tmp_path}", "train.steps=4"])
        for words in (["data.variables=[tas,pls]"], [])
    )
    with pytest.raises(UserError, match="pls"):
        run_training(wrong, quiet=True)
    assert (tmp_path / "config.yaml").exists()
    assert run_training(right, quiet=True).status == "complete"
    assert "pls" not in (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"other settings \(data\.variables\)"):
        run_training(wrong, quiet=True)


@pytest.mark.slow
def test_another_seed_gives_other_weights(finished: Path, tiny_settings: list[str], tmp_path: Path) -> None:
    experiment = load_experiment("", [*tiny_settings, f"run.dir={tmp_path / 'c'}", "train.seed=1"])
    run_training(experiment, quiet=True)
    assert weights(tmp_path / "c") != weights(finished)


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_the_whole_batch(tiny_settings: list[str], tmp_path: Path) -> None:
    losses = []
    for parts in (1, 4):
        directory = tmp_path / str(parts)
        settings = [*tiny_settings, f"run.dir={directory}", f"train.accumulate={parts}", "train.steps=4"]
        run_training(load_experiment("", settings), quiet=True)
        rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        losses.append([r["loss"] for r in rows if "loss" in r])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


@pytest.mark.slow
def test_nonfinite_updates_are_skipped_counted_and_end_the_run_when_they_persist(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    from surrogate.run.batches import Batches

    original = Batches.train

    def poisoned(steps: set[int]):  # type: ignore[no-untyped-def]
        def train(self, step):  # type: ignore[no-untyped-def]
            batch = original(self, step)
            if step in steps:
                batch["target"] = jax.device_put(np.full(batch["target"].shape, np.nan, np.float32))
            return batch

        return train

    settings = [*tiny_settings, "train.valid_every=100", "train.max_nonfinite=3"]
    try:
        Batches.train = poisoned({3, 5})  # type: ignore[method-assign]
        result = run_training(load_experiment("", [*settings, f"run.dir={tmp_path / 'some'}"]), quiet=True)
        rows = [json.loads(line) for line in (tmp_path / "some" / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1].get("skipped", rows[-2].get("skipped")) == 2
        assert result.status == "complete"
        Batches.train = poisoned(set(range(4, 12)))  # type: ignore[method-assign]
        with pytest.raises(UserError, match="updates in a row"):
            run_training(load_experiment("", [*settings, f"run.dir={tmp_path / 'all'}"]), quiet=True)
        Batches.train = poisoned({3})  # type: ignore[method-assign]
        with pytest.raises(UserError, match="nonfinite=stop"):
            run_training(
                load_experiment("", [*settings, f"run.dir={tmp_path / 'stop'}", "train.nonfinite=stop"]), quiet=True
            )
    finally:
        Batches.train = original  # type: ignore[method-assign]


def test_a_second_run_in_one_directory_is_refused(tiny_settings: list[str], tmp_path: Path) -> None:
    from surrogate.run.lock import RunLock

    with RunLock(tmp_path), pytest.raises(UserError, match=str(os.getpid())):
        run_training(load_experiment("", [*tiny_settings, f"run.dir={tmp_path}"]), quiet=True)


def command(settings: list[str], *words: str) -> list[str]:
    return [sys.executable, "-m", "surrogate.train", *settings, *words]


@pytest.mark.slow
def test_sigterm_saves_and_leaves_with_75_and_the_same_command_ends_with_the_same_bits(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    directory = tmp_path / "s"
    settings = [*tiny_settings, "train.steps=1500", "train.checkpoint_every=100000", "train.valid_every=100000"]
    words = command(settings, f"run.dir={directory}")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    rows = directory / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (rows.exists() and rows.read_text().count("\n") > 20):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 75, output
    assert time.monotonic() - began < 30
    assert json.loads((directory / "summary.json").read_text())["status"] == "stopped"
    assert subprocess.run(words, capture_output=True, timeout=300).returncode == 0
    whole = tmp_path / "whole"
    assert subprocess.run(command(settings, f"run.dir={whole}"), capture_output=True, timeout=300).returncode == 0
    assert weights(directory) == weights(whole)


BAD = [
    (["train.stepz=5"], "train.stepz is not a setting; did you mean train.steps?"),
    (["trian.steps=5"], "trian is not a setting; did you mean train?"),
    (["train.steps=many"], "train.steps='many' must be a whole number"),
    (["train.steps=0"], "steps=0 must be positive"),
    (["model=unett"], "model=unett does not exist; there are"),
    (["+experiment=climat"], "experiment=climat does not exist; there are climate"),
    (["data.variables=[tass]"], "'tass'"),
    (["data.variables=[]"], "data.variables is empty"),
    (["data.leads=[7h]"], "PT7H is not a whole number of time steps of P1D"),
    (["data.leads=[soon]"], "'soon' is not a duration"),
    (["data.split.test=[2030,2031]"], "data.split.test=[2030, 2031] selects no time"),
    (["data.split.test=[0.5,0.9]"], "data.split leaks: train and test share"),
    (["data.time_step=36h"], "is not a whole number of time steps of P1D"),
    (["data.paths=[/nowhere/at/all.nc]"], "/nowhere/at/all.nc"),
    (["data.region={latitude:[80.1,80.2]}"], "latitude"),
    (["train.loss.variables={tos:2}"], "train.loss.variables names 'tos'"),
    (["train.batch_size=5", "train.accumulate=2"], "batch_size=5 is not a multiple of accumulate=2"),
    (["evaluate.metrics=[rmsee]"], "rmsee"),
    (["run.dir=/proc/surrogate"], "/proc/surrogate"),
    (["domain=fileds"], "domain 'fileds' does not exist; there are atoms, fields"),
    (["train.curriculum=[{start:0.5,rollout:1}]"], "curriculum must begin with start: 0"),
    (["data.history=60"], "gap-free window"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(w) for w, _ in BAD])
def test_a_mistake_is_one_sentence(words: list[str], message: str, tiny_settings: list[str], tmp_path: Path) -> None:
    own = [] if any(w.startswith("run.dir") for w in words) else [f"run.dir={tmp_path / 'x'}"]
    name = ""
    if words[0].startswith("+experiment"):
        name, words = words[0].partition("=")[2], []
    with pytest.raises(UserError) as caught:
        run_training(load_experiment(name, [*tiny_settings, *own, *words]), quiet=True)
    text = str(caught.value)
    assert message in text
    assert "\n" not in text


def test_a_model_of_atoms_is_refused_for_fields(tiny_settings: list[str], tmp_path: Path) -> None:
    words = [w for w in tiny_settings if not w.startswith("model")]
    experiment = load_experiment("", [*words, f"run.dir={tmp_path / 'x'}", "model.name=descriptor"])
    with pytest.raises(UserError, match="model 'descriptor' takes atoms; for gridded fields there are unet"):
        run_training(experiment, quiet=True)


@pytest.mark.slow
def test_the_command_line_prints_one_line_and_exits_with_2(tiny_settings: list[str]) -> None:
    result = subprocess.run(command(tiny_settings, "train.stepz=5"), capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr.strip() == "error: train.stepz is not a setting; did you mean train.steps?"
    shown = subprocess.run(
        command(tiny_settings, "train.stepz=5", "traceback=true"), capture_output=True, text=True, timeout=120
    )
    assert "Traceback" in shown.stderr


def test_units_that_do_not_match_at_rollout_are_refused(finished: Path, waves_file: Path) -> None:
    model = load(finished)
    data = xr.open_dataset(waves_file).isel(time=slice(0, 1)).load()
    celsius = data.copy()
    celsius["tas"] = (data["tas"] - 273.15).assign_attrs(units="degC")
    with pytest.raises(UserError, match="'tas' is in 'degC', the model was trained on 'K'"):
        model.rollout(celsius, lead_time="1D")
    with pytest.raises(UserError, match=r"PT7H is not a whole number of time steps of P1D"):
        model.rollout(data, lead_time="7h")
    with pytest.raises(UserError, match="no variable 'psl'"):
        model.rollout(data[["tas"]], lead_time="1D")
    with pytest.raises(UserError, match="the model's grid is 8 × 16"):
        model.rollout(data.isel(latitude=slice(0, 4)), lead_time="1D")
    broken = data.copy(deep=True)
    broken["tas"][0, 2, 3] = np.nan
    with pytest.raises(UserError, match=r"'tas' is nan at 2001-01-01.*latitude -33\.75, longitude 67\.5"):
        model.rollout(broken, lead_time="1D")


def test_rollout_does_not_depend_on_the_order_of_coordinates(finished: Path, waves_file: Path) -> None:
    model = load(finished)
    data = xr.open_dataset(waves_file).isel(time=slice(0, 2)).load()
    expected = model.rollout(data, lead_time="2D")
    flipped = data.isel(latitude=slice(None, None, -1))
    flipped = flipped.assign_coords(longitude=((flipped.longitude + 180) % 360) - 180).sortby("longitude")
    flipped["longitude"].attrs.update(data["longitude"].attrs)
    xr.testing.assert_equal(model.rollout(flipped, lead_time="2D"), expected)
    assert expected.sizes == {"init_time": 2, "lead_time": 2, "latitude": 8, "longitude": 16}
    assert expected["valid_time"].values[1, 1] == np.datetime64("2001-01-04")


def test_golden_vectors_reproduce(finished: Path) -> None:
    from surrogate.run.artefact import read_artefact
    from surrogate.run.surrogate_files import decode_netcdf

    golden = decode_netcdf(read_artefact(finished / "model")[1]["golden.nc"])
    model = load(finished)
    from flax import nnx

    network = nnx.merge(model.graphdef, model.params)
    outputs = network(golden["state"], golden["forcing"], golden["static"])
    np.testing.assert_allclose(outputs, golden["outputs"], rtol=1e-4, atol=1e-6)


def test_a_damaged_surrogate_is_not_loaded(finished: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(finished / "model", copy)
    content = bytearray((copy / "weights.safetensors").read_bytes())
    content[-5] ^= 1
    (copy / "weights.safetensors").write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"weights\.safetensors"):
        load(copy)


def test_importing_is_light() -> None:
    code = "import sys, surrogate; assert not {'jax', 'xarray', 'flax', 'hydra'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, env=os.environ).returncode == 0


def test_no_transfer_hides_in_the_loop(finished: Path) -> None:
    # The run of this module went through jax.transfer_guard("disallow"); the guard must be one that bites.
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match=r"[Dd]isallowed"):
        jax.numpy.zeros(3) + np.ones(3)


@pytest.mark.slow
def test_a_forecast_from_a_forcing_that_is_missing_is_refused(
    tiny_settings: list[str], waves_file: Path, tmp_path: Path
) -> None:
    settings = [*tiny_settings, f"run.dir={tmp_path / 'run'}", "data.variables=[tas]", "data.forcings=[psl]",
                "train.steps=2", "evaluate.max_samples=4"]  # fmt: skip
    run_training(load_experiment("", settings), quiet=True)
    model = load(tmp_path / "run")
    data = xr.open_dataset(waves_file).load().isel(time=slice(0, 4))
    forecast = model.rollout(data.isel(time=slice(0, 1)), lead_time="2D", forcings=data)
    assert np.isfinite(forecast["tas"]).all()
    data["psl"][2, 3, 5] = np.nan
    with pytest.raises(UserError, match=r"forcings: 'psl' is nan at 2001-01-03.*latitude -11\.25, longitude 112\.5"):
        model.rollout(data.isel(time=slice(0, 1)), lead_time="2D", forcings=data)
