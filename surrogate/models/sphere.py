"""Real spherical harmonics, and cubature rules on the sphere that are exact for their products.

Harmonics are normalised so that the mean of Y² over the sphere is 1 (Σ_m Y_lm² = 2l + 1), ordered
m = −l … l, without the Condon–Shortley phase. With a rule that is exact for the degree at hand,
multiplying two functions of the sphere point by point and projecting back *is* the coupling with
Gaunt coefficients, the Clebsch–Gordan coefficients of natural parity:
mean(Y_a Y_b Y_c) = G_abc √(4π). No table of paths is needed, whatever the order of the product.
"""

from __future__ import annotations

from functools import cache
import math

import jax.numpy as jnp
import numpy as np
from scipy.integrate import lebedev_rule

from surrogate.core.types import Array, UserError

L_MAX = 5  # three functions of this degree are of 15 together, the rule of 43 axes

# Of Lebedev's rules those with positive weights (13 has a negative one); the number of points grows as the square.
_DEGREES = (7, 9, 11, 15, 17)
MAX_DEGREE = _DEGREES[-1]


def harmonics(x: Array, y: Array, z: Array, l_max: int) -> list[Array]:
    """Components of all Y_lm with l ≤ ``l_max`` at unit vectors, (l_max + 1)² arrays of the shape of ``x``.

    Y_l±m is the m-th derivative of the Legendre polynomial P_l at z, by its recursion in l, times the real or the
    imaginary part of (x + iy)^m: polynomials, so that nothing is singular at the poles.
    """
    out: list[Array] = [np.ones_like(x) if isinstance(x, np.ndarray) else jnp.ones_like(x)] * (l_max + 1) ** 2
    real, imaginary, first = out[0], out[0], 1.0
    before: Array | float
    derivative: Array | float
    for m in range(l_max + 1):
        if m == 1:
            real, imaginary = x, y
        elif m:
            real, imaginary = real * x - imaginary * y, real * y + imaginary * x
        first *= max(2 * m - 1, 1)  # (2m − 1)!!, the m-th derivative of P_m
        before, derivative = 0.0, first
        for degree in range(m, l_max + 1):
            if degree > m:
                after = ((2 * degree - 1) * z * derivative - (degree + m - 1) * before) / (degree - m)
                before, derivative = derivative, after
            square = (2 * degree + 1) * (2 if m else 1) * math.factorial(degree - m) / math.factorial(degree + m)
            factor, center = math.sqrt(square) * derivative, degree * (degree + 1)
            out[center + m] = factor * real
            if m:
                out[center - m] = factor * imaginary
    return out


@cache
def axes_rule(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Cubature of even functions: one point (A, 3) of each antipodal pair, weights (A,) that sum to 1.

    Exact for polynomials up to the degree asked for: half of the points of Lebedev and Laikov, "A quadrature formula for
    the sphere of the 131st algebraic order of accuracy" (1999); 13, 19, 25, 43 and 55 axes for degrees 7, 9, 11, 15, 17.

    Raises:
        UserError: for a degree above 17.
    """
    best = min((d for d in _DEGREES if d >= degree), default=None)
    if best is None:
        raise UserError(
            f"products of degree {degree} on the sphere are asked for, at most {MAX_DEGREE} is there: "
            "lower l_max, correlation or hidden_l"
        )
    nodes, weights = lebedev_rule(best)
    points = np.where(np.abs(nodes.T) < 1e-12, 0.0, nodes.T)
    half = np.array([tuple(point) > (0, 0, 0) for point in points])
    return points[half], 2 * weights[half] / (4 * math.pi)


@cache
def parity_transforms(l_max: int, degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices from coefficients to values on the axes of :func:`axes_rule`, and its weights.

    Returns:
        even (A, Σ_{even l} 2l + 1), odd (A, Σ_{odd l} 2l + 1), weights (A,), float64. A function's value
        at a point is even + odd, and even − odd at its antipode, so half of the sphere suffices.
    """
    points, weights = axes_rule(degree)
    x, y, z = points.T
    values = np.stack(harmonics(x, y, z, l_max), axis=-1)
    order = [math.isqrt(i) for i in range(values.shape[1])]
    even = [i for i, degree_l in enumerate(order) if degree_l % 2 == 0]
    odd = [i for i, degree_l in enumerate(order) if degree_l % 2 == 1]
    return values[:, even], values[:, odd], weights
