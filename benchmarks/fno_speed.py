"""Training speed of the FNO beside neuraloperator's, in one run and alternating.

    python benchmarks/fno_speed.py --reference-python PATH

A step is forward, backward and Adam at 64 × 64, batch 16, width 32, 16 × 16 modes: 1,192,801
parameters on either side. Each side runs in a process of its own; the two take turns of a few steps,
so that whatever else loads the machine falls on both. ``PATH`` is an interpreter with torch and
neuraloperator (see benchmarks/README.md). Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import time

BATCH, SIZE = 16, 64

# Runs in the reference's interpreter: no import from this package. The protocol is that of serve().
REFERENCE = """
import json, resource, sys, time
import torch
from neuralop.models import FNO
BATCH, SIZE = 16, 64
torch.manual_seed(0)
model = FNO(n_modes=(16, 16), in_channels=1, out_channels=1, hidden_channels=32)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
x, y = torch.randn(BATCH, 1, SIZE, SIZE), torch.randn(BATCH, 1, SIZE, SIZE)
def step():
    optimizer.zero_grad()
    loss = ((model(x) - y) ** 2).mean()
    loss.backward()
    optimizer.step()
    return loss.item()
count = sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())
step(); step()
print(json.dumps({"parameters": count, "threads": torch.get_num_threads()}), flush=True)
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(int(line)):
        step()
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu,
                      "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)
"""


def serve() -> None:
    """The child for this package: announce, then for every number read make so many steps and report."""
    import resource

    from flax import nnx
    import jax
    import jax.numpy as jnp
    import optax

    from surrogate.core.spec import Grid
    from surrogate.models.base import FieldGeometry
    from surrogate.models.fno import FNO, FNOConfig

    points = tuple(float(i) for i in range(SIZE))
    geometry = FieldGeometry(Grid(points, points, "plane"), num_state=1, num_forcing=0, num_static=2, num_outputs=1)
    graphdef, params = nnx.split(FNO(geometry, FNOConfig(), rngs=nnx.Rngs(0)))
    optimizer = optax.adam(1e-3)
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = (jax.random.normal(key, (BATCH, SIZE, SIZE, 1)) for key in keys[:2])
    static, forcing = jax.random.normal(keys[2], (SIZE, SIZE, 2)), jnp.zeros((BATCH, SIZE, SIZE, 0))

    def step(params, moments):
        def loss_fn(params):
            return jnp.mean((nnx.merge(graphdef, params)(x, forcing, static) - y) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    compiled = jax.jit(step, donate_argnums=(0, 1))
    moments = optimizer.init(params)
    for _ in range(2):
        params, moments, loss = compiled(params, moments)
    float(loss)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(json.dumps({"parameters": count, "forward_flops_per_sample": FNO.flops(geometry, FNOConfig())}), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            params, moments, loss = compiled(params, moments)
            float(loss)  # the reference reads its loss at every step as well
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        times = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps({**times, "peak_memory_bytes": peak}), flush=True)


class Side:
    """A child process that makes steps when asked to."""

    def __init__(self, command: list[str]) -> None:
        root = Path(__file__).resolve().parents[1]
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        self.about = self._read()
        self.rounds: list[dict] = []

    def _read(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended with status {self.process.wait()}")
        return json.loads(line)

    def run(self, steps: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        self.rounds.append(self._read())

    def result(self, steps: int) -> dict:
        samples = steps * BATCH
        return {
            **self.about,
            "samples_per_s": statistics.median(samples / r["wall"] for r in self.rounds),
            "samples_per_cpu_s": statistics.median(samples / r["cpu"] for r in self.rounds),
            "peak_memory_bytes": self.rounds[-1]["peak_memory_bytes"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference-python", help="interpreter with neuraloperator 2.0.0")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    sides = {"surrogate": Side([sys.executable, __file__, "--serve"])}
    if args.reference_python:
        sides["neuraloperator"] = Side([args.reference_python, "-c", REFERENCE])
    for _ in range(args.rounds):
        for side in sides.values():
            side.run(args.steps)
    for side in sides.values():
        assert side.process.stdin is not None
        side.process.stdin.close()
        side.process.wait()

    results: dict = {name: side.result(args.steps) for name, side in sides.items()}
    print(f"{'':16}{'samples/s':>12}{'per CPU s':>12}{'parameters':>12}{'peak MB':>10}")
    for name, r in results.items():
        numbers = f"{r['samples_per_s']:12.1f}{r['samples_per_cpu_s']:12.1f}{r['parameters']:12,d}"
        print(f"{name:16}{numbers}{r['peak_memory_bytes'] / 1e6:10.0f}")
    if "neuraloperator" in sides:
        pairs = list(zip(sides["surrogate"].rounds, sides["neuraloperator"].rounds, strict=True))
        # Ratios within a round, then their median: neighbours in time saw the same machine.
        results["ratio"] = {k: statistics.median(b[k] / a[k] for a, b in pairs) for k in ("wall", "cpu")}
        print(f"ratio: {results['ratio']['wall']:.2f} by wall clock, {results['ratio']['cpu']:.2f} by CPU time")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
