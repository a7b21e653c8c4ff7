"""A trajectory on its way from the device to an xarray dataset, and what is read off one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from surrogate.atomistic.evaluation import Evaluated, Trained
from surrogate.atomistic.places import Places
from surrogate.atomistic.start import Start
from surrogate.atomistic.thermal import degrees_of_freedom, kinetic_energy, temperature
from surrogate.core.types import UserError
from surrogate.data.elements import SYMBOLS

GPA = 160.2176634  # of 1 eV/Å³
VOIGT = (("xx", 0, 0), ("yy", 1, 1), ("zz", 2, 2), ("yz", 1, 2), ("xz", 0, 2), ("xy", 0, 1))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Records:
    """R saved steps, and one row more for what is not to be kept."""

    coarse: jax.Array  # (R + 1, N, 3) positions, see Places
    fine: jax.Array
    velocities: jax.Array  # (R + 1, N, 3)
    energy: jax.Array  # (R + 1, 2): the mean over the atoms, and the sum of what the atoms differ from it
    stress: jax.Array  # (R + 1, 3, 3)
    energy_spread: jax.Array  # (R + 1,)
    force_spread: jax.Array  # (R + 1, N)
    alone: jax.Array  # (R + 1, N) bool: no neighbor within the cutoff

    @property
    def rows(self) -> int:
        return self.alone.shape[0] - 1

    def put(
        self, row: jax.Array, places: Places, velocities: jax.Array, out: Evaluated, alone: jax.Array
    ) -> Records:  # fmt: skip
        """Written to ``row``; ``rows`` is the one that nobody reads."""
        # Two small sums instead of one large one: a float32 of 1,000 eV is known to 6·10⁻⁵ eV.
        mean = out.atom_energies.mean()
        energy = jnp.stack([mean, (out.atom_energies - mean).sum()])
        values = Records(
            jnp.asarray(places.coarse), jnp.asarray(places.fine), velocities, energy, out.stress, out.energy_spread,
            out.force_spread, alone,
        )  # fmt: skip
        return jax.tree.map(lambda all_rows, value: all_rows.at[row].set(value), self, values)


def empty_records(rows: int, num_atoms: int, dtype: str) -> Records:
    def zeros(*shape: int) -> jax.Array:
        return jnp.zeros((rows + 1, *shape), dtype)

    n = num_atoms
    alone = jnp.zeros((rows + 1, n), bool)
    return Records(zeros(n, 3), zeros(n, 3), zeros(n, 3), zeros(2), zeros(3, 3), zeros(), zeros(n), alone)


class Recorder:
    """Collects records on the host.

    Args:
        settings: become attributes of the dataset.
    """

    def __init__(
        self, start: Start, trained: Trained, time_step: float, save_every: int, settings: dict[str, Any]
    ) -> None:  # fmt: skip
        self.start, self.trained, self.settings = start, trained, settings
        self.time_step, self.save_every = time_step, save_every
        self._steps: list[int] = []
        self._parts: list[dict[str, np.ndarray]] = []

    def add(self, records: Records, begin: int, end: int) -> None:
        """The saved ones of the steps from ``begin`` to before ``end``, which one block computed."""
        steps = [s for s in range(-(-begin // self.save_every) * self.save_every, end, self.save_every)]
        if steps:
            # Copies, since the buffers are the next block's.
            self._parts.append({
                name: np.array(np.asarray(getattr(records, name))[: len(steps)]) for name in Records.__annotations__
            })  # fmt: skip
            self._steps += steps

    def dataset(self) -> xr.Dataset:
        """What was collected, in Å, fs, eV and K."""
        start, num = self.start, len(self.start.masses)
        empty = {k: np.asarray(v)[:0] for k, v in vars(empty_records(0, num, "float32")).items()}
        parts = self._parts or [empty]
        raw = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        positions = raw["coarse"].astype(float) + raw["fine"]
        velocities = raw["velocities"].astype(float)
        reference = self.trained.geometry.references()[start.species].sum()
        potential = num * raw["energy"][:, 0].astype(float) + raw["energy"][:, 1] + reference
        kinetic = kinetic_energy(velocities, start.masses)
        degrees = degrees_of_freedom(num, thermostat=self.settings["ensemble"] != "nve")
        lost = raw["alone"] & ~raw["alone"][:1]
        stress = raw["stress"].astype(float)
        volume = abs(np.linalg.det(start.cell)) if start.pbc.all() else np.nan
        pressure = GPA * (2 * kinetic / (3 * volume) - np.trace(stress, axis1=1, axis2=2) / 3)
        at, voigt = ("time", "atom", "xyz"), np.stack([stress[:, i, j] for _, i, j in VOIGT], -1)
        variables: dict[str, tuple[Any, np.ndarray, str, str]] = {
            "positions": (at, positions, "angstrom", "positions, not wrapped into the cell"),
            "velocities": (at, velocities, "angstrom fs-1", "velocities"),
            "potential_energy": ("time", potential, "eV", "potential energy"),
            "kinetic_energy": ("time", kinetic, "eV", "kinetic energy of the nuclei"),
            "total_energy": ("time", potential + kinetic, "eV", "potential and kinetic energy"),
            "temperature": ("time", temperature(kinetic, degrees), "K", "kinetic temperature"),
            "stress": (("time", "voigt"), voigt, "eV angstrom-3", "stress of the potential, positive under tension"),
            "pressure": ("time", pressure, "GPa", "pressure with its kinetic part"),
            "atoms_lost": ("time", lost.sum(1), "1", "atoms that had neighbors at first and have none within the cutoff"),
        }  # fmt: skip
        if self.trained.members:
            energies, forces = raw["energy_spread"].astype(float), raw["force_spread"].astype(float)
            spread = "standard deviation over the ensemble"
            variables["energy_spread"] = ("time", energies, "eV", f"{spread}, energy")
            variables["force_spread"] = (at[:2], forces, "eV angstrom-1", f"{spread}, forces")
        coords: dict[str, tuple[Any, Any, dict[str, str]]] = {
            "time": ("time", np.array(self._steps) * self.time_step / 1000, {
                "units": "ps", "long_name": "time since the first step", "axis": "T"}),
            "xyz": ("xyz", list("xyz"), {"long_name": "Cartesian component"}),
            "voigt": ("voigt", [name for name, *_ in VOIGT], {"long_name": "component of a symmetric tensor"}),
            "atomic_number": ("atom", start.numbers.astype("i4"), {"units": "1", "long_name": "atomic number"}),
            "symbol": ("atom", [SYMBOLS[z] for z in start.numbers], {"long_name": "chemical symbol"}),
            "mass": ("atom", start.masses, {"units": "u", "long_name": "mass"}),
            "cell": (("cell_vector", "xyz"), start.cell, {"units": "angstrom", "long_name": "cell vectors; 0 where not periodic"}),
            "periodic": ("cell_vector", start.pbc.astype("i1"), {"units": "1", "long_name": "1 along periodic cell vectors"}),
        }  # fmt: skip
        attrs = {
            "Conventions": "CF-1.11", "title": "molecular dynamics",
            "source": f"interatomic potential of the package surrogate, cutoff {self.trained.geometry.cutoff:g} angstrom",
            "degrees_of_freedom": degrees, **self.settings,
        }  # fmt: skip
        return xr.Dataset(
            {k: (dims, values, {"units": units, "long_name": name}) for k, (dims, values, units, name) in variables.items()},
            coords, attrs,
        )  # fmt: skip


def energy_drift(dataset: xr.Dataset) -> float:
    """Slope of a straight line through the total energy over time, meV/atom/ps; of a run at constant energy.

    Least squares, so that the energy's oscillation within a period of vibration weighs little when many of them are
    recorded.

    Raises:
        UserError: for fewer than three records.
    """
    if dataset.sizes["time"] < 3:
        raise UserError(f"a drift needs at least 3 recorded times, got {dataset.sizes['time']}: lower save_every")
    slope = np.polyfit(dataset["time"].values - dataset["time"].values[0], dataset["total_energy"].values, 1)[0]
    return float(1000 * slope / dataset.sizes["atom"])
