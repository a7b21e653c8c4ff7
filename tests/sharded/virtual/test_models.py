"""Every model on every kind of mesh: loss and gradients of one device, and no field that is gathered."""

from __future__ import annotations

from collections.abc import Callable
import functools
import math
import re
from typing import Any

from flax import nnx
import jax
import numpy as np
import pytest

from surrogate.config import MeshConfig
from surrogate.core.spec import Grid
from surrogate.domains.forecast import field_step
from surrogate.losses import relative_h1, weighted_mse
from surrogate.models.base import FieldGeometry, find_model
from surrogate.parallel.blocks import FIELD
from surrogate.parallel.placement import ONE_DEVICE, Placement
from surrogate.run.step import parameter_names

HEIGHT, WIDTH, BATCH = 24, 48, 4
LEVELS = [(HEIGHT >> i, WIDTH >> i) for i in range(3)]  # of the U-Net's pyramid; the second is the transformer's too
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("unet", {"channels": (8, 16), "blocks": 1, "stem": 8}),
    "fno": ("fno", {"width": 8, "layers": 2, "modes": (7, 6)}),
    "sfno": ("sfno", {"width": 8, "layers": 2, "lmax": 7}),
    "transformer": ("transformer", {"channels": 16, "heads": 4, "layers": 1}),
    "mlp": ("mlp", {"hidden": 40, "layers": 1}),
    "global mlp": ("mlp", {"scope": "global", "hidden": 18, "layers": 1}),
}
MESHES = {
    "data": {"data": 4},
    "fsdp": {"fsdp": 4},
    "spatial": {"lat": 2, "lon": 4},
    "mixed": {"data": 2, "fsdp": 2, "lon": 2},
}
# Sums of about 10^4 float32 numbers in another order: a few of their last bits.
TOLERANCE = 1e-5


def grid() -> Grid:
    latitude = (np.arange(HEIGHT) + 0.5) * 180 / HEIGHT - 90
    longitude = np.arange(WIDTH) * 360 / WIDTH
    return Grid(tuple(latitude.tolist()), tuple(longitude.tolist()), "sphere", True)


@functools.cache
def build(name: str) -> tuple[Any, Any, dict]:
    """Graph definition, host parameters and their logical dims."""
    kind, settings = MODELS[name]
    model: Any = find_model(kind)
    geometry = FieldGeometry(grid(), num_state=4, num_forcing=1, num_static=2, num_outputs=3)
    found: list[Any] = []

    def make() -> Any:
        graphdef, variables = nnx.split(model(geometry, model.Config(**settings), rngs=nnx.Rngs(0)))
        found[:] = [graphdef, parameter_names(variables)]
        return nnx.to_pure_dict(variables)

    params = jax.device_get(jax.jit(make)())
    # The head starts so small that nothing but itself would have a gradient.
    params = jax.tree.map(lambda p: p + 0.1 * np.random.default_rng(p.size).normal(size=p.shape).astype("f4"), params)
    return found[0], params, found[1]


@functools.cache
def data() -> tuple[dict, dict]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    mask = np.ones((HEIGHT, WIDTH, 3), np.float32)
    mask[:5, :7] = 0
    constants = {
        "static": normal(HEIGHT, WIDTH, 2), "increment": np.full(3, 0.3, np.float32), "mask": mask, "symmetry": {},
        "weights": mask * np.cos(np.deg2rad(grid().latitude))[:, None, None].astype("f4"), "channels": np.ones(3, "f4"),
        "base": {
            "memory": normal(HEIGHT, WIDTH, 2) ** 2, "patterns": normal(3, HEIGHT, WIDTH, 2),
            "projection": normal(3, HEIGHT, WIDTH, 2) / 1000, "propagator": normal(3, 3),
        },
    }  # fmt: skip
    batch = {"state": normal(BATCH, HEIGHT, WIDTH, 4), "forcing": normal(BATCH, HEIGHT, WIDTH, 1),
             "target": normal(BATCH, HEIGHT, WIDTH, 3)}  # fmt: skip
    return constants, batch


def dims(constants: dict) -> Any:
    from surrogate.domains.fields import Fields

    return Fields.constant_dims(None, constants)  # type: ignore[arg-type]


def program(graphdef: Any, loss: Callable = weighted_mse) -> Callable:
    def value(params: Any, constants: Any, batch: Any) -> jax.Array:
        model = nnx.merge(graphdef, params)
        _, outputs = field_step(model, constants, batch["state"], batch["forcing"], 2)
        return loss(outputs, batch["target"], constants["weights"], constants["channels"])

    return jax.value_and_grad(value)


@functools.cache
def on_mesh(name: str, mesh: str, loss: Callable = weighted_mse) -> tuple[Any, Any, str]:
    """Loss, gradients and the compiled program's text."""
    graphdef, params, names = build(name)
    constants, batch = data()
    fn = program(graphdef, loss)
    placement = Placement.of(MeshConfig(**MESHES[mesh])) if mesh else ONE_DEVICE
    if placement.mesh is None:
        compiled = jax.jit(fn).lower(params, constants, batch).compile()
        return (*jax.device_get(compiled(params, constants, batch)), "")
    shardings = placement.state_shardings({"params": params}, names)["params"]
    arguments = (
        jax.tree.map(jax.device_put, params, shardings),
        placement.put(constants, dims(constants)),
        placement.put(batch, dict.fromkeys(batch, FIELD)),
    )
    with placement.active():
        compiled = jax.jit(fn, out_shardings=(placement.whole, shardings)).lower(*arguments).compile()
    value, grads = compiled(*arguments)
    return (*placement.fetch((value, grads)), compiled.as_text())


def collectives(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """(operation, shape of a result) of every collective operation of a compiled program, tuples taken apart."""
    found = []
    for line in text.splitlines():
        match = re.search(
            r"= (\(?.*?\)?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\(", line
        )
        if match:
            for shape in re.findall(r"\w+\[([\d,]*)\]", match[1]):
                found.append((match[2], tuple(int(n) for n in shape.split(",") if n)))
    return found


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_one_device(name: str, mesh: str) -> None:
    value, grads, _ = on_mesh(name, "")
    other, others, _ = on_mesh(name, mesh)
    assert other == pytest.approx(value, rel=TOLERANCE)
    whole = math.sqrt(sum(float(np.sum(g.astype(np.float64) ** 2)) for g in jax.tree.leaves(grads)))
    for (path, one), two in zip(jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(others), strict=True):
        # Against its own size and the whole gradient's: an entry that nearly cancels has no digits of its own.
        error = float(np.linalg.norm((one - two).ravel()))
        size = float(np.linalg.norm(one.ravel()))
        assert error <= TOLERANCE * size + 0.1 * TOLERANCE * whole, (jax.tree_util.keystr(path), error, size)


# The first matrix of the global perceptron has a row for every point: its gradient is gathered, being a parameter's.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "global mlp"])
def test_no_field_is_gathered_in_spatial_training(name: str) -> None:
    found = collectives(on_mesh(name, "spatial")[2])
    assert any(kind == "all-reduce" for kind, _ in found)  # the text was understood
    exchange = {"unet": "collective-permute", "transformer": "all-to-all"}.get(name)
    assert exchange is None or any(kind == exchange for kind, _ in found)
    for kind, shape in found:
        for height, width in LEVELS:
            assert not (height in shape and width in shape), f"{kind} of {shape} is a whole field of {height} × {width}"
    # What may be gathered is small: the modes of the Fourier operator, of which each device mixes its share (28 of 1,152
    # points), and the gradient of the transformer's positions, which have a row for each row of tokens.
    allowed = {"fno": 28 * 2 * BATCH * 8, "transformer": LEVELS[1][0] * 16}.get(name, 0)
    gathered = [shape for kind, shape in found if kind == "all-gather"]
    assert all(math.prod(shape) <= allowed for shape in gathered), gathered


@pytest.mark.parametrize("name", MODELS)
def test_without_division_of_fields_parameters_alone_are_gathered(name: str) -> None:
    assert not [shape for kind, shape in collectives(on_mesh(name, "data")[2]) if kind == "all-gather"]
    largest = max(p.size for p in jax.tree.leaves(build(name)[1]))
    gathered = [shape for kind, shape in collectives(on_mesh(name, "fsdp")[2]) if kind == "all-gather"]
    assert gathered
    assert all(math.prod(shape) <= largest for shape in gathered), gathered


def test_differences_of_neighbours_across_devices_gather_nothing() -> None:
    value, _, _ = on_mesh("mlp", "", relative_h1)
    other, _, text = on_mesh("mlp", "spatial", relative_h1)
    assert other == pytest.approx(value, rel=TOLERANCE)
    assert not [shape for kind, shape in collectives(text) if kind == "all-gather"]
