"""What a potential is trained on: errors of energy per atom, forces and virial per atom."""

from __future__ import annotations

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.core.types import Array, PyTree
from surrogate.models.atoms_base import energy_forces_stress
from surrogate.models.graph import edge_vectors, graph_sum
from surrogate.parallel.blocks import sum_over_batch

MEV = 1000.0


def atoms_loss(
    model: Any, batch: PyTree, scale: float, delta: float | None, derivatives: bool
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum over energy (per atom, eV), force components (eV/Å) and virial components (per atom, eV) of weight × mean penalty.

    The penalty is that of the error over ``scale``: its square, or Huber's, whose square ends at ``delta`` (Huber,
    "Robust estimation of a location parameter", 1964). Energies and virials are averaged over configurations, forces over atoms.

    Args:
        batch: as :func:`surrogate.domains.atoms_batch.make_batch` makes it, with a leading axis of parts.
        scale: eV/Å, and eV for energies per atom.
        derivatives: whether forces and virials are needed; without them a step costs a third.

    Returns:
        The loss, and ``energy_rmse`` (meV/atom), ``force_rmse`` (eV/Å) and ``virial_rmse`` (meV/atom) of what there is.
    """

    def penalty(error: Array) -> jax.Array:
        x = jnp.asarray(error) / scale
        if delta is None:
            return x * x
        size = jnp.abs(x)
        return jnp.where(size < delta, x * x, delta * (2 * size - delta))

    graphdef, params = nnx.split(model)

    def sums(model: Any, part: PyTree) -> dict[str, tuple[jax.Array, jax.Array, jax.Array]]:
        """Per kind: sum of penalties, sum of squares, how many."""
        graph = part["graph"]
        number = jnp.maximum(graph_sum(jnp.ones(graph.species.shape, jnp.asarray(graph.positions).dtype), graph), 1)
        if derivatives:
            found = energy_forces_stress(model, graph)
            interaction = found.interaction
        else:
            energies = model(edge_vectors(graph), graph)
            interaction = graph_sum(jnp.where(graph.atom_mask, energies, 0), graph)
        result = {}

        def add(name: str, error: Array, mask: Array) -> None:
            error = jnp.where(mask, error, 0)
            count = jnp.broadcast_to(mask, error.shape).sum()
            result[name] = penalty(error).sum(), (error * error).sum(), count

        if "interaction" in part:
            add("energy", (interaction - part["interaction"]) / number, graph.graph_mask)
        if "forces" in part and derivatives:
            add("forces", found.forces - part["forces"], graph.atom_mask[:, None])
        if "virial" in part and derivatives:
            error = (found.virial - part["virial"]) / number[:, None, None]
            add("stress", error, part["has_virial"][:, None, None])
        return result

    def sums_of_packs(params: PyTree, packs: PyTree) -> PyTree:
        model = nnx.merge(graphdef, params)
        if packs["weights"].shape[0] == 1:
            return sums(model, jax.tree.map(lambda x: x[0], packs))
        return jax.tree.map(lambda x: x.sum(0), jax.vmap(lambda part: sums(model, part))(packs))

    total = sum_over_batch(sums_of_packs, params, batch)
    weights = dict(zip(("energy", "forces", "stress"), batch["weights"][0], strict=True))
    loss, logged = jnp.zeros((), jnp.float32), {}
    names = {"energy": ("energy_rmse", MEV), "forces": ("force_rmse", 1.0), "stress": ("virial_rmse", MEV)}
    for kind, (penalties, squares, number) in total.items():
        count = jnp.maximum(number, 1)
        loss = loss + (weights[kind] * penalties / count).astype(jnp.float32)
        name, factor = names[kind]
        logged[name] = factor * jnp.sqrt(squares / count).astype(jnp.float32)
    return loss, logged
