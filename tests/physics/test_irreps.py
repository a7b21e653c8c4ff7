"""The algebra of rotations and reflections beside that of e3nn-jax, which shares no code with it."""

import math

import e3nn_jax as e3nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surrogate.models.atoms_base import AtomsGeometry, edge_vectors
from surrogate.models.density import edge_features, one_hot
from surrogate.models.graph import Capacity, pack, structure
from surrogate.models.potential import Potential, PotentialConfig
from surrogate.models.sphere import L_MAX, axes_rule, harmonics

TO_E3NN = np.array([1, 2, 0])  # its harmonics have y for the axis of m = 0, ours z: (x, y, z) → (y, z, x)
DEGREES = [slice(degree**2, (degree + 1) ** 2) for degree in range(L_MAX + 1)]


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def test_harmonics():
    points = np.random.default_rng(0).normal(size=(20, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    irreps = e3nn.Irreps([(1, (degree, (-1) ** degree)) for degree in range(L_MAX + 1)])
    theirs = e3nn.spherical_harmonics(
        irreps, jnp.asarray(points[:, TO_E3NN]), normalize=True, normalization="component"
    )
    np.testing.assert_allclose(np.array(harmonics(*points.T, L_MAX)).T, theirs.array, atol=1e-13)


def test_products_on_the_sphere_couple_as_clebsch_gordan_coefficients_do():
    """mean(Y_a Y_b Y_c) on the axes is e3nn's coefficient times the norm √((2a+1)(2b+1)(2c+1)) |3j(a b c; 0 0 0)|."""
    from sympy.physics.wigner import wigner_3j

    points, weights = axes_rule(3 * L_MAX)
    values = np.array(harmonics(*points.T, L_MAX))
    for a in range(L_MAX + 1):
        for b in range(L_MAX + 1):
            for c in range(abs(a - b), min(a + b, L_MAX) + 1):
                if (a + b + c) % 2:  # of the other parity, which no product of functions reaches
                    continue
                ours = np.einsum("g,ig,jg,kg->ijk", weights, *(values[DEGREES[n]] for n in (a, b, c)))
                norm = math.sqrt(math.prod(2 * n + 1 for n in (a, b, c))) * abs(float(wigner_3j(a, b, c, 0, 0, 0)))
                np.testing.assert_allclose(
                    ours, norm * e3nn.clebsch_gordan(a, b, c), atol=1e-12, err_msg=f"{a} {b} {c}"
                )


@pytest.mark.parametrize("reflect", [False, True])
def test_the_features_that_neighbors_send_are_irreps(reflect):
    """Rotated or reflected atoms send features transformed by e3nn's matrices for K×0e + K×1o + K×2e."""
    cutoff, hidden = 4.0, 3
    config = PotentialConfig(channels=5, hidden=hidden, hidden_l=2, basis=4, readout=4, layers=3, dtype="float64")
    model = Potential(AtomsGeometry((1, 8), cutoff, 9.0), config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(2)
    nnx.update(model, jax.tree.map(lambda v: jnp.asarray(rng.normal(0, 0.5, v.shape)), nnx.state(model)))
    positions, species = rng.uniform(0, 5, (9, 3)), np.array([0, 1, 1, 0, 0, 1, 0, 1, 1])

    def sent(positions):
        found = structure(positions, species, np.zeros((3, 3)), np.zeros(3, bool), cutoff)
        graph = pack([found], Capacity(9, 9, 1), "float64")
        kinds = one_hot(graph, 2, jnp.dtype("float64"))
        edges = edge_features(edge_vectors(graph), cutoff, config.l_max, config.basis)
        rows, out = [], []
        density = model.density(edges, kinds, graph)
        for layer in range(2):  # the second layer's features come of the first's
            invariants, equivariants = model.products[layer](density, kinds)
            if layer:
                invariants = jnp.concatenate([invariants, rows[0]], axis=-1)
            rows = model.updates[layer](invariants, equivariants, kinds)
            density = model.messages[layer](rows, edges, graph)
            # Ours: rows of K channels for each component. e3nn's: the components of each channel side by side.
            parts = [np.stack(rows[d]).transpose(1, 2, 0).reshape(len(rows[0]), -1) for d in DEGREES[:3]]
            out.append(np.concatenate(parts, axis=1))
        return out

    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation) * (-1 if reflect else 1)
    matrix = jnp.asarray(rotation[np.ix_(TO_E3NN, TO_E3NN)])
    expected = np.asarray(e3nn.Irreps(f"{hidden}x0e + {hidden}x1o + {hidden}x2e").D_from_matrix(matrix))
    for before, after in zip(sent(positions), sent(positions @ rotation.T), strict=True):
        assert np.abs(before).min(axis=0).max() > 1e-3  # nothing is equivariant for being zero
        np.testing.assert_allclose(after, before @ expected.T, atol=1e-10 * np.abs(before).max())
