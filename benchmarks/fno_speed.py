"""Training speed of the FNO beside neuraloperator's, in one run and alternating.

    python benchmarks/fno_speed.py --reference-python PATH [--devices N --parts N]

A step is forward, backward and Adam at 64 × 64, batch 16, width 32, 16 × 16 modes: 1,192,801
parameters on either side. This package's is the step of ``surrogate.train`` with ``train.accumulate=PARTS``: the same update from
gradients of parts that fit the caches (neuraloperator is slower so, ``--reference-parts``); and ``mesh=data
mesh.cpu_devices=N`` where N is more than one. Each side runs in a process of its own; the two take turns of a few steps,
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

import numpy as np

BATCH, SIZE = 16, 64

# Runs in the reference's interpreter: no import from this package. The protocol is that of serve().
REFERENCE = """
import json, resource, sys, time
import torch
from neuralop.models import FNO
BATCH, SIZE, PARTS = 16, 64, int(sys.argv[1])
torch.manual_seed(0)
model = FNO(n_modes=(16, 16), in_channels=1, out_channels=1, hidden_channels=32)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
x, y = torch.randn(BATCH, 1, SIZE, SIZE), torch.randn(BATCH, 1, SIZE, SIZE)
def step():
    optimizer.zero_grad()
    total = 0.0
    for inputs, outputs in zip(x.chunk(PARTS), y.chunk(PARTS)):
        loss = ((model(inputs) - outputs) ** 2).mean() / PARTS
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total
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


def serve(devices: int, parts: int) -> None:
    """The child for this package: announce, then for every number read make so many steps and report."""
    import resource

    from flax import nnx
    import jax
    import jax.numpy as jnp
    import optax

    from surrogate.config import MeshConfig, TrainConfig
    from surrogate.core.spec import Grid
    from surrogate.models.base import FieldGeometry
    from surrogate.models.fno import FNO, FNOConfig
    from surrogate.parallel.mesh import make_cpu_devices
    from surrogate.parallel.placement import Placement
    from surrogate.run.step import initial_state, make_train_step, parameter_names

    mesh = MeshConfig(data=devices, cpu_devices=devices)
    make_cpu_devices(mesh)
    placement = Placement.of(mesh)
    points = tuple(float(i) for i in range(SIZE))
    geometry = FieldGeometry(Grid(points, points, "plane"), num_state=1, num_forcing=0, num_static=2, num_outputs=1)
    graphdef, variables = nnx.split(FNO(geometry, FNOConfig(), rngs=nnx.Rngs(0)))
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = (np.asarray(jax.random.normal(key, (BATCH, SIZE, SIZE, 1))) for key in keys[:2])
    static = jax.random.normal(keys[2], (SIZE, SIZE, 2))

    class Squares:
        """What the training step asks of a domain."""

        def loss(self, model, static, batch, key, stage):
            inputs, outputs = batch
            forcing = jnp.zeros((*inputs.shape[:-1], 0))
            return jnp.mean((model(inputs, forcing, static) - outputs) ** 2), {}

    config = TrainConfig(batch_size=BATCH, accumulate=parts, ema=0.0)
    optimizer = optax.adam(1e-3)
    step = make_train_step(Squares(), graphdef, optimizer, config, 0)
    state = initial_state(nnx.to_pure_dict(variables), optimizer, config)
    options = {}
    if placement.mesh is not None:
        shardings = placement.state_shardings(state, parameter_names(variables))
        state, options = jax.device_put(state, shardings), {"out_shardings": (shardings, placement.whole)}
    dims = (("batch", "latitude", "longitude"),) * 2
    batch = placement.put((x, y), dims)
    static = placement.put(static)
    compiled = placement.jit(step, donate_argnums=0, **options)
    for _ in range(2):
        state, scalars = compiled(state, static, batch)
    float(scalars["loss"])
    about = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state["params"])),
        "forward_flops_per_sample": FNO.flops(geometry, FNOConfig()),
        "devices": devices,
        "parts": parts,
    }
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            state, scalars = compiled(state, static, batch)
            float(scalars["loss"])  # the reference reads its loss at every step as well
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
    parser.add_argument(
        "--devices", type=int, default=1, help="parts of the CPU, of which each has a share of the batch"
    )
    parser.add_argument("--parts", type=int, default=4, help="parts that a batch is accumulated in")
    parser.add_argument("--reference-parts", type=int, default=1, help="the same for neuraloperator")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.devices, args.parts)
        return
    own = [sys.executable, __file__, "--serve", "--devices", str(args.devices), "--parts", str(args.parts)]
    sides = {"surrogate": Side(own)}
    if args.reference_python:
        sides["neuraloperator"] = Side([args.reference_python, "-c", REFERENCE, str(args.reference_parts)])
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
