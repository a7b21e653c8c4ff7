"""The guard of a column beside the smallest network worth calling: microseconds for 256 columns, medians of many calls.

    python benchmarks/native/guard.py [ROUNDS]

Columns of a history of 8 values and a network of two hidden layers of 256, computed by one thread (PJRT_NPROC=1).
"""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys
import tempfile

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "native"))
from surrogates import make

from surrogate.exporting import native
from surrogate.exporting.plugins import find_plugin
from surrogate.exporting.write import export_bundle


def main() -> None:
    rounds, plugin = sys.argv[1] if len(sys.argv) > 1 else "3000", str(find_plugin("cpu").path)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        surrogate = make(
            work / "model", shape=(2, 3), history=8, monthly=False, features=(), land=False, based=False,
            settings={"hidden": 256, "layers": 2},
        )  # fmt: skip
        export_bundle(surrogate, work / "columns.sg", kind="point", batches=(256,), plugins={"cpu": plugin})
        sources = [str(Path(__file__).with_name("guard.c")), *map(str, native.library_sources())]
        command = ["cc", *native.FLAGS, f"-I{native.HERE}", *sources, "-o", str(work / "guard"), *native.LIBRARIES]
        subprocess.run(command, check=True)
        where = {**os.environ, "SURROGATE_PLUGIN": plugin, "PJRT_NPROC": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        subprocess.run([str(work / "guard"), str(work / "columns.sg"), "point", "256", rounds], env=where, check=True)


if __name__ == "__main__":
    main()
