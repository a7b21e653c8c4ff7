"""Halos for arrays on latitude-longitude grids: around the globe, across the poles, mirrored elsewhere.

A convolution with a zero halo sees a wall at the date line and at the poles that the sphere does
not have. Here columns continue periodically, and the rows beyond a pole are the rows on its other
side, half the globe away in longitude. That is exact for scalars; the components of a vector along
latitude and longitude also change sign across a pole, which is left to the network to learn.

Where a mesh divides rows or columns, every device extends its own block: by its neighbours' outermost rows and
columns, which they send, and at the edges of the globe as above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from surrogate.core.spec import Grid
from surrogate.core.types import PyTree, UserError
from surrogate.parallel.blocks import at_end, neighbour, on_blocks, roll
from surrogate.parallel.mesh import is_spatial, shards

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

    def stencil(
        self, fn: Callable[[PyTree, jax.Array], jax.Array], weights: PyTree, x: jax.Array, halo: tuple[int, int]
    ) -> jax.Array:
        """``fn(weights, padded)``, of the shape of ``x`` (B, H, W, ...), for a halo of (rows, columns) on each side.

        For the trace of a mesh that divides fields: each device pads and computes its own block.
        """
        rows, columns = halo
        return on_blocks(lambda w, block: fn(w, self.pad_block(block, (rows, rows), (columns, columns))), (x,), weights)

    def pad_block(self, x: jax.Array, rows: tuple[int, int], columns: tuple[int, int]) -> jax.Array:
        """:meth:`pad` of one device's block (B, h, w, C), within ``on_blocks``."""
        return self._pad_block_columns(self._pad_block_rows(x, *rows), *columns)

    def _pad_block_rows(self, x: jax.Array, south: int, north: int) -> jax.Array:
        height, divided = x.shape[1], shards_here("lat") > 1
        first, last = int(self.south_row), height - int(self.north_row)
        _refuse_thin(max(south + first, north + int(self.north_row)), height, "lat", "rows")
        parts = [x]
        if south:
            edge = self._beyond_block(x[:, first : first + south])
            inside = neighbour(x[:, height - south :], "lat", -1)
            parts.insert(0, jnp.where(at_end("lat", False), edge, inside) if divided else edge)
        if north:
            edge = self._beyond_block(x[:, last - north : last])
            inside = neighbour(x[:, :north], "lat", 1)
            parts.append(jnp.where(at_end("lat", True), edge, inside) if divided else edge)
        return jnp.concatenate(parts, axis=1) if len(parts) > 1 else x

    def _beyond_block(self, rows: jax.Array) -> jax.Array:
        flipped = jnp.flip(rows, axis=1)
        return roll(flipped, shards_here("lon") * rows.shape[2] // 2, 2, "lon") if self.poles else flipped

    def _pad_block_columns(self, x: jax.Array, west: int, east: int) -> jax.Array:
        width, divided = x.shape[2], shards_here("lon") > 1
        _refuse_thin(max(west, east), width, "lon", "columns")
        parts = [x]
        if west:
            inside = neighbour(x[:, :, width - west :], "lon", -1)
            edge = inside if self.periodic else jnp.flip(x[:, :, :west], axis=2)
            parts.insert(0, jnp.where(at_end("lon", False), edge, inside) if divided else edge)
        if east:
            inside = neighbour(x[:, :, :east], "lon", 1)
            edge = inside if self.periodic else jnp.flip(x[:, :, width - east :], axis=2)
            parts.append(jnp.where(at_end("lon", True), edge, inside) if divided else edge)
        return jnp.concatenate(parts, axis=2) if len(parts) > 1 else x

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
    if is_spatial():
        whole = _check_patches(x.shape, size)
        return on_blocks(lambda _, block: _fold(boundary.pad_block(block, *_rest(block, size)), size), (x,), out=whole)
    return _fold(boundary.pad(x, *_rest(x, size)), size)


def _rest(x: jax.Array, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """What whole patches need beyond the last row and column."""
    return (0, -x.shape[1] % size), (0, -x.shape[2] % size)


def _fold(x: jax.Array, size: int) -> jax.Array:
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x.reshape(batch, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows, columns, size * size * channels)


def depth_to_space(x: jax.Array, size: int, shape: tuple[int, ...]) -> jax.Array:
    """Inverse of :func:`space_to_depth`, cropped to ``shape`` (H, W)."""
    if size == 1:
        return x
    if is_spatial():
        block = shape[0] // shards("lat"), shape[1] // shards("lon")
        _check_patches((x.shape[0], *shape), size)
        return on_blocks(lambda _, part: _unfold(part, size, block), (x,), out=(x.shape[0], *shape))
    return _unfold(x, size, shape)


def _unfold(x: jax.Array, size: int, shape: tuple[int, ...]) -> jax.Array:
    batch, rows, columns, depth = x.shape
    channels = depth // (size * size)
    x = x.reshape(batch, rows, columns, size, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * size, columns * size, channels)[:, : shape[0], : shape[1]]


def _check_patches(shape: tuple[int, ...], size: int) -> tuple[int, int, int]:
    """(B, rows, columns) of patches; raises where a patch would lie on two devices."""
    for axis, length, name in (("lat", shape[1], "rows"), ("lon", shape[2], "columns")):
        count = shards(axis)
        if count > 1 and length % (count * size):
            raise UserError(
                f"mesh.{axis}={count} does not divide the {length} {name} of a field inside the model into whole patches "
                f"of {size}"
            )
    return shape[0], -(-shape[1] // size), -(-shape[2] // size)


def _refuse_thin(halo: int, length: int, axis: str, name: str) -> None:
    if halo > length:
        raise UserError(
            f"mesh.{axis}={shards_here(axis)} leaves {length} {name} of a field inside the model to a device, fewer than "
            f"the {halo} that its neighbour needs"
        )


def shards_here(axis: str) -> int:
    """Devices along ``axis``, within ``on_blocks``."""
    return jax.lax.axis_size(axis)
