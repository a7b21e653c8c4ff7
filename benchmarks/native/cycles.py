"""10,000 cycles of opening, running and closing a bundle under LeakSanitizer.

    python benchmarks/native/cycles.py BUNDLE PLUGIN [NUMBER]

Ends with LeakSanitizer's status when anything was never released, and says how resident memory grew.
"""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys
import tempfile

from surrogate.exporting import native


def main() -> int:
    bundle, plugin, number = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "10000"
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "cycles"
        sources = [str(Path(__file__).with_name("cycles.c")), *map(str, native.library_sources())]
        command = ["cc", "-std=c11", "-O1", "-g", "-fsanitize=leak", f"-I{native.HERE}", *sources, "-o", str(program)]
        subprocess.run([*command, *native.LIBRARIES], check=True)
        environment = {**os.environ, "SURROGATE_PLUGIN": plugin, "TF_CPP_MIN_LOG_LEVEL": "2"}
        return subprocess.run([str(program), bundle, number], env=environment).returncode


if __name__ == "__main__":
    raise SystemExit(main())
