"""The contract between a domain (what the data mean) and the training loop (how it is learnt)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
import importlib
from importlib.metadata import entry_points
from typing import Any, ClassVar

from flax import nnx
import jax
import numpy as np

from surrogate.config import Experiment
from surrogate.core.types import PyTree, UserError
from surrogate.parallel.placement import ONE_DEVICE, Placement
from surrogate.parallel.rules import Dims

# variable → metric → lead → value, or the value itself where there are no leads (atoms)
Scores = dict[str, dict[str, Any]]


@dataclass
class Evaluation:
    """What an evaluation found; ``pictures`` is handed to the plotting functions unread.

    ``extra`` goes into ``summary.json`` under its own keys (``crystals``, ``dynamics``, ``uncertainty`` of atoms).
    """

    scores: dict[str, Scores]  # split → scores
    baselines: dict[str, Scores]
    units: dict[str, str]
    rollout: dict[str, Any] | None = None
    pictures: Any = None
    notes: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


class Domain(ABC):
    """What the data mean. One instance serves one experiment, opened once.

    The loop calls, in this order: :meth:`open`, :meth:`build_model`, :meth:`constants`, then
    :meth:`batch` on the host (from a thread) and :meth:`loss` under ``jit`` for every step, and at
    the end :meth:`evaluate` and :meth:`artefact`.
    """

    Data: ClassVar[type[Any]]  # frozen dataclass of the ``data`` settings
    # Whether the samples of a batch are packed into common arrays, whose leading axis then counts such packs.
    packs: ClassVar[bool] = False

    placement: Placement = ONE_DEVICE  # of the run's devices, set before open()

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    @abstractmethod
    def open(self) -> None:
        """Read or index the data, check it, and fit the normalisation on the training split.

        Raises:
            UserError: for anything a person can mend; nothing has been compiled by then.
        """

    def open_shapes(self) -> list[str]:
        """Open what fixes the shapes of all that is compiled, for a plan; reading no more than that.

        Returns:
            What had to be assumed, a sentence each.
        """
        self.open()
        return []

    def batch_shapes(self, stage: Hashable, size: int) -> PyTree:
        """Shapes of a training batch of ``size`` samples, after :meth:`open` or :meth:`open_shapes`."""
        count = size if self.packs else 1
        indices = np.arange(count) % self.num_samples("train", stage)
        length = None if self.packs else size

        def shape(leaf: Any) -> jax.ShapeDtypeStruct:
            whole = leaf.shape if length is None else (length, *leaf.shape[1:])
            return jax.ShapeDtypeStruct(whole, jax.dtypes.canonicalize_dtype(leaf.dtype))

        return jax.tree.map(shape, self.batch("train", indices, stage))

    @abstractmethod
    def build_model(self, rngs: nnx.Rngs) -> nnx.Module:
        """The network, with float32 parameters."""

    @abstractmethod
    def constants(self) -> PyTree:
        """Arrays that every step needs unchanged (static fields, weights, scales)."""

    @abstractmethod
    def num_samples(self, split: str, stage: Hashable) -> int:
        """How many samples a split offers at a stage of the curriculum."""

    @abstractmethod
    def stage(self, step: int) -> Hashable:
        """The stage of the curriculum at a step, which says what its batch and its loss are."""

    def program(self, stage: Hashable) -> Hashable:
        """What of a stage has to be compiled for; each distinct value is compiled once."""
        return stage

    @abstractmethod
    def batch(self, split: str, indices: np.ndarray, stage: Hashable) -> PyTree:
        """Samples ``indices`` (B,) as a pytree of numpy arrays with leading axis B. Called from a thread.

        Of a domain that packs, the leading axis is that of the packs: training samples come with
        ``train.batch_size / (train.accumulate × placement.batch_shards)`` to a pack, others in one.
        """

    @abstractmethod
    def loss(
        self, model: nnx.Module, constants: PyTree, batch: PyTree, key: jax.Array, stage: Hashable
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Scalar float32 loss of a batch, and scalars worth logging. Pure; traced under ``jit``.

        A scalar whose name ends in ``rmse`` is averaged over batches by its square.
        """

    @abstractmethod
    def evaluate(self, graphdef: Any, params: PyTree, split: str = "test") -> Evaluation:
        """Scores on a split beside baselines fitted on the training split."""

    @abstractmethod
    def artefact(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Meaning of the surrogate for its manifest (JSON values), and its arrays (normalisation, static fields)."""

    @abstractmethod
    def golden(self, graphdef: Any, params: PyTree) -> dict[str, np.ndarray]:
        """A few inputs of the model with its outputs, by which another machine checks itself."""

    @classmethod
    @abstractmethod
    def restore(
        cls, manifest: dict[str, Any], arrays: dict[str, np.ndarray], fill: Callable[[nnx.Module], tuple[Any, PyTree]]
    ) -> Any:
        """The surrogate that :meth:`artefact` described.

        Args:
            fill: takes the network, built anew, to its graph definition and the saved weights.
        """

    # -- many devices ----------------------------------------------------------------------------

    def space(self) -> dict[str, int]:
        """Lengths of ``latitude`` and ``longitude`` where the arrays of a batch can be divided along them."""
        return {}

    def batch_dims(self, batch: PyTree) -> PyTree:
        """What the dims of every array of a batch mean: ``batch``, ``latitude``, ``longitude`` or None, a tuple a leaf."""
        return jax.tree.map(lambda _: ("batch",), batch)

    def constant_dims(self, constants: PyTree) -> PyTree:
        """The same of :meth:`constants`."""
        return jax.tree.map(lambda _: (), constants)

    def batch_part(self, split: str, indices: np.ndarray, stage: Hashable, window: dict[str, slice]) -> PyTree:
        """:meth:`batch` with the part of the fields in ``window`` alone; here cut from the whole."""
        batch = self.batch(split, indices, stage)

        def cut(leaf: np.ndarray, dims: Dims) -> np.ndarray:
            return leaf[tuple(window.get(name or "", slice(None)) for name in dims)]

        return jax.tree.map(cut, batch, self.batch_dims(batch))

    def provenance(self) -> list[dict[str, Any]]:
        """Data files with sizes and SHA-256."""
        return []

    def flops(self) -> float:
        """Analytic forward FLOPs of one sample's step; 0 where unknown."""
        return 0.0


_DOMAINS = {"fields": ("surrogate.domains.fields", "Fields"), "atoms": ("surrogate.domains.atoms", "Atoms")}


def find_domain(name: str) -> type[Domain]:
    """The domain registered as ``name`` here or in the ``surrogate.domains`` entry points, or ``module:Class``.

    The form ``module:Class`` is for a person's own configuration; a file that travels with a model
    never reaches it (see :func:`find_registered_domain`).

    Raises:
        UserError: for a name that does not exist or is not a :class:`Domain`.
    """
    if ":" not in name:
        return find_registered_domain(name)
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"domain {name!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Domain)):
        raise UserError(f"domain {name!r} is not a subclass of surrogate.Domain")
    return found


def find_registered_domain(name: str) -> type[Domain]:
    """As :func:`find_domain`, for names alone: what an artefact may ask for."""
    if name in _DOMAINS:
        module, attribute = _DOMAINS[name]
        return getattr(importlib.import_module(module), attribute)
    installed = {e.name: e for e in entry_points(group="surrogate.domains")}
    if name in installed:
        return installed[name].load()
    raise UserError(f"domain {name!r} does not exist; there are {', '.join(sorted({*_DOMAINS, *installed}))}")
