"""A potential of one's own: pairs alone, by a small network of the distance and the two species. It compiles in a moment."""

from __future__ import annotations

from dataclasses import dataclass

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.models.exchange import fetch
from surrogate.models.radial import bessel_basis


@dataclass(frozen=True)
class TwoBodyConfig:
    """``hidden``: width of the network; ``basis``: radial functions."""

    hidden: int = 16
    basis: int = 6
    dtype: str = "float32"


class TwoBody(nnx.Module):
    """Energies (N,) of atoms: half the sum over neighbors of f(r, species, species)."""

    Config = TwoBodyConfig
    takes = "atoms"

    def __init__(self, geometry, config=None, *, rngs):
        self.geometry, self.config = geometry, config or TwoBodyConfig()
        c, kinds = self.config, len(geometry.species)
        init = lambda *shape: nnx.Param(jax.random.normal(rngs.params(), shape, c.dtype) / shape[0] ** 0.5)  # noqa: E731
        self.first, self.pair = init(c.basis, c.hidden), init(kinds, c.hidden)
        self.second, self.third = init(c.hidden, c.hidden), init(c.hidden, 1)

    def __call__(self, vectors, graph):
        vectors = jnp.asarray(vectors, self.config.dtype)
        length = jnp.sqrt(jnp.sum(vectors * vectors, axis=0))  # (N, M)
        radial = jnp.stack(bessel_basis(length / self.geometry.cutoff, self.config.basis), axis=-1)
        kind = (graph.species[:, None] == jnp.arange(len(self.geometry.species))).astype(vectors.dtype) @ self.pair[...]
        both = kind[:, None] + fetch(kind, *graph.exchange)
        inner = (radial @ self.first[...]) * (1 + both)
        value = jnp.tanh(inner @ self.second[...]) @ self.third[...]  # 0 where the basis ends
        return 0.5 * self.geometry.scale * jnp.sum(value[..., 0], axis=1)
