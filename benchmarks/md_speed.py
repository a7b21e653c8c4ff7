"""Compiled molecular dynamics beside the same potential as a calculator of ASE, in one process and alternating.

    python benchmarks/md_speed.py [--run DIRECTORY] [--sizes 3 5] [--rounds 5] [--seconds 4] [--skin 0.3]

Both take velocity Verlet steps of 2 fs at about 300 K in cubes of Cu₃Au (4 n³ atoms for each size n), with the
same skin. Without ``--run`` a small descriptor is trained first. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from typing import Any

from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from ase.units import fs
import jax

import surrogate as sg

STEP = 2.0  # fs
SMALL = (
    "model=descriptor", "model.l_max=2", "model.zbl=true", "data.cutoff=5.0",
    "data.simulate.trajectories=8", "data.simulate.frames=12", "data.simulate.lattices=12",
    "train.steps=300", "train.valid_every=300", "evaluate.crystals=[]", "evaluate.dynamics=0",
)  # fmt: skip


def trained(run: str | None) -> Any:
    if run is not None:
        return sg.load(run)
    directory = tempfile.mkdtemp(prefix="md_speed-")
    return sg.fit(sg.load_experiment("materials", [*SMALL, f"run.dir={directory}/run"]), quiet=True)


def rates(model: Any, size: int, rounds: int, seconds: float, skin: float) -> dict[str, Any]:
    """Steps a second of both, of the clock and of the processor: medians over rounds in which each takes its turn.

    The processor's seconds are what another program on the same machine disturbs least.
    """
    atoms = bulk("Cu", "fcc", a=3.75, cubic=True)
    atoms.symbols[0] = "Au"
    atoms = atoms * (size, size, size)
    warm = sg.md(
        model, atoms, ensemble="nvt", temperature=300, steps=200, time_step=STEP, save_every=200, skin=skin, quiet=True
    )
    atoms.positions[:] = warm["positions"].values[-1]
    velocities = warm["velocities"].values[-1]
    atoms.set_velocities(velocities / fs)
    ours, theirs, ours_cpu, theirs_cpu, rebuilds = [], [], [], [], 0
    atoms.calc = model.calculator(skin=skin)
    dynamics = VelocityVerlet(atoms, STEP * fs)
    dynamics.run(20)

    def compiled(steps: int) -> tuple[float, float, int]:
        began, cpu = time.perf_counter(), time.process_time()
        run = sg.md(
            model, warm_atoms, steps=steps, time_step=STEP, save_every=100, velocities=velocities, skin=skin, quiet=True
        )  # fmt: skip
        return time.perf_counter() - began, time.process_time() - cpu, run.attrs["neighbor_list_rebuilds"]

    warm_atoms = atoms.copy()
    compiled(20)  # compiles
    spent, _, _ = compiled(50)
    steps = max(50, int(50 * seconds / spent))
    for _ in range(rounds):
        spent, cpu, rebuilds = compiled(steps)
        ours.append(steps / spent)
        ours_cpu.append(steps / cpu)
        began, cpu, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < seconds:
            dynamics.run(10)
            count += 10
        theirs.append(count / (time.perf_counter() - began))
        theirs_cpu.append(count / (time.process_time() - cpu))
    return {
        "atoms": len(atoms), "md_steps_per_s": statistics.median(ours), "ase_steps_per_s": statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "md_steps_per_cpu_s": statistics.median(ours_cpu), "ase_steps_per_cpu_s": statistics.median(theirs_cpu),
        "md_steps_per_list": steps / rebuilds, "ase_lists": atoms.calc.neighbors.builds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="directory of a run of +experiment=materials with Cu and Au")
    parser.add_argument("--sizes", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--skin", type=float, default=0.3, help="Å")
    options = parser.parse_args()
    model = trained(options.run)
    rows = [rates(model, size, options.rounds, options.seconds, options.skin) for size in options.sizes]
    print(
        f"{'atoms':>6} {'sg.md steps/s':>14} {'ASE steps/s':>12} {'ratio':>6} {'per CPU second':>16} {'steps a list':>13}"
    )
    for row in rows:
        print(
            f"{row['atoms']:>6} {row['md_steps_per_s']:>14.1f} {row['ase_steps_per_s']:>12.1f} {row['ratio']:>6.2f} "
            f"{row['md_steps_per_cpu_s']:>8.1f} {row['ase_steps_per_cpu_s']:>7.1f} {row['md_steps_per_list']:>13.1f}"
        )
    print(json.dumps({"device": str(jax.devices()[0]), "model": repr(model), "skin": options.skin, "rows": rows}))


if __name__ == "__main__":
    main()
