"""Pictures in a notebook: of scores, forecasts and fields, as matplotlib figures that show themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from surrogate.core.types import UserError
from surrogate.run.plots import MapPicture, field_map
from surrogate.run.plots import skill as _skill


def skill(scores: xr.Dataset, variable: str | None = None, metric: str = "rmse") -> Any:
    """Skill against lead time with the baselines, from what ``surrogate.score`` gives.

    Args:
        variable: a name or ``name@level``; a name without its level takes all its levels; None takes all.

    Raises:
        UserError: for a variable or metric that was not scored.
    """
    known = [str(v) for v in scores["variable"].values]
    chosen = [k for k in known if variable is None or variable in (k, k.partition("@")[0])]
    if not chosen:
        raise UserError(f"{variable!r} was not scored; there are {', '.join(known)}")
    if metric not in scores["metric"].values:
        raise UserError(f"metric {metric!r} was not scored; there are {', '.join(map(str, scores['metric'].values))}")

    def table(name: str) -> dict[str, Any]:
        values = scores["score"].sel(forecast=name, metric=metric)
        leads = [str(lead) for lead in scores["lead_time"].values]
        return {k: {metric: dict(zip(leads, map(float, values.sel(variable=k).values), strict=True))} for k in chosen}

    names = [str(n) for n in scores["forecast"].values]
    units = dict(zip(known, map(str, scores["units"].values), strict=True))
    return _skill(table("surrogate"), {n: table(n) for n in names[1:]}, metric=metric, units=units)


def maps(
    forecast: xr.Dataset, data: xr.Dataset, variable: str, *, init: int = 0, lead: int = -1, level: float | None = None
) -> Any:
    """Truth, forecast and error of one variable.

    Args:
        forecast: as ``rollout`` gives it; ``data`` holds the truth at the valid time.
        init, lead: positions along ``init_time`` and ``lead_time``.

    Raises:
        UserError: when the variable or the valid time is not there.
    """
    from surrogate.api import forecast_spec, lead_names
    from surrogate.domains.fields_xarray import read_fields

    spec = forecast_spec(forecast)
    keys = [v.key for v in spec.outputs if v.name == variable and level in (None, v.level)] or [
        k for k in spec.keys if k == variable
    ]
    if not keys:
        raise UserError(f"{variable!r} is not in the forecast; there are {', '.join(spec.keys)}")
    channel = spec.keys.index(keys[0])
    truth, time = read_fields(data, spec, "prognostic", "data")
    when = forecast["valid_time"].values[init, lead]
    hits = np.flatnonzero(time == when)
    if not len(hits):
        raise UserError(f"data does not hold the valid time {when}")
    entry = spec.outputs[channel]
    array = forecast[entry.name].isel(init_time=init, lead_time=lead)
    dim = next((str(d) for d in array.dims if str(d).startswith("level")), None)
    array = array if dim is None else array.sel({dim: entry.level})
    return field_map(
        MapPicture(
            entry.key, entry.units, np.asarray(spec.grid.latitude), np.asarray(spec.grid.longitude),
            truth[hits[0], ..., channel], array.values, str(forecast["init_time"].values[init])[:16],
            lead_names(forecast)[lead], spec.grid.kind,
        )
    )  # fmt: skip
