"""An E(3)-equivariant message-passing potential.

The first layer sees the density of the neighbors, later layers that of their features: scalars and, up to
``hidden_l``, tensors, which are equivariant to rotation and reflection. Each layer takes products of its
density (:mod:`surrogate.models.products`), reads an energy off the invariants and passes new features on.
With products of order 3 two layers are enough, as in MACE (Batatia et al. 2022).

A message from j to i is, in the frame that has r_ij as its axis, the general linear map of the components
with m = 0, and for the others a multiple of the identity of each degree: Y_l(r̂) (Y_l'(r̂) · h_jl') R(r), and
R(r) h_jl. Of the couplings of a tensor product these are all for l = 1, and the cheap ones for l = 2; contracting first
leaves a single matrix product per atom between harmonics and channels.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.core.types import Array, UserError
from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.density import Density, EdgeFeatures, by_degree, edge_features, one_hot
from surrogate.models.descriptor import AtomsConfig, parameter_dtype
from surrogate.models.exchange import fetch
from surrogate.models.graph import Graph
from surrogate.models.products import Products, normal, products_flops, terms
from surrogate.models.radial import basis_means
from surrogate.models.readout import Readout
from surrogate.models.zbl import check_zbl, zbl_energies


@dataclass(frozen=True)
class PotentialConfig(AtomsConfig):
    """Settings of :class:`Potential`: those of :class:`AtomsConfig` and three more.

    Attributes:
        layers: sums over neighbors, one after another; an atom sees ``layers`` × cutoff far.
        hidden: channels of the features that neighbors send.
        hidden_l: highest degree of these features, at most ``l_max`` and 2; 0 sends scalars only.
    """

    layers: int = 2
    hidden: int = 16
    hidden_l: int = 1

    def __post_init__(self) -> None:
        for name in ("layers", "hidden"):
            if getattr(self, name) < 1:
                raise UserError(f"{self._name}: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.hidden_l <= min(self.l_max, 2):
            raise UserError(
                f"{self._name}: hidden_l must lie between 0 and the smaller of 2 and l_max={self.l_max}, "
                f"got {self.hidden_l}"
            )
        super().__post_init__()

    @property
    def degree(self) -> int:
        return self.correlation * self.l_max + (self.hidden_l if self.layers > 1 else 0)


class Messages(nnx.Module):
    """The density of the neighbors' features: [(2l + 1, N, Q_l)] from rows of features."""

    def __init__(self, geometry: AtomsGeometry, config: PotentialConfig, dtype: jnp.dtype, *, rngs: nnx.Rngs) -> None:
        self.hidden, self.hidden_l, self.l_max = config.hidden, config.hidden_l, config.l_max
        self.num_neighbors = geometry.num_neighbors
        self.norm = 1 / math.sqrt(geometry.num_neighbors)
        # Radial functions of the contractions, one for each degree from 0, and of what is passed on, from 1.
        paths = 1 + 2 * config.hidden_l
        self.radial = nnx.List([normal(rngs, (config.basis, self.hidden), config.basis, dtype) for _ in range(paths)])

    @staticmethod
    def channels_of(config: PotentialConfig) -> tuple[int, ...]:
        """Channels of the density for each l."""
        contracted = (1 + config.hidden_l) * config.hidden
        passed = [config.hidden if 1 <= degree <= config.hidden_l else 0 for degree in range(config.l_max + 1)]
        return tuple(contracted + more for more in passed)

    def __call__(self, rows: list[jax.Array], edges: EdgeFeatures, graph: Graph) -> list[jax.Array]:
        """``rows``: (N, K) for the scalars and for each component of the other degrees, in order."""

        def weight(path: int) -> jax.Array:
            # A product for each atom: as one product over all edges the derivative by the matrix transposes
            # the (edges, K) cotangent first, which on CPUs took a third of the training step.
            matrix = self.radial[path][...]
            return jnp.einsum("nmb,nbk->nmk", edges.radial, jnp.broadcast_to(matrix, (len(rows[0]), *matrix.shape)))

        # One array for each component, never slices of a longer one: their derivatives would be padded arrays.
        sent = [fetch(row, *graph.exchange) for row in rows]
        contracted, passed = [weight(0) * sent[0]], []
        for degree in range(1, self.hidden_l + 1):
            components = range(degree**2, (degree + 1) ** 2)
            along = _total([edges.components[c][..., None] * sent[c] for c in components])
            contracted.append(weight(degree) * along)
            through = weight(self.hidden_l + degree)
            passed.append(jnp.stack([jnp.sum(through * sent[c], axis=1) for c in components]))
        sums = [by_degree(jnp.einsum("nlm,nmq->nlq", edges.angular, values)) for values in contracted]
        # Less what neighbors of my own kind, spread uniformly, would send: the density of differences.
        uniform = self.num_neighbors * jnp.asarray(basis_means(edges.radial.shape[-1]), rows[0].dtype)
        sums[0][0] = sums[0][0] - (uniform @ self.radial[0][...]) * rows[0]
        density = []
        for degree in range(self.l_max + 1):
            parts = [s[degree] for s in sums] + passed[degree - 1 : degree] * (degree > 0)
            density.append(self.norm * jnp.concatenate(parts, axis=-1))
        return density


def _total(values: list[jax.Array]) -> jax.Array:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


class Update(nnx.Module):
    """Rows of features to send, from the products of a layer."""

    def __init__(
        self, products: Products, previous: int, config: PotentialConfig, num_species: int, dtype: jnp.dtype,
        *, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        inputs = products.num_invariants + previous
        self.scalars = normal(rngs, (inputs, config.hidden), inputs, dtype)
        self.species = normal(rngs, (num_species, config.hidden), 1, dtype)
        self.tensors = nnx.List([
            normal(rngs, (products.num_equivariants(degree), config.hidden), products.num_equivariants(degree), dtype)
            for degree in range(1, products.l_out + 1)
        ])  # fmt: skip

    def __call__(self, invariants: jax.Array, equivariants: list[jax.Array], species: jax.Array) -> list[jax.Array]:
        rows = [invariants @ self.scalars[...] + species @ self.species[...]]
        for values, weight in zip(equivariants, self.tensors, strict=True):
            mixed = values @ weight[...]
            rows += [part[0] for part in jax.lax.split(mixed, [1] * len(mixed), axis=0)]
        return rows


class Potential(nnx.Module):
    """See the module, and :mod:`surrogate.models.atoms_base` for the contract."""

    Config: type[PotentialConfig] = PotentialConfig
    takes = "atoms"

    def __init__(self, geometry: AtomsGeometry, config: PotentialConfig | None = None, *, rngs: nnx.Rngs) -> None:
        config = config or self.Config()
        self.config: Any = config
        self.geometry = geometry
        dtype, num = parameter_dtype(config), len(geometry.species)
        if config.zbl:
            check_zbl(geometry, config.zbl_reach)
        self.density = Density(geometry, config.basis, config.species_channels, dtype, rngs=rngs)
        inputs = (self.density.num_channels,) * (config.l_max + 1)
        messages, products, readouts, updates = [], [], [], []
        for layer in range(config.layers):
            last = layer == config.layers - 1
            if layer:
                messages.append(Messages(geometry, config, dtype, rngs=rngs))
                inputs = Messages.channels_of(config)
            l_out = 0 if last else config.hidden_l
            products.append(Products(inputs, config.channels, config.correlation, l_out, num, dtype, rngs=rngs))
            previous = config.hidden if layer else 0
            readouts.append(Readout(products[-1].num_invariants + previous, config.readout, num, dtype, rngs=rngs))
            if not last:
                updates.append(Update(products[-1], previous, config, num, dtype, rngs=rngs))
        self.messages, self.products = nnx.List(messages), nnx.List(products)
        self.readouts, self.updates = nnx.List(readouts), nnx.List(updates)

    def __call__(self, vectors: Array, graph: Graph) -> jax.Array:
        config, geometry = self.config, self.geometry
        vectors = jnp.asarray(vectors, config.dtype)
        species = one_hot(graph, len(geometry.species), vectors.dtype)
        edges = edge_features(vectors, geometry.cutoff, config.l_max, config.basis)
        density = self.density(edges, species, graph)
        rows: list[jax.Array] = []
        energies = jnp.zeros(vectors.shape[1], vectors.dtype)
        for layer in range(config.layers):
            if layer:
                density = self.messages[layer - 1](rows, edges, graph)
            invariants, equivariants = self.products[layer](density, species)
            if layer:  # what the atom knew before
                invariants = jnp.concatenate([invariants, rows[0]], axis=-1)
            energies = energies + self.readouts[layer](invariants, species)
            if layer < config.layers - 1:
                rows = self.updates[layer](invariants, equivariants, species)
        energies = geometry.scale * energies
        if config.zbl:
            energies = energies + zbl_energies(vectors, graph, geometry, config.zbl_reach)
        return energies

    @staticmethod
    def flops(geometry: AtomsGeometry, config: PotentialConfig) -> float:
        """Operations of one atom's energy, without derivatives; multiply-add is 2, activations not counted."""
        neighbors, k = geometry.num_neighbors, config.hidden
        q = Density.channels_of(geometry, config.basis, config.species_channels)
        inputs = (q,) * (config.l_max + 1)
        total = 2.0 * neighbors * (config.l_max + 1) ** 2 * q
        for layer in range(config.layers):
            last = layer == config.layers - 1
            if layer:
                paths, contracted = 1 + 2 * config.hidden_l, (1 + config.hidden_l) * k
                components = (config.hidden_l + 1) ** 2 - 1
                edge = paths * config.basis * k + (config.l_max + 1) ** 2 * contracted + 2 * components * k
                total += 2.0 * neighbors * edge
                inputs = Messages.channels_of(config)
            l_out = 0 if last else config.hidden_l
            total += products_flops(inputs, config.channels, config.correlation, l_out)
            invariants = config.channels * (1 + len(terms(config.correlation, 0))) + (k if layer else 0)
            total += 2.0 * invariants * (config.readout + 1)
            if not last:
                total += 2.0 * k * invariants
                for degree in range(1, l_out + 1):
                    total += 2.0 * (2 * degree + 1) * k * config.channels * (1 + len(terms(config.correlation, degree)))
        return total
