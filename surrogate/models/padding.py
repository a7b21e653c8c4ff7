"""Halos for arrays on latitude-longitude grids: around the globe, across the poles, mirrored elsewhere.

A convolution with a zero halo sees a wall at the date line and at the poles that the sphere does
not have. Here columns continue periodically, and the rows beyond a pole are the rows on its other
side, half the globe away in longitude. That is exact for scalars; the components of a vector along
latitude and longitude also change sign across a pole, which is left to the network to learn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from surrogate.core.spec import Grid

_POLE_TOLERANCE = 1e-3  # degrees


@dataclass(frozen=True)
class Boundary:
    """What lies beyond the four edges of a grid.

    Attributes:
        periodic: the column after the last is the first; mirrored otherwise.
        poles: rows continue across both poles; mirrored otherwise.
        south_row, north_row: the outermost row lies on the pole itself (all its points are one
            point), so the row beyond it is the next row inwards and not the same row again.
    """

    periodic: bool
    poles: bool
    south_row: bool = False
    north_row: bool = False

    @classmethod
    def of(cls, grid: Grid) -> Boundary:
        poles = grid.has_poles and grid.periodic
        return cls(
            periodic=grid.periodic,
            poles=poles,
            south_row=poles and abs(grid.latitude[0] + 90) < _POLE_TOLERANCE,
            north_row=poles and abs(grid.latitude[-1] - 90) < _POLE_TOLERANCE,
        )

    def coarser(self) -> Boundary:
        """The boundary of a grid of cells that each hold several rows: none lies on a pole."""
        return replace(self, south_row=False, north_row=False)

    def pad(self, x: jax.Array, rows: tuple[int, int], columns: tuple[int, int]) -> jax.Array:
        """``x`` (B, H, W, C) with halos of (south, north) rows and (west, east) columns.

        For an odd number of columns the half turn across a pole is rounded down to a column.

        Raises:
            ValueError: if a halo is wider than the rows or columns that can fill it.
        """
        return self._pad_columns(self._pad_rows(x, *rows), *columns)

    def _pad_rows(self, x: jax.Array, south: int, north: int) -> jax.Array:
        height = x.shape[1]
        first, last = int(self.south_row), height - int(self.north_row)
        if south > height - first or north > last:
            raise ValueError(f"a halo of {south} and {north} rows does not fit an array of {height} rows")
        parts = [x]
        if south:
            parts.insert(0, self._beyond(x[:, first : first + south]))
        if north:
            parts.append(self._beyond(x[:, last - north : last]))
        return jnp.concatenate(parts, axis=1) if len(parts) > 1 else x

    def _beyond(self, rows: jax.Array) -> jax.Array:
        flipped = jnp.flip(rows, axis=1)
        return jnp.roll(flipped, rows.shape[2] // 2, axis=2) if self.poles else flipped

    def _pad_columns(self, x: jax.Array, west: int, east: int) -> jax.Array:
        width = x.shape[2]
        if max(west, east) > width:
            raise ValueError(f"a halo of {west} and {east} columns does not fit an array of {width} columns")
        parts = [x]
        if west:
            parts.insert(0, x[:, :, width - west :] if self.periodic else jnp.flip(x[:, :, :west], axis=2))
        if east:
            parts.append(x[:, :, :east] if self.periodic else jnp.flip(x[:, :, width - east :], axis=2))
        return jnp.concatenate(parts, axis=2) if len(parts) > 1 else x


def space_to_depth(x: jax.Array, size: int, boundary: Boundary) -> jax.Array:
    """Patches of ``size`` × ``size`` points as channels: (B, H, W, C) → (B, ⌈H/size⌉, ⌈W/size⌉, size² · C).

    A grid that ``size`` does not divide is continued beyond its last row and column by ``boundary``.
    """
    if size == 1:
        return x
    batch, height, width, channels = x.shape
    x = boundary.pad(x, (0, -height % size), (0, -width % size))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    x = x.reshape(batch, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows, columns, size * size * channels)


def depth_to_space(x: jax.Array, size: int, shape: tuple[int, ...]) -> jax.Array:
    """Inverse of :func:`space_to_depth`, cropped to ``shape`` (H, W)."""
    if size == 1:
        return x
    batch, rows, columns, depth = x.shape
    channels = depth // (size * size)
    x = x.reshape(batch, rows, columns, size, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * size, columns * size, channels)[:, : shape[0], : shape[1]]
