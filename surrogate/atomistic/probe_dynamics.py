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


def probe_dynamics(
    model: Any,
    frame: Frames,
    *,
    kelvin: float = 300.0,
    picoseconds: float = 50.0,
    equilibration: float = 2.0,
    time_step: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], dict[str, Any], xr.Dataset]:
    """Dynamics from one frame, which is repeated where it is small and periodic.

    Args:
        model: as :func:`~surrogate.atomistic.dynamics.run_dynamics` takes.
        kelvin: of the thermostat, which equilibrates for ``equilibration`` ps before its heat bath is taken away.
        picoseconds: at constant energy.
        time_step: fs.

    Returns:
        Numbers (``drift`` in meV/atom/ps, ``temperature`` and its ``temperature_std`` in K, ``atoms_lost``, ``atoms``,
        ``picoseconds``, ``steps_per_s``, ``notes``); series (``time`` in ps, ``energy`` as change in meV/atom, ``temperature``,
        ``r`` and ``g`` by pair where there is a density); the trajectory at constant energy. A run that breaks is a result:
        what was recorded before counts, and a note says what happened.

    Raises:
        UserError: for what cannot be a start.
    """
    axes = np.flatnonzero(frame.pbc[0]) if len(frame) == 1 else []
    counts = [1, 1, 1]
    while len(axes) and frame.num_atoms * int(np.prod(counts)) < LEAST_ATOMS:
        lengths = np.linalg.norm(frame.cell[0], axis=1) * counts
        counts[min(axes, key=lambda a: lengths[a])] += 1
    start = repeated(frame, (counts[0], counts[1], counts[2]))
    warming, steps = max(1, round(1000 * equilibration / time_step)), max(1, round(1000 * picoseconds / time_step))
    every = max(1, round(10 / time_step))  # 10 fs resolve most vibrations' periods
    while steps // every > 5000:
        every *= 2
    in_all = warming + steps
    notes: list[str] = []
    began = time.perf_counter()
    try:
        warm = run_dynamics(
            model, start, ensemble="nvt", temperature=kelvin, steps=warming, save_every=warming, time_step=time_step,
            seed=seed, progress=None if progress is None else lambda done, _: progress(done, in_all),
        )  # fmt: skip
        velocities = warm["velocities"].values[-1]
        mass = warm["mass"].values
        # What the thermostat gave the whole is no heat.
        velocities = velocities - (mass[:, None] * velocities).sum(0) / mass.sum()
        began = time.perf_counter()
        run = run_dynamics(
            model, _placed(start, warm["positions"].values[-1]), steps=steps, save_every=every, time_step=time_step,
            velocities=velocities, progress=None if progress is None else lambda done, _: progress(warming + done, in_all),
        )  # fmt: skip
    except DynamicsError as error:
        run = error.dataset
        notes.append(str(error))
    spent = time.perf_counter() - began
    long_enough = run.sizes["time"] >= 3 and run.attrs["ensemble"] == "nve"
    table: dict[str, Any] = {
        "drift": energy_drift(run) if long_enough else None,
        "temperature": float(run["temperature"].mean()) if long_enough else None,
        "temperature_std": float(run["temperature"].std()) if long_enough else None,
        "atoms_lost": int(run["atoms_lost"].max()) if run.sizes["time"] else 0,
        "atoms": start.num_atoms,
        "picoseconds": float(run["time"].values[-1]) if long_enough else 0.0,
        "time_step_fs": time_step,
        "steps_per_s": steps / spent if not notes else None,
        "notes": notes,
    }
    series: dict[str, Any] = {}
    if long_enough:
        change = 1000 * (run["total_energy"] - run["total_energy"][0]) / run.sizes["atom"]
        series = {"time": run["time"].values, "energy": change.values, "temperature": run["temperature"].values}
        if start.pbc.all():
            thin = run.isel(time=slice(None, None, max(1, run.sizes["time"] // 200)))
            found = radial_distribution(thin, r_max=8.0, bins=160)
            series |= {"r": found["r"].values, "g": {str(p): found["g"].sel(pair=p).values for p in found["pair"].values}}
    return table, series, run


def _placed(frame: Frames, positions: np.ndarray) -> Frames:
    return Frames(
        positions, frame.species, frame.cell, frame.pbc, frame.row_size, groups=frame.groups, group=frame.group,
        frame=frame.frame,
    )  # fmt: skip
