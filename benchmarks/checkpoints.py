"""What checkpoints cost a training, and what reading one back costs, with about 1 GB of state.

    python benchmarks/checkpoints.py [megabytes=1000] [every=60] [saves=5] [repeats=5] [keep=DIRECTORY] [part=all|train|restore]

One training through the loop: an MLP whose weights, AdamW moments and averaged weights are ``megabytes`` together, in batches
of 4, saved every ``every`` steps, ``saves`` times. Two costs of a save are told apart:

* stall: the seconds of ``saving`` in the run's ledger (``goodput.jsonl``), during which no step is computed. Beside it the
  seconds of the steps until the next save, hence the interval from which on the stall is below 2 % of them.
* slower steps: the median step while a save is written, hashed and pruned behind, beside the median step while none is, of
  the same run. Writers and steps share the cores; where steps run on an accelerator they do not. The slowest step
  within a few of a save tells whether anything waits that the ledger calls stepping.

Then restoring, as a run does once, each time in a new process, whose memory the system has yet to supply:
``Checkpoints.restore_newest``, which verifies the SHA-256 of every file, takes turns with a raw read of the same files into new
arrays (``numpy.fromfile``), with one into memory that was touched before, and with its two parts one at a time: hashing
the files, and Orbax without any verification. With a cold page cache (every file is dropped from it first) and with a warm
one; medians of ``repeats``, ratios of the same turn. ``keep`` leaves everything there, for ``part=restore`` later.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
import os
from pathlib import Path
from statistics import median
import subprocess
import sys
import tempfile
import time
from typing import Any

SHARE = 0.02
"""Of the steps' time that the loop may wait for saves."""
FILL = 3
"""Steps after a save whose single times say nothing: two are in flight before the loop waits for any."""
NEAR = 5
LAYERS, POINTS, BATCH = 4, 16, 4


def hidden_for(megabytes: float) -> int:
    """The width at which four copies of the weights in float32 are so large."""
    hidden = 16
    while 16e-6 * (LAYERS * hidden**2 + 2 * POINTS**2 * hidden) < megabytes:
        hidden += 16
    return hidden


def settings(root: Path, megabytes: float, every: int, saves: int) -> list[str]:
    return [
        "name=checkpoints", "data=arrays", f"data.root={root}", "data.paths=[maps.npz]", "data.forcings=[x]", "data.diagnostics=[y]",
        "data.split={train:[0.0,0.8],valid:null,test:[0.8,1.0]}",
        "model=mlp", "model.scope=global", f"model.hidden={hidden_for(megabytes)}", f"model.layers={LAYERS}",
        f"train.steps={(saves + 1) * every}", f"train.checkpoint_every={every}", "train.log_every=1",
        f"train.batch_size={BATCH}", "train.curriculum=[{start:0,rollout:1}]", "train.ema=0.99", "optim.learning_rate=1e-4",
        f"run.dir={root / 'run'}",
    ]  # fmt: skip


def machine(before: float) -> str:
    return f"load average {before:.1f} before and {os.getloadavg()[0]:.1f} after, {os.cpu_count()} cores"


# -- saving --------------------------------------------------------------------------------------------


def train(root: Path, megabytes: float, every: int, saves: int) -> None:
    import numpy as np

    from surrogate.cli import load_experiment
    from surrogate.run import loop

    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, POINTS, POINTS)).astype(np.float32)
    np.savez(root / "maps.npz", x=x, y=np.cumsum(x, axis=1))
    ledger: list[tuple[int, float, float, float]] = []  # step, stepping, saving, clock
    written: list[tuple[float, float]] = []  # the clock at the beginning and the end of what goes on behind

    class Ledger(loop.Goodput):
        def record(self, step: int) -> None:
            super().record(step)
            ledger.append((step, self.seconds["stepping"], self.seconds["saving"], time.perf_counter()))

    class Store(loop.Checkpoints):
        def _finish(self, *arguments: Any) -> None:
            began = time.perf_counter()
            super()._finish(*arguments)
            written.append((began, time.perf_counter()))

    loop.Goodput, loop.Checkpoints = Ledger, Store  # type: ignore[misc]
    before = os.getloadavg()[0]
    result = loop.run_training(load_experiment("", settings(root, megabytes, every, saves)), quiet=True)
    peak = result.summary["throughput"]["peak_memory_bytes"]
    size = sum(path.stat().st_size for path in plain_files(newest(root)))
    print(
        f"state on disk {size / 1e9:.2f} GB, {result.summary['parameters']:,} parameters, peak memory {peak / 1e9:.1f} GB"
    )
    report_saving(ledger, written, every, saves)
    print(f"  {machine(before)}", flush=True)


def report_saving(
    ledger: list[tuple[int, float, float, float]], written: list[tuple[float, float]], every: int, saves: int
) -> None:
    at = {step: (stepping, saving) for step, stepping, saving, _ in reversed(ledger)}  # the first line of every step
    stalls = [at[k * every + 1][1] - at[k * every][1] for k in range(1, saves + 1)]
    between = [at[(k + 1) * every][0] - at[k * every][0] for k in range(1, saves + 1)]
    free, busy, near = [], [], []
    for (_, earlier, _, began), (step, stepping, _, ended) in pairwise(ledger):
        since = (step - 1) % every
        if step > every and since < NEAR:
            near.append(stepping - earlier)
        if since < FILL:
            continue
        if any(start < began and ended < end for start, end in written):
            busy.append(stepping - earlier)
        elif (
            step > NEAR and step <= (saves + 1) * every and all(end < began or ended < start for start, end in written)
        ):
            free.append(stepping - earlier)
    step, stall = median(free), median(stalls)
    shares = [a / b for a, b in zip(stalls, between, strict=True)]
    print(f"stall: {', '.join(f'{s:.3f}' for s in stalls)} s (median {stall:.3f}, {stall / step:.2f} steps)")
    print(f"  share of the steps' time, a save every {every} steps ({median(between):.1f} s): median {median(shares):.2%}, "
          f"largest {max(shares):.2%}; below {SHARE:.0%} with a save every {stall / SHARE:.1f} s, {stall / SHARE / step:.0f} steps")  # fmt: skip
    print(f"behind: a save is written in {median([b - a for a, b in written]):.1f} s (median)")
    print(f"  median step {step:.3f} s while nothing is written ({len(free)} steps), "
          f"{median(busy) if busy else float('nan'):.3f} s while something is ({len(busy)} steps)")  # fmt: skip
    extra = median(between) - every * step
    print(f"  longest of the {NEAR} steps after a save {max(near):.3f} s; {extra:.1f} s more in all from save to save "
          f"than {every} undisturbed steps, {extra / median(between):.1%}")  # fmt: skip


def newest(root: Path) -> Path:
    from surrogate.run.checkpoint import Checkpoints

    store = Checkpoints(root / "run" / "checkpoints")
    return store.directory / str(store.steps()[-1])


def plain_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# -- restoring -----------------------------------------------------------------------------------------


SIDES = ("new arrays", "old memory", "restore_newest", "hashing alone", "Orbax alone")


def restore_once(root: Path, side: str, sizes: tuple[float, int, int]) -> float:
    """The seconds of one of ``SIDES``, with imports and compilations done before."""
    import jax
    import numpy as np
    import orbax.checkpoint  # noqa: F401

    from surrogate.cli import load_experiment
    from surrogate.domains.base import find_domain
    from surrogate.optim import make_optimizer
    from surrogate.parallel.placement import Placement
    from surrogate.run import checkpoint, checkpoint_manifest
    from surrogate.run.batches import place
    from surrogate.run.program import StateBuilder

    folder = newest(root)
    paths, step, store = plain_files(folder), int(folder.name), checkpoint.Checkpoints(folder.parent)
    size = sum(path.stat().st_size for path in paths)
    experiment = load_experiment("", settings(root, *sizes))
    domain = place(find_domain(experiment.domain)(experiment), Placement.of(experiment.mesh))
    domain.open()
    like = jax.eval_shape(
        StateBuilder(domain, make_optimizer(experiment.optim, experiment.train.steps), experiment.train)
    )
    manifest, memory = checkpoint_manifest.read_manifest(folder, step), memoryview(b"")
    if side == "old memory":
        memory = memoryview(np.ones(size, np.uint8)).cast("B")
    jax.block_until_ready(jax.numpy.zeros(1))

    def old() -> None:
        at = 0
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                while count := file.readinto(memory[at:]):
                    at += count
        assert at == size, "every byte of every file was read"

    def whole() -> Any:
        found = store.restore_newest(like)
        assert found is not None
        assert found[0] == step, "the newest step is whole"
        return jax.block_until_ready(found[1])

    does: dict[str, Callable[[], Any]] = {
        "new arrays": lambda: [np.fromfile(path, np.uint8) for path in paths],
        "old memory": old,
        "restore_newest": whole,
        "hashing alone": lambda: checkpoint_manifest.verify(folder, step),
        "Orbax alone": lambda: jax.block_until_ready(store._load(like, checkpoint._describe(like), manifest)),
    }
    began = time.perf_counter()
    kept = does[side]()
    seconds = time.perf_counter() - began
    del kept
    store.close()
    return seconds


def restore(root: Path, words: list[str], repeats: int) -> None:
    before, paths = os.getloadavg()[0], plain_files(newest(root))
    size = sum(path.stat().st_size for path in paths)
    print(f"restoring {size / 1e9:.2f} GB in new processes, medians of {repeats}")
    for cold in (True, False):
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        for turn in range(repeats):
            for side in SIDES[turn % len(SIDES) :] + SIDES[: turn % len(SIDES)]:
                for path in paths:
                    drop(path) if cold else path.read_bytes()
                command = [sys.executable, __file__, *words, f"keep={root}", f"part={side}"]
                seconds[side].append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print("cold page cache" if cold else "warm page cache")
        for side, found in seconds.items():
            ratio = median(a / b for a, b in zip(found, seconds["new arrays"], strict=True))
            name = f"raw read into {side}" if side in SIDES[:2] else side
            print(
                f"  {name:24} {median(found):6.2f} s  {size / 1e9 / median(found):6.2f} GB/s  {ratio:5.2f} times that into new arrays"
            )
    print(f"  {machine(before)}", flush=True)


def drop(path: Path) -> None:
    """Out of the page cache, as far as the system has a call for that."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)  # what is not on disk yet stays in the cache
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    if unknown := set(given) - {"megabytes", "every", "saves", "repeats", "keep", "part"}:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; see --help")
    sizes = float(given.get("megabytes", 1000)), int(given.get("every", 60)), int(given.get("saves", 5))
    part = given.get("part", "all")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(given.get("keep", scratch)).absolute()
        root.mkdir(parents=True, exist_ok=True)
        words = [word for word in sys.argv[1:] if word.split("=")[0] not in ("keep", "part")]
        if part == "train":
            train(root, *sizes)
        elif part in SIDES:
            print(restore_once(root, part, sizes))
        if part == "all":  # in another process, whose memory would be in the way here
            subprocess.run([sys.executable, __file__, *words, f"keep={root}", "part=train"], check=True)
        if part in ("all", "restore"):
            restore(root, words, int(given.get("repeats", 5)))


if __name__ == "__main__":
    main()
