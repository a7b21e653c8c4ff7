"""Speed of the potentials beside MACE and NequIP, in one run and alternating: training, and energies with forces.

    python benchmarks/atoms_speed.py --mace-python PATH --nequip-python PATH

64 silicon atoms a configuration, 5 Å, batches of 4, float32. A training step is energies, forces, the derivatives of
the loss of both, and an update of Adam. Neighbor lists are there before the clock starts, on every side. Each side runs
in a process of its own; they take turns, so that whatever else loads the machine falls on all. The paths are
interpreters with mace-torch or nequip (see benchmarks/README.md). Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from atoms_frames import rattled_silicon, write_frames

BATCH, CUTOFF = 4, 5.0
KINDS = ("train", "infer")


def serve(name: str) -> None:
    """The child for this package: announce, then for every ``KIND NUMBER`` read make so many steps and report."""
    import resource

    from flax import nnx
    import jax
    import numpy as np
    import optax

    from surrogate.atomistic.predict import structures_of
    from surrogate.config import OptimConfig
    from surrogate.domains.atoms_loss import atoms_loss
    from surrogate.models.atoms_base import AtomsGeometry, energy_forces_stress
    from surrogate.models.base import find_model
    from surrogate.models.capacities import rounded
    from surrogate.models.graph import pack
    from surrogate.optim import make_optimizer

    frames = rattled_silicon(BATCH)
    structures = structures_of(frames, AtomsGeometry((14,), CUTOFF, 1.0))
    neighbors = sum(len(s.neighbors.senders) for s in structures) / frames.num_atoms
    geometry = AtomsGeometry((14,), CUTOFF, neighbors, 0.5, (-4.6,))
    capacity = rounded(frames.num_atoms, max(s.max_neighbors for s in structures), BATCH)
    batch: Any = {
        "graph": pack(structures, capacity),
        "weights": np.ones(3, np.float32),
        "interaction": (frames.energy + 4.6 * frames.row_size).astype(np.float32),
        "forces": frames.forces.astype(np.float32),
    }
    batch = jax.tree.map(lambda x: jax.device_put(x[None]), batch)
    model: Any = find_model(name)
    graphdef, params = nnx.split(model(geometry, model.Config(), rngs=nnx.Rngs(0)))
    optimizer = make_optimizer(OptimConfig(weight_decay=0.0), 1000)

    def step(params, moments, batch):
        def loss_fn(params):
            return atoms_loss(nnx.merge(graphdef, params), batch, geometry.scale, None, True)[0]

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    def predict(params, batch):
        found = energy_forces_stress(nnx.merge(graphdef, params), jax.tree.map(lambda x: x[0], batch["graph"]))
        return found.energy, found.forces

    trained, predicted = jax.jit(step, donate_argnums=(0, 1)), jax.jit(predict)
    moments = optimizer.init(params)

    def train() -> None:
        nonlocal params, moments
        params, moments, loss = trained(params, moments, batch)
        float(loss)  # the references read their loss at every step as well

    def infer() -> None:
        jax.device_get(predicted(params, batch))

    kinds = {"train": train, "infer": infer}
    for run in kinds.values():
        for _ in range(3):
            run()
    print(json.dumps({"parameters": sum(p.size for p in jax.tree.leaves(params))}), flush=True)
    for line in sys.stdin:
        kind, number = line.split()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(number)):
            kinds[kind]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        times = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps({**times, "peak_memory_bytes": peak}), flush=True)


class Side:
    """A child process that makes steps when asked to; ``steps`` of a turn by kind."""

    def __init__(self, command: list[str], steps: dict[str, int]) -> None:
        root = Path(__file__).resolve().parents[1]
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        self.steps = steps
        self.about = self._read()
        self.rounds: dict[str, list[dict]] = {kind: [] for kind in KINDS}

    def _read(self) -> dict:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # what a library prints on import is no answer
            if line.startswith("{"):
                return json.loads(line)
        sys.exit(f"{self.process.args} ended with status {self.process.wait()}")

    def run(self, kind: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{kind} {self.steps[kind]}\n")
        self.process.stdin.flush()
        found = self._read()
        times = {clock: found[clock] / self.steps[kind] for clock in ("wall", "cpu")}
        self.rounds[kind].append({**found, **times})

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def result(self, atoms: int) -> dict:
        """Medians of atoms/s by either clock, of each kind."""
        out: dict[str, Any] = dict(self.about)
        for kind, rounds in self.rounds.items():
            out[kind] = {
                "atoms_per_s": statistics.median(atoms / r["wall"] for r in rounds),
                "atoms_per_cpu_s": statistics.median(atoms / r["cpu"] for r in rounds),
            }
        out["peak_memory_bytes"] = max(r["peak_memory_bytes"] for rounds in self.rounds.values() for r in rounds)
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mace-python", help="interpreter with mace-torch 0.3.16")
    parser.add_argument("--nequip-python", help="interpreter with nequip 0.19.1")
    parser.add_argument("--max-L", default="1", help="degree of MACE's messages (its default is 1)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the references")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", choices=("potential", "descriptor"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    frames = rattled_silicon(BATCH)
    few, many = {"train": 1, "infer": 3}, {"train": 10, "infer": 30}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "frames.npz")
        write_frames(path, {"train": frames})
        sides = {m: Side([sys.executable, __file__, "--serve", m], many) for m in ("potential", "descriptor")}
        for name, interpreter in (("mace", args.mace_python), ("nequip", args.nequip_python)):
            if interpreter:
                reference = str(Path(__file__).with_name("atoms_reference.py"))
                flags = ["--max-L", args.max_L] + ["--compile"] * args.compile
                sides[name] = Side([interpreter, reference, name, "serve", str(path), *flags], few)
        for _ in range(args.rounds):
            for kind in KINDS:
                for side in sides.values():
                    side.run(kind)
        for side in sides.values():
            side.close()

    results: dict = {name: side.result(frames.num_atoms) for name, side in sides.items()}
    print(f"{'atoms/s':12}{'train':>10}{'per CPU s':>11}{'infer':>10}{'per CPU s':>11}{'parameters':>12}{'peak MB':>9}")
    for name, r in results.items():
        numbers = "".join(f"{r[kind]['atoms_per_s']:10.0f}{r[kind]['atoms_per_cpu_s']:11.0f}" for kind in KINDS)
        print(f"{name:12}{numbers}{r['parameters']:12,d}{r['peak_memory_bytes'] / 1e6:9.0f}")
    for reference in ("mace", "nequip"):
        for own in ("potential", "descriptor") if reference in sides else ():
            ratios = {}
            for kind in KINDS:
                pairs = list(zip(sides[own].rounds[kind], sides[reference].rounds[kind], strict=True))
                # Ratios within a round, then their median: neighbours in time saw the same machine.
                ratios[kind] = {
                    clock: statistics.median(b[clock] / a[clock] for a, b in pairs) for clock in ("wall", "cpu")
                }
            results[f"{own} over {reference}"] = ratios
            words = ", ".join(
                f"{kind} {r['wall']:.1f} by wall clock, {r['cpu']:.1f} by CPU time" for kind, r in ratios.items()
            )
            print(f"{own} over {reference}: {words}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
