"""Is a classic NetCDF file whole? The C library reads zeros past the end of a truncated one without a word.

The format is that of the "NetCDF Classic Format Specification": a big-endian header of dimensions,
attributes and variables, each variable with the offset at which its data begin.
"""

from __future__ import annotations

import math
import os
from typing import BinaryIO

from surrogate.core.types import UserError

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}


class _Header:
    def __init__(self, file: BinaryIO, version: int) -> None:
        self.file = file
        self.count_bytes = 8 if version == 5 else 4
        self.offset_bytes = 4 if version == 1 else 8

    def integer(self, size: int) -> int:
        data = self.file.read(size)
        if len(data) != size:
            raise EOFError
        return int.from_bytes(data, "big")

    def count(self) -> int:
        return self.integer(self.count_bytes)

    def skip(self, size: int) -> None:
        self.file.seek(-(-size // 4) * 4, os.SEEK_CUR)

    def list_length(self) -> int:
        self.integer(4)  # the tag; a list that is absent has tag and length 0
        return self.count()

    def skip_attributes(self) -> None:
        for _ in range(self.list_length()):
            self.skip(self.count())
            size = _SIZES[self.integer(4)]
            self.skip(self.count() * size)


def check_complete(path: str) -> None:
    """Compare the size of a classic NetCDF file (CDF-1, -2 or -5) with what its header promises.

    Raises:
        UserError: when the file is shorter, or its header makes no sense.
    """
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            needed = _needed_bytes(file)
    except (EOFError, KeyError, IndexError, OverflowError, ValueError, OSError) as error:
        raise UserError(f"{path}: the NetCDF header is damaged or cut short ({type(error).__name__})") from None
    if size < needed:
        raise UserError(f"{path}: the file is truncated: its header promises {needed} bytes, it has {size}")


def _needed_bytes(file: BinaryIO) -> int:
    version = file.read(4)[3]
    header = _Header(file, version)
    records = header.count()
    streaming = records == 2 ** (8 * header.count_bytes) - 1
    lengths = []
    for _ in range(header.list_length()):
        header.skip(header.count())
        lengths.append(header.count())
    header.skip_attributes()
    fixed_end, record_begins, record_sizes = file.tell(), [], []
    for _ in range(header.list_length()):
        header.skip(header.count())
        dims = [header.count() for _ in range(header.count())]
        header.skip_attributes()
        item = _SIZES[header.integer(4)]
        header.count()  # vsize: redundant, and wrong for large variables
        begin = header.integer(header.offset_bytes)
        if dims and lengths[dims[0]] == 0:
            record_begins.append(begin)
            record_sizes.append(item * math.prod(lengths[d] for d in dims[1:]))
        else:
            fixed_end = max(fixed_end, begin + item * math.prod(lengths[d] for d in dims))
    if not record_sizes or streaming or records == 0:
        return max(fixed_end, file.tell())
    # Records are padded to four bytes each, except when there is one record variable alone.
    padded = record_sizes if len(record_sizes) == 1 else [-(-s // 4) * 4 for s in record_sizes]
    last = max(begin + (records - 1) * sum(padded) + s for begin, s in zip(record_begins, record_sizes, strict=True))
    return max(fixed_end, last)
