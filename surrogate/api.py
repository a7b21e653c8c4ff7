"""The notebook's verbs: ``fit`` trains on the same path as the command line, ``score`` compares a forecast with data,
``md`` runs molecular dynamics with a potential.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from surrogate.config import Experiment
from surrogate.core.spec import Grid, Spec, Variable
from surrogate.core.types import UserError
from surrogate.metrics import Accumulator, Climatology, TrainingFields, find_baseline, fit_baselines


def fit(experiment: Experiment, *, quiet: bool = False) -> Any:
    """Train ``experiment`` and give the surrogate back.

    It writes the same run directory as ``python -m surrogate.train``, which ``surrogate.directory`` names.

    Raises:
        UserError: for every mistake that can be mended, as on the command line.
    """
    from surrogate.domains.base import find_domain
    from surrogate.run.loop import run_training
    from surrogate.run.surrogate_files import load

    result = run_training(experiment, quiet=quiet, notebook=True)
    if result.status != "complete":
        raise UserError(f"training stopped early; the same experiment with run.dir={result.directory} goes on")
    return load(result.directory, domain=find_domain(experiment.domain))


def md(
    model: Any,
    atoms: Any,
    *,
    steps: int,
    ensemble: Literal["nve", "nvt"] = "nve",
    temperature: float = 300.0,
    time_step: float = 1.0,
    save_every: int = 10,
    skin: float = 0.5,
    friction: float = 5.0,
    seed: int = 0,
    velocities: np.ndarray | None = None,
    masses: np.ndarray | None = None,
    quiet: bool = False,
) -> xr.Dataset:
    """Molecular dynamics with a potential, whole blocks of steps compiled.

    Args:
        model: a surrogate of atoms (``sg.load``), or a potential.
        atoms: an ``ase.Atoms`` or one frame of ``Frames``, periodic in any number of directions.
        steps: of ``time_step`` fs.
        ensemble: ``nve`` (velocity Verlet) or ``nvt`` (Langevin dynamics, BAOAB).
        temperature: K, of the initial velocities and of the thermostat. On a lattice at rest half of it goes into
            displacements, so ``nve`` from there settles near half.
        save_every: steps between two records; the first is of the beginning.
        skin: Å beyond the cutoff that neighbor lists reach; a list serves until an atom has moved half of it.
        friction: 1/ps, of the thermostat.
        seed: of the velocities and the thermostat; the same seed gives the same trajectory on the same machine.
        velocities: (N, 3) in Å/fs, in place of drawn ones: the last of another trajectory continues it.
        masses: (N,) in u; None takes those of an ``ase.Atoms``, or standard atomic weights.
        quiet: no progress bar.

    Returns:
        Dimensions time (ps), atom, xyz: ``positions`` (Å, not wrapped), ``velocities`` (Å/fs), ``potential_energy``,
        ``kinetic_energy``, ``total_energy`` (eV), ``temperature`` (K), ``stress`` of the potential (eV/Å³, positive under
        tension, xx, yy, zz, yz, xz, xy), ``pressure`` with its kinetic part (GPa), ``atoms_lost``; for an ensemble of
        potentials ``energy_spread`` (eV) and ``force_spread`` (eV/Å) too. ``to_netcdf`` writes it.

    Raises:
        UserError: for unknown elements, atoms in one place and settings that cannot be.
        DynamicsError: a UserError for a force that is not finite or an atom that flies off, with step and atom; its
            ``dataset`` holds what was recorded before.
    """
    from surrogate.atomistic.dynamics import run_dynamics
    from surrogate.run.progress import track

    with track("molecular dynamics", steps, "steps", enabled=not quiet) as bar:
        return run_dynamics(
            model, atoms, steps=steps, ensemble=ensemble, temperature=temperature, time_step=time_step,
            save_every=save_every, skin=skin, friction=friction, seed=seed, velocities=velocities, masses=masses,
            progress=lambda done, _: bar.advance(done - bar.done),
        )  # fmt: skip


def score(
    forecast: xr.Dataset,
    data: xr.Dataset,
    *,
    metrics: Sequence[str] = ("rmse", "acc", "bias", "activity"),
    baselines: Sequence[str] = (),
    training: xr.Dataset | None = None,
) -> xr.Dataset:
    """Score a forecast against data.

    Args:
        forecast: as ``rollout`` gives it: (init_time, lead_time, [level,] latitude, longitude).
        data: the truth, with ``time``, on the same grid and in the same units. Valid times that it does
            not hold are left out.
        metrics: names of registered metrics.
        baselines: ``persistence``, ``climatology``, ``damped_persistence``, ``linear_inverse_model``.
        training: what climatology and the fitted baselines learn from; it may not overlap the
            forecast's valid times. Needed for all but ``persistence``, and for ``acc`` and ``activity``.

    Returns:
        Dimensions ``forecast`` (``surrogate`` and the baselines), ``variable``, ``metric``, ``lead_time``
        (ISO 8601 text): variable ``score``, and ``units`` by variable.

    Raises:
        UserError: for variables, units or grids that do not fit, or when no valid time lies in ``data``.
    """
    from surrogate.domains.fields_xarray import read_fields

    if "init_time" not in forecast.dims or "lead_time" not in forecast.dims:
        raise UserError("the forecast needs dimensions init_time and lead_time, as rollout gives them")
    needs_training = set(baselines) - {"persistence"} or set(metrics) & {"acc", "activity", "target_activity"}
    if needs_training and training is None:
        raise UserError(f"{', '.join(sorted(needs_training))} need the training data: pass training=")
    spec = forecast_spec(forecast)
    guess = _forecast_values(forecast, spec)
    truth, time = read_fields(data, spec, "prognostic", "data")
    valid, initial = forecast["valid_time"].values, forecast["init_time"].values
    place = {t: i for i, t in enumerate(time.tolist())}
    mask = np.isfinite(truth).all(0)
    weights = spec.grid.area_weights()[..., None] * mask
    climatology, fitted = None, {}
    leads = list(range(1, forecast.sizes["lead_time"] + 1))
    if training is not None:
        fields, when = read_fields(training, spec, "prognostic", "training")
        if shared := set(when.tolist()) & set(np.ravel(valid).tolist()):
            raise UserError(
                f"training and the forecast share {len(shared)} times: a baseline may not have seen the truth"
            )
        weights = weights * np.isfinite(fields).all(0)
        leads, segment = _lead_steps(forecast, when)
        train = TrainingFields(spec, [fields], [when], [segment], weights)
        climatology = Climatology().fit(train)
        fitted = fit_baselines(
            train, list(leads), climatology, [b for b in baselines if b != "persistence"] or ["climatology"]
        )
    if "persistence" in baselines:
        fitted["persistence"] = find_baseline("persistence")
    names = ["surrogate", *(b for b in baselines)]
    table = np.full((len(names), len(spec.keys), len(metrics), len(leads)), np.nan)
    used = 0
    for column, lead in enumerate(leads):
        reached, begun = valid[:, column].tolist(), initial.tolist()
        # Baselines start from the data's own initial state; all forecasts are scored on the same times.
        rows = [i for i, t in enumerate(reached) if t in place and (not baselines or begun[i] in place)]
        if not rows:
            continue
        used += len(rows)
        target = truth[[place[reached[i]] for i in rows]]
        start = truth[[place[begun[i]] for i in rows]] if baselines else target
        when = valid[rows, column]
        climate = climatology(when) if climatology is not None else None
        for row, name in enumerate(names):
            values = (
                guess[rows, column] if name == "surrogate" else fitted[name].predict(start, initial[rows], when, lead)
            )
            sums = Accumulator(metrics, weights, spec.keys)
            sums.add(values, target, climate)
            for m, result in enumerate(sums.finalize().values()):
                table[row, :, m, column] = result
    if not used:
        raise UserError("no valid time of the forecast lies in data, so there is nothing to score")
    return xr.Dataset(
        {"score": (("forecast", "variable", "metric", "lead_time"), table),
         "units": ("variable", [v.units for v in spec.outputs])},
        {"forecast": names, "variable": list(spec.keys), "metric": list(metrics), "lead_time": lead_names(forecast)},
    )  # fmt: skip


def forecast_spec(forecast: xr.Dataset) -> Spec:
    """The meaning of a forecast, read off its own coordinates."""
    from surrogate.core.durations import Duration

    variables = []
    for name, array in forecast.data_vars.items():
        units = str(array.attrs.get("units", "1"))
        dim = next((str(d) for d in array.dims if str(d).startswith("level")), None)
        if dim is None:
            variables.append(Variable(str(name), "prognostic", units))
        else:
            level_units = str(array[dim].attrs.get("units", ""))
            variables += [Variable(str(name), "prognostic", units, float(v), level_units) for v in array[dim].values]
    sphere = "latitude" in forecast.dims
    rows, columns = _horizontal(forecast)
    lat, lon = (tuple(map(float, forecast[d].values)) for d in (rows, columns))
    around = sphere and len(lon) > 1 and abs(lon[-1] - lon[0] + lon[1] - lon[0] - 360) < 1e-3
    grid = Grid(lat, lon, "sphere" if sphere else "plane", around)
    return Spec(tuple(variables), grid, Duration(seconds=1))


def _horizontal(forecast: xr.Dataset) -> tuple[str, str]:
    """Names of the rows' and columns' dims.

    Raises:
        UserError: when the forecast has none that ``rollout`` gives.
    """
    for rows, columns in (("latitude", "longitude"), ("y", "x"), ("row", "column")):
        if rows in forecast.dims and columns in forecast.dims:
            return rows, columns
    raise UserError(f"the forecast has no latitude and longitude; it has {', '.join(map(str, forecast.dims))}")


def _forecast_values(forecast: xr.Dataset, spec: Spec) -> np.ndarray:
    """(N, K, H, W, C) float32 in the order of ``spec``."""
    channels = []
    rows, columns = _horizontal(forecast)
    for variable in spec.outputs:
        array = forecast[variable.name]
        dim = next((str(d) for d in array.dims if str(d).startswith("level")), None)
        if dim is not None:
            array = array.sel({dim: variable.level})
        channels.append(array.transpose("init_time", "lead_time", rows, columns).values)
    return np.stack(channels, axis=-1).astype(np.float32)


def _lead_steps(forecast: xr.Dataset, time: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The leads in steps of the training times, and the number of the gap-free stretch that each of those lies in.

    Raises:
        UserError: when the training times are not evenly spaced, or a lead is not a multiple of their spacing.
    """
    from surrogate.core.durations import Duration
    from surrogate.data.timeaxis import spacing

    step, segments = spacing(time)
    if step is None:
        raise UserError(f"the {len(time)} times of training are not evenly spaced")
    try:
        return [Duration.parse(lead).steps_of(step) for lead in lead_names(forecast)], segments
    except ValueError as error:
        raise UserError(f"training is too coarse in time for the forecast: {error}") from None


def lead_names(forecast: xr.Dataset) -> list[str]:
    from surrogate.core.durations import Duration

    units = str(forecast["lead_time"].attrs.get("units", "hours"))
    numbers = forecast["lead_time"].values
    if units == "months":
        return [str(Duration(months=int(n))) for n in numbers]
    if np.issubdtype(numbers.dtype, np.timedelta64):
        return [str(Duration(seconds=int(n / np.timedelta64(1, "s")))) for n in numbers]
    return [str(Duration(seconds=round(float(n) * 3600))) for n in numbers]
