"""The files of a Bundle: one sealed manifest, arrays at aligned offsets, programs, and the library's own sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from surrogate.core.types import UserError

KIND, FORMAT = "bundle", 1
# The number that surrogate.h carries as SURROGATE_ABI_VERSION.
ABI = 1
# So that a plugin may read arrays where the file was read to, without copying them.
ALIGNMENT = 64


def pack(arrays: Mapping[str, np.ndarray]) -> tuple[bytes, list[dict[str, Any]]]:
    """Arrays one after another in C order, little-endian, each at a multiple of 64 bytes, and the table of them.

    Raises:
        UserError: for a dtype that callers do not have.
    """
    parts, table, position = [], [], 0
    for name, value in arrays.items():
        if value.dtype not in (np.float32, np.int32):
            raise UserError(f"array {name!r} is {value.dtype}; a Bundle holds float32 and int32")
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        padding = -position % ALIGNMENT
        parts += [bytes(padding), data]
        position += padding
        table.append({
            "name": name, "dtype": value.dtype.name, "shape": list(value.shape), "offset": position, "size": len(data),
        })  # fmt: skip
        position += len(data)
    return b"".join(parts), table


def unpack(data: bytes, table: list[dict[str, Any]], where: str) -> dict[str, np.ndarray]:
    """Invert :func:`pack`.

    Raises:
        UserError: when an entry does not fit the file.
    """
    result = {}
    for entry in table:
        name, shape, offset, size = entry["name"], entry["shape"], entry["offset"], entry["size"]
        if entry["dtype"] not in ("float32", "int32") or size != 4 * int(np.prod(shape, dtype=object)):
            raise UserError(f"{where}: {name!r} has {size} bytes for {entry['dtype']}{shape}")
        if offset < 0 or offset + size > len(data):
            raise UserError(f"{where}: {name!r} lies outside the file")
        dtype = np.dtype(entry["dtype"]).newbyteorder("<")
        result[name] = np.frombuffer(data, dtype, size // 4, offset).reshape(shape).astype(entry["dtype"], copy=False)
    return result
