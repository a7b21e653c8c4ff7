"""Training on atoms through the command line's own path: batches, losses, ensembles, properties, stores, bad input."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from morse import make_frames, morse
import numpy as np
import pytest

import surrogate as sg
from surrogate.atomistic.predict import ModelPredictor
from surrogate.cli import load_experiment
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_ragged import write_ragged
from surrogate.domains.atoms import Atoms
from surrogate.domains.atoms_loss import atoms_loss
from surrogate.run.loop import run_training
from surrogate.run.surrogate_files import load


@pytest.fixture(scope="module", autouse=True)
def _own_potential() -> Iterator[None]:
    """The tiny potential of ``tests/plugin``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "plugin"))
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("atoms") / "alloy.nc"
    splits = {"train": make_frames(48), "valid": make_frames(9, 1), "test": make_frames(9, 2)}
    return write_ragged(path, splits)


@pytest.fixture(scope="module")
def settings(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    cache = tmp_path_factory.mktemp("xla")
    return [
        "data=atoms", "data.source=store", f"data.paths=[{store}]", "data.stress=stress", "data.cutoff=5.0",
        "model.name=two_body:TwoBody",
        "train.curriculum=[{start:0.0}]", "train.steps=300", "train.batch_size=6", "train.log_every=10", "train.valid_every=150", "train.checkpoint_every=100",
        "evaluate.crystals=[]", "evaluate.dynamics=0", f"run.compilation_cache={cache}",
    ]  # fmt: skip


def experiment_of(settings: list[str], *more: str) -> Any:
    return load_experiment("materials", [*settings, *more])


@pytest.fixture(scope="module")
def finished(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run") / "a"
    words = ["evaluate.crystals=[Cu-fcc]", "evaluate.dynamics=0.05", "model.name=descriptor", "model.channels=8",
             "model.correlation=2", "model.readout=8", "train.steps=60", "train.valid_every=30",
             "train.curriculum=[{start:0.0}]"]  # fmt: skip
    assert run_training(experiment_of(settings, *words, f"run.dir={directory}"), quiet=True).status == "complete"
    return directory


def loaded(directory: Path) -> Any:
    from two_body import TwoBody

    return load(directory, model=TwoBody)


def opened(settings: list[str], *more: str) -> Atoms:
    domain = Atoms(experiment_of(settings, *more))
    domain.open()
    return domain


def test_the_data_of_these_tests_are_derivatives_of_their_energy() -> None:
    frames = make_frames(3)
    for n in range(3):
        frame = frames[n]
        rng = np.random.default_rng(n)
        step = 1e-5 * rng.normal(size=frame.positions.shape)
        ends = [morse(frame.positions + s * step, frame.species, frame.cell[0], frame.pbc[0])[0] for s in (1, -1)]
        assert (ends[0] - ends[1]) / 2 == pytest.approx(-np.sum(frame.forces * step), rel=1e-4)


@pytest.mark.slow
def test_a_run_beats_its_baseline_and_leaves_what_the_design_promises(finished: Path) -> None:
    for name in ("summary.json", "report.html", "metrics.jsonl", "provenance.json", "model/manifest.json"):
        assert (finished / name).is_file(), name
    summary = json.loads((finished / "summary.json").read_text())
    found, baseline = summary["scores"]["test"], summary["baselines"]["constant_energy"]
    for key in ("energy_per_atom", "forces", "stress", "forces@Cu"):
        for metric in ("mae", "rmse"):
            assert found[key][metric] < 0.7 * baseline[key][metric], (key, metric)
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    valid = [r for r in rows if "valid_loss" in r]
    assert [r["step"] for r in valid] == [30, 60]
    assert valid[1]["valid_force_rmse"] < valid[0]["valid_force_rmse"]


def test_scores_follow_from_predictions_of_the_loaded_surrogate(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    test = make_frames(9, 2)
    found = load(finished).predict(test)
    expected = np.sqrt(np.mean((found.forces - test.forces) ** 2))
    assert summary["scores"]["test"]["forces"]["rmse"] == pytest.approx(expected, rel=1e-5)
    error = 1000 * (found.energy - test.energy) / test.row_size
    assert summary["scores"]["test"]["energy_per_atom"]["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
    per_atom = np.bincount(test.frame_of_atom, found.atom_energies, len(test))
    np.testing.assert_allclose(per_atom, found.energy, rtol=1e-6)


@pytest.mark.slow
def test_the_loss_is_what_its_docstring_says(settings: list[str]) -> None:
    domain = opened(settings, "train.loss.variables={energy:2.0,forces:3.0,stress:0.5}")
    graphdef, state = nnx.split(domain.build_model(nnx.Rngs(0)))
    indices, frames = np.array([0, 1, 2, 5, 7, 11]), domain.splits["train"]
    stage = (0, len(domain.ladder.rungs) - 1)
    value, logged = domain.loss(
        nnx.merge(graphdef, state), {}, domain.batch("train", indices, stage), jax.random.key(0), stage
    )
    chosen = frames[indices]
    found = ModelPredictor(graphdef, nnx.to_pure_dict(state), domain.meaning.geometry)(chosen)
    scale = np.sqrt(np.mean(frames.forces**2))
    energy = np.mean(((found.energy - chosen.energy) / chosen.row_size) ** 2)
    forces = np.mean((found.forces - chosen.forces) ** 2)
    there = chosen.has_stress
    volume = (chosen.volume / chosen.row_size)[there, None, None]
    virial = np.mean(((found.stress - chosen.stress)[there] * volume) ** 2)
    assert float(value) == pytest.approx((2 * energy + 3 * forces + 0.5 * virial) / scale**2, rel=1e-4)
    assert float(logged["force_rmse"]) == pytest.approx(np.sqrt(forces), rel=1e-4)
    assert float(logged["energy_rmse"]) == pytest.approx(1000 * np.sqrt(energy), rel=1e-3)


@pytest.mark.slow
def test_hubers_penalty_is_the_square_near_zero_and_linear_far_away(settings: list[str]) -> None:
    domain = opened(settings)
    model, stage = domain.build_model(nnx.Rngs(0)), (0, 0)
    batch = domain.batch("valid", np.arange(3), stage)
    square = atoms_loss(model, batch, 1.0, None, True)[0]
    assert float(atoms_loss(model, batch, 1.0, 1e3, True)[0]) == pytest.approx(float(square), rel=1e-6)
    narrow = [float(atoms_loss(model, batch, s, 1e-6, True)[0]) for s in (1.0, 2.0)]
    assert narrow[0] == pytest.approx(2 * narrow[1], rel=1e-3)


@pytest.mark.slow
def test_a_batch_in_parts_has_the_mean_of_their_losses(settings: list[str]) -> None:
    domain = opened(settings, "train.accumulate=2")
    model, stage = domain.build_model(nnx.Rngs(0)), (0, len(domain.ladder.rungs) - 1)
    batch = domain.batch("train", np.arange(6), stage)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(batch)} == {2}
    parts = [
        domain.loss(model, {}, jax.tree.map(lambda x, n=n: x[n : n + 1], batch), jax.random.key(0), stage)
        for n in (0, 1)
    ]
    assert np.isfinite([float(p[0]) for p in parts]).all()
    both = domain.loss(model, {}, batch, jax.random.key(0), stage)[1]["force_rmse"]
    sizes = [float(g.sum()) for g in batch["graph"].atom_mask]
    squares = [float(p[1]["force_rmse"]) ** 2 for p in parts]
    assert float(both) ** 2 == pytest.approx(np.average(squares, weights=sizes), rel=1e-4)


@pytest.mark.slow
def test_nothing_is_compiled_after_the_first_steps(settings: list[str], tmp_path: Path) -> None:
    """Programs are as many as the shapes that the run's batches take, all made before the loop."""
    experiment = experiment_of(settings, "train.steps=40", f"run.dir={tmp_path / 'run'}", "train.valid_every=1000")
    domain = opened(settings, "train.steps=40")
    programs = {domain.program(domain.stage(s)) for s in range(40)}
    assert 1 < len(programs) <= 4
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    run_training(experiment, quiet=True)
    total = len(compiled)
    compiled.clear()
    # Twice the steps need not one program more.
    more = experiment_of(settings, "train.steps=80", f"run.dir={tmp_path / 'more'}", "train.valid_every=1000")
    run_training(more, quiet=True)
    assert total > 0
    assert len(compiled) <= total


@pytest.mark.slow
def test_a_run_stopped_and_resumed_ends_with_the_same_bits(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surrogate.run import loop

    words = ["train.steps=12", "train.checkpoint_every=4"]
    run_training(experiment_of(settings, *words, f"run.dir={tmp_path / 'whole'}"), quiet=True)
    saved, original = [], loop._Run._save

    def save_then_die(self: Any, checkpoints: Any, step: int, state: Any) -> None:
        original(self, checkpoints, step, state)
        checkpoints.wait()
        saved.append(step)
        if step == 8 and saved.count(8) == 1:
            raise RuntimeError("pulled the plug")

    monkeypatch.setattr(loop._Run, "_save", save_then_die)
    cut = experiment_of(settings, *words, f"run.dir={tmp_path / 'cut'}")
    with pytest.raises(RuntimeError, match="plug"):
        run_training(cut, quiet=True)
    run_training(cut, quiet=True)
    a, b = loaded(tmp_path / "whole"), loaded(tmp_path / "cut")
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_an_ensemble_has_members_that_differ_and_spreads_that_are_calibrated(
    settings: list[str], tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    run_training(experiment_of(settings, "train.ensemble=3", "train.steps=30", f"run.dir={directory}"), quiet=True)
    model = loaded(directory)
    assert model.members == 3
    valid = make_frames(9, 1)
    found = model.predict(valid)
    assert found.force_spread is not None
    squares = np.mean((found.forces - valid.forces) ** 2, axis=1)
    there = (found.force_spread > 1e-5) | (squares > 1e-10)
    assert np.mean(squares[there] / found.force_spread[there] ** 2) == pytest.approx(1.0, rel=1e-3)
    # The mean of the members is the mean of what each says alone.
    each = [
        ModelPredictor(model.graphdef, jax.tree.map(lambda x, m=m: x[m], model.params), model.geometry)(valid).forces
        for m in range(3)
    ]
    assert np.abs(each[0] - each[1]).max() > 1e-3
    np.testing.assert_allclose(np.mean(each, axis=0), found.forces, atol=1e-5)


@pytest.mark.slow
def test_a_single_member_of_an_ensemble_is_the_run_alone(settings: list[str]) -> None:
    """Members do not touch each other: the first one's parameters after some steps are those of a run without others."""
    from surrogate.optim import make_optimizer
    from surrogate.run.step import initial_state, make_train_step

    domain = opened(settings, "train.ensemble=2")
    config, optimizer = domain.experiment.train, make_optimizer(domain.experiment.optim, 10)
    graphdef, first = nnx.split(domain.build_model(nnx.Rngs(0)))
    params = nnx.to_pure_dict(first)
    other = nnx.to_pure_dict(nnx.split(domain.build_model(nnx.Rngs(1)))[1])
    alone = experiment_of(settings).train
    single = initial_state(params, optimizer, alone)
    double = initial_state(jax.tree.map(lambda *x: jnp.stack(x), params, other), optimizer, config)
    stage = domain.stage(0)
    batch = domain.batch("train", np.arange(6), (0, len(domain.ladder.rungs) - 1))
    steps = [jax.jit(make_train_step(domain, graphdef, optimizer, c, stage)) for c in (alone, config)]
    for _ in range(3):
        single, _ = steps[0](single, {}, batch)
        double, _ = steps[1](double, {}, batch)
    for x, y in zip(jax.tree.leaves(single["params"]), jax.tree.leaves(double["params"]), strict=True):
        np.testing.assert_allclose(x, y[0], rtol=2e-4, atol=2e-6)


@pytest.mark.slow
def test_a_property_is_learnt_by_the_same_model(settings: list[str], tmp_path: Path) -> None:
    words = ["data.energy=null", "data.forces=null", "data.stress=null", "data.properties=[charm]", "data.pooling=mean"]
    directory = tmp_path / "run"
    run_training(
        experiment_of(settings, *words, "train.steps=80", "train.batch_size=3", f"run.dir={directory}"), quiet=True
    )
    summary = json.loads((directory / "summary.json").read_text())
    found = summary["scores"]["test"]["charm"]
    assert found["mae"] < 0.5 * summary["baselines"]["composition"]["charm"]["mae"]
    test = make_frames(9, 2)
    guess = loaded(directory).property_of(test)
    assert np.abs(guess - test.properties["charm"]).mean() == pytest.approx(found["mae"], rel=1e-4)
    # While it trains, the error is told under the property's name and in its units.
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    last = [row["valid_charm_rmse"] for row in rows if "valid_charm_rmse" in row][-1]
    valid = make_frames(9, 1)
    error = loaded(directory).property_of(valid) - valid.properties["charm"]
    assert last == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-3)
    with pytest.raises(UserError, match="property 'charm'"):
        loaded(directory).predict(test)


def test_weights_of_the_loss_follow_the_curriculum(settings: list[str]) -> None:
    domain = opened(
        settings, "train.curriculum=[{start:0.0,variables:{energy:0.1}},{start:0.5,variables:{energy:9.0,forces:0.5}}]"
    )
    assert domain.stage(0)[0] == 0
    assert domain.stage(299)[0] == 1
    first, last = (domain.batch("train", np.arange(6), (n, len(domain.ladder.rungs) - 1))["weights"][0] for n in (0, 1))
    np.testing.assert_allclose(first, [0.1, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(last, [9.0, 0.5, 1.0], rtol=1e-6)
    assert domain.program(domain.stage(0)) == domain.program((1, domain.stage(0)[1]))


def test_given_reference_energies_are_used(settings: list[str]) -> None:
    fitted = opened(settings).meaning.geometry.reference_energies
    given = opened(settings, "data.reference_energies={Cu:-3.5,Au:-2.0}").meaning.geometry.reference_energies
    assert given == (-3.5, -2.0)
    assert fitted != given
    with pytest.raises(UserError, match=r"reference_energies has no Au"):
        opened(settings, "data.reference_energies={Cu:-3.5}")


def test_the_domain_passes_the_checks_of_any_domain(settings: list[str]) -> None:
    sg.testing.check_domain(Atoms(experiment_of(settings)))


def test_what_prepare_writes_is_what_training_reads(settings: list[str], tmp_path: Path) -> None:
    from surrogate.run.prepare_store import prepare_store

    out = tmp_path / "again.nc"
    prepare_store(experiment_of(settings), str(out))
    one, two = opened(settings), opened(settings, f"data.paths=[{out}]")
    for name in ("train", "valid", "test"):
        np.testing.assert_array_equal(one.splits[name].positions, two.splits[name].positions)
        np.testing.assert_array_equal(one.splits[name].energy, two.splits[name].energy)


def test_an_element_that_was_not_trained_on_is_refused(finished: Path) -> None:
    frames = make_frames(2)
    strange = Frames(
        positions=frames.positions, species=np.full(frames.num_atoms, 47), cell=frames.cell, pbc=frames.pbc,
        row_size=frames.row_size,
    )  # fmt: skip
    with pytest.raises(UserError, match="element Ag was not in the training data, which have Cu, Au"):
        load(finished).predict(strange)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.name=unet"], "takes fields"),
        (["train.loss.variables={forcs:1.0}"], "energy, forces and stress, not of 'forcs'"),
        (["train.loss.variables={energy:-1.0}"], "weight of energy in the loss is -1.0"),
        (["train.loss.variables={energy:0,forces:0,stress:0}"], "nothing to learn"),
        (["data.stress=null", "train.loss.variables={stress:1.0}"], "weight for the stress, but the training data hold none"),
        (["train.loss.kind=relative_l2"], "for atoms there are mse and huber"),
        (["train.curriculum=[{start:0.0,rollout:3}]"], "atoms have no time step"),
        (["data.cutoff=0.1"], "cutoff=0.1 must lie between"),
        (["data.properties=[charm]"], "a run learns one property"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(words: list[str], message: str, settings: list[str]) -> None:
    with pytest.raises(UserError, match=message):
        opened(settings, *words)
