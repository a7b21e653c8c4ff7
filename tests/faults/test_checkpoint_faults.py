"""Kills, damage, full and read-only disks: noticed, said, and survived."""

from collections.abc import Iterator
import os
from pathlib import Path
import random
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surrogate.core.types import PyTree, UserError
from surrogate.run import checkpoint_manifest
from surrogate.run.checkpoint import Checkpoints
from surrogate.run.lock import RunLock
from surrogate.run.provenance import append_jsonl, write_json_atomic

# Saves without a pause, so that any moment is one of saving, committing, hashing or pruning.
SAVER = """
import sys
import jax.numpy as jnp
from surrogate.run.checkpoint import Checkpoints
store = Checkpoints(sys.argv[1], keep=2)
state = {"a": jnp.zeros((256, 256)), "b": {"c": jnp.zeros(1000, jnp.int32)}}
found = store.restore_newest(state)
step = 0 if found is None else found[0]
print("ready", step, flush=True)
while True:
    step += 1
    store.save(step, {"a": state["a"] + step, "b": {"c": state["b"]["c"] + step}}, {"step": step})
    print(step, flush=True)
"""


def saver_state() -> PyTree:
    return {"a": jnp.zeros((256, 256)), "b": {"c": jnp.zeros(1000, jnp.int32)}}


def kill_and_restore(directory: Path, kills: int, seed: int) -> None:
    moments = random.Random(seed)
    earlier = 0
    for _ in range(kills):
        child = subprocess.Popen([sys.executable, "-c", SAVER, str(directory)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        try:
            assert child.stdout.readline().split()[0] == "ready"
            for _ in range(2):  # two calls of save have returned, so the first step is complete
                child.stdout.readline()
            time.sleep(moments.uniform(0, 0.4))
        finally:
            child.kill()
            rest = child.communicate()[0].split()
        begun = int(rest[-1]) if rest else earlier + 2
        store = Checkpoints(directory)
        step, state, extra = store.restore_newest(saver_state()) or pytest.fail("nothing to restore")
        store.close()
        assert step > earlier
        assert step >= begun - 1  # at most the save in progress is lost
        assert extra == {"step": step}
        for leaf in jax.tree.leaves(state):
            np.testing.assert_array_equal(np.asarray(leaf), step)
        earlier = step


def test_kill_at_a_random_moment_leaves_the_newest_complete_step(tmp_path: Path) -> None:
    kill_and_restore(tmp_path, kills=2, seed=0)


@pytest.mark.slow
def test_many_kills(tmp_path: Path) -> None:
    kill_and_restore(tmp_path, kills=15, seed=1)


def small_state(value: float) -> PyTree:
    return {"w": jnp.full((32, 32), value), "b": {"n": jnp.int32(value), "m": jnp.full(7, value)}}


def test_every_file_flipped_cut_or_deleted_is_noticed(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    for step in (1, 2):
        store.save(step, small_state(step), {"step": step})
    store.wait()
    files = [path for path in (tmp_path / "2").rglob("*") if path.is_file()]
    assert len(files) > 5
    moments = random.Random(0)
    for path in files:
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[moments.randrange(len(whole))] ^= 1 << moments.randrange(8)
        for damaged in (bytes(flipped), whole[:-1], b"", None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            step, state, extra = store.restore_newest(small_state(0)) or pytest.fail("nothing to restore")
            assert (step, extra) == (1, {"step": 1}), path
            np.testing.assert_array_equal(state["w"], 1.0)
        path.write_bytes(whole)
    (tmp_path / "2" / "stray").write_bytes(b"")
    assert (store.restore_newest(small_state(0)) or pytest.fail("nothing"))[0] == 1
    (tmp_path / "2" / "stray").unlink()
    assert (store.restore_newest(small_state(0)) or pytest.fail("nothing"))[0] == 2
    store.close()


def large_state(value: int) -> PyTree:
    """Whose arrays are read while they are hashed."""
    return {"w": np.full((3, 2**19), value, np.int32), "b": jnp.arange(2**19) + value}


def large_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("place", [0, 100, 2**21, -(2**19), -1])
def test_a_flip_in_a_file_that_is_read_meanwhile_walks_back(tmp_path: Path, place: int) -> None:
    store = Checkpoints(tmp_path)
    for step in (1, 2):
        store.save(step, large_state(step), {})
    store.wait()
    path = large_file(tmp_path / "2")
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 4
    path.write_bytes(damaged)
    step, state, _ = store.restore_newest(large_state(0)) or pytest.fail("nothing to restore")
    assert step == 1
    np.testing.assert_array_equal(state["w"], 1)
    np.testing.assert_array_equal(state["b"], np.arange(2**19) + 1)
    store.close()


def test_nothing_is_returned_before_its_hashes_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orbax is done long before the hashes are, and what it read was damaged."""
    store = Checkpoints(tmp_path)
    for step in (1, 2):
        store.save(step, large_state(step), {})
    store.wait()
    path, whole, events = large_file(tmp_path / "2"), b"", []
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    load, check = Checkpoints._load, checkpoint_manifest._check_files
    loaded = threading.Event()

    def noted(self: Checkpoints, like: PyTree, expected: list, manifest: dict) -> PyTree:
        state = load(self, like, expected, manifest)
        events.append(("loaded", manifest["step"]))
        loaded.set()
        return state

    def late(folder: Path, listed: dict, names: list[str]) -> None:
        if path.relative_to(tmp_path / "2").as_posix() in names:
            assert loaded.wait(60)
            events.append(("hashed", int(folder.name)))
        check(folder, listed, names)

    monkeypatch.setattr(Checkpoints, "_load", noted)
    monkeypatch.setattr(checkpoint_manifest, "_check_files", late)
    step, state, _ = store.restore_newest(large_state(0)) or pytest.fail("nothing to restore")
    assert events[:2] == [("loaded", 2), ("hashed", 2)]
    assert step == 1
    np.testing.assert_array_equal(state["w"], 1)
    store.close()


def test_what_reading_raises_counts_only_where_the_files_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Checkpoints(tmp_path)
    for step in (1, 2):
        store.save(step, large_state(step), {})
    store.wait()
    load = Checkpoints._load

    def broken(self: Checkpoints, like: PyTree, expected: list, manifest: dict) -> PyTree:
        if manifest["step"] == 2:
            raise ValueError("cannot decode")
        return load(self, like, expected, manifest)

    monkeypatch.setattr(Checkpoints, "_load", broken)
    with pytest.raises(ValueError, match="cannot decode"):
        store.restore_newest(large_state(0))
    path = large_file(tmp_path / "2")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert (store.restore_newest(large_state(0)) or pytest.fail("nothing"))[0] == 1
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"mounting a small tmpfs is not permitted here: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def noise(megabytes: float) -> PyTree:
    """A state that does not compress."""
    count = int(megabytes * 2**20 / 4)
    return {"w": np.random.default_rng(0).integers(0, 2**31, count, dtype=np.int32)}


def test_full_disk_is_said_and_older_steps_load(small_disk: Path) -> None:
    directory = small_disk / "checkpoints"
    store = Checkpoints(directory)
    store.save(1, noise(0.5), {"step": 1})
    store.wait()
    with pytest.raises(UserError, match=rf"step 2 in {directory}: the disk is full"):
        store.save(2, noise(5), {})
        store.wait()
    step, state, _ = store.restore_newest(noise(0.5)) or pytest.fail("nothing to restore")
    assert step == 1
    np.testing.assert_array_equal(state["w"], noise(0.5)["w"])
    assert store.steps() == [1]
    store.save(3, noise(0.5), {})  # what the failure took is given back, and the store still works
    store.wait()
    assert store.steps() == [1, 3]
    store.close()


def test_full_disk_is_said_by_the_next_save(small_disk: Path) -> None:
    store = Checkpoints(small_disk / "checkpoints")
    store.save(1, noise(5), {})
    assert store._finisher is not None
    store._finisher.join()
    with pytest.raises(UserError, match=r"step 1 .*the disk is full"):
        store.save(2, noise(0.1), {})
    store.close()


def test_full_disk_for_records(small_disk: Path) -> None:
    write_json_atomic(small_disk / "summary.json", {"a": 1})
    append_jsonl(small_disk / "metrics.jsonl", {"step": 1})
    with pytest.raises(OSError, match="No space"):
        (small_disk / "ballast").write_bytes(bytes(4 * 2**20))
    with pytest.raises(UserError, match=r"summary\.json: the disk is full"):
        write_json_atomic(small_disk / "summary.json", {"a": list(range(5000))})
    assert (small_disk / "summary.json").read_text() == '{\n  "a": 1\n}\n'
    with pytest.raises(UserError, match=r"metrics\.jsonl: the disk is full"):
        append_jsonl(small_disk / "metrics.jsonl", {"step": 2, "note": "x" * 8192})


def test_read_only_disk_is_said_and_can_be_read(small_disk: Path) -> None:
    directory = small_disk / "checkpoints"
    store = Checkpoints(directory)
    store.save(1, small_state(1), {"step": 1})
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=f"{small_disk}.*the file system is read-only"), RunLock(small_disk):
        pass
    with pytest.raises(UserError, match="new: the file system is read-only"):
        Checkpoints(small_disk / "new")
    store = Checkpoints(directory)
    assert (store.restore_newest(small_state(0)) or pytest.fail("nothing"))[0] == 1
    with pytest.raises(UserError, match=f"step 2 in {directory}: the file system is read-only"):
        store.save(2, small_state(2), {})
        store.wait()
    store.close()


def test_forbidden_directory_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write everywhere
    try:
        with pytest.raises(UserError, match="permission denied"):
            Checkpoints(tmp_path / "checkpoints")
        with pytest.raises(UserError, match="permission denied"), RunLock(tmp_path):
            pass
    finally:
        os.seteuid(user)
