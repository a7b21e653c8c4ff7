"""Plans of real experiments: shapes without data, the compiled step, files, and the twin of the large experiment."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import xarray as xr
import yaml

from surrogate.cli import load_experiment
from surrogate.config import Experiment
from surrogate.core.types import UserError
from surrogate.data.declared import open_headers
from surrogate.domains.base import find_domain
from surrogate.domains.fields import Fields
from surrogate.planning.run import run_plan
from surrogate.planning.sweep import Candidate, _rules_out, meshes

SMALL = ["model=transformer", "model.channels=16", "model.layers=2", "model.heads=2", "model.scan=true", "model.remat=true",
         "train.curriculum=[{start: 0.0, rollout: 1}]"]  # fmt: skip


def shapes(tree: object) -> object:
    return jax.tree.map(lambda x: (tuple(x.shape), str(x.dtype)), tree)


def test_shapes_without_reading_are_those_of_the_opened_data(tiny_settings: list[str]) -> None:
    experiment = load_experiment("", tiny_settings)
    opened, planned = Fields(experiment), Fields(experiment)
    opened.open()
    assumed = planned.open_shapes()
    assert any("land mask" in text for text in assumed)
    assert planned.frame.geometry() == opened.frame.geometry()
    stage = opened.stage(experiment.train.steps - 1)
    batch = jax.tree.map(np.asarray, opened.batch("train", np.arange(2), stage))
    assert shapes(planned.batch_shapes(stage, 2)) == shapes(batch)
    assert shapes(jax.eval_shape(planned.constants)) == shapes(opened.constants())
    # The default of other domains reads one sample.
    assert shapes(super(Fields, opened).batch_shapes(stage, 2)) == shapes(batch)


def test_a_declared_grid_has_the_shapes_and_no_values() -> None:
    experiment = load_experiment("climate_10b")
    source, _ = open_headers(experiment.data)
    assert source.spec.grid.shape == (720, 1440)
    assert source.spec.grid.latitude[0] == pytest.approx(-89.75)
    assert source.spec.grid.latitude[-1] == 90
    assert source.spec.grid.has_poles
    assert len(source.spec.outputs) == 101
    with pytest.raises(UserError, match="declared, not at hand"):
        source.read(0, np.arange(2))
    with pytest.raises(UserError, match=r"data=declared describes data .* surrogate\.plan"):
        find_domain("fields")(experiment).open()
    with pytest.raises(UserError, match=r"data\.declared is empty"):
        open_headers(replace(experiment.data, declared={}))


def test_the_simulated_climate_is_planned_without_simulating_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURROGATE_CACHE", str(tmp_path))
    domain = Fields(load_experiment("climate"))
    domain.open_shapes()
    assert domain.spec.grid.shape == (32, 64)
    assert len(domain.spec.outputs) == 3 * 8 + 2  # the 26 variables of the experiment's promise
    assert "temperature@0.5625" in domain.spec.keys
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_plan_is_compiled_and_written(tiny_settings: list[str], tmp_path: Path) -> None:
    settings = [s for s in tiny_settings if not s.startswith("model")] + SMALL
    experiment = load_experiment(
        "", [*settings, "train.batch_size=4", "mesh.data=2", "mesh.fsdp=2", "mesh.lat=2", "plan.target=cpu:8",
             f"plan.out={tmp_path}"]
    )  # fmt: skip
    assert run_plan(experiment) == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (tmp_path / "plan.png").stat().st_size > 1000
    assert "Assumptions" in (tmp_path / "plan.txt").read_text()
    assert plan["mesh"] == {"data": 2, "fsdp": 2, "lat": 2, "lon": 1}
    (program,) = plan["programs"]
    assert program["memory"]["peak"] >= program["memory"]["arguments"] > 0
    # float32 parameters, of which each device has at least half and, of small ones, all
    assert 2 * plan["parameters"] <= program["memory"]["parameters"] <= 4 * plan["parameters"]
    domain = Fields(experiment)
    domain.open_shapes()
    assert program["flops"] == pytest.approx(3 * domain.flops() * 4 / 8)
    assert program["computed"] == pytest.approx(4 * domain.flops() * 4 / 8)
    axes = {a for row in program["traffic"] for a in row["axes"].split("+")}
    assert axes == {"data", "fsdp", "lat"}
    # Every layer exchanges along latitude, forward, again, and backward.
    counts = [row["count"] for row in program["traffic"] if row["kind"] == "all-to-all" and row["axes"] == "lat"]
    assert sum(counts) % 2 == 0
    assert sum(counts) >= 2 * 3


def test_what_does_not_divide_is_refused_before_compiling(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a plan that is not told where to write would begin its directory
    experiment = load_experiment("", [*tiny_settings, *SMALL, "mesh.data=3", "train.batch_size=4", "plan.target=cpu:3"])
    with pytest.raises(UserError, match=r"mesh\.data=3 does not divide the 4 samples"):
        run_plan(experiment)
    with pytest.raises(UserError, match="for what"):
        run_plan(load_experiment("", tiny_settings))


def test_meshes_of_a_search_use_all_devices() -> None:
    found = list(meshes(12))
    assert all(m["data"] * m["fsdp"] * m["lat"] * m["lon"] == 12 for m in found)
    assert len({tuple(m.values()) for m in found}) == len(found)
    assert {"data": 12, "fsdp": 1, "lat": 1, "lon": 1} in found
    assert not [m for m in found if m["lon"] > 1 and m["lat"] == 1]


@pytest.mark.slow
def test_a_plan_over_devices_and_a_search(tiny_settings: list[str], tmp_path: Path) -> None:
    """As the command runs them: every number of devices at the same work, and the search, which writes a mesh to use."""
    words = [
        *tiny_settings,
        "plan.target=cpu:2",
        "mesh.data=2",
        f"plan.out={tmp_path}",
        "train.curriculum=[{start: 0.0, rollout: 1}]",
    ]
    assert run_plan(load_experiment("", [*words, "plan.scale=[2,4]"])) == 0
    record = json.loads((tmp_path / "plan.json").read_text())
    assert [(p["devices"], p["batch_size"], p["mesh"]["data"]) for p in record["scale"]] == [(2, 4, 2), (4, 8, 4)]
    assert record["scale"][0]["compute"] == pytest.approx(record["scale"][1]["compute"])
    assert (tmp_path / "scale.png").stat().st_size > 1000
    assert "Over the number of devices" in (tmp_path / "plan.txt").read_text()

    assert run_plan(load_experiment("", [*words, "plan.sweep=true", "plan.sweep_limit=2"])) == 0
    record = json.loads((tmp_path / "plan.json").read_text())
    assert len(record["sweep"]) >= 2
    assert [c["best"] for c in record["sweep"]].count(True) == 1
    best = max(record["sweep"], key=lambda c: c.get("samples_per_s") or 0)
    assert best["best"]
    planned = yaml.safe_load((tmp_path / "mesh" / "planned.yaml").read_text())
    assert planned == record["mesh"]
    assert np.prod(list(planned.values())) == 2


def test_what_cannot_win_is_passed_over(tiny_settings: list[str]) -> None:
    def option(remat: bool, **mesh: int) -> Experiment:
        words = [f"mesh.{n}={s}" for n, s in mesh.items()]
        return load_experiment("", [*tiny_settings, *SMALL, f"model.remat={str(remat).lower()}", *words])

    def tried(fits: bool, experiment: Experiment) -> Candidate:
        return Candidate(experiment, plan=SimpleNamespace(fits=fits))  # type: ignore[arg-type]

    fitted, refused = tried(True, option(False, fsdp=4)), tried(False, option(True, fsdp=4, lat=2))
    assert _rules_out(fitted, option(True, fsdp=4))
    assert not _rules_out(fitted, option(True, fsdp=8))
    assert _rules_out(refused, option(True, fsdp=2, lat=2))
    assert _rules_out(refused, option(False, fsdp=4, lat=2))
    assert not _rules_out(refused, option(True, fsdp=8, lat=2))
    assert not _rules_out(refused, option(True, fsdp=2, lat=4))
    # Without recomputation it did not fit: with it, it may.
    assert not _rules_out(tried(False, option(False, fsdp=4)), option(True, fsdp=4))


@pytest.mark.slow
def test_the_twin_of_the_large_experiment_trains(tmp_path: Path) -> None:
    """climate_10b with a small model on a small grid of the same kind: odd rows with both poles, one left out."""
    from surrogate.run.loop import run_training

    file = tmp_path / "poles.nc"
    rng = np.random.default_rng(0)
    rows, columns, times = 17, 32, 80
    time = np.datetime64("2001-01-01", "ns") + np.arange(times) * np.timedelta64(6, "h")
    values = rng.normal(size=(times, rows, columns)).cumsum(0).astype("f4")
    dims = ("time", "latitude", "longitude")
    xr.Dataset(
        {"t2m": (dims, values, {"units": "K"}), "tp": (dims, values**2, {"units": "m"})},
        {
            "time": time,
            "latitude": ("latitude", np.linspace(-90, 90, rows), {"units": "degrees_north"}),
            "longitude": ("longitude", np.arange(columns) * 360 / columns, {"units": "degrees_east"}),
        },
    ).to_netcdf(file, engine="h5netcdf")
    experiment = load_experiment(
        "climate_10b",
        ["data=netcdf", f"data.paths=[{file}]", "data.variables=[t2m]", "data.diagnostics=[tp]", "data.statics=[]",
         "data.declared={}", "data.leads=[1D]", "model.channels=32", "model.layers=2", "model.heads=4", "train.batch_size=4",
         "train.steps=6", "train.log_every=1", "mesh.fsdp=1", "mesh.lat=1", "mesh.lon=1", "mesh.data=1", "evaluate.max_samples=4",
         f"run.dir={tmp_path / 'run'}", "data.region={latitude: [-89.9, 90]}"],
    )  # fmt: skip
    result = run_training(experiment, quiet=True)
    assert result.status == "complete"
    assert np.isfinite(result.summary["scores"]["test"]["t2m"]["rmse"]["P1D"])
