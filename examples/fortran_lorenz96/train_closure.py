"""Learn the closure of the two-scale Lorenz-96 model and export it for a Fortran program: python train_closure.py DIRECTORY

Lorenz (1996) couples K slow variables X to J fast ones Y each; its equations are in lorenz96.F90. A model that steps X
alone needs the tendency that the Y exert, U_k = -(h c / b) sum_j Y_jk, from X alone: a subgrid parameterisation. Here the
full model makes samples of it, ``python -m surrogate.train`` learns it from X_k and its two neighbours, and
``python -m surrogate.export kind=point`` writes what lorenz96.F90 calls. The polynomial of Wilks (2005) is fitted
as well, for comparison and as the fallback where the guard warns.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import subprocess
import sys

import numpy as np

K, J, F, H, B, C = 8, 32, 20.0, 1.0, 10.0, 10.0
DT = 0.0025


def tendencies(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Time derivatives of X (members, K) and Y (members, K × J), all Y on one ring."""
    roll = np.roll
    dx = -roll(x, 1, -1) * (roll(x, 2, -1) - roll(x, -1, -1)) - x + F + subgrid(y)
    dy = -C * B * roll(y, -1, -1) * (roll(y, -2, -1) - roll(y, 1, -1)) - C * y + H * C / B * np.repeat(x, J, -1)
    return dx, dy


def subgrid(y: np.ndarray) -> np.ndarray:
    """What the Y of each sector do to its X: (members, K)."""
    return -H * C / B * y.reshape(*y.shape[:-1], K, J).sum(-1)


def advance(x: np.ndarray, y: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Runge-Kutta steps of fourth order."""
    for _ in range(steps):
        a, p = tendencies(x, y)
        b, q = tendencies(x + DT / 2 * a, y + DT / 2 * p)
        c, r = tendencies(x + DT / 2 * b, y + DT / 2 * q)
        d, s = tendencies(x + DT * c, y + DT * r)
        x, y = x + DT / 6 * (a + 2 * b + 2 * c + d), y + DT / 6 * (p + 2 * q + 2 * r + s)
    return x, y


def simulate(members: int, times: int) -> dict[str, np.ndarray]:
    """Samples a fifth of a time unit apart: name → (samples, 1, K), in order of time."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(4, 4, (members, K)), rng.normal(0, 0.1, (members, K * J))
    x, y = advance(x, y, round(3 / DT))
    slow, closure = [], []
    for _ in range(times):
        x, y = advance(x, y, round(0.2 / DT))
        slow.append(x)
        closure.append(subgrid(y))
    xs, us = np.concatenate(slow)[:, None], np.concatenate(closure)[:, None]
    values = {"x": xs, "x_west": np.roll(xs, 1, -1), "x_east": np.roll(xs, -1, -1), "subgrid": us}
    return {name: value.astype(np.float32) for name, value in values.items()}


def run(*words: str) -> None:
    subprocess.run([sys.executable, "-m", *words], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    given = parser.parse_args()
    out: Path = given.directory
    out.mkdir(parents=True, exist_ok=True)
    samples = simulate(given.members, given.times)
    np.savez(out / "lorenz96.npz", **samples)
    train = slice(0, int(0.8 * len(samples["x"])))
    coefficients = np.polynomial.polynomial.polyfit(samples["x"][train].ravel(), samples["subgrid"][train].ravel(), 4)
    numbers = ", ".join(f"{c:.12e}" for c in coefficients)
    (out / "polynomial.nml").write_text(f"&polynomial\n  coefficients = {numbers}\n/\n")
    run("surrogate.train", "name=lorenz96", "data=arrays", f"data.root={out.resolve()}", "data.paths=[lorenz96.npz]",
        "data.forcings=[x,x_west,x_east]", "data.diagnostics=[subgrid]", "data.features=[]",
        "data.split={train:[0.0,0.8],valid:[0.8,0.9],test:[0.9,1.0]}", "model=mlp", "model.hidden=32", "model.layers=2",
        f"train.steps={given.steps}", "train.batch_size=64", "optim.learning_rate=3e-3", f"run.dir={out / 'run'}")  # fmt: skip
    run("surrogate.export", f"run={out / 'run'}", f"out={out / 'closure.sg'}", "kind=point", "batches=[1,64,1024]")


if __name__ == "__main__":
    main()
