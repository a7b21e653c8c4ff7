"""Real spherical harmonics, and cubature rules on the sphere that are exact for their products.

Harmonics are normalised so that the mean of Y² over the sphere is 1 (Σ_m Y_lm² = 2l + 1), ordered
m = −l … l, without the Condon–Shortley phase. With a rule that is exact for the degree at hand,
multiplying two functions of the sphere point by point and projecting back *is* the coupling with
Gaunt coefficients, the Clebsch–Gordan coefficients of natural parity:
mean(Y_a Y_b Y_c) = G_abc √(4π). No table of paths is needed, whatever the order of the product.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations, product
import math

import jax.numpy as jnp
import numpy as np

from surrogate.core.types import Array, UserError

L_MAX = 3  # of the harmonics that are written out

# Lebedev, "Values of the nodes and weights of ninth to seventeenth order Gauss–Markov quadrature
# formulae invariant under the octahedron group with inversion" (1975): degree → (generator, weight of
# each of its images). Only the rules with closed forms.
_P = math.sqrt((1 - math.sqrt(1 / 3)) / 2)
_RULES: dict[int, list[tuple[tuple[float, float, float], float]]] = {
    7: [((1, 0, 0), 1 / 21), ((1, 1, 0), 4 / 105), ((1, 1, 1), 9 / 280)],
    9: [((1, 0, 0), 1 / 105), ((1, 1, 1), 9 / 280), ((_P, math.sqrt(1 - _P * _P), 0), 1 / 35)],
    11: [((1, 0, 0), 4 / 315), ((1, 1, 0), 64 / 2835), ((1, 1, 1), 27 / 1280), ((1, 1, 3), 14641 / 725760)],
}
MAX_DEGREE = max(_RULES)


def harmonics(x: Array, y: Array, z: Array, l_max: int) -> list[Array]:
    """Components of all Y_lm with l ≤ ``l_max`` ≤ 3 at unit vectors, (l_max + 1)² arrays of the shape of ``x``.

    The argument has to be of unit length: the polynomials are simplified by that.
    """
    out: list[Array] = [np.ones_like(x) if isinstance(x, np.ndarray) else jnp.ones_like(x)]
    if l_max >= 1:
        c = math.sqrt(3)
        out += [c * y, c * z, c * x]
    if l_max >= 2:
        c = math.sqrt(15)
        out += [c * x * y, c * y * z, math.sqrt(5) * (1.5 * z * z - 0.5), c * x * z, c / 2 * (x * x - y * y)]
    if l_max >= 3:
        a, b, c = math.sqrt(35 / 8), math.sqrt(105), math.sqrt(21 / 8)
        xx, yy, five = x * x, y * y, 5 * z * z
        out += [
            a * y * (3 * xx - yy), b * x * y * z, c * y * (five - 1), math.sqrt(7) / 2 * z * (five - 3),
            c * x * (five - 1), b / 2 * z * (xx - yy), a * x * (xx - 3 * yy),
        ]  # fmt: skip
    return out


@cache
def axes_rule(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Cubature of even functions: one point (A, 3) of each antipodal pair, weights (A,) that sum to 1.

    Exact for polynomials up to the degree asked for; 13, 19 and 25 axes for degrees 7, 9 and 11.

    Raises:
        UserError: for a degree above 11.
    """
    best = min((d for d in _RULES if d >= degree), default=None)
    if best is None:
        raise UserError(
            f"products of degree {degree} on the sphere are asked for, at most {MAX_DEGREE} is there: "
            "lower l_max, correlation or hidden_l"
        )
    points: dict[tuple[float, ...], float] = {}
    for generator, weight in _RULES[best]:
        scale = 1 / math.sqrt(sum(v * v for v in generator))
        for signs in product((1, -1), repeat=3):
            for order in permutations(generator):
                point = tuple(s * v * scale + 0.0 for s, v in zip(signs, order, strict=True))
                opposite = tuple(-v + 0.0 for v in point)
                if opposite not in points:
                    points[point] = 2 * weight
    return np.array(list(points)), np.array(list(points.values()))


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
