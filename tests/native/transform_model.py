"""A model with the operation that has hung plugins when several threads call them: fast Fourier transforms."""

from __future__ import annotations

from dataclasses import dataclass

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.models.base import FieldGeometry, join_inputs


@dataclass(frozen=True)
class TransformConfig:
    """The ``model`` settings: channels between the transforms."""

    width: int = 16


class Transform(nnx.Module):
    """(B, H, W, inputs) → (B, H, W, outputs) by a product in Fourier space between two linear maps."""

    Config = TransformConfig

    def __init__(self, geometry: FieldGeometry, config: TransformConfig, *, rngs: nnx.Rngs):
        height, width = geometry.grid.shape
        self.first = nnx.Linear(geometry.num_inputs, config.width, rngs=rngs)
        self.filter = nnx.Param(jax.random.normal(rngs.params(), (height, width // 2 + 1, config.width)))
        self.last = nnx.Linear(config.width, geometry.num_outputs, rngs=rngs)

    def __call__(self, state: jax.Array, forcing: jax.Array, static: jax.Array) -> jax.Array:
        x = self.first(join_inputs(state, forcing, static))
        spectrum = jnp.fft.rfft2(x, axes=(1, 2)) * self.filter[...]
        return self.last(jax.nn.gelu(jnp.fft.irfft2(spectrum, s=x.shape[1:3], axes=(1, 2))))
