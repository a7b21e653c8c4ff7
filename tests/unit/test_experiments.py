"""The shipped experiments on the real data they name, for a few steps: wiring, masks, leads, indices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surrogate.cli import conf_directory, load_experiment
from surrogate.core.types import UserError
from surrogate.domains.fields import Fields
from surrogate.run.loop import run_training


@pytest.mark.parametrize("name", sorted(p.stem for p in (conf_directory() / "experiment").glob("*.yaml")))
def test_an_experiment_file_is_short_and_keeps_its_promise_in_its_header(name: str) -> None:
    lines = (conf_directory() / "experiment" / f"{name}.yaml").read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    assert len([line for line in lines if line and not line.startswith("#")]) <= 40
    assert any(f"+experiment={name}" in line for line in header), "the header states the command"
    load_experiment(name)


@pytest.mark.parametrize("name", ["sst", "emulator", "darcy"])
def test_absent_files_say_what_to_fetch(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist; get .*data\.root"):
        Fields(load_experiment(name, [f"data.root={tmp_path}"])).open()


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    return [f"run.dir={tmp_path / 'run'}", "train.steps=2", "train.batch_size=2", "evaluate.max_samples=8"]


@pytest.mark.slow
def test_sst_is_scored_as_anomalies_over_the_sea(shared_data: Path, small: list[str]) -> None:
    experiment = load_experiment("sst", [f"data.root={shared_data / 'ersst'}", *small, "evaluate.max_samples=400",
                                         "model=mlp", "model.hidden=8", "model.layers=1"])  # fmt: skip
    summary = run_training(experiment, quiet=True).summary
    # Published persistence and damped persistence, K: they leave out cells that are always frozen, 0.5 % of the error.
    published = {"persistence": (0.311, 0.512, 0.609), "damped_persistence": (0.309, 0.484, 0.555)}
    for name, values in published.items():
        for lead, value in zip(("P1M", "P3M", "P6M"), values, strict=True):
            # The published ones start before 2007 where the target lies in it; here both lie in it: 2 %.
            assert summary["baselines"][name]["sst"]["rmse"][lead] == pytest.approx(value, rel=0.02), (name, lead)
    index = summary["baselines"]["persistence"]["nino34"]["correlation"]
    for lead, value in (("P1M", 0.95), ("P3M", 0.70), ("P6M", 0.29)):
        assert index[lead] == pytest.approx(value, abs=0.06)
    assert np.isfinite(list(summary["scores"]["test"]["nino34"]["rmse"].values())).all()


@pytest.mark.slow
def test_the_emulator_is_tested_on_a_scenario_it_never_saw(shared_data: Path, small: list[str]) -> None:
    root = shared_data / "cmip6-access-esm1-5"
    domain = Fields(load_experiment("emulator", [f"data.root={root}", *small]))
    domain.open()
    for split in ("train", "valid"):
        used = {domain.source.timelines[n].name for n in np.unique(domain.samples(split, 0)[:, 0])}
        assert not any("1pctCO2" in name for name in used)
    tested = {domain.source.timelines[n].name for n in np.unique(domain.samples("test", 0)[:, 0])}
    assert all("1pctCO2" in name for name in tested)
    # 5.35 ln(1.01^n) W m-2, Myhre et al. 1998, in the last year of the test, the 80th: n = 79.
    number, index = domain.samples("test", 0)[-1]
    forcing = domain.source.read(int(number), np.array([index]))["forcing"][0, 0, 0, 0]
    assert forcing == pytest.approx(5.35 * 79 * np.log(1.01), rel=1e-5)


@pytest.mark.slow
def test_darcy_trains_and_moves_to_a_finer_grid(shared_data: Path, small: list[str], tmp_path: Path) -> None:
    from surrogate.run.evaluate_run import evaluate_run

    experiment = load_experiment(
        "darcy",
        [
            f"data.root={shared_data / 'pde'}",
            *small,
            "evaluate.max_samples=50",
            "train.steps=40",
            "train.batch_size=16",
        ],
    )
    result = run_training(experiment, quiet=True)
    coarse = result.summary["scores"]["test"]["y"]["relative_l2"]["PT0S"]
    # The mean field: 0.487 (published with the data).
    assert result.summary["baselines"]["climatology"]["y"]["relative_l2"]["PT0S"] == pytest.approx(0.487, abs=0.005)
    finer = evaluate_run(result.directory, experiment, on=(str(shared_data / "pde" / "darcy_test_32.npz"),), quiet=True)
    assert finer["scores"]["test"]["y"]["relative_l2"]["PT0S"] < 1.5 * coarse
    assert (result.directory / "report-darcy_test_32.html").is_file()
    drawn, first = (
        {path.name for path in (result.directory / name).iterdir()} for name in ("plots-darcy_test_32", "plots")
    )
    assert first - drawn == {"scorecard.png"}  # there is no baseline on the finer grid
    assert any(name.startswith("map_") for name in drawn)
    with pytest.raises(UserError, match="mlp"):
        other = load_experiment("darcy", [f"data.root={shared_data / 'pde'}", *small, f"run.dir={tmp_path / 'm'}",
                                          "model=mlp_global"])  # fmt: skip
        evaluate_run(run_training(other, quiet=True).directory, other,
                     on=(str(shared_data / "pde" / "darcy_test_32.npz"),), quiet=True)  # fmt: skip
