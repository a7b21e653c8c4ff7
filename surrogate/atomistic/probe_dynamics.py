"""Can it be simulated with: a run at constant energy after equilibration, in numbers for the summary and arrays for pictures."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

import numpy as np
import xarray as xr

from surrogate.atomistic.dynamics import DynamicsError, run_dynamics
from surrogate.atomistic.structure import radial_distribution
from surrogate.atomistic.trajectory import energy_drift
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames

LEAST_ATOMS = 48  # below, the temperature of a crystal at constant energy fluctuates by more than a tenth


def repeated(frame: Frames, counts: tuple[int, int, int]) -> Frames:
    """A supercell of one frame, without labels; a direction that is not periodic is not repeated.

    Raises:
        UserError: for several frames.
    """
    if len(frame) != 1:
        raise UserError(f"one configuration is expected, got {len(frame)} frames")
    counts_along = np.where(frame.pbc[0], counts, 1)
    cells = np.stack(np.meshgrid(*[np.arange(n) for n in counts_along], indexing="ij"), -1).reshape(-1, 3)
    positions = (frame.positions[None] + (cells @ frame.cell[0])[:, None]).reshape(-1, 3)
    return Frames(
        positions, np.tile(frame.species, len(cells)), (frame.cell[0] * counts_along[:, None])[None], frame.pbc,
        np.array([len(positions)]), groups=frame.groups, group=frame.group, frame=frame.frame,
    )  # fmt: skip


def large_enough(frame: Frames) -> Frames:
    """One frame, repeated along its shortest periodic vectors until it has :data:`LEAST_ATOMS` atoms.

    Raises:
        UserError: for several frames.
    """
    axes: list[int] = np.flatnonzero(frame.pbc[0]).tolist() if len(frame) == 1 else []
    counts = [1, 1, 1]
    while axes and frame.num_atoms * int(np.prod(counts)) < LEAST_ATOMS:
        lengths = np.linalg.norm(frame.cell[0], axis=1) * counts
        counts[min(axes, key=lambda a: lengths[a])] += 1
    return repeated(frame, (counts[0], counts[1], counts[2]))


def probe_dynamics(
    model: Any,
    frame: Frames,
    name: str,
    *,
    kelvin: float = 300.0,
    picoseconds: float = 50.0,
    equilibration: float = 2.0,
    time_step: float = 1.0,
    seed: int = 0,
    reference: Frames | None = None,
    reference_name: str = "data",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], dict[str, Any], xr.Dataset]:
    """Dynamics from one frame, which is repeated where it is small and periodic.

    Args:
        model: as :func:`~surrogate.atomistic.dynamics.run_dynamics` takes.
        name: of the system, in tables and pictures.
        kelvin: of the thermostat, which equilibrates for ``equilibration`` ps before it is taken away.
        picoseconds: at constant energy.
        time_step: fs.
        reference: frames of the same substance at that temperature and density by another method, for the radial
            distribution.

    Returns:
        For ``Evaluation.extra["dynamics"]``: name → ``drift`` (meV/atom/ps), ``temperature`` and ``temperature_std`` (K),
        ``atoms_lost``, ``atoms``, ``picoseconds``, ``time_step_fs``, ``thermostat_K``, ``steps_per_s``, ``notes``. For
        ``Evaluation.pictures["atoms"]``: ``dynamics`` and ``radial``. And the trajectory at constant energy. A run that
        breaks is a result: what was recorded before counts, and a note says what happened.

    Raises:
        UserError: for what cannot be a start.
    """
    start = large_enough(frame)
    warming, steps = max(1, round(1000 * equilibration / time_step)), max(1, round(1000 * picoseconds / time_step))
    every = max(1, round(10 / time_step))  # 10 fs resolve most vibrations
    while steps // every > 5000:
        every *= 2
    in_all = warming + steps
    notes: list[str] = []
    facts: dict[str, Any] = {"atoms": start.num_atoms, "time_step_fs": time_step, "thermostat_K": kelvin}
    try:
        run = run_dynamics(
            model, start, ensemble="nvt", temperature=kelvin, steps=warming, save_every=warming, time_step=time_step,
            seed=seed, progress=None if progress is None else lambda done, _: progress(done, in_all),
        )  # fmt: skip
        velocities, mass = run["velocities"].values[-1], run["mass"].values
        if len(mass) > 1:  # what the thermostat gave the whole is no heat
            velocities = velocities - (mass[:, None] * velocities).sum(0) / mass.sum()
        began = time.perf_counter()
        run = run_dynamics(
            model, _placed(start, run["positions"].values[-1]), steps=steps, save_every=every, time_step=time_step,
            velocities=velocities, progress=None if progress is None else lambda done, _: progress(warming + done, in_all),
        )  # fmt: skip
        facts["steps_per_s"] = steps / (time.perf_counter() - began)
    except DynamicsError as error:
        run = error.dataset
        notes.append(str(error))
    if run.attrs["ensemble"] != "nve" or run.sizes["time"] < 3:
        return {name: facts | {"picoseconds": 0.0, "notes": notes}}, {"dynamics": [], "radial": []}, run
    facts |= {
        "picoseconds": float(run["time"].values[-1]),
        "drift": energy_drift(run),
        "temperature": float(run["temperature"].mean()),
        "temperature_std": float(run["temperature"].std()),
        "atoms_lost": int(run["atoms_lost"].max()),
        "notes": notes,
    }
    conservation = {
        "name": name, "time": 1000 * run["time"].values, "total_energy": run["total_energy"].values,
        "temperature": run["temperature"].values, "num_atoms": start.num_atoms, "start_temperature": kelvin,
    }  # fmt: skip
    return {name: facts}, {"dynamics": [conservation], "radial": _radial(run, name, reference, reference_name)}, run


def _radial(run: xr.Dataset, name: str, reference: Frames | None, reference_name: str) -> list[dict[str, Any]]:
    """A panel a pair, nothing where there is no density; of some two hundred moments of the run."""
    if not run["periodic"].values.all():
        return []
    thin = run.isel(time=slice(None, None, max(1, run.sizes["time"] // 200)))
    found = radial_distribution(thin, r_max=8.0, bins=160)
    pairs = [str(p) for p in found["pair"].values]
    beside = None if reference is None else radial_distribution(reference, r_max=8.0, bins=160, pairs=pairs)
    return [
        {
            "name": f"{name}: {pair}" if pair != "all" else name, "distance": found["r"].values,
            "surrogate": found["g"].sel(pair=pair).values,
            "reference": None if beside is None else beside["g"].sel(pair=pair).values, "reference_name": reference_name,
        }
        for pair in pairs
    ]  # fmt: skip


def _placed(frame: Frames, positions: np.ndarray) -> Frames:
    return Frames(
        positions, frame.species, frame.cell, frame.pbc, frame.row_size, groups=frame.groups, group=frame.group,
        frame=frame.frame,
    )  # fmt: skip
