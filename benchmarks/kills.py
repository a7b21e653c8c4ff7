"""Kill a training with SIGKILL at random moments, again and again: its final state must be that of a run left alone.

    python benchmarks/kills.py [kills=200] [steps=240] [seed=0] [out=kills.jsonl] [keep=DIRECTORY]

One run is left alone first. Then the same command is started, killed at a random moment, and started again until it
ends; then it begins anew in an empty directory, until there were so many kills. Three in four moments lie within the
first steps after it is ready, which save every few steps, at a random instant of a random step; the others anywhere
between its first instruction and that: opening, compiling, restoring. At every end the bits of the whole state (weights,
moments, averages, counters) and of the published weights are compared with those of the run that was left alone, and
the samples of every step that any of the processes read with its samples. A small network and one compilation cache,
and processes are forked after their imports, so that a start takes seconds.

``out`` gets a line a kill: ``moment`` seconds after the start, ``phase``, ``resumed`` and ``reached`` (steps), and a line an
end. Exit code 1 where anything differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import hashlib
import importlib
from importlib.metadata import version
import json
from multiprocessing import get_context
import os
from pathlib import Path
import random
import sys
import tempfile
import time
from typing import Any

SAVE_EVERY = 6
WINDOW = 4 * SAVE_EVERY
"""Steps after the run is ready within which most kills fall."""
WAIT = 600.0


# -- the process that is killed ----------------------------------------------------------------------


def child(words: list[str]) -> None:
    """``python -m surrogate.train`` that notes the samples it reads and, at the end, its state's hash."""
    notes = Path(words[0])
    output = os.open(notes / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    import jax

    from surrogate import train
    from surrogate.run import batches, loop

    indices, trained, cache = batches.batch_indices, loop._Run._train, loop.use_compilation_cache
    samples = os.open(notes / "samples.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def noted(seed: int, step: int, batch_size: int, size: int) -> Any:
        found = indices(seed, step, batch_size, size)
        os.write(samples, f"{json.dumps([step, found.tolist()])}\n".encode())  # one call: a kill cannot tear it
        return found

    def keep_all(experiment: Any) -> None:
        cache(experiment)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    def hashed(self: Any, checkpoints: Any, state: Any, start: int) -> Any:
        state = trained(self, checkpoints, state, start)
        (notes / "final").write_text(f"{int(state['step'])} {state_hash(state)}")
        return state

    batches.batch_indices = noted  # type: ignore[assignment]
    loop._Run._train = hashed  # type: ignore[method-assign]
    loop.use_compilation_cache = keep_all
    sys.argv = ["surrogate.train", *words[1:]]
    train.main()


def state_hash(state: Any) -> str:
    """SHA-256 over names, types and bits of all leaves."""
    import jax
    import numpy as np

    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        value = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}\n".encode() + value.tobytes())
    return digest.hexdigest()


# -- the campaign ------------------------------------------------------------------------------------


@dataclass
class Run:
    """One directory, and what its processes noted beside it."""

    directory: Path
    words: list[str]
    notes: Path = field(init=False)

    def __post_init__(self) -> None:
        self.notes = self.directory.with_name(self.directory.name + "-notes")
        self.notes.mkdir(parents=True)

    def start(self) -> Any:
        words = [str(self.notes), *self.words, f"run.dir={self.directory}"]
        process = get_context("fork").Process(target=child, args=(words,))
        process.start()
        return process

    def finish(self) -> None:
        """A process that is left alone."""
        process = self.start()
        process.join()
        self.check(process.exitcode)

    def check(self, code: int) -> None:
        if code:
            raise RuntimeError(f"a run ended with {code}:\n{(self.notes / 'log').read_text()[-2000:]}")

    def sessions(self) -> list[int]:
        """The step that each process that came so far began to train from."""
        rows = _rows(self.directory / "goodput.jsonl")
        first: dict[int, int] = {}
        for row in rows:
            first.setdefault(row["session"], row["step"])
        return [first[number] for number in sorted(first)]

    def reached(self) -> int:
        """The last step whose line was written."""
        return max((row["step"] for row in _rows(self.directory / "metrics.jsonl")), default=0)

    def samples(self) -> list[tuple[int, list[int]]]:
        return [(row[0], row[1]) for row in _rows(self.notes / "samples.jsonl")]

    def final(self) -> dict[str, str]:
        weights = (self.directory / "model" / "weights.safetensors").read_bytes()
        step, state = (self.notes / "final").read_text().split()
        return {"step": step, "state": state, "weights": hashlib.sha256(weights).hexdigest()}


def _rows(path: Path) -> list[Any]:
    """Complete lines of a JSONL file; a kill may have cut the last one."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1] if line]


def settings(data: Path, steps: int, cache: Path) -> list[str]:
    return [
        f"data.paths=[{data}]", "data.variables=[a]", "data.leads=[1D]",
        "data.split={train:[0.0,0.7],valid:[0.7,0.8],test:[0.8,1.0]}", "model=mlp", "model.hidden=8", "model.layers=1",
        f"train.steps={steps}", "train.batch_size=2", "train.curriculum=[{start:0,rollout:1}]", "train.log_every=1",
        f"train.valid_every={steps // 2}", f"train.checkpoint_every={SAVE_EVERY}", "train.select=best", f"run.compilation_cache={cache}",
    ]  # fmt: skip


def make_data(path: Path) -> None:
    """A field of travelling waves with noise."""
    import numpy as np
    import xarray as xr

    rng = np.random.default_rng(0)
    time_, lon = np.arange(120), np.arange(16) * 22.5
    waves = np.sin(np.deg2rad(lon)[None, None, :] - 0.3 * time_[:, None, None])
    values = waves * np.ones((1, 8, 1)) + 0.1 * rng.normal(size=(120, 8, 16))
    times = np.datetime64("2001-01-01", "ns") + time_ * np.timedelta64(1, "D")
    coords = {"time": times, "latitude": (np.arange(8) + 0.5) * 22.5 - 90, "longitude": lon}
    data = xr.Dataset({"a": (("time", "latitude", "longitude"), values.astype("f4"), {"units": "K"})}, coords)
    data["latitude"].attrs["units"], data["longitude"].attrs["units"] = "degrees_north", "degrees_east"
    data.to_netcdf(path, engine="h5netcdf")


def kill_once(run: Run, moments: random.Random, startup: float) -> tuple[dict[str, Any] | None, float]:
    """Start, and kill at a random moment: the line of the ledger, None where the run ended before; seconds of a start."""
    early = moments.random() < 0.25
    delay = moments.uniform(0, startup if early else 0.1)
    steps = moments.randrange(WINDOW)
    known = len(run.sessions())
    began = time.monotonic()
    process = run.start()
    due: float | None = began if early else None
    try:
        came = False
        while process.is_alive():
            now = time.monotonic()
            if not came and len(sessions := run.sessions()) > known:
                came, startup = True, now - began
            if due is None and came and run.reached() >= sessions[-1] + steps:
                due = now
            if due is not None and now >= due + delay:
                break
            if now > began + WAIT:
                raise TimeoutError(f"{run.directory}: not there after {WAIT:g} s; see {run.notes / 'log'}")
            time.sleep(0.01)
        else:
            run.check(process.exitcode)
            return None, startup
        moment = time.monotonic() - began
    finally:
        process.kill()
        process.join()
    sessions = run.sessions()
    came = len(sessions) > known
    line = {
        "moment": round(moment, 3),
        "phase": "training" if came else "starting",
        "resumed": sessions[-1] if came else None,
        "reached": run.reached() if came else None,
    }
    return line, startup


def campaign(kills: int, steps: int, seed: int, out: Path, root: Path) -> bool:
    """Whether all held."""
    data, cache = root / "data.nc", root / "xla"
    make_data(data)
    # Imported once, here; no device may be used before the processes are forked.
    importlib.import_module("surrogate.cli")
    importlib.import_module("surrogate.run.loop")
    words = settings(data, steps, cache)
    alone = Run(root / "alone", words)
    began = time.monotonic()
    alone.finish()
    seconds = time.monotonic() - began
    expected, order = alone.final(), dict(alone.samples())
    assert sorted(order) == list(range(steps)), "the run that was left alone reads every step's samples"
    with out.open("w") as ledger:

        def write(**row: Any) -> None:
            ledger.write(json.dumps(row) + "\n")
            ledger.flush()
            print(json.dumps(row), flush=True)

        versions = {name: version(name) for name in ("jax", "flax", "orbax-checkpoint")}
        write(kills=kills, steps=steps, seed=seed, python=sys.version.split()[0], versions=versions,
              seconds_alone=round(seconds, 1), final=expected)  # fmt: skip
        moments, startup = random.Random(seed), 5.0
        done = life = same = 0
        while done < kills:
            life += 1
            run, here = Run(root / f"run{life}", words), 0
            while not (run.notes / "ended").exists():
                if done < kills:
                    line, startup = kill_once(run, moments, startup)
                else:
                    line = None
                    run.finish()
                if line is None:
                    (run.notes / "ended").touch()
                else:
                    done, here = done + 1, here + 1
                    write(kill=done, life=life, **line)
            read = run.samples()
            equal = run.final() == expected
            ordered = all(order[step] == samples for step, samples in read) and {s for s, _ in read} == set(order)
            same += equal and ordered
            write(life=life, kills=here, final=run.final(), bitwise_equal=equal, samples_equal=ordered,
                  starts=len(run.sessions()))  # fmt: skip
        write(total_kills=done, lives=life, lives_equal=same, seconds=round(time.monotonic() - began, 1))
    return same == life


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    if unknown := set(given) - {"kills", "steps", "seed", "out", "keep"}:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; see --help")
    numbers = {name: int(given.get(name, default)) for name, default in (("kills", 200), ("steps", 240), ("seed", 0))}
    out = Path(given.get("out", "kills.jsonl"))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(given.get("keep", scratch))
        root.mkdir(parents=True, exist_ok=True)
        sys.exit(not campaign(**numbers, out=out, root=root))


if __name__ == "__main__":
    main()
