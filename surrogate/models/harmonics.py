"""Spherical-harmonic transform on latitude-longitude grids as real matrix products.

A real field is f(θ, φ) = Σ_lm a_lm Y_lm(θ, φ) with orthonormal complex harmonics
Y_lm = P̄_lm(sin latitude) e^{imφ}, Condon–Shortley phase included (those of
``scipy.special.sph_harm_y``); only m ≥ 0 is kept, since a_l(−m) = (−1)^m conj a_lm.

Analysis: a_lm = Σ_h A_m[l, h] F_m(h) with the Fourier coefficients F_m of each row. A_m is the
least-squares inverse of P̄_lm on the rows, weighted by the grid's quadrature: where the quadrature
is exact it equals the usual weights × P̄_lm, and on every accepted grid the analysis of a field
that is band-limited to ``lmax`` is exact to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.spec import Grid
from surrogate.core.types import UserError
from surrogate.parallel.blocks import on_blocks, own_part, space_axes
from surrogate.parallel.mesh import active_mesh

RowKind = Literal["gauss", "equiangular with poles", "equiangular without poles", "general"]

# Degrees; coordinates are often stored as float32.
_TOLERANCE = 1e-3
# Least eigenvalue of the quadrature's Gram matrix of P̄_lm (1 where exact) below which rows do not resolve a degree.
_MIN_EIGENVALUE = 0.1


@dataclass(frozen=True)
class HarmonicMatrices:
    """Real matrices of a transform of degree ``lmax`` and orders m < M; float64.

    ``columns`` (2M, W) and ``inverse_columns`` (W, 2M): Fourier in longitude, real and imaginary alternating;
    ``analysis`` (M, lmax + 1, H) and ``synthesis`` (M, H, lmax + 1): Legendre, zero for l < m.
    """

    lmax: int
    columns: np.ndarray
    inverse_columns: np.ndarray
    analysis: np.ndarray
    synthesis: np.ndarray


def legendre(lmax: int, mmax: int, latitude: np.ndarray) -> np.ndarray:
    """Orthonormal associated Legendre functions P̄_lm(sin latitude), (mmax + 1, lmax + 1, H) float64.

    Standard forward-column recurrence in l of the fully normalised functions (Holmes & Featherstone,
    "A unified approach to the Clenshaw summation", J. Geodesy 76, 2002, eqs. 11–13). Sectoral seeds
    that underflow near the poles are below float64 as are the values that matter there up to degree ~1000.

    Args:
        latitude: (H,) degrees.
    """
    x, cos = np.sin(np.deg2rad(latitude)), np.abs(np.cos(np.deg2rad(latitude)))
    p = np.zeros((mmax + 1, lmax + 1, len(x)))
    seed = np.full_like(x, math.sqrt(1 / (4 * math.pi)))
    for m in range(min(mmax, lmax) + 1):
        if m:
            seed = -math.sqrt((2 * m + 1) / (2 * m)) * cos * seed
        p[m, m] = seed
        if m < lmax:
            p[m, m + 1] = math.sqrt(2 * m + 3) * x * seed
        for degree in range(m + 2, lmax + 1):
            a = math.sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
            b = math.sqrt(((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1))
            p[m, degree] = a * (x * p[m, degree - 1] - b * p[m, degree - 2])
    return p


def row_kind(latitude: np.ndarray) -> RowKind:
    """Which family ascending latitudes (degrees) belong to, to within a thousandth of a degree."""
    rows = len(latitude)
    gauss = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(rows)[0]))
    families: dict[RowKind, np.ndarray] = {
        "equiangular with poles": np.linspace(-90, 90, rows),
        "equiangular without poles": (np.arange(rows) + 0.5) * 180 / rows - 90,
        "gauss": gauss,
    }
    for kind, expected in families.items():
        if np.abs(latitude - expected).max() < _TOLERANCE:
            return kind
    return "general"


def quadrature_weights(grid: Grid) -> np.ndarray:
    """Weights of the rows for ∫ f d(sin latitude), (H,) float64 with sum 2.

    Gauss–Legendre (exact to degree 2H − 1), Clenshaw–Curtis with poles and Fejér's first rule without
    (both exact to degree H − 1; Waldvogel, BIT 46, 2006); the cells' areas for any other rows (second order).
    """
    latitude = np.asarray(grid.latitude, np.float64)
    kind, rows = row_kind(latitude), len(latitude)
    if kind == "gauss":
        return np.polynomial.legendre.leggauss(rows)[1]
    if kind == "general":
        area = grid.area_weights()[:, 0]
        return 2 * area / area.sum()
    # Both rules integrate the interpolating cosine series: Σ_h w_h cos(k θ_h) = ∫ cos(kθ) sin θ dθ, k < H.
    theta = np.deg2rad(90 - latitude)
    k = np.arange(rows)
    moments = np.where(k % 2 == 0, 2 / (1.0 - np.where(k % 2 == 0, k, 0) ** 2), 0.0)
    return np.linalg.solve(np.cos(np.outer(k, theta)), moments)


def harmonic_matrices(grid: Grid, lmax: int) -> HarmonicMatrices:
    """Matrices of the transform of ``grid``, to degree ``lmax`` or to the highest that the grid resolves.

    Raises:
        UserError: for a plane, a region, or columns that are not evenly spaced around the globe.
    """
    return _matrices(grid.latitude, grid.longitude, grid.kind, grid.periodic, lmax)


@functools.lru_cache(maxsize=8)
def _matrices(
    latitude: tuple[float, ...], longitude: tuple[float, ...], kind: str, periodic: bool, lmax: int
) -> HarmonicMatrices:
    grid = Grid(latitude, longitude, kind, periodic)  # type: ignore[arg-type]
    height, width = grid.shape
    spacing = np.diff(longitude)
    if kind != "sphere":
        raise UserError("spherical harmonics need a grid on a sphere; this one is a plane: use model=fno or model=unet")
    if not periodic or not grid.has_poles or height < 3 or width < 4:
        raise UserError(
            f"spherical harmonics need the whole globe; this grid spans latitudes {latitude[0]:g} to {latitude[-1]:g} "
            f"and longitudes {longitude[0]:g} to {longitude[-1]:g}: use model=fno or model=unet"
        )
    if np.abs(spacing - 360 / width).max() > 10 * _TOLERANCE:
        raise UserError(f"spherical harmonics need {width} longitudes at equal steps of {360 / width:g} degrees")

    resolved = min(lmax, height - 1)
    mmax = min(resolved, (width - 1) // 2)  # below the Nyquist order, whose sine the columns do not see
    p = legendre(resolved, mmax, np.asarray(latitude, np.float64))
    weights = quadrature_weights(grid)
    gram = 2 * np.pi * np.einsum("mlh,h,mkh->mlk", p, weights, p)
    while any(np.linalg.eigvalsh(g[m:, m:])[0] < _MIN_EIGENVALUE for m, g in _leading(gram, resolved)):
        resolved -= 1
    mmax = min(mmax, resolved)
    p, gram = p[: mmax + 1, : resolved + 1], gram[: mmax + 1, : resolved + 1, : resolved + 1]
    analysis = np.zeros_like(p)
    for m in range(mmax + 1):
        # 2π: F_m is a mean over longitude, while a_lm is an integral.
        analysis[m, m:] = np.linalg.solve(gram[m, m:, m:], 2 * np.pi * p[m, m:] * weights)

    angle = np.outer(np.arange(mmax + 1), np.deg2rad(longitude))
    columns = np.stack([np.cos(angle), -np.sin(angle)], axis=1).reshape(-1, width) / width
    twice = np.where(np.arange(mmax + 1) == 0, 1.0, 2.0)[:, None]
    back = np.stack([twice * np.cos(angle), -twice * np.sin(angle)], axis=1).reshape(-1, width).T
    return HarmonicMatrices(resolved, columns, back, analysis, np.swapaxes(p, 1, 2).copy())


def _leading(gram: np.ndarray, lmax: int) -> list[tuple[int, np.ndarray]]:
    """(m, Gram matrix to degree ``lmax``) for the orders that it has."""
    return [(m, g[: lmax + 1, : lmax + 1]) for m, g in enumerate(gram) if m <= lmax]


def analyse(x: jax.Array, matrices: HarmonicMatrices) -> jax.Array:
    """(W, H, X) real field → (M, 2, lmax + 1, X) coefficients a_lm, real and imaginary; zero for l < m."""
    width, height, rest = x.shape
    columns, legendre_matrix = (jnp.asarray(m, x.dtype) for m in (matrices.columns, matrices.analysis))
    z = (columns @ x.reshape(width, height * rest)).reshape(-1, 2, height, rest)
    return jnp.matmul(legendre_matrix[:, None], z)


def synthesise(z: jax.Array, matrices: HarmonicMatrices) -> jax.Array:
    """(M, 2, lmax + 1, X) coefficients → (W, H, X) real field; inverts :func:`analyse` on band-limited fields."""
    rest = z.shape[-1]
    legendre_matrix, columns = (jnp.asarray(m, z.dtype) for m in (matrices.synthesis, matrices.inverse_columns))
    z = jnp.matmul(legendre_matrix[:, None], z)
    height = z.shape[2]
    return (columns @ z.reshape(-1, height * rest)).reshape(-1, height, rest)


def zonal_convolution(x: jax.Array, weight: jax.Array, matrices: HarmonicMatrices) -> jax.Array:
    """Mix channels by one real matrix per degree: (W, H, B, C) → (W, H, B, D).

    A filter that depends on l alone is a convolution with a zonal kernel (Driscoll & Healy 1994,
    theorem 1) and commutes with every rotation.

    Args:
        weight: (at least lmax + 1, C, D); the degrees beyond the grid's are left unused.
    """
    if active_mesh() is not None:
        return _divided_convolution(x, weight, matrices)
    width, height, batch, channels = x.shape
    z = analyse(x.reshape(width, height, batch * channels), matrices)
    return synthesise(_filter(z, weight, batch), matrices).reshape(width, height, batch, -1)


def _filter(z: jax.Array, weight: jax.Array, batch: int) -> jax.Array:
    """(M, 2, lmax + 1, B·C) coefficients → (M, 2, lmax + 1, B·D)."""
    (orders, _, degrees, _), (_, channels, out) = z.shape, weight.shape
    z = jnp.moveaxis(z.reshape(orders * 2, degrees, batch, channels), 1, 0)
    z = jnp.matmul(z.reshape(degrees, orders * 2 * batch, channels), weight[:degrees])
    z = jnp.moveaxis(z.reshape(degrees, orders * 2, batch, out), 0, 1)
    return z.reshape(orders, 2, degrees, batch * out)


def _divided_convolution(x: jax.Array, weight: jax.Array, matrices: HarmonicMatrices) -> jax.Array:
    """:func:`zonal_convolution` where a mesh divides the field: it is never gathered.

    Every device transforms its own block; the sum over the blocks, of the coefficients alone, is the transform.
    """
    space = space_axes()

    def convolve(weight: jax.Array, x: jax.Array) -> jax.Array:
        width, height, batch, channels = x.shape
        parts: Any = (
            own_part(matrices.columns.astype(np.float32), width, 1, "lon"),
            own_part(matrices.inverse_columns.astype(np.float32), width, 0, "lon"),
            own_part(matrices.analysis.astype(np.float32), height, 2, "lat"),
            own_part(matrices.synthesis.astype(np.float32), height, 1, "lat"),
        )
        own = HarmonicMatrices(matrices.lmax, *parts)
        z = analyse(x.reshape(width, height, batch * channels), own)
        if space:
            z = jax.lax.psum(z, space)
        return synthesise(_filter(z, weight, batch), own).reshape(width, height, batch, -1)

    return on_blocks(convolve, (x,), weight, dims=("longitude", "latitude", "batch"))


def convolution_flops(grid: Grid, lmax: int, channels: int, out: int) -> float:
    """Floating-point operations of :func:`zonal_convolution` for one sample; multiply-add is 2."""
    orders, degrees, height = harmonic_matrices(grid, lmax).analysis.shape
    transform = 2 * orders * height * (grid.shape[1] + degrees)
    return 2.0 * (transform * (channels + out) + 2 * orders * degrees * channels * out)
