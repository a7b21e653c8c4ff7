"""Inputs that need no file: where a grid point is, and the time of year and of day."""

from __future__ import annotations

import numpy as np

from surrogate.core.calendars import day_fraction, has_calendar, year_fraction
from surrogate.core.spec import Grid
from surrogate.core.types import UserError


def position_features(grid: Grid) -> np.ndarray:
    """Smooth coordinates of every point: the unit vector on a sphere, (H, W, 3) float32; x and y in [−1, 1] on a plane, (H, W, 2)."""
    height, width = grid.shape
    if grid.kind == "plane":
        y = np.linspace(-1, 1, height) if height > 1 else np.zeros(1)
        x = np.linspace(-1, 1, width) if width > 1 else np.zeros(1)
        return np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1).astype(np.float32)
    phi, lam = np.deg2rad(np.asarray(grid.latitude))[:, None], np.deg2rad(np.asarray(grid.longitude))[None, :]
    vector = np.broadcast_arrays(np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi))
    return np.stack(vector, axis=-1).astype(np.float32)


def time_features(time: np.ndarray, features: tuple[str, ...]) -> np.ndarray:
    """Sine and cosine of the time of year (``season``) and of day UTC (``diurnal``): (T, 0, 2 or 4) float32."""
    columns = []
    for name, fraction_of in (("season", year_fraction), ("diurnal", day_fraction)):
        if name in features:
            if not has_calendar(time):
                raise UserError(f"data.features={name} needs dates, and the samples have none")
            angle = 2 * np.pi * fraction_of(time)
            columns += [np.sin(angle), np.cos(angle)]
    return np.stack(columns, axis=-1).astype(np.float32) if columns else np.zeros((len(time), 0), np.float32)


def num_time_features(features: tuple[str, ...]) -> int:
    return 2 * (("season" in features) + ("diurnal" in features))
