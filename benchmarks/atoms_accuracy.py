"""The materials experiment beside MACE and NequIP after equal CPU time: errors on frames held out of training.

    python benchmarks/atoms_accuracy.py --data FILE --steps N --mace-python PATH --nequip-python PATH [SETTING=VALUE ...]

The training frames of ``FILE`` without a tenth that is held out and used for nothing but the scores. Ours goes first,
by the command that everyone uses, for ``--steps`` steps; then each reference trains until its process has used the
CPU seconds that ours took in all, imports, compilation with an empty cache and scoring of ours included. The weights
of energy and forces in the references' losses are tried in the pairs that ``--weights`` names, each with all of the
time; settings after the options are passed on to our command. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import resource
import subprocess
import sys
import tempfile
import time

from atoms_frames import write_frames

from surrogate.data.atoms_settings import AtomsDataConfig
from surrogate.data.atoms_source import open_atoms


def run(command: list[str]) -> tuple[str, dict[str, float]]:
    """Standard output of a command, and its wall and CPU seconds."""
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} … ended with status {done.returncode}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, {"cpu_s": cpu, "wall_s": time.perf_counter() - wall}


def ours(data: AtomsDataConfig, steps: int, model: str, settings: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        directory = f"{scratch}/run"
        _, times = run([
            sys.executable, "-m", "surrogate.train", "+experiment=materials", "data=atoms", f"model={model}",
            f"data.paths=[{data.paths[0]}]", f"data.valid_fraction={data.valid_fraction}",
            f"data.test_fraction={data.test_fraction}", f"data.seed={data.seed}", f"train.steps={steps}",
            f"train.valid_every={steps}", f"run.dir={directory}", f"run.compilation_cache={scratch}/xla", *settings,
        ])  # fmt: skip
        summary = json.loads(Path(directory, "summary.json").read_text())
    scores = summary["scores"]["test"]
    found = {f"{kind}_{error}": scores[key][error] for kind, key in (("energy", "energy_per_atom"), ("force", "forces"))
             for error in ("mae", "rmse")}  # fmt: skip
    return {**found, "steps": steps, "parameters": summary["parameters"], **times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="training frames with energy and forces, periodic")
    parser.add_argument("--steps", type=int, required=True, help="of ours; the CPU time they take is everyone's")
    parser.add_argument("--model", default="descriptor", help="of ours; by default what materials ships with")
    parser.add_argument("--mace-python", help="interpreter with mace-torch 0.3.16")
    parser.add_argument("--nequip-python", help="interpreter with nequip 0.19.1")
    parser.add_argument(
        "--weights", nargs="+", default=["100,10"], help="of energy and forces in the references' losses"
    )
    parser.add_argument(
        "--cosine", action="store_true", help="let the references' learning rate end at 0, as ours does"
    )
    parser.add_argument("--seed", type=int, default=0)
    args, settings = parser.parse_known_args()
    data = AtomsDataConfig(paths=(str(Path(args.data).resolve()),), energy="energy", forces="forces", valid_fraction=0.0,
                           test_fraction=0.1, seed=args.seed)  # fmt: skip
    rows = {f"surrogate {args.model}": ours(data, args.steps, args.model, settings)}
    budget = rows[f"surrogate {args.model}"]["cpu_s"]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "frames.npz")
        write_frames(path, open_atoms(data))
        for name, interpreter in (("mace", args.mace_python), ("nequip", args.nequip_python)):
            for pair in args.weights if interpreter else ():
                energy, forces = pair.split(",")
                out, times = run([
                    interpreter, str(Path(__file__).with_name("atoms_reference.py")), name, "fit", str(path),
                    "--cpu-seconds", str(budget), "--energy-weight", energy, "--forces-weight", forces,
                    "--seed", str(args.seed), *["--cosine"] * args.cosine,
                ])  # fmt: skip
                rows[f"{name} {pair}"] = {**times, **json.loads(out.splitlines()[-1])}
    report(rows)


def report(rows: dict[str, dict[str, float]]) -> None:
    heads = ("F RMSE", "F MAE", "E RMSE", "E MAE", "steps", "CPU s", "wall s")
    print(f"{'eV/Å and meV/atom':24}" + "".join(f"{head:>9}" for head in heads))
    for name, r in rows.items():
        errors = f"{r['force_rmse']:9.4f}{r['force_mae']:9.4f}{r['energy_rmse']:9.2f}{r['energy_mae']:9.2f}"
        print(f"{name:24}{errors}{r['steps']:9}{r['cpu_s']:9.1f}{r['wall_s']:9.1f}", flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
