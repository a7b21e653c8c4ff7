"""The cheap potential: invariants of the neighbor density, and a small network on them.

One pass over the neighbors and no messages, so an atom sees nothing beyond its cutoff: the atomic
cluster expansion up to ``correlation`` + 1 bodies (:mod:`surrogate.models.products`), with a multilayer
perceptron in place of its linear sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.core.types import Array, UserError
from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.density import Density, edge_features, one_hot
from surrogate.models.graph import Graph
from surrogate.models.products import Products, products_flops, terms
from surrogate.models.readout import Readout
from surrogate.models.sphere import L_MAX, MAX_DEGREE
from surrogate.models.zbl import check_zbl, zbl_energies

DType = Literal["float32", "float64"]


@dataclass(frozen=True)
class AtomsConfig:
    """Settings that both potentials have, validated on creation.

    Attributes:
        channels: of the density, of which products are taken.
        l_max: highest degree of the spherical harmonics, at most 5.
        correlation: highest order of the products, that is one less than the bodies that interact at once.
        basis: radial functions.
        species_channels: by how many numbers the species of a neighbor is told, where there are more species.
        readout: hidden width of the network from invariants to energy; 0 leaves a linear function.
        zbl: add the screened repulsion of nuclei at short distance (:mod:`surrogate.models.zbl`).
        zbl_reach: its end, over the sum of the covalent radii of a pair.
        dtype: of parameters and arithmetic; ``float64`` needs ``jax_enable_x64``.
    """

    channels: int = 64
    l_max: int = 2
    correlation: int = 3
    basis: int = 8
    species_channels: int = 4
    readout: int = 32
    zbl: bool = False
    zbl_reach: float = 0.75
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        for name in ("channels", "l_max", "correlation", "basis", "species_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"{self._name}: {name} must be at least 1, got {getattr(self, name)}")
        if self.readout < 0:
            raise UserError(f"{self._name}: readout must not be negative, got {self.readout}")
        if self.l_max > L_MAX:
            raise UserError(f"{self._name}: l_max must be at most {L_MAX}, got {self.l_max}")
        if self.degree > MAX_DEGREE:
            raise UserError(
                f"{self._name}: l_max={self.l_max} with correlation={self.correlation} needs products of degree "
                f"{self.degree}, at most {MAX_DEGREE} is there"
            )
        if not self.zbl_reach > 0:
            raise UserError(f"{self._name}: zbl_reach must be positive, got {self.zbl_reach}")
        if self.dtype not in get_args(DType):
            raise UserError(f"{self._name}: dtype {self.dtype!r} is not one of {', '.join(get_args(DType))}")

    @property
    def degree(self) -> int:
        """Of the highest product on the sphere."""
        return self.correlation * self.l_max

    @property
    def _name(self) -> str:
        return "model " + type(self).__name__.removesuffix("Config").lower()


@dataclass(frozen=True)
class DescriptorConfig(AtomsConfig):
    """Settings of :class:`Descriptor`: those of :class:`AtomsConfig`, with a finer look at the angles.

    Without messages the angles between neighbors are all there is to tell surroundings apart: from one degree to the
    next the errors of forces in liquid metals fell by an eighth.
    """

    l_max: int = 5


def parameter_dtype(config: AtomsConfig) -> jnp.dtype:
    """The dtype of parameters.

    Raises:
        UserError: for float64 where JAX would make float32 of it without a word.
    """
    if config.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise UserError("dtype=float64 needs 64-bit JAX: set JAX_ENABLE_X64=1")
    return jnp.dtype(config.dtype)


class Descriptor(nnx.Module):
    """See the module, and :mod:`surrogate.models.atoms_base` for the contract."""

    Config: type[AtomsConfig] = DescriptorConfig
    takes = "atoms"

    def __init__(self, geometry: AtomsGeometry, config: AtomsConfig | None = None, *, rngs: nnx.Rngs) -> None:
        config = config or self.Config()
        self.config: Any = config
        self.geometry = geometry
        dtype, num = parameter_dtype(config), len(geometry.species)
        if config.zbl:
            check_zbl(geometry, config.zbl_reach)
        self.density = Density(geometry, config.basis, config.species_channels, dtype, rngs=rngs)
        inputs = (self.density.num_channels,) * (config.l_max + 1)
        self.products = Products(inputs, config.channels, config.correlation, 0, num, dtype, rngs=rngs)
        self.readout = Readout(self.products.num_invariants, config.readout, num, dtype, rngs=rngs)

    def __call__(self, vectors: Array, graph: Graph) -> jax.Array:
        config, geometry = self.config, self.geometry
        vectors = jnp.asarray(vectors, config.dtype)
        species = one_hot(graph, len(geometry.species), vectors.dtype)
        edges = edge_features(vectors, geometry.cutoff, config.l_max, config.basis)
        invariants, _ = self.products(self.density(edges, species, graph), species)
        energies = geometry.scale * self.readout(invariants, species)
        if config.zbl:
            energies = energies + zbl_energies(vectors, graph, geometry, config.zbl_reach)
        return energies

    @staticmethod
    def flops(geometry: AtomsGeometry, config: AtomsConfig) -> float:
        """Operations of one atom's energy, without derivatives; multiply-add is 2, activations not counted."""
        q = Density.channels_of(geometry, config.basis, config.species_channels)
        inputs = (q,) * (config.l_max + 1)
        invariants = config.channels * (1 + len(terms(config.correlation, 0)))
        return (
            2.0 * geometry.num_neighbors * (config.l_max + 1) ** 2 * q
            + products_flops(inputs, config.channels, config.correlation, 0)
            + 2.0 * invariants * (config.readout + 1)
        )
