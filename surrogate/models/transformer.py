"""Axial transformer for latitude-longitude fields: the model to scale.

Patches of the grid are tokens. Each layer attends along the latitude circle of a token, then along
its meridian, then applies a SwiGLU network (Shazeer 2020, arXiv:2002.05202), each on the normalised
residual stream. Two axial steps reach every point of the globe at a cost of T · (h + w) instead of
T², and, unlike shifted windows, need no grid that a window divides.

Attention knows the sphere: positions are rotary (Su et al. 2021, arXiv:2104.09864) with whole
numbers of turns around the circle, so that there is no date line; and a meridian continues across
both poles into the opposite one, so that a token attends to its whole great circle. The layers'
parameters are stacked and may run under ``lax.scan``, so compile time does not grow with depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.types import Array, UserError
from surrogate.models.base import FieldGeometry, join_inputs
from surrogate.models.padding import Boundary, depth_to_space, space_to_depth
from surrogate.parallel.blocks import on_blocks, roll, swap
from surrogate.parallel.mesh import active_mesh, shards

# Small enough that an untrained model is persistence, not zero: zero would stop every gradient but the head's.
_HEAD_SCALE = 1e-4


@dataclass(frozen=True)
class TransformerConfig:
    """Settings of :class:`Transformer`.

    Attributes:
        channels: width of a token.
        layers: number of layers.
        heads: attention heads; ``channels / heads`` must be even.
        hidden: width of the SwiGLU network; 0 for the usual 8/3 of ``channels``.
        patch: points along each side of a patch.
        position: learned offsets added to the tokens: ``"latitude"`` one for each row of patches,
            which treats all longitudes alike; ``"point"`` one for each patch, for data that always
            lies on this grid; ``"none"``.
        scan: run the layers under ``lax.scan``: one compiled layer, whatever the depth.
        remat: recompute each layer in the backward pass instead of keeping its activations.
        dtype: of the computation; parameters and output are float32.
    """

    channels: int = 128
    layers: int = 4
    heads: int = 4
    hidden: int = 0
    patch: int = 2
    position: Literal["latitude", "point", "none"] = "latitude"
    scan: bool = False
    remat: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name, least in (("channels", 1), ("layers", 1), ("heads", 1), ("patch", 1), ("hidden", 0)):
            if getattr(self, name) < least:
                raise UserError(f"model transformer: {name} must be at least {least}, got {getattr(self, name)}")
        if self.channels % (2 * self.heads):
            raise UserError(
                f"model transformer: channels {self.channels} must be a multiple of twice the {self.heads} heads"
            )
        if self.position not in ("latitude", "point", "none"):
            raise UserError(f"model transformer: position must be latitude, point or none, got {self.position!r}")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"model transformer: dtype must be float32 or bfloat16, got {self.dtype!r}")

    @property
    def hidden_width(self) -> int:
        """The width of the SwiGLU network: a multiple of 8 that keeps its size that of a plain 4 × network."""
        return self.hidden or -(-8 * self.channels // 24) * 8


class Transformer(nnx.Module):
    """See the module's text; the call contract is ``surrogate.models.base``.

    Parameters name their logical axes ``embed``, ``heads`` and ``mlp``. Built where a mesh and
    logical axis rules are set, they are sharded by them; elsewhere they are plain arrays.
    """

    Config = TransformerConfig

    def __init__(self, geometry: FieldGeometry, config: TransformerConfig | None = None, *, rngs: nnx.Rngs):
        config = config or TransformerConfig()
        self.config = config
        dtype = jnp.dtype(config.dtype)
        self.boundary = Boundary.of(geometry.grid)
        rows, columns = _tokens(geometry, config)
        depth, width, hidden = config.layers, config.channels, config.hidden_width
        heads, head_width = config.heads, config.channels // config.heads

        def parameter(init, shape: tuple[int, ...], names: tuple[str | None, ...]) -> nnx.Param:
            return nnx.Param(init(rngs.params(), shape, jnp.float32), **_axes(*names))

        def into(axes: int) -> nnx.initializers.Initializer:
            """For products that read the residual stream: ``axes`` trailing axes are outputs."""
            return nnx.initializers.lecun_normal(in_axis=1, out_axis=tuple(range(2, 2 + axes)), batch_axis=0)

        def back(axes: int) -> nnx.initializers.Initializer:
            """For products that add to it, 3 a layer: their sum should not grow with depth."""
            inputs = tuple(range(1, 1 + axes))
            return nnx.initializers.variance_scaling(1 / (3 * depth), "fan_in", "normal", inputs, -1, batch_axis=0)

        stacked: dict[str, nnx.Param] = {}
        for axis in ("circle", "meridian"):
            stacked[f"{axis}_norm"] = parameter(nnx.initializers.ones, (depth, width), (None, None))
            stacked[f"{axis}_qkv"] = parameter(
                into(3), (depth, width, 3, heads, head_width), (None, "embed", None, "heads", None)
            )
            stacked[f"{axis}_out"] = parameter(
                back(2), (depth, heads, head_width, width), (None, "heads", None, "embed")
            )
        stacked["mlp_norm"] = parameter(nnx.initializers.ones, (depth, width), (None, None))
        stacked["mlp_in"] = parameter(into(2), (depth, width, 2, hidden), (None, "embed", None, "mlp"))
        stacked["mlp_out"] = parameter(back(1), (depth, hidden, width), (None, "mlp", "embed"))
        self.layers = nnx.Dict(stacked)

        dense = nnx.initializers.lecun_normal()
        small = nnx.initializers.variance_scaling(_HEAD_SCALE, "fan_in", "truncated_normal")
        area = config.patch**2
        self.embed = nnx.Linear(
            area * geometry.num_inputs,
            width,
            kernel_init=nnx.with_metadata(dense, **_axes(None, "embed")),
            dtype=dtype,
            rngs=rngs,
        )
        if config.position != "none":
            shape = (rows, columns if config.position == "point" else 1, width)
            self.position = parameter(nnx.initializers.normal(0.02), shape, (None, None, "embed"))
        self.norm = nnx.RMSNorm(width, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(
            width,
            area * geometry.num_outputs,
            kernel_init=nnx.with_metadata(small, **_axes("embed", None)),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, state: Array, forcing: Array, static: Array) -> jax.Array:
        config = self.config
        shape = state.shape[1:3]
        x = join_inputs(state, forcing, static).astype(config.dtype)
        x = self.embed(space_to_depth(x, config.patch, self.boundary))
        if config.position != "none":
            x = x + self.position[...].astype(x.dtype)
        stacked = {name: p[...].astype(config.dtype) for name, p in self.layers.items()}

        def layer(x: jax.Array, weights: dict[str, jax.Array]) -> tuple[jax.Array, None]:
            return _layer(x, weights, self.boundary), None

        if config.remat:
            layer = jax.checkpoint(layer, prevent_cse=not config.scan)
        if config.scan:
            x, _ = jax.lax.scan(layer, x, stacked)
        else:
            for i in range(config.layers):
                x, _ = layer(x, {name: w[i] for name, w in stacked.items()})
        x = self.head(self.norm(x))
        return depth_to_space(x, config.patch, shape).astype(jnp.float32)

    @staticmethod
    def flops(geometry: FieldGeometry, config: TransformerConfig) -> float:
        """Floating-point operations of the matrix products of one forward pass of one sample."""
        rows, columns = _tokens(geometry, config)
        reach = 2 * rows if Boundary.of(geometry.grid).poles else rows
        width = config.channels
        layer = 8 * width**2 + 2 * width * (columns + reach) + 3 * width * config.hidden_width
        ends = config.patch**2 * width * (geometry.num_inputs + geometry.num_outputs)
        return 2.0 * rows * columns * (config.layers * layer + ends)


def _axes(*names: str | None) -> dict[str, Any]:
    """Metadata of a parameter with these logical axes; Flax may shard it at once only where there is a mesh."""
    return {"out_sharding": names, "eager_sharding": not jax.sharding.get_abstract_mesh().empty}


def _tokens(geometry: FieldGeometry, config: TransformerConfig) -> tuple[int, int]:
    height, width = geometry.grid.shape
    return -(-height // config.patch), -(-width // config.patch)


def _layer(x: jax.Array, weights: dict[str, jax.Array], boundary: Boundary) -> jax.Array:
    """One layer on tokens (B, h, w, C) with one layer's weights."""
    columns = x.shape[2]

    def attend(x: jax.Array, axis: str) -> jax.Array:
        y = _rms_norm(x, weights[f"{axis}_norm"])
        q, k, v = jnp.moveaxis(jnp.einsum("bhwc,cind->bhwind", y, weights[f"{axis}_qkv"]), 3, 0)
        if axis == "circle":
            # Where columns do not wrap, half a turn keeps the two ends apart.
            y = _circle_attention(q, k, v, columns if boundary.periodic else 2 * columns)
        else:
            y = _meridian_attention(q, k, v, boundary)
        return x + jnp.einsum("bhwnd,ndc->bhwc", y, weights[f"{axis}_out"])

    x = attend(attend(x, "circle"), "meridian")
    gate, value = jnp.moveaxis(
        jnp.einsum("bhwc,cim->bhwim", _rms_norm(x, weights["mlp_norm"]), weights["mlp_in"]), 3, 0
    )
    return x + jnp.einsum("bhwm,mc->bhwc", jax.nn.silu(gate) * value, weights["mlp_out"])


def _circle_attention(q: jax.Array, k: jax.Array, v: jax.Array, period: int) -> jax.Array:
    """Attention of each token to its latitude circle: (B, h, w, n, d)."""
    if active_mesh() is None:
        return _attention(q, k, v, period)
    lines = _lines("lon", 1, q)

    def attend(_: None, *blocks: jax.Array) -> jax.Array:
        # An all-to-all makes of a part of every circle the whole of a part of the circles (or heads), and back.
        q, k, v = (swap(a, "lon", lines, 2) for a in blocks)
        return swap(_attention(q, k, v, period), "lon", 2, lines)

    return on_blocks(attend, (q, k, v))


def _meridian_attention(q: jax.Array, k: jax.Array, v: jax.Array, boundary: Boundary) -> jax.Array:
    """Attention of each token to its meridian, and across the poles to the opposite one: (B, h, w, n, d)."""
    rows = q.shape[1]
    if active_mesh() is None:
        opposite = [jnp.roll(a, a.shape[2] // 2, axis=2) for a in (k, v)] if boundary.poles else []
        return _great_circle(q, k, v, opposite, 2 * rows)
    lines, half = _lines("lat", 2, q), q.shape[2] // 2

    def attend(_: None, *blocks: jax.Array) -> jax.Array:
        opposite = [roll(a, half, 2, "lon") for a in blocks[1:]] if boundary.poles else []
        q, k, v, *opposite = (swap(a, "lat", lines, 1) for a in (*blocks, *opposite))
        return swap(_great_circle(q, k, v, opposite, 2 * rows), "lat", 1, lines)

    return on_blocks(attend, (q, k, v))


def _great_circle(q: jax.Array, k: jax.Array, v: jax.Array, opposite: list[jax.Array], period: int) -> jax.Array:
    """Attention along axis 1, continued by the keys and values of the opposite meridian where there are poles."""
    if opposite:
        k, v = (jnp.concatenate([a, jnp.flip(b, axis=1)], axis=1) for a, b in zip((k, v), opposite, strict=True))
    q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
    return _attention(q, k, v, period).swapaxes(1, 2)


def _lines(axis: str, dim: int, q: jax.Array) -> int:
    """The dim of (B, h, w, n, d) that ``axis`` can divide while the attended one is whole: the lines', else the heads'."""
    count, names = shards(axis), {1: "lat", 2: "lon"}
    if (q.shape[dim] // shards(names[dim])) % count == 0:
        return dim
    if q.shape[3] % count:
        raise UserError(
            f"model transformer: mesh.{axis}={count} divides neither the {q.shape[dim] // shards(names[dim])} "
            f"{'rows' if dim == 1 else 'columns'} of tokens of a device nor the model.heads={q.shape[3]}"
        )
    return 3


def _attention(q: jax.Array, k: jax.Array, v: jax.Array, period: int) -> jax.Array:
    """Softmax attention along axis 2 of (B, lines, tokens, n, d); position i stands at i / ``period`` of a turn."""

    def lines(a: jax.Array) -> jax.Array:
        return a.reshape(-1, *a.shape[2:])

    y = jax.nn.dot_product_attention(lines(_turn(q, period)), lines(_turn(k, period)), lines(v))
    return y.reshape(q.shape)


def _turn(x: jax.Array, period: int) -> jax.Array:
    """Rotary position along axis 2 of (B, lines, tokens, n, d), with whole numbers of turns in ``period`` tokens."""
    pairs = x.shape[-1] // 2
    turns = np.round(np.geomspace(1, max(1, period / (2 * np.pi)), pairs))
    angle = 2 * np.pi / period * np.arange(x.shape[2])[:, None, None] * turns
    cos, sin = jnp.asarray(np.cos(angle), x.dtype), jnp.asarray(np.sin(angle), x.dtype)
    a, b = x[..., :pairs], x[..., pairs:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def _rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype) * scale
