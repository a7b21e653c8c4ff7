"""The native calls of bundles beside in-process ``jax.jit``, in one run; writes ``README.md``'s tables and ``native.json``.

    python benchmarks/native/run.py --out DIRECTORY [--work DIRECTORY] [--models mlp,unet] [--rounds 7] [--prepare]

Every side is a process of its own that waits for its turn; in each round each measures for a fifth of a second, and
ratios are those of the same round, their median being reported. Bundles are made once in ``--work``; ``--prepare``
makes them and stops, so that making and measuring can be given different priorities.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import platform
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import jax
from models import CASES, prepare
import numpy as np
from table import markdown

from surrogate.exporting import native
from surrogate.exporting.plugins import find_plugin, find_runtime

HERE = Path(__file__).resolve().parent
BURST = 0.2  # seconds of one side's turn


class Side:
    """A process that measures when it is told to."""

    def __init__(self, command: list[str], environment: dict[str, str], cpu: int | None = None) -> None:
        if cpu is not None:
            command = ["taskset", "-c", str(cpu), *command]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        self.first = self._line()

    def _line(self) -> list[str]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with status {self.process.wait()}")
        return line.split()

    def ask(self, *words: object) -> list[str]:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self._line()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def build(work: Path) -> Path:
    """bench, with the library in it."""
    target = work / "bench"
    sources = [str(p) for p in native.library_sources() if p.name not in ("sg_pjrt.c", "surrogate.c")]
    command = [
        "cc",
        *native.FLAGS,
        f"-I{native.HERE}",
        str(HERE / "bench.c"),
        *sources,
        "-o",
        str(target),
        *native.LIBRARIES,
    ]
    subprocess.run(command, check=True)
    return target


def measure(
    name: str, batch: int, size: str, function: Any, bundle: Path, bench: Path, work: Path, rounds: int
) -> dict[str, Any]:
    """All figures of one model at one size."""
    golden = {a.name: function.golden[a.name] for a in function.inputs}
    rng = np.random.default_rng(batch)
    inputs = []
    for a in function.inputs:
        # A golden system fills its capacity; noise would part the two ends of a pair.
        value = golden[a.name][-1:] if function.kind == "atoms" else np.resize(golden[a.name], (batch, *a.shape))
        noise = rng.normal(0, 1, value.shape) if a.dtype == "float32" and function.kind != "atoms" else 0
        inputs.append((value + noise).astype(a.dtype))
    files = work / f"{name}.{size.replace(' ', '_')}"
    Path(f"{files}.in").write_bytes(b"".join(x.tobytes() for x in inputs))
    plugin, runtime = find_plugin("cpu"), find_runtime()
    where = {"SURROGATE_PLUGIN": str(plugin.path), "TF_CPP_MIN_LOG_LEVEL": "2"}
    if runtime is not None:
        where["SURROGATE_ONNXRUNTIME"] = str(runtime.path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (entry,) = (f for f in manifest["functions"] if f["name"] == function.name)
    backends = sorted({p["backend"] for p in entry["programs"]}, reverse=True)

    def native_side(backend: str, cpu: int | None = None, **extra: str) -> Side:
        command = [
            str(bench),
            str(bundle),
            function.name,
            str(batch),
            backend,
            str(files) + ".in",
            f"{files}.{backend}",
        ]
        return Side(command, {**where, "SURROGATE_CACHE": "off", **extra}, cpu)

    words = [name, function.name, str(batch), str(work), f"{files}.in", f"{files}.jit"]
    jit = [sys.executable, str(HERE / "jit.py"), *words]
    quick = {"JAX_COMPILATION_CACHE_DIR": str(work / "xla"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    sides = {
        "jit": Side(jit, quick),
        "jit1": Side(
            jit, {**quick, "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"}
        ),
        **{backend: native_side(backend) for backend in backends},
    }
    calls = {}
    for side, process in sides.items():
        process.ask("time", 5)
        calls[side] = max(5, min(20_000, int(BURST * 1e6 / float(process.ask("time", 5)[0]))))
    turns: list[dict[str, tuple[float, float]]] = []
    for _ in range(rounds):
        turn = {}
        for side, process in sides.items():
            turn[side] = tuple(float(x) for x in process.ask("time", calls[side]))
            if side == "pjrt":
                turn["bare"] = tuple(float(x) for x in process.ask("bare", calls[side]))
        turns.append(turn)  # type: ignore[arg-type]
    result: dict[str, Any] = {"model": name, "size": size, "sides": {}}
    for side in ("jit", "jit1", "bare", *backends):
        record = result["sides"][side] = {
            "p50": statistics.median(t[side][0] for t in turns), "p99": statistics.median(t[side][1] for t in turns),
            "ratio": statistics.median(t[side][0] / t["jit"][0] for t in turns),
            "ratio1": statistics.median(t[side][0] / t["jit1"][0] for t in turns),
        }  # fmt: skip
        if side in ("pjrt", "onnx", "jit"):
            record["memory"] = float(sides[side].ask("memory")[0])
    result["overhead"] = statistics.median(t["pjrt"][0] - t["bare"][0] for t in turns)
    sides["jit"].ask("write")
    expected = np.fromfile(f"{files}.jit", np.float32)
    for backend in backends:
        record, process = result["sides"][backend], sides[backend]
        by_library, by_all = process.ask("allocations", 50)
        record |= {"allocations": float(by_library), "all_allocations": float(by_all)}
        number = max(3, calls[backend])
        speedups, cores = [], []
        alone = native_side(backend, min(os.sched_getaffinity(0)))
        for _ in range(rounds):
            one, two = (float(side.ask("threads", t, number)[0]) for t, side in ((1, alone), (2, process)))
            speedups.append(2 * one / two)
            seconds, computed = map(float, process.ask("threads", 1, number))
            cores.append(computed / seconds)
        alone.end()
        record |= {"two_threads": statistics.median(speedups), "cores": statistics.median(cores)}
        process.ask("write")
        got = np.fromfile(f"{files}.{backend}", np.float32)
        record["error"] = float(np.abs(got.astype(float) - expected).max() / np.abs(expected).max())
    for side in sides.values():
        side.end()
    for backend in backends:
        result["sides"][backend]["open"] = _opening(lambda **extra: native_side(backend, **extra), backend)  # noqa: B023
    return result


def _opening(side: Any, backend: str) -> dict[str, Any]:
    """Milliseconds from nothing to a context: without a cache, and with one that is filled. Medians of three."""

    def opened(**extra: str) -> tuple[float, str]:
        process = side(**extra)
        process.end()
        return float(process.first[0]), " ".join(process.first[1:])

    result: dict[str, Any] = {"cold": statistics.median(opened()[0] for _ in range(3))}
    if backend == "pjrt":
        with tempfile.TemporaryDirectory() as cache:
            result["said"] = opened(SURROGATE_CACHE=cache)[1].replace(cache, "")
            result["cached"] = statistics.median(opened(SURROGATE_CACHE=cache)[0] for _ in range(3))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prepare", action="store_true")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    bench = build(work)
    results: list[dict[str, Any]] = []
    for name in options.models.split(","):
        called, bundle = prepare(name, work)
        for function, batch, size in () if options.prepare else called:
            results.append(measure(name, batch, size, function, bundle, bench, work, options.rounds))
            write(options.out, results, options.rounds)  # what was measured is kept, whatever happens to the rest
    if not options.prepare:
        write(options.out, results, options.rounds)
        print((options.out / "native.md").read_text())


def write(out: Path, results: list[dict[str, Any]], rounds: int) -> None:
    plugin, runtime = find_plugin("cpu"), find_runtime()
    facts = {
        "processor": _processor(), "cores": os.cpu_count(), "jax": jax.__version__,
        "plugin": f"{plugin.package} {plugin.version}", "onnxruntime": runtime.version if runtime else "",
        "python": platform.python_version(), "rounds": rounds,
    }  # fmt: skip
    (out / "native.json").write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")
    (out / "native.md").write_text(markdown(facts, results, {n: c.title for n, c in CASES.items()}))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
