"""Symmetries of the data as augmentation: what a physical law does not distinguish need not be learnt twice."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from surrogate.core.spec import Grid
from surrogate.core.types import PyTree, UserError


def random_transpose(batch: PyTree, key: jax.Array) -> PyTree:
    """Exchange rows and columns of all fields (..., H, W, C) of a batch, half of the times.

    Right where domain, sampling, boundary conditions and law have that symmetry and the fields are scalars.
    """

    def exchange(fields: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.swapaxes(x, -3, -2), fields)

    return jax.lax.cond(jax.random.bernoulli(key), exchange, lambda fields: fields, batch)


def check_square(grid: Grid) -> None:
    """Raises: UserError: where the grid is not a square plane."""
    height, width = grid.shape
    if grid.kind != "plane" or height != width or grid.periodic:
        raise UserError(f"data.augment=transpose needs a square plane; the grid is a {grid.kind} of {height} × {width}")
