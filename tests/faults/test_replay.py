"""Silent corruption of a device, and a file system that stalls: noticed, and nothing of it stays."""

from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import pytest

from surrogate.cli import load_experiment
from surrogate.core.types import UserError
from surrogate.run.artefact import decode_tensors, read_artefact
from surrogate.run.loop import run_training
from surrogate.run.replay import Replay


def program(state: dict[str, jax.Array], x: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    return {"w": state["w"] * x, "n": state["n"] + 1}, {"loss": state["w"].sum() / 0}


def test_equal_bits_pass_also_of_nan_and_given_away_state() -> None:
    run = jax.jit(program, donate_argnums=0)
    state = {"w": jnp.zeros(5), "n": jnp.int32(1)}
    new, scalars = Replay()(run, state, jnp.float32(2), step=7)
    assert int(new["n"]) == 2
    assert jnp.isnan(scalars["loss"])


@pytest.mark.parametrize("leaf", ["w", "n"])
def test_one_flipped_bit_is_named(leaf: str) -> None:
    calls = []

    def faulty(state: dict[str, jax.Array], x: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        new, scalars = program(state, x)
        calls.append(1)
        if len(calls) == 2:  # the lowest bit of one value, as a defective multiplier would have it
            view = new[leaf].ravel().view(jnp.uint32)
            new[leaf] = (view.at[0].set(view[0] ^ 1)).view(new[leaf].dtype).reshape(new[leaf].shape)
        return new, scalars

    state = {"w": jnp.linspace(1, 2, 5), "n": jnp.int32(1)}
    with pytest.raises(
        UserError, match=rf"step 7 computed twice gave different bits in 1 arrays \(first 0/{leaf}, 1 values"
    ):
        Replay()(faulty, state, jnp.float32(3), step=7)


def test_a_copy_on_any_device_is_compared() -> None:
    """What all devices hold alike: a wrong value on the second one alone is found there."""
    code = (
        "import jax, numpy as np\n"
        "from jax.sharding import Mesh, NamedSharding, PartitionSpec as P\n"
        "from surrogate.run.replay import Replay\n"
        "whole = NamedSharding(Mesh(np.array(jax.devices()), 'data'), P())\n"
        "calls = []\n"
        "def faulty(state):\n"
        "    calls.append(1)\n"
        "    parts = [jax.device_put(np.ones(3, np.float32), d) for d in jax.devices()]\n"
        "    if len(calls) == 2:\n"
        "        parts[1] = jax.device_put(np.float32([1, 2, 1]), jax.devices()[1])\n"
        "    return {'w': jax.make_array_from_single_device_arrays((3,), whole, parts)}\n"
        "Replay()(faulty, {'w': jax.device_put(np.ones(3, np.float32), whole)}, step=5)\n"
    )
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120)
    assert "step 5 computed twice gave different bits in 1 arrays (first w, 1 values)" in done.stderr, done.stderr


def weights(directory: Path) -> dict[str, bytes]:
    tensors = decode_tensors(read_artefact(directory / "model")[1]["weights.safetensors"])
    return {name: value.tobytes() for name, value in tensors.items()}


@pytest.mark.slow
def test_a_stalled_reader_ends_the_run_and_replayed_it_goes_on_in_the_same_order(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surrogate.domains.fields import Fields

    plain = load_experiment("", [*tiny_settings, f"run.dir={tmp_path / 'plain'}"])
    run_training(plain, quiet=True)
    never, calls, original = threading.Event(), [], Fields.batch

    def stalls(self, split, indices, stage):  # type: ignore[no-untyped-def]
        if split == "train":
            calls.append(1)
            if len(calls) == 8:
                never.wait(5)
        return original(self, split, indices, stage)

    # The timeout and the replay are no part of what is learnt: a run that goes on may have others.
    words = [*tiny_settings, f"run.dir={tmp_path / 'stalled'}"]
    monkeypatch.setattr(Fields, "batch", stalls)
    with pytest.raises(TimeoutError, match=r"no batch arrived for 2 s"):
        run_training(load_experiment("", [*words, "train.reader_timeout=2"]), quiet=True)
    monkeypatch.undo()
    assert run_training(load_experiment("", [*words, "train.replay_every=3"]), quiet=True).status == "complete"
    assert weights(tmp_path / "stalled") == weights(tmp_path / "plain")
    rows = [json.loads(line) for line in (tmp_path / "stalled" / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == sorted(set(steps))
