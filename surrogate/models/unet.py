"""Residual U-Net for latitude-longitude fields: the default model.

The field passes a thin convolution at full resolution, is folded into patches of 2 × 2 points, and
goes down and up a pyramid of residual blocks; the head unfolds the patches, adds the full-resolution
features and gives the increments. Three quarters of the work of a plain U-Net sits at full
resolution, where neighbouring points say nearly the same; here it sits at half resolution and
below, which buys several times the width for the same cost.

Every convolution sees the sphere (``surrogate.models.padding``). At the coarsest level a
squeeze-and-excitation gate (Hu et al. 2018, arXiv:1709.01507) carries the global mean to every point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.core.types import Array, UserError
from surrogate.models.base import FieldGeometry, join_inputs
from surrogate.models.padding import Boundary, depth_to_space, space_to_depth
from surrogate.parallel.mesh import is_spatial

_GROUPS = 8
# Small enough that an untrained model is persistence, not zero: zero would stop every gradient but the head's.
_HEAD_SCALE = 1e-4


@dataclass(frozen=True)
class UNetConfig:
    """Settings of :class:`UNet`.

    Attributes:
        channels: width of each level of the pyramid, finest first; each level halves the grid.
        blocks: residual blocks of each level on the way down, and again on the way up; the coarsest has them once.
        stem: channels at full resolution.
        patch: points along each side of a patch of the finest level of the pyramid.
        kernel: side of the convolutions, odd.
        embedding: learned values at each grid point, given to the network as static fields; for data
            that always lies on this grid. With 0 the model treats all longitudes alike.
        squeeze: whether the coarsest level has a global gate.
        dtype: of the computation; parameters and output are float32.
        remat: recompute the blocks in the backward pass instead of keeping their activations.
    """

    channels: tuple[int, ...] = (64, 96, 128)
    blocks: int = 2
    stem: int = 32
    patch: int = 2
    kernel: int = 3
    embedding: int = 0
    squeeze: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        wrong = [c for c in (self.stem, *self.channels) if c < 1 or c % _GROUPS]
        if not self.channels or wrong:
            raise UserError(
                f"model unet: channels {list(self.channels)} and stem {self.stem} must be multiples of {_GROUPS}"
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UserError(f"model unet: kernel must be odd and positive, got {self.kernel}")
        for name, least in (("blocks", 1), ("patch", 1), ("embedding", 0)):
            if getattr(self, name) < least:
                raise UserError(f"model unet: {name} must be at least {least}, got {getattr(self, name)}")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"model unet: dtype must be float32 or bfloat16, got {self.dtype!r}")


class GroupNorm(nnx.Module):
    """Group normalisation (Wu & He 2018) over (H, W, C / groups), applied as one multiply-add per value.

    The mean and the mean square come from one pass and become a scale and a shift per channel,
    which XLA fuses with the activation that follows; on a CPU that is several times cheaper than
    subtracting the mean first.
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        batch, channels = x.shape[0], x.shape[-1]

        def group_mean(v: jax.Array) -> jax.Array:
            return v.mean((1, 2)).reshape(batch, _GROUPS, -1).mean(-1)

        mean = group_mean(wide)
        variance = jnp.maximum(group_mean(wide * wide) - mean**2, 0)
        per_channel = channels // _GROUPS
        scale = jnp.repeat(jax.lax.rsqrt(variance + 1e-5), per_channel, axis=-1) * self.scale[...]
        shift = self.bias[...] - jnp.repeat(mean, per_channel, axis=-1) * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).astype(x.dtype)


class Convolution(nnx.Module):
    """A convolution whose halo is the sphere's: (B, H, W, C) → (B, H, W, features)."""

    def __init__(self, inputs: int, features: int, kernel: int, boundary: Boundary, dtype, rngs: nnx.Rngs):
        self.conv = nnx.Conv(inputs, features, (kernel, kernel), padding="VALID", dtype=dtype, rngs=rngs)
        self.boundary = boundary
        self.halo = kernel // 2

    def __call__(self, x: jax.Array) -> jax.Array:
        if not is_spatial():
            return self.conv(self.boundary.pad(x, (self.halo, self.halo), (self.halo, self.halo)))
        graph, variables = nnx.split(self.conv)
        weights = nnx.to_pure_dict(variables)
        return self.boundary.stencil(lambda w, padded: nnx.merge(graph, w)(padded), weights, x, (self.halo, self.halo))


class ResidualBlock(nnx.Module):
    """x + convolution(silu(norm(convolution(silu(norm(x)))))), pre-activation as in He et al. 2016."""

    def __init__(self, channels: int, kernel: int, boundary: Boundary, dtype, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(channels)
        self.conv1 = Convolution(channels, channels, kernel, boundary, dtype, rngs)
        self.norm2 = GroupNorm(channels)
        self.conv2 = Convolution(channels, channels, kernel, boundary, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        return x + self.conv2(jax.nn.silu(self.norm2(y)))


class Squeeze(nnx.Module):
    """Scales every channel by a function of the global means of all channels."""

    def __init__(self, channels: int, dtype, rngs: nnx.Rngs):
        self.inner = nnx.Linear(channels, channels // 4, dtype=dtype, rngs=rngs)
        self.outer = nnx.Linear(channels // 4, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate = self.outer(jax.nn.silu(self.inner(x.mean((1, 2)))))
        return x * (2 * jax.nn.sigmoid(gate))[:, None, None]


class UNet(nnx.Module):
    """See the module's text; the call contract is ``surrogate.models.base``."""

    Config = UNetConfig

    def __init__(self, geometry: FieldGeometry, config: UNetConfig | None = None, *, rngs: nnx.Rngs):
        config = config or UNetConfig()
        self.config = config
        dtype = jnp.dtype(config.dtype)
        fine = Boundary.of(geometry.grid)
        coarse = fine.coarser()
        # The finest level of the pyramid is the grid itself when patches are single points.
        level_boundary = [fine if config.patch == 1 and i == 0 else coarse for i in range(len(config.channels))]
        self.boundaries = (fine, *level_boundary)

        def linear(inputs: int, features: int, bias: bool = True) -> nnx.Linear:
            return nnx.Linear(inputs, features, use_bias=bias, dtype=dtype, rngs=rngs)

        def blocks(level: int) -> nnx.List:
            return nnx.List(
                ResidualBlock(config.channels[level], config.kernel, level_boundary[level], dtype, rngs)
                for _ in range(config.blocks)
            )

        height, width = geometry.grid.shape
        if config.embedding:
            values = nnx.initializers.normal(0.02)(rngs.params(), (height, width, config.embedding))
            self.embedding = nnx.Param(values)
        inputs = geometry.num_inputs + config.embedding
        channels, levels, folded = config.channels, range(len(config.channels)), config.stem * config.patch**2
        self.stem = Convolution(inputs, config.stem, config.kernel, fine, dtype, rngs)
        self.fold = linear(folded, channels[0])
        self.down_blocks = nnx.List(blocks(i) for i in levels)
        self.down = nnx.List(linear(4 * channels[i], channels[i + 1]) for i in levels[:-1])
        self.up = nnx.List(linear(channels[i + 1], 4 * channels[i]) for i in levels[:-1])
        # With the linear ``up`` this is a convolution of the two joined, without joining them.
        self.skip = nnx.List(linear(channels[i], channels[i], bias=False) for i in levels[:-1])
        self.up_blocks = nnx.List(blocks(i) for i in levels[:-1])
        if config.squeeze:
            self.squeeze = Squeeze(channels[-1], dtype, rngs)
        self.last_norm = GroupNorm(channels[0])
        self.unfold = linear(channels[0], folded)
        self.head_norm = GroupNorm(config.stem)
        self.head_conv = Convolution(config.stem, config.stem, config.kernel, fine, dtype, rngs)
        small = nnx.initializers.variance_scaling(_HEAD_SCALE, "fan_in", "truncated_normal")
        self.head = nnx.Linear(config.stem, geometry.num_outputs, kernel_init=small, dtype=dtype, rngs=rngs)

    def __call__(self, state: Array, forcing: Array, static: Array) -> jax.Array:
        config = self.config
        if config.embedding:
            static = jnp.concatenate([jnp.asarray(static), self.embedding[...]], axis=-1)
        x = join_inputs(state, forcing, static).astype(config.dtype)
        stem = self.stem(x)
        fine, *levels = self.boundaries
        x = self.fold(space_to_depth(stem, config.patch, fine))
        skips = []
        for i, down in enumerate(self.down):
            x = self._apply(self.down_blocks[i], x)
            skips.append(x)
            x = down(space_to_depth(x, 2, levels[i]))
        x = self._apply(self.down_blocks[-1], x)
        if config.squeeze:
            x = self.squeeze(x)
        for i in reversed(range(len(skips))):
            x = depth_to_space(self.up[i](x), 2, skips[i].shape[1:3]) + self.skip[i](skips[i])
            x = self._apply(self.up_blocks[i], x)
        x = self.unfold(jax.nn.silu(self.last_norm(x)))
        x = depth_to_space(x, config.patch, stem.shape[1:3]) + stem
        x = self.head_conv(jax.nn.silu(self.head_norm(x)))
        return self.head(jax.nn.silu(x)).astype(jnp.float32)

    def _apply(self, blocks: nnx.List, x: jax.Array) -> jax.Array:
        for block in blocks:
            x = nnx.remat(ResidualBlock.__call__)(block, x) if self.config.remat else block(x)
        return x

    @staticmethod
    def flops(geometry: FieldGeometry, config: UNetConfig) -> float:
        """Floating-point operations of one forward pass of one sample, a multiply-add counted as 2.

        Convolutions and matrix products only; norms and activations add a few per cent.
        """
        height, width = geometry.grid.shape
        area = config.kernel**2
        channels = config.channels
        points = [-(-height // config.patch) * -(-width // config.patch)]
        rows, columns = -(-height // config.patch), -(-width // config.patch)
        for _ in channels[1:]:
            rows, columns = -(-rows // 2), -(-columns // 2)
            points.append(rows * columns)
        full = height * width
        stem, folded = config.stem, config.stem * config.patch**2
        total = full * stem * (area * (geometry.num_inputs + config.embedding + stem) + geometry.num_outputs)
        total += 2 * points[0] * folded * channels[0]
        for i, (count, width_here) in enumerate(zip(points, channels, strict=True)):
            last = i == len(channels) - 1
            total += count * (1 if last else 2) * config.blocks * 2 * area * width_here**2
            if not last:
                total += count * width_here**2 + 2 * points[i + 1] * 4 * width_here * channels[i + 1]
        return 2.0 * total
