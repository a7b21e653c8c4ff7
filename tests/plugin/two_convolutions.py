"""A field model of a user's own in one file: two convolutions over the sphere.

    python -m surrogate.train --config-dir conf +experiment=climate model=two_convolutions model.width=64

``conf/model/two_convolutions.yaml`` names the class.
"""

from __future__ import annotations

from dataclasses import dataclass

from flax import nnx
import jax

from surrogate.models.base import FieldGeometry, join_inputs
from surrogate.models.padding import Boundary


@dataclass(frozen=True)
class TwoConvolutionsConfig:
    """The ``model`` settings; what is wrong is refused here, by name.

    Attributes:
        width: channels between the convolutions.
        kernel: side of the first convolution, odd.
    """

    width: int = 32
    kernel: int = 5

    def __post_init__(self) -> None:
        if self.width < 1 or self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"width={self.width} must be positive, kernel={self.kernel} positive and odd")


class TwoConvolutions(nnx.Module):
    """(B, H, W, inputs) → (B, H, W, outputs); the contract is the text of ``surrogate.models.base``."""

    Config = TwoConvolutionsConfig

    def __init__(self, geometry: FieldGeometry, config: TwoConvolutionsConfig, *, rngs: nnx.Rngs):
        size = (config.kernel, config.kernel)
        self.halo = (config.kernel // 2, config.kernel // 2)
        self.boundary = Boundary.of(geometry.grid)  # round the parallels, and across the poles
        self.first = nnx.Conv(geometry.num_inputs, config.width, size, padding="VALID", rngs=rngs)
        # Zeros at first: an untrained model is then persistence.
        zeros = nnx.initializers.zeros_init()
        self.last = nnx.Conv(config.width, geometry.num_outputs, (1, 1), kernel_init=zeros, rngs=rngs)

    def __call__(self, state: jax.Array, forcing: jax.Array, static: jax.Array) -> jax.Array:
        x = self.boundary.pad(join_inputs(state, forcing, static), self.halo, self.halo)
        return self.last(jax.nn.gelu(self.first(x)))
