"""Products with constant matrices, and the derivative of the GELU, against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from surrogate.models.activations import gelu, gelu_slope
from surrogate.models.constant_matrix import multiply


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7)])
def test_the_product_and_its_derivatives_are_those_of_matmul(shape):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 5))
    x, t, other = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3))

    def value(product):
        return lambda x: jnp.sum(jnp.sin(product(x)) ** 2)

    ours, theirs = value(lambda x: multiply(matrix, x)), value(lambda x: jnp.asarray(matrix, x.dtype) @ x)
    np.testing.assert_allclose(multiply(matrix, x), matrix @ np.asarray(x, np.float64), rtol=1e-5, atol=1e-5)
    for transform in (
        jax.grad,
        lambda f: lambda x: jax.jvp(f, (x,), (t,)),
        lambda f: lambda x: jax.jvp(jax.grad(f), (x,), (t,)),  # forward over reverse
        lambda f: lambda x: jax.vmap(jax.grad(f))(jnp.stack([x, other])),
        lambda f: lambda x: jax.vmap(jax.grad(f), in_axes=-1)(jnp.stack([x, other], axis=-1)),
    ):
        got, expected = jax.jit(transform(ours))(x), jax.jit(transform(theirs))(x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


def test_gelu_and_its_derivative_are_exact_to_single_precision():
    x = np.concatenate([np.linspace(-7, 7, 20001), [-1e30, -50, 0, 50, 1e30]]).astype(np.float32)
    exact = x.astype(np.float64)
    phi = 0.5 * (1 + erf(exact / np.sqrt(2)))
    np.testing.assert_allclose(gelu(x), exact * phi, rtol=3e-7, atol=1e-6)  # erf near −1 is coarse
    slope = phi + exact * np.exp(-(np.minimum(np.abs(exact), 1e3) ** 2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(gelu_slope(x), slope, atol=6e-7)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), slope, atol=6e-7)
    assert jax.grad(gelu)(jnp.bfloat16(0.5)).dtype == jnp.bfloat16
