"""Spherical Fourier neural operator on global latitude-longitude grids.

Bonev et al., "Spherical Fourier Neural Operators" (ICML 2023), with filters per degree l alone:
each layer's convolution has zonal kernels and commutes with every rotation, not just with those
about the axis. The layers are those of :class:`~surrogate.models.fno.FNO`, and as there no
parameter depends on the grid: the same state serves any other global grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from surrogate.core.types import UserError
from surrogate.models.base import FieldGeometry
from surrogate.models.fno import FNO, OperatorConfig, pointwise_flops
from surrogate.models.harmonics import convolution_flops, harmonic_matrices, zonal_convolution


@dataclass(frozen=True)
class SFNOConfig(OperatorConfig):
    """Settings of :class:`SFNO`: those of :class:`~surrogate.models.fno.OperatorConfig` and one more.

    Attributes:
        lmax: highest degree; a grid that resolves less uses the lower degrees, and the weights of
            the others stay untrained, so keep it within the coarsest grid that is trained on.
    """

    model: ClassVar[str] = "sfno"

    lmax: int = 31

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lmax < 1:
            raise UserError(f"model sfno: lmax must be at least 1, got {self.lmax}")


class SFNO(FNO):
    """See the module; grid requirements and their errors are those of ``harmonic_matrices``."""

    Config = SFNOConfig

    def _check_grid(self) -> None:
        harmonic_matrices(self.geometry.grid, self.config.lmax)

    def _spectral_shape(self) -> tuple[int, int, int]:
        return self.config.lmax + 1, self.config.width, self.config.width

    def _convolve(self, x: jax.Array, weight: jax.Array) -> jax.Array:
        return zonal_convolution(x, weight, harmonic_matrices(self.geometry.grid, self.config.lmax))

    @staticmethod
    def flops(geometry: FieldGeometry, config: Any) -> float:
        """Floating-point operations of one forward pass of one sample; multiply-add is 2, activations not counted."""
        convolution = convolution_flops(geometry.grid, config.lmax, config.width, config.width)
        return pointwise_flops(geometry, config) + config.layers * convolution
