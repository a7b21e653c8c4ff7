"""The Fourier transform as matrices and the FNO, against numpy's FFT and properties."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from surrogate.core.spec import Grid
from surrogate.core.types import UserError
from surrogate.models.base import FieldGeometry, find_model
from surrogate.models.fno import FNO, FNOConfig
from surrogate.models.fourier import forward, fourier_matrices, inverse, num_modes, spectral_convolution


def kept(shape, modes):
    """Row and column indices of the kept modes in the output of ``rfft2``."""
    rows, columns = num_modes(modes)
    return (np.arange(rows) - rows // 2) % shape[0], np.arange(columns)


def reference_convolution(x, weight, modes):
    """By the FFT, on (B, H, W, C); ``weight`` (K, R, C, D) complex. Written for modes that the grid resolves."""
    shape = x.shape[1:3]
    rows, columns = kept(shape, modes)
    z = jnp.fft.rfft2(x, axes=(1, 2), norm="forward")
    y = jnp.einsum("brkc,krcd->brkd", z[:, rows[:, None], columns[None, :]], weight)
    full = jnp.zeros((*z.shape[:3], weight.shape[-1]), z.dtype).at[:, rows[:, None], columns[None, :]].set(y)
    return jnp.fft.irfft2(full, s=shape, axes=(1, 2), norm="forward")


@pytest.mark.parametrize(
    ("shape", "modes"), [((16, 16), (6, 6)), ((16, 16), (16, 16)), ((9, 20), (5, 7)), ((12, 15), (12, 14))]
)
def test_transform_is_truncated_rfft2(shape, modes):
    x = np.random.default_rng(0).normal(size=(*shape, 3))
    rows, columns = kept(shape, modes)
    matrices = fourier_matrices(shape, modes)
    inner = jnp.asarray(x.transpose(1, 0, 2), jnp.float32)
    z = np.asarray(forward(inner, matrices)).reshape(len(columns), len(rows), 2, 3)
    full = np.fft.rfft2(x, axes=(0, 1), norm="forward")
    expected = full[rows[:, None], columns[None, :]].transpose(1, 0, 2)
    np.testing.assert_allclose(z[:, :, 0] + 1j * z[:, :, 1], expected, atol=2e-7)

    truncated = np.zeros_like(full)
    truncated[rows[:, None], columns[None, :]] = full[rows[:, None], columns[None, :]]
    back = np.fft.irfft2(truncated, s=shape, axes=(0, 1), norm="forward")
    np.testing.assert_allclose(
        np.asarray(inverse(forward(inner, matrices), matrices)), back.transpose(1, 0, 2), atol=2e-6
    )


def packed(weight):
    """(K, R, C, D) complex → (K·R, C, 2·D)."""
    columns, rows, channels, _ = weight.shape
    return jnp.concatenate([weight.real, weight.imag], axis=-1).reshape(columns * rows, channels, -1)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "modes"), [((16, 16), (6, 6)), ((8, 8), (8, 8)), ((9, 20), (5, 7))])
def test_convolution_and_gradients_equal_the_fft(shape, modes):
    rng = np.random.default_rng(1)
    rows, columns = num_modes(modes)
    x = jnp.asarray(rng.normal(size=(2, *shape, 3)), jnp.float32)
    parts = jnp.asarray(rng.normal(size=(2, columns, rows, 3, 4)), jnp.float32)
    target = jnp.asarray(rng.normal(size=(2, *shape, 4)), jnp.float32)

    def ours(x, parts):
        inner = spectral_convolution(
            x.transpose(2, 1, 0, 3), packed(parts[0] + 1j * parts[1]), fourier_matrices(shape, modes)
        )
        return inner.transpose(2, 1, 0, 3)

    def theirs(x, parts):
        return reference_convolution(x, parts[0] + 1j * parts[1], modes)

    np.testing.assert_allclose(ours(x, parts), theirs(x, parts), atol=2e-5)
    got, expected = (
        jax.grad(lambda x, p, f=f: jnp.sum(f(x, p) * target), argnums=(0, 1))(x, parts) for f in (ours, theirs)
    )
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def band_limited(n):
    """A field of wavenumbers up to 3 on n × n points of the unit square, (n, n, 2)."""
    y, x = np.meshgrid(np.arange(n) / n, np.arange(n) / n, indexing="ij")
    first = np.sin(2 * np.pi * (x + 2 * y)) + 0.3 * np.cos(2 * np.pi * 3 * x)
    return np.stack([first, np.cos(2 * np.pi * (2 * x - 3 * y)) + 0.5], axis=-1).astype(np.float32)


def test_convolution_is_the_same_at_every_resolution():
    rows, columns = num_modes((8, 8))
    weight = jnp.asarray(np.random.default_rng(2).normal(size=(rows * columns, 2, 6)), jnp.float32)
    outputs = []
    for n in (16, 32, 64):
        x = jnp.asarray(band_limited(n)).transpose(1, 0, 2)[:, :, None]
        outputs.append(
            np.asarray(spectral_convolution(x, weight, fourier_matrices((n, n), (8, 8))))[:: n // 16, :: n // 16]
        )
    np.testing.assert_allclose(outputs[1], outputs[0], atol=2e-5)
    np.testing.assert_allclose(outputs[2], outputs[0], atol=2e-5)


def test_padding_equals_explicit_zeros():
    shape, modes = (12, 16), (6, 6)
    rows, columns = num_modes(modes)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, *shape, 2)).astype(np.float32)
    weight = jnp.asarray(
        rng.normal(size=(columns, rows, 2, 2)) + 1j * rng.normal(size=(columns, rows, 2, 2)), jnp.complex64
    )
    padded = jnp.pad(x, ((0, 0), (0, 3), (0, 8), (0, 0)))  # 12 · 1.25, 16 · 1.5
    expected = reference_convolution(padded, weight, modes)[:, :12, :16]
    got = spectral_convolution(
        jnp.asarray(x).transpose(2, 1, 0, 3), packed(weight), fourier_matrices(shape, modes, (0.25, 0.5))
    )
    np.testing.assert_allclose(got.transpose(2, 1, 0, 3), expected, atol=1e-5)


def run(model, *arrays):
    """One compilation instead of one for each operation, which is where eager tests spend their time."""
    return jax.jit(lambda *a: model(*a))(*arrays)


def geometry(height, width, kind="plane", periodic=True, static=2):
    rows = tuple(np.linspace(-80, 80, height)) if kind == "sphere" else tuple(np.arange(float(height)))
    grid = Grid(rows, tuple(np.arange(width) * 360.0 / width), kind, periodic)
    return FieldGeometry(grid, num_state=2, num_forcing=1, num_static=static, num_outputs=2)


def small(**settings):
    return FNOConfig(**{"width": 8, "layers": 3, "modes": (6, 6), "head_scale": 1.0, **settings})


def inputs(g, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((2, *g.grid.shape, 2), (2, *g.grid.shape, 1), (*g.grid.shape, g.num_static))
    return [rng.normal(size=s).astype(np.float32) for s in shapes]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 4), (5, 7), (16, 32), (33, 20)])
@pytest.mark.parametrize(("kind", "periodic", "static"), [("plane", True, 0), ("plane", False, 2), ("sphere", True, 1)])
def test_any_grid_with_the_same_parameters(shape, kind, periodic, static):
    g = geometry(*shape, kind, periodic, static)
    model = FNO(g, small(modes=(16, 16)), rngs=nnx.Rngs(0))
    out = run(model, *inputs(g))
    assert out.shape == (2, *shape, 2)
    assert out.dtype == jnp.float32
    assert bool(jnp.isfinite(out).all())
    assert model.spectral[...].shape == (3, 16 * 9, 8, 16)
    assert all(isinstance(v, nnx.Param) for _, v in nnx.to_flat_state(nnx.state(model)))


def test_parameters_of_a_coarse_model_run_on_a_fine_grid():
    coarse, fine = geometry(16, 16, static=0), geometry(32, 32, static=0)
    models = [FNO(g, small(), rngs=nnx.Rngs(i)) for i, g in enumerate((coarse, fine))]
    nnx.update(models[1], nnx.state(models[0]))
    outputs = []
    for model, n in zip(models, (16, 32), strict=True):
        x = 0.2 * band_limited(n)[None]
        outputs.append(np.asarray(run(model, x, x[..., :1], np.zeros((n, n, 0), np.float32))))
    # Activations make higher wavenumbers that alias a little on the coarse grid: close, not equal.
    error = np.abs(outputs[1][:, ::2, ::2] - outputs[0]).max()
    assert error < 0.02 * np.abs(outputs[0]).max()


@pytest.mark.slow
def test_parameters_equal_the_reference_architecture():
    g = FieldGeometry(geometry(64, 64).grid, num_state=1, num_forcing=0, num_static=2, num_outputs=1)
    state = nnx.state(FNO(g, FNOConfig(), rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 1_192_801
    # Lifting, 4 layers and projection by hand: pointwise products, then transforms and mode products.
    pointwise = 64 * 64 * (3 * 64 + 64 * 32 + 4 * (32 * 32 + 2 * 32 * 16) + 32 * 64 + 64)
    transform = 18 * 64 * 64 + 9 * 32 * 128
    assert FNO.flops(g, FNOConfig()) == 2 * (pointwise + 4 * (2 * 32 * transform + 4 * 144 * 32 * 32))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "instance", "layer"])
@pytest.mark.parametrize("skip", ["linear", "gate", "identity"])
def test_scan_and_remat_change_nothing(norm, skip):
    g = geometry(12, 10)
    plain, changed = (
        FNO(g, small(norm=norm, skip=skip, mlp_skip=skip, **s), rngs=nnx.Rngs(0))
        for s in ({}, {"scan": True, "remat": True})
    )
    graphdefs = [nnx.split(m) for m in (plain, changed)]
    assert jax.tree.map(jnp.shape, nnx.to_pure_dict(graphdefs[0][1])) == jax.tree.map(
        jnp.shape, nnx.to_pure_dict(graphdefs[1][1])
    )
    x = inputs(g)
    np.testing.assert_allclose(run(plain, *x), run(changed, *x), atol=2e-5)
    grads = [jax.jit(jax.grad(lambda p, d=d: jnp.mean(nnx.merge(d, p)(*x) ** 2)))(p) for d, p in graphdefs]
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_last_layer_equals_the_unfolded_one():
    """The shortcut of the last layer against the same weights without it: a gate of ones is an identity matrix."""
    g = geometry(12, 10)
    folded, plain = (FNO(g, small(skip=s), rngs=nnx.Rngs(0)) for s in ("linear", "gate"))
    for name in ("spectral", "mlp_in", "mlp_out", "mlp_skip", "project_in", "project_out", "lift_in", "lift_out"):
        getattr(folded, name)[...] = getattr(plain, name)[...]
    folded.spectral_bias[...] = plain.spectral_bias[...] = jnp.linspace(-1, 1, 24).reshape(3, 8)
    folded.skip[...] = jnp.tile(jnp.eye(8), (3, 1, 1))
    np.testing.assert_allclose(run(folded, *inputs(g)), run(plain, *inputs(g)), atol=1e-5)


def test_bfloat16_is_close_and_parameters_stay_float32():
    g = geometry(16, 16)
    full, half = (FNO(g, small(dtype=d), rngs=nnx.Rngs(0)) for d in ("float32", "bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(half))} == {jnp.dtype("float32")}
    a, b = np.asarray(run(full, *inputs(g))), np.asarray(run(half, *inputs(g)))
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.1 * np.abs(a).max()


@pytest.mark.slow
def test_a_doubly_periodic_model_commutes_with_shifts():
    g = geometry(12, 16, static=0)
    model, (state, forcing, static) = FNO(g, small(), rngs=nnx.Rngs(0)), inputs(g)

    def roll(x):
        return np.roll(x, (5, 3), axis=(1, 2))

    np.testing.assert_allclose(
        model(roll(state), roll(forcing), static), roll(model(state, forcing, static)), atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fno", "sfno"])
def test_training_reduces_the_loss(name):
    cls = find_model(name)
    g = geometry(12, 24, "sphere", static=0)
    settings = {"width": 8, "layers": 2, **({"modes": (6, 6)} if name == "fno" else {"lmax": 8})}
    graphdef, params = nnx.split(cls(g, cls.Config(**settings), rngs=nnx.Rngs(0)))
    x = inputs(g)
    target = 0.5 * jnp.roll(x[0], 1, axis=2) + x[1]
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, moments):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((nnx.merge(graphdef, p)(*x) - target) ** 2))(params)
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), moments, loss

    moments, losses = optimizer.init(params), []
    for _ in range(40):
        params, moments, loss = step(params, moments)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"modes": (0, 4)}, "modes must be two positive"),
        ({"padding": (-0.1, 0.0)}, "padding must be two fractions"),
        ({"mlp_ratio": -1.0}, "mlp_ratio must not be negative"),
        ({"lifting_ratio": 0.0}, "lifting_ratio 0.0 leaves no channel"),
        ({"activation": "sine"}, "activation 'sine' is not one of gelu"),
        ({"dtype": "float16"}, "dtype 'float16' is not one of float32"),
    ],
)
def test_settings_are_validated(settings, words):
    with pytest.raises(UserError, match=f"model fno: {words}"):
        FNOConfig(**settings)
