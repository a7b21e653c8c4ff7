"""Where arrays lie: from host arrays to divided ones and back, and the division of a train state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from surrogate.config import MeshConfig
from surrogate.core.types import PyTree, UserError
from surrogate.parallel.mesh import AXES, make_mesh
from surrogate.parallel.rules import RULES, Dims, batch_dims, parameter_partition, partition


@dataclass(frozen=True)
class Box:
    """What this process's devices need of a batch: rows of it, and a window of the fields."""

    rows: np.ndarray
    window: dict[str, slice]


@dataclass(frozen=True)
class Placement:
    """A mesh, or one device (None), where every method leaves arrays as they would be without it."""

    mesh: Mesh | None = None

    @classmethod
    def of(cls, config: MeshConfig) -> Placement:
        """Raises: UserError: as :func:`surrogate.parallel.mesh.mesh_sizes`."""
        return cls(make_mesh(config))

    @property
    def sizes(self) -> dict[str, int]:
        return dict.fromkeys(AXES, 1) if self.mesh is None else dict(self.mesh.shape)

    @property
    def num_devices(self) -> int:
        return math.prod(self.sizes.values())

    @property
    def batch_shards(self) -> int:
        """Parts that a batch is divided into."""
        return math.prod(self.sizes[a] for a in RULES["batch"])

    def active(self) -> AbstractContextManager[Any]:
        """Around what traces a program for this mesh."""
        return nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    @property
    def whole(self) -> NamedSharding | None:
        """Every device has all of it."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

    def sharding(self, dims: Dims, shape: tuple[int, ...], what: str) -> NamedSharding:
        """Raises: UserError: naming axis, dim and numbers where the mesh does not divide the array."""
        assert self.mesh is not None
        return NamedSharding(self.mesh, partition(dims, shape, self.sizes, what))

    # -- batches ---------------------------------------------------------------------------------

    def check_batch(self, batch_size: int, parts: int) -> None:
        """Raises: UserError: where the mesh does not divide the ``parts`` that a batch is accumulated in."""
        count = self.batch_shards
        if (batch_size // parts) % count:
            axes = " × ".join(f"mesh.{a}={self.sizes[a]}" for a in RULES["batch"] if self.sizes[a] > 1)
            each = f"train.batch_size={batch_size}" + (f" in {parts} parts (train.accumulate)" if parts > 1 else "")
            raise UserError(f"{axes} does not divide the {batch_size // parts} samples of {each}")

    def row_order(self, batch_size: int, parts: int) -> np.ndarray:
        """The order of a batch's samples in which each device has its share of every part, as the step expects it."""
        return np.arange(batch_size).reshape(parts, self.batch_shards, -1).swapaxes(0, 1).ravel()

    def box(self, batch_size: int, space: Mapping[str, int]) -> Box:
        """What this process has to read of a batch whose fields are of the lengths ``space``.

        Raises:
            UserError: where the mesh does not divide them.
        """
        lengths = {"batch": batch_size, **space}
        needed = {}
        for name, length in lengths.items():
            if self.mesh is None:
                needed[name] = np.arange(length)
                continue
            dims = batch_dims((name,), batch_size, self.sizes)
            spans = self.sharding(dims, (length,), "the data").addressable_devices_indices_map((length,)).values()
            needed[name] = np.unique(np.concatenate([np.arange(length)[s] for s in spans if s is not None]))
        # Rows are picked one by one; of a field the smallest rectangle is read.
        window = {name: slice(int(needed[name][0]), int(needed[name][-1]) + 1) for name in space}
        return Box(needed["batch"], window)

    def assemble(self, part: PyTree, dims: PyTree, batch_size: int, space: Mapping[str, int], box: Box) -> PyTree:
        """Divided arrays of a whole batch from the ``part`` of it in ``box`` that this process has read."""
        if self.mesh is None:
            return jax.device_put(part)
        place = np.full(batch_size, -1)
        place[box.rows] = np.arange(len(box.rows))

        def build(leaf: np.ndarray, names: Dims) -> jax.Array:
            names = batch_dims(names, batch_size, self.sizes)
            full = [batch_size, *leaf.shape[1:]]
            for i, name in enumerate(names):
                if name is not None and name in space:
                    full[i] = space[name]
            shape = tuple(full)

            def cut(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None  # asked for by every device of this process
                rows = place[np.arange(batch_size)[index[0]]]
                assert (rows >= 0).all()
                own = [slice(rows[0], rows[-1] + 1) if (np.diff(rows) == 1).all() else rows]
                for i, wanted in enumerate(index[1:], 1):
                    name = names[i] if i < len(names) else None
                    offset = box.window[name].start if name is not None and name in space else 0
                    low, high, _ = wanted.indices(shape[i])
                    own.append(slice(low - offset, high - offset))
                return leaf[tuple(own)]

            return jax.make_array_from_callback(shape, self.sharding(names, shape, "the data"), cut)

        return jax.tree.map(build, part, dims)

    def put(self, tree: PyTree, dims: PyTree | None = None) -> PyTree:
        """Arrays that every process has, divided by ``dims`` (a tree with one :data:`Dims` a leaf) or whole everywhere."""
        if self.mesh is None:
            return jax.device_put(tree)

        def build(leaf: Any, names: Dims) -> jax.Array:
            shape = np.shape(leaf)
            if shape and "batch" in names:
                names = batch_dims(names, shape[names.index("batch")], self.sizes)
            return _divide(leaf, self.sharding(names, shape, "the data"))

        return jax.tree.map(build, tree, jax.tree.map(lambda _: (), tree) if dims is None else dims)

    def shapes(self, tree: PyTree, dims: PyTree) -> PyTree:
        """The shapes of :meth:`put`, for programs that are compiled without arrays."""

        def build(leaf: Any, names: Dims) -> jax.ShapeDtypeStruct:
            if self.mesh is None:
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            if leaf.shape and "batch" in names:
                names = batch_dims(names, leaf.shape[names.index("batch")], self.sizes)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.sharding(names, leaf.shape, "the data"))

        return jax.tree.map(build, tree, dims)

    def whole_batches(self, size: int) -> int:
        """``size`` or, where the mesh does not divide that, the next larger size that it divides."""
        return -(-size // self.batch_shards) * self.batch_shards

    def fetch(self, tree: PyTree) -> PyTree:
        """NumPy arrays of all of ``tree``, on every process: a collective operation where there are several."""

        def whole(leaf: Any) -> Any:
            if not isinstance(leaf, jax.Array):
                return leaf
            if leaf.is_fully_addressable or leaf.is_fully_replicated:
                return np.asarray(leaf)
            from jax.experimental import multihost_utils

            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

        return jax.tree.map(whole, tree)

    def flags(self, flag: bool) -> jax.Array:
        """One number a device: 1 on those of this process where ``flag``."""
        assert self.mesh is not None
        sharding = NamedSharding(self.mesh, PartitionSpec(AXES))
        own = np.array([int(flag)], np.int32)
        return jax.make_array_from_callback((self.num_devices,), sharding, lambda index: own)

    # -- states ----------------------------------------------------------------------------------

    def state_shardings(self, state: PyTree, names: Mapping[str, Dims]) -> PyTree:
        """Shardings of a train state: of parameters, and of moments and averages that mirror them.

        Args:
            state: arrays or shapes; its ``params`` are the parameters.
            names: logical dims of those parameters that name them, by path.

        Raises:
            UserError: for a large parameter that the mesh cannot divide.
        """
        mesh = self.mesh
        assert mesh is not None
        found: dict[str, tuple[tuple[int, ...], PartitionSpec]] = {}
        for path, leaf in jax.tree_util.tree_flatten_with_path(state["params"])[0]:
            name = path_name(path)
            found[name] = leaf.shape, parameter_partition(names.get(name), leaf.shape, self.sizes, name)

        def choose(path: Any, leaf: Any) -> NamedSharding:
            parts = path_name(path).split("/")
            for start in range(len(parts)):
                shape, spec = found.get("/".join(parts[start:]), ((-1,), PartitionSpec()))
                if shape == leaf.shape:
                    return NamedSharding(mesh, spec)
            return NamedSharding(mesh, PartitionSpec())

        return jax.tree_util.tree_map_with_path(choose, state)

    def put_params(self, params: PyTree) -> PyTree:
        """Host parameters, divided as in training but for names that only the training's graph has."""
        if self.mesh is None:
            return params
        shardings = self.state_shardings({"params": params}, {})["params"]
        return jax.tree.map(_divide, params, shardings)

    def jit(self, fn: Callable[..., Any], **options: Any) -> Any:
        """``jax.jit(fn)`` that traces for this mesh."""
        compiled = jax.jit(fn, **options)
        if self.mesh is None:
            return compiled

        def call(*arguments: Any) -> Any:
            with self.active():
                return compiled(*arguments)

        return call


ONE_DEVICE = Placement()


def _divide(leaf: Any, sharding: NamedSharding) -> jax.Array:
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def path_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
