"""Analytic potentials that obey the contract of ``models.atoms_base``, to test what runs on top of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.radial import envelope


@dataclass(frozen=True)
class PairConfig:
    """dtype of the arithmetic."""

    dtype: str = "float32"


class Pair(nnx.Module):
    """Half of the energies of each atom's pairs; subclasses say what a pair's is."""

    Config = PairConfig
    takes = "atoms"

    def __init__(self, geometry: AtomsGeometry, config: PairConfig | None = None, *, rngs: nnx.Rngs | None = None):
        self.geometry, self.config = geometry, config or PairConfig()
        self.factor = nnx.Param(jnp.ones((), self.config.dtype))

    def pair(self, r: jax.Array) -> jax.Array:
        raise NotImplementedError

    def __call__(self, vectors: Any, graph: Any) -> jax.Array:
        r = jnp.sqrt((jnp.asarray(vectors, self.config.dtype) ** 2).sum(0))
        return self.factor[...] * 0.5 * jnp.where(graph.neighbor_mask, self.pair(r), 0).sum(-1)


class LennardJones(Pair):
    """ε = 0.0104 eV, σ = 3.4 Å (argon), times an envelope that ends it smoothly."""

    epsilon, sigma = 0.0104, 3.4

    def pair(self, r: jax.Array) -> jax.Array:
        six = (self.sigma / r) ** 6
        return 4 * self.epsilon * (six * six - six) * envelope(r / self.geometry.cutoff, 12)


class Spring(Pair):
    """k (r − 2 Å)² / 2 with k = 10 eV/Å², at any distance within the cutoff."""

    stiffness, length = 10.0, 2.0

    def pair(self, r: jax.Array) -> jax.Array:
        return 0.5 * self.stiffness * (r - self.length) ** 2
