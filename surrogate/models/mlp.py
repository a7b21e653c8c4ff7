"""Multilayer perceptrons for fields: one for every grid point, or one for the whole field.

``scope="point"`` (the default) applies the same network to the channels of each point: the right
model for column physics and the honest floor for everything else, since it cannot move anything.
Its size does not depend on the grid. ``scope="global"`` joins the whole field into one vector, which
suits emulators with few points and many runs; its first and last layers grow with the grid. Static
fields are then left out: being the same in every sample they could only add to the bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.core.types import Array, UserError
from surrogate.models.base import FieldGeometry, join_inputs
from surrogate.parallel.mesh import is_spatial
from surrogate.parallel.rules import constrain

# Small enough that an untrained model is persistence, not zero: zero would stop every gradient but the head's.
_HEAD_SCALE = 1e-4


@dataclass(frozen=True)
class MLPConfig:
    """Settings of :class:`MLP`.

    Attributes:
        scope: ``"point"``, the channels of each grid point apart; ``"global"``, the whole field at once.
        hidden: width of the hidden layers.
        layers: residual hidden layers after the first.
        dtype: of the computation; parameters and output are float32.
    """

    scope: Literal["point", "global"] = "point"
    hidden: int = 256
    layers: int = 3
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.scope not in ("point", "global"):
            raise UserError(f"model mlp: scope must be point or global, got {self.scope!r}")
        for name, least in (("hidden", 1), ("layers", 0)):
            if getattr(self, name) < least:
                raise UserError(f"model mlp: {name} must be at least {least}, got {getattr(self, name)}")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"model mlp: dtype must be float32 or bfloat16, got {self.dtype!r}")


class MLP(nnx.Module):
    """See the module's text; the call contract is ``surrogate.models.base``."""

    Config = MLPConfig

    def __init__(self, geometry: FieldGeometry, config: MLPConfig | None = None, *, rngs: nnx.Rngs):
        config = config or MLPConfig()
        self.config = config
        self.num_outputs = geometry.num_outputs
        dtype = jnp.dtype(config.dtype)
        inputs, outputs, _ = _sizes(geometry, config)
        if inputs == 0:
            raise UserError(
                "model mlp with scope global needs a prognostic or forcing variable; there are static ones only"
            )

        def linear(inputs: int, features: int) -> nnx.Linear:
            return nnx.Linear(inputs, features, dtype=dtype, rngs=rngs)

        self.first = linear(inputs, config.hidden)
        self.norms = nnx.List(nnx.LayerNorm(config.hidden, dtype=dtype, rngs=rngs) for _ in range(config.layers))
        self.hidden = nnx.List(linear(config.hidden, config.hidden) for _ in range(config.layers))
        small = nnx.initializers.variance_scaling(_HEAD_SCALE, "fan_in", "truncated_normal")
        self.head = nnx.Linear(config.hidden, outputs, kernel_init=small, dtype=dtype, rngs=rngs)

    def __call__(self, state: Array, forcing: Array, static: Array) -> jax.Array:
        batch, height, width, _ = state.shape
        if self.config.scope == "global" and is_spatial():
            return self._divided(jnp.concatenate([jnp.asarray(state), jnp.asarray(forcing)], axis=-1))
        if self.config.scope == "global":
            x = jnp.concatenate([jnp.asarray(state), jnp.asarray(forcing)], axis=-1).reshape(batch, -1)
        else:
            x = join_inputs(state, forcing, static)
        x = self.head(self._hidden(self.first(x.astype(self.config.dtype))))
        return x.astype(jnp.float32).reshape(batch, height, width, self.num_outputs)

    def _hidden(self, x: jax.Array) -> jax.Array:
        for norm, layer in zip(self.norms, self.hidden, strict=True):
            x = x + layer(jax.nn.silu(norm(x)))
        return jax.nn.silu(x)

    def _divided(self, x: jax.Array) -> jax.Array:
        """The global network where a mesh divides the field: the first layer sums over the blocks, none is gathered."""
        dtype, space = self.config.dtype, x.shape[1:3]

        def weights(layer: nnx.Linear, *shape: int) -> tuple[jax.Array, jax.Array]:
            assert layer.bias is not None
            return layer.kernel[...].reshape(shape).astype(dtype), layer.bias[...].astype(dtype)

        kernel, bias = weights(self.first, *space, x.shape[-1], self.config.hidden)
        kernel = constrain(kernel, "latitude", "longitude")
        y = self._hidden(jnp.einsum("bhwc,hwcd->bd", x.astype(dtype), kernel) + bias)
        kernel, bias = weights(self.head, self.config.hidden, *space, self.num_outputs)
        kernel = constrain(kernel, None, "latitude", "longitude")
        y = jnp.einsum("bd,dhwo->bhwo", y, kernel) + bias.reshape(*space, self.num_outputs)
        return constrain(y, "batch", "latitude", "longitude").astype(jnp.float32)

    @staticmethod
    def flops(geometry: FieldGeometry, config: MLPConfig) -> float:
        """Floating-point operations of the matrix products of one forward pass of one sample."""
        inputs, outputs, rows = _sizes(geometry, config)
        return 2.0 * rows * config.hidden * (inputs + config.layers * config.hidden + outputs)


def _sizes(geometry: FieldGeometry, config: MLPConfig) -> tuple[int, int, int]:
    """Inputs and outputs of the network, and how often it is applied to one sample."""
    height, width = geometry.grid.shape
    points = height * width
    if config.scope == "point":
        return geometry.num_inputs, geometry.num_outputs, points
    return points * (geometry.num_state + geometry.num_forcing), points * geometry.num_outputs, 1
