"""What an exported function is: named arguments with units and shapes, parameters, and a batched computation.

A kind of surrogate gives its functions as :class:`Function`; programs, golden vectors, manifest and
callers follow from that alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from surrogate.core.types import Array

DTYPES = ("float32", "int32")


@dataclass(frozen=True)
class Argument:
    """One input or output array of a function, without its leading sample dimension.

    Attributes:
        name: unique among the inputs, and among the outputs.
        role: ``prognostic``, ``diagnostic``, ``forcing`` or ``time``.
        dims, shape: in C order, slowest first.
        sizes: how much a value typically varies, per index of ``level`` or one number for all;
            the scale on which a difference counts. Empty: magnitudes decide.
    """

    name: str
    role: str
    units: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str = "float32"
    description: str = ""
    attrs: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.shape) or self.dtype not in DTYPES:
            raise ValueError(f"argument {self.name!r}: {self.dims} {self.shape} {self.dtype}")

    def to_dict(self) -> dict[str, Any]:
        """JSON values for the manifest; Fortran counts dimensions the other way, samples last."""
        return {
            "name": self.name, "role": self.role, "units": self.units, "dtype": self.dtype,
            "dims": list(self.dims), "shape": list(self.shape),
            "c_dims": ["sample", *self.dims], "c_shape": [None, *self.shape],
            "fortran_dims": [*reversed(self.dims), "sample"], "fortran_shape": [*reversed(self.shape), None],
            "description": self.description, "attrs": self.attrs,
        }  # fmt: skip


@dataclass(frozen=True)
class Function:
    """A pure function of samples: ``apply(parameters, inputs) -> outputs``, tuples in the order of their names.

    Attributes:
        parameters: name → array, stored once and shared by the programs of every batch size.
        golden: input name → (N, *shape): samples on which every target is checked.
        steps: time steps in one call; errors are allowed to grow with it.
        single: takes one sample a call, in programs for Python as well.
    """

    name: str
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    parameters: dict[str, np.ndarray]
    apply: Callable[[tuple[Array, ...], tuple[Array, ...]], tuple[Array, ...]]
    golden: dict[str, np.ndarray]
    steps: int = 1
    single: bool = False


def tolerances(output: Argument, values: np.ndarray, relative: float, steps: int) -> tuple[list[float], int]:
    """The largest difference allowed between two right computations of an output.

    ``relative`` times the largest magnitude; where the mean is far from zero (a pressure), no more than
    two roundings of the value and ten ``relative`` of its variability, so that a wrong anomaly shows.

    Args:
        values: (N, *shape) reference.

    Returns:
        Numbers in the output's units, per index of ``level`` or one for all, and the number of
        consecutive elements that one of them is for (they repeat through the array).
    """
    axis = output.dims.index("level") + 1 if "level" in output.dims else None
    levels = values.shape[axis] if axis is not None else 1
    split = np.moveaxis(values, axis, 0).reshape(levels, -1) if axis is not None else values.reshape(1, -1)
    magnitude = np.nanmax(np.abs(np.where(np.isfinite(split), split, 0)), axis=1)
    limit = relative * magnitude
    if output.sizes:
        sizes = np.asarray(output.sizes, np.float64)
        rounding = 2.0**-22 * magnitude
        limit = np.minimum(limit, rounding + 10 * relative * sizes)
        # A field that is zero in every golden sample still has a size.
        limit = np.where(magnitude > 0, limit, relative * sizes)
    tiny = float(np.finfo(np.float32).tiny)
    block = int(np.prod(output.shape[axis:], dtype=int)) if axis is not None else int(np.prod(output.shape, dtype=int))
    return [max(float(x) * steps, tiny) for x in limit], block


def compare(output: dict[str, Any], expected: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    """Largest difference and the tolerance where it is worst, relative to that tolerance; infinite for a stray NaN.

    Args:
        output: the manifest's entry, with ``tolerance`` and ``block``.
    """
    count = len(output["tolerance"])
    limit = np.asarray(output["tolerance"])[(np.arange(expected[0].size) // output["block"]) % count]
    limit = limit.reshape(expected.shape[1:])
    missing = np.isnan(expected)
    if (missing != np.isnan(got)).any():
        return float("inf"), float(limit.flat[0])
    with np.errstate(invalid="ignore"):
        error = np.where(missing | (expected == got), 0, np.abs(got.astype(np.float64) - expected))
    worst = np.unravel_index(np.argmax(error / limit), error.shape)
    return float(error[worst]), float(np.broadcast_to(limit, error.shape)[worst])
