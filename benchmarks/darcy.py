"""The darcy experiment beside neuraloperator's documented example: relative L2 and CPU time, in one run.

    python benchmarks/darcy.py --data DIRECTORY --reference-python PATH

``DIRECTORY`` holds ``darcy_train_16.npz``, ``darcy_test_16.npz`` and ``darcy_test_32.npz``; ``PATH`` is an
interpreter with torch and neuraloperator (see benchmarks/README.md). Whole processes are measured, imports,
compilation and scoring included. Prints a table, then one line of JSON.
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

# The settings of the documented example: FNO of 8 x 8 modes and width 24, batch 64, H1 loss, AdamW at 1e-2,
# 15 epochs of a cosine schedule over 30. Runs in the reference's interpreter, without this package.
REFERENCE = """
import json, sys
import numpy as np, torch
from neuralop import H1Loss, LpLoss
from neuralop.models import FNO
from neuralop.training import AdamW
torch.manual_seed(int(sys.argv[2]))
def load(name):
    with np.load(f"{sys.argv[1]}/{name}.npz") as d:
        return tuple(torch.as_tensor(d[k], dtype=torch.float32)[:, None] for k in ("x", "y"))
x, y = load("darcy_train_16")
(xm, xs), (ym, ys) = ((a.mean(), a.std()) for a in (x, y))
model = FNO(n_modes=(8, 8), in_channels=1, out_channels=1, hidden_channels=24, projection_channel_ratio=2)
optimizer = AdamW(model.parameters(), lr=1e-2, weight_decay=1e-4)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
h1, l2 = H1Loss(d=2), LpLoss(d=2, p=2)
for epoch in range(15):
    for i in torch.randperm(len(x)).split(64):
        optimizer.zero_grad()
        h1(model((x[i] - xm) / xs), (y[i] - ym) / ys).backward()
        optimizer.step()
    scheduler.step()
result = {"parameters": sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())}
with torch.no_grad():
    for size in (16, 32):
        a, b = load(f"darcy_test_{size}")
        result[f"relative_l2_{size}"] = float(l2(model((a - xm) / xs) * ys + ym, b)) / len(a)
print(json.dumps(result))
"""


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


def ours(data: str, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        directory = f"{scratch}/run"
        _, times = run([sys.executable, "-m", "surrogate.train", "+experiment=darcy", f"data.root={data}",
                        f"train.seed={seed}", f"run.dir={directory}", f"run.compilation_cache={scratch}/xla"])  # fmt: skip
        summary = json.loads(Path(directory, "summary.json").read_text())
        _, more = run([sys.executable, "-m", "surrogate.evaluate", f"run={directory}",
                       f"on={Path(data).resolve() / 'darcy_test_32.npz'}"])  # fmt: skip
        finer = json.loads(Path(directory, "scores-darcy_test_32.json").read_text())

    def score(scores: dict) -> float:
        return scores["scores"]["test"]["y"]["relative_l2"]["PT0S"]

    return {
        "parameters": summary["parameters"], "relative_l2_16": score(summary), "relative_l2_32": score(finer), **times,
        "cpu_s_of_the_finer_grid": more["cpu_s"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="directory of the Darcy data")
    parser.add_argument("--reference-python", help="interpreter with neuraloperator 2.0.0")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds of each")
    args = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {"surrogate": [], "neuraloperator": []}
    for seed in range(args.seeds):
        rows["surrogate"].append(ours(args.data, seed))
        if args.reference_python:
            out, times = run([args.reference_python, "-c", REFERENCE, args.data, str(seed)])
            rows["neuraloperator"].append({**json.loads(out.splitlines()[-1]), **times})
    print(f"{'':16}{'seed':>5}{'parameters':>12}{'L2 at 16':>10}{'L2 at 32':>10}{'CPU s':>8}{'wall s':>8}")
    for name, results in rows.items():
        for seed, r in enumerate(results):
            print(f"{name:16}{seed:5}{r['parameters']:12,}{r['relative_l2_16']:10.4f}{r['relative_l2_32']:10.4f}"
                  f"{r['cpu_s']:8.1f}{r['wall_s']:8.1f}")  # fmt: skip
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
