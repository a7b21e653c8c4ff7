"""Training, resuming and scoring through the run's own path on meshes of eight virtual devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from surrogate.cli import load_experiment
from surrogate.core.types import UserError
from surrogate.domains.base import find_domain
from surrogate.parallel.placement import Placement
from surrogate.run import loop
from surrogate.run.batches import Batches
from surrogate.run.checkpoint import Checkpoints

# 24 samples an update are divisible by 1, 2, 3, 4 and 8.
SETTINGS = [
    "model=transformer", "model.channels=16", "model.heads=2", "model.layers=1", "train.batch_size=24", "train.steps=8",
    "train.accumulate=1", "train.checkpoint_every=4", "train.valid_every=3", "train.log_every=1", "train.select=best",
    "train.curriculum=[{start:0.0,rollout:1},{start:0.75,rollout:2}]",
]  # fmt: skip
SAVED_ON = ["mesh.data=2", "mesh.fsdp=2"]


class Killed(BaseException):
    pass


@pytest.fixture
def settings(tiny_settings: list[str]) -> list[str]:
    return [s for s in tiny_settings if not s.startswith("model")] + SETTINGS


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The weights that a run would have scored and drawn; what follows training is tested elsewhere."""
    seen: dict[str, Any] = {}

    def publish(run: Any, graphdef: Any, params: Any, steps: int) -> dict:
        seen.update(params=jax.device_get(params), run=run)
        return {}

    monkeypatch.setattr(loop, "publish", publish)
    return seen


def train(settings: list[str], directory: Path, *mesh: str, kill_after: int = 0) -> None:
    experiment = load_experiment("", [*settings, f"run.dir={directory}", *mesh])
    original = loop._Run._log

    def log(self: Any, pending: Any, schedule: Any) -> None:
        original(self, pending, schedule)
        if kill_after and pending[0] >= kill_after:
            raise Killed

    loop._Run._log = log  # type: ignore[method-assign]
    try:
        loop.run_training(experiment, quiet=True)
    finally:
        loop._Run._log = original  # type: ignore[method-assign]


def losses(directory: Path) -> dict[int, float]:
    from surrogate.run.provenance import read_jsonl

    return {row["step"]: row["loss"] for row in read_jsonl(directory / "metrics.jsonl") if "loss" in row}


def begin(settings: list[str], directory: Path, *mesh: str) -> Any:
    """A run that has opened its data and not yet trained."""
    experiment = load_experiment("", [*settings, f"run.dir={directory}", *mesh])
    domain = find_domain("fields")(experiment)
    domain.placement = Placement.of(experiment.mesh)
    domain.open()
    run = loop._Run(experiment, directory, domain, loop.StopRequest(), quiet=True)
    run.optimizer = loop.make_optimizer(experiment.optim, experiment.train.steps)
    return run


def same_bits(one: Any, other: Any) -> bool:
    one, other = jax.device_get((one, other))
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_a_run_goes_on_bit_for_bit_on_its_mesh_and_with_the_same_state_on_others(
    settings: list[str], published: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger: list[list[int]] = []
    read = Batches.read

    def record(self: Batches, split: str, indices: np.ndarray, stage: Any) -> Any:
        if split == "train":
            ledger.append(sorted(indices.tolist()))
        return read(self, split, indices, stage)

    monkeypatch.setattr(Batches, "read", record)
    train(settings, tmp_path / "whole", *SAVED_ON)
    whole, whole_losses = published["params"], losses(tmp_path / "whole")
    order = ledger[-8:]  # before them is the batch that the program was compiled for
    assert sorted(whole_losses) == list(range(1, 9))

    with pytest.raises(Killed):
        train(settings, tmp_path / "cut", *SAVED_ON, kill_after=5)
    saved = tmp_path / "cut" / "checkpoints"
    states = {}
    for mesh in ([], ["mesh.data=2"], ["mesh.data=3"], ["mesh.fsdp=8"], ["mesh.lat=4", "mesh.lon=2"]):
        run = begin(settings, tmp_path / "cut", *mesh)
        checkpoints = Checkpoints(saved, keep=2)
        step, state, _ = checkpoints.restore_newest(run._create())  # type: ignore[misc]
        checkpoints.close()
        states[" ".join(mesh)] = state
        assert step == int(state["step"]) == 4
        assert {"params", "opt_state", "ema", "best", "best_loss", "skipped", "streak"} <= set(state)
        if run.shardings is not None:
            assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding == s, state, run.shardings)))
    for name, state in states.items():
        assert same_bits(state, states[""]), name
    eighth = states["mesh.fsdp=8"]["opt_state"]
    assert any(x.addressable_shards[0].data.size * 8 == x.size for x in jax.tree.leaves(eighth) if x.size > 8)

    import shutil

    shutil.copytree(tmp_path / "cut", tmp_path / "three")
    train(settings, tmp_path / "cut", *SAVED_ON)
    assert same_bits(published["params"], whole)
    assert losses(tmp_path / "cut") == whole_losses

    ledger.clear()
    train(settings, tmp_path / "three", "mesh.data=3")
    assert ledger[-4:] == order[4:]
    assert losses(tmp_path / "three") == pytest.approx(whole_losses, rel=1e-4)


def test_initial_weights_do_not_depend_on_the_mesh(settings: list[str], tmp_path: Path) -> None:
    one = begin(settings, tmp_path)._create()
    other = begin(settings, tmp_path, "mesh.fsdp=4", "mesh.data=2")._create()
    assert same_bits(one["params"], other["params"])


def test_accumulation_on_a_mesh_is_accumulation(settings: list[str], published: dict[str, Any], tmp_path: Path) -> None:
    settings = [*settings, "train.accumulate=3", "train.steps=2", "train.curriculum=[{start:0.0,rollout:1}]"]
    train(settings, tmp_path / "one")
    train(settings, tmp_path / "four", "mesh.data=2", "mesh.lon=2")
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (["mesh.data=5"], "mesh.data=5 does not divide the 24 samples of train.batch_size=24"),
        (["mesh.lat=3"], "mesh.lat=3 does not divide the 8 of the dim 'latitude' of the data"),
        (["mesh.lat=8"], "mesh.lat=8 does not divide the 8 rows of a field inside the model into whole patches of 2"),
        (["mesh.data=16"], "mesh.data=16 needs 16 devices; there are 8"),
    ],
)
def test_what_cannot_be_divided_is_refused_before_anything_is_compiled(
    mesh: list[str], message: str, settings: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(settings, tmp_path, *mesh)


@pytest.mark.parametrize(
    "mesh",
    [
        ["mesh=data"],
        ["mesh=fsdp", "mesh.fsdp=4"],
        ["mesh=spatial", "mesh.lat=2", "mesh.lon=2"],
        ["mesh.data=2", "mesh.lon=4"],
    ],
)
def test_scores_are_those_of_one_device(mesh: list[str], settings: list[str], tmp_path: Path) -> None:
    from flax import nnx

    found = []
    for words in ([], mesh):
        run = begin([*settings, "evaluate.rollout=20D"], tmp_path, *words)
        graphdef, variables = nnx.split(run.domain.build_model(nnx.Rngs(0)))
        params = jax.tree.map(lambda p: p + 0.02, jax.device_get(nnx.to_pure_dict(variables)))
        found.append(run.domain.evaluate(graphdef, params))
    one, other = (flat(e.scores) | flat(e.rollout["variables"]) for e in found)
    assert one.keys() == other.keys()
    assert len(one) > 10
    for key, value in one.items():
        # A mean of nearly cancelling errors (bias) keeps the digits of what is averaged.
        assert other[key] == pytest.approx(value, rel=2e-4, abs=1e-4 * abs(one.get(key.replace("bias", "rmse"), 0))), (
            key
        )


def flat(tree: Any, name: str = "") -> dict[str, float]:
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in flat(value, f"{name}/{key}").items()}
    return {name: tree} if isinstance(tree, float) else {}


def test_each_device_reads_only_what_it_needs(settings: list[str], tmp_path: Path) -> None:
    """With one process all devices are its own; the box of a mesh's part is that of the devices it holds."""
    run = begin(settings, tmp_path, "mesh.lat=2", "mesh.data=2")
    whole = begin(settings, tmp_path)
    indices = np.arange(24)
    for window in ({"latitude": slice(0, 4)}, {"latitude": slice(4, 8), "longitude": slice(3, 9)}):
        part = run.domain.batch_part("train", indices, 1, window)
        batch = whole.domain.batch("train", indices, 1)
        rows, columns = window["latitude"], window.get("longitude", slice(None))
        assert np.array_equal(part["state"], batch["state"][:, rows, columns])
        assert np.array_equal(part["target"], batch["target"][:, :, rows, columns])
        assert part["forcing"].shape[2:4] == part["state"].shape[1:3]
    divided, alone = run.batches.read("train", indices, 1), whole.batches.read("train", indices, 1)
    assert same_bits(divided, alone)
    assert divided["state"].addressable_shards[0].data.shape[:2] == (12, 4)
