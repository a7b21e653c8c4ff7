"""Symmetries of the data as augmentation: what a physical law does not distinguish need not be learnt twice."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from surrogate.core.spec import Grid
from surrogate.core.types import PyTree, UserError


def _flip_rows(x: jax.Array) -> jax.Array:
    return jnp.flip(x, -3)


def _flip_columns(x: jax.Array) -> jax.Array:
    return jnp.flip(x, -2)


def _transpose(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -3, -2)


def square_symmetries() -> list[Callable[[jax.Array], jax.Array]]:
    """The eight symmetries of a square, acting on (..., H, W, C) with H = W."""
    found: list[Callable[[jax.Array], jax.Array]] = []
    for code in range(8):

        def apply(x: jax.Array, code: int = code) -> jax.Array:
            x = _flip_rows(x) if code & 1 else x
            x = _flip_columns(x) if code & 2 else x
            return _transpose(x) if code & 4 else x

        found.append(apply)
    return found


def random_square(batch: PyTree, key: jax.Array) -> PyTree:
    """Apply one random symmetry of the square to all fields (..., H, W, C) of a batch.

    Right where domain, boundary conditions and law have that symmetry and the fields are scalars.
    """
    actions = [lambda b, f=f: jax.tree.map(f, b) for f in square_symmetries()]
    return jax.lax.switch(jax.random.randint(key, (), 0, 8), actions, batch)


def check_square(grid: Grid) -> None:
    """Raises: UserError: where the grid is not a square plane."""
    height, width = grid.shape
    if grid.kind != "plane" or height != width or grid.periodic:
        raise UserError(f"data.augment=square needs a square plane; the grid is a {grid.kind} of {height} × {width}")
