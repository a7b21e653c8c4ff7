"""Potentials on meshes of eight virtual devices: packs of configurations over ``data`` and ``fsdp``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flax import nnx
import jax
from morse import make_frames
import numpy as np
import pytest

from surrogate.cli import load_experiment
from surrogate.core.types import UserError
from surrogate.data.atoms_ragged import write_ragged
from surrogate.domains.base import find_domain
from surrogate.parallel.placement import Placement
from surrogate.run import loop
from surrogate.run.batches import Batches, place


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    store = write_ragged(
        tmp_path_factory.mktemp("atoms") / "alloy.nc",
        {"train": make_frames(48), "valid": make_frames(9, 1), "test": make_frames(9, 2)},
    )
    return [
        "data=atoms", "data.source=store", f"data.paths=[{store}]", "data.stress=stress", "data.cutoff=5.0",
        "model.name=two_body:TwoBody", "train.curriculum=[{start:0.0}]", "train.steps=12", "train.batch_size=16",
        "train.log_every=1", "train.valid_every=6", "train.checkpoint_every=6", "evaluate.crystals=[]",
        "evaluate.dynamics=0", f"run.compilation_cache={tmp_path_factory.mktemp('xla')}",
    ]  # fmt: skip


def loss_and_gradients(settings: list[str], *more: str) -> tuple[dict[str, float], Any, int]:
    """Of the first batch, with freshly made weights; and in how many packs it came."""
    experiment = load_experiment("materials", [*settings, *more])
    domain = place(find_domain("atoms")(experiment), Placement.of(experiment.mesh))
    domain.open()
    batch = Batches(domain, experiment.train, domain.placement).train(0)
    graphdef, params = nnx.split(domain.build_model(nnx.Rngs(0)))

    @domain.placement.jit
    def value(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            return domain.loss(nnx.merge(graphdef, params), {}, batch, jax.random.key(0), domain.stage(0))

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, scalars), gradients = jax.device_get(value(domain.placement.put(params), batch))
    return {"loss": loss, **scalars}, jax.tree.leaves(gradients), batch["weights"].shape[0]


@pytest.mark.parametrize(
    "mesh", [["mesh.data=8"], ["mesh.data=2", "mesh.fsdp=2"], ["mesh.data=4", "train.batch_size=16"]]
)
def test_loss_and_gradients_are_those_of_one_device(settings: list[str], mesh: list[str]) -> None:
    one, gradients, packs = loss_and_gradients(settings)
    other, divided, more = loss_and_gradients(settings, *mesh)
    assert (packs, more) == (1, int(np.prod([int(m.split("=")[1]) for m in mesh if m.startswith("mesh")])))
    assert set(one) == set(other)
    assert {"energy_rmse", "force_rmse", "virial_rmse"} < set(one)
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=2e-6, err_msg=name)
    for a, b in zip(gradients, divided, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-5 * np.abs(a).max())


def test_a_run_on_a_mesh_learns_what_one_device_learns(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(loop, "publish", lambda run, graphdef, params, steps: seen.append(jax.device_get(params)) or {})
    for n, mesh in enumerate(([], ["mesh.data=4", "train.accumulate=2"], ["train.accumulate=2"])):
        loop.run_training(load_experiment("materials", [*settings, *mesh, f"run.dir={tmp_path / str(n)}"]), quiet=True)
    single, divided, accumulated = ([np.ravel(x) for x in jax.tree.leaves(params)] for params in seen)
    # Averages of parts with different numbers of atoms differ a little from those of the whole: compare like with like.
    for a, b in zip(accumulated, divided, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-3 * np.abs(a).max())
    assert any(not np.array_equal(a, b) for a, b in zip(single, divided, strict=True))


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (["mesh.lat=2"], "mesh.lat=2: samples of the domain 'atoms' have no latitude and longitude to divide"),
        (["mesh.data=3"], "mesh.data=3 does not divide the 16 samples of train.batch_size=16"),
    ],
)
def test_what_cannot_be_divided_is_refused(settings: list[str], tmp_path: Path, mesh: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        loop.run_training(load_experiment("materials", [*settings, *mesh, f"run.dir={tmp_path}"]), quiet=True)
    assert str(caught.value) == message
