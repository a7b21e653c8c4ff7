"""U-Net, transformer and MLP: shapes, symmetries of the sphere, gradients, precision and cost."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
import itertools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from surrogate.core.spec import Grid
from surrogate.core.types import UserError
from surrogate.models.base import FieldGeometry, find_model
from surrogate.models.mlp import MLPConfig
from surrogate.models.padding import Boundary, depth_to_space, space_to_depth
from surrogate.models.transformer import TransformerConfig, _meridian_attention
from surrogate.models.unet import UNetConfig

SMALL = {
    "unet": UNetConfig(channels=(16, 24), blocks=1, stem=16),
    "transformer": TransformerConfig(channels=16, layers=2, heads=2),
    "mlp": MLPConfig(hidden=24, layers=1),
}
NAMES = tuple(SMALL)
# These programs run once or a few times: most of their time is the compiler's.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def sphere(height: int, width: int, pole_rows: bool = False) -> Grid:
    latitude = np.linspace(-90, 90, height) if pole_rows else (np.arange(height) + 0.5) * 180 / height - 90
    return Grid(tuple(latitude), tuple(np.arange(width) * 360 / width))


def plane(height: int, width: int, periodic: bool = False) -> Grid:
    return Grid(tuple(map(float, range(height))), tuple(map(float, range(width))), "plane", periodic)


def geometry(grid: Grid, state: int = 3, forcing: int = 2, static: int = 2, outputs: int = 3) -> FieldGeometry:
    return FieldGeometry(grid, state, forcing, static, outputs)


def inputs(geo: FieldGeometry, batch: int = 2, seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    shape = geo.grid.shape
    shapes = (batch, *shape, geo.num_state), (batch, *shape, geo.num_forcing), (*shape, geo.num_static)
    return tuple(jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)  # type: ignore[return-value]


def build(name: str, geo: FieldGeometry, config=None):
    """The pure function and the parameters of a small model."""
    graphdef, params = nnx.split(find_model(name)(geo, config or SMALL[name], rngs=nnx.Rngs(0)))
    return jit(lambda p, *a: nnx.merge(graphdef, p)(*a)), params


def output_shape(name: str, geo: FieldGeometry, config) -> jax.ShapeDtypeStruct:
    def forward(*args):
        return find_model(name)(geo, config, rngs=nnx.Rngs(0))(*args)

    return jax.eval_shape(forward, *inputs(geo))


def loud(params):
    """The head is near zero at first; a louder one lets a comparison of outputs see the network."""
    return jax.tree_util.tree_map_with_path(
        lambda path, a: a * 100 if any("head" in str(k) for k in path) and a.ndim == 2 else a, params
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "grid",
    [
        *(sphere(19, 36, True), sphere(89, 180), sphere(73, 144, True), sphere(32, 64), sphere(48, 96), sphere(5, 7)),
        *(plane(16, 16), plane(1, 9), plane(17, 3, periodic=True), plane(2, 1)),
    ],
    ids=lambda g: f"{g.kind}{g.shape[0]}x{g.shape[1]}",
)
def test_any_grid_gives_float32_of_the_output_shape(name, grid):
    geo = geometry(grid)
    out = output_shape(name, geo, SMALL[name])
    assert out.shape == (2, *grid.shape, 3)
    assert out.dtype == jnp.float32


@pytest.mark.parametrize("name", ["unet", "transformer"])
@pytest.mark.parametrize("patch", [1, 3, 4])
def test_patches_that_do_not_divide_the_grid(name, patch):
    geo = geometry(sphere(10, 14))
    config = replace(SMALL[name], patch=patch)
    out = output_shape(name, geo, config)
    assert out.shape == (2, 10, 14, 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("roles", [(3, 0, 0), (0, 2, 0), (0, 2, 3), (3, 0, 2)], ids=str)
def test_absent_roles(name, roles):
    geo = geometry(sphere(8, 8), *roles)
    out = output_shape(name, geo, SMALL[name])
    assert out.shape == (2, 8, 8, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stride", "grid"),
    [
        ("unet", 4, sphere(7, 16, True)),
        ("unet", 4, plane(8, 16, True)),
        ("transformer", 2, sphere(7, 16, True)),
        ("transformer", 2, plane(8, 16, True)),
        ("mlp", 1, sphere(4, 8)),
    ],
    ids=["unet-sphere", "unet-plane", "transformer-sphere", "transformer-plane", "mlp"],
)
def test_turning_the_globe_turns_the_output(name, stride, grid):
    geo = geometry(grid)
    apply, params = build(name, geo)
    params = loud(params)
    args = inputs(geo)
    turned = [jnp.roll(a, 3 * stride, axis=-2) for a in args]
    out = apply(params, *args)
    assert float(out.std()) > 0.05
    np.testing.assert_allclose(apply(params, *turned), jnp.roll(out, 3 * stride, axis=2), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "change"),
    [("unet", {"embedding": 3}), ("transformer", {"position": "point"})],
    ids=["unet", "transformer"],
)
def test_values_learned_at_each_point_tell_longitudes_apart(name, change):
    geo = geometry(sphere(8, 16))
    apply, params = build(name, geo, replace(SMALL[name], **change))
    args = inputs(geo)
    turned = apply(params, *(jnp.roll(a, 4, axis=-2) for a in args))
    assert not np.allclose(turned, jnp.roll(apply(params, *args), 4, axis=2), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pole_rows", [False, True])
@pytest.mark.parametrize("halo", [1, 3])
def test_halo_continues_a_smooth_function_across_the_poles(pole_rows, halo):
    # Cartesian x on the unit sphere, whose formula holds past the pole: cos 95° cos λ = cos 85° cos(λ + 180°).
    grid = sphere(13, 24, pole_rows)
    step = grid.latitude[1] - grid.latitude[0]
    latitude = grid.latitude[0] + step * np.arange(-halo, 13 + halo)
    longitude = 15.0 * np.arange(-halo, 24 + halo)
    expected = np.cos(np.deg2rad(latitude))[:, None] * np.cos(np.deg2rad(longitude))
    inner = expected[halo:-halo, halo:-halo]
    padded = Boundary.of(grid).pad(jnp.asarray(inner)[None, :, :, None], (halo, halo), (halo, halo))
    np.testing.assert_allclose(padded[0, :, :, 0], expected, atol=1e-6)


def test_halo_against_numpy():
    x = np.arange(2 * 5 * 6 * 3, dtype=np.float32).reshape(2, 5, 6, 3)
    south, north = np.roll(x, 3, axis=2)[:, [1, 0]], np.roll(x, 3, axis=2)[:, [4]]
    expected = np.pad(np.concatenate([south, x, north], axis=1), ((0, 0), (0, 0), (2, 1), (0, 0)), mode="wrap")
    np.testing.assert_array_equal(Boundary(periodic=True, poles=True).pad(jnp.asarray(x), (2, 1), (2, 1)), expected)
    expected = np.pad(x, ((0, 0), (2, 1), (1, 2), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(Boundary(periodic=False, poles=False).pad(jnp.asarray(x), (2, 1), (1, 2)), expected)
    with pytest.raises(ValueError, match="6 columns"):
        Boundary(periodic=True, poles=False).pad(jnp.asarray(x), (1, 1), (7, 7))


def test_only_a_global_grid_has_poles():
    assert Boundary.of(sphere(19, 36, True)) == Boundary(True, True, True, True)
    assert Boundary.of(sphere(18, 36)) == Boundary(True, True)
    assert Boundary.of(Grid((10.0, 20.0, 30.0), (0.0, 10.0, 20.0), periodic=False)) == Boundary(False, False)
    assert Boundary.of(plane(4, 4, True)) == Boundary(True, False)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_patches_fold_and_unfold(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 10, 3)), jnp.float32)
    folded = space_to_depth(x, size, Boundary(True, True))
    assert folded.shape == (2, -(-7 // size), -(-10 // size), 3 * size**2)
    np.testing.assert_array_equal(depth_to_space(folded, size, (7, 10)), x)


@pytest.mark.parametrize("poles", [True, False])
def test_meridian_attention_against_numpy(poles):
    rows, columns, pairs = 3, 4, 2
    q, k, v = np.random.default_rng(0).normal(size=(3, rows, columns, 2 * pairs))
    turns = np.round(np.geomspace(1, max(1, 2 * rows / (2 * np.pi)), pairs))
    expected = np.zeros_like(v)
    for i, j in itertools.product(range(rows), range(columns)):
        # Northwards along the meridian, then back southwards along the opposite one.
        circle = [(r, j) for r in range(rows)] + [(r, (j + columns // 2) % columns) for r in reversed(range(rows))]
        circle = circle if poles else circle[:rows]
        scores = []
        for place, token in enumerate(circle):
            phase = np.exp(2j * np.pi * turns * (i - place) / (2 * rows))
            left, right = (a[:pairs] + 1j * a[pairs:] for a in (q[i, j], k[token]))
            scores.append((left * np.conj(right) * phase).real.sum() / np.sqrt(2 * pairs))
        weight = np.exp(scores) / np.exp(scores).sum()
        expected[i, j] = sum(w * v[token] for w, token in zip(weight, circle, strict=True))
    arrays = (jnp.asarray(a, jnp.float32)[None, :, :, None] for a in (q, k, v))
    out = _meridian_attention(*arrays, Boundary(periodic=True, poles=poles))
    np.testing.assert_allclose(out[0, :, :, 0], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [("unet", {"embedding": 2}), ("transformer", {}), ("mlp", {}), ("mlp", {"scope": "global"})],
    ids=["unet", "transformer", "mlp-point", "mlp-global"],
)
def test_every_parameter_has_a_gradient_and_the_first_output_is_near_persistence(name, change):
    geo = geometry(sphere(8, 16))
    graphdef, params = nnx.split(find_model(name)(geo, replace(SMALL[name], **change), rngs=nnx.Rngs(0)))
    assert all(isinstance(v, nnx.Param) for v in jax.tree.leaves(params, is_leaf=lambda v: isinstance(v, nnx.Variable)))
    args = inputs(geo)

    def loss(p):
        out = nnx.merge(graphdef, p)(*args)
        return jnp.mean((out - 1) ** 2), out

    grads, out = jit(jax.grad(loss, has_aux=True))(params)
    assert float(jnp.abs(out).max()) < 0.1
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(g).all(), path
        assert np.abs(g).max() > 0, path


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_close_to_float32(name):
    geo = geometry(sphere(8, 16))
    args = inputs(geo)
    full, params = build(name, geo)
    half, half_params = build(name, geo, replace(SMALL[name], dtype="bfloat16"))
    assert {a.dtype for a in jax.tree.leaves(half_params)} == {jnp.dtype("float32")}
    params = loud(params)
    expected, out = full(params, *args), half(params, *args)
    assert out.dtype == jnp.float32
    error = float(jnp.linalg.norm(out - expected) / jnp.linalg.norm(expected))
    assert 0 < error < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_counted_flops_are_those_of_the_compiled_program(name):
    geo = geometry(sphere(19, 36, True), state=8, outputs=8)
    config = {
        "unet": UNetConfig(channels=(48, 64), blocks=1),
        "transformer": TransformerConfig(channels=96, layers=2, heads=4),
        "mlp": MLPConfig(hidden=96),
    }[name]
    apply, params = build(name, geo, config)
    cost = apply.lower(params, *inputs(geo, batch=1)).compile().cost_analysis()["flops"]
    assert find_model(name).flops(geo, config) == pytest.approx(cost, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [("unet", [{"remat": True}]), ("transformer", [{"scan": True}, {"scan": True, "remat": True}, {"remat": True}])],
    ids=["unet", "transformer"],
)
def test_remat_and_scan_change_neither_values_nor_gradients(name, changes):
    geo = geometry(sphere(4, 8))
    args = inputs(geo)
    results = []
    for change in [{}, *changes]:
        config = replace(SMALL[name], **change)
        graphdef, params = nnx.split(find_model(name)(geo, config, rngs=nnx.Rngs(0)))

        def loss(p, graphdef=graphdef):
            return jnp.mean((nnx.merge(graphdef, p)(*args) - 1) ** 2)

        results.append(jit(jax.value_and_grad(loss))(loud(params)))
    for other in results[1:]:
        for a, b in zip(*map(jax.tree.leaves, (results[0], other)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"), [("unet", {}), ("transformer", {}), ("mlp", {}), ("mlp", {"scope": "global"})],
    ids=["unet", "transformer", "mlp-point", "mlp-global"],
)  # fmt: skip
def test_ten_steps_learn_advection(name, change):
    # Waves moved east by a grid step; the second channel is the quadrature, so that even a point alone can know.
    grid = sphere(6, 16)
    geo = FieldGeometry(grid, 2, 0, 0, 2)
    rng = np.random.default_rng(0)
    phase = np.deg2rad(grid.longitude) * rng.integers(1, 3, (8, 1, 1)) + rng.uniform(0, 6, (8, 6, 1))
    state = jnp.asarray(np.stack([np.sin(phase), np.cos(phase)], axis=-1), jnp.float32)
    target = jnp.roll(state, 1, axis=2) - state
    empty = jnp.zeros((8, 6, 16, 0)), jnp.zeros((6, 16, 0))
    graphdef, params = nnx.split(find_model(name)(geo, replace(SMALL[name], **change), rngs=nnx.Rngs(0)))
    optimizer = optax.adam(1e-2)

    def mean_square(p):
        return jnp.mean((nnx.merge(graphdef, p)(state, *empty) - target) ** 2)

    @jit
    def step(params, opt_state):
        loss, grads = jax.value_and_grad(mean_square)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state, losses = optimizer.init(params), []
    for _ in range(11):
        params, opt_state, loss = step(params, opt_state)
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_builds_without_graph_mode(name):
    geo = geometry(sphere(6, 8))
    with nnx.set_graph_mode(False), nnx.set_graph_updates(False):
        graphdef, params = nnx.split(find_model(name)(geo, SMALL[name], rngs=nnx.Rngs(0)))
        out = jax.eval_shape(lambda p, *a: nnx.merge(graphdef, p)(*a), params, *inputs(geo))
    assert out.shape == (2, 6, 8, 3)


@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        (UNetConfig, {"channels": (12, 16)}, "unet.*12"),
        (UNetConfig, {"channels": ()}, "unet: channels"),
        (UNetConfig, {"kernel": 4}, "kernel must be odd.*4"),
        (UNetConfig, {"blocks": 0}, "blocks must be at least 1, got 0"),
        (UNetConfig, {"dtype": "float16"}, "dtype.*float16"),
        (TransformerConfig, {"channels": 20, "heads": 4}, "channels 20.*4 heads"),
        (TransformerConfig, {"layers": 0}, "layers must be at least 1"),
        (TransformerConfig, {"position": "longitude"}, "position.*'longitude'"),
        (MLPConfig, {"scope": "column"}, "scope.*'column'"),
        (MLPConfig, {"hidden": 0}, "hidden must be at least 1"),
    ],
)
def test_wrong_settings_are_named(config, settings, words):
    with pytest.raises(UserError, match=words):
        config(**settings)


def test_a_global_mlp_needs_something_that_varies():
    with pytest.raises(UserError, match="prognostic or forcing"):
        find_model("mlp")(geometry(sphere(4, 4), 0, 0, 2), MLPConfig(scope="global"), rngs=nnx.Rngs(0))
