"""Pointwise nonlinearities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math

import jax
import jax.numpy as jnp

# x P(x²) / Q(x²) is within 1.1e-7 of gelu'(x) − 1/2 on |x| ≤ 5.6, where that reaches its limit to 4e-7: a
# minimax fit by reweighted least squares, lowest power first. tests/unit/test_constant_matrix.py holds it to the formula.
_LIMIT = 5.6
_NUMERATOR = (0.7978853451, -0.03097468819, 0.01422601784, 1.976444492e-05, 3.589899624e-05, 1.921624408e-07)
_DENOMINATOR = (1.0, 0.2945204148, 0.04098396436, 0.003522658316, 0.0001920553455, 8.92800906e-06)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x Φ(x), the exact GELU; by erf, because the usual erfc form does not vectorise on CPUs.

    Its derivative Φ(x) + x φ(x) is a rational function of x, within 4e-7: cheaper than erf and exp, and nothing but
    x is kept from the forward pass.
    """
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (t,) = primals, tangents
    return gelu(x), t * gelu_slope(x)


def gelu_slope(x: jax.Array) -> jax.Array:
    """d gelu / dx, computed in float32."""
    clipped = jnp.clip(x.astype(jnp.float32), -_LIMIT, _LIMIT)
    square = clipped * clipped
    return (0.5 + clipped * _polynomial(_NUMERATOR, square) / _polynomial(_DENOMINATOR, square)).astype(x.dtype)


def _polynomial(coefficients: Sequence[float], x: jax.Array) -> jax.Array:
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}
