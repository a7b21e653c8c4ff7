"""Durations, calendars, units and specs against values worked out by hand or by another library."""

from __future__ import annotations

import cftime
import numpy as np
import pandas as pd
import pytest

from surrogate.core.calendars import advance, between, day_fraction, fields_of, month_of, year_fraction
from surrogate.core.durations import Duration
from surrogate.core.spec import Grid, Spec, Variable, parse_variable
from surrogate.core.types import UserError
from surrogate.core.units import canonical_units, same_units


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("6h", "PT6H"), ("1D", "P1D"), ("24h", "P1D"), ("3M", "P3M"), ("1y", "P12M"), ("10min", "PT10M"),
        ("PT6H", "PT6H"), ("P1DT12H", "P1DT12H"), ("P3M", "P3M"), ("2W", "P14D"), ("0", "PT0S"), ("PT30M", "PT30M"),
    ],
)  # fmt: skip
def test_durations_are_read_and_written_as_iso(text: str, iso: str) -> None:
    assert str(Duration.parse(text)) == iso
    assert Duration.parse(iso) == Duration.parse(text)


@pytest.mark.parametrize("text", ["", "5", "3 parsecs", "-1D", "P", "1M2D", "P1M1D"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        Duration.parse(text)


def test_steps_are_whole() -> None:
    assert Duration.parse("5D").steps_of(Duration.parse("6h")) == 20
    assert Duration.parse("6M").steps_of(Duration.parse("1M")) == 6
    for lead, step in (("1D", "7h"), ("1M", "1D"), ("1D", "1M")):
        with pytest.raises(ValueError, match="whole number of time steps"):
            Duration.parse(lead).steps_of(Duration.parse(step))


def test_calendar_fields_agree_with_pandas() -> None:
    index = pd.date_range("1895-11-27T01:02:03", "2104-03-05", freq="997h")
    time = index.to_numpy().astype("datetime64[ns]")
    expected = np.stack([index.year, index.month, index.day, index.hour, index.minute, index.second], axis=-1)
    np.testing.assert_array_equal(fields_of(time), expected)
    np.testing.assert_array_equal(month_of(time), index.month - 1)
    np.testing.assert_allclose(day_fraction(time), (index.hour * 3600 + index.minute * 60 + index.second) / 86400)
    days = np.where(index.is_leap_year, 366, 365)
    np.testing.assert_allclose(year_fraction(time), (index.day_of_year - 1 + day_fraction(time)) / days)


@pytest.mark.parametrize(
    ("calendar", "length"), [("noleap", 365), ("360_day", 360), ("julian", 366), ("standard", 366)]
)
def test_the_year_has_the_calendars_length(calendar: str, length: int) -> None:
    first, last = (cftime.datetime(4, *md, calendar=calendar, has_year_zero=True) for md in ((1, 1), (12, 30)))
    fraction = year_fraction(np.array([first, last], object))
    assert fraction[0] == 0
    assert fraction[1] == pytest.approx((last.dayofyr - 1) / length)


def test_bounds_are_inclusive_to_the_precision_given() -> None:
    time = pd.date_range("1999-11-01", "2000-03-01", freq="6h").to_numpy()
    chosen = time[between(time, "1999-12", "2000-01")]
    assert (chosen[0], chosen[-1]) == (np.datetime64("1999-12-01T00"), np.datetime64("2000-01-31T18"))
    assert between(time, 2000, 2000).sum() == (time >= np.datetime64("2000-01-01")).sum()
    early = np.array([cftime.DatetimeNoLeap(101, m, 16) for m in range(1, 13)], object)
    assert between(early, "0101-02", "0101-03").sum() == 2


@pytest.mark.parametrize("bad", ["spring", "1999-13", "1999-02-40", "99999999"])
def test_what_is_no_date_is_named(bad: str) -> None:
    with pytest.raises(UserError, match=bad):
        between(np.array(["2000-01-01"], "datetime64[ns]"), bad, "2001")


def test_advancing_by_months_keeps_the_day_or_takes_the_last() -> None:
    january = np.datetime64("2000-01-31T12", "ns")
    assert advance(january, Duration(months=1)) == np.datetime64("2000-02-29T12")
    assert advance(january, Duration(months=1), 12) == np.datetime64("2001-01-31T12")
    noleap = cftime.DatetimeNoLeap(2000, 1, 31)
    assert advance(noleap, Duration(months=1)) == cftime.DatetimeNoLeap(2000, 2, 28)
    thirty = cftime.Datetime360Day(2000, 1, 30)
    assert advance(thirty, Duration(months=1)) == cftime.Datetime360Day(2000, 2, 30)
    assert advance(noleap, Duration.parse("6h"), 4) == cftime.DatetimeNoLeap(2000, 2, 1)


def test_areas_are_those_of_the_sphere() -> None:
    lat = np.linspace(-90, 90, 181)
    area = Grid(tuple(lat), tuple(range(0, 360, 10))).area_weights()
    assert area.mean() == pytest.approx(1)
    # The mean of sin²φ over a sphere is 1/3.
    assert (area * np.sin(np.deg2rad(lat))[:, None] ** 2).mean() == pytest.approx(1 / 3, rel=1e-3)
    assert area[0, 0] == pytest.approx(area[-1, 0])
    edges = np.sin(np.deg2rad([-90, -89.5]))
    assert area[0, 0] / area.sum() == pytest.approx((edges[1] - edges[0]) / 2 / 36, rel=1e-9)


def test_units_that_mean_the_same() -> None:
    assert canonical_units("m/s") == canonical_units("m s**-1") == canonical_units("m s-1") == "m s-1"
    assert same_units("W/m^2", "W m-2")
    assert same_units("degC", "Celsius")
    for a, b in (("K", "degC"), ("Pa", "hPa"), ("m", "mm"), ("m s-1", "m s-2")):
        assert not same_units(a, b)


def test_a_spec_survives_json() -> None:
    spec = Spec(
        (Variable("t", "prognostic", "K", 500.0, "hPa"), Variable("z", "static", "m")),
        Grid((0.0, 1.0), (0.0, 1.0), "plane", False), Duration.parse("6h"), "noleap", 2,
    )  # fmt: skip
    again = Spec.from_dict(spec.to_dict())
    assert again == spec
    assert again.keys == ("t@500",)


def test_a_variable_cannot_be_listed_twice() -> None:
    with pytest.raises(ValueError, match="'t' is listed twice"):
        Spec((Variable("t", "prognostic"), Variable("t", "forcing")), Grid((0.0,), (0.0,)), Duration(seconds=1))
    assert parse_variable("t@500") == ("t", 500.0)
    with pytest.raises(ValueError, match="not a number"):
        parse_variable("t@high")
