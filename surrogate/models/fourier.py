"""Truncated real Fourier transforms as matrix products.

A transform that keeps few modes is a thin matrix: as a product it needs no FFT and no complex
number, so it runs on every backend and exports everywhere, and it never computes what it drops.

Layout: arrays are (W, H, B·C), so that the column transform, the row transform and the mixing of
channels are all plain matrix products of contiguous memory, with no transpose in between.

Modes are counted as neuraloperator's ``n_modes`` counts them: ``modes=(R, K)`` keeps the row
wavenumbers −⌊R/2⌋ … R−1−⌊R/2⌋, negative and positive, and the column wavenumbers 0 … ⌊K/2⌋, the
negative ones following from a real field. Wavenumbers that a small grid cannot carry have rows of
zeros: they contribute nothing, and the weights keep their shape on every grid.
"""

from __future__ import annotations

from dataclasses import dataclass
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.models.constant_matrix import multiply
from surrogate.parallel.blocks import on_blocks, own_part, space_axes
from surrogate.parallel.mesh import active_mesh, shards


@dataclass(frozen=True)
class FourierMatrices:
    """Real matrices of a truncated 2-D transform; see :func:`fourier_matrices`.

    Shapes, with K kept column and R kept row wavenumbers:
    ``columns`` (2K, W), ``rows`` (2R, 2H), ``inverse_rows`` (2H, 2R), ``inverse_columns`` (W, 2K).
    Real and imaginary part alternate on the spectral side and stand outside H on the mixed side.
    """

    columns: np.ndarray
    rows: np.ndarray
    inverse_rows: np.ndarray
    inverse_columns: np.ndarray


def num_modes(modes: tuple[int, int]) -> tuple[int, int]:
    """(R, K): kept row and column wavenumbers for ``modes`` in neuraloperator's count."""
    return modes[0], modes[1] // 2 + 1


@functools.lru_cache(maxsize=32)
def fourier_matrices(
    shape: tuple[int, int], modes: tuple[int, int], padding: tuple[float, float] = (0.0, 0.0)
) -> FourierMatrices:
    """Matrices of the transform of (H, W) samples, normalised as ``rfft2(norm="forward")``.

    Args:
        shape: (H, W).
        modes: kept modes, in neuraloperator's count.
        padding: extension of each axis as a fraction of its extent. The field counts as zero there
            and the result is cropped: both happen within the matrices, so the extension costs
            nothing and need not be a whole number of points; the wavenumbers are those of the
            extended period, the same at every resolution.

    Returns:
        Float64 matrices. The inverse takes the real part, so a column Nyquist mode counts once.
    """
    (height, width), (num_rows, num_columns) = shape, num_modes(modes)
    period_h, period_w = height * (1 + padding[0]), width * (1 + padding[1])

    k = np.arange(num_columns)
    angle = 2 * np.pi * np.outer(k, np.arange(width)) / period_w
    keep = (k <= period_w / 2).astype(np.float64)[:, None]
    cos, sin = keep * np.cos(angle), keep * np.sin(angle)
    columns = np.stack([cos, -sin], axis=1).reshape(2 * num_columns, width) / period_w
    # A real field has F(−k) = conj F(k): each kept mode stands for two, except the two that are their own mirror.
    twice = np.where((k == 0) | (2 * k == period_w), 1.0, 2.0)[:, None]
    inverse_columns = np.stack([twice * cos, -twice * sin], axis=1).reshape(2 * num_columns, width).T

    q = np.arange(num_rows) - num_rows // 2
    angle = 2 * np.pi * np.outer(q, np.arange(height)) / period_h
    # Of the two Nyquist rows, one and the same on the grid, only the negative one is kept, as by fftfreq.
    keep = ((q >= -period_h / 2) & (q < period_h / 2)).astype(np.float64)[:, None]
    cos, sin = keep * np.cos(angle), keep * np.sin(angle)
    rows = np.empty((num_rows, 2, 2, height))  # (row mode, re|im out, re|im in, H): multiplication by cos − i sin
    rows[:, 0, 0], rows[:, 0, 1], rows[:, 1, 0], rows[:, 1, 1] = cos, sin, -sin, cos
    back = np.empty((2, height, num_rows, 2))  # multiplication by cos + i sin
    back[0, :, :, 0], back[0, :, :, 1], back[1, :, :, 0], back[1, :, :, 1] = cos.T, -sin.T, sin.T, cos.T
    return FourierMatrices(
        columns,
        rows.reshape(2 * num_rows, 2 * height) / period_h,
        back.reshape(2 * height, 2 * num_rows),
        inverse_columns,
    )


def forward(x: jax.Array, matrices: FourierMatrices) -> jax.Array:
    """(W, H, B·C) real field → (K·R, 2, B·C) coefficients, real and imaginary."""
    width, height, rest = x.shape
    num_columns = len(matrices.columns) // 2
    z = multiply(matrices.columns, x.reshape(width, height * rest)).reshape(num_columns, 2 * height, rest)
    # One product per column mode rather than one contraction over all: the result is already in order.
    return multiply(matrices.rows, z).reshape(num_columns * len(matrices.rows) // 2, 2, rest)


def inverse(z: jax.Array, matrices: FourierMatrices) -> jax.Array:
    """(K·R, 2, B·C) coefficients → (W, H, B·C) real field."""
    rest = z.shape[-1]
    rows, columns = matrices.inverse_rows, matrices.inverse_columns
    num_columns, height = columns.shape[1] // 2, len(rows) // 2
    z = multiply(rows, z.reshape(num_columns, rows.shape[1], rest))
    return multiply(columns, z.reshape(2 * num_columns, height * rest)).reshape(-1, height, rest)


def spectral_convolution(x: jax.Array, weight: jax.Array, matrices: FourierMatrices) -> jax.Array:
    """Mix channels by one complex matrix per kept mode: (W, H, B, C) → (W, H, B, D).

    Args:
        weight: (K·R, C, 2·D), the real part beside the imaginary part, column modes outermost.
    """
    if active_mesh() is not None:
        return _divided_convolution(x, weight, matrices)
    width, height, batch, channels = x.shape
    z = forward(x.reshape(width, height, batch * channels), matrices)
    return inverse(_mix(z, weight, batch), matrices).reshape(width, height, batch, -1)


def _mix(z: jax.Array, weight: jax.Array, batch: int) -> jax.Array:
    """(K·R, 2, B·C) coefficients → (K·R, 2, B·D)."""
    modes, channels, out = weight.shape
    # One real product gives the four of (a + ib)(R + iS): rows a and b against R beside S.
    y = jnp.matmul(z.reshape(modes, 2 * batch, channels), weight).reshape(modes, 2, batch, 2, out // 2)
    z = jnp.stack([y[:, 0, :, 0] - y[:, 1, :, 1], y[:, 0, :, 1] + y[:, 1, :, 0]], axis=1)
    return z.reshape(modes, 2, batch * out // 2)


def _divided_convolution(x: jax.Array, weight: jax.Array, matrices: FourierMatrices) -> jax.Array:
    """:func:`spectral_convolution` where a mesh divides the field: it is never gathered.

    Every device transforms its own block; the sum over the blocks, of the kept modes alone, is the transform.
    Where their number allows it, every device mixes its share of the modes.
    """
    space = space_axes()
    divided = bool(space) and len(weight) % math.prod(map(shards, space)) == 0

    def convolve(weight: jax.Array, x: jax.Array) -> jax.Array:
        width, height, batch, channels = x.shape
        own = _own_matrices(matrices, height, width)
        z = forward(x.reshape(width, height, batch * channels), own)
        if divided:
            z = jax.lax.psum_scatter(z, space, scatter_dimension=0, tiled=True)
        elif space:
            z = jax.lax.psum(z, space)
        z = _mix(z, weight, batch)
        if divided:
            z = jax.lax.all_gather(z, space, axis=0, tiled=True)
        return inverse(z, own).reshape(width, height, batch, -1)

    dims = ("longitude", "latitude", "batch")
    return on_blocks(convolve, (x,), weight, dims=dims, weight_axes=space if divided else ())


def _own_matrices(matrices: FourierMatrices, height: int, width: int) -> FourierMatrices:
    """The rows and columns of the matrices that belong to this device's block, within ``on_blocks``."""
    rows, back = matrices.rows, matrices.inverse_rows
    own_rows = own_part(rows.reshape(len(rows), 2, -1).astype(np.float32), height, 2, "lat")
    own_back = own_part(back.reshape(2, -1, back.shape[1]).astype(np.float32), height, 1, "lat")
    parts: Any = (
        own_part(matrices.columns.astype(np.float32), width, 1, "lon"),
        own_rows.reshape(len(rows), 2 * height),
        own_back.reshape(2 * height, back.shape[1]),
        own_part(matrices.inverse_columns.astype(np.float32), width, 0, "lon"),
    )
    return FourierMatrices(*parts)


def convolution_flops(shape: tuple[int, int], modes: tuple[int, int], channels: int, out: int) -> float:
    """Floating-point operations of :func:`spectral_convolution` for one sample; multiply-add is 2."""
    (height, width), (rows, columns) = shape, num_modes(modes)
    transform = 2 * columns * width * height + columns * (2 * rows) * (2 * height)
    return 2.0 * (transform * (channels + out) + 4 * rows * columns * channels * out)
