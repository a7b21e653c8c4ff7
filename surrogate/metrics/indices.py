"""Box means such as Niño 3.4: linear functionals of one variable, scored as a series over initial times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surrogate.core.spec import Spec
from surrogate.core.types import UserError


@dataclass(frozen=True)
class IndexDefinition:
    """The area-weighted mean of ``variable`` over a box of cell centres.

    Attributes:
        name: what scores call it (``nino34``).
        variable: an output's key, ``name`` or ``name@level``.
        latitude: (south, north), limits included; the row coordinate on a plane.
        longitude: (west, east), limits included, going eastward: (190, 240), (-170, -120) and
            (350, 10) are all boxes on a sphere.
    """

    name: str
    variable: str
    latitude: tuple[float, float]
    longitude: tuple[float, float]

    def __post_init__(self) -> None:
        if self.latitude[0] > self.latitude[1]:
            raise ValueError(f"index {self.name!r}: latitude must be [south, north], not {list(self.latitude)}")

    def weights(self, spec: Spec, mask: np.ndarray) -> np.ndarray:
        """Weights (H, W, C) float64 that sum to 1; the index is Σ weights × field.

        Args:
            mask: (H, W, C) bool, True where there are data.

        Raises:
            UserError: when the variable is no output, or no cell with data lies in the box.
        """
        if self.variable not in spec.keys:
            raise UserError(
                f"index {self.name!r}: {self.variable!r} is not an output; there are {', '.join(spec.keys)}"
            )
        grid, channel = spec.grid, spec.keys.index(self.variable)
        lat, lon = np.asarray(grid.latitude), np.asarray(grid.longitude)
        west, east = self.longitude
        rows = (lat >= self.latitude[0]) & (lat <= self.latitude[1])
        if grid.kind == "sphere":
            whole = east - west >= 360
            columns = ((lon - west) % 360 <= (east - west) % 360) | whole
        else:
            columns = (lon >= west) & (lon <= east)
        inside = rows[:, None] & columns[None, :] & mask[..., channel]
        area = np.where(inside, grid.area_weights(), 0.0)
        if not area.any():
            raise UserError(
                f"index {self.name!r}: no cell of {self.variable!r} with data lies in latitude {list(self.latitude)}, "
                f"longitude {list(self.longitude)}"
            )
        result = np.zeros((*grid.shape, len(spec.keys)))
        result[..., channel] = area / area.sum()
        return result


def index_series(
    fields: np.ndarray, definitions: Sequence[IndexDefinition], spec: Spec, mask: np.ndarray
) -> np.ndarray:
    """The indices of each field as fields of one cell, (N, H, W, C) → (N, 1, 1, I) float64.

    They go through an ``Accumulator`` with weights ``np.ones((1, 1, I))``, as any field does.
    """
    columns = []
    for definition in definitions:
        weights = definition.weights(spec, mask)
        inside = weights > 0
        columns.append(fields[:, inside].astype(np.float64) @ weights[inside])
    return np.stack(columns, axis=-1)[:, None, None, :] if columns else np.zeros((len(fields), 1, 1, 0))
