"""Checkpoints that are verified before they are believed.

Orbax writes asynchronously and commits by a rename, but notices neither a flipped bit nor a wrong dtype. So
every committed step gets a manifest, ``<step>/manifest.json``: the SHA-256 of its files, the shapes and dtypes of
its leaves and the caller's ``extra``, sealed by a digest of its own (:mod:`surrogate.run.checkpoint_manifest`). A step without a manifest that holds is not
trusted, and nothing older is deleted before the newer step has one: after a kill at any moment the newest trusted
step is there.

Arrays are stored without compression, since weights and moments in float32 hardly shrink, and in chunks of a few MB, whose
memory is used again and again while they are read: restoring takes a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from functools import partial
import json
import logging
import math
import os
from pathlib import Path
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.types import PyTree, UserError
from surrogate.run.checkpoint_manifest import MANIFEST, Rejected, read_manifest, verify, write_manifest
from surrogate.run.files import disk_error, disk_reason, json_text, write_bytes_atomic

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager

log = logging.getLogger(__name__)

MARK = "completed"
"""A file that says that a step was completed here once: its absence tells a first save cut short from lost steps."""
_NONE, _FIRST_CUT_SHORT = -1, -2
_CHUNK = 2**22
"""Bytes of a chunk of an array, at most."""
_FACTOR = 32
"""A chunk has more than ``_CHUNK / _FACTOR`` bytes."""


class Checkpoints:
    """The checkpoints of one run.

    Saving returns once the state is copied to the host; writing, hashing and pruning go on behind. An
    error of theirs is raised by the next call of :meth:`save`, :meth:`wait` or :meth:`close`. The copy of a
    state on CPU devices is kept until :meth:`close`, because the next one goes into its memory.

    Args:
        directory: made when absent.
        keep: how many trusted steps stay.

    Raises:
        UserError: the directory cannot be made.
    """

    def __init__(self, directory: Path, *, keep: int = 3) -> None:
        if keep < 1:
            raise UserError(f"checkpoints kept: {keep}, expected at least 1")
        self.directory = Path(os.path.abspath(directory))
        self.keep = keep
        self._manager: CheckpointManager | None = None
        self._finisher: threading.Thread | None = None
        self._error: BaseException | None = None
        self._rejected: dict[int, str] = {}
        self._tidy = False
        self._copied: list[jax.Array] = []
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error("make the checkpoint directory", self.directory, error) from error

    def steps(self) -> list[int]:
        """Committed steps, ascending, trusted or not."""
        try:
            names = [entry.name for entry in os.scandir(self.directory) if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            raise disk_error("read the checkpoint directory", self.directory, error) from error
        return sorted(int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name)

    def save(self, step: int, state: PyTree, extra: dict) -> None:
        """Begin to save ``state`` (a pytree of arrays) as ``step``; the arrays may be donated or changed afterwards.

        ``extra`` is a small dict of JSON values. Waits only for the host copy, and for the previous save
        if that is still being written.

        Raises:
            UserError: the previous or this save failed on the disk, or ``step`` is not newer than the newest
                trusted step.
            TypeError: a leaf is not an array, or ``extra`` is not JSON.
        """
        self.wait()
        leaves = _describe(state)
        text = json_text(extra)
        try:
            self._clear_way(step)
            import orbax.checkpoint as ocp

            # The loop may forbid transfers that it does not see; this one is meant.
            with jax.transfer_guard("allow"):
                copied = self._copy(state)
                how = jax.tree.map(lambda leaf: ocp.SaveArgs(chunk_byte_size=_chunk_bytes(leaf)), copied)
                self._orbax().save(step, args=ocp.args.PyTreeSave(copied, how), force=True)
        except Exception as error:
            self._abandon(step)
            if disk_reason(error) is not None:
                raise disk_error(f"save the checkpoint of step {step} in", self.directory, error) from error
            raise
        self._finisher = threading.Thread(
            target=self._finish, args=(step, leaves, text), name=f"checkpoint-{step}", daemon=False
        )
        self._finisher.start()

    def wait(self) -> None:
        """Return once everything saved is on disk with its manifest.

        Raises:
            UserError: the disk was full, read-only, ...; older steps are untouched.
        """
        if self._finisher is not None:
            self._finisher.join()
            self._finisher = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait (see :meth:`wait` for errors) and let go of Orbax's threads."""
        try:
            self.wait()
        finally:
            self._copied = []
            manager, self._manager = self._manager, None
            if manager is not None:
                manager.close()

    def restore_newest(self, like: PyTree) -> tuple[int, PyTree, dict] | None:
        """The newest step that verifies: its number, state and ``extra``; None when no step was ever completed.

        Args:
            like: a pytree of arrays or ``ShapeDtypeStruct`` with the expected structure, shapes, dtypes and,
                where given, shardings. Without a sharding a leaf goes to the default device.

        Steps that are damaged or incomplete are logged with the reason and passed over, towards older ones. One process
        alone hashes the arrays while Orbax reads them, and returns what it read once the hashes are right; of several,
        all begin to read what the first one has verified, since none may fail while others wait for it.

        Raises:
            UserError: none of the steps verifies, or an undamaged step holds another structure, shape or dtype
                (a different model or optimizer: nothing is cast or guessed).
        """
        self.wait()
        expected = _describe(like)
        steps = self.steps()
        if not steps:
            return None
        load = partial(self._load, like, expected)
        alone = jax.process_count() == 1
        chosen, manifest, state = self._choose(steps, load if alone else None)
        if chosen == _FIRST_CUT_SHORT:
            return None
        if manifest is None:
            reasons = "; ".join(f"step {step}: {reason}" for step, reason in sorted(self._rejected.items()))
            raise UserError(f"no checkpoint in {self.directory} can be trusted ({reasons})")
        if not alone:
            state = load(manifest)
        return chosen, state, manifest["extra"]

    def _load(self, like: PyTree, expected: list[list], manifest: dict) -> PyTree:
        """The state of the step that ``manifest`` belongs to."""
        step = manifest["step"]
        _compare(manifest["leaves"], expected, self.directory / str(step))
        import orbax.checkpoint as ocp

        target = jax.tree.map(_placed, like)
        arguments = ocp.checkpoint_utils.construct_restore_args(target)
        with jax.transfer_guard("allow"):
            state = self._orbax().restore(step, args=ocp.args.PyTreeRestore(target, arguments))
        _compare(_describe(state), expected, self.directory / str(step))
        return state

    def _choose(self, steps: list[int], load: Callable[[dict], PyTree] | None) -> tuple[int, dict | None, PyTree]:
        """The newest step that verifies, and its manifest, the same on all processes; and what ``load`` makes of it.

        Without one, ``_FIRST_CUT_SHORT`` or ``_NONE``, and None.
        """
        self._rejected = {}
        chosen, manifest, state = _NONE, None, None
        if jax.process_index() == 0:
            for step in reversed(steps):
                try:
                    manifest, state = verify(self.directory / str(step), step, load)
                    chosen = step
                    break
                except Rejected as error:
                    self._rejected[step] = str(error)
                    log.warning("checkpoint %s is not trusted: %s", self.directory / str(step), error)
            if manifest is None and not any(self._has_manifest(step) for step in steps) and not self._mark.exists():
                log.warning("%s: the run was ended during its first save; nothing to restore", self.directory)
                chosen = _FIRST_CUT_SHORT
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            # The first process decides, lest a file that one host reads differently splits the run.
            chosen = int(multihost_utils.broadcast_one_to_all(np.int64(chosen)))
            if jax.process_index() != 0:
                self._rejected = {step: "see the first process" for step in steps if step > chosen}
                manifest = read_manifest(self.directory / str(chosen), chosen) if chosen >= 0 else None
        return chosen, manifest, state

    def _copy(self, state: PyTree) -> PyTree:
        """``state`` in memory of its own, as far as Orbax would write it from where it is.

        The caller may change NumPy's arrays, and give away those of JAX: on a CPU the step that does so would find them in
        use and fetch other memory for all of them, page by page, while the writers want the cores.
        """
        leaves, structure = jax.tree.flatten(state)
        on_cpu = [isinstance(leaf, jax.Array) and _is_on_cpu(leaf) for leaf in leaves]
        arrays = [leaf for leaf, here in zip(leaves, on_cpu, strict=True) if here]
        alike = [_place(x) for x in arrays] == [_place(x) for x in self._copied]
        into, self._copied = self._copied if alike else [], []
        if arrays:
            places = [x.sharding for x in arrays]
            copy = jax.jit(_copies, out_shardings=places, donate_argnums=1, keep_unused=True)
            self._copied = jax.block_until_ready(copy(arrays, into))
        copied = iter(self._copied)
        for i, leaf in enumerate(leaves):
            leaves[i] = next(copied) if on_cpu[i] else leaf.copy() if isinstance(leaf, np.ndarray) else leaf
        return jax.tree.unflatten(structure, leaves)

    def _orbax(self) -> CheckpointManager:
        if self._manager is None:
            import orbax.checkpoint as ocp

            # Pruning is ours (see _finish): Orbax would delete the last trusted step before the new one is one.
            # Directories are made at once: where that fails, Orbax's threads would wait minutes for them.
            options = ocp.CheckpointManagerOptions(
                max_to_keep=None,
                create=False,
                enable_async_checkpointing=True,
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            )
            handler = ocp.PyTreeCheckpointHandler(use_compression=False)
            self._manager = ocp.CheckpointManager(self.directory, item_handlers=handler, options=options)
        return self._manager

    def _clear_way(self, step: int) -> None:
        """Refuse to go back in time, and move what is not trusted out of the way of new steps."""
        trusted = [old for old in self.steps() if old not in self._rejected and self._has_manifest(old)]
        if trusted and step <= trusted[-1]:
            raise UserError(
                f"{self.directory} holds step {trusted[-1]} already, so step {step} cannot be saved: "
                "resume from it, or give another run.dir"
            )
        untrusted = [old for old in self.steps() if old not in trusted]
        if jax.process_index() == 0:
            for old in untrusted:
                if self._has_manifest(old):
                    # It was whole once, and damaged: kept beside for a person to look at.
                    aside = self.directory / f"{old}.damaged-{time.time_ns()}"
                    log.warning("moving the damaged checkpoint %d to %s", old, aside.name)
                    os.rename(self.directory / str(old), aside)
                else:
                    self._remove(old)
            if not self._tidy:
                for left in (*self.directory.glob("*.orbax-checkpoint-tmp*"), *self.directory.glob("*.deleting")):
                    shutil.rmtree(left)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("checkpoint directory cleared")
        if (untrusted or self._rejected) and self._manager is not None:
            self._manager.reload()  # on every process: Orbax remembers the steps that it has seen
        self._tidy = True
        self._rejected = {}

    @property
    def _mark(self) -> Path:
        return self.directory / MARK

    def _has_manifest(self, step: int) -> bool:
        return (self.directory / str(step) / MANIFEST).is_file()

    def _remove(self, step: int) -> None:
        # Renamed first, so that a kill halfway leaves no step with files missing.
        doomed = self.directory / f"{step}.deleting"
        if doomed.exists():
            shutil.rmtree(doomed)
        os.rename(self.directory / str(step), doomed)
        shutil.rmtree(doomed)

    def _abandon(self, step: int) -> None:
        """Drop Orbax's manager, which remembers its failure, and give back the space that step ``step`` took."""
        manager, self._manager = self._manager, None
        if manager is not None:
            with contextlib.suppress(Exception):  # it raises again the error that is being reported
                manager.close()
        if jax.process_index() != 0:
            return
        for left in self.directory.glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(left, ignore_errors=True)
        if (self.directory / str(step)).is_dir() and not self._has_manifest(step):
            shutil.rmtree(self.directory / str(step), ignore_errors=True)

    def _finish(self, step: int, leaves: list, extra: str) -> None:
        """In a thread: wait for the commit, write the manifest, then prune."""
        try:
            assert self._manager is not None
            self._manager.wait_until_finished()
            if jax.process_index() != 0:
                return
            folder = self.directory / str(step)
            write_manifest(folder, step, leaves, json.loads(extra))
            if not self._mark.exists():
                write_bytes_atomic(self._mark, b"A checkpoint was completed in this directory.\n")
            trusted = [old for old in self.steps() if self._has_manifest(old)]
            for old in trusted[: -self.keep]:
                self._remove(old)
        except BaseException as error:
            self._abandon(step)
            if disk_reason(error) is None:
                self._error = error
            else:
                self._error = disk_error(f"save the checkpoint of step {step} in", self.directory, error)
                self._error.__cause__ = error


def _describe(tree: PyTree) -> list[list]:
    """[path, shape, dtype] of every leaf, in the order of flattening."""
    described = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(f"checkpoint leaf {name!r} is a {type(leaf).__name__}, expected an array")
        described.append([name, list(leaf.shape), str(leaf.dtype)])
    return described


def _compare(found: list[list], expected: list[list], where: Path) -> None:
    got, want = {name: (shape, dtype) for name, shape, dtype in found}, {n: (s, d) for n, s, d in expected}
    if missing := sorted(set(want) - set(got)):
        raise UserError(f"checkpoint {where} has no {missing[0]!r} ({len(missing)} missing): saved by another model")
    if extra := sorted(set(got) - set(want)):
        raise UserError(f"checkpoint {where} holds {extra[0]!r}, unknown to this model ({len(extra)} such)")
    for name, wanted in want.items():
        if got[name] != wanted:
            (shape, dtype), (want_shape, want_dtype) = got[name], wanted
            raise UserError(
                f"checkpoint {where}: {name!r} is {dtype}{shape}, expected {want_dtype}{want_shape}; nothing is cast"
            )


def _placed(leaf: Any) -> jax.ShapeDtypeStruct | np.ndarray:
    if isinstance(leaf, np.ndarray):
        return leaf
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _is_on_cpu(leaf: jax.Array) -> bool:
    return {device.platform for device in leaf.devices()} == {"cpu"}


def _place(leaf: jax.Array) -> tuple:
    return leaf.shape, leaf.dtype, leaf.sharding


def _copies(new: list[jax.Array], into: list[jax.Array]) -> list[jax.Array]:
    """Copies of ``new``, in the memory of ``into`` where that is given away for it."""
    return [jnp.copy(leaf) for leaf in new]


def _chunk_bytes(leaf: jax.Array | np.ndarray) -> int | None:
    """The most bytes that a chunk of ``leaf`` may have; None where it stays whole.

    Orbax divides dimensions by their factors, the largest first, until a chunk is small enough: a large prime number of rows
    would come out in single rows.
    """
    shape = leaf.sharding.shard_shape(leaf.shape) if isinstance(leaf, jax.Array) else leaf.shape
    if math.prod(shape) * leaf.dtype.itemsize <= _CHUNK or any(_largest_factor(n) > _FACTOR for n in shape):
        return None
    return _CHUNK


def _largest_factor(number: int) -> int:
    """The largest prime factor."""
    factor, largest = 2, 1
    while factor * factor <= number:
        if number % factor:
            factor += 1
        else:
            number, largest = number // factor, factor
    return max(number, largest)
