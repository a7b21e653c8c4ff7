"""The simulated record as CF NetCDF, for :mod:`surrogate.data.simulate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.disk import Disk

if TYPE_CHECKING:
    from surrogate.data.simulate import HeldSuarezConfig

Progress = Callable[[int, int], None]

# Raised whenever the numbers in the file or their meaning change, so that an old file is not taken for a new one.
FORMAT_VERSION = 1
CHUNK_DAYS = 10  # simulated by one call of the compiled function, and one chunk of the file
FIELDS = {  # name: (standard_name, units, long_name, has levels)
    "temperature": ("air_temperature", "K", "temperature", True),
    "u_component_of_wind": ("eastward_wind", "m s-1", "eastward wind", True),
    "v_component_of_wind": ("northward_wind", "m s-1", "northward wind", True),
    "surface_pressure": ("surface_air_pressure", "Pa", "surface pressure", False),
    "z500": ("geopotential_height", "m", "geopotential height at 500 hPa", False),
}


def check_record(path: Path, config: HeldSuarezConfig) -> None:
    """Raise :class:`UserError` unless ``path`` can be opened and is the record of ``config``."""
    import h5netcdf

    try:
        with h5netcdf.File(path, "r") as file:
            found = file.attrs.get("surrogate_settings"), file.dimensions["time"].size
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it to simulate it again") from None
    expected = _settings(config), config.days * config.records_per_day
    if found != expected:
        raise UserError(f"{path} holds {found}, not {expected}; delete it to simulate it again")


def _settings(config: HeldSuarezConfig) -> str:
    return json.dumps({**asdict(config), "time_step_minutes": config.step_minutes}, sort_keys=True)


def write_record(path: Path, model: Any, progress: Progress | None) -> None:
    """Run ``model`` and write what comes after the spin-up; calls ``progress(days done, days in all)``.

    Raises:
        UserError: when a value is not finite.
        OSError: when the file cannot be written.
    """
    import h5netcdf

    config = model.config
    per_day, per_call = config.records_per_day, model.records_per_call
    skip, total = config.spin_up_days * per_day, model.total_records
    if progress:
        progress(0, total // per_day)
    with Disk(path, "w+") as disk:
        with h5netcdf.File(disk, "w") as file:
            _describe(file, model)
            for call, block in enumerate(model.blocks()):
                start = call * per_call
                first, last = max(start, skip), min(start + per_call, total)
                for name, values in block.items():
                    if not np.isfinite(values).all():
                        raise UserError(
                            f"the simulation became unstable: {name} is not finite on day "
                            f"{(start + per_call) // per_day}; "
                            f"choose data.simulate.time_step_minutes shorter than {config.step_minutes}"
                        )
                    if first < last:
                        file.variables[name][first - skip : last - skip] = values[first - start : last - start]
                disk.check()
                if progress:
                    progress(last // per_day, total // per_day)
        disk.check()
        os.fsync(disk.fileno())  # the name must not outlive the bytes in a power cut


def _describe(file: Any, model: Any) -> None:
    """Dimensions, coordinates, attributes (CF-1.11) and the empty variables."""
    from importlib.metadata import version

    config = model.config
    num_lat, num_lon, num_levels = len(model.latitude), len(model.longitude), len(model.sigma)
    records = config.days * config.records_per_day
    file.dimensions = {"time": records, "level": num_levels, "latitude": num_lat, "longitude": num_lon, "bounds": 2}
    file.attrs["Conventions"] = "CF-1.11"
    file.attrs["title"] = f"Held-Suarez climate, T{config.truncation}, {num_levels} levels"
    file.attrs["institution"] = "none: simulated on the computer that reads it"
    file.attrs["source"] = (
        f"dinosaur {version('dinosaur')} spectral dynamical core, Held-Suarez forcing, "
        f"time step {config.step_minutes} min, jax {version('jax')}"
    )
    file.attrs["history"] = f"surrogate.data.simulate.held_suarez({config!r}), format {FORMAT_VERSION}"
    file.attrs["references"] = "https://doi.org/10.1175/1520-0477(1994)075<1825:APFTIO>2.0.CO;2"
    file.attrs["comment"] = "No seasons and no diurnal cycle: dates count elapsed time from an arbitrary origin."
    file.attrs["surrogate_settings"] = _settings(config)

    lon_step = 360 / num_lon
    lon_edges = model.longitude[0] - lon_step / 2 + lon_step * np.arange(num_lon + 1)
    hours = np.arange(records, dtype=np.int64) * config.interval_hours
    time = {"units": "hours since 2001-01-01 00:00:00", "calendar": "standard", "units_metadata": "leap_seconds: none"}
    # In the terms of CF's appendix D: p = ptop + sigma (ps - ptop).
    terms = "sigma: {} ps: surface_pressure ptop: ptop"
    sigma = {"units": "1", "positive": "down", "formula_terms": terms.format("level")}
    sigma["computed_standard_name"] = "air_pressure"
    for name, axis, standard_name, values, edges, attrs in (
        ("time", "T", "time", hours, None, time),
        ("level", "Z", "atmosphere_sigma_coordinate", model.sigma, model.sigma_edges, sigma),
        ("latitude", "Y", "latitude", model.latitude, model.latitude_edges, {"units": "degrees_north"}),
        ("longitude", "X", "longitude", model.longitude, lon_edges, {"units": "degrees_east"}),
    ):
        variable = file.create_variable(name, (name,), data=values)
        variable.attrs.update(standard_name=standard_name, long_name=name, axis=axis, **attrs)
        if edges is not None:
            variable.attrs["bounds"] = f"{name}_bounds"
            file.create_variable(f"{name}_bounds", (name, "bounds"), data=np.stack([edges[:-1], edges[1:]], axis=-1))
    file.variables["level_bounds"].attrs["formula_terms"] = terms.format("level_bounds")
    top = file.create_variable("ptop", (), data=np.asarray(0.0))
    top.attrs.update(long_name="pressure at the top of the model", units="Pa")
    surface = file.create_variable("pressure", (), data=np.asarray(500.0))
    surface.attrs.update(standard_name="air_pressure", long_name="pressure of z500", units="hPa", positive="down")

    for name, (standard_name, units, long_name, has_levels) in FIELDS.items():
        dims = ("time", "level", "latitude", "longitude") if has_levels else ("time", "latitude", "longitude")
        chunks = (min(CHUNK_DAYS * config.records_per_day, records), *((1,) if has_levels else ()), num_lat, num_lon)
        # fletcher32 makes a flipped bit an error on reading. Not compressed: a chaotic field gives a quarter of its
        # bytes for four times the time of every reading.
        variable = file.create_variable(name, dims, "f4", chunks=chunks, fletcher32=True)
        variable.attrs.update(standard_name=standard_name, units=units, long_name=long_name, cell_methods="time: point")
        if units == "K":
            variable.attrs["units_metadata"] = "temperature: on_scale"
        if name == "z500":
            variable.attrs["coordinates"] = "pressure"
