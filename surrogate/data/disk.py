"""A file below HDF5 whose errors are not lost."""

from __future__ import annotations

import io
from typing import Any


class Disk(io.FileIO):
    """The file below HDF5, which keeps the first error of a write to itself and discards what comes after it.

    HDF5 must not see a full disk: h5py ignores errors while a dataset is closed, so that records would be
    lost in silence, and the process dies of a segmentation fault when it ends with something unwritten.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest) and self.error is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        place = 0
        while place < len(view) and (count := super().readinto(view[place:])):
            place += count
        view[place:] = bytes(len(view) - place)  # what was discarded
        return len(view)

    def check(self) -> None:
        if self.error is not None:
            raise self.error
