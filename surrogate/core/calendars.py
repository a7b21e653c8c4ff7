"""Times in any calendar: numpy ``datetime64`` and cftime objects through the same few functions.

A time axis is an (T,) array of ``datetime64`` or an object array of cftime datetimes; a table of
samples without time has integers, for which only :func:`has_calendar` is defined.
"""

from __future__ import annotations

import re
from typing import Any

import cftime
import numpy as np

from surrogate.core.durations import Duration
from surrogate.core.types import UserError


def has_calendar(time: np.ndarray) -> bool:
    """Whether the axis holds dates, not sample numbers."""
    return time.dtype.kind in "MO"


def fields_of(time: np.ndarray) -> np.ndarray:
    """Year, month, day, hour, minute, second of each time: (T, 6) int64."""
    if time.dtype.kind == "M":
        # Calendar fields by truncation to coarser datetime units, exact for the proleptic Gregorian axis.
        seconds = time.astype("datetime64[s]")
        days, months, years = (seconds.astype(f"datetime64[{u}]") for u in "DMY")
        clock = (seconds - days).astype("timedelta64[s]").astype(np.int64)
        return np.stack(
            [
                years.astype(np.int64) + 1970,
                (months - years).astype(np.int64) + 1,
                (days - months.astype("datetime64[D]")).astype(np.int64) + 1,
                clock // 3600, clock // 60 % 60, clock % 60,
            ],
            axis=-1,
        )  # fmt: skip
    return np.array([[t.year, t.month, t.day, t.hour, t.minute, t.second] for t in time], np.int64).reshape(-1, 6)


def month_of(time: np.ndarray) -> np.ndarray:
    """Calendar month from 0 (January) to 11, (T,) int."""
    return fields_of(time)[:, 1] - 1


def day_fraction(time: np.ndarray) -> np.ndarray:
    """Time of day as a fraction in [0, 1), (T,) float64."""
    clock = fields_of(time)[:, 3:] @ np.array([3600, 60, 1])
    return clock / 86400.0


def year_fraction(time: np.ndarray) -> np.ndarray:
    """Time of year as a fraction in [0, 1), by the calendar's own year length, (T,) float64."""
    if time.dtype.kind == "M":
        years = time.astype("datetime64[Y]")
        start, end = years.astype("datetime64[s]"), (years + np.timedelta64(1, "Y")).astype("datetime64[s]")
        return (time.astype("datetime64[s]") - start) / (end - start)
    days = np.array([t.dayofyr - 1 for t in time], np.float64)
    length = np.array([cftime.datetime(t.year, 12, 30 if t.calendar == "360_day" else 31,
                                       calendar=t.calendar, has_year_zero=t.has_year_zero).dayofyr
                       for t in time], np.float64)  # fmt: skip
    return (days + day_fraction(time)) / length


def _codes(fields: np.ndarray) -> np.ndarray:
    """One integer a date, in the order of dates."""
    code = np.zeros(fields.shape[:-1], np.int64)
    for column, size in enumerate((1, 13, 32, 24, 60, 60)):
        code = code * size + fields[..., column]
    return code


_DATE = re.compile(r"(-?\d{1,5})(?:-(\d{1,2}))?(?:-(\d{1,2}))?(?:[T ](\d{1,2}))?(?::(\d{2}))?(?::(\d{2}))?$")


def between(time: np.ndarray, start: Any, end: Any) -> np.ndarray:
    """Which times lie in the inclusive range of dates: (T,) bool.

    ``start`` and ``end`` are ISO dates that may stop early: ``1999-12`` as an end means all of December.

    Raises:
        UserError: when a bound is not a date, or the axis has no dates.
    """
    if not has_calendar(time):
        raise UserError(f"the samples have no dates, so [{start}, {end}] cannot select any; use fractions")
    codes = _codes(fields_of(time))
    low, high = _bound(start, (1, 1, 0, 0, 0)), _bound(end, (12, 31, 23, 59, 59))
    return (codes >= low) & (codes <= high)


def _bound(text: Any, missing: tuple[int, ...]) -> int:
    match = _DATE.match(str(text).strip())
    if not match:
        raise UserError(f"{text!r} is not a date; write it like 1999, 1999-12 or 1999-12-31T18")
    given = [int(g) if g is not None else None for g in match.groups()]
    parts = [given[0]] + [m if g is None else g for g, m in zip(given[1:], missing, strict=True)]
    if not (1 <= parts[1] <= 12 and 1 <= parts[2] <= 31 and parts[3] < 24):  # type: ignore[operator]
        raise UserError(f"{text!r} is not a date: month, day or hour is out of range")
    return int(_codes(np.array(parts, np.int64)))


def advance(time: Any, step: Duration, number: int = 1) -> Any:
    """The date ``number`` steps after one date (``datetime64`` or cftime).

    Calendar months keep the day of the month, or the month's last day where it is shorter.
    """
    if isinstance(time, np.datetime64):
        if step.months:
            month = time.astype("datetime64[M]")
            target = month + np.timedelta64(step.months * number, "M")
            offset = time - month.astype(time.dtype)
            last = (target + np.timedelta64(1, "M")).astype("datetime64[D]") - np.timedelta64(1, "D")
            day = np.minimum(target.astype("datetime64[D]") + offset.astype("timedelta64[D]"), last)
            return (day.astype(time.dtype) + (offset - offset.astype("timedelta64[D]"))).astype(time.dtype)
        return time + np.timedelta64(step.seconds * number, "s")
    if step.months:
        total = time.year * 12 + time.month - 1 + step.months * number
        year, month = divmod(total, 12)
        for day in range(time.day, 27, -1):
            try:
                return time.replace(year=year, month=month + 1, day=day)
            except ValueError:
                continue
        return time.replace(year=year, month=month + 1)
    from datetime import timedelta

    return time + timedelta(seconds=step.seconds * number)


def calendar_of(time: np.ndarray) -> str:
    """CF name of the axis' calendar; ``none`` for sample numbers."""
    if time.dtype.kind == "M":
        return "proleptic_gregorian"
    return str(time[0].calendar) if len(time) and time.dtype.kind == "O" else "none"
