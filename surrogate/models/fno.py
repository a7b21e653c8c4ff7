"""Fourier neural operator on a rectangular grid, periodic or not.

Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations" (2021), with the
channel MLP and gated skip of Kossaifi et al., "Multi-Grid Tensorized Fourier Neural Operator"
(2024). No parameter depends on the grid: the state of a model of one geometry serves the same
``FNOConfig`` built for another resolution. Wavenumbers that the training grid cannot carry stay
untrained, so keep ``modes`` within the coarsest grid that is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any, ClassVar, Literal, get_args

from flax import nnx
import jax
import jax.numpy as jnp

from surrogate.core.types import Array, UserError
from surrogate.models.activations import ACTIVATIONS
from surrogate.models.base import FieldGeometry, join_inputs
from surrogate.models.fourier import convolution_flops, fourier_matrices, num_modes, spectral_convolution
from surrogate.parallel.blocks import on_blocks
from surrogate.parallel.mesh import active_mesh

Skip = Literal["linear", "gate", "identity"]
Norm = Literal["none", "instance", "layer"]
DType = Literal["float32", "bfloat16"]
Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]


def normalize(x: jax.Array, kind: str) -> jax.Array:
    """Zero mean and unit variance of (W, H, B, C) over space ("instance"), over channels ("layer"), or as it is."""
    if kind == "none":
        return x
    axes = (0, 1) if kind == "instance" else (-1,)
    y = x.astype(jnp.float32)
    y = y - y.mean(axes, keepdims=True)
    return (y * jax.lax.rsqrt((y * y).mean(axes, keepdims=True) + 1e-5)).astype(x.dtype)


def logical_axes(*names: str | None) -> dict[str, Any]:
    """Metadata of a parameter with these logical axes; Flax may shard it at once only where there is a mesh."""
    return {"out_sharding": names, "eager_sharding": not jax.sharding.get_abstract_mesh().empty}


def over_channels(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """``x @ matrix`` with (..., C) and (C, D), as a product of two matrices.

    With more dimensions XLA transposes copies of the gradient to find that of ``matrix``, which takes two or three
    times as long on CPUs. Under a mesh every device does so with its own block: dims that are merged cannot be divided.
    """

    def product(matrix: jax.Array, x: jax.Array) -> jax.Array:
        return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])

    if active_mesh() is None:
        return product(matrix, x)
    return on_blocks(product, (x,), matrix, dims=("longitude", "latitude", "batch"))


def unstack(stacked: jax.Array) -> list[jax.Array]:
    """Slices along the first axis; unlike indexing, its transpose is one concatenation."""
    return [part[0] for part in jax.lax.split(stacked, [1] * len(stacked), axis=0)]


@dataclass(frozen=True)
class OperatorConfig:
    """Settings that the Fourier and the spherical operator share, validated on creation.

    Attributes:
        width: channels of the hidden fields.
        layers: number of spectral layers.
        lifting_ratio: hidden width of the lifting MLP over ``width``.
        projection_ratio: hidden width of the projection MLP over ``width``.
        mlp_ratio: hidden width of each layer's channel MLP over ``width``; 0 leaves it out.
        skip: path around the spectral convolution.
        mlp_skip: path around convolution and channel MLP together.
        norm: normalisation, without parameters, after the convolution and after the MLP.
        activation: ``gelu`` is the exact one.
        head_scale: factor on the initial last layer; small predicts nearly no increment at first.
        dtype: of the arithmetic; parameters and output are float32.
        remat: recompute each layer in the backward pass instead of keeping its activations.
        scan: compile one layer and loop over it; same parameters and values.
    """

    model: ClassVar[str] = "fno"

    width: int = 32
    layers: int = 4
    lifting_ratio: float = 2.0
    projection_ratio: float = 2.0
    mlp_ratio: float = 0.5
    skip: Skip = "linear"
    mlp_skip: Skip = "gate"
    norm: Norm = "none"
    activation: Activation = "gelu"
    head_scale: float = 0.1
    dtype: DType = "float32"
    remat: bool = False
    scan: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"model {self.model}: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("lifting_ratio", "projection_ratio"):
            if round(getattr(self, name) * self.width) < 1:
                raise UserError(
                    f"model {self.model}: {name} {getattr(self, name)} leaves no channel of width {self.width}"
                )
        for name in ("mlp_ratio", "head_scale"):
            if getattr(self, name) < 0:
                raise UserError(f"model {self.model}: {name} must not be negative, got {getattr(self, name)}")
        for name, kind in (
            ("skip", Skip), ("mlp_skip", Skip), ("norm", Norm), ("activation", Activation), ("dtype", DType)
        ):  # fmt: skip
            if getattr(self, name) not in get_args(kind):
                allowed = ", ".join(get_args(kind))
                raise UserError(f"model {self.model}: {name} {getattr(self, name)!r} is not one of {allowed}")

    @property
    def hidden_widths(self) -> tuple[int, int, int]:
        """Hidden widths of lifting, projection and channel MLP."""
        lift, project, mlp = (
            round(ratio * self.width) for ratio in (self.lifting_ratio, self.projection_ratio, self.mlp_ratio)
        )
        return lift, project, mlp


@dataclass(frozen=True)
class FNOConfig(OperatorConfig):
    """Settings of :class:`FNO`: those of :class:`OperatorConfig` and two more.

    The defaults on a grid of one input and two position channels have the 1,192,801 parameters of
    neuraloperator 2.0.0's ``FNO(n_modes=(16, 16), hidden_channels=32)``.

    Attributes:
        modes: kept (row, column) modes, positive and negative counted, as in neuraloperator's ``n_modes``.
        padding: extension of (rows, columns) as fractions of their extent, zero-filled at each
            convolution; None gives 0 to periodic axes and 0.25 to the others, where the rows count as
            periodic on a periodic plane only.
    """

    modes: tuple[int, int] = (16, 16)
    padding: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.modes) != 2 or min(self.modes) < 1:
            raise UserError(f"model fno: modes must be two positive numbers (rows, columns), got {self.modes}")
        if self.padding is not None and (len(self.padding) != 2 or min(self.padding) < 0):
            raise UserError(f"model fno: padding must be two fractions of at least 0, got {self.padding}")


class FNO(nnx.Module):
    """See the module. Inside, fields are (W, H, B, C), for which every step is a plain matrix product."""

    Config: type[OperatorConfig] = FNOConfig

    def __init__(self, geometry: FieldGeometry, config: OperatorConfig | None = None, *, rngs: nnx.Rngs) -> None:
        config = config or self.Config()
        self.config: Any = config
        self.geometry = geometry
        self._check_grid()
        width, layers = config.width, config.layers
        lift, project, hidden = config.hidden_widths

        def normal(shape: tuple[int, ...], fan_in: int, axes: tuple[str | None, ...], scale: float = 1.0) -> nnx.Param:
            value = scale / math.sqrt(fan_in) * jax.random.normal(rngs.params(), shape, jnp.float32)
            return nnx.Param(value, **logical_axes(*axes))

        def zeros(*shape: int) -> nnx.Param:
            return nnx.Param(jnp.zeros(shape, jnp.float32))

        inputs, outputs = geometry.num_inputs, geometry.num_outputs
        self.lift_in = normal((inputs, lift), inputs, (None, "mlp"))
        self.lift_in_bias = zeros(lift)
        self.lift_out = normal((lift, width), lift, ("mlp", "embed"))
        self.lift_out_bias = zeros(width)
        # A field whose variance lies in the kept modes leaves the convolution with half of it.
        self.spectral = normal((layers, *self._spectral_shape()), 4 * width, (None, None, "embed", "mlp"))
        self.spectral_bias = zeros(layers, width)
        if config.skip == "linear":
            self.skip = normal((layers, width, width), width, (None, "embed", "mlp"))
        elif config.skip == "gate":
            self.skip = nnx.Param(jnp.ones((layers, width), jnp.float32))
        if hidden:
            self.mlp_in = normal((layers, width, hidden), width, (None, "embed", "mlp"))
            self.mlp_in_bias = zeros(layers, hidden)
            self.mlp_out = normal((layers, hidden, width), hidden, (None, "mlp", "embed"))
            self.mlp_out_bias = zeros(layers, width)
            if config.mlp_skip == "linear":
                self.mlp_skip = normal((layers, width, width), width, (None, "embed", "mlp"))
            elif config.mlp_skip == "gate":
                self.mlp_skip = nnx.Param(jnp.ones((layers, width), jnp.float32))
        self.project_in = normal((width, project), width, ("embed", "mlp"))
        self.project_in_bias = zeros(project)
        self.project_out = normal((project, outputs), project, ("mlp", None), config.head_scale)
        self.project_out_bias = zeros(outputs)

    def __call__(self, state: Array, forcing: Array, static: Array) -> jax.Array:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        act = ACTIVATIONS[config.activation]
        # The only transposes of the model, of its few inputs and outputs.
        x = jnp.transpose(join_inputs(state, forcing, static), (2, 1, 0, 3)).astype(dtype)

        def cast(param: nnx.Param) -> jax.Array:
            return param[...].astype(dtype)

        x = act(over_channels(x, cast(self.lift_in)) + cast(self.lift_in_bias))
        x = over_channels(x, cast(self.lift_out)) + cast(self.lift_out_bias)

        names = ("spectral", "spectral_bias", "skip", "mlp_in", "mlp_in_bias", "mlp_out", "mlp_out_bias", "mlp_skip")
        weights = {name: cast(getattr(self, name)) for name in names if hasattr(self, name)}
        layer, last = self._layer, self._last_layer
        if config.remat:
            layer, last = jax.checkpoint(layer), jax.checkpoint(last)
        slices = {name: unstack(value) for name, value in weights.items()}
        if config.scan and config.layers > 2:
            x, _ = jax.lax.scan(lambda x, w: (layer(x, w), None), x, {k: v[:-1] for k, v in weights.items()})
        else:
            for i in range(config.layers - 1):
                x = layer(x, {name: parts[i] for name, parts in slices.items()})
        x = last(x, {name: parts[-1] for name, parts in slices.items()})

        x = act(over_channels(x, cast(self.project_in)) + cast(self.project_in_bias))
        x = over_channels(x, cast(self.project_out)) + cast(self.project_out_bias)
        return jnp.transpose(x, (2, 1, 0, 3)).astype(jnp.float32)

    def _layer(self, x: jax.Array, w: dict[str, jax.Array]) -> jax.Array:
        act, norm = ACTIVATIONS[self.config.activation], self.config.norm
        y = normalize(self._convolve(x, w["spectral"]) + w["spectral_bias"], norm) + _skip(x, w.get("skip"))
        y = act(y)
        if "mlp_in" not in w:
            return y
        y = act(over_channels(y, w["mlp_in"]) + w["mlp_in_bias"])
        y = over_channels(y, w["mlp_out"]) + w["mlp_out_bias"] + _skip(x, w.get("mlp_skip"))
        return act(normalize(y, norm))

    def _last_layer(self, x: jax.Array, w: dict[str, jax.Array]) -> jax.Array:
        """The layer without its two outer activations, as in neuraloperator."""
        act, norm = ACTIVATIONS[self.config.activation], self.config.norm
        if "mlp_in" in w and norm == "none" and "skip" in w and w["skip"].ndim == 2:
            # Nothing nonlinear stands between convolution and MLP here, so the MLP's first matrix moves into the
            # spectral and skip weights: the same function with an inverse transform of fewer channels.
            modes, channels, parts = w["spectral"].shape  # parts: channels, once or for real and imaginary
            spectral = w["spectral"].reshape(modes, channels, parts // channels, channels) @ w["mlp_in"]
            bias = w["spectral_bias"] @ w["mlp_in"] + w["mlp_in_bias"]
            y = (
                self._convolve(x, spectral.reshape(modes, channels, -1))
                + over_channels(x, w["skip"] @ w["mlp_in"])
                + bias
            )
        else:
            y = normalize(self._convolve(x, w["spectral"]) + w["spectral_bias"], norm) + _skip(x, w.get("skip"))
            if "mlp_in" not in w:
                return y
            y = over_channels(y, w["mlp_in"]) + w["mlp_in_bias"]
        y = over_channels(act(y), w["mlp_out"]) + w["mlp_out_bias"] + _skip(x, w.get("mlp_skip"))
        return normalize(y, norm)

    # What follows is all that differs between the plane and the sphere.

    def _check_grid(self) -> None:
        """Raise for a grid that the transform cannot serve."""
        grid, padding = self.geometry.grid, self.config.padding
        if padding is None:
            padding = (0.0 if grid.kind == "plane" and grid.periodic else 0.25, 0.0 if grid.periodic else 0.25)
        self.padding = (float(padding[0]), float(padding[1]))

    def _spectral_shape(self) -> tuple[int, int, int]:
        """Shape of one layer's spectral weight."""
        return math.prod(num_modes(self.config.modes)), self.config.width, 2 * self.config.width

    def _convolve(self, x: jax.Array, weight: jax.Array) -> jax.Array:
        # By the shape of the call: it serves any resolution of the same domain.
        shape = (x.shape[1], x.shape[0])
        return spectral_convolution(x, weight, fourier_matrices(shape, self.config.modes, self.padding))

    @staticmethod
    def flops(geometry: FieldGeometry, config: Any) -> float:
        """Floating-point operations of one forward pass of one sample; multiply-add is 2, activations not counted."""
        convolution = convolution_flops(geometry.grid.shape, config.modes, config.width, config.width)
        return pointwise_flops(geometry, config) + config.layers * convolution


def pointwise_flops(geometry: FieldGeometry, config: OperatorConfig) -> float:
    """Operations of one sample's matrix products over channels: lifting, skips, MLPs, projection."""
    width = config.width
    lift, project, hidden = config.hidden_widths
    products = geometry.num_inputs * lift + lift * width + width * project + project * geometry.num_outputs
    linear_skips = (config.skip == "linear") + (config.mlp_skip == "linear" and hidden > 0)
    products += config.layers * (2 * width * hidden + linear_skips * width * width)
    return 2.0 * math.prod(geometry.grid.shape) * products


def _skip(x: jax.Array, weight: jax.Array | None) -> jax.Array:
    """Identity, a factor per channel, or a matrix, by what weight there is."""
    if weight is None:
        return x
    return x * weight if weight.ndim == 1 else over_channels(x, weight)
