"""Structure in molecular dynamics by the method that made the data, through ASE, to set a surrogate's beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from surrogate.atomistic.structure import radial_distribution
from surrogate.data.atoms import Frames
from surrogate.data.atoms_ase import needs_ase

_FRICTION = 0.02  # 1/fs: structure is wanted, not dynamics, and strong coupling samples it soon


def reference_radial(
    make_calculator: Callable[[], Any],
    run: xr.Dataset,
    kelvin: float,
    distance: np.ndarray,
    *,
    picoseconds: float = 4.0,
    time_step: float = 4.0,
) -> dict[str, np.ndarray]:
    """g(r) of each pair in the canonical ensemble, from where ``run`` began.

    Args:
        run: dynamics of a surrogate as :func:`~surrogate.atomistic.dynamics.run_dynamics` gives it.
        kelvin: of the thermostat (Langevin dynamics); a quarter of the time equilibrates.
        distance: (R,) Å, middles of equal bins that begin at 0.

    Raises:
        UserError: without ASE.
    """
    try:
        from ase import Atoms
        from ase.md.langevin import Langevin
        from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    except ImportError as error:
        raise needs_ase("molecular dynamics by an ASE calculator", error) from None
    from ase.units import fs

    atoms = Atoms(
        numbers=run["atomic_number"].values, positions=run["positions"].values[0], cell=run["cell"].values,
        pbc=run["periodic"].values.astype(bool), calculator=make_calculator(),
    )  # fmt: skip
    rng = np.random.RandomState(0)  # what ASE takes
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
    dynamics = Langevin(atoms, time_step * fs, temperature_K=kelvin, friction=_FRICTION / fs, fixcm=False, rng=rng)
    steps, kept = round(1000 * picoseconds / time_step), []
    for start in range(0, steps, 10):
        dynamics.run(10)
        if start >= steps // 4:
            kept.append(atoms.get_positions())
    count = len(kept)
    frames = Frames(
        np.concatenate(kept), np.tile(atoms.numbers, count), np.tile(np.asarray(atoms.cell), (count, 1, 1)),
        np.tile(atoms.pbc, (count, 1)), np.full(count, len(atoms)), groups=("reference",),
    )  # fmt: skip
    edge = distance[-1] + (distance[-1] - distance[-2]) / 2
    found = radial_distribution(frames, r_max=float(edge), bins=len(distance))
    return {str(pair): found["g"].sel(pair=pair).values for pair in found["pair"].values}
