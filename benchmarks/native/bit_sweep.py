"""Every bit of every file of a Bundle flipped, one at a time, and whether opening it in C and in Python notices.

Usage: python benchmarks/native/bit_sweep.py BUNDLE [sample=1]

``sample=N`` tries every Nth bit. The Bundle is copied first. In C the way ends where the plugin is looked for, which is
not there: an honest Bundle gets as far as that. Prints a line a file; ends with 1 where a flip went unnoticed.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
import shutil
import sys
import tempfile

from surrogate.core.types import UserError
from surrogate.exporting import native, open_bundle
from surrogate.exporting.files import ABI

BUNDLE, PLUGIN = 3, 4  # surrogate_status


class Options(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t), ("plugin", ctypes.c_char_p), ("platform", ctypes.c_char_p),
        ("device", ctypes.c_int), ("lazy", ctypes.c_int), ("skip_self_test", ctypes.c_int),
    )  # fmt: skip


def main() -> int:
    source = Path(sys.argv[1])
    sample = int(sys.argv[2].partition("=")[2]) if len(sys.argv) > 2 else 1
    library = ctypes.CDLL(str(native.build().library))

    def status(directory: Path) -> int:
        options = Options(struct_size=ctypes.sizeof(Options), plugin=b"/nowhere/plugin.so")
        return library.surrogate_open(
            ABI, str(directory).encode(), ctypes.byref(options), ctypes.byref(ctypes.c_void_p())
        )

    silent = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as work:
        copy = Path(shutil.copytree(source, Path(work) / "copy.sg"))
        if status(copy) != PLUGIN:
            print(f"{source} is no honest Bundle to begin from")
            return 1
        for path in sorted(copy.iterdir()):
            data = path.read_bytes()
            tried = in_c = in_python = 0
            for bit in range(0, 8 * len(data), sample):
                changed = bytearray(data)
                changed[bit // 8] ^= 1 << bit % 8
                path.write_bytes(changed)
                tried += 1
                in_c += status(copy) == BUNDLE
                try:
                    open_bundle(copy, check=False)
                except UserError:
                    in_python += 1
            path.write_bytes(data)
            silent += 2 * tried - in_c - in_python
            print(f"{path.name:24s} {tried:9d} flips, noticed in C {in_c:9d}, in Python {in_python:9d}", flush=True)
    return int(silent > 0)


if __name__ == "__main__":
    sys.exit(main())
