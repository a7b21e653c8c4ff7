"""The search for the mesh, batch, recomputation and precision that train fastest on a target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from surrogate.config import Experiment, MeshConfig
from surrogate.core.types import UserError
from surrogate.planning.child import run_in_child
from surrogate.planning.plan import Plan, make_plan
from surrogate.planning.report import seconds, size
from surrogate.planning.target import Target, parse_target, priced


@dataclass
class Candidate:
    """One combination, and its plan where it was compiled; ``reason`` says why not."""

    experiment: Experiment
    plan: Plan | None = None
    reason: str = ""
    best: bool = False

    @property
    def words(self) -> str:
        mesh = " ".join(f"{n}={s}" for n, s in self.experiment.mesh.sizes().items() if s > 1) or "single"
        model = " ".join(
            f"{n}={getattr(self.experiment.model, n)}" for n in ("remat", "dtype") if _has(self.experiment, n)
        )
        return f"{mesh} batch={self.experiment.train.batch_size} {model}"

    @property
    def rate(self) -> float:
        """Samples a second, 0 for what does not fit."""
        return self.experiment.train.batch_size / self.plan.step if self.plan is not None and self.plan.fits else 0.0

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"settings": self.words, "best": self.best, "reason": self.reason}
        if self.plan is not None:
            peak = self.plan.worst.memory.get("peak")
            found |= {"fits": self.plan.fits, "step_seconds": self.plan.step if self.plan.fits else None, "peak": peak,
                      "samples_per_s": self.rate}  # fmt: skip
        return found


def sweep(
    experiment: Experiment, say: Callable[[str], None], keep: Callable[[list[Candidate]], None] = lambda _: None
) -> tuple[Experiment, list[Candidate]]:
    """The experiment with the winning settings, and all candidates that were tried.

    Candidates come in the order of :func:`ranked`, and are compiled for the stage of training with the longest rollout.
    One is passed over where another has shown that it cannot win: the same with recomputation where it fits without, less
    division of parameters where more did not fit.

    Args:
        say: is told each candidate before and after it is compiled.
        keep: is given all so far after each.

    Raises:
        UserError: where no candidate fits the target.
    """
    target = parse_target(experiment.plan.target)
    longest = replace(max(experiment.train.curriculum, key=lambda stage: stage.rollout), start=0.0)
    tried: list[Candidate] = []
    compiled = 0
    for option in ranked(experiment, target):
        if compiled >= experiment.plan.sweep_limit:
            break
        if any(_rules_out(other, option) for other in tried):
            continue
        candidate = Candidate(option)
        say(f"[{compiled + 1} of at most {experiment.plan.sweep_limit}] {candidate.words} ...")
        try:
            candidate.plan = make_plan(replace(option, train=replace(option.train, curriculum=(longest,))))
            candidate.reason = candidate.plan.worst.reason
        except UserError as error:
            candidate.reason = str(error)
        # What the mesh does not divide was refused before anything was compiled.
        compiled += candidate.plan is not None or "divide" not in candidate.reason
        tried.append(candidate)
        say(_line(candidate))
        keep(tried)
        if len(tried) > 8 * experiment.plan.sweep_limit:
            break
    best = max(tried, key=lambda c: c.rate, default=None)
    if best is None or not best.rate:
        last = f"; the last one: {tried[-1].reason}" if tried else ""
        raise UserError(f"none of the {len(tried)} combinations that were tried fits {target.words}{last}")
    best.best = True
    keep(tried)
    return best.experiment, tried


def _rules_out(other: Candidate, option: Experiment) -> bool:
    """Whether ``other``, which was compiled, shows that ``option`` cannot win."""
    if other.plan is None:
        return False
    mine, its = option.mesh.sizes(), other.experiment.mesh.sizes()
    same = option.train.batch_size == other.experiment.train.batch_size
    same &= getattr(option.model, "dtype", None) == getattr(other.experiment.model, "dtype", None)
    again, before = (bool(getattr(e.model, "remat", False)) for e in (option, other.experiment))
    if other.plan.fits:
        return same and mine == its and again and not before
    fields_alike = all(mine[n] == its[n] for n in ("lat", "lon"))
    return same and fields_alike and mine["fsdp"] <= its["fsdp"] and (before or not again)


def ranked(experiment: Experiment, target: Target) -> Iterator[Experiment]:
    """Combinations, the most promising first.

    On paper every device keeps state / fsdp, which must leave a tenth of its memory free, and sends what gathering the
    parameters over fsdp takes; a division of fields costs exchanges in every layer. So: the least division of fields and
    parameters that could fit, first without recomputation.
    """
    options = []
    memory = priced(target.chip, experiment.plan)[2]
    batches = experiment.plan.sweep_batches or (experiment.train.batch_size,)
    remats = experiment.plan.sweep_remat if _has(experiment, "remat") else (None,)
    dtypes = (experiment.plan.sweep_dtypes or (experiment.model.dtype,)) if _has(experiment, "dtype") else (None,)
    one = replace(experiment, mesh=MeshConfig())
    known = run_in_child("surrogate.planning.program:describe", one, parse_target("cpu:1"))
    for mesh in meshes(target.num_devices):
        if known["rows"] % mesh["lat"] or known["columns"] % mesh["lon"]:
            continue
        for batch in batches:
            if (batch // experiment.train.accumulate) % (mesh["data"] * mesh["fsdp"]):
                continue
            for remat in remats:
                for dtype in dtypes:
                    options.append((mesh, batch, remat, dtype))
    least = known["state_bytes"] / (0.9 * memory) if memory else 1

    def order(option: Any) -> tuple[Any, ...]:
        mesh, batch, remat, dtype = option
        short = mesh["fsdp"] < least  # cannot fit
        return short, mesh["lat"] * mesh["lon"], mesh["fsdp"], bool(remat), -batch, dtype != "bfloat16"

    for mesh, batch, remat, dtype in sorted(options, key=order):
        settings = {n: v for n, v in (("remat", remat), ("dtype", dtype)) if v is not None}
        cpu = experiment.mesh.cpu_devices
        yield replace(
            experiment, mesh=MeshConfig(**mesh, cpu_devices=cpu), model=replace(experiment.model, **settings),
            train=replace(experiment.train, batch_size=batch), plan=replace(experiment.plan, sweep=False),
        )  # fmt: skip


def meshes(devices: int) -> Iterator[dict[str, int]]:
    """All divisions of ``devices`` among the axes, with columns of fields divided only where rows are."""
    for lat in _divisors(devices):
        for lon in _divisors(devices // lat):
            if lat > 16 or lon > 16 or (lon > 1 and lat == 1):
                continue
            for fsdp in _divisors(devices // (lat * lon)):
                yield {"data": devices // (lat * lon * fsdp), "fsdp": fsdp, "lat": lat, "lon": lon}


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _has(experiment: Experiment, name: str) -> bool:
    return any(f.name == name for f in fields(experiment.model))


def _line(c: Candidate) -> str:
    if c.plan is None:
        return f"  {c.words}: {c.reason}"
    peak = c.plan.worst.memory.get("peak")
    found = f"{size(peak)}, " if peak else ""
    return f"  {c.words}: {found}" + (
        f"step {seconds(c.plan.step)}, {c.rate:.3g} samples/s" if c.plan.fits else c.reason
    )


def sweep_table(candidates: list[Candidate]) -> str:
    lines = ["Search, * the fastest that fits", *(("*" if c.best else " ") + _line(c)[1:] for c in candidates)]
    return "\n".join(lines) + "\n"
