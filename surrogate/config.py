"""Frozen, validated configuration: what remains of YAML once it is past the door.

:func:`build` turns a plain mapping into a dataclass; an unknown key, a missing key or a value of the
wrong type is a :class:`UserError` that names the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from dataclasses import dataclass, field
import difflib
import types
import typing
from typing import Any, Literal, TypeVar

from surrogate.core.types import UserError

T = TypeVar("T")


def build(cls: type[T], values: Any, where: str) -> T:
    """Build dataclass ``cls`` from a mapping.

    Args:
        values: plain mapping of field name → value; nested mappings become nested dataclasses.
        where: dotted name of the mapping, for messages (``"train"``).

    Raises:
        UserError: for an unknown or missing key, a wrong type, or what ``__post_init__`` refuses.
    """
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a group of settings, not {values!r}")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        if key not in names:
            close = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {where}.{close[0]}?" if close else f"there are {', '.join(names)}"
            raise UserError(f"{where}.{key} is not a setting; {hint}")
        arguments[key] = _convert(hints[key], value, f"{where}.{key}")
    for spec in dataclasses.fields(cls):  # type: ignore[arg-type]
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if spec.init and required and spec.name not in arguments:
            raise UserError(f"{where}.{spec.name} is missing")
    try:
        return cls(**arguments)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [a for a in args if a is not type(None)]
        errors = []
        for option in options:
            try:
                return _convert(option, value, where)
            except UserError as error:
                errors.append(str(error))
        raise UserError(errors[-1])
    if origin is Literal:
        if value in args and type(value) in {type(a) for a in args}:
            return value
        raise UserError(f"{where}={value!r} is not one of {', '.join(map(str, args))}")
    if dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else build(kind, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UserError(f"{where}={value!r} must be a list")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(args) != len(value):
            raise UserError(f"{where}={list(value)!r} must be a list of {len(args)} values")
        return tuple(_convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if origin in (dict, Mapping) or kind is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{where}={value!r} must be a group of name: value")
        inner = args[1] if args else Any
        return {str(k): _convert(inner, v, f"{where}.{k}") for k, v in value.items()}
    return _scalar(kind, value, where)


def _scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    raise UserError(f"{where}={value!r} must be {words.get(kind, kind.__name__)}")


def _positive(owner: Any, *names: str) -> None:
    for name in names:
        if getattr(owner, name) <= 0:
            raise ValueError(f"{name}={getattr(owner, name)} must be positive")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay.

    ``warmup`` is a fraction of the run; ``end`` the final learning rate as a fraction of the peak.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    b1: float = 0.9
    b2: float = 0.99
    clip_norm: float = 1.0
    warmup: float = 0.05
    end: float = 0.01

    def __post_init__(self) -> None:
        _positive(self, "learning_rate", "clip_norm")
        if not 0 <= self.warmup < 1 or not 0 <= self.end <= 1:
            raise ValueError("warmup must lie in [0, 1) and end in [0, 1]")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay} must not be negative")


@dataclass(frozen=True)
class LossConfig:
    """The loss and its weights: by variable name or ``name@level``, and over levels.

    ``kind="mse"`` is the squared error in units of the change that persistence misses; ``relative_l2`` the
    mean over samples of the error's norm over the target's, in physical units, as PDE tasks are scored;
    ``relative_h1`` the same in a norm that counts differences of neighbouring points as well.

    For atoms ``mse`` is the squared error of energy per atom, force components and virial per atom in units of the
    training forces' root mean square, and ``huber`` grows linearly beyond ``delta`` of these units.

    ``levels="pressure"`` weights a variable's levels in proportion to pressure (mass).
    """

    kind: Literal["mse", "relative_l2", "relative_h1", "huber"] = "mse"
    delta: float = 0.1
    variables: dict[str, float] = field(default_factory=dict)
    levels: Literal["equal", "pressure"] = "equal"


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum: from ``start`` (fraction of the run) train on ``rollout`` steps.

    ``variables`` replaces weights of ``train.loss.variables`` from there on (atoms: energy, forces, stress).
    """

    start: float
    rollout: int = 1
    variables: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1 or self.rollout < 1:
            raise ValueError("a stage needs 0 <= start < 1 and rollout >= 1")


@dataclass(frozen=True)
class TrainConfig:
    """How long and on what to train.

    Attributes:
        steps: optimizer updates.
        batch_size: samples an update, over all devices; ``accumulate`` splits it into equal parts.
        curriculum: stages of the loss, in order of ``start``, the first at 0.
        ema: decay of the averaged weights that are evaluated and saved; 0 turns averaging off.
        ensemble: networks trained side by side from different initial weights on the same samples; their spread is an
            uncertainty.
        select: the weights kept at the end: ``last``, or ``best`` by validation loss.
        nonfinite: what a step with a non-finite loss or gradient does: ``skip`` leaves the state as it
            was and counts it, ``stop`` ends the run; ``max_nonfinite`` consecutive skips end it too.
        seed: of initial weights, sample order and dropout.
        reader_timeout: seconds to wait for a batch, as of a file system that stalls, before the run ends.
        replay_every: every so many steps an update is computed twice and compared bit by bit, which finds a device that
            corrupts silently; 0: never.
    """

    steps: int = 2000
    batch_size: int = 4
    accumulate: int = 1
    curriculum: tuple[Stage, ...] = (Stage(0.0, 1), Stage(0.7, 3))
    ema: float = 0.995
    ensemble: int = 1
    select: Literal["last", "best"] = "last"
    loss: LossConfig = LossConfig()
    nonfinite: Literal["skip", "stop"] = "skip"
    max_nonfinite: int = 20
    seed: int = 0
    log_every: int = 20
    valid_every: int = 250
    valid_samples: int = 128
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    prefetch: int = 2
    reader_timeout: float = 300.0
    replay_every: int = 0

    def __post_init__(self) -> None:
        _positive(self, "steps", "batch_size", "accumulate", "ensemble", "max_nonfinite", "log_every", "valid_every",
                  "valid_samples", "checkpoint_every", "keep_checkpoints", "prefetch", "reader_timeout")  # fmt: skip
        if self.replay_every < 0:
            raise ValueError(f"replay_every={self.replay_every} must not be negative")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema={self.ema} must lie in [0, 1)")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} is not a multiple of accumulate={self.accumulate}")
        starts = [s.start for s in self.curriculum]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError("curriculum must begin with start: 0 and go on in increasing order of start")

    def stage_at(self, step: int) -> int:
        """The number of the stage of the curriculum that ``step`` (from 0) belongs to."""
        return sum(s.start * self.steps <= step for s in self.curriculum) - 1

    def rollout_at(self, step: int) -> int:
        """The number of rollout steps that the loss at ``step`` (from 0) spans."""
        return self.curriculum[self.stage_at(step)].rollout


@dataclass(frozen=True)
class EvaluateConfig:
    """What is scored at the end.

    Attributes:
        batch_size: initial times a chunk.
        max_samples: at most this many initial times, evenly spread over the test split.
        rollout: length of the long free run (``365D``); empty: none.
        baselines: which to fit and show; empty: all that apply.
        indices: names of box-mean indices to score, each ``{variable, latitude: [s, n], longitude: [w, e]}``.
        crystals: of a potential, names such as ``Cu-fcc``; ``auto``: those that the training data call for; empty: none.
        dynamics: ps of molecular dynamics at constant energy with a potential, from a configuration of the split; 0: none.
        temperature: K, of these dynamics.
    """

    batch_size: int = 16
    max_samples: int = 400
    rollout: str = ""
    indices: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("rmse", "acc", "bias", "activity")
    crystals: tuple[str, ...] = ("auto",)
    dynamics: float = 2.0
    temperature: float = 300.0

    def __post_init__(self) -> None:
        _positive(self, "batch_size", "max_samples", "temperature")
        if not 0 <= self.dynamics <= 1e6:
            raise ValueError(f"dynamics={self.dynamics} must be a number of picoseconds, 0 for none")


@dataclass(frozen=True)
class RunConfig:
    """Where a run goes: ``dir`` (empty: ``root/<experiment>/<timestamp>``), and how it shows itself."""

    dir: str = ""
    root: str = "runs"
    compilation_cache: str = ""


@dataclass(frozen=True)
class MeshConfig:
    """How many devices along each axis of the mesh; one of them may be -1: all that are left.

    ``data`` and ``fsdp`` divide the batch, ``fsdp`` parameters and optimizer state too; ``lat`` and ``lon`` divide
    the rows and the columns of fields. ``cpu_devices`` makes so many devices of a process's CPU, say one a core:
    two halves of a batch then train side by side. 0 leaves it one device, or what XLA_FLAGS asks for.
    """

    data: int = 1
    fsdp: int = 1
    lat: int = 1
    lon: int = 1
    cpu_devices: int = 0

    def __post_init__(self) -> None:
        if self.cpu_devices < 0:
            raise ValueError(f"cpu_devices={self.cpu_devices} must not be negative")
        for name, size in self.sizes().items():
            if size < 1 and size != -1:
                raise ValueError(f"{name}={size} must be positive, or -1 for all devices that are left")
        if sum(size == -1 for size in self.sizes().values()) > 1:
            raise ValueError("one axis alone can be -1")

    def sizes(self) -> dict[str, int]:
        return {"data": self.data, "fsdp": self.fsdp, "lat": self.lat, "lon": self.lon}


@dataclass(frozen=True)
class LaunchConfig:
    """How the processes of one run find each other.

    Attributes:
        detect: ``auto`` looks for Slurm, OpenMPI and PBS or Cray's launcher (through mpi4py) in the environment;
            a name insists on it; ``none`` is one process.
        coordinator: ``host:port`` of the first process, with ``num_processes`` and ``process_id``: found out otherwise.
        initialization_timeout: seconds to wait for the others at the start.
        heartbeat_timeout: seconds without a sign of life after which a process counts as lost and the others end.
    """

    detect: Literal["auto", "none", "slurm", "openmpi", "mpi4py"] = "auto"
    coordinator: str = ""
    num_processes: int = 0
    process_id: int = -1
    initialization_timeout: int = 300
    heartbeat_timeout: int = 100

    def __post_init__(self) -> None:
        _positive(self, "initialization_timeout", "heartbeat_timeout")
        given = [bool(self.coordinator), self.num_processes > 0, self.process_id >= 0]
        if any(given) and not all(given):
            raise ValueError("coordinator, num_processes and process_id are needed together")
        if self.coordinator and not self.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"coordinator={self.coordinator!r} must be host:port")
        if all(given) and self.process_id >= self.num_processes:
            raise ValueError(f"process_id={self.process_id} must be below num_processes={self.num_processes}")


@dataclass(frozen=True)
class PlanConfig:
    """What ``surrogate.plan`` plans for, and what it assumes; the assumptions are printed with every plan.

    Attributes:
        target: ``tpu:v5p:16x20x28`` (chips along the torus), ``gpu:h100:140x8`` (nodes × GPUs) or ``cpu:512``.
        sweep: search meshes, ``sweep_batches``, ``sweep_remat`` and ``sweep_dtypes`` for the fastest that fits, compiling
            the ``sweep_limit`` candidates that look best; of batches and dtypes that are not given, the experiment's.
        scale: numbers of devices to draw memory, step time and communication over, at the work per device of the target.
        calibrate: run the step on 1 and 2 devices of this machine's CPU and print predicted beside measured.
        keep_text: keep the compiled programs' text beside the plan, for those who want to read it.
        out: directory of plan.json, plan.txt and pictures; empty: ``<run.root>/<experiment>/plan-<target>``.
        efficiency: share of peak that matrix products reach.
        overlap: share of communication that hides behind computation as far as there is any.
        price: of a device, $ an hour; watts: of a device with its share of the host; memory_gb: of a device, 10⁹ bytes.
            Empty: the table of chips.
        pue: power of the whole facility over that of the machine.
        failures: interruptions of the run per device and hour.
        restart: seconds from an interruption to the first step again, without reading the checkpoint.
        storage: bytes/s that a host writes of a checkpoint, in 10⁹; ``storage_total`` that the file system takes.
        host_copy: bytes/s from devices to their host, in 10⁹, during which the loop waits.
    """

    target: str = ""
    keep_text: bool = False
    sweep: bool = False
    scale: tuple[int, ...] = ()
    calibrate: bool = False
    out: str = ""
    efficiency: float = 0.6
    overlap: float = 0.5
    price: float | None = None
    watts: float | None = None
    memory_gb: float | None = None
    pue: float = 1.1
    failures: float = 2e-5
    restart: float = 600.0
    storage: float = 2.0
    storage_total: float = 500.0
    host_copy: float = 10.0
    sweep_batches: tuple[int, ...] = ()
    sweep_remat: tuple[bool, ...] = (False, True)
    sweep_dtypes: tuple[str, ...] = ()
    sweep_limit: int = 8

    def __post_init__(self) -> None:
        _positive(self, "efficiency", "pue", "failures", "storage", "storage_total", "host_copy", "sweep_limit")
        if self.efficiency > 1 or not 0 <= self.overlap <= 1:
            raise ValueError("efficiency must lie in (0, 1] and overlap in [0, 1]")
        for name in ("restart", "price", "watts", "memory_gb"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if any(n < 1 for n in self.scale):
            raise ValueError(f"scale={list(self.scale)} must be numbers of devices")


@dataclass(frozen=True)
class Experiment:
    """One validated experiment. ``data`` and ``model`` hold the domain's and the model's own settings."""

    name: str
    domain: str
    data: Any
    model_name: str
    model: Any
    optim: OptimConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    run: RunConfig
    mesh: MeshConfig = MeshConfig()
    launch: LaunchConfig = LaunchConfig()
    plan: PlanConfig = PlanConfig()
    resolved: dict[str, Any] = field(default_factory=dict, compare=False)
