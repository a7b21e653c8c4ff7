"""The one table from what a dim means to the mesh axes that divide it, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math

import jax
from jax.sharding import PartitionSpec

from surrogate.core.types import UserError
from surrogate.parallel.mesh import active_mesh

Dims = tuple[str | None, ...]

RULES: dict[str, tuple[str, ...]] = {
    # Data and fields.
    "batch": ("data", "fsdp"),
    "latitude": ("lat",),
    "longitude": ("lon",),
    # Parameters: every matrix is divided along the dim that the residual stream has, and gathered where it is used.
    "embed": ("fsdp",),
    "mlp": (),
    "heads": (),
}

# A parameter of fewer elements is kept whole where no dim can be divided: biases, gains.
SMALL = 2**14


def partition(dims: Dims, shape: Sequence[int], sizes: Mapping[str, int], what: str) -> PartitionSpec:
    """The division of an array whose leading dims bear the names ``dims`` (None: whole).

    Args:
        sizes: devices along each mesh axis.
        what: the array's name in messages.

    Raises:
        UserError: naming axis, dim and numbers where one does not divide the other.
    """
    entries: list[tuple[str, ...] | None] = []
    for name, length in zip(dims, shape, strict=False):
        axes = tuple(a for a in RULES[name] if sizes[a] > 1) if name is not None else ()
        count = math.prod(sizes[a] for a in axes)
        if length % count:
            words = " × ".join(f"mesh.{a}={sizes[a]}" for a in axes)
            raise UserError(f"{words} does not divide the {length} of the dim {name!r} of {what} ({_times(shape)})")
        entries.append(axes or None)
    return PartitionSpec(*entries)


def batch_dims(dims: Dims, length: int, sizes: Mapping[str, int]) -> Dims:
    """``dims`` with the batch whole where it cannot be divided: the last chunk of an evaluation, a single sample."""
    count = math.prod(sizes[a] for a in RULES["batch"])
    return tuple(None if d == "batch" and length % count else d for d in dims)


def parameter_partition(dims: Dims | None, shape: Sequence[int], sizes: Mapping[str, int], what: str) -> PartitionSpec:
    """The division of a parameter: along its named dims, else along its longest dim that ``fsdp`` divides.

    Raises:
        UserError: for a large parameter that cannot be divided, naming axis, dims and numbers.
    """
    count = sizes["fsdp"]
    if count == 1 or not shape:
        return PartitionSpec()
    named = [i for i, name in enumerate(dims or ()) if name is not None and "fsdp" in RULES.get(name, ())]
    for place in (*named, *sorted(range(len(shape)), key=lambda i: -shape[i])):
        if shape[place] % count == 0:
            return PartitionSpec(*(None,) * place, "fsdp")
    if math.prod(shape) >= SMALL:
        raise UserError(f"mesh.fsdp={count} divides no dim of the parameter {what} ({_times(shape)})")
    return PartitionSpec()


def constrain(x: jax.Array, *dims: str | None) -> jax.Array:
    """``x`` divided as its ``dims`` say under the mesh of the trace at hand; ``x`` itself without one.

    Raises:
        UserError: as :func:`partition`.
    """
    mesh = active_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, field_partition(x.shape, dims))


def field_partition(shape: Sequence[int], dims: Dims = ("batch", "latitude", "longitude")) -> PartitionSpec:
    """The division of a field inside a model, by default (B, H, W, ...), under the mesh of the trace at hand.

    Raises:
        UserError: as :func:`partition`.
    """
    mesh = active_mesh()
    if mesh is None:
        return PartitionSpec()
    if "batch" in dims:
        dims = batch_dims(dims, shape[dims.index("batch")], mesh.shape)
    return partition(dims, shape, mesh.shape, "a field inside the model")


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
