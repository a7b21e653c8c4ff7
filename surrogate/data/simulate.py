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

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.cache import cache_directory, write_once
from surrogate.data.simulate_file import CHUNK_DAYS, FORMAT_VERSION, Progress, check_record, write_record

_REFERENCE_TEMPERATURE = 288.0  # K; above the actual temperatures, which the semi-implicit scheme needs


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
                raise UserError(f"data.simulate.{name}={value!r} must be a whole number from {low} to {high}")
        if 24 % self.interval_hours:
            raise UserError(f"data.simulate.interval_hours={self.interval_hours} does not divide a day of 24 hours")
        step = self.time_step_minutes
        if step is not None and (not isinstance(step, int) or step < 1 or (self.interval_hours * 60) % step):
            raise UserError(
                f"data.simulate.time_step_minutes={step!r} must be a whole number of minutes that divides "
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
    return write_once(
        cache_directory(cache_dir) / config.file_name,
        check=lambda path: check_record(path, config),
        prepare=lambda: _Model(config),
        write=lambda path, model: write_record(path, model, progress),
        what="climate",
    )


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
        self.records_per_call = min(CHUNK_DAYS * config.records_per_day, self.total_records)
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
