"""What is saved comes back exactly, and nothing else does."""

from collections.abc import Sequence
from pathlib import Path
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorstore as ts

from surrogate.core.types import PyTree, UserError
from surrogate.run.checkpoint import Checkpoints, _describe
from surrogate.run.files import disk_reason


def make_state(seed: int = 0) -> PyTree:
    key = jax.random.key(seed)
    params = {"layer": {"kernel": jax.random.normal(key, (16, 8)), "bias": jnp.zeros(8)}}
    return {
        "params": params,
        "opt": optax.adamw(1e-3).init(params),
        "step": jnp.int32(seed),
        "key": jax.random.key_data(key),
        "half": jnp.arange(3, dtype=jnp.bfloat16),
        "host": np.arange(5, dtype=np.int32),
    }


def shapes(state: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


def assert_same(left: PyTree, right: PyTree) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture
def checkpoints(tmp_path: Path):
    store = Checkpoints(tmp_path / "checkpoints", keep=2)
    yield store
    store.close()


def test_round_trip_is_exact_and_old_steps_go(checkpoints: Checkpoints) -> None:
    assert checkpoints.restore_newest(make_state()) is None
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step), {"step": step, "history": [0.5, None]})
    step, state, extra = checkpoints.restore_newest(make_state()) or pytest.fail("nothing restored")
    assert (step, extra) == (3, {"step": 3, "history": [0.5, None]})
    assert_same(state, make_state(3))
    assert checkpoints.steps() == [2, 3]
    again = Checkpoints(checkpoints.directory)
    _, state, _ = again.restore_newest(shapes(make_state())) or pytest.fail("nothing restored")
    assert_same(state, make_state(3))
    again.close()


def test_state_may_be_donated_or_changed_while_it_is_written(checkpoints: Checkpoints) -> None:
    bump = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = {"w": jnp.zeros((512, 512)), "n": jnp.int32(0)}
    host = np.zeros(200_000)
    for step in range(1, 4):
        state = bump(state)
        host += 1
        checkpoints.save(step, {**state, "host": host}, {})
        for _ in range(3):
            state = bump(state)
            host += 1
        state = jax.tree.map(lambda x, step=step: jnp.full_like(x, step), state)
        host[:] = step
        restored = checkpoints.restore_newest({**state, "host": host}) or pytest.fail("nothing restored")
        for leaf in jax.tree.leaves(restored[1]):
            assert np.all(np.asarray(leaf) == step)


def test_a_second_copy_goes_into_the_memory_of_the_first(checkpoints: Checkpoints) -> None:
    """And the step after a save finds its own memory free: nothing of it is in use while the disk is slow."""
    bump = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = {"w": jnp.zeros((512, 512)), "n": jnp.int32(0)}
    places = []
    for step in (1, 2, 3):
        state = bump(state)
        own = state["w"].unsafe_buffer_pointer()
        checkpoints.save(step, state, {})
        state = bump(state)
        assert state["w"].unsafe_buffer_pointer() == own
        places.append([leaf.unsafe_buffer_pointer() for leaf in checkpoints._copied])
    assert places[1] == places[2]
    checkpoints.save(4, {"w": jnp.ones(3)}, {})  # another state is another matter
    assert [leaf.shape for leaf in checkpoints._copied] == [(3,)]
    checkpoints.close()
    assert not checkpoints._copied


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((2048, 1536), range(4, 64)),
        ((3, 2**20, 2), range(4, 64)),
        ((2**20,), [1]),  # small enough as it is
        ((1_048_583,), [1]),  # a prime number
        ((1031, 2048), [1]),
    ],
)
def test_arrays_are_stored_in_chunks_that_are_never_tiny(
    checkpoints: Checkpoints, shape: tuple[int, ...], chunks: Sequence[int]
) -> None:
    state = {"w": np.arange(np.prod(shape), dtype=np.float32).reshape(shape)}
    checkpoints.save(1, {**state, "x": jnp.asarray(state["w"])}, {})
    _, found, _ = checkpoints.restore_newest({**state, "x": jnp.asarray(state["w"])}) or pytest.fail("nothing restored")
    assert_same(found, {**state, "x": jnp.asarray(state["w"])})
    kvstore = {"driver": "ocdbt", "base": f"file://{checkpoints.directory}/1/default/"}
    for name in ("w", "x"):
        keys = ts.KvStore.open(kvstore).result().list().result()
        assert len([key for key in keys if key.startswith(f"{name}/".encode()) and b".z" not in key]) in chunks


def test_what_was_written_with_compression_is_restored(tmp_path: Path) -> None:
    """Checkpoints of before: Orbax's own defaults."""
    import orbax.checkpoint as ocp

    def default_manager(self: Checkpoints) -> ocp.CheckpointManager:
        if self._manager is None:
            self._manager = ocp.CheckpointManager(self.directory)
        return self._manager

    class Earlier(Checkpoints):
        _orbax = default_manager  # type: ignore[assignment]

        def save(self, step: int, state: PyTree, extra: dict) -> None:
            self._orbax().save(step, args=ocp.args.StandardSave(state))
            self._finish(step, _describe(state), "{}")

    earlier = Earlier(tmp_path)
    earlier.save(1, make_state(1), {})
    earlier.close()
    now = Checkpoints(tmp_path)
    _, state, _ = now.restore_newest(make_state()) or pytest.fail("nothing restored")
    assert_same(state, make_state(1))
    now.close()


def test_saving_works_under_a_transfer_guard(checkpoints: Checkpoints) -> None:
    state = jax.device_put({"w": jnp.ones(3)})
    with jax.transfer_guard("disallow"):
        checkpoints.save(1, state, {})
    checkpoints.wait()
    assert checkpoints.steps() == [1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"step": jnp.float32(0)}, "'step' is int32.*expected float32"),
        ({"half": jnp.zeros(3, jnp.float32)}, "'half' is bfloat16.*expected float32"),
        ({"host": np.zeros(6, np.int32)}, r"'host' is int32\[5\], expected int32\[6\]"),
        ({"extra": jnp.zeros(1)}, "has no 'extra'"),
        ({"host": None}, "holds 'host'"),
    ],
)
def test_another_model_is_refused_without_a_cast(checkpoints: Checkpoints, change: dict, text: str) -> None:
    checkpoints.save(1, make_state(), {})
    with pytest.raises(UserError, match=text):
        checkpoints.restore_newest({**make_state(), **change})


def damage_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes() + b"\0")


def test_walks_back_and_goes_on_from_there(checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    for step in (10, 20):
        checkpoints.save(step, make_state(step), {"step": step})
    checkpoints.wait()
    damage_all(checkpoints.directory / "20")
    step, state, extra = checkpoints.restore_newest(make_state()) or pytest.fail("nothing restored")
    assert (step, extra) == (10, {"step": 10})
    assert_same(state, make_state(10))
    assert str(checkpoints.directory / "20") in caplog.text
    checkpoints.save(20, make_state(21), {"step": 20})
    step, state, _ = checkpoints.restore_newest(make_state()) or pytest.fail("nothing restored")
    assert step == 20
    assert_same(state, make_state(21))
    assert len(list(checkpoints.directory.glob("20.damaged-*"))) == 1  # kept for a person to look at


def test_none_that_verifies_is_an_error_with_the_reasons(checkpoints: Checkpoints) -> None:
    for step in (1, 2):
        checkpoints.save(step, make_state(), {})
    checkpoints.wait()
    damage_all(checkpoints.directory / "1")
    (checkpoints.directory / "2" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"can be trusted \(step 1: .*; step 2: it has no manifest"):
        checkpoints.restore_newest(make_state())


def test_first_save_cut_short_is_nothing_but_a_lost_step_is_an_error(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.save(1, make_state(), {})
    checkpoints.wait()
    (checkpoints.directory / "1" / "manifest.json").unlink()
    with pytest.raises(UserError, match="step 1: it has no manifest"):
        checkpoints.restore_newest(make_state())
    (checkpoints.directory / "completed").unlink()  # as a kill between the first commit and its manifest leaves it
    caplog.clear()
    assert checkpoints.restore_newest(make_state()) is None
    assert "ended during its first save" in caplog.text
    checkpoints.save(1, make_state(7), {})
    _, state, _ = checkpoints.restore_newest(make_state()) or pytest.fail("nothing restored")
    assert_same(state, make_state(7))


def test_saving_an_older_step_is_refused(checkpoints: Checkpoints) -> None:
    checkpoints.save(5, make_state(), {})
    for step in (5, 4):
        with pytest.raises(UserError, match=f"holds step 5 already, so step {step}"):
            checkpoints.save(step, make_state(), {})
    checkpoints.save(6, make_state(), {})
    checkpoints.wait()
    assert checkpoints.steps() == [5, 6]


def test_saving_returns_before_the_disk_is_done(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    finish = checkpoints._finish

    def slow(*arguments: object) -> None:
        gate.wait(20)
        finish(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "_finish", slow)
    checkpoints.save(1, make_state(), {})
    assert not (checkpoints.directory / "1" / "manifest.json").exists()
    gate.set()
    checkpoints.wait()
    assert (checkpoints.directory / "1" / "manifest.json").exists()


def test_what_is_not_an_array_or_json_is_refused_before_writing(checkpoints: Checkpoints) -> None:
    with pytest.raises(TypeError, match=r"'a/b'.*str"):
        checkpoints.save(1, {"a": {"b": "text"}}, {})
    with pytest.raises(TypeError, match="JSON"):
        checkpoints.save(1, make_state(), {"x": object()})
    assert checkpoints.steps() == []


def test_disk_reasons_are_found_in_causes_and_prose() -> None:
    wrapped = ValueError("writer failed")
    wrapped.__cause__ = OSError(30, "Read-only file system")
    assert disk_reason(wrapped) == "the file system is read-only"
    assert disk_reason(ValueError("RESOURCE_EXHAUSTED: write: No space left on device")) == "the disk is full"
    assert disk_reason(ValueError("shape mismatch")) is None
