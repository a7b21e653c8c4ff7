"""Surrogates for export tests, made without training: everything a field surrogate can have, on small grids."""

from __future__ import annotations

from pathlib import Path
import shutil
from typing import Any

from flax import nnx
import jax
import numpy as np
import pytest
import xarray as xr

from surrogate.config import build
from surrogate.core.calendars import advance
from surrogate.core.durations import Duration
from surrogate.core.spec import Grid, Spec, Variable
from surrogate.data.input_statistics import fit_inputs
from surrogate.data.normalize import Normalizer
from surrogate.data.step_base import StepBase
from surrogate.domains.fields_inputs import FIELD, POINT, channel_names
from surrogate.domains.fields_surrogate import FieldSurrogate
from surrogate.domains.frame import FieldFrame
from surrogate.models.base import find_model
from surrogate.run.artefact import write_artefact
from surrogate.run.surrogate_files import encode_netcdf

RICH = (
    Variable("temperature", "prognostic", "K", 500.0, "hPa"),
    Variable("salinity", "prognostic", "1e-3"),
    Variable("temperature", "prognostic", "K", 850.0, "hPa"),
    Variable("rain", "diagnostic", "kg m-2 s-1"),
    Variable("insolation", "forcing", "W m-2"),
    Variable("orography", "static", "m"),
)
MEAN = {"temperature": 260.0, "salinity": 35.0, "rain": 3e-5, "insolation": 340.0, "orography": 300.0}
SIZE = {"temperature": 12.0, "salinity": 0.8, "rain": 2e-5, "insolation": 120.0, "orography": 500.0}


def need(compiler: str) -> str:
    """The name of a compiler; the test is skipped where it is absent."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    return compiler


def make(
    directory: Path,
    *,
    variables: tuple[Variable, ...] = RICH,
    shape: tuple[int, int] = (6, 10),
    history: int = 2,
    step: str = "6h",
    calendar: str = "noleap",
    features: tuple[str, ...] = ("position", "season", "diurnal"),
    monthly: bool = True,
    land: bool = True,
    based: bool = True,
    model: str = "mlp",
    settings: dict[str, Any] | None = None,
    guarded: bool = True,
    seed: int = 0,
) -> FieldSurrogate:
    """A surrogate of random weights that changes its fields visibly in one step, with golden samples in ``directory``."""
    rng = np.random.default_rng(seed)
    height, width = shape
    grid = Grid(
        tuple((np.arange(height) + 0.5) * 180 / height - 90), tuple(np.arange(width) * 360.0 / width), "sphere", True
    )
    spec = Spec(variables, grid, Duration.parse(step), calendar, history)
    outputs = len(spec.outputs)
    mask = np.ones((*shape, outputs), bool)
    if land and "salinity" in spec.keys:
        mask[1:3, 4:7, list(spec.keys).index("salinity")] = False
    center = {
        r: np.array([MEAN[v.name] for v in spec.role(r)], np.float32)
        for r in ("prognostic", "diagnostic", "forcing", "static")
    }
    scale = {
        r: np.array([SIZE[v.name] for v in spec.role(r)], np.float32)
        for r in ("prognostic", "diagnostic", "forcing", "static")
    }
    climatology = None
    if monthly:
        climatology = (rng.normal(size=(12, *shape, outputs)) * [SIZE[v.name] for v in spec.outputs]).astype(np.float32)
        climatology[:, ~mask] = np.nan
        center = {r: c if r in ("forcing", "static") else np.zeros_like(c) for r, c in center.items()}
        climatology += np.array([MEAN[v.name] for v in spec.outputs], np.float32)
    count = len(spec.role("prognostic"))
    base = None
    if count and based:
        memory = rng.uniform(0.7, 1, (*shape, count)).astype(np.float32)
        patterns, projection = rng.normal(0, 0.1, (2, 2, *shape, count)).astype(np.float32)
        base = StepBase(memory, patterns, projection, np.array([[0.9, 0.1], [-0.1, 0.8]], np.float32))
    normalizer = Normalizer(
        spec, center, scale, rng.uniform(0.2, 0.5, (1, outputs)).astype(np.float32), mask, climatology, base
    )
    static = rng.normal(300, 500, (*shape, len(spec.role("static")))).astype(np.float32)
    frame = FieldFrame(spec, normalizer, static, features)
    model_class: Any = find_model(model)
    network = frame.build_model(
        model, build(model_class.Config, settings or {"hidden": 16, "layers": 1}, "model"), nnx.Rngs(seed)
    )
    graphdef, state = nnx.split(network)
    weights = nnx.to_pure_dict(state)
    # The head of an untrained model is nearly zero, which would hide a wrong input.
    params = jax.tree.map(
        lambda x: x + rng.normal(0, 0.3 / np.sqrt(max(x.shape[0], 1)), x.shape).astype(np.float32), weights
    )
    geometry = frame.geometry()
    golden = {
        "state": (rng.normal(size=(2, *shape, geometry.num_state))).astype(np.float32),
        "forcing": rng.normal(size=(2, *shape, geometry.num_forcing)).astype(np.float32),
    }
    if count:
        golden["state"] *= np.tile(mask[..., :count], history)
    manifest = {
        "kind": "surrogate", "format": 1, "name": "test", "domain": "fields", "meaning": {"leads": [str(spec.time_step)]},
        "model": {"name": model, "settings": settings or {}},
    }  # fmt: skip
    statistics = training_inputs(frame) if guarded else {}
    write_artefact(
        directory, {"golden.nc": encode_netcdf(golden), "statistics.nc": encode_netcdf(statistics)}, manifest
    )
    return FieldSurrogate(manifest, frame, graphdef, params, directory)


def training_inputs(frame: FieldFrame, samples: int = 400) -> dict[str, np.ndarray]:
    """Statistics as training would have left them, of inputs that vary as ``SIZE`` says and hang together."""
    rng = np.random.default_rng(7)
    found: dict[str, np.ndarray] = {}
    names = channel_names(frame.spec)
    for prefix, kept in ((FIELD, [n for n in names if n[0] != "static"]), (POINT, names)):
        variables = [frame.spec.role(role)[c].name for role, _, c in kept]
        common = rng.normal(size=(samples, 1))
        values = 0.6 * common + 0.8 * rng.normal(size=(samples, len(kept)))
        values = values * [SIZE[v] for v in variables] + [MEAN[v] for v in variables]
        statistics = fit_inputs(values)
        assert statistics is not None
        found |= statistics.arrays(prefix)
    return found


def weather(surrogate: FieldSurrogate, start: Any, states: int, steps: int, seed: int = 1) -> xr.Dataset:
    """Random fields of every dynamic input in physical units: ``states`` times up to ``start``, ``steps`` after."""
    rng = np.random.default_rng(seed)
    spec = surrogate.spec
    time = np.array([advance(start, spec.time_step, k) for k in range(1 - states, steps + 1)])
    coordinates = {"time": time, "latitude": list(spec.grid.latitude), "longitude": list(spec.grid.longitude)}
    data = xr.Dataset(coords=coordinates)
    for name in dict.fromkeys(v.name for v in spec.role("prognostic") + spec.role("forcing")):
        channels = [v for v in spec.role("prognostic") + spec.role("forcing") if v.name == name]
        levels = sorted(v.level for v in channels if v.level is not None)
        shape = (len(time), *([len(levels)] if levels else []), *spec.grid.shape)
        dims = ("time", *(["level"] if levels else []), "latitude", "longitude")
        values = rng.normal(MEAN[name], SIZE[name], shape).astype(np.float32)
        data[name] = (dims, values, {"units": channels[0].units})
        if levels:
            data = data.assign_coords(level=("level", levels, {"units": channels[0].level_units}))
    mask = surrogate.frame.normalizer.mask
    for index, v in enumerate(spec.role("prognostic")):
        if v.level is None:
            data[v.name] = data[v.name].where(xr.DataArray(mask[..., index], dims=("latitude", "longitude")))
    return data


def arguments(data: xr.Dataset, surrogate: FieldSurrogate, at: int, steps: int = 1) -> dict[str, np.ndarray]:
    """One sample of inputs of the exported function, the present state being time number ``at`` of ``data``."""
    spec, result = surrogate.spec, {}
    for role in ("prognostic", "forcing"):
        for name in dict.fromkeys(v.name for v in spec.role(role)):
            values = data[name]
            levels = [v.level for v in spec.role(role) if v.name == name]
            if levels[0] is not None:
                values = values.sel(level=levels)  # in the order of the spec
            if role == "forcing":
                values = values.values[at + 1 : at + 1 + steps]
                values = values[0] if steps == 1 else values
            else:
                values = values.values[at + 1 - spec.history : at + 1]
                values = values[0] if spec.history == 1 else values
            result[name] = values[None]
    when = data["time"].values[at]
    if isinstance(when, np.datetime64):
        when = when.astype("datetime64[s]").item()
    result["date"] = np.array([[when.year, when.month, when.day, when.hour, when.minute, when.second]], np.int32)
    return result
