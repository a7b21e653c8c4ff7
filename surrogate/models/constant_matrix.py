"""Products with a constant matrix from the left whose derivative is such a product again.

The derivative of ``matrix @ x`` that JAX writes contracts the first dimension of ``matrix``, for which
XLA has no fast product on CPUs. Here the transposed matrix is laid out beforehand. The operation is
linear: forward and reverse mode of any order and ``vmap`` pass through it.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp
import numpy as np

PRIMITIVE = "constant_matrix_product"
_product_p = Primitive(PRIMITIVE)


def multiply(matrix: np.ndarray | jax.Array, x: jax.Array) -> jax.Array:
    """``matrix @ x`` for each group: (M, K) times (G, K, N) → (G, M, N), or (K, N) → (M, N).

    A matrix that is known only when the program runs, as a device's part of one is, has JAX's own derivative.
    """
    if isinstance(matrix, jax.Array):
        return _product(matrix.astype(x.dtype), None, x)
    both = (jnp.asarray(m, x.dtype) for m in (matrix, np.ascontiguousarray(matrix.T)))
    return _product_p.bind(*both, x)


def _product(matrix: jax.Array, transposed: jax.Array | None, x: jax.Array) -> jax.Array:
    if x.ndim == 2:
        return matrix @ x
    return jnp.matmul(jnp.broadcast_to(matrix, (len(x), *matrix.shape)), x)


def _result(matrix: Any, transposed: Any, x: Any) -> Any:
    # The rest is that of x: above all along which axes of a mesh the values differ, whatever JAX calls that.
    return x.update(shape=(*x.shape[:-2], matrix.shape[0], x.shape[-1]))


def _jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    matrix, transposed, x = primals  # the matrices are constants, so that the tangent is that of x
    return _product_p.bind(matrix, transposed, x), _product_p.bind(matrix, transposed, tangents[2])


def _transpose(cotangent: Any, matrix: jax.Array, transposed: jax.Array, x: Any) -> tuple[None, None, Any]:
    if type(cotangent) is ad.Zero:
        return None, None, ad.Zero(x.aval)
    return None, None, _product_p.bind(transposed, matrix, cotangent)


def _batch(arguments: tuple, axes: tuple) -> tuple[jax.Array, int]:
    matrix, transposed, x = arguments
    x = jnp.moveaxis(x, axes[2], -1)
    out = _product_p.bind(matrix, transposed, x.reshape(*x.shape[:-2], -1))
    return out.reshape(*out.shape[:-1], *x.shape[-2:]), x.ndim - 1


_product_p.def_impl(jax.jit(_product))
_product_p.def_abstract_eval(_result)
ad.primitive_jvps[_product_p] = _jvp
ad.primitive_transposes[_product_p] = _transpose
batching.primitive_batchers[_product_p] = _batch
mlir.register_lowering(_product_p, mlir.lower_fun(_product, multiple_results=False))
