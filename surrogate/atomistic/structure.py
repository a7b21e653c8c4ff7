"""The structure of a liquid or solid: how its atoms are distributed around one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement

import numpy as np
import xarray as xr

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.elements import SYMBOLS, atomic_numbers
from surrogate.models.neighbors import neighbor_list

Configuration = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # positions, species, cell, pbc


def configurations(source: xr.Dataset | Frames) -> tuple[list[Configuration], str]:
    """The configurations of a trajectory or of frames, and what they are called in messages.

    Raises:
        UserError: for anything else.
    """
    if isinstance(source, Frames):
        found = []
        for i in range(len(source)):
            rows = slice(int(source.offsets[i]), int(source.offsets[i + 1]))
            found.append((source.positions[rows], source.species[rows], source.cell[i], source.pbc[i]))
        return found, source.groups[0] or "frames"
    try:
        species, cell = source["atomic_number"].values, source["cell"].values
        pbc = source["periodic"].values.astype(bool)
        cells = np.broadcast_to(cell, (source.sizes["time"], 3, 3))
        every = source["positions"].transpose("time", "atom", "xyz").values
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"expected a trajectory of sg.md or frames, got {type(source).__name__} ({error})") from None
    return [(p, species, c, pbc) for p, c in zip(every, cells, strict=True)], "trajectory"


def radial_distribution(
    source: xr.Dataset | Frames,
    r_max: float = 8.0,
    bins: int = 200,
    pairs: Iterable[str | Sequence[str]] | None = None,
) -> xr.Dataset:
    """Radial distribution functions, averaged over all configurations.

    g_ab(r) is the density of atoms b at a distance r from an atom a, over their mean density: 1 for an ideal gas and
    at large distance in a liquid (Allen and Tildesley, "Computer Simulation of Liquids" (2017), section 8.2). All
    periodic images count, so ``r_max`` may exceed the cell.

    Args:
        source: a trajectory of ``sg.md``, or frames, periodic in all three directions.
        r_max: Å.
        bins: of equal width.
        pairs: of elements, ``["Cu-Au"]`` or ``[("Cu", "Au")]``; None takes all there are, and ``"all"``, in which
            elements are not told apart.

    Returns:
        ``g`` (pair, r), and ``coordination`` (pair, r_outer): the mean number of atoms of the second element around one of
        the first, within r_outer. ``r`` (Å) are the centres of the bins, ``r_outer`` their outer edges.

    Raises:
        UserError: for configurations that are not periodic and so have no density, pairs of elements that are not there.
    """
    found, place = configurations(source)
    if not found:
        raise UserError(f"{place}: no configuration to take a radial distribution of")
    if not (np.isfinite(r_max) and r_max > 0 and bins >= 1):
        raise UserError(f"r_max must be a positive length in Å and bins at least 1, got {r_max} and {bins}")
    elements = sorted({int(z) for _, species, _, _ in found for z in np.unique(species)})
    wanted = _pairs(pairs, elements, place)
    edges = np.linspace(0, r_max, bins + 1)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    counts, ideal, centers = (np.zeros((len(wanted), bins)), np.zeros(len(wanted)), np.zeros(len(wanted)))
    for number, (positions, species, cell, pbc) in enumerate(found):
        if not pbc.all():
            raise UserError(
                f"{place} configuration {number} is not periodic in all directions, so it has no density to compare with"
            )
        volume = abs(np.linalg.det(cell))
        for row, ((a, b), _) in enumerate(wanted):
            first, second = (np.ones(len(species), bool) if z == 0 else species == z for z in (a, b))
            # What a gas of this density would have around them, for each unit of volume.
            centers[row] += first.sum()
            ideal[row] += first.sum() * second.sum() / volume
        pair = neighbor_list(positions, cell, pbc, r_max)
        vectors = positions[pair.senders] - positions[pair.receivers] + pair.shifts @ cell
        length = np.sqrt((vectors**2).sum(1))
        at, other = species[pair.receivers], species[pair.senders]
        for row, ((a, b), _) in enumerate(wanted):
            chosen = ((at == a) | (a == 0)) & ((other == b) | (b == 0))
            counts[row] += np.histogram(length[chosen], edges)[0]
    g = counts / (ideal[:, None] * shells)
    coordination = counts.cumsum(1) / centers[:, None]
    return xr.Dataset(
        {
            "g": (("pair", "r"), g, {"units": "1", "long_name": "radial distribution function"}),
            "coordination": (("pair", "r_outer"), coordination, {"units": "1", "long_name": "atoms within this distance"}),
        },
        {
            "pair": ("pair", [name for _, name in wanted], {"long_name": "pair of elements"}),
            "r": ("r", (edges[1:] + edges[:-1]) / 2, {"units": "angstrom", "long_name": "distance"}),
            "r_outer": ("r_outer", edges[1:], {"units": "angstrom", "long_name": "distance"}),
        },
        {"configurations": len(found)},
    )  # fmt: skip


def _pairs(
    pairs: Iterable[str | Sequence[str]] | None, elements: list[int], place: str
) -> list[tuple[tuple[int, int], str]]:
    """Atomic numbers and name of each pair; 0 stands for all elements."""
    if pairs is None:
        named = [f"{SYMBOLS[a]}-{SYMBOLS[b]}" for a, b in combinations_with_replacement(elements, 2)]
        pairs = ["all", *(named if len(elements) > 1 else [])]
    found = []
    for pair in pairs:
        if pair == "all":
            found.append(((0, 0), "all"))
            continue
        symbols = pair.split("-") if isinstance(pair, str) else list(pair)
        if len(symbols) != 2:
            raise UserError(f"pairs are written Cu-Au, got {pair!r}")
        a, b = (int(z) for z in atomic_numbers(symbols, "pairs"))
        if missing := [SYMBOLS[z] for z in (a, b) if z not in elements]:
            raise UserError(f"{place} has no {missing[0]}; it has {', '.join(SYMBOLS[z] for z in elements)}")
        found.append(((a, b), f"{SYMBOLS[a]}-{SYMBOLS[b]}"))
    return found
