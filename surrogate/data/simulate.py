"""Data without a download: a Held–Suarez climate, simulated once and kept as CF NetCDF.

The dry primitive equations on sigma levels relax towards a prescribed temperature and rub against the
ground: no moisture, no seasons, no continents, and yet jets, storms and their statistics.

    I. M. Held and M. J. Suarez, 1994: A proposal for the intercomparison of the dynamical cores of
    atmospheric general circulation models. Bull. Amer. Meteor. Soc., 75, 1825–1830.

The spectral dynamical core is ``dinosaur`` (the ``climate`` extra), imported here alone and only when
there is something to simulate. The file holds the whole state on the Gaussian grid (temperature,
winds, surface pressure) and the height of 500 hPa, which follows from the state:

====================== ============================== ======== ==========================================
name                   standard_name                  units    dimensions
====================== ============================== ======== ==========================================
temperature            air_temperature                K        time, level, latitude, longitude
u_component_of_wind    eastward_wind                  m s-1    time, level, latitude, longitude
v_component_of_wind    northward_wind                 m s-1    time, level, latitude, longitude
surface_pressure       surface_air_pressure           Pa       time, latitude, longitude
z500                   geopotential_height            m        time, latitude, longitude
====================== ============================== ======== ==========================================

``level`` is sigma, pressure over surface pressure, top first: with 8 levels 0.0625, 0.1875, ..., 0.9375
(equidistant: thinner layers at the ground or around the jet make the tropics overturn at the grid scale
at this resolution, which no surrogate could or should learn). Dates start at 2001-01-01 and mean
nothing but elapsed time: every day is an equinox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
import hashlib
import json
import os
from pathlib import Path
from typing import Any
import uuid

import numpy as np

from surrogate.core.types import UserError

Progress = Callable[[int, int], None]

# Raised whenever the numbers in the file or their meaning change, so that an old file is not taken for a new one.
FORMAT_VERSION = 1
_CHUNK_DAYS = 10  # simulated by one call of the compiled function, and one chunk of the file
_REFERENCE_TEMPERATURE = 288.0  # K; above the actual temperatures, which the semi-implicit scheme needs
_FIELDS = {  # name: (standard_name, units, long_name, has levels)
    "temperature": ("air_temperature", "K", "temperature", True),
    "u_component_of_wind": ("eastward_wind", "m s-1", "eastward wind", True),
    "v_component_of_wind": ("northward_wind", "m s-1", "northward wind", True),
    "surface_pressure": ("surface_air_pressure", "Pa", "surface pressure", False),
    "z500": ("geopotential_height", "m", "geopotential height at 500 hPa", False),
}


@dataclass(frozen=True)
class HeldSuarezConfig:
    """What is simulated.

    Attributes:
        truncation: triangular spectral truncation; 21 gives a Gaussian grid of 32 × 64.
        levels: number of sigma levels.
        days: length of the record, days.
        spin_up_days: simulated first and not kept.
        interval_hours: between records; divides a day.
        time_step_minutes: of the integration; divides the interval. By default the longest that does
            and is at most 90 min at T21, and shorter in proportion at higher truncation.
        seed: of the perturbation (1 K, white) that the initial temperature carries. The same seed on the
            same machine, with the same versions of jax and dinosaur and the same number of threads,
            gives the same bits; elsewhere rounding differs and chaos makes another realisation of the
            same climate within about three weeks.
    """

    truncation: int = 21
    levels: int = 8
    days: int = 730
    spin_up_days: int = 200
    interval_hours: int = 6
    time_step_minutes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("truncation", 5, 213), ("levels", 3, 100), ("days", 1, 400_000), ("spin_up_days", 0, 100_000),
            ("interval_hours", 1, 24), ("seed", 0, 2**63 - 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise UserError(f"simulate.{name}={value!r} must be a whole number from {low} to {high}")
        if 24 % self.interval_hours:
            raise UserError(f"simulate.interval_hours={self.interval_hours} does not divide a day of 24 hours")
        step = self.time_step_minutes
        if step is not None and (not isinstance(step, int) or step < 1 or (self.interval_hours * 60) % step):
            raise UserError(
                f"simulate.time_step_minutes={step!r} must be a whole number of minutes that divides "
                f"interval_hours={self.interval_hours} ({self.interval_hours * 60} minutes)"
            )

    @property
    def step_minutes(self) -> int:
        if self.time_step_minutes is not None:
            return self.time_step_minutes
        longest = max(1, min(90, int(90 * 21 / self.truncation)))
        interval = self.interval_hours * 60
        return max(m for m in range(1, longest + 1) if interval % m == 0)

    @property
    def records_per_day(self) -> int:
        return 24 // self.interval_hours

    @property
    def file_name(self) -> str:
        """Readable, and with a hash of everything that decides the numbers."""
        settings = {**asdict(self), "time_step_minutes": self.step_minutes, "format": FORMAT_VERSION}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        return f"held-suarez-T{self.truncation}L{self.levels}-{self.days}d-seed{self.seed}-{digest}.nc"


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """``cache_dir``, else ``$SURROGATE_CACHE``, else ``$XDG_CACHE_HOME/surrogate``, else ``~/.cache/surrogate``."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if own := os.environ.get("SURROGATE_CACHE"):
        return Path(own).expanduser()
    # The XDG specification says that a relative path is to be ignored.
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else Path("~/.cache").expanduser()) / "surrogate"


def held_suarez(
    config: HeldSuarezConfig | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """The simulated record of ``config``: from the cache, or simulated now and put there.

    The file appears under its name only when it is whole. A second process that asks for the same
    record meanwhile waits and uses the first one's.

    Args:
        progress: called as ``progress(days done, days in all)``, spin-up included; never when the file is there.

    Raises:
        UserError: without dinosaur, for a directory that cannot be written, a full disk, a damaged file
            in the cache, or a simulation that became unstable.
    """
    config = config or HeldSuarezConfig()
    directory = cache_directory(cache_dir)
    path = directory / config.file_name
    if path.exists():
        _check(path, config)
        return path
    model = _Model(config)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory / f".{path.name}.lock"):
            if path.exists():  # another process finished while this one waited
                _check(path, config)
                return path
            for abandoned in directory.glob(f".{path.name}.*.partial"):  # of a process that was killed
                abandoned.unlink(missing_ok=True)
            partial = directory / f".{path.name}.{uuid.uuid4().hex}.partial"
            try:
                _write(partial, model, progress)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write the simulated climate {path}: {reason}; set SURROGATE_CACHE") from error
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock, which the system releases even when the process is killed."""
    try:
        import fcntl
    except ImportError:  # not POSIX: two processes may both simulate; each one's file is still whole
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check(path: Path, config: HeldSuarezConfig) -> None:
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


@contextmanager
def _fixed_numerics() -> Iterator[None]:
    """Single precision on the CPU, whatever the caller has set: the numbers must depend on the settings alone.

    The CPU, since a grid this small leaves an accelerator waiting for launches.
    """
    import jax

    with jax.enable_x64(False), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


class _Model:
    """The dynamical core with the forcing, from the settings to blocks of records."""

    @_fixed_numerics()
    def __init__(self, config: HeldSuarezConfig) -> None:
        try:
            from dinosaur import (
                coordinate_systems,
                held_suarez,
                primitive_equations,
                scales,
                sigma_coordinates,
                spherical_harmonic,
                time_integration,
            )
        except ImportError as error:
            raise UserError(
                f"simulating a climate needs dinosaur ({error}): pip install -e '.[climate]'; "
                "or name files of your own in data.paths"
            ) from None
        import jax
        import jax.numpy as jnp

        self.config = config
        units = scales.units
        # A grid on which products of two fields are free of aliasing: at least 3T + 1 points around.
        grid = spherical_harmonic.Grid.construct(config.truncation, -(-(3 * config.truncation + 1) // 4))
        vertical = sigma_coordinates.SigmaCoordinates.equidistant(config.levels)
        coords = coordinate_systems.CoordinateSystem(grid, vertical)
        physics = primitive_equations.PrimitiveEquationsSpecs.from_si()
        reference = np.full(config.levels, physics.nondimensionalize(_REFERENCE_TEMPERATURE * units.degK))
        dynamics = primitive_equations.PrimitiveEquationsSigma(
            reference, np.zeros(grid.modal_shape, np.float32), coords, physics
        )
        forcing = held_suarez.HeldSuarezForcingSigma(coords, physics, reference)
        equations = time_integration.compose_equations([dynamics, forcing])
        dt = physics.nondimensionalize(config.step_minutes * units.minute)
        # Held and Suarez: ∇⁸ that damps the smallest resolved scale in 0.1 day.
        diffusion = time_integration.horizontal_diffusion_step_filter(
            grid, dt, tau=physics.nondimensionalize(0.1 * units.day), order=4
        )
        step = time_integration.step_with_filters(time_integration.imex_rk_sil3(equations, dt), [diffusion])
        advance = time_integration.repeated(step, config.interval_hours * 60 // config.step_minutes)
        kelvin, pascal, speed, geopotential = (
            float(physics.dimensionalize(1.0, unit).magnitude)
            for unit in (units.degK, units.pascal, units.meter / units.second, units.meter**2 / units.second**2)
        )
        gravity = float(physics.dimensionalize(physics.g, units.meter / units.second**2).magnitude)
        gas_constant = physics.R * geopotential / kelvin  # J kg-1 K-1

        def observe(state: Any) -> dict[str, jax.Array]:
            temperature = grid.to_nodal(state.temperature_variation) * kelvin + _REFERENCE_TEMPERATURE
            u, v = spherical_harmonic.vor_div_to_uv_nodal(grid, state.vorticity, state.divergence)
            pressure = jnp.exp(grid.to_nodal(state.log_surface_pressure)) * pascal
            z500 = height_at_pressure(temperature, pressure, vertical.centers, 5e4, gas_constant, gravity)
            fields = {
                "temperature": temperature,
                "u_component_of_wind": u * speed,
                "v_component_of_wind": v * speed,
                "surface_pressure": pressure[0],
                "z500": z500,
            }
            return {name: jnp.swapaxes(x, -1, -2) for name, x in fields.items()}  # to (latitude, longitude)

        def record(state: Any, _: None) -> tuple[Any, dict[str, jax.Array]]:
            state = advance(state)
            return state, observe(state)

        def initial_state() -> Any:
            # The temperature of equilibrium at rest: storms grow from the noise within two weeks.
            pressure = physics.nondimensionalize(1e5 * units.pascal)
            surface = np.full((1, *grid.nodal_shape), pressure, np.float32)
            noise = np.random.default_rng(config.seed).normal(size=coords.nodal_shape) / kelvin
            variation = forcing.equilibrium_temperature(surface) - reference[:, None, None] + noise
            rest = jnp.zeros(coords.modal_shape, jnp.float32)
            return primitive_equations.State(
                vorticity=rest,
                divergence=rest,
                temperature_variation=grid.to_modal(jnp.asarray(variation, jnp.float32)),
                log_surface_pressure=grid.to_modal(jnp.log(surface)),
            )

        self.total_records = (config.spin_up_days + config.days) * config.records_per_day
        self.records_per_call = min(_CHUNK_DAYS * config.records_per_day, self.total_records)
        self._initial_state = initial_state
        self._run = jax.jit(lambda state: jax.lax.scan(record, state, None, length=self.records_per_call))
        self.latitude = np.rad2deg(np.asarray(grid.latitudes, np.float64))
        self.longitude = np.rad2deg(np.asarray(grid.longitudes, np.float64))
        # The quadrature weights of Gaussian latitudes are the areas of their bands.
        weights = np.polynomial.legendre.leggauss(len(self.latitude))[1]
        self.latitude_edges = np.rad2deg(np.arcsin(np.concatenate([[-1], np.cumsum(weights)[:-1] - 1, [1]])))
        self.sigma, self.sigma_edges = vertical.centers.astype(np.float64), vertical.boundaries.astype(np.float64)

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """Consecutive records from the start of the spin-up, (records_per_call, ...) float32 a field."""
        calls = -(-self.total_records // self.records_per_call)
        state, pending = self._advance(None)
        for call in range(calls):
            ready = pending
            if call + 1 < calls:  # the next block is computed while this one is compressed and written
                state, pending = self._advance(state)
            yield {name: np.asarray(x) for name, x in ready.items()}

    @_fixed_numerics()
    def _advance(self, state: Any) -> Any:
        return self._run(self._initial_state() if state is None else state)


def height_at_pressure(
    temperature: Any, surface_pressure: Any, sigma: np.ndarray, pressure: float, gas_constant: float, gravity: float
) -> Any:
    """Geopotential height of a pressure surface over flat ground.

    The hydrostatic relation dΦ = −R T d ln p with temperature linear in ln p between full levels, which
    is the trapezoidal rule that the dynamical core's own geopotential uses, and constant below the lowest.

    Args:
        temperature: (L, ...) K, top first.
        surface_pressure: (1, ...) Pa.
        sigma: (L,) full levels.
        pressure: Pa; between the highest and lowest full level everywhere.

    Returns:
        (...) m.
    """
    import jax.numpy as jnp

    log_sigma = np.log(np.asarray(sigma, np.float64)).astype(np.float32)
    target = jnp.log(pressure / surface_pressure)[0]
    height = gas_constant * temperature[-1] * -log_sigma[-1]
    for k in range(len(log_sigma) - 1, 0, -1):
        top, bottom = log_sigma[k - 1], log_sigma[k]
        reach = jnp.clip((bottom - target) / (bottom - top), 0, 1)  # the fraction of this layer that lies below
        upper = temperature[k] + reach * (temperature[k - 1] - temperature[k])
        height = height + gas_constant * reach * (bottom - top) * (temperature[k] + upper) / 2
    return height / gravity


def _write(path: Path, model: _Model, progress: Progress | None) -> None:
    import h5netcdf

    config = model.config
    per_day, per_call = config.records_per_day, model.records_per_call
    skip, total = config.spin_up_days * per_day, model.total_records
    if progress:
        progress(0, total // per_day)
    with h5netcdf.File(path, "w") as file:
        _describe(file, model)
        for call, block in enumerate(model.blocks()):
            start = call * per_call
            for name, values in block.items():
                if not np.isfinite(values).all():
                    raise UserError(
                        f"the simulation became unstable: {name} is not finite on day {(start + per_call) // per_day}; "
                        f"choose simulate.time_step_minutes shorter than {config.step_minutes}"
                    )
                first, last = max(start, skip), min(start + per_call, total)
                if first < last:
                    file.variables[name][first - skip : last - skip] = values[first - start : last - start]
            if progress:
                progress(min(start + per_call, total) // per_day, total // per_day)
    with path.open("rb") as file:
        os.fsync(file.fileno())  # the name must not outlive the bytes in a power cut


def _describe(file: Any, model: _Model) -> None:
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
    time = {"units": "hours since 2001-01-01 00:00:00", "calendar": "standard"}
    # In the terms of CF's appendix D: p = ptop + sigma (ps - ptop).
    terms = "sigma: {} ps: surface_pressure ptop: ptop"
    sigma = {"units": "1", "positive": "down", "formula_terms": terms.format("level")}
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

    for name, (standard_name, units, long_name, has_levels) in _FIELDS.items():
        dims = ("time", "level", "latitude", "longitude") if has_levels else ("time", "latitude", "longitude")
        chunks = (min(_CHUNK_DAYS * config.records_per_day, records), *((1,) if has_levels else ()), num_lat, num_lon)
        # fletcher32 makes a flipped bit an error on reading; level 1 is nearly as small as 9 and far quicker.
        variable = file.create_variable(
            name, dims, "f4", chunks=chunks, compression="gzip", compression_opts=1, shuffle=True, fletcher32=True
        )
        variable.attrs.update(standard_name=standard_name, units=units, long_name=long_name, cell_methods="time: point")
        if name == "z500":
            variable.attrs["coordinates"] = "pressure"
