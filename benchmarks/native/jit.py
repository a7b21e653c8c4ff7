"""jit.py MODEL FUNCTION BATCH WORK INPUTS OUTPUTS: the side of ``jax.jit``, which is told on standard input what ``bench`` is.

A call is host to host, as a Python caller's would be: NumPy arrays in, NumPy arrays out.
"""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"
from pathlib import Path
import sys
import time

import jax
from models import CASES, measured, surrogate_of
import numpy as np


def main() -> None:
    name, wanted, batch, work, source, target = sys.argv[1:]
    begin = time.perf_counter()
    surrogate = surrogate_of(CASES[name], Path(work) / f"{name}.{os.getpid()}.model")
    function = next(f for f, _, _ in measured(CASES[name], surrogate) if f.name == wanted)
    flat, position, inputs = np.fromfile(source, np.float32), 0, []
    for a in function.inputs:
        size = int(batch) * int(np.prod(a.shape))
        inputs.append(flat[position : position + size].view(a.dtype).reshape(int(batch), *a.shape))
        position += size
    parameters = tuple(jax.device_put(p) for p in function.parameters.values())
    jax.config.update("jax_enable_compilation_cache", False)  # what is measured is compiled as ever
    compiled = jax.jit(function.apply)

    def call() -> list[np.ndarray]:
        return [np.asarray(x) for x in compiled(parameters, tuple(inputs))]

    call()
    print(f"{(time.perf_counter() - begin) * 1e3:.3f} off", flush=True)
    for line in sys.stdin:
        words = line.split()
        if words[0] == "time":
            times = []
            for _ in range(int(words[1])):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            ordered = sorted(times)
            print(f"{ordered[len(ordered) // 2] * 1e6:.3f} {ordered[len(ordered) * 99 // 100] * 1e6:.3f}", flush=True)
        elif words[0] == "memory":
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            print(f"{int(status['VmHWM'].split()[0]) / 1024:.1f}", flush=True)
        elif words[0] == "write":
            Path(target).write_bytes(b"".join(x.astype(np.float32).tobytes() for x in call()))
            print("written", flush=True)


if __name__ == "__main__":
    main()
