"""Configurations on which the programs of a potential are checked: full ones, and ones with padding and ghosts."""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np

from surrogate.exporting.atoms_inputs import Edges, edges_of
from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.graph import Structure

System = tuple[Edges, np.ndarray, np.ndarray]  # edges, species (n,), counted (n,)


def golden_systems(
    geometry: AtomsGeometry, atoms: int, neighbors: int, structures: Sequence[Structure] = ()
) -> list[System]:
    """Two systems that fit: a cluster in which some atoms are ghosts, and a periodic one of as many atoms as fit.

    The first has all there is, padding and ghosts among it: a program for one system is checked with it
    whenever a Bundle is opened. Of ``structures`` the largest that fits takes the place of the second. Generated ones are lattices with
    every site moved at random, as dense as the training data or as the slots allow.
    """
    fitting = [s for s in structures if len(s) <= atoms and s.max_neighbors <= neighbors and len(s)]
    if fitting:
        chosen = max(fitting, key=len)
        edges = edges_of(chosen.positions, chosen.cell, chosen.pbc, geometry.cutoff)
        whole = (edges, chosen.species, np.ones(len(chosen), np.int32))
    else:
        whole = _lattice(geometry, atoms, neighbors, periodic=True)
    return [_lattice(geometry, max(1, atoms - atoms // 4), neighbors, periodic=False), whole]


def _lattice(geometry: AtomsGeometry, atoms: int, neighbors: int, periodic: bool) -> System:
    rng = np.random.default_rng(atoms * 1009 + neighbors)
    sides = _sides(atoms)
    count = min(atoms, math.prod(sides))
    # As many sites in the sphere of the cutoff as atoms have neighbors in the training data.
    spacing = geometry.cutoff * (4 * math.pi / 3 / max(min(geometry.num_neighbors, 0.8 * neighbors), 1.0)) ** (1 / 3)
    sites = np.stack(np.meshgrid(*(np.arange(k) for k in sides), indexing="ij"), -1).reshape(-1, 3)[:count]
    moved = sites + rng.uniform(-0.12, 0.12, sites.shape)
    species = np.resize(np.arange(len(geometry.species)), count)
    rng.shuffle(species)
    counted = np.ones(count, np.int32)
    if not periodic:
        counted[rng.permutation(count)[: count // 4]] = 0
    while True:
        edges = edges_of(moved * spacing, np.diag(sides) * spacing, periodic, geometry.cutoff)
        if edges.max_neighbors <= neighbors:
            return edges, species.astype(np.int32), counted
        spacing *= 1.03


def _sides(atoms: int) -> tuple[int, int, int]:
    """Sites along each axis, as alike as can be, no more in all than ``atoms``; a row where there is no such box."""
    a = max(1, math.floor(atoms ** (1 / 3) + 1e-9))
    b = max(1, math.isqrt(atoms // a))
    return a, b, atoms // (a * b)
