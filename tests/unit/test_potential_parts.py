"""Harmonics, cubature, products, radial basis and repulsion against analytic values and other implementations."""

from itertools import product
import math
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import sph_harm_y

from surrogate.core.types import UserError
from surrogate.models.atoms_base import AtomsGeometry, edge_vectors
from surrogate.models.base import find_model
from surrogate.models.descriptor import DescriptorConfig
from surrogate.models.graph import Capacity, pack, structure
from surrogate.models.potential import PotentialConfig
from surrogate.models.products import Products, terms
from surrogate.models.radial import basis_means, bessel_basis, envelope
from surrogate.models.sphere import axes_rule, harmonics
from surrogate.models.zbl import BOHR, COULOMB, COVALENT_RADII, zbl_energies, zbl_pair


def directions(count, seed=0):
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def real_harmonic(degree, m, points):
    """By scipy, without its Condon–Shortley phase, of mean square 1."""
    theta, phi = np.arccos(points[:, 2]), np.arctan2(points[:, 1], points[:, 0])
    y = sph_harm_y(degree, abs(m), theta, phi) * (-1) ** m * math.sqrt(4 * math.pi)
    return y.real if m == 0 else math.sqrt(2) * (y.real if m > 0 else y.imag)


def test_harmonics_are_those_of_scipy():
    points = directions(20)
    ours = harmonics(*points.T, 5)
    expected = [real_harmonic(degree, m, points) for degree in range(6) for m in range(-degree, degree + 1)]
    np.testing.assert_allclose(ours, expected, atol=1e-13)


def double_factorial(n):
    return math.prod(range(n, 0, -2))


@pytest.mark.parametrize(("degree", "axes"), [(7, 13), (9, 19), (11, 25), (15, 43), (17, 55)])
def test_cubature_is_exact_for_its_degree(degree, axes):
    """The mean of x^a y^b z^c over the sphere is (a−1)!! (b−1)!! (c−1)!! / (a+b+c+1)!! for even powers."""
    points, weights = axes_rule(degree)
    assert points.shape == (axes, 3)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    np.testing.assert_allclose(weights.sum(), 1)
    for powers in product(range(0, degree + 1, 2), repeat=3):
        if sum(powers) <= degree:
            expected = math.prod(double_factorial(p - 1) for p in powers) / double_factorial(sum(powers) + 1)
            np.testing.assert_allclose(weights @ np.prod(points ** np.array(powers), axis=1), expected, atol=1e-14)
    assert axes_rule(degree - 1)[0].shape == points.shape
    with pytest.raises(UserError, match="degree 18"):
        axes_rule(18)


@pytest.mark.parametrize(("l_max", "correlation", "l_out"), [(2, 3, 2), (3, 3, 0), (1, 4, 1), (4, 3, 1)])
def test_products_are_gaunt_couplings(l_max, correlation, l_out):
    """Against products of the function on a fine Gauss–Legendre grid, projected by scipy's harmonics."""
    nodes, w = np.polynomial.legendre.leggauss(12)
    phi = np.arange(24) * 2 * np.pi / 24
    z, angle = np.repeat(nodes, 24), np.tile(phi, 12)
    grid = np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], 1)
    weight = np.repeat(w / 2, 24) / 24
    values = [np.stack([real_harmonic(n, m, grid) for m in range(-n, n + 1)]) for n in range(5)]

    rng = np.random.default_rng(0)
    density = [rng.normal(size=(2 * n + 1, 5, 3)) for n in range(l_max + 1)]
    with jax.enable_x64(True):
        module = Products((3,) * (l_max + 1), 4, correlation, l_out, 1, jnp.dtype("float64"), rngs=nnx.Rngs(0))
        invariants, equivariants = jax.jit(module)([jnp.asarray(d) for d in density], jnp.ones((5, 1)))
        mixed = [d @ np.asarray(m[...]) for d, m in zip(density, module.mix, strict=True)]
    even, odd = (
        sum(np.einsum("mg,mnc->gnc", values[n], mixed[n]) for n in range(parity, l_max + 1, 2)) for parity in (0, 1)
    )

    def expected(degree):
        parts = [mixed[degree]]
        for a, b in terms(correlation, degree):
            scale = math.sqrt(double_factorial(2 * a - 1) * double_factorial(2 * b - 1))
            parts.append(np.einsum("mg,g,gnc->mnc", values[degree], weight, even**a * odd**b / scale))
        return np.concatenate(parts, axis=-1)

    np.testing.assert_allclose(invariants, expected(0)[0], atol=1e-12)
    assert invariants.shape == (5, module.num_invariants)
    for degree, found in enumerate(equivariants, start=1):
        np.testing.assert_allclose(found, expected(degree), atol=1e-12)
        assert found.shape[-1] == module.num_equivariants(degree)


def test_radial_basis():
    x = np.linspace(0.05, 1.3, 60)
    with jax.enable_x64(True):
        found = np.array(jax.jit(bessel_basis, static_argnums=1)(jnp.asarray(x), 7))
        n = np.arange(1, 8)[:, None]
        expected = np.where(x < 1, np.sin(n * np.pi * x) / x * np.asarray(envelope(x)), 0)
        np.testing.assert_allclose(found, expected, atol=1e-13)
        # means over the ball, by a fine midpoint rule
        fine = (np.arange(4000) + 0.5) / 4000
        cut = 1 - fine**6 * (28 - 48 * fine + 21 * fine**2)
        means = (np.sin(n * np.pi * fine) / fine * cut * 3 * fine**2).mean(1)
        np.testing.assert_allclose(basis_means(7), means, atol=1e-6)
        for order in range(3):  # value, slope and curvature vanish at the cutoff
            assert abs(float(jax.jit(derivative(envelope, order))(1 - 1e-9))) < 1e-6
        assert float(envelope(0.0)) == 1


def derivative(function, order):
    for _ in range(order):
        function = jax.grad(function)
    return function


def test_zbl_of_two_protons_and_more():
    """Screening sums to 1 at contact; published values of φ and a for Si–Si by hand."""
    with jax.enable_x64(True):
        r = 1e-7
        np.testing.assert_allclose(float(zbl_pair(r, 1.0, 1.0)), COULOMB / r, rtol=1e-4)
        a = 0.8854 * 0.529177210903 / (2 * 14**0.23)
        x = 1.2 / a
        phi = (
            0.18175 * math.exp(-3.19980 * x) + 0.50986 * math.exp(-0.94229 * x)
            + 0.28022 * math.exp(-0.40290 * x) + 0.02817 * math.exp(-0.20162 * x)
        )  # fmt: skip
        np.testing.assert_allclose(float(zbl_pair(1.2, 14.0, 14.0)), 14.399645 * 196 / 1.2 * phi, rtol=1e-6)
    assert pytest.approx(0.46850, rel=2e-4) == 0.8854 * BOHR  # the length that LAMMPS documents for its zbl


def test_zbl_of_a_batch():
    """Half of a pair on each atom, each pair with its own elements and range, nothing from padding."""
    geometry = AtomsGeometry((1, 8), 4.0, 5.0)
    positions = np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.6, 0]])
    species = np.array([1, 0, 0])
    graph = pack([structure(positions, species, np.zeros((3, 3)), np.zeros(3, bool), 4.0)], Capacity(5, 4, 1))
    found = np.asarray(zbl_energies(edge_vectors(graph), graph, geometry, 0.75))
    charge, expected = np.array([8.0, 1.0, 1.0]), np.zeros(3)
    radius = np.array([0.66, 0.31, 0.31])
    for i, j in product(range(3), repeat=2):
        r = np.linalg.norm(positions[i] - positions[j])
        outer = 0.75 * (radius[i] + radius[j])
        if i != j and r < outer:
            expected[i] += 0.5 * float(zbl_pair(r, charge[i], charge[j]) * envelope(r / outer))
    assert expected[0] > 0.5
    np.testing.assert_allclose(found[:3], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[3:], 0)


def test_covalent_radii_are_those_of_ase():
    data = pytest.importorskip("ase.data")
    np.testing.assert_allclose(COVALENT_RADII, data.covalent_radii[1 : len(COVALENT_RADII) + 1])


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (PotentialConfig, {"channels": 0}, "model potential: channels"),
        (DescriptorConfig, {"l_max": 6}, "model descriptor: l_max must be at most 5"),
        (PotentialConfig, {"correlation": 8, "hidden_l": 2}, "degree 18"),
        (PotentialConfig, {"hidden_l": 3, "l_max": 3}, "hidden_l must lie between 0"),
        (PotentialConfig, {"layers": 0}, "layers"), (PotentialConfig, {"dtype": "float16"}, "dtype 'float16'"),
        (DescriptorConfig, {"zbl_reach": 0.0}, "zbl_reach"), (DescriptorConfig, {"readout": -1}, "readout"),
    ],
)  # fmt: skip
def test_settings_are_checked(config, settings, message):
    with pytest.raises(UserError, match=message):
        config(**settings)


@pytest.mark.parametrize("name", ["potential", "descriptor"])
def test_models_are_registered_and_check_what_they_get(name):
    cls = find_model(name)
    geometry = AtomsGeometry((14,), 5.0, 27.0)
    with pytest.raises(UserError, match="float64 needs 64-bit"):
        cls(geometry, cls.Config(dtype="float64"), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="zbl_reach=3"):
        cls(geometry, cls.Config(zbl=True, zbl_reach=3.0), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="no covalent radius"):
        cls(AtomsGeometry((14, 100), 5.0, 27.0), cls.Config(zbl=True), rngs=nnx.Rngs(0))
    model = nnx.eval_shape(lambda: cls(geometry, rngs=nnx.Rngs(0)))
    assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_flops_are_those_of_the_dots():
    """Counted by hand from the matrix products that XLA compiles, of shapes that no atom pads."""
    geometry = AtomsGeometry((14,), 5.0, 6.0)
    positions = np.random.default_rng(0).uniform(0, 3, (7, 3))
    graph = pack([structure(positions, np.zeros(7, int), np.zeros((3, 3)), np.zeros(3, bool), 9.0)], Capacity(7, 6, 1))
    for name in ("potential", "descriptor"):
        cls = find_model(name)
        graphdef, params = nnx.split(nnx.eval_shape(lambda cls=cls: cls(geometry, cls.Config(), rngs=nnx.Rngs(0))))
        lowered = jax.jit(lambda p, v, g, d=graphdef: nnx.merge(d, p)(v, g)).lower(params, edge_vectors(graph), graph)
        counted = dot_flops(lowered.as_text())
        # beside what flops() counts there are the species' rows, contractions by sums, and means: a few percent
        np.testing.assert_allclose(7 * cls.flops(geometry, cls.Config()), counted, rtol=0.05)


def dot_flops(text):
    """Operations of every ``dot_general`` in StableHLO: 2 × the result × what is contracted."""
    total = 0
    pattern = r"dot_general .*?contracting_dims = \[([\d, ]*)\].*?: \(tensor<([\dx]+)xf32>.*?-> tensor<([\dx]+)xf32>"
    for dims, left, result in re.findall(pattern, text):
        shape = [int(v) for v in left.split("x")]
        contracted = math.prod(shape[int(d)] for d in dims.split(",") if d.strip())
        total += 2 * contracted * math.prod(int(v) for v in result.split("x"))
    return total
