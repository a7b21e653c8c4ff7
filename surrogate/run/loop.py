"""THE training loop: open, build, restore, step, save, score, publish."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
import logging
import os
from pathlib import Path
import resource
import sys
import time
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from surrogate.config import Experiment
from surrogate.core.types import PyTree, UserError
from surrogate.data.pipeline import Prefetcher
from surrogate.data.simulate import cache_directory
from surrogate.domains.base import Domain, find_domain
from surrogate.optim import learning_rate, make_optimizer
from surrogate.parallel import launch
from surrogate.parallel.agree import all_do, any_process, first_does, gather_text, is_first
from surrogate.parallel.mesh import make_cpu_devices
from surrogate.parallel.peers import ending_together
from surrogate.parallel.placement import Placement
from surrogate.run.batches import Batches, place
from surrogate.run.checkpoint import Checkpoints
from surrogate.run.directory import point_latest, run_directory, write_config
from surrogate.run.goodput import Goodput
from surrogate.run.lock import RunLock
from surrogate.run.program import StateBuilder, lower_step
from surrogate.run.progress import Progress
from surrogate.run.provenance import (
    append_history,
    append_jsonl,
    collect,
    truncate_jsonl,
    write_json_atomic,
)
from surrogate.run.replay import Replay, copies
from surrogate.run.results import publish, write_summary
from surrogate.run.signals import StopRequest, stopped_exit_code
from surrogate.run.step import (
    evaluated_params,
    make_train_step,
    mean_of_members,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """Where a run is, how it ended (``complete`` or ``stopped``) and its summary."""

    directory: Path
    status: str
    summary: dict[str, Any]
    exit_code: int = 0


@dataclass
class Throughput:
    """Steady speed: the first step after each compilation is not counted."""

    seconds: float = 0.0
    waited: float = 0.0
    steps: int = 0


def use_compilation_cache(experiment: Experiment) -> None:
    """Keep compiled programs between runs: from command to first step in seconds the second time."""
    directory = experiment.run.compilation_cache or str(cache_directory() / "xla")
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def run_training(experiment: Experiment, *, quiet: bool = False, notebook: bool = False) -> RunResult:
    """Train, score and publish one experiment, resuming what its run directory already holds.

    Args:
        quiet: no bar, no table.
        notebook: signals stop the run and never end the process.

    Raises:
        UserError: for every mistake that a person can mend; nothing of an earlier run is lost.
    """
    began = time.perf_counter()
    make_cpu_devices(experiment.mesh)
    launch.start(experiment.launch)
    placement = Placement.of(experiment.mesh)
    directory = Path(first_does(lambda: str(run_directory(experiment))))
    # A notebook's process must outlive a stopped run.
    with ExitStack() as held, StopRequest(force=not notebook) as stop, ending_together():
        first_does(lambda: _take(directory, experiment, held))
        use_compilation_cache(experiment)
        domain = place(find_domain(experiment.domain)(experiment), placement)
        all_do(domain.open)
        if not experiment.run.dir:
            first_does(lambda: point_latest(directory))
        run = _Run(experiment, directory, domain, stop, quiet)
        run.goodput.add("opening", time.perf_counter() - began)
        return run.go()


def _take(directory: Path, experiment: Experiment, held: ExitStack) -> None:
    held.enter_context(RunLock(directory))
    write_config(directory, experiment)


STOP = "stop"


def _with_stop(step: Any) -> Any:
    """The step with a flag of every device, of which the largest comes back among the scalars: an all-reduce."""

    def stepped(
        state: PyTree, constants: PyTree, batch: PyTree, flags: jax.Array
    ) -> tuple[PyTree, dict[str, jax.Array]]:
        state, scalars = step(state, constants, batch)
        return state, scalars | {STOP: flags.max()}

    return stepped


class _Run:
    """One run from its opened domain to its summary."""

    def __init__(self, experiment: Experiment, directory: Path, domain: Domain, stop: StopRequest, quiet: bool) -> None:
        self.experiment, self.directory, self.domain, self.stop = experiment, directory, domain, stop
        self.config, self.quiet = experiment.train, quiet
        self.began = time.monotonic()
        self.speed = Throughput()
        self.last_loss: float | None = None
        self.placement = domain.placement
        self.mesh = self.placement.sizes
        self.batches = Batches(domain, experiment.train, self.placement)
        self.rows = directory / "metrics.jsonl"
        self.goodput = Goodput(directory / "goodput.jsonl", writes=is_first())

    def go(self) -> RunResult:
        config, experiment = self.config, self.experiment
        self.optimizer = make_optimizer(experiment.optim, config.steps)
        with self.goodput.during("compiling"):
            state = self._create()
        self.num_parameters = sum(p.size for p in jax.tree.leaves(state["params"]))
        self.constants = self.domain.constants()
        if self.placement.mesh is not None:
            self.constants = self.placement.put(self.constants, self.domain.constant_dims(self.constants))
        checkpoints = Checkpoints(self.directory / "checkpoints", keep=config.keep_checkpoints)
        try:
            with self.goodput.during("restoring"):
                state, start = self._restore(checkpoints, state)
            self.goodput.resume(start)
            state = self._train(checkpoints, state, start)
            done = int(state["step"])
            if done < config.steps:
                summary = write_summary(self, "stopped", done)
                log.info("stopped by %s at step %d of %d; the same command with run.dir=%s goes on",
                         self.stop.reason, done, config.steps, self.directory)  # fmt: skip
                return RunResult(self.directory, "stopped", summary, stopped_exit_code())
            checkpoints.wait()
        finally:
            checkpoints.close()
        params = evaluated_params(state, config)
        if self.placement.mesh is not None:
            params = self.placement.fetch(params)
        summary = publish(self, self.graphdef, params, done)
        return RunResult(self.directory, "complete", summary)

    def _create(self) -> dict[str, Any]:
        """The state before the first update; sets ``graphdef`` and ``shardings``."""
        build = StateBuilder(self.domain, self.optimizer, self.config)
        self.shardings = None
        options: dict[str, Any] = {}
        if self.placement.mesh is not None:
            self.shardings = build.shardings(self.placement, jax.eval_shape(build))
            options["out_shardings"] = self.shardings
        # One program that runs once: random generators are slow to optimise, an array at a time most of all.
        program = jax.jit(build, **options).lower().compile(compiler_options={"xla_backend_optimization_level": "0"})
        self.graphdef = build.graphdef
        return program()

    def _restore(self, checkpoints: Checkpoints, state: dict[str, Any]) -> tuple[dict[str, Any], int]:
        provenance = self.directory / "provenance.json"

        def begin() -> None:
            if not provenance.exists():
                data = self.domain.provenance()
                record = collect(self.experiment.resolved, data, {"train": self.config.seed}, self.mesh)
                write_json_atomic(provenance, record)

        def go_on(step: int) -> None:
            if found is not None:
                event = {"event": "resume", "step": step, "mesh": self.mesh, "processes": jax.process_count()}
                append_history(provenance, event)
                log.info("resuming %s at step %d of %d", self.directory, step, self.config.steps)
            if self.rows.exists():
                truncate_jsonl(self.rows, step)

        first_does(begin)
        found = checkpoints.restore_newest(state)
        start = 0
        if found is not None:
            start, state, extra = found
            self.began -= float(extra.get("seconds", 0.0))
        first_does(lambda: go_on(start))
        return state, start

    def _save(self, checkpoints: Checkpoints, step: int, state: dict[str, Any]) -> None:
        with self.goodput.during("saving"):
            checkpoints.save(step, state, {"seconds": time.monotonic() - self.began})

    def _shape(self, x: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=None if self.placement.mesh is None else x.sharding)

    def _compile(self, state: dict[str, Any], start: int) -> dict[Any, Future[Any]]:
        """The executables that are still to come: the first stage's now, the others beside its steps."""
        programs: dict[Any, Future[Any]] = {}
        # Shapes only: the loop gives its arrays away.
        shapes = jax.tree.map(self._shape, state)
        first: dict[Any, int] = {}
        for s in range(start, self.config.steps):
            first.setdefault(self.domain.program(self.domain.stage(s)), s)

        def build(at: int) -> Any:
            stage = self.domain.stage(at)
            step = make_train_step(self.domain, self.graphdef, self.optimizer, self.config, stage)
            arguments: tuple[Any, ...] = (shapes, self.constants, self.batches.train(at))
            if jax.process_count() > 1:
                step, arguments = _with_stop(step), (*arguments, self.placement.flags(False))
            return lower_step(step, self.placement, self.shardings, arguments).compile()

        # Of several processes all compile all before the first step: none may meet the others' collectives late.
        beside = ThreadPoolExecutor(1, thread_name_prefix="compile") if jax.process_count() == 1 else None
        for program, at in first.items():
            if programs and beside is not None:
                programs[program] = beside.submit(build, at)
            else:
                programs[program] = Future()
                programs[program].set_result(build(at))
        if beside is not None:
            beside.shutdown(wait=False)
        return programs

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to stop; a collective operation."""
        if any_process(self.stop.requested):
            self.stop.request("another process")
        return self.stop.requested

    def _train(self, checkpoints: Checkpoints, state: dict[str, Any], start: int) -> dict[str, Any]:
        config = self.config
        if start >= config.steps:
            return state
        schedule = learning_rate(self.experiment.optim, config.steps)
        with self.goodput.during("compiling"):
            programs = self._compile(state, start)
        if self._asked_to_stop():
            return state
        several = jax.process_count() > 1
        flags = {flag: (self.placement.flags(flag),) if several else () for flag in (False, True)}
        with self.goodput.during("validating"):
            validate = self._validator()

        # Placed on the devices in the reader's thread, so that the loop finds it there.
        reader = Prefetcher(self.batches.train, start, config.steps, config.prefetch, config.reader_timeout)
        replay = Replay()
        bar = Progress(config.steps, start, samples_per_step=config.batch_size, enabled=not self.quiet and is_first())
        if self.placement.mesh is None:
            state = jax.device_put(state)  # no implicit transfer is left for the loop
        pending: tuple[int, dict[str, jax.Array], float, float, int] | None = None
        in_flight: list[dict[str, jax.Array]] = []
        mark, waited, counted, last_saved, agreed = time.perf_counter(), 0.0, 0, start, False
        try:
            with bar, jax.transfer_guard("disallow"):
                for step, batch in reader:
                    needed = self.domain.program(self.domain.stage(step))
                    ready = programs[needed].done()
                    program = self._when_compiled(programs, needed)
                    if program is None:
                        break
                    if not ready:
                        now = time.perf_counter()
                        self.goodput.add("compiling", now - mark)
                        mark, waited, counted = now, reader.waited, 0
                    inputs = (self.constants, batch, *flags[self.stop.requested])
                    if config.replay_every and (step + 1) % config.replay_every == 0:
                        state, scalars = replay(program, state, *inputs, step=step + 1)
                    else:
                        state, scalars = program(state, *inputs)
                    # At most two steps in flight: the device never starves, and memory stays bounded.
                    in_flight.append(scalars)
                    if len(in_flight) > 2:
                        earlier = in_flight.pop(0)
                        earlier["loss"].block_until_ready()
                        if several and jax.device_get(earlier.pop(STOP)):
                            self.stop.request("another process")
                            agreed = True
                    done, counted = step + 1, counted + 1
                    if done % config.log_every == 0 or done == config.steps:
                        now = time.perf_counter()
                        if pending is not None:
                            self._log(pending, schedule)
                        pending = (done, scalars, now - mark, reader.waited - waited, counted)
                        self._account(now - mark, reader.waited - waited, done)
                        mark, waited, counted = now, reader.waited, 0
                    if validate is not None and (done % config.valid_every == 0 or done == config.steps):
                        self._account(time.perf_counter() - mark, reader.waited - waited, done)
                        with self.goodput.during("validating"):
                            state = self._validate(validate, state, done)
                        mark, waited, counted = time.perf_counter(), reader.waited, 0
                    # Of several processes all see the flag of the same earlier step, so all stop at the same one.
                    if agreed if several else self.stop.requested:
                        break
                    if done % config.checkpoint_every == 0 and done < config.steps:
                        jax.block_until_ready(state)  # what is still computed is no cost of the save
                        began = time.perf_counter()
                        self._save(checkpoints, done, state)
                        mark += time.perf_counter() - began
                        last_saved = done
                    bar.update(done, loss=self.last_loss, wait=reader.waited)
                if pending is not None:
                    self._log(pending, schedule)
        finally:
            reader.close()
            for program in programs.values():
                program.cancel()
        done = int(state["step"])
        if done > last_saved:
            self._save(checkpoints, done, state)
            with self.goodput.during("saving"):
                checkpoints.wait()
        self.goodput.record(done)
        return state

    def _when_compiled(self, programs: dict[Any, Future[Any]], needed: Any) -> Any:
        """The executable ``needed`` as soon as it is there; None when the run is to stop before that."""
        for program in programs.values():
            if program.done():
                program.result()  # a stage that cannot be compiled ends the run now and not when its time comes
        while not wait([programs[needed]], timeout=0.2).done:
            if self.stop.requested:
                return None
        return programs[needed].result()

    def _account(self, seconds: float, waited: float, step: int) -> None:
        """Enter the seconds until ``step`` in the ledger."""
        self.goodput.add("reading", waited)
        self.goodput.add("stepping", seconds - waited)
        self.goodput.record(step)

    def _log(self, pending: tuple[int, dict[str, jax.Array], float, float, int], schedule: Any) -> None:
        """Write the line of an earlier step, whose values have long been computed."""
        step, scalars, seconds, waited, steps = pending
        values = {k: v.item() for k, v in jax.device_get(scalars).items() if k != STOP}
        row: dict[str, Any] = {"step": step, **values}
        with jax.transfer_guard("allow"):
            row["learning_rate"] = float(schedule(step))
        if steps:
            row["samples_per_s"] = steps * self.config.batch_size / seconds
            row["input_wait_fraction"] = waited / seconds
            self.speed.seconds += seconds
            self.speed.waited += waited
            self.speed.steps += steps
        self._write_row(row)
        self.last_loss = values["loss"]
        if values["skipped"] and self.config.nonfinite == "stop":
            raise UserError(
                f"the loss or its gradient was not finite by step {step} and train.nonfinite=stop; "
                f"the last checkpoint in {self.directory} is from before"
            )
        if values["streak"] >= self.config.max_nonfinite:
            raise UserError(
                f"{values['streak']} updates in a row up to step {step} had a non-finite loss or gradient; "
                "lower optim.learning_rate or look at the data"
            )

    def _write_row(self, row: dict[str, Any]) -> None:
        if is_first():
            append_jsonl(self.rows, row)

    # -- validation ------------------------------------------------------------------------------

    def _validator(self) -> Any:
        """Mean validation loss and scalars on fixed samples at the curriculum's last stage, compiled; None without any."""
        config = self.config
        stage = self.domain.stage(config.steps - 1)
        size = self.domain.num_samples("valid", stage)
        if not size:
            if config.select == "best":
                raise UserError("train.select=best needs a validation split; give data.split.valid")
            return None
        count = min(size, config.valid_samples)
        if count > config.batch_size:
            count -= count % config.batch_size  # whole batches: one shape, one compilation
        chosen = np.unique(np.linspace(0, size - 1, count).round().astype(int))
        chunks = np.array_split(chosen, -(-len(chosen) // config.batch_size))
        batches = [(len(c), self.batches.read("valid", c, stage)) for c in chunks]
        key = jax.random.key(0)

        @self.placement.jit
        def loss(params: PyTree, constants: PyTree, batch: PyTree) -> dict[str, jax.Array]:
            def one(params: PyTree) -> dict[str, jax.Array]:
                value, scalars = self.domain.loss(nnx.merge(self.graphdef, params), constants, batch, key, stage)
                return {"loss": value, **scalars}

            return mean_of_members(jax.vmap(one)(params)) if config.ensemble > 1 else one(params)

        def validate(params: PyTree) -> dict[str, float]:
            total: dict[str, float] = {}
            for n, batch in batches:
                for name, value in jax.device_get(loss(params, self.constants, batch)).items():
                    part = float(value) ** 2 if name.endswith("rmse") else float(value)
                    total[name] = total.get(name, 0.0) + n * part / len(chosen)
            return {n: v**0.5 if n.endswith("rmse") else v for n, v in total.items()}

        return validate

    def _validate(self, validate: Any, state: dict[str, Any], step: int) -> dict[str, Any]:
        with jax.transfer_guard("allow"):
            weights = state["ema"] if self.config.ema else state["params"]
            found = validate(weights)
            self._write_row({"step": step, **{f"valid_{name}": value for name, value in found.items()}})
            value = found["loss"]
            if self.config.select == "best" and value < float(state["best_loss"]):
                best = jnp.asarray(value, jnp.float32)
                if self.shardings is None:
                    weights = jax.tree.map(jnp.copy, weights)
                else:
                    best = self.placement.put(best)
                    weights = jax.jit(copies, out_shardings=self.shardings["best"])(weights)
                state = state | {"best": weights, "best_loss": best}
        return state

    # -- numbers for the summary -----------------------------------------------------------------

    def throughput(self) -> dict[str, Any]:
        speed, batch = self.speed, self.config.batch_size
        samples = speed.steps * batch / speed.seconds if speed.seconds else None
        # Linux counts in KiB, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        forward = self.domain.flops()
        each = None
        if jax.process_count() > 1:
            each = [int(text) for text in gather_text(str(self.batches.bytes_read))]
        return {
            "samples_per_s": samples,
            "step_ms": 1000 * speed.seconds / speed.steps if speed.steps else None,
            "input_wait_fraction": speed.waited / speed.seconds if speed.seconds else None,
            # A backward pass costs twice the forward one. Rollout steps count as samples of their own.
            "model_flops_per_s": 3 * forward * self._model_calls() / speed.seconds if speed.seconds else None,
            "peak_memory_bytes": float(peak),
            "cpu_seconds": time.process_time(),
            "bytes_read": self.batches.bytes_read if each is None else sum(each),
            **({} if each is None else {"bytes_read_by_process": each}),
            "threads": os.cpu_count(),
        }

    def _model_calls(self) -> float:
        """Model evaluations (forward) in the steps that were timed, by the mean rollout of the curriculum."""
        stages = [self.domain.stage(s) for s in range(self.config.steps)]
        mean = float(np.mean([max(int(s), 1) if isinstance(s, int) else 1 for s in stages]))
        return self.speed.steps * self.config.batch_size * mean

    def seconds(self) -> float:
        return time.monotonic() - self.began
