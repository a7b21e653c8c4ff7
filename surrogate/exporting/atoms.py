"""Energy, forces and virial of atoms as exported functions: one program for each capacity, a ladder of them.

A program begins at the vectors between neighbors and ends at energies, forces and virials of the atoms. The
caller's side of it (the C library, :mod:`surrogate.exporting.atoms_caller`) finds the neighbors in double
precision, forms the vectors there, where positions far from the origin cost no digits, and adds reference
energies and sums up in double precision as well.

``counted`` makes one rank of a domain-decomposed simulation a caller like any other: ghost atoms are atoms
whose energies do not count, and the forces on them are what is sent back to their owners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.types import Array, PyTree, UserError
from surrogate.exporting.atoms_golden import golden_systems
from surrogate.exporting.atoms_inputs import INPUTS, fill
from surrogate.exporting.function import Argument, Function
from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.exchange import collect
from surrogate.models.graph import FAR, Capacity, Graph, Structure, structure

NAME = "energy_forces_stress"
# Beyond these, copies of one call's arrays alone would be gigabytes.
MAX_ATOMS, MAX_NEIGHBORS, MAX_SLOTS = 1_000_000, 1_000, 20_000_000


@dataclass(frozen=True)
class AtomsExport:
    """A ladder of functions, from small to large, and what a caller has to know beside them."""

    functions: tuple[Function, ...]
    record: dict[str, Any]  # the manifest's entry "atoms"


def atoms_functions(
    geometry: AtomsGeometry,
    graphdef: Any,
    params: PyTree,
    capacities: Sequence[tuple[int, int]] = (),
    structures: Sequence[Structure] = (),
    members: int = 0,
) -> AtomsExport:
    """The functions of a potential, one for each capacity.

    Args:
        graphdef, params: of an ``nnx`` potential, ``params`` in the form that ``nnx.merge`` takes.
        capacities: (atoms, neighbors of one atom at most); by default those of :func:`default_capacities`.
        structures: configurations of the training data, for golden samples that a simulation will resemble
            and for the default capacities; generated ones by default.
        members: of an ensemble, whose parameters have one more leading axis: the mean is exported; 0 for one potential.

    Raises:
        UserError: for capacities that are not such, and a model that computes in float64.
    """
    capacities = _checked(capacities or default_capacities(geometry, structures))
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    parameters = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}
    for name, leaf in parameters.items():
        if leaf.dtype != np.float32:
            raise UserError(
                f"the potential computes in {leaf.dtype} (parameter {name}); a Bundle holds float32: train or "
                "convert it with model.dtype=float32"
            )
    given = {name: leaf for name, leaf in parameters.items() if leaf.size}

    def apply(values: tuple[Array, ...], inputs: tuple[Array, ...]) -> tuple[jax.Array, ...]:
        held = dict(zip(given, values, strict=True))
        whole = [held.get(name, jnp.zeros(leaf.shape, leaf.dtype)) for name, leaf in parameters.items()]
        model = _energies(graphdef, jax.tree_util.tree_unflatten(tree, whole), members)
        # One system a call: a sample dimension inside would cost time in every gather.
        return tuple(x[None] for x in energies_and_derivatives(model, *(x[0] for x in inputs)))

    rungs, functions = [], []
    for atoms, neighbors in capacities:
        name = f"{NAME}.{atoms}x{neighbors}"
        rungs.append({"function": name, "atoms": atoms, "neighbors": neighbors})
        systems = golden_systems(geometry, atoms, neighbors, structures)
        samples = [fill(edges, species, Capacity(atoms, neighbors, 1), counted) for edges, species, counted in systems]
        golden = {name: np.stack([s[name] for s in samples]) for name in INPUTS}
        functions.append(Function(
            name, _inputs(atoms, neighbors), _outputs(atoms), given, apply, golden, single=True,
        ))  # fmt: skip
    record = {
        "name": NAME, "rungs": rungs, "cutoff": geometry.cutoff, "layers": num_layers(_energies(graphdef, params, members), geometry),
        "species": list(geometry.species), "reference_energies": [float(e) for e in geometry.references()],
        "inputs": [
            {"name": "positions", "dtype": "float64", "dims": ["atom", "component"], "units": "angstrom",
             "description": "anywhere, inside of the cell or not"},
            {"name": "numbers", "dtype": "int32", "dims": ["atom"], "units": "1", "description": "atomic numbers"},
            {"name": "cell", "dtype": "float64", "dims": ["vector", "component"], "units": "angstrom",
             "description": "rows are the cell vectors; those of directions that are not periodic do not matter"},
            {"name": "pbc", "dtype": "bool", "dims": ["vector"], "units": "1", "description": "periodic along it"},
        ],
        "outputs": [
            {"name": "energy", "dtype": "float64", "dims": [], "units": "eV",
             "description": "with reference energies"},
            {"name": "forces", "dtype": "float64", "dims": ["atom", "component"], "units": "eV/angstrom",
             "description": "minus the derivative of the energy by the positions"},
            {"name": "stress", "dtype": "float64", "dims": ["component", "component"], "units": "eV/angstrom^3",
             "description": "virial over volume, tension positive; NaN unless periodic in all directions"},
            {"name": "virial", "dtype": "float64", "dims": ["component", "component"], "units": "eV",
             "description": "derivative of the energy by a symmetric strain"},
            {"name": "atom_energies", "dtype": "float64", "dims": ["atom"], "units": "eV",
             "description": "with reference energies; their sum is the energy"},
        ],
    }  # fmt: skip
    return AtomsExport(tuple(functions), record)


def default_capacities(geometry: AtomsGeometry, structures: Sequence[Structure] = ()) -> list[tuple[int, int]]:
    """64 and 512 atoms, and the largest configuration; neighbors as the data have them and a half more for what
    a simulation will compress.
    """
    most = max((s.max_neighbors for s in structures), default=round(1.5 * geometry.num_neighbors))
    slots = -(-max(round(1.5 * most), 8) // 8) * 8
    sizes = {64, 512, *([-(-max(len(s) for s in structures) // 8) * 8] if structures else [])}
    return [(atoms, slots) for atoms in sorted(sizes)]


def _checked(capacities: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    found = [(int(a), int(m)) for a, m in capacities]
    for atoms, neighbors in found:
        if not (1 <= atoms <= MAX_ATOMS and 1 <= neighbors <= MAX_NEIGHBORS and atoms * neighbors <= MAX_SLOTS):
            raise UserError(
                f"the capacity {atoms}x{neighbors} must be 1 to {MAX_ATOMS} atoms with 1 to {MAX_NEIGHBORS} "
                f"neighbors, and at most {MAX_SLOTS} of both multiplied"
            )
    if len(set(found)) != len(found):
        raise UserError(f"capacities={found} must be different")
    return sorted(found, key=lambda c: (c[0] * c[1], c[0]))


def energies_and_derivatives(
    model: Any, vectors: Array, senders: Array, reverse: Array, species: Array, counted: Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of one system: energies (N,) eV without references, forces (N, 3) eV/Å, virials (N, 3, 3) eV.

    As :func:`surrogate.models.atoms_base.energy_forces_stress`, of the energy that is the sum over ``counted`` atoms.
    The virial of an atom is Σ_m d_im ⊗ ∂E/∂d_im over its own slots; the sum over the atoms is the system's.
    """
    n, m = senders.shape
    own = jnp.arange(n * m, dtype=jnp.int32).reshape(n, m)
    mask, real = jnp.asarray(reverse) != own, jnp.asarray(species) >= 0
    d = jnp.where(mask, vectors, jnp.array([FAR, 0.0, 0.0], jnp.float32)[:, None, None])
    graph = Graph(
        positions=jnp.zeros((n, 3), d.dtype), species=jnp.maximum(species, 0), cell=jnp.zeros((1, 3, 3), d.dtype),
        periodic=jnp.zeros(1, bool), senders=senders, shifts=jnp.zeros((n, m, 3), jnp.int32), reverse=reverse,
        neighbor_mask=mask, graph_index=jnp.zeros(n, jnp.int32), atom_mask=real, graph_mask=jnp.ones(1, bool),
    )  # fmt: skip

    def total(d: jax.Array) -> tuple[jax.Array, jax.Array]:
        energies = jnp.where(real & (jnp.asarray(counted) > 0), model(d, graph), 0)
        return energies.sum(), energies

    (_, energies), gradient = jax.value_and_grad(total, has_aux=True)(d)
    back = collect(jnp.moveaxis(gradient, 0, -1), *graph.exchange)
    forces = gradient.sum(-1).T - back
    inside = jnp.where(mask, d, 0)
    virials = jnp.stack([(inside[a] * gradient[b]).sum(-1) for a in range(3) for b in range(3)], -1)
    return energies, forces, virials.reshape(n, 3, 3)


def _energies(graphdef: Any, params: PyTree, members: int) -> Callable[[Array, Graph], jax.Array]:
    """(vectors, graph) → (N,): the potential, or the mean of an ensemble's."""
    if not members:
        return nnx.merge(graphdef, params)
    return lambda vectors, graph: jax.vmap(lambda p: nnx.merge(graphdef, p)(vectors, graph))(params).mean(0)


def golden_structures(geometry: AtomsGeometry, golden: Mapping[str, np.ndarray]) -> list[Structure]:
    """The configurations that a surrogate of atoms keeps: positions, species, cell, pbc, row_size."""
    ends = np.cumsum(golden["row_size"])
    found = []
    for i, (end, size) in enumerate(zip(ends, golden["row_size"], strict=True)):
        rows = slice(int(end - size), int(end))
        species = np.searchsorted(geometry.species, golden["species"][rows])
        found.append(
            structure(golden["positions"][rows], species, golden["cell"][i], golden["pbc"][i], geometry.cutoff)
        )
    return found


def num_layers(model: Callable[[Array, Graph], jax.Array], geometry: AtomsGeometry, most: int = 12) -> int:
    """How many cutoffs far an atom's energy depends on others: 1 for a potential without messages.

    Found by asking: along a chain of atoms in which each has its two neighbors alone, the energy of the first changes
    with the vectors of as many atoms as there are layers.

    Raises:
        UserError: when the energy depends on more than ``most`` atoms in a row.
    """
    rng = np.random.default_rng(0)
    length = most + 2
    places = np.cumsum(rng.normal(0, 1, (length, 3)), axis=0)
    steps = np.diff(places, axis=0)
    steps *= (geometry.cutoff * rng.uniform(0.4, 0.6, (length - 1, 1))) / np.linalg.norm(steps, axis=1, keepdims=True)
    senders, vectors = np.tile(np.arange(length)[:, None], 2), np.zeros((3, length, 2), np.float32)
    reverse = np.arange(2 * length).reshape(length, 2)
    for i, step in enumerate(steps):  # slot 0 holds the atom before, slot 1 the one after
        senders[i, 1], senders[i + 1, 0] = i + 1, i
        vectors[:, i, 1], vectors[:, i + 1, 0] = step, -step
        reverse[i, 1], reverse[i + 1, 0] = 2 * (i + 1), 2 * i + 1
    species = rng.integers(0, len(geometry.species), length)
    mask = reverse != np.arange(2 * length).reshape(length, 2)
    graph = Graph(
        np.zeros((length, 3), np.float32), species.astype(np.int32), np.zeros((1, 3, 3), np.float32), np.zeros(1, bool),
        senders.astype(np.int32), np.zeros((length, 2, 3), np.int32), reverse.astype(np.int32), mask,
        np.zeros(length, np.int32), np.ones(length, bool), np.ones(1, bool),
    )  # fmt: skip
    graph = jax.tree.map(jnp.asarray, graph)
    d = jnp.where(graph.neighbor_mask, vectors, jnp.array([FAR, 0.0, 0.0], jnp.float32)[:, None, None])
    quick = {"xla_backend_optimization_level": 0}  # it runs once
    gradient = jax.jit(jax.grad(lambda d: model(d, graph)[0]), compiler_options=quick)(d)
    moved = np.flatnonzero(np.asarray(gradient != 0).any((0, 2)))
    layers = int(moved.max(initial=0)) + 1
    if layers > most:
        raise UserError(
            f"the energy of an atom depends on more than {most} cutoffs around it; no exported form can say so"
        )
    return layers


def edge_arguments(atoms: int, neighbors: int) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Dims and shape of each input of a program."""
    return {
        "vectors": (("component", "atom", "slot"), (3, atoms, neighbors)),
        "senders": (("atom", "slot"), (atoms, neighbors)),
        "reverse": (("atom", "slot"), (atoms, neighbors)),
        "species": (("atom",), (atoms,)),
        "counted": (("atom",), (atoms,)),
    }


_MEANING = {
    "vectors": ("angstrom", "float32", "from each atom to the neighbor in each slot"),
    "senders": ("1", "int32", "the atom in each slot, from 0; the atom itself in an empty slot"),
    "reverse": ("1", "int32", "atom * slots + slot of the same pair seen from the other; its own number if empty"),
    "species": ("1", "int32", "place in the potential's species, from 0; -1 where there is no atom"),
    "counted": ("1", "int32", "1 where the energy counts, 0 for ghost atoms"),
}


def _inputs(atoms: int, neighbors: int) -> tuple[Argument, ...]:
    result = []
    for name, (dims, shape) in edge_arguments(atoms, neighbors).items():
        units, dtype, description = _MEANING[name]
        result.append(Argument(name, "geometry", units, dims, shape, dtype, description))
    return tuple(result)


def _outputs(atoms: int) -> tuple[Argument, ...]:
    return (
        Argument("energies", "diagnostic", "eV", ("atom",), (atoms,), description="without reference energies"),
        Argument("forces", "diagnostic", "eV/angstrom", ("atom", "component"), (atoms, 3),
                 description="minus the derivative of the sum of counted energies"),
        Argument("virials", "diagnostic", "eV", ("atom", "component", "component"), (atoms, 3, 3),
                 description="vector times derivative, summed over the slots of each atom"),
    )  # fmt: skip
