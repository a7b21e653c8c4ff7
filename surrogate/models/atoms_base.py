"""The contract of an interatomic potential, and what follows from its energies: forces and stress.

A potential is an ``nnx.Module`` built as ``Model(geometry, config, rngs=rngs)`` and called as
``model(vectors, graph)``:

- ``vectors`` (3, N, M): from each atom to the sender of each slot, in Å, as
  :func:`~surrogate.models.graph.edge_vectors` makes them;
- ``graph``: the rest of the batch. A model may read every field **except positions, cell and shifts**:
  it depends on the geometry through ``vectors`` alone, which makes it invariant to translation and lets
  one derivative give forces and stress;
- returns (N,): interaction energies of the atoms in eV, without the reference energies. Values at
  padding atoms do not count.

Energies are sums over atoms, so they are extensive by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.types import Array, UserError
from surrogate.models.exchange import collect
from surrogate.models.graph import Graph, edge_vectors, graph_sum


@dataclass(frozen=True)
class AtomsGeometry:
    """What a potential may know of its data; constants of the model, saved with it.

    Attributes:
        species: atomic numbers, ascending; the index of an atom's species points in here.
        cutoff: Å.
        num_neighbors: mean number of neighbors of an atom in the training data; sums over neighbors are
            divided by its root.
        scale: eV; the network's output of order 1 is multiplied by this. The RMS of the force components
            in eV/Å is a good value.
        reference_energies: eV an atom of each species, added to what the network gives; empty for zeros.
    """

    species: tuple[int, ...]
    cutoff: float
    num_neighbors: float
    scale: float = 1.0
    reference_energies: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.species or list(self.species) != sorted(set(self.species)) or min(self.species) < 1:
            raise UserError(f"species must be different atomic numbers in ascending order, got {self.species}")
        for name in ("cutoff", "num_neighbors", "scale"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise UserError(f"{name} of the atoms must be a positive number, got {value}")
        if self.reference_energies and len(self.reference_energies) != len(self.species):
            raise UserError(
                f"{len(self.reference_energies)} reference energies for {len(self.species)} species {self.species}"
            )

    def references(self) -> np.ndarray:
        """Reference energies of the species in eV, (S,) float64."""
        return np.array(self.reference_energies or (0.0,) * len(self.species))


class Potential(Protocol):
    """Structural type of the potentials in the registry."""

    Config: type[Any]
    geometry: AtomsGeometry

    def __call__(self, vectors: Array, graph: Graph) -> jax.Array: ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prediction:
    """What a potential says of a batch; 0 for padding atoms and configurations."""

    energy: jax.Array  # (C,) eV, with reference energies
    interaction: jax.Array  # (C,) eV, without: what float32 carries well, and what to train on
    atom_energies: jax.Array  # (N,) eV, without reference energies
    forces: jax.Array  # (N, 3) eV/Å
    virial: jax.Array  # (C, 3, 3) eV: dE/dε of a symmetric strain, stress times volume
    stress: jax.Array  # (C, 3, 3) eV/Å³, tension positive as in ASE; NaN where there is no volume


def energy_forces_stress(model: Potential, graph: Graph, vectors: Array | None = None) -> Prediction:
    """Energy and its exact derivatives.

    With E a function of the vectors d_im alone, g = ∂E/∂d gives everything: moving atom i by δ changes its
    own vectors by −δ and those of the slots that it is the sender of by +δ, so F_i = Σ_m (g_im − g_reverse(im)); and a
    strain takes d to (1 + ε) d, so dE/dε = Σ d ⊗ g, symmetric because E is invariant to rotation.

    Args:
        vectors: (3, N, M) in Å, of a caller that knows them better than float32 positions tell; (FAR, 0, 0) in
            padding slots, as :func:`~surrogate.models.graph.edge_vectors` has them.
    """
    vectors = edge_vectors(graph) if vectors is None else vectors

    def total(d: jax.Array) -> tuple[jax.Array, jax.Array]:
        energies = jnp.where(graph.atom_mask, model(d, graph), 0)
        return energies.sum(), energies

    (_, atoms), gradient = jax.value_and_grad(total, has_aux=True)(vectors)
    back = collect(jnp.moveaxis(gradient, 0, -1), *graph.exchange)
    forces = gradient.sum(-1).T - back

    real = jnp.where(graph.neighbor_mask, vectors, 0)
    outer = jnp.stack([(real[a] * gradient[b]).sum(-1) for a in range(3) for b in range(3)], -1)
    virial = graph_sum(outer, graph).reshape(-1, 3, 3)
    virial = (virial + virial.mT) / 2
    volume = jnp.abs(jnp.linalg.det(jnp.asarray(graph.cell)))
    has_volume = (graph.periodic & graph.graph_mask)[:, None, None]
    stress = jnp.where(has_volume, virial / jnp.where(graph.periodic, volume, 1.0)[:, None, None], jnp.nan)
    stress = jnp.where(graph.graph_mask[:, None, None], stress, 0)

    interaction = graph_sum(atoms, graph)
    references = jnp.asarray(model.geometry.references(), atoms.dtype)[graph.species]
    energy = interaction + graph_sum(references, graph)
    return Prediction(energy, interaction, atoms, forces, virial, stress)


def fit_reference_energies(counts: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Energies of the species that explain total energies best by composition, (S,) in eV.

    Least squares of the error per atom. Where the compositions do not determine them (one composition in
    all frames) it is the solution of least norm, which explains the data just as well.

    Args:
        counts: (frames, S), atoms of each species.
        energies: (frames,) total energies in eV.

    Raises:
        UserError: for energies that are not finite, or frames without atoms.
    """
    counts, energies = np.asarray(counts, float), np.asarray(energies, float)
    if counts.ndim != 2 or energies.shape != counts.shape[:1]:
        raise UserError(f"reference energies need counts (frames, species), got {counts.shape} for {energies.shape}")
    if not np.isfinite(energies).all():
        frame = int(np.argmin(np.isfinite(energies)))
        raise UserError(f"the energy of frame {frame} is {energies[frame]}, expected a finite number of eV")
    atoms = counts.sum(1)
    if (atoms < 1).any():
        raise UserError(f"frame {int(np.argmin(atoms))} has no atoms, so it has no energy per atom")
    return np.linalg.lstsq(counts / atoms[:, None], energies / atoms, rcond=1e-8)[0]
