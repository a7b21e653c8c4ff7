"""Times: calendars, units, order, gaps and repeats."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr

from surrogate.core.durations import Duration
from surrogate.core.types import UserError
from surrogate.data.netcdf import TrajectoryData, VariableRequest, load_variable, open_trajectory
from surrogate.data.timeaxis import decode_times, spacing


def write(path: Path, times: np.ndarray, units: str, calendar: str | None = "standard", value: float = 0.0) -> Path:
    """A field on 3 × 4 cells whose value at every time is ``value`` plus the stored time's index."""
    data = value + np.arange(len(times), dtype=np.float32)[:, None, None] + np.zeros((1, 3, 4), np.float32)
    attrs = {"units": units} | ({} if calendar is None else {"calendar": calendar})
    xr.Dataset(
        {"tas": (("time", "lat", "lon"), data, {"units": "K"})},
        {
            "time": ("time", times, attrs),
            "lat": ("lat", [-30.0, 0.0, 30.0], {"units": "degrees_north"}),
            "lon": ("lon", [0.0, 90.0, 180.0, 270.0], {"units": "degrees_east"}),
        },
    ).to_netcdf(path, engine="scipy")
    return path


def read(path: Path | str, **options: bool) -> TrajectoryData:
    return open_trajectory(str(path), [VariableRequest("tas")], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("units", "calendar", "number", "expected"),
    [
        # Each expectation is counted by hand in the calendar's own rules.
        ("days since 2000-02-28", "noleap", 1, (2000, 3, 1)),
        ("days since 2000-02-28", "standard", 1, (2000, 2, 29)),
        ("days since 1999-02-28", "all_leap", 1, (1999, 2, 29)),
        ("days since 2000-02-30", "360_day", 1, (2000, 3, 1)),
        ("days since 1900-02-28", "julian", 1, (1900, 2, 29)),
        ("days since 1900-02-28", "proleptic_gregorian", 1, (1900, 3, 1)),
        # The day after 4 October 1582 was 15 October in the mixed calendar alone.
        ("days since 1582-10-04", "standard", 1, (1582, 10, 15)),
        ("days since 1582-10-04", "proleptic_gregorian", 1, (1582, 10, 5)),
        ("days since 0001-01-01", "noleap", 365, (2, 1, 1)),
        ("days since 0000-01-01", "noleap", 365, (1, 1, 1)),
        ("days since 0000-01-01", "360_day", 0, (0, 1, 1)),
        ("hours since 1850-01-01 12:00", "365_day", 12, (1850, 1, 2)),
        ("months since 1950-11-01", "standard", 3, (1951, 2, 1)),
        ("years since 1950-01-01", "noleap", 7, (1957, 1, 1)),
        ("day as %Y%m%d.%f", "standard", 19790228.5, (1979, 2, 28)),
        ("days since 9999-12-31", "proleptic_gregorian", 1, (10000, 1, 1)),
    ],
)
def test_calendars_are_counted_right(units: str, calendar: str, number: float, expected: tuple[int, int, int]) -> None:
    times, _ = decode_times(np.array([number]), {"units": units, "calendar": calendar}, "file")
    first = times[0]
    got = (
        (first.year, first.month, first.day)
        if times.dtype == object
        else tuple(int(v) for v in str(first)[:10].split("-"))
    )
    assert got == expected


@pytest.mark.parametrize(
    ("units", "calendar", "reason"),
    [
        ("wibble", "standard", "wibble"),
        ("days", "standard", "do not say a date"),
        ("days since 0000-00-00", "noleap", "not a date"),
        ("days since 1950-01-01", "", "calendar ''"),
        ("days since 1950-01-01", "lunar", "lunar"),
        ("fortnights since 1950-01-01", "standard", "fortnights"),
    ],
)
def test_units_that_say_no_date_are_refused(tmp_path: Path, units: str, calendar: str, reason: str) -> None:
    path = write(tmp_path / "a.nc", np.arange(4.0), units, calendar)
    with pytest.raises(UserError, match=reason) as refusal:
        read(path)
    assert "a.nc" in str(refusal.value)
    raw = read(path, raw_time=True)
    np.testing.assert_array_equal(raw.timeline.time, np.arange(4.0))
    assert raw.calendar == "none"
    assert raw.time_step is None


def test_fractions_of_a_month_are_refused_but_its_middle_is_not() -> None:
    attrs = {"units": "months since 1960-01-01"}
    times, _ = decode_times(np.array([0.5, 1.5]), attrs, "file")
    assert [str(t)[:7] for t in times] == ["1960-01", "1960-02"]
    with pytest.raises(UserError, match="fractions of a month"):
        decode_times(np.array([0.3]), attrs, "file")


def test_six_hourly_days_as_floats_are_exact() -> None:
    times, _ = decode_times(np.arange(4000) / 4 + 1 / 24, {"units": "days since 1979-01-01"}, "file")
    assert (np.diff(times) == np.timedelta64(6, "h")).all()
    assert str(times[0])[:19] == "1979-01-01T01:00:00"
    single, _ = decode_times(
        (np.arange(400) / 4).astype(np.float32) + 20000, {"units": "days since 1950-01-01"}, "file"
    )
    assert spacing(single)[0] == Duration(seconds=21600)


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day", "julian", "all_leap", "proleptic_gregorian"])
@pytest.mark.parametrize("stamp", ["start", "middle", "end", "last day", "about the middle", "day 20"])
def test_months_are_recognised_in_any_calendar(calendar: str, stamp: str) -> None:
    times = []
    for month in range(30):
        first = cftime.datetime(1899 + month // 12, month % 12 + 1, 1, calendar=calendar)
        following = cftime.datetime(1899 + (month + 1) // 12, (month + 1) % 12 + 1, 1, calendar=calendar)
        length = following - first
        stamps = {
            "start": first,
            "middle": first + length / 2,
            "end": following - length / 1000,
            "last day": following - datetime.timedelta(days=1),
            "about the middle": first + datetime.timedelta(days=length.days // 2),
            "day 20": first.replace(day=20),
        }
        times.append(stamps[stamp])
    step, segment = spacing(np.array(times, object))
    assert step == Duration(months=1)
    assert set(segment) == {0}
    del times[7]
    step, segment = spacing(np.array(times, object))
    assert step == Duration(months=1)
    assert segment.tolist() == [0] * 7 + [1] * 22


def test_daily_steps_are_not_months_and_gaps_break() -> None:
    days = np.array([0, 1, 2, 5, 6, 7, 8])
    times = np.datetime64("2001-02-26", "ns") + days.astype("timedelta64[D]")
    step, segment = spacing(times)
    assert step == Duration(seconds=86400)
    assert segment.tolist() == [0, 0, 0, 1, 1, 1, 1]
    irregular = np.datetime64("2001-01-01", "ns") + np.array([0, 1, 3, 7, 12]).astype("timedelta64[D]")
    assert spacing(irregular)[0] is None
    assert len(set(spacing(irregular)[1])) == 5


def test_files_are_joined_by_time_not_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.nc", np.arange(4, 8), "days since 2000-01-01", value=104)
    write(tmp_path / "b.nc", np.arange(4), "days since 2000-01-01", value=100)
    write(tmp_path / "c.nc", np.arange(0, 72, 24), "hours since 2000-01-11", value=110)
    with caplog.at_level(logging.WARNING):
        data = read(tmp_path)
    np.testing.assert_array_equal(
        load_variable(data, "tas", allow_missing=False)[:, 1, 2], [*range(100, 108), 110, 111, 112]
    )
    names = [Path(data.timeline.files[i]).name for i in data.timeline.source]
    assert names == ["b.nc"] * 4 + ["a.nc"] * 4 + ["c.nc"] * 3
    assert data.timeline.segment.tolist() == [0] * 8 + [1] * 3
    assert "2000-01-08" in caplog.text
    assert "2000-01-11" in caplog.text
    assert "gap" in caplog.text


def test_interleaved_and_descending_times(tmp_path: Path) -> None:
    write(tmp_path / "even.nc", np.array([6, 4, 2, 0]), "days since 2000-01-01", value=0)
    write(tmp_path / "odd.nc", np.array([1, 3, 5]), "days since 2000-01-01", value=10)
    data = read(tmp_path / "*.nc")
    np.testing.assert_array_equal(load_variable(data, "tas", allow_missing=False)[:, 0, 0], [3, 10, 2, 11, 1, 12, 0])
    assert data.time_step == Duration(seconds=86400)


def test_a_repeated_time_names_both_files(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", np.arange(4), "days since 2000-01-01")
    write(tmp_path / "b.nc", np.arange(3, 6), "days since 2000-01-01")
    with pytest.raises(UserError, match=r"2000-01-04.*a\.nc.*b\.nc"):
        read(tmp_path)


def test_missing_times_and_mixed_calendars(tmp_path: Path) -> None:
    write(tmp_path / "nan.nc", np.array([0.0, np.nan, 2.0]), "days since 2000-01-01")
    with pytest.raises(UserError, match=r"nan\.nc.*1 of 3 times are missing.*index 1"):
        read(tmp_path / "nan.nc")
    write(tmp_path / "a.nc", np.arange(3), "days since 2000-01-01", "noleap")
    write(tmp_path / "b.nc", np.arange(3, 6), "days since 2000-01-01", "360_day")
    with pytest.raises(UserError, match=r"b\.nc.*'360_day'.*'noleap'.*a\.nc"):
        read(tmp_path / "[ab].nc")


def test_files_on_both_sides_of_what_nanoseconds_hold(tmp_path: Path) -> None:
    write(tmp_path / "old.nc", np.arange(3), "days since 1677-12-30", "proleptic_gregorian", 0)
    write(tmp_path / "new.nc", np.arange(3, 6), "days since 1677-12-30", "proleptic_gregorian", 3)
    data = read(tmp_path)
    np.testing.assert_array_equal(load_variable(data, "tas", allow_missing=False)[:, 0, 0], np.arange(6))
    assert data.time_step == Duration(seconds=86400)
    assert str(data.timeline.time[-1])[:10] == "1678-01-04"


def test_variables_with_other_times_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "tas.nc", np.arange(4), "days since 2000-01-01")
    other = xr.open_dataset(write(tmp_path / "x", np.arange(3), "days since 2000-01-01"), engine="scipy")
    other.rename(tas="pr").to_netcdf(tmp_path / "pr.nc", engine="h5netcdf")
    with pytest.raises(UserError, match=r"'pr' has 3 times.*'tas' has 4 times"):
        open_trajectory(str(tmp_path / "*.nc"), [VariableRequest("tas"), VariableRequest("pr")])


def test_packed_times_are_unpacked() -> None:
    attrs = {"units": "hours since 2000-01-01", "scale_factor": 6.0, "add_offset": 24.0}
    times, _ = decode_times(np.arange(3, dtype=np.int16), attrs, "file")
    assert [str(t)[:13] for t in times] == ["2000-01-02T00", "2000-01-02T06", "2000-01-02T12"]


@pytest.mark.parametrize("scalar", [False, True])
def test_a_forecast_is_dated_by_when_it_is_valid(tmp_path: Path, scalar: bool) -> None:
    path = write(tmp_path / "a.nc", np.arange(1 if scalar else 4), "days since 2000-01-01")
    dataset = xr.open_dataset(path, decode_times=False, engine="scipy").load()
    dataset["valid_time"] = dataset["time"] + 2
    dataset["valid_time"].attrs = dict(dataset["time"].attrs, standard_name="time")
    if scalar:
        dataset = dataset.isel(time=0)
    dataset.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    assert str(read(tmp_path / "b.nc").timeline.time[0])[:10] == "2000-01-03"
