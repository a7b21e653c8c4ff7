"""Forcings computed from a trajectory itself: histories of global means, radiative forcing of a scenario."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from surrogate.config import build
from surrogate.core.calendars import fields_of
from surrogate.core.spec import Grid, Variable
from surrogate.core.types import UserError
from surrogate.data.settings import DerivedForcing

# Radiative forcing of CO2, W m-2 per unit of ln(C / C0): Myhre et al. 1998, doi:10.1029/98GL01908.
CO2_FORCING = 5.35


@dataclass(frozen=True)
class GlobalMeanHistory:
    """Area-weighted global means of ``variable``, averaged over the ``years`` before the sample.

    One channel an entry of ``years``: the mean over that many years up to the month before. Times with less
    history behind them use what there is; the first time of a trajectory uses itself.
    """

    variable: str
    years: tuple[float, ...] = (1.0, 10.0)


@dataclass(frozen=True)
class CarbonDioxide:
    """Radiative forcing of an idealised CO2 scenario, and its memory in two layers of ocean.

    Attributes:
        scenarios: text in a trajectory's path → ``constant``, ``double``, ``quadruple`` or ``one_percent`` (1 % a year
            from the trajectory's first January), as CMIP6 defines piControl, abrupt-2xCO2, abrupt-4xCO2 and
            1pctCO2 (Eyring et al. 2016, doi:10.5194/gmd-9-1937-2016).
        timescales: years of the exponential responses; the defaults are the multi-model means of the two-layer
            model (Geoffroy et al. 2013, doi:10.1175/JCLI-D-12-00195.1).
    """

    scenarios: dict[str, str]
    timescales: tuple[float, ...] = (4.2, 290.0)


def derive(
    entries: tuple[DerivedForcing, ...], path: str, time: np.ndarray, grid: Grid, read: Callable[[str], np.ndarray]
) -> tuple[list[Variable], np.ndarray]:
    """Derived forcings of one trajectory.

    Args:
        path: the trajectory's entry, which scenarios are recognised by.
        time: (T,) dates.
        read: name → (T, H, W) physical values.

    Returns:
        Their variables, and values (T, F) float32 that hold everywhere on the grid.

    Raises:
        UserError: for an unknown kind or setting, or a trajectory that no scenario names.
    """
    variables: list[Variable] = []
    columns: list[np.ndarray] = []
    kinds: dict[str, tuple[type[Any], Any]] = {
        "global_mean": (GlobalMeanHistory, _global_means),
        "carbon_dioxide": (CarbonDioxide, _carbon_dioxide),
    }
    for number, entry in enumerate(entries):
        if entry.kind not in kinds:
            raise UserError(f"data.derived[{number}].kind={entry.kind!r} does not exist; there are {', '.join(kinds)}")
        settings, function = kinds[entry.kind]
        config = build(settings, entry.settings, f"data.derived[{number}].settings")
        for variable, values in function(config, path, time, grid, read):
            variables.append(variable)
            columns.append(values)
    stacked = np.stack(columns, axis=-1) if columns else np.zeros((len(time), 0))
    return variables, stacked.astype(np.float32)


def _decimal_years(time: np.ndarray) -> np.ndarray:
    fields = fields_of(time)
    return fields[:, 0] + (fields[:, 1] - 1 + (fields[:, 2] - 1) / 31) / 12


def _global_means(
    config: GlobalMeanHistory, path: str, time: np.ndarray, grid: Grid, read: Callable[[str], np.ndarray]
) -> list[tuple[Variable, np.ndarray]]:
    values = read(config.variable).astype(np.float64)
    weights = grid.area_weights() * np.isfinite(values[0])
    series = np.einsum("thw,hw->t", np.where(weights > 0, values, 0), weights) / weights.sum()
    years = _decimal_years(time)
    total = np.concatenate([[0.0], np.cumsum(series)])
    result = []
    for span in config.years:
        first = np.searchsorted(years, years - span - 1e-6)
        last = np.arange(len(series))
        empty = first >= last
        count = np.where(empty, 1, last - first)
        mean = np.where(empty, series, (total[last] - total[first]) / count)
        variable = Variable(f"{config.variable}_global_mean_{span:g}y", "forcing", "as its source",
                            long_name=f"global mean of {config.variable} over the {span:g} years before")  # fmt: skip
        result.append((variable, mean))
    return result


def _carbon_dioxide(
    config: CarbonDioxide, path: str, time: np.ndarray, grid: Grid, read: Callable[[str], np.ndarray]
) -> list[tuple[Variable, np.ndarray]]:
    named = [kind for text, kind in config.scenarios.items() if text in path]
    if len(named) != 1:
        raise UserError(
            f"{path} is named by {len(named)} of data.derived scenarios ({', '.join(config.scenarios)}); exactly one is needed"
        )
    elapsed = _decimal_years(time)
    elapsed = elapsed - np.floor(elapsed[0])
    logarithms = {
        "constant": np.zeros(len(time)),
        "double": np.full(len(time), np.log(2)),
        "quadruple": np.full(len(time), np.log(4)),
        # The concentration of a scenario is stepped once a year.
        "one_percent": np.floor(elapsed) * np.log(1.01),
    }
    if named[0] not in logarithms:
        raise UserError(f"data.derived scenarios: {named[0]!r} is not one of {', '.join(logarithms)}")
    forcing = CO2_FORCING * logarithms[named[0]]
    result = [(Variable("radiative_forcing", "forcing", "W m-2", long_name="radiative forcing of CO2"), forcing)]
    step = np.diff(elapsed, prepend=elapsed[0] - (elapsed[1] - elapsed[0]))
    for scale in config.timescales:
        response, now = np.empty(len(forcing)), 0.0
        for i, (value, width) in enumerate(zip(forcing, step, strict=True)):
            # Exact for a forcing that is constant over the step.
            now += (value - now) * -np.expm1(-width / scale)
            response[i] = now
        variable = Variable(f"radiative_forcing_{scale:g}y", "forcing", "W m-2",
                            long_name=f"radiative forcing of CO2 felt with a memory of {scale:g} years")  # fmt: skip
        result.append((variable, response))
    return result
