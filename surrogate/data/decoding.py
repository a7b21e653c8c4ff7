"""Stored numbers to physical float32: packing, declared fills and valid ranges, as CF and NUG define them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from surrogate.core.types import UserError

# What the NetCDF library writes into cells that were never written, by type.
DEFAULT_FILLS = {"i1": -127, "i2": -32767, "i4": -2147483647, "u1": 255, "u2": 65535, "u4": 4294967295}


@dataclass(frozen=True)
class Decoding:
    """How one variable of one file is stored.

    Attributes:
        fills: stored values that mean missing (``_FillValue`` and ``missing_value``, which may differ).
        extra_fills: the same, declared by the user, in stored or decoded numbers.
        low, high: valid range in stored numbers.
        decoded_low, decoded_high: valid range in physical units.
        scale, offset: ``physical = stored × scale + offset``.
        unsigned: whether integers are to be read as unsigned (``_Unsigned``).
        suspects: fills that a packed variable may hold although it declares none, as decoded.
    """

    fills: tuple[float, ...] = ()
    extra_fills: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None
    decoded_low: float | None = None
    decoded_high: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    unsigned: bool | None = None
    suspects: tuple[float, ...] = ()

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        """Physical values in float32, NaN where missing. Arithmetic is in float64."""
        if self.unsigned is not None and stored.dtype.kind in "iu":
            kind = "u" if self.unsigned else "i"
            stored = stored.view(f"{stored.dtype.byteorder}{kind}{stored.dtype.itemsize}")
        packed = self.scale != 1.0 or self.offset != 0.0
        missing = np.zeros(stored.shape, bool)
        for fill in (*self.fills, *self.extra_fills):
            missing |= equals(stored, fill)
        if self.low is not None:
            missing |= stored < self.low
        if self.high is not None:
            missing |= stored > self.high
        values = stored.astype(np.float64) * self.scale + self.offset if packed else stored
        if self.decoded_low is not None:
            missing |= values < self.decoded_low
        if self.decoded_high is not None:
            missing |= values > self.decoded_high
        with np.errstate(over="ignore", invalid="ignore"):
            result = values.astype(np.float32)
        if packed:
            for fill in self.extra_fills:
                missing |= equals(result, fill)
        if missing.any():
            result = np.where(missing, np.float32(np.nan), result)
        return result


def equals(values: np.ndarray, fill: float) -> np.ndarray:
    """Where values are a fill. Huge fills are compared to five digits: 1e20 is written in both precisions."""
    if np.isnan(fill):
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if abs(fill) >= 1e10:
        with np.errstate(invalid="ignore", over="ignore"):
            return np.abs(values.astype(np.float64) - fill) <= 1e-5 * abs(fill)
    target = values.dtype.type(fill) if values.dtype.kind == "f" else fill
    return values == target


def _numbers(attrs: Mapping[str, Any], name: str, where: str) -> list[float]:
    if name not in attrs:
        return []
    try:
        return [float(v) for v in np.atleast_1d(attrs[name])]
    except (TypeError, ValueError):
        raise UserError(f"{where}: attribute {name}={attrs[name]!r} is not a number") from None


def _one(attrs: Mapping[str, Any], name: str, default: float, where: str) -> float:
    values = _numbers(attrs, name, where) or [default]
    if len(values) != 1 or not np.isfinite(values[0]):
        raise UserError(f"{where}: attribute {name}={attrs[name]!r} is not one finite number")
    return values[0]


def decoding_of(attrs: Mapping[str, Any], dtype: np.dtype, extra_fills: Sequence[float], where: str) -> Decoding:
    """Read the rule from a variable's attributes.

    A valid range is in stored numbers, unless its type is that of the unpacked values and wider than
    the packed type (NetCDF Users' Guide, appendix A).

    Raises:
        UserError: for attributes that are not numbers.
    """
    fills = tuple(_numbers(attrs, "_FillValue", where) + _numbers(attrs, "missing_value", where))
    scale = _one(attrs, "scale_factor", 1.0, where)
    offset = _one(attrs, "add_offset", 0.0, where)
    if scale == 0:
        raise UserError(f"{where}: scale_factor is 0")
    flag = attrs.get("_Unsigned")
    unsigned = None if flag is None else str(flag).strip().lower() in ("true", "1")
    if unsigned and dtype.kind == "i":
        # The marks are stored in the signed type too: -1 means 255.
        fills = tuple(fill + 2 ** (8 * dtype.itemsize) if fill < 0 else fill for fill in fills)
    both = _numbers(attrs, "valid_range", where)
    if both and len(both) != 2:
        raise UserError(f"{where}: valid_range={attrs['valid_range']!r} is not two numbers")
    low, high = both if both else (None, None)
    for value in _numbers(attrs, "valid_min", where):
        low = value
    for value in _numbers(attrs, "valid_max", where):
        high = value
    packed = "scale_factor" in attrs or "add_offset" in attrs
    limits = [np.asarray(attrs[n]).dtype for n in ("valid_range", "valid_min", "valid_max") if n in attrs]
    in_physical = packed and dtype.kind in "iu" and any(limit.kind == "f" for limit in limits)
    if dtype.kind == "f" and not in_physical:
        # The bound itself must stay valid, so it is compared at the precision of the data.
        low, high = (None if v is None else float(dtype.type(v)) for v in (low, high))
    default = DEFAULT_FILLS.get(dtype.str[1:])
    suspects: tuple[float, ...] = ()
    if packed and default is not None and not any(np.isfinite(f) for f in fills):
        doubtful = [default, *_numbers(attrs, "zarr_fill_value", where)]
        suspects = tuple(float(np.float32(d * scale + offset)) for d in doubtful if d not in extra_fills)
    bounds: dict[str, float | None] = (
        {"decoded_low": low, "decoded_high": high} if in_physical else {"low": low, "high": high}
    )
    rule = Decoding(fills, tuple(extra_fills), scale=scale, offset=offset, unsigned=unsigned, suspects=suspects)
    return replace(rule, **bounds)  # type: ignore[arg-type]
