"""Work on the blocks of divided fields: what neighbours exchange, and nothing gathered.

The functions that take an axis run within :func:`on_blocks`, where an array is one device's block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from surrogate.core.types import PyTree
from surrogate.parallel.mesh import active_mesh, batch_shards, shards
from surrogate.parallel.rules import RULES, Dims, field_partition

FIELD: Dims = ("batch", "latitude", "longitude")


def space_axes() -> tuple[str, ...]:
    """The mesh axes that divide fields under the mesh of the trace at hand."""
    return tuple(axis for axis in ("lat", "lon") if shards(axis) > 1)


def on_blocks(
    fn: Callable[..., jax.Array],
    fields: tuple[jax.Array, ...],
    weights: PyTree = None,
    *,
    dims: Dims = FIELD,
    out: tuple[int, ...] | None = None,
    weight_axes: tuple[str, ...] = (),
) -> jax.Array:
    """``fn(weights, *blocks)`` on every device's blocks of ``fields``, whose leading dims are ``dims`` and of one shape.

    Args:
        weights: arrays that every device has whole; their gradients are summed over the devices.
        out: leading shape of the result, where it differs from that of the fields.
        weight_axes: mesh axes that divide the first dim of the weights, which the caller has made sure of.

    Raises:
        UserError: where the mesh does not divide fields or result.
    """
    spec = field_partition(fields[0].shape, dims)
    to = spec if out is None else field_partition(out, dims)
    whole = PartitionSpec(weight_axes) if weight_axes else PartitionSpec()
    mapped: Any = jax.shard_map(fn, in_specs=(whole, *(spec for _ in fields)), out_specs=to)
    return mapped(weights, *fields)


def sum_over_batch(fn: Callable[[PyTree, PyTree], PyTree], weights: PyTree, batch: PyTree) -> PyTree:
    """The sum over all devices of ``fn(weights, part)``, where ``part`` is a device's share of the leading axis of ``batch``.

    Args:
        weights: arrays that every device has whole; their gradients are summed over the devices.
        batch: arrays of a common leading length. Where the mesh does not divide it, every device has all of it.
    """
    mesh = active_mesh()
    axes = () if mesh is None else tuple(axis for axis in RULES["batch"] if mesh.shape[axis] > 1)
    if not axes or jax.tree.leaves(batch)[0].shape[0] % batch_shards():
        return fn(weights, batch)

    def part(weights: PyTree, own: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jax.lax.psum(x, axes), fn(weights, own))

    mapped: Any = jax.shard_map(part, in_specs=(PartitionSpec(), PartitionSpec(axes)), out_specs=PartitionSpec())
    return mapped(weights, batch)


def own_part(x: Any, length: int, dim: int, axis: str) -> Any:
    """The ``length`` values along ``dim`` of ``x``, which every device has whole, that belong to this device's block.

    ``x`` itself, of whatever kind, where the axis does not divide it.
    """
    if jax.lax.axis_size(axis) == 1:
        return x
    return jax.lax.dynamic_slice_in_dim(jnp.asarray(x), jax.lax.axis_index(axis) * length, length, axis=dim)


def neighbour(x: jax.Array, axis: str, offset: int) -> jax.Array:
    """The block of the device ``offset`` places further along ``axis``, around the end."""
    size = jax.lax.axis_size(axis)
    if offset % size == 0:
        return x
    return jax.lax.ppermute(x, axis, [((i + offset) % size, i) for i in range(size)])


def roll(x: jax.Array, shift: int, dim: int, axis: str) -> jax.Array:
    """``jnp.roll`` along ``dim`` of the whole array, whose blocks lie along the mesh axis ``axis``."""
    size, length = jax.lax.axis_size(axis), x.shape[dim]
    if size == 1:
        return jnp.roll(x, shift, axis=dim)
    whole, rest = divmod(shift % (size * length), length)
    near = neighbour(x, axis, -whole)
    if not rest:
        return near
    # The first values of the result are the last of the block one further back.
    far = neighbour(jax.lax.slice_in_dim(x, length - rest, length, axis=dim), axis, -whole - 1)
    return jnp.concatenate([far, jax.lax.slice_in_dim(near, 0, length - rest, axis=dim)], axis=dim)


def at_end(axis: str, last: bool) -> jax.Array:
    """Whether this device is the first, or the last, along ``axis``."""
    return jax.lax.axis_index(axis) == (jax.lax.axis_size(axis) - 1 if last else 0)


def swap(x: jax.Array, axis: str, split: int, join: int) -> jax.Array:
    """Divide ``split`` instead of ``join`` over ``axis``: an all-to-all that keeps every block's size."""
    if jax.lax.axis_size(axis) == 1:
        return x
    return jax.lax.all_to_all(x, axis, split, join, tiled=True)
