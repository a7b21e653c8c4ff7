"""Molecular dynamics, compiled: many steps are one call of a program, neighbor lists included.

The program runs until a block of steps is done, until a neighbor list does not fit its slots (it then stands before
the step that needs the list, and goes on with more slots), or until an atom's motion is not sensible any more.
A step is a function of what came before it alone, so that a trajectory does not depend on how it is cut into blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from surrogate.atomistic.evaluation import Trained, evaluate
from surrogate.atomistic.integrators import INTEGRATORS, Motion, motion_of
from surrogate.atomistic.places import Places, difference, edge_vectors_of, places_of
from surrogate.atomistic.start import Start, check_settings, start_of
from surrogate.atomistic.thermal import maxwell_boltzmann
from surrogate.atomistic.trajectory import Recorder, Records, empty_records
from surrogate.atomistic.verlet_list import ListShape, VerletList, build, is_stale, no_list, roomy
from surrogate.core.types import PyTree, UserError
from surrogate.data.elements import SYMBOLS
from surrogate.models.graph import Graph
from surrogate.models.neighbors_device import num_images

Ensemble = Literal["nve", "nvt"]
FASTEST = 0.5  # Å that an atom may go in a step: no thermal motion comes near
BLOCK_SECONDS = 0.5  # between two looks at the program
RECORD_BYTES = 2**25  # of a block

RUNNING, OVERFLOW, NOT_FINITE, TOO_FAST = range(4)


class DynamicsError(UserError):
    """Molecular dynamics that went wrong; ``dataset`` holds what was recorded before."""

    def __init__(self, text: str, dataset: xr.Dataset) -> None:
        super().__init__(text)
        self.dataset = dataset


@dataclass(frozen=True)
class Program:
    """What is fixed when the program is compiled."""

    graphdef: Any
    members: int
    spread_factor: tuple[float, float]
    cutoff: float
    ensemble: Ensemble
    neighbors: ListShape


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class System:
    """What does not change along the trajectory."""

    species: jax.Array  # (N,) int32, indices into the geometry's species
    cell: Places  # (3, 3) Å, rows of directions that are not periodic are 0
    pbc: jax.Array  # (3,) bool
    skin: jax.Array  # () Å


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Before the forces of ``step`` are known: positions of that step, velocities half a kick short of it."""

    places: Places
    velocities: jax.Array  # (N, 3) Å/fs
    verlet: VerletList
    step: jax.Array  # () int32
    status: jax.Array  # () int32
    culprit: jax.Array  # () int32: the atom that made it stop
    value: jax.Array  # () what it did: a force in eV/Å or a way in Å
    rebuilds: jax.Array  # () int32


@partial(jax.jit, static_argnames="program", donate_argnames=("state", "records"))
def run_block(
    program: Program, params: PyTree, system: System, motion: Motion, state: State, records: Records,
    last: jax.Array, save_every: jax.Array,
) -> tuple[State, Records]:  # fmt: skip
    """Steps from ``state.step`` to ``last``, both included; ``records`` get every ``save_every``-th of them."""
    num, cell = state.velocities.shape[0], system.cell
    first_saved = -(-state.step // save_every)
    periodic = system.pbc.all()[None]

    def wanted(carry: tuple[State, Records]) -> jax.Array:
        return (carry[0].step <= last) & (carry[0].status == RUNNING)

    def serves(carry: tuple[State, Records]) -> jax.Array:
        return wanted(carry) & ~is_stale(carry[0].verlet, carry[0].places, system.skin)

    def until_stale(carry: tuple[State, Records]) -> tuple[State, Records]:
        state, records = carry
        stale = is_stale(state.verlet, state.places, system.skin)
        verlet = jax.lax.cond(
            stale, lambda: build(state.places, cell.coarse + cell.fine, system.pbc, program.neighbors),
            lambda: state.verlet,
        )  # fmt: skip
        status = jnp.where(verlet.neighbors.overflow, OVERFLOW, RUNNING).astype(jnp.int32)
        state = replace(state, verlet=verlet, status=status, rebuilds=state.rebuilds + stale)
        return jax.lax.while_loop(serves, one_step, (state, records))

    def one_step(carry: tuple[State, Records]) -> tuple[State, Records]:
        state, records = carry
        found = state.verlet.neighbors
        graph = Graph(
            state.places.coarse, system.species, cell.coarse[None], periodic, found.senders, found.shifts,
            found.reverse, found.mask, jnp.zeros(num, jnp.int32), jnp.ones(num, bool), jnp.ones(1, bool),
        )  # fmt: skip
        vectors = edge_vectors_of(state.places, cell, graph)
        out = evaluate(program.graphdef, params, graph, vectors, program.members, program.spread_factor)
        acceleration = motion.acceleration * out.forces
        half = 0.5 * motion.time_step
        # The first step's velocities are whole already.
        velocities = state.velocities + jnp.where(state.step == 0, 0, half) * acceleration
        places, after = INTEGRATORS[program.ensemble](
            state.places, velocities + half * acceleration, state.step, motion
        )  # fmt: skip
        alone = ~((vectors * vectors).sum(0) < program.cutoff**2).any(-1)
        force = jnp.sqrt((out.forces**2).sum(-1))
        way = jnp.sqrt((difference(places, state.places) ** 2).sum(-1))
        sound = jnp.isfinite(force)
        slow = way <= FASTEST  # false for what is not a number
        status = jnp.where(sound.all(), jnp.where(slow.all(), RUNNING, TOO_FAST), NOT_FINITE).astype(jnp.int32)
        culprit = jnp.where(sound.all(), jnp.argmax(jnp.where(slow, 0, way)), jnp.argmin(sound)).astype(jnp.int32)
        value = jnp.where(sound.all(), way, force)[culprit]
        saved = (state.step % save_every == 0) & sound.all()
        records = records.put(
            jnp.where(saved, state.step // save_every - first_saved, records.rows), state.places, velocities, out, alone
        )  # fmt: skip
        verlet = replace(state.verlet, fresh=jnp.zeros((), bool))
        return State(places, after, verlet, state.step + 1, status, culprit, value, state.rebuilds), records

    return jax.lax.while_loop(wanted, until_stale, (state, records))


def run_dynamics(
    model: Any,
    atoms: Any,
    *,
    steps: int,
    ensemble: Ensemble = "nve",
    temperature: float = 300.0,
    time_step: float = 1.0,
    save_every: int = 10,
    skin: float = 0.5,
    friction: float = 5.0,
    seed: int = 0,
    velocities: np.ndarray | None = None,
    masses: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """See :func:`surrogate.md` for everything but ``progress``: called as ``progress(steps done, steps in all)`` now and then."""
    trained = Trained.of(model)
    check_settings(
        steps=steps, ensemble=ensemble, temperature=temperature, time_step=time_step, save_every=save_every, skin=skin,
        friction=friction,
    )  # fmt: skip
    start = start_of(atoms, trained.geometry, skin, masses, velocities)
    dtype = trained.dtype
    if start.velocities is None:
        drawn = maxwell_boltzmann(start.masses, temperature, np.random.default_rng(seed))
        start = replace(start, velocities=drawn)
    shape = ListShape(
        trained.geometry.cutoff + skin, roomy(start.largest),
        num_images(start.cell, start.pbc, trained.geometry.cutoff + skin),
    )  # fmt: skip
    program = Program(
        trained.graphdef, trained.members, trained.spread_factor, trained.geometry.cutoff, ensemble, shape
    )  # fmt: skip
    system = System(
        jnp.asarray(start.species), jax.tree.map(jnp.asarray, places_of(start.cell, dtype)), jnp.asarray(start.pbc),
        jnp.asarray(skin, dtype),
    )  # fmt: skip
    motion = motion_of(start.masses, time_step, temperature, friction / 1000, seed, dtype)
    state = _first_state(start, shape, dtype)
    records = empty_records(max(1, min(256, RECORD_BYTES // (len(start.masses) * 64))), len(start.masses), dtype)
    settings = {
        "ensemble": ensemble, "time_step_fs": time_step, "seed": seed, "skin_angstrom": skin,
        **({"temperature_K": temperature, "friction_per_ps": friction} if ensemble == "nvt" else {}),
    }  # fmt: skip
    recorder = Recorder(start, trained, time_step, save_every, settings)
    done, block, warm, enlarged = 0, 1, False, 0
    while done <= steps:
        # No more than fit the records: up to just before the saved step that is one too many.
        room = (-(-done // save_every) + records.rows) * save_every - 1
        last = min(steps, done + block - 1, room)
        began = time.perf_counter()
        state, records = run_block(
            program, trained.params, system, motion, state, records, jnp.int32(last), jnp.int32(save_every)
        )  # fmt: skip
        status, reached = int(state.status), int(state.step)
        seconds = time.perf_counter() - began
        recorder.add(records, done, reached - (status == NOT_FINITE))
        if status in (NOT_FINITE, TOO_FAST):
            raise DynamicsError(_what_happened(state, start, time_step), recorder.dataset())
        if status == OVERFLOW:
            state, program = _with_room(state, program, start)
            enlarged += 1
        if progress is not None:
            progress(min(reached, steps), steps)
        if status == OVERFLOW or not warm:  # compiled in this call or will be in the next: no measure of speed
            block, warm = 4, status != OVERFLOW
        else:
            block = max(4, min(int((reached - done) * min(BLOCK_SECONDS / seconds, 8.0)), 1_000_000))
        done = reached
    recorder.settings |= {"neighbor_list_rebuilds": int(state.rebuilds), "neighbor_list_enlarged": enlarged}
    return recorder.dataset()


def _first_state(start: Start, shape: ListShape, dtype: str) -> State:
    places = jax.tree.map(jnp.asarray, places_of(start.positions, dtype))
    # An array for each number, since the state is donated.
    status, step, culprit, rebuilds = (jnp.zeros((), jnp.int32) for _ in range(4))
    return State(
        places, jnp.asarray(start.velocities, dtype), no_list(places, shape), step, status, culprit,
        jnp.zeros((), dtype), rebuilds,
    )  # fmt: skip


def _with_room(state: State, program: Program, start: Start) -> tuple[State, Program]:
    """The same state before the step whose neighbors did not fit, and a program with slots for them.

    Raises:
        UserError: when slots were not what was missing.
    """
    slots, most = program.neighbors.slots, int(state.verlet.neighbors.largest)
    if most <= slots:
        raise UserError(
            f"{start.place}: no complete neighbor list at step {int(state.step)}, for {most} neighbors and {slots} slots"
        )
    shape = replace(program.neighbors, slots=roomy(most))
    places = jax.tree.map(jnp.copy, state.places)
    state = replace(state, verlet=no_list(places, shape), status=jnp.zeros((), jnp.int32))
    return state, replace(program, neighbors=shape)


def _what_happened(state: State, start: Start, time_step: float) -> str:
    step, atom, value = int(state.step) - 1, int(state.culprit), float(state.value)
    name = f"{start.place}: at step {step} ({step * time_step:g} fs) "
    kind = SYMBOLS[start.numbers[atom]]
    if int(state.status) == NOT_FINITE:
        text = f"the force on atom {atom} ({kind}) is {value}"
    else:
        text = f"atom {atom} ({kind}) would go {value:.3g} Å in a time step of {time_step:g} fs, more than {FASTEST} Å"
    return name + text + "; a shorter time step may help, or the potential was not trained for such configurations"
