"""MACE and NequIP for the benchmarks of potentials. Runs in their interpreters and imports nothing of this package.

    atoms_reference.py (mace | nequip) serve FRAMES [--max-L L] [--compile]
    atoms_reference.py (mace | nequip) fit FRAMES --cpu-seconds S --energy-weight W --forces-weight W [--seed N]

``FRAMES`` is what :mod:`atoms_frames` writes. ``serve`` makes steps on the first frames when asked to, as in
atoms_speed.py; ``fit`` trains for so much CPU time of the whole process and prints the errors on the frames held out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
import time
import warnings

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # e3nn 0.4's own tables are an older pickle
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402

BATCH, CUTOFF = 4, 5.0


def read_frames(path: str) -> tuple[list[dict], np.ndarray]:
    """Frames as dictionaries of arrays, and which of them are held out."""
    with np.load(path) as f:
        cuts = np.cumsum(f["row_size"])[:-1]
        columns = [np.split(f[name], cuts) for name in ("positions", "numbers", "forces")]
        rows = zip(*columns, f["cell"], f["energy"], strict=True)
        names = ("positions", "numbers", "forces", "cell", "energy")
        return [dict(zip(names, row, strict=True)) for row in rows], f["held"]


class Statistics:
    """What the models want to know of the training frames."""

    def __init__(self, frames: list[dict], edges: int) -> None:
        self.numbers = sorted({int(z) for f in frames for z in f["numbers"]})
        counts = np.array([[(f["numbers"] == z).sum() for z in self.numbers] for f in frames])
        sizes = counts.sum(1)
        energy = np.array([f["energy"] for f in frames]) / sizes
        self.energies = np.linalg.lstsq(counts / sizes[:, None], energy, rcond=1e-8)[0]
        self.force_rms = math.sqrt(np.mean(np.concatenate([f["forces"] for f in frames]) ** 2))
        self.neighbors = edges / sizes.sum()


class Mace:
    """32 channels, l = 2, correlation 3, 2 layers; all else is the default of mace_run_train."""

    ema_decay = 0.99

    def __init__(self, frames: list[dict], seed: int, compiled: bool, max_l: int) -> None:
        from e3nn import o3
        from mace import data, modules, tools
        from mace.tools import torch_geometric

        self.batched = torch_geometric.Batch.from_data_list
        numbers = sorted({int(z) for f in frames for z in f["numbers"]})
        table = tools.AtomicNumberTable(numbers)
        self.data = [
            data.AtomicData.from_config(
                data.Configuration(
                    atomic_numbers=f["numbers"], positions=f["positions"], cell=f["cell"], pbc=(True, True, True),
                    properties={"energy": f["energy"], "forces": f["forces"]},
                    property_weights={"energy": 1.0, "forces": 1.0},
                ), z_table=table, cutoff=CUTOFF,
            ) for f in frames
        ]  # fmt: skip
        self.edges = [d.edge_index.shape[1] for d in self.data]
        self.about = Statistics(frames, sum(self.edges))
        hidden = " + ".join(f"32x{degree}{'eo'[degree % 2]}" for degree in range(max_l + 1))

        def build() -> torch.nn.Module:
            torch.manual_seed(seed)
            return modules.ScaleShiftMACE(
                r_max=CUTOFF, num_bessel=8, num_polynomial_cutoff=5, max_ell=2, num_interactions=2, correlation=3,
                interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
                interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
                hidden_irreps=o3.Irreps(hidden), MLP_irreps=o3.Irreps("16x0e"), gate=torch.nn.functional.silu,
                radial_MLP=[64, 64, 64], radial_type="bessel", num_elements=len(numbers), atomic_numbers=numbers,
                atomic_energies=self.about.energies, avg_num_neighbors=self.about.neighbors,
                atomic_inter_scale=self.about.force_rms, atomic_inter_shift=0.0,
            )  # fmt: skip

        if compiled:
            from mace.tools.compile import prepare

            self.model = torch.compile(prepare(build)())
        else:
            self.model = build()

    def batch(self, indices) -> tuple:
        batch = self.batched([self.data[i] for i in indices])
        return batch, batch.to_dict(), batch.ptr[1:] - batch.ptr[:-1]

    def predict(self, batch: tuple, training: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.model(batch[1], training=training, compute_force=True)
        return found["energy"], found["forces"]

    def targets(self, batch: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        return batch[0].energy, batch[0].forces

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=0.01, amsgrad=True)


class Nequip:
    """l = 1, 3 layers; all else as in the tutorial's configuration."""

    ema_decay = 0.999

    def __init__(self, frames: list[dict], seed: int, compiled: bool, max_l: int) -> None:
        import ase
        from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase
        from nequip.model import NequIPGNNModel
        from nequip.utils.global_state import set_global_state

        set_global_state()
        self.batched = AtomicDataDict.batched_from_list
        numbers = sorted({int(z) for f in frames for z in f["numbers"]})
        self.data = []
        for f in frames:
            found = from_ase(ase.Atoms(f["numbers"], f["positions"], cell=f["cell"], pbc=True))
            found["atom_types"] = torch.as_tensor(np.searchsorted(numbers, f["numbers"]))
            found["total_energy"] = torch.as_tensor(f["energy"]).reshape(1, 1)
            found["forces"] = torch.as_tensor(f["forces"])
            self.data.append(compute_neighborlist_(found, CUTOFF))
        self.edges = [d["edge_index"].shape[1] for d in self.data]
        self.about = Statistics(frames, sum(self.edges))
        names = [ase.data.chemical_symbols[z] for z in numbers]
        self.model = NequIPGNNModel(
            seed=seed, model_dtype="float32", type_names=names,
            compile_mode="compile" if compiled else "eager", r_max=CUTOFF, num_layers=3, l_max=1, parity=True,
            num_features=32, radial_mlp_depth=2, radial_mlp_width=64, num_bessels=8, bessel_trainable=False,
            polynomial_cutoff_p=6, avg_num_neighbors=self.about.neighbors,
            per_type_energy_scales=dict.fromkeys(names, self.about.force_rms),
            per_type_energy_shifts=dict(zip(names, self.about.energies.tolist(), strict=True)),
            per_type_energy_scales_trainable=False, per_type_energy_shifts_trainable=False,
        )  # fmt: skip

    def batch(self, indices) -> tuple:
        batch = self.batched([self.data[i] for i in indices])
        inputs = {k: v for k, v in batch.items() if k not in ("total_energy", "forces")}
        return batch, inputs, batch["num_atoms"].reshape(-1)

    def predict(self, batch: tuple, training: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        self.model.train(training)
        found = self.model(dict(batch[1]))
        return found["total_energy"][:, 0], found["forces"]

    def targets(self, batch: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        return batch[0]["total_energy"][:, 0], batch[0]["forces"]

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=0.01)


def make_step(reference, energy_weight: float, forces_weight: float):
    """A training step on a batch: squared errors of the energy per atom and of the forces, full update."""
    optimizer = reference.optimizer()

    def step(batch: tuple) -> float:
        optimizer.zero_grad(set_to_none=True)
        energy, forces = reference.predict(batch, training=True)
        true_energy, true_forces = reference.targets(batch)
        loss = energy_weight * ((energy - true_energy) / batch[2]).square().mean()
        loss = loss + forces_weight * (forces - true_forces).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.model.parameters(), 10.0)
        optimizer.step()
        return loss.item()

    return step, optimizer


def serve(reference, frames: int) -> None:
    step, _ = make_step(reference, 1.0, 100.0)
    batch = reference.batch(range(frames))

    def infer(batch: tuple) -> None:
        energy, forces = reference.predict(batch)
        energy.detach().numpy(), forces.detach().numpy()

    kinds = {"train": step, "infer": infer}
    for run in kinds.values():
        for _ in range(3):
            run(batch)
    parameters = sum(p.numel() for p in reference.model.parameters())
    print(json.dumps({"parameters": parameters, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        kind, number = line.split()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(number)):
            kinds[kind](batch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        times = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps({**times, "peak_memory_bytes": peak}), flush=True)


def errors(reference, held: np.ndarray) -> dict[str, float]:
    """Of energy per atom and forces, over all frames and all components."""
    energy, force = [], []
    for index in held:
        batch = reference.batch([index])
        found, true = reference.predict(batch), reference.targets(batch)
        energy.append((found[0] - true[0]).detach().numpy() / batch[2].numpy())
        force.append((found[1] - true[1]).detach().numpy().ravel())
    e, f = np.concatenate(energy), np.concatenate(force)
    return {"energy_mae": 1e3 * float(np.abs(e).mean()), "energy_rmse": 1e3 * math.sqrt((e**2).mean()),
            "force_mae": float(np.abs(f).mean()), "force_rmse": math.sqrt((f**2).mean())}  # fmt: skip


def fit(reference, held: np.ndarray, seconds: float, weights: tuple[float, float], cosine: bool, seed: int) -> dict:
    """Train until the process has used so many CPU seconds, its start included.

    Of the last weights and their moving average, whichever has the smaller force error is reported: the choice
    favours the reference.
    """
    step, optimizer = make_step(reference, *weights)
    train = np.flatnonzero(~held)
    rng = np.random.default_rng(seed)
    average = [p.detach().clone() for p in reference.model.parameters()]
    order: list[int] = []
    steps, began = 0, time.process_time()
    while (used := time.process_time()) < seconds:
        if len(order) < BATCH:
            order = rng.permutation(train).tolist()
        if cosine:
            done = (used - began) / (seconds - began)
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * done))
        step(reference.batch([order.pop() for _ in range(BATCH)]))
        steps += 1
        decay = min(reference.ema_decay, (1 + steps) / (10 + steps))
        with torch.no_grad():
            for a, p in zip(average, reference.model.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
    cpu = time.process_time()
    last = errors(reference, np.flatnonzero(held))
    with torch.no_grad():
        for a, p in zip(average, reference.model.parameters(), strict=True):
            p.copy_(a)
    best = min(last, errors(reference, np.flatnonzero(held)), key=lambda found: found["force_rmse"])
    parameters = sum(p.numel() for p in reference.model.parameters())
    return {**best, "steps": steps, "cpu_s": cpu, "parameters": parameters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("mace", "nequip"))
    parser.add_argument("command", choices=("serve", "fit"))
    parser.add_argument("frames")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--max-L", type=int, default=1, help="degree of MACE's messages; its default is 1")
    parser.add_argument("--cpu-seconds", type=float, default=100.0)
    parser.add_argument("--energy-weight", type=float, default=1.0)
    parser.add_argument("--forces-weight", type=float, default=100.0)
    parser.add_argument("--cosine", action="store_true", help="let the learning rate end at 0")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    frames, held = read_frames(args.frames)
    make = {"mace": Mace, "nequip": Nequip}[args.name]
    reference = make(frames, args.seed, args.compile, args.max_L)
    if args.command == "serve":
        serve(reference, len(frames))
    else:
        weights = (args.energy_weight, args.forces_weight)
        print(json.dumps(fit(reference, held, args.cpu_seconds, weights, args.cosine, args.seed)))


if __name__ == "__main__":
    main()
