"""The Held–Suarez record: its file, its cache, and whether the climate in it is the published one."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from surrogate.core.types import UserError
from surrogate.data import simulate
from surrogate.data.simulate import HeldSuarezConfig, cache_directory, height_at_pressure, held_suarez
from surrogate.data.simulate_file import FIELDS

TINY = HeldSuarezConfig(truncation=10, levels=4, days=3, spin_up_days=1, interval_hours=12)


def partials(directory: Path) -> list[Path]:
    return list(directory.glob(".*.partial"))


class FakeModel:
    """Stands where the dynamical core does: writes are tested without compiling it."""

    def __init__(self, config: HeldSuarezConfig, bad_record: int | None = None) -> None:
        self.config = config
        self.latitude, self.longitude = np.linspace(-60, 60, 4), np.arange(0, 360, 45.0)
        self.latitude_edges, self.sigma_edges = np.linspace(-90, 90, 5), np.linspace(0, 1, config.levels + 1)
        self.sigma = (self.sigma_edges[1:] + self.sigma_edges[:-1]) / 2
        self.total_records = (config.days + config.spin_up_days) * config.records_per_day
        self.records_per_call = 3
        self.bad_record = bad_record

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, self.total_records, 3):
            records = np.arange(start, start + 3, dtype=np.float32)
            shape = (3, self.config.levels, 4, 8)
            block = {
                name: np.broadcast_to(
                    records.reshape(-1, *[1] * (3 if info[3] else 2)), shape if info[3] else (3, 4, 8)
                )
                for name, info in FIELDS.items()
            }
            if self.bad_record is not None:
                block = {k: np.where(v == self.bad_record, np.nan, v) for k, v in block.items()}
            yield block


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    pytest.importorskip("dinosaur")
    calls: list[tuple[int, int]] = []
    path = held_suarez(TINY, tmp_path_factory.mktemp("cache"), lambda done, total: calls.append((done, total)))
    return path, calls


# --- settings and places ---------------------------------------------------------------------------------------------


def test_every_setting_that_changes_numbers_changes_the_file_name() -> None:
    changed = {
        "truncation": 31, "levels": 9, "days": 10, "spin_up_days": 3, "interval_hours": 12,
        "time_step_minutes": 30, "seed": 1,
    }  # fmt: skip
    assert set(changed) == {f.name for f in dataclasses.fields(HeldSuarezConfig)}
    names = {HeldSuarezConfig().file_name, *(HeldSuarezConfig(**{k: v}).file_name for k, v in changed.items())}
    assert len(names) == len(changed) + 1
    assert HeldSuarezConfig(time_step_minutes=HeldSuarezConfig().step_minutes).file_name == HeldSuarezConfig().file_name


def test_the_time_step_shrinks_with_the_grid_and_divides_the_interval() -> None:
    assert HeldSuarezConfig().step_minutes == 90
    assert HeldSuarezConfig(truncation=42).step_minutes == 45
    assert HeldSuarezConfig(truncation=21, interval_hours=1).step_minutes == 60
    assert HeldSuarezConfig(truncation=85).step_minutes == 20  # 22.2 does not divide 360


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncation": 1}, "simulate.truncation=1 must be a whole number from 5"),
        ({"levels": 8.5}, "simulate.levels=8.5"),
        ({"days": True}, "simulate.days=True"),
        ({"seed": -1}, "simulate.seed=-1"),
        ({"interval_hours": 5}, "does not divide a day"),
        ({"time_step_minutes": 50}, "time_step_minutes=50 must be a whole number of minutes that divides"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        HeldSuarezConfig(**settings)


def test_cache_directory_precedence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SURROGATE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "surrogate"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == tmp_path / ".cache" / "surrogate"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "surrogate"
    monkeypatch.setenv("SURROGATE_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    assert cache_directory("~/here") == tmp_path / "here"


def test_without_dinosaur_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "dinosaur", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[climate\]'"):
        held_suarez(TINY, tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- the height of a pressure surface --------------------------------------------------------------------------------


@pytest.mark.parametrize("lapse", [0.0, 40.0])
def test_height_is_the_hydrostatic_integral(lapse: float) -> None:
    """T = T0 + lapse · ln σ is linear in ln p, where Φ = −R (T0 ln s + lapse ln² s / 2) exactly, s = p / ps."""
    sigma = np.linspace(0.05, 1.0, 12)  # the lowest level at the ground: no layer is extrapolated
    surface_pressure = np.array([[9.7e4, 1.0e5, 1.03e5]])
    temperature = (300 + lapse * np.log(sigma))[:, None] * np.ones(3)
    height = height_at_pressure(temperature, surface_pressure, sigma, 5e4, 287.0, 9.8)
    s = np.log(5e4 / surface_pressure[0])
    np.testing.assert_allclose(height, -287 / 9.8 * (300 * s + lapse * s**2 / 2), rtol=2e-6)


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_file_is_what_it_says(tiny: tuple[Path, list[tuple[int, int]]]) -> None:
    path, calls = tiny
    assert calls == [(0, 4), (4, 4)]
    with xr.open_dataset(path, engine="h5netcdf") as data:
        assert dict(data.sizes) == {"time": 6, "level": 4, "latitude": 16, "longitude": 32, "bounds": 2}
        nodes, weights = np.polynomial.legendre.leggauss(16)
        np.testing.assert_allclose(np.sin(np.deg2rad(data.latitude)), nodes, atol=1e-6)
        np.testing.assert_array_equal(data.level, [0.125, 0.375, 0.625, 0.875])
        np.testing.assert_array_equal(data.time.diff("time"), np.timedelta64(12, "h"))
        for name in ("latitude", "longitude", "level"):
            bounds = data[data[name].attrs["bounds"]].values
            np.testing.assert_array_equal(bounds[1:, 0], bounds[:-1, 1])
            assert ((bounds[:, 0] < data[name]) & (data[name] < bounds[:, 1])).all()
        area = np.diff(np.sin(np.deg2rad(data.latitude_bounds.values)), axis=1)[:, 0]
        np.testing.assert_allclose(area, weights, atol=1e-12)
        assert data.attrs["Conventions"] == "CF-1.11"
        for name, (standard_name, units, _, has_levels) in FIELDS.items():
            assert data[name].attrs["standard_name"] == standard_name
            assert data[name].attrs["units"] == units
            assert data[name].dtype == np.float32
            assert data[name].encoding["fletcher32"]
            assert ("level" in data[name].dims) == has_levels
        assert float(data.z500.pressure) == 500
        # The mass of dry air does not change: its tendency has no global mean.
        mass = (data.surface_pressure.mean("longitude") * xr.DataArray(weights / 2, dims="latitude")).sum("latitude")
        np.testing.assert_allclose(mass, 1e5, rtol=2e-4)
        assert 200 < float(data.temperature.mean()) < 290


def test_a_flipped_bit_in_the_data_is_an_error_on_reading(tiny: tuple[Path, list], tmp_path: Path) -> None:
    import h5py

    copy = tmp_path / "copy.nc"
    content = bytearray(tiny[0].read_bytes())
    with h5py.File(tiny[0]) as file:
        chunk = file["temperature"].id.get_chunk_info(1)
    content[chunk.byte_offset + chunk.size // 2] ^= 0x10
    copy.write_bytes(content)
    with xr.open_dataset(copy, engine="h5netcdf") as data, pytest.raises((OSError, RuntimeError)):
        data.temperature.load()


def test_the_second_time_the_file_is_reused(tiny: tuple[Path, list], monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = tiny
    before = path.stat().st_mtime_ns, sorted(path.parent.iterdir())
    monkeypatch.setattr(simulate, "_Model", None)  # would raise if anything were simulated
    assert held_suarez(TINY, path.parent, lambda *_: pytest.fail("nothing to do")) == path
    assert (path.stat().st_mtime_ns, sorted(path.parent.iterdir())) == before
    assert partials(path.parent) == []


def test_seed_decides_the_initial_state() -> None:
    pytest.importorskip("dinosaur")
    one, same, two = (simulate._Model(dataclasses.replace(TINY, seed=s))._initial_state() for s in (0, 0, 1))
    np.testing.assert_array_equal(one.temperature_variation, same.temperature_variation)
    assert float(abs(one.temperature_variation - two.temperature_variation).max()) > 0
    np.testing.assert_array_equal(one.log_surface_pressure, two.log_surface_pressure)


# --- interruptions and accidents, on a stand-in for the core ---------------------------------------------------------

FAKE = HeldSuarezConfig(levels=3, days=5, spin_up_days=2, interval_hours=24)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "_Model", FakeModel)


def test_spin_up_is_cut_off_where_blocks_do_not_end(fake: None, tmp_path: Path) -> None:
    with xr.open_dataset(held_suarez(FAKE, tmp_path), engine="h5netcdf") as data:
        for name in FIELDS:
            values = data[name].values.reshape(5, -1)
            np.testing.assert_array_equal(values, np.broadcast_to(np.arange(2.0, 7.0)[:, None], values.shape))


def test_an_interrupted_simulation_leaves_nothing(fake: None, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        held_suarez(FAKE, tmp_path, interrupt)
    assert [p.name for p in tmp_path.iterdir()] == [f".{FAKE.file_name}.lock"]
    assert held_suarez(FAKE, tmp_path).exists()  # and the lock does not stay


def test_what_a_killed_process_left_is_cleared(fake: None, tmp_path: Path) -> None:
    (tmp_path / f".{FAKE.file_name}.abc.partial").write_bytes(b"half")
    held_suarez(FAKE, tmp_path)
    assert partials(tmp_path) == []


def test_an_unstable_simulation_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(simulate, "_Model", lambda config: FakeModel(config, bad_record=4))
    with pytest.raises(UserError, match=r"unstable: temperature is not finite on day 6; .*shorter than 90"):
        held_suarez(FAKE, tmp_path)
    assert not (tmp_path / FAKE.file_name).exists()
    assert partials(tmp_path) == []


def test_a_damaged_file_is_named(fake: None, tmp_path: Path) -> None:
    path = held_suarez(FAKE, tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=rf"{FAKE.file_name} is damaged .*delete it"):
        held_suarez(FAKE, tmp_path)
    other = held_suarez(dataclasses.replace(FAKE, seed=9), tmp_path)
    os.replace(other, path)
    with pytest.raises(UserError, match=r"holds .*delete it"):
        held_suarez(FAKE, tmp_path)


def test_a_place_that_cannot_be_written_is_named(fake: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the simulated climate .*file.*File exists; set SURROGATE_CACHE"):
        held_suarez(FAKE, tmp_path / "file")


LIMITED = """
import resource, sys
sys.path.insert(0, {tests!r})
from test_simulate import FAKE, FakeModel, simulate
from surrogate.core.types import UserError
simulate._Model = FakeModel
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    simulate.held_suarez(FAKE, {cache!r})
except UserError as error:
    print(error)
    raise SystemExit(2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """A limit on the size of a file fails a write as a full disk does, with EFBIG instead of ENOSPC."""
    code = LIMITED.format(tests=str(Path(__file__).parent), cache=str(tmp_path))
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith(f"cannot write the simulated climate {tmp_path / FAKE.file_name}: ")
    assert len(done.stdout.splitlines()) == 1
    assert partials(tmp_path) == []


# --- slow: bits, two processes, and the climate ----------------------------------------------------------------------


@pytest.mark.slow
def test_the_numbers_do_not_depend_on_the_callers_precision(tiny: tuple[Path, list]) -> None:
    import jax

    with jax.enable_x64(True):
        block = next(iter(simulate._Model(TINY).blocks()))
    with xr.open_dataset(tiny[0], engine="h5netcdf") as data:
        for name in FIELDS:
            np.testing.assert_array_equal(block[name][2:8], data[name].values)


RACER = """
from surrogate.data.simulate import HeldSuarezConfig, held_suarez
calls = []
print(held_suarez({config!r}, {cache!r}, lambda *a: calls.append(a)), len(calls))
"""


@pytest.mark.slow
def test_two_processes_at_once_simulate_once(tiny: tuple[Path, list], tmp_path: Path) -> None:
    code = RACER.format(config=TINY, cache=str(tmp_path))
    root = Path(__file__).parents[2]
    racers = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(2)
    ]
    results = [racer.communicate(timeout=300)[0].split() for racer in racers]
    assert [r[0] for r in results] == [str(tmp_path / TINY.file_name)] * 2
    assert sorted(int(r[1]) for r in results) == [0, 2]
    # Another process with the same seed: the same bytes, coordinates and attributes included.
    assert (tmp_path / TINY.file_name).read_bytes() == tiny[0].read_bytes()


@pytest.mark.slow
def test_the_climate_is_the_published_one(tmp_path: Path) -> None:
    """Held and Suarez (1994), figures 1 to 3, within what 32 × 64 points and 60 days allow."""
    pytest.importorskip("dinosaur")
    with xr.open_dataset(held_suarez(HeldSuarezConfig(days=60, spin_up_days=120), tmp_path), engine="h5netcdf") as data:
        wind = data.u_component_of_wind.mean(("time", "longitude")).values
        warmth = data.temperature.mean(("time", "longitude")).values
        eddies = ((data.temperature - data.temperature.mean("longitude")) ** 2).mean(("time", "longitude")).values
        height = data.z500.mean(("time", "longitude")).values
        lat, sigma = data.latitude.values, data.level.values
    tropics = abs(lat) < 12
    for hemisphere in (lat < -20, lat > 20):
        level, column = np.unravel_index(np.argmax(np.where(hemisphere, wind, -np.inf)), wind.shape)
        assert 22 < wind[level, column] < 38  # the jet
        assert 35 < abs(lat[column]) < 55
        assert sigma[level] < 0.4
        assert 4 < np.where(hemisphere, wind, 0)[-1].max() < 14  # westerlies at the ground
    assert wind[-1][(abs(lat) > 12) & (abs(lat) < 25)].mean() < -3  # trades
    assert abs(wind[:, tropics]).max() < 9
    assert 300 < warmth[-1, tropics].mean() < 310
    assert 190 < warmth[0].min() < 203
    middle = (abs(lat) > 35) & (abs(lat) < 60)
    assert eddies[-2, middle].mean() > 8
    assert eddies[:-2, tropics].max() < 2  # no overturning at the grid scale
    # Thermal wind: ∂u/∂ln σ = (R / a f) ∂T/∂φ, from the middle of the storms to the tropopause.
    coriolis = 2 * 7.292e-5 * np.sin(np.deg2rad(lat))
    gradient = np.gradient(warmth, np.deg2rad(lat), axis=1)[2:6].mean(0) * 287 / (6.371e6 * coriolis)
    shear = (wind[5] - wind[2]) / np.log(sigma[5] / sigma[2])
    np.testing.assert_allclose(shear[middle], gradient[middle], atol=2.5)
    # Geostrophy at 500 hPa, between the levels 0.4375 and 0.5625.
    geostrophic = -9.81 / (6.371e6 * coriolis) * np.gradient(height, np.deg2rad(lat))
    np.testing.assert_allclose(geostrophic[middle], wind[3:5].mean(0)[middle], atol=2.5)
