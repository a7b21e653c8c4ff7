"""Padded batches, their shapes, and what moves along neighbor slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surrogate.core.types import UserError
from surrogate.models.atoms_base import AtomsGeometry, fit_reference_energies
from surrogate.models.capacities import choose_ladder, fill
from surrogate.models.exchange import collect, fetch
from surrogate.models.graph import FAR, Capacity, edge_vectors, graph_sum, pack, pack_atoms, structure

CELL = np.array([[4.0, 0, 0], [0.5, 4.2, 0], [-0.3, 0.4, 4.5]])


def configuration(atoms, seed=0, pbc=True, cutoff=3.0):
    rng = np.random.default_rng(seed)
    scale = (atoms / 4) ** (1 / 3)
    positions = rng.uniform(0, 1, (atoms, 3)) @ CELL * scale
    return structure(positions, rng.integers(0, 2, atoms), CELL * scale, np.full(3, pbc), cutoff)


@pytest.fixture(scope="module")
def batch():
    found = [configuration(5, 1), configuration(3, 2, pbc=False), configuration(6, 3)]
    capacity = Capacity(18, max(s.max_neighbors for s in found) + 2, 4)
    return found, capacity, pack(found, capacity)


def test_vectors_are_those_of_the_lists(batch):
    found, _, graph = batch
    vectors = np.asarray(edge_vectors(graph))
    start = 0
    for s in found:
        n, cell = s.neighbors, np.where(s.pbc[:, None], s.cell, 0)
        expected = s.positions[n.senders] - s.positions[n.receivers] + n.shifts @ cell
        rows = slice(start, start + len(s))
        mask = graph.neighbor_mask[rows]
        np.testing.assert_allclose(vectors[:, rows][:, mask].T, expected, atol=2e-6)
        np.testing.assert_array_equal(graph.senders[rows][mask], n.senders + start)
        start += len(s)
    np.testing.assert_array_equal(vectors[0][~graph.neighbor_mask], FAR)
    assert graph.neighbor_mask.sum() == sum(len(s.neighbors.senders) for s in found)
    assert not graph.neighbor_mask[14:].any()
    np.testing.assert_array_equal(graph.graph_mask, [True, True, True, False])
    np.testing.assert_array_equal(graph.periodic, [True, False, True, False])


def test_reverse_slots_point_back(batch):
    _, _, graph = batch
    flat = graph.reverse.reshape(-1)
    np.testing.assert_array_equal(flat[flat], np.arange(flat.size))  # twice there and back
    vectors = np.asarray(edge_vectors(graph)).reshape(3, -1)
    real = graph.neighbor_mask.reshape(-1)
    np.testing.assert_allclose(vectors[:, flat][:, real], -vectors[:, real], atol=2e-6)


def test_collect_is_the_transpose_of_fetch(batch):
    """⟨fetch x, e⟩ = ⟨x, collect e⟩, against a scatter, and each is the other's derivative."""
    _, _, graph = batch
    rng = np.random.default_rng(0)
    n, m = graph.senders.shape
    x, e = jnp.asarray(rng.normal(size=(n, 3)), jnp.float32), jnp.asarray(rng.normal(size=(n, m, 3)), jnp.float32)
    mask = graph.neighbor_mask[..., None]
    fetched, collected = fetch(x, *graph.exchange), collect(e, *graph.exchange)
    np.testing.assert_array_equal(fetched, np.where(mask, np.asarray(x)[graph.senders], 0))
    scattered = jnp.zeros_like(x).at[graph.senders].add(jnp.where(mask, e, 0))
    np.testing.assert_allclose(collected, scattered, atol=2e-6)
    np.testing.assert_allclose(jax.vjp(lambda v: fetch(v, *graph.exchange), x)[1](e)[0], scattered, atol=2e-6)
    np.testing.assert_array_equal(jax.vjp(lambda v: collect(v, *graph.exchange), e)[1](x)[0], fetched)
    members = jax.vmap(lambda v: fetch(v, *graph.exchange))(jnp.stack([x, 2 * x]))
    np.testing.assert_array_equal(members[1], 2 * fetched)


def test_graph_sum_and_targets(batch):
    found, capacity, graph = batch
    values = [np.full((len(s), 2), float(i + 1)) for i, s in enumerate(found)]
    packed = pack_atoms(values, capacity)
    packed[14:] = 1e6  # padding does not count
    np.testing.assert_allclose(graph_sum(packed, graph), [[5, 5], [6, 6], [18, 18], [0, 0]])


def test_what_does_not_fit_is_refused(batch):
    found, capacity, _ = batch
    with pytest.raises(UserError, match="3 configurations of 14 atoms"):
        pack(found, Capacity(13, capacity.neighbors, 4))
    with pytest.raises(UserError, match="do not fit"):
        pack(found, Capacity(18, 2, 4))
    with pytest.raises(UserError, match="do not fit"):
        pack(found, Capacity(18, capacity.neighbors, 2))


def test_few_shapes_serve_every_batch():
    """A hundred random batches compile no more programs than the ladder has rungs, and little is padded."""
    found = [configuration(4 + 3 * (i % 5), i) for i in range(30)]
    sizes, slots = [len(s) for s in found], [s.max_neighbors for s in found]
    ladder = choose_ladder(sizes, slots, batch_size=4, rungs=3)
    assert len(ladder.rungs) <= 3
    compilations = 0

    @jax.jit
    def total(graph):
        nonlocal compilations
        compilations += 1  # runs while tracing only
        return jnp.sum(edge_vectors(graph) * graph.neighbor_mask)

    rng = np.random.default_rng(1)
    used, offered = 0, 0
    for _ in range(100):
        chosen = [found[i] for i in rng.choice(len(found), 4, replace=False)]
        capacity = ladder.rung(sum(map(len, chosen)), max(s.max_neighbors for s in chosen), 4)
        total(pack(chosen, capacity))
        used += sum(map(len, chosen))
        offered += capacity.atoms
    assert compilations <= len(ladder.rungs)
    assert used / offered > 0.6
    worst = sorted(found, key=len)[-4:]
    assert ladder.rung(sum(map(len, worst)), max(slots), 4) == ladder.rungs[-1]
    with pytest.raises(UserError, match="larger than any"):
        ladder.rung(10**6, 1, 1)


def test_fill_keeps_order_and_budgets():
    sizes, slots = [5, 9, 3, 3, 3, 12], [4, 4, 6, 2, 2, 2]
    capacity = Capacity(atoms=14, neighbors=6, graphs=3)
    batches = fill(sizes, slots, capacity)
    assert [i for b in batches for i in b] == list(range(6))
    assert all(sum(sizes[i] for i in b) <= 14 and len(b) <= 3 for b in batches)
    assert batches == [[0, 1], [2, 3, 4], [5]]
    with pytest.raises(UserError, match="configuration 1 of 15 atoms"):
        fill([1, 15], [1, 1], capacity)


def test_reference_energies_are_recovered():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (40, 3))
    true = np.array([-13.6, -1029.3, -2041.8])
    np.testing.assert_allclose(fit_reference_energies(counts, counts @ true), true, rtol=1e-10)
    # by hand: one species, error per atom, so the mean of the energies per atom
    np.testing.assert_allclose(fit_reference_energies([[2], [4]], np.array([-2.0, -8.0])), [-1.5])
    # one composition determines their sum only
    water = fit_reference_energies(np.tile([2, 1], (5, 1)) * np.arange(1, 6)[:, None], -6.0 * np.arange(1, 6))
    np.testing.assert_allclose(water @ [2, 1], -6.0)
    with pytest.raises(UserError, match="energy of frame 1"):
        fit_reference_energies([[2], [4]], np.array([-2.0, np.nan]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"species": (8, 1)}, "ascending"), ({"species": ()}, "ascending"), ({"species": (0, 1)}, "ascending"),
        ({"cutoff": -1.0}, "cutoff"), ({"num_neighbors": 0.0}, "num_neighbors"), ({"scale": float("nan")}, "scale"),
        ({"reference_energies": (1.0,)}, "1 reference energies for 2 species"),
    ],
)  # fmt: skip
def test_geometry_is_checked(settings, message):
    with pytest.raises(UserError, match=message):
        AtomsGeometry(**{"species": (1, 8), "cutoff": 5.0, "num_neighbors": 20.0, **settings})
