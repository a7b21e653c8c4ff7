"""A trained surrogate of gridded fields: xarray in, CF xarray out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from surrogate.core.calendars import advance
from surrogate.core.durations import Duration
from surrogate.core.spec import Spec, Variable
from surrogate.core.types import PyTree, UserError
from surrogate.domains.fields_xarray import read_fields, to_dataset
from surrogate.domains.forecast import make_rollout
from surrogate.domains.frame import FieldFrame


class FieldSurrogate:
    """What ``surrogate.load`` and ``surrogate.fit`` give for gridded data.

    Attributes:
        spec: variables with roles and units, the grid, the time step.
        manifest: everything that is known of how it was made.
    """

    def __init__(
        self, manifest: dict[str, Any], frame: FieldFrame, graphdef: Any, params: PyTree, directory: Path | None = None
    ) -> None:
        self.manifest, self.frame, self.graphdef = manifest, frame, graphdef
        self.params = jax.tree.map(jnp.asarray, params)
        self.directory = directory
        self._forecast = make_rollout(graphdef, frame.num_prognostic)
        self._constants = frame.constants()

    @property
    def spec(self) -> Spec:
        return self.frame.spec

    @property
    def leads(self) -> tuple[str, ...]:
        """The leads at which it was scored, ISO 8601."""
        return tuple(self.manifest["meaning"]["leads"])

    def __repr__(self) -> str:
        names = ", ".join(v.key for v in self.spec.outputs)
        height, width = self.spec.grid.shape
        return (
            f"FieldSurrogate({self.manifest['name']!r}: {self.manifest['model']['name']}, {names} on "
            f"{height} × {width}, time step {self.spec.time_step})"
        )

    def rollout(self, data: xr.Dataset, lead_time: str = "", *, forcings: xr.Dataset | None = None) -> xr.Dataset:
        """Forecast from every time of ``data`` that has its ``history`` before it.

        Args:
            data: the prognostic variables in the model's units, on the model's grid (any order of
                latitude, either convention of longitude), with ``time``, and ``level`` where the model has levels.
            lead_time: how far to go, a multiple of the time step (``5D``); the default is the longest scored lead.
            forcings: forcing variables at the valid times; taken from ``data`` when absent.

        Returns:
            Dimensions ``init_time``, ``lead_time``, ``level`` (where there are levels), ``latitude``,
            ``longitude``; CF attributes, ``valid_time`` (init_time, lead_time). For a map from forcings to
            outputs, ``time`` (``sample`` without dates) instead of the first two.

        Raises:
            UserError: for a variable that is missing or in other units, a value that is missing, another grid, times that are not a
                time step apart where a history is needed, a lead that is no multiple of the step.
        """
        if not self.frame.num_prognostic:
            return self._map(data if forcings is None else forcings)
        lead = Duration.parse(lead_time or self.leads[-1])
        try:
            steps = lead.steps_of(self.spec.time_step)
        except ValueError as error:
            raise UserError(f"lead_time: {error}") from None
        if steps < 1:
            raise UserError(f"lead_time={lead_time} is shorter than one time step of {self.spec.time_step}")
        values, time = read_fields(data, self.spec, "prognostic", "data")
        starts = self._starts(time)
        normal = self._normalize_states(values, time)
        offsets = np.array([[self._place(time, t, -k) for k in range(self.spec.history - 1, -1, -1)] for t in starts])
        state = self.frame.state_inputs(normal[offsets])
        initial = time[starts]
        outputs = np.empty((len(starts), steps, *self.spec.grid.shape, len(self.spec.outputs)), np.float32)
        valid = np.empty((len(starts), steps), dtype=time.dtype)
        for row, start in enumerate(initial):
            valid[row] = [advance(start, self.spec.time_step, k) for k in range(1, steps + 1)]
        forcing = self._forcing(valid, data if forcings is None else forcings)
        for row in range(len(starts)):
            _, result = self._forecast(self.params, self._constants, state[row : row + 1], forcing[row][:, None])
            outputs[row] = self.frame.denormalize(np.asarray(result)[:, 0], valid[row])
        return to_dataset(outputs, self.spec, initial, valid, self._title())

    def _map(self, data: xr.Dataset) -> xr.Dataset:
        values, time = read_fields(data, self.spec, "forcing", "data")
        self._refuse_missing(values, time, self.spec.role("forcing"), np.ones(values.shape[1:], bool), "data")
        forcing = self.frame.forcing_inputs(time, values)
        state = np.zeros((len(time), *self.spec.grid.shape, 0), np.float32)
        result = np.asarray(self._forecast(self.params, self._constants, state, forcing[None])[1])[0]
        return to_dataset(self.frame.denormalize(result, time), self.spec, time, None, self._title())

    def _title(self) -> str:
        return f"forecast of the surrogate {self.manifest['name']!r} ({self.manifest['model']['name']})"

    def _normalize_states(self, values: np.ndarray, time: np.ndarray) -> np.ndarray:
        mask = self.frame.normalizer.mask[..., : self.frame.num_prognostic]
        self._refuse_missing(values, time, self.spec.role("prognostic"), mask, "data")
        return self.frame.normalizer.normalize("prognostic", values, self.frame.months(time))

    def _refuse_missing(
        self, values: np.ndarray, time: np.ndarray, variables: tuple[Variable, ...], mask: np.ndarray, name: str
    ) -> None:
        bad = np.argwhere(~np.isfinite(values) & mask)
        if len(bad):
            t, row, column, channel = bad[0]
            grid = self.spec.grid
            raise UserError(
                f"{name}: {variables[channel].key!r} is {values[t, row, column, channel]} at {time[t]}, "
                f"latitude {grid.latitude[row]:g}, longitude {grid.longitude[column]:g}"
            )

    def _starts(self, time: np.ndarray) -> np.ndarray:
        """Indices of the times whose whole history is there."""
        need = range(1, self.spec.history)
        starts = [t for t in range(len(time)) if all(self._place(time, t, -k) is not None for k in need)]
        if not starts:
            raise UserError(
                f"data has {len(time)} times, none of them with {self.spec.history - 1} more before it "
                f"at steps of {self.spec.time_step}: the model needs a history of {self.spec.history}"
            )
        return np.array(starts)

    def _place(self, time: np.ndarray, index: int, steps: int) -> int | None:
        """The index of the time ``steps`` (≤ 0) from ``time[index]``, or None when it is not there."""
        if steps == 0:
            return index
        for candidate in range(index - 1, -1, -1):
            reached = advance(time[candidate], self.spec.time_step, -steps)
            if _same(reached, time[index], self.spec.time_step):
                return candidate
        return None

    def _forcing(self, valid: np.ndarray, data: xr.Dataset) -> np.ndarray:
        """Inputs at the valid times (N, K): (N, K, H, W, F)."""
        flat = valid.ravel()
        variables = self.spec.role("forcing")
        values = np.zeros((len(flat), *self.spec.grid.shape, len(variables)), np.float32)
        if variables:
            known, time = read_fields(data, self.spec, "forcing", "forcings")
            at: Mapping[Hashable, int] = {t: i for i, t in enumerate(time.tolist())}
            for i, t in enumerate(flat.tolist()):
                if t not in at:
                    raise UserError(
                        f"the forcing {variables[0].key!r} is needed at {flat[i]} but the data end at {time[-1]}; "
                        "pass forcings= that cover the forecast"
                    )
                values[i] = known[at[t]]
            # As in training, a forcing is needed everywhere: normalised, a missing one would pass for an average one.
            self._refuse_missing(values, flat, variables, np.ones(values.shape[1:], bool), "forcings")
        inputs = self.frame.forcing_inputs(flat, values)
        return inputs.reshape(*valid.shape, *inputs.shape[1:])


def _same(a: Any, b: Any, step: Duration) -> bool:
    if step.months:
        # Monthly stamps may sit anywhere in their month.
        fields = [(x.astype("datetime64[M]"),) if isinstance(x, np.datetime64) else (x.year, x.month) for x in (a, b)]
        return fields[0] == fields[1]
    return bool(a == b)
