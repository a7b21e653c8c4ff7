"""Radial basis of interatomic distances, and the envelope that takes everything to zero at the cutoff."""

from __future__ import annotations

from functools import cache
import math

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.types import Array


def envelope(x: Array, p: int = 6) -> jax.Array:
    """1 at x = 0, and 0 with zero first and second derivative from x = 1 on; any shape.

    Gasteiger et al., "Directional message passing for molecular graphs" (2020), eq. 8.
    """
    x = jnp.asarray(x)
    inside = jnp.minimum(x, 1.0)  # the polynomial of a far padding distance would overflow
    a, b, c = (p + 1) * (p + 2) / 2, p * (p + 2), p * (p + 1) / 2
    power = inside ** (p - 1)
    value = 1 - power * inside * (a - inside * (b - inside * c))
    return jnp.where(x < 1, value, 0.0)


def bessel_basis(x: Array, num: int) -> list[jax.Array]:
    """sin(nπx) / x times the envelope for n = 1 … ``num``, dimensionless; ``x`` = distance / cutoff > 0.

    Spherical Bessel functions of order 0 that vanish at the cutoff (as in the paper above, without its
    normalisation). By sin((n + 1)θ) = 2 cos θ sin(nθ) − sin((n − 1)θ): one sine and one cosine in all.
    """
    inside = jnp.minimum(x, 1.0)
    angle = math.pi * inside
    first, twice_cos = jnp.sin(angle), 2 * jnp.cos(angle)
    factor = envelope(x) / inside
    waves = [first, twice_cos * first]
    for _ in range(2, num):
        waves.append(twice_cos * waves[-1] - waves[-2])
    return [factor * w for w in waves[:num]]


@cache
def basis_means(num: int) -> np.ndarray:
    """Means of :func:`bessel_basis` over the ball within the cutoff, (num,): what a uniform density would see."""
    nodes, weights = np.polynomial.legendre.leggauss(4 * num + 20)
    x, weights = (nodes + 1) / 2, weights / 2
    shape = x**6
    cut = 1 - shape * (28 - x * (48 - 21 * x))
    waves = np.sin(np.pi * np.arange(1, num + 1)[:, None] * x) / x * cut
    return (waves * 3 * x**2) @ weights
