"""From any reader to a prepared store and back into training: the same numbers on both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surrogate.cli import load_experiment
from surrogate.core.types import UserError
from surrogate.domains.fields import Fields
from surrogate.run.loop import run_training
from surrogate.run.prepare_store import prepare_store


@pytest.fixture(scope="module")
def store(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_store(load_experiment("", tiny_settings), str(tmp_path_factory.mktemp("store") / "waves.zarr"))


def from_store(store: Path, tiny_settings: list[str], *more: str) -> list[str]:
    kept = [s for s in tiny_settings if not s.startswith(("data.paths", "data.variables"))]
    return ["data=store", f"data.paths=[{store}]", *kept, *more]


def test_a_store_gives_the_batches_of_the_files(store: Path, tiny_settings: list[str]) -> None:
    domains = [Fields(load_experiment("", s)) for s in (tiny_settings, from_store(store, tiny_settings))]
    for domain in domains:
        domain.open()
    for split in ("train", "valid", "test"):
        assert domains[0].num_samples(split, 2) == domains[1].num_samples(split, 2)
        batches = [d.batch(split, np.array([0, 3, 1]), 2) for d in domains]
        for name in batches[0]:
            np.testing.assert_array_equal(batches[0][name], batches[1][name])
    for name, value in domains[0].normalizer.arrays().items():
        np.testing.assert_array_equal(value, domains[1].normalizer.arrays()[name])


@pytest.mark.slow
def test_training_from_a_store_gives_the_same_loss(store: Path, tiny_settings: list[str], tmp_path: Path) -> None:
    summaries = []
    for name, settings in (("files", tiny_settings), ("store", from_store(store, tiny_settings))):
        experiment = load_experiment("", [*settings, f"run.dir={tmp_path / name}", "train.steps=4"])
        summaries.append(run_training(experiment, quiet=True).summary["scores"])
    assert summaries[0] == summaries[1]


def test_data_larger_than_memory_pass_through_in_blocks(store: Path, tiny_settings: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"surrogate\.prepare"):
        Fields(load_experiment("", [*tiny_settings, "data.memory_gb=0.00001"])).open()
    again = prepare_store(load_experiment("", [*tiny_settings, "data.memory_gb=0.00001"]), str(tmp_path / "lazy.zarr"))
    shards = sorted(p.relative_to(store) for p in store.rglob("*") if p.is_file() and "trajectory" in str(p.parent))
    assert shards
    for name in shards:
        assert (again / name).read_bytes() == (store / name).read_bytes(), name


def test_a_damaged_chunk_is_noticed_in_training(store: Path, tiny_settings: list[str], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    shard = max((p for p in copy.rglob("*") if p.is_file() and "prognostic" in str(p)), key=lambda p: p.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 4
    shard.write_bytes(bytes(content))
    settings = from_store(copy, tiny_settings, f"run.dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=r"copy\.zarr"):
        run_training(load_experiment("", settings), quiet=True)


def test_mistakes_about_a_store(store: Path, tiny_settings: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="out="):
        prepare_store(load_experiment("", tiny_settings), "")
    with pytest.raises(UserError, match=r"time step of P1D, data\.time_step=2D"):
        Fields(load_experiment("", from_store(store, tiny_settings, "data.time_step=2D", "data.leads=[2D]"))).open()
    with pytest.raises(UserError, match="exactly one entry"):
        Fields(load_experiment("", [*from_store(store, tiny_settings), "data.paths=[]"])).open()
    with pytest.raises(UserError, match=r"nothing\.zarr"):
        Fields(load_experiment("", [*from_store(store, tiny_settings), f"data.paths=[{tmp_path}/nothing.zarr]"])).open()
