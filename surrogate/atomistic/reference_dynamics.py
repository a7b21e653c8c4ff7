"""Molecular dynamics by the method that made the data, through ASE, to set a surrogate's beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from surrogate.data.atoms import Frames
from surrogate.data.atoms_ase import needs_ase

_FRICTION = 0.02  # 1/fs: structure is wanted, not dynamics, and strong coupling samples it soon


def reference_frames(
    make_calculator: Callable[[], Any],
    start: Frames,
    kelvin: float,
    *,
    picoseconds: float = 4.0,
    time_step: float = 4.0,
) -> Frames:
    """Configurations of the canonical ensemble by Langevin dynamics from ``start``, 10 steps apart, without labels.

    Args:
        start: one frame.
        kelvin: of the thermostat; the first quarter of the time equilibrates.
        time_step: fs.

    Raises:
        UserError: without ASE.
    """
    try:
        from ase import Atoms
        from ase.md.langevin import Langevin
        from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
        from ase.units import fs
    except ImportError as error:
        raise needs_ase("molecular dynamics by an ASE calculator", error) from None

    atoms = Atoms(
        numbers=start.species, positions=start.positions, cell=start.cell[0], pbc=start.pbc[0], calculator=make_calculator()
    )  # fmt: skip
    rng = np.random.RandomState(0)  # what ASE takes
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
    dynamics = Langevin(atoms, time_step * fs, temperature_K=kelvin, friction=_FRICTION / fs, fixcm=False, rng=rng)
    steps, kept = round(1000 * picoseconds / time_step), []
    for step in range(0, steps, 10):
        dynamics.run(10)
        if step >= steps // 4:
            kept.append(atoms.get_positions())
    count = len(kept)
    return Frames(
        np.concatenate(kept), np.tile(start.species, count), np.tile(start.cell, (count, 1, 1)),
        np.tile(start.pbc, (count, 1)), np.full(count, len(atoms)), groups=("reference",),
    )  # fmt: skip
