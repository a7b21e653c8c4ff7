"""One configuration's energies, forces and stress inside ``jit``, of a potential or of an ensemble's mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.core.types import Array, PyTree, UserError
from surrogate.models.atoms_base import AtomsGeometry, energy_forces_stress
from surrogate.models.graph import Graph


@dataclass(frozen=True)
class Trained:
    """A potential with its parameters, however it came about.

    Attributes:
        params: of ``nnx.split``; with a leading axis of ``members`` for an ensemble.
        members: of the ensemble; 0 for a single potential.
        spread_factor: what the ensemble's standard deviations of (energies, forces) are multiplied by.
    """

    graphdef: Any
    params: PyTree
    geometry: AtomsGeometry
    dtype: str = "float32"
    members: int = 0
    spread_factor: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, model: Any) -> Trained:
        """From a surrogate of atoms (``graphdef``, ``params``, ``geometry``, ...) or an ``nnx.Module``.

        Raises:
            UserError: for anything else, and for a surrogate of a property.
        """
        if isinstance(model, cls):
            return model
        if isinstance(model, nnx.Module) and hasattr(model, "geometry"):
            graphdef, params = nnx.split(model)
            dtype = getattr(getattr(model, "config", None), "dtype", "float32")
            return cls(graphdef, params, model.geometry, str(dtype))
        target = getattr(getattr(model, "meaning", None), "target", "energy")
        if target != "energy":
            raise UserError(f"this surrogate gives the property {target!r}: there are no forces to move atoms by")
        try:
            return cls(
                model.graphdef, model.params, model.geometry, str(model.dtype), int(model.members),
                tuple(model.spread_factor),
            )  # fmt: skip
        except AttributeError as error:
            raise UserError(
                f"expected a surrogate of atoms (sg.load of such a run) or a potential, got {type(model).__name__}: {error}"
            ) from None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Evaluated:
    """Of one configuration; energies without the reference energies. The spreads are 0 for a single potential."""

    atom_energies: jax.Array  # (N,) eV
    forces: jax.Array  # (N, 3) eV/Å
    stress: jax.Array  # (3, 3) eV/Å³, tension positive; NaN where there is no volume
    energy_spread: jax.Array  # () eV
    force_spread: jax.Array  # (N,) eV/Å, root of the mean variance of the components


def evaluate(
    graphdef: Any, params: PyTree, graph: Graph, vectors: Array, members: int, spread_factor: tuple[float, float]
) -> Evaluated:
    """Means and standard deviations over the members, meant for ``jit``.

    Args:
        graph: of one configuration.
        vectors: (3, N, M), as :func:`~surrogate.atomistic.places.edge_vectors_of` makes them.
    """

    def one(params: PyTree) -> tuple[jax.Array, jax.Array, jax.Array]:
        p = energy_forces_stress(nnx.merge(graphdef, params), graph, vectors)
        return p.atom_energies, p.forces, p.stress[0]

    if not members:
        energies, forces, stress = one(params)
        return Evaluated(energies, forces, stress, jnp.zeros((), energies.dtype), jnp.zeros_like(energies))
    energies, forces, stress = jax.vmap(one)(params)
    mean = energies.mean(0)
    # The members' totals are nearly alike: atom by atom their differences are small numbers, which sum without loss.
    totals = (energies - mean).sum(1)
    variance = forces.var(0, ddof=1).mean(-1) if members > 1 else jnp.zeros_like(mean)
    deviation = totals.std(ddof=1) if members > 1 else jnp.zeros((), mean.dtype)
    by_energy, by_force = spread_factor
    return Evaluated(mean, forces.mean(0), stress.mean(0), by_energy * deviation, by_force * jnp.sqrt(variance))
