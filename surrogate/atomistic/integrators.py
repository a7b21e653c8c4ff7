"""From the positions of one step to those of the next, between two evaluations of the forces.

Both are velocity Verlet with or without a thermostat in the middle of the drift: half a kick, drift, half a
kick, so that one evaluation of the forces a step is enough and errors are of second order in the time step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.atomistic.places import Places, moved
from surrogate.atomistic.thermal import ACCELERATION, KB


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Motion:
    """Numbers of the equations of motion; arguments of the compiled program, so that changing them compiles nothing."""

    time_step: jax.Array  # () fs
    acceleration: jax.Array  # (N, 1) Å/fs² of 1 eV/Å
    keep: jax.Array  # () share of a velocity that friction leaves in a step
    noise: jax.Array  # (N, 1) Å/fs, standard deviation of what the thermostat adds in a step
    key: jax.Array


def motion_of(
    masses: np.ndarray, time_step: float, kelvin: float, friction: float, seed: int, dtype: str
) -> Motion:  # fmt: skip
    """Masses (N,) in u, ``time_step`` in fs, ``friction`` in 1/fs."""
    masses = np.asarray(masses, np.float64)[:, None]
    noise = np.sqrt(-np.expm1(-2 * friction * time_step) * KB * kelvin * ACCELERATION / masses)
    keep = np.exp(-friction * time_step)
    step, force, left, kick = (jnp.asarray(x, dtype) for x in (time_step, ACCELERATION / masses, keep, noise))
    return Motion(step, force, left, kick, jax.random.key(seed))


Drift = Callable[[Places, jax.Array, jax.Array, Motion], tuple[Places, jax.Array]]


def verlet(places: Places, velocities: jax.Array, step: jax.Array, motion: Motion) -> tuple[Places, jax.Array]:
    """Constant energy: Swope et al., "A computer simulation method for the calculation of equilibrium constants" (1982)."""
    return moved(places, motion.time_step * velocities), velocities


def langevin(places: Places, velocities: jax.Array, step: jax.Array, motion: Motion) -> tuple[Places, jax.Array]:
    """Canonical: the BAOAB splitting of Langevin dynamics.

    Leimkuhler and Matthews, "Rational construction of stochastic numerical methods for molecular sampling" (2013).
    The noise is a function of the seed and the step alone.
    """
    half = 0.5 * motion.time_step
    places = moved(places, half * velocities)
    noise = jax.random.normal(jax.random.fold_in(motion.key, step), velocities.shape, velocities.dtype)
    velocities = motion.keep * velocities + motion.noise * noise
    return moved(places, half * velocities), velocities


INTEGRATORS: dict[str, Drift] = {"nve": verlet, "nvt": langevin}
