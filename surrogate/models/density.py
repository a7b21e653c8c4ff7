"""The neighbor density of an atom, expanded in radial functions and spherical harmonics.

A_{i,lm,q} = Σ_j B_q(r_ij, species of j) Y_lm(r̂_ij) / √(mean number of neighbors), the "atomic base" of
Drautz, "Atomic cluster expansion for accurate and transferable interatomic potentials" (2019). Radial
functions depend on l, on the channel and on the species at the atom only through matrices that act on
the *sums*: an edge costs no more than the product of its basis values.

From the part l = 0 the value of a uniform density is subtracted, so that coefficients are of order 1 and
products of them do not grow with the number of neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.core.types import Array
from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.exchange import fetch
from surrogate.models.graph import Graph
from surrogate.models.radial import basis_means, bessel_basis
from surrogate.models.sphere import harmonics


@dataclass(frozen=True)
class EdgeFeatures:
    """What all layers need of the geometry."""

    components: list[jax.Array]  # (l_max + 1)² harmonics, (N, M) each
    angular: jax.Array  # the same, (N, (l_max + 1)², M)
    radial: jax.Array  # (N, M, basis)


def edge_features(vectors: Array, cutoff: float, l_max: int, basis: int) -> EdgeFeatures:
    """Harmonics of the directions and radial basis of the lengths of (3, N, M)."""
    x, y, z = vectors
    length = jnp.sqrt(x * x + y * y + z * z)
    inverse = 1 / length
    angular = [jnp.asarray(y_lm) for y_lm in harmonics(x * inverse, y * inverse, z * inverse, l_max)]
    return EdgeFeatures(angular, jnp.stack(angular, axis=1), jnp.stack(bessel_basis(length / cutoff, basis), axis=-1))


def one_hot(graph: Graph, num_species: int, dtype: jnp.dtype) -> jax.Array:
    """(N, S): 1 at the species of each atom. Rows of a table by a matrix product, whose derivative is no scatter."""
    return (jnp.asarray(graph.species)[:, None] == jnp.arange(num_species)).astype(dtype)


def by_degree(density: jax.Array) -> list[jax.Array]:
    """(N, (l_max + 1)², Q) → [(2l + 1, N, Q) for each l], so that a matrix over channels is one product."""
    first = jnp.swapaxes(density, 0, 1)
    # Unlike slices, whose derivatives are padded arrays that are added, a split is undone by one concatenation.
    return list(jax.lax.split(first, [2 * degree + 1 for degree in range(math.isqrt(len(first)))], axis=0))


class Density(nnx.Module):
    """Density of the neighbors by species: ``basis`` channels for one species, ``basis × species_channels`` for more."""

    def __init__(
        self, geometry: AtomsGeometry, basis: int, species_channels: int, dtype: jnp.dtype, *, rngs: nnx.Rngs
    ) -> None:
        num = len(geometry.species)
        self.num_neighbors = geometry.num_neighbors
        self.norm = 1 / math.sqrt(geometry.num_neighbors)
        self.num_channels = self.channels_of(geometry, basis, species_channels)
        self.embed_channels = self.num_channels // basis
        if num > 1:
            # Few species: a channel each. Many: random directions, so that no two of them start alike.
            start = jnp.eye(num) if num <= species_channels else jax.random.normal(
                rngs.params(), (num, species_channels)
            )  # fmt: skip
            self.embedding = nnx.Param(start.astype(dtype))

    @staticmethod
    def channels_of(geometry: AtomsGeometry, basis: int, species_channels: int) -> int:
        """Channels of the density for each l."""
        return basis * min(len(geometry.species), species_channels)

    def __call__(self, edges: EdgeFeatures, species: jax.Array, graph: Graph) -> list[jax.Array]:
        """[(2l + 1, N, Q)] from the edge features and the one-hot species (N, S)."""
        radial = edges.radial
        n, m, basis = radial.shape
        uniform = jnp.asarray(self.num_neighbors * basis_means(basis), radial.dtype)
        if hasattr(self, "embedding"):
            table = self.embedding[...]
            weights = fetch(species @ table, *graph.exchange)  # (N, M, E)
            radial = (weights[..., None] * radial[..., None, :]).reshape(n, m, -1)
            uniform = (table.mean(0)[:, None] * uniform).reshape(-1)  # as if every species were as frequent
        density = by_degree(jnp.einsum("nlm,nmq->nlq", edges.angular, radial))
        density[0] = density[0] - uniform
        return [self.norm * d for d in density]
