"""The universal screened nuclear repulsion of Ziegler, Biersack and Littmark, cut off smoothly.

Ziegler, Biersack, Littmark, "The Stopping and Range of Ions in Solids" (1985): the energy of a pair is
Z_i Z_j e² / (4πε₀ r) φ(r / a) with a = 0.8854 a₀ / (Z_i^0.23 + Z_j^0.23).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.types import Array, UserError
from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.density import one_hot
from surrogate.models.exchange import fetch
from surrogate.models.graph import Graph
from surrogate.models.radial import envelope

COULOMB = 14.3996454785  # e² / (4πε₀) in eV Å, CODATA 2018
BOHR = 0.529177210903  # Å, CODATA 2018
SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))

# Covalent radii in Å, from hydrogen on: Cordero et al., "Covalent radii revisited" (2008); sp³ carbon, low-spin
# Mn, Fe and Co.
COVALENT_RADII = (
    0.31, 0.28, 1.28, 0.96, 0.84, 0.76, 0.71, 0.66, 0.57, 0.58, 1.66, 1.41, 1.21, 1.11, 1.07, 1.05, 1.02, 1.06,
    2.03, 1.76, 1.70, 1.60, 1.53, 1.39, 1.39, 1.32, 1.26, 1.24, 1.32, 1.22, 1.22, 1.20, 1.19, 1.20, 1.20, 1.16,
    2.20, 1.95, 1.90, 1.75, 1.64, 1.54, 1.47, 1.46, 1.42, 1.39, 1.45, 1.44, 1.42, 1.39, 1.39, 1.38, 1.39, 1.40,
    2.44, 2.15, 2.07, 2.04, 2.03, 2.01, 1.99, 1.98, 1.98, 1.96, 1.94, 1.92, 1.92, 1.89, 1.90, 1.87, 1.87, 1.75,
    1.70, 1.62, 1.51, 1.44, 1.41, 1.36, 1.36, 1.32, 1.45, 1.46, 1.48, 1.40, 1.50, 1.50, 2.60, 2.21, 2.15, 2.06,
    2.00, 1.96, 1.90, 1.87, 1.80, 1.69,
)  # fmt: skip


def zbl_pair(r: Array, z_i: Array, z_j: Array) -> jax.Array:
    """Energy in eV of nuclei ``z_i`` and ``z_j`` at ``r`` > 0 Å, without a cutoff; shapes broadcast."""
    a = 0.8854 * BOHR / (z_i**0.23 + z_j**0.23)
    x = r / a
    screening = jnp.sum(jnp.stack([c * jnp.exp(-b * x) for c, b in SCREENING]), axis=0)
    return screening * (COULOMB * z_i * z_j / r)


def check_zbl(geometry: AtomsGeometry, reach: float) -> None:
    """Refuse what :func:`zbl_energies` cannot do.

    Raises:
        UserError: for an element without a radius, or a reach that is not positive or beyond the cutoff.
    """
    if max(geometry.species) > len(COVALENT_RADII):
        raise UserError(f"zbl: element {max(geometry.species)} has no covalent radius here; set zbl=false")
    longest = 2 * reach * max(COVALENT_RADII[z - 1] for z in geometry.species)
    if not 0 < longest <= geometry.cutoff:
        raise UserError(
            f"zbl_reach={reach} lets the repulsion reach {longest:.3g} Å; it must lie between 0 and the cutoff "
            f"of {geometry.cutoff} Å"
        )


def zbl_energies(vectors: Array, graph: Graph, geometry: AtomsGeometry, reach: float) -> jax.Array:
    """Half of the repulsion of each atom's pairs, (N,) in eV.

    Args:
        vectors: (3, N, M) in Å.
        reach: a pair's energy ends, with two continuous derivatives, at ``reach`` times the sum of its
            covalent radii. At 0.75 it is gone well before any bond.
    """
    x, y, z = vectors
    r = jnp.sqrt(x * x + y * y + z * z)
    table = np.array([[float(n), COVALENT_RADII[n - 1]] for n in geometry.species])
    own = one_hot(graph, len(geometry.species), r.dtype) @ jnp.asarray(table, r.dtype)  # (N, 2)
    other = fetch(own, *graph.exchange)
    # Padding slots carry 0: a charge and a radius of 1 keep every power finite; their distance is far out.
    other = jnp.where(graph.neighbor_mask[..., None], other, 1.0)
    outer = reach * (own[:, None, 1] + other[..., 1])
    return 0.5 * jnp.sum(zbl_pair(r, own[:, None, 0], other[..., 0]) * envelope(r / outer), axis=1)
