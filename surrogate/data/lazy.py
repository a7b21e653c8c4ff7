"""A ``Source`` over files that are larger than memory: read by Dask, block by block, to be prepared once."""

from __future__ import annotations

from typing import Any

import numpy as np

from surrogate.core.spec import Spec, Variable
from surrogate.core.types import UserError
from surrogate.data.netcdf import TrajectoryData, check_block, select_variable
from surrogate.data.source import DYNAMIC_ROLES, WHOLE, Timeline, Window


class LazySource:
    """Reads each block when it is asked for, with the same checks as data that are loaded whole.

    It serves a preparation, which passes over the times in order; training reads the store.
    """

    def __init__(
        self,
        spec: Spec,
        trajectories: list[TrajectoryData],
        derived: list[np.ndarray],
        static: np.ndarray,
        stride: int,
        files: list[dict[str, Any]],
        *,
        allow_missing: bool,
    ) -> None:
        """``derived``: per trajectory (T, F) forcings that hold everywhere, the last channels of that role."""
        self.spec, self.static, self.stride = spec, static, stride
        self.timelines: tuple[Timeline, ...] = tuple(d.timeline for d in trajectories)
        self._trajectories, self._derived, self._files = trajectories, derived, files
        self._allow_missing = allow_missing

    def read(self, trajectory: int, indices: np.ndarray, window: Window = WHOLE) -> dict[str, np.ndarray]:
        fields = self._read(trajectory, indices)
        return fields if window == WHOLE else {role: f[:, window[0], window[1]] for role, f in fields.items()}

    def _read(self, trajectory: int, indices: np.ndarray) -> dict[str, np.ndarray]:
        data, extra = self._trajectories[trajectory], self._derived[trajectory]
        fields = {}
        for role in DYNAMIC_ROLES:
            variables = self.spec.role(role)
            result = np.empty((len(indices), *data.grid.shape, len(variables)), np.float32)
            own = len(variables) - (extra.shape[1] if role == "forcing" else 0)
            for channel, variable in enumerate(variables[:own]):
                result[..., channel] = self._channel(data, variable, indices)
            if role == "forcing" and extra.shape[1]:
                result[..., own:] = extra[indices][:, None, None, :]
            fields[role] = result
        return fields

    def _channel(self, data: TrajectoryData, variable: Variable, indices: np.ndarray) -> np.ndarray:
        array = select_variable(data, variable.name, variable.level).isel(time=indices)
        try:
            values = np.asarray(array.values, np.float32)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{data.entry}: {variable.name!r} cannot be read, the data are damaged ({type(error).__name__}: {error})"
            ) from error
        consecutive = len(indices) > 0 and bool((np.diff(indices) == 1).all())
        if consecutive:
            check_block(
                data, variable.name, values, allow_missing=self._allow_missing, level=variable.level,
                first_time=int(indices[0]),
            )  # fmt: skip
        else:
            for row, index in enumerate(indices):
                check_block(
                    data, variable.name, values[row : row + 1], allow_missing=self._allow_missing,
                    level=variable.level, first_time=int(index),
                )  # fmt: skip
        return values if "latitude" in array.dims else values[:, None, None]

    def provenance(self) -> list[dict[str, Any]]:
        return self._files
