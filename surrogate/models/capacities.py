"""A few shapes for all batches, so that a run compiles a few programs and never another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surrogate.core.types import UserError
from surrogate.models.graph import Capacity

# Multiples that shapes are rounded up to: similar data sets then share compiled programs.
ATOMS, NEIGHBORS = 8, 2
# A smaller shape has to save this much to be worth compiling.
WORTH = 0.85


def rounded(atoms: int, neighbors: int, graphs: int) -> Capacity:
    """The smallest capacity of round numbers that holds this."""
    return Capacity(-(-max(atoms, 1) // ATOMS) * ATOMS, -(-max(neighbors, 1) // NEIGHBORS) * NEIGHBORS, max(graphs, 1))


@dataclass(frozen=True)
class Ladder:
    """Capacities from small to large; the last holds every batch of the data they were chosen for."""

    rungs: tuple[Capacity, ...]

    def rung(self, atoms: int, neighbors: int, graphs: int) -> Capacity:
        """The cheapest capacity for a batch of so many atoms, neighbors of one atom at most, and configurations.

        Raises:
            UserError: when the largest is too small: the batch is none of the data of the ladder.
        """
        for capacity in self.rungs:
            if capacity.holds(atoms, neighbors, graphs):
                return capacity
        last = self.rungs[-1]
        raise UserError(
            f"a batch of {graphs} configurations with {atoms} atoms and up to {neighbors} neighbors is larger than any "
            f"foreseen ({last.graphs}, {last.atoms}, {last.neighbors}): choose capacities from these data too"
        )


def choose_ladder(
    sizes: Sequence[int] | np.ndarray, neighbors: Sequence[int] | np.ndarray, batch_size: int, *, rungs: int = 4
) -> Ladder:
    """Capacities for batches of ``batch_size`` configurations drawn at random.

    Random batches are sorted by cost and cut into groups of equal number, each of which gets the shape that holds
    all of it; the last holds the worst batch there can be. Of shapes of nearly equal cost the larger one serves both.

    Args:
        sizes: atoms of each configuration.
        neighbors: most neighbors of an atom of each configuration.
        rungs: at most so many shapes.
    """
    sizes, neighbors = np.asarray(sizes, int), np.asarray(neighbors, int)
    if not len(sizes) or len(sizes) != len(neighbors) or batch_size < 1 or rungs < 1:
        raise UserError(
            f"capacities need configurations and a positive batch size, got {len(sizes)} sizes, {len(neighbors)} "
            f"numbers of neighbors, batch_size={batch_size}, rungs={rungs}"
        )
    largest = int(np.sort(sizes)[-batch_size:].sum()) if len(sizes) >= batch_size else int(sizes.max()) * batch_size
    worst = rounded(largest, int(neighbors.max()), batch_size)
    drawn = np.random.default_rng(0).integers(0, len(sizes), (1024, batch_size))
    atoms, slots = sizes[drawn].sum(1), neighbors[drawn].max(1)
    order = np.argsort(atoms * slots)
    chosen = {
        rounded(int(atoms[group].max()), int(slots[group].max()), batch_size)
        for group in np.array_split(order, rungs)[:-1]
    }
    fitting = {c for c in chosen if worst.holds(c.atoms, c.neighbors, c.graphs)}
    kept = [worst]
    for capacity in sorted(fitting, key=lambda c: (c.atoms * c.neighbors, c.atoms), reverse=True):
        if capacity.atoms * capacity.neighbors < WORTH * kept[-1].atoms * kept[-1].neighbors:
            kept.append(capacity)
    return Ladder(tuple(reversed(kept)))


def fill(
    sizes: Sequence[int] | np.ndarray, neighbors: Sequence[int] | np.ndarray, capacity: Capacity
) -> list[list[int]]:
    """Group configurations, in order, into batches that fit a capacity: for evaluation, where order is free of meaning.

    Raises:
        UserError: naming the configuration that does not fit by itself.
    """
    batches: list[list[int]] = []
    atoms = capacity.atoms + 1  # the first one opens a batch
    for i, (size, slots) in enumerate(zip(sizes, neighbors, strict=True)):
        if not capacity.holds(int(size), int(slots), 1):
            raise UserError(
                f"configuration {i} of {size} atoms with up to {slots} neighbors does not fit into a batch of "
                f"{capacity.atoms} atoms and {capacity.neighbors} neighbors"
            )
        if atoms + size > capacity.atoms or len(batches[-1]) == capacity.graphs:
            batches.append([])
            atoms = 0
        batches[-1].append(i)
        atoms += int(size)
    return batches
