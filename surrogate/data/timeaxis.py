"""Time coordinates: numbers with units to dates in any calendar, the spacing, and where it breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
import re
from typing import Any

import cftime
import numpy as np

from surrogate.core.durations import Duration
from surrogate.core.types import UserError

CALENDARS = {
    "standard": "standard", "gregorian": "standard", "proleptic_gregorian": "proleptic_gregorian",
    "noleap": "noleap", "365_day": "noleap", "all_leap": "all_leap", "366_day": "all_leap",
    "360_day": "360_day", "360": "360_day", "julian": "julian",
}  # fmt: skip
_SECONDS = {
    "ns": 1e-9, "nanosecond": 1e-9, "us": 1e-6, "microsecond": 1e-6, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3,
    "s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600,
    "d": 86400, "day": 86400, "week": 604800,
}  # fmt: skip
_MONTHS = {"month": 1, "mon": 1, "year": 12, "yr": 12}
_SINCE = re.compile(r"\s*([A-Za-z]+)\s+since\s+(\S.*?)\s*$", re.IGNORECASE)
# Dates that datetime64[ns] can hold, with room at both ends.
_NANOSECONDS = (np.datetime64("1678-01-01"), np.datetime64("2262-01-01"))


def decode_times(raw: np.ndarray, attrs: Mapping[str, Any], where: str) -> tuple[np.ndarray, str]:
    """Dates of a time coordinate.

    Args:
        raw: (T,) numbers as stored.
        attrs: ``units``, ``calendar``, ``_FillValue`` and ``missing_value`` of the coordinate.
        where: file and coordinate, for messages.

    Returns:
        (T,) ``datetime64[ns]`` for Gregorian dates between 1678 and 2261, otherwise cftime objects;
        and the calendar's CF name (``gregorian`` becomes ``standard``, ``365_day`` ``noleap``).

    Raises:
        UserError: for missing times, units or calendars that do not say a date.
    """
    raw = numbers(raw, attrs, where)
    units = str(attrs.get("units", ""))
    named = str(attrs.get("calendar", "standard"))
    calendar = CALENDARS.get(named.strip().lower())
    if calendar is None:
        raise UserError(f"{where}: calendar {named!r} is not a CF calendar; {_RAW}")
    if units.strip().lower().startswith("day as %y%m%d"):
        return to_nanoseconds(_absolute_days(raw, calendar, where), calendar), calendar
    match = _SINCE.match(units)
    if not match:
        raise UserError(
            f"{where}: units {units!r} do not say a date (expected such as 'days since 1950-01-01'); {_RAW}"
        )
    unit, reference = match[1].lower(), match[2]
    short = unit if unit in _SECONDS or unit in _MONTHS else unit.removesuffix("s")
    try:
        origin = cftime.num2date(0, f"seconds since {reference}", calendar, only_use_cftime_datetimes=True)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where}: the reference date of units {units!r} is not a date ({error}); {_RAW}") from None
    try:
        if short in _MONTHS:
            return to_nanoseconds(_whole_months(raw, _MONTHS[short], origin, where, units), calendar), calendar
        if short in _SECONDS:
            return _fixed_units(raw, _SECONDS[short], origin, calendar), calendar
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where}: units {units!r} do not decode in calendar {calendar!r} ({error}); {_RAW}") from None
    raise UserError(f"{where}: units {units!r} have no known unit of time; {_RAW}")


_RAW = "raw_time reads the numbers as they are"


def numbers(raw: np.ndarray, attrs: Mapping[str, Any], where: str) -> np.ndarray:
    """(T,) times as numbers, unpacked.

    Raises:
        UserError: for text, and for times that are NaN or marked as missing.
    """
    if raw.dtype.kind not in "iuf":
        raise UserError(f"{where}: the time coordinate holds text, not numbers with units")
    values = np.asarray(raw, np.float64)
    bad = ~np.isfinite(values)
    for name in ("_FillValue", "missing_value"):
        for fill in np.atleast_1d(attrs.get(name, [])):
            if isinstance(fill, (int, float, np.number)):
                bad |= values == float(fill)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise UserError(f"{where}: {int(bad.sum())} of {len(raw)} times are missing, the first at index {first}")
    if "scale_factor" in attrs or "add_offset" in attrs:
        scale, offset = (float(np.ravel(attrs.get(k, d))[0]) for k, d in (("scale_factor", 1), ("add_offset", 0)))
        return values * scale + offset
    return raw


def _fixed_units(raw: np.ndarray, unit: float, origin: Any, calendar: str) -> np.ndarray:
    # Milliseconds as integers: a day given as a float is not exact in binary, a step must be.
    exact = raw.dtype.kind in "iu" and unit >= 1
    milliseconds = raw.astype(np.int64) * int(unit * 1000) if exact else np.rint(raw.astype(np.float64) * unit * 1000)
    if raw.dtype == np.float32 and unit >= 60:
        # Seven digits of a date in days resolve minutes at best.
        resolution = max(1.0, 10 ** np.ceil(np.log10(np.spacing(np.abs(raw).max()) * unit)))
        step = 60_000 if resolution <= 60 else 3_600_000
        milliseconds = np.rint(milliseconds / step) * step
    whole = np.asarray(milliseconds, np.int64)
    if calendar in ("standard", "proleptic_gregorian") and origin.year >= 1678 and origin.year < 2262:
        start = np.datetime64(origin.isoformat(), "ms")
        limit = 600 * 366 * 86_400_000
        if len(whole) == 0 or np.abs(whole).max() < limit:
            dates = start + whole.astype("timedelta64[ms]")
            if len(dates) == 0 or (dates.min() >= _NANOSECONDS[0] and dates.max() < _NANOSECONDS[1]):
                return dates.astype("datetime64[ns]")
    stamp = origin.strftime("%Y-%m-%d %H:%M:%S").strip()
    dates = cftime.num2date(
        whole,
        f"milliseconds since {stamp}",
        calendar,
        only_use_cftime_datetimes=True,
        has_year_zero=origin.has_year_zero,
    )
    return to_nanoseconds(np.asarray(dates, object), calendar)


def _whole_months(raw: np.ndarray, months: int, origin: Any, where: str, units: str) -> np.ndarray:
    counts = np.asarray(raw, np.float64) * months
    halves = np.rint(counts * 2)
    if np.abs(counts * 2 - halves).max(initial=0) > 1e-6:
        raise UserError(f"{where}: units {units!r} with fractions of a month, which have no fixed length; {_RAW}")
    dates = []
    for half in halves.astype(int):
        index = origin.year * 12 + origin.month - 1 + half // 2
        date = origin.replace(year=index // 12, month=index % 12 + 1)
        if half % 2:
            following = (index + 1) // 12, (index + 1) % 12 + 1
            date = date + (origin.replace(year=following[0], month=following[1]) - date) / 2
        dates.append(date)
    return np.array(dates, object)


def _absolute_days(raw: np.ndarray, calendar: str, where: str) -> np.ndarray:
    dates = []
    for number in np.asarray(raw, np.float64):
        day = int(np.floor(number + 1e-9))
        try:
            date = cftime.datetime(day // 10000, day // 100 % 100, day % 100, calendar=calendar)
        except ValueError as error:
            raise UserError(f"{where}: {number} is not a day as %Y%m%d.%f ({error})") from None
        seconds = round((number - day) * 86400)
        dates.append(date if seconds <= 0 else cftime.num2date(seconds, f"seconds since {date}", calendar, True))
    return np.array(dates, object)


def to_nanoseconds(dates: np.ndarray, calendar: str) -> np.ndarray:
    """``datetime64[ns]`` where the calendar and the years allow, otherwise the same cftime objects."""
    if calendar not in ("standard", "proleptic_gregorian") or not len(dates):
        return dates
    if any(not 1678 <= date.year < 2262 for date in dates):
        return dates
    return np.array([np.datetime64(date.isoformat()) for date in dates]).astype("datetime64[ns]")


def to_cftime(times: np.ndarray, calendar: str) -> np.ndarray:
    """The inverse, for a trajectory with one file inside those years and one outside."""
    if times.dtype == object:
        return times
    milliseconds = times.astype("datetime64[ms]").astype(np.int64)
    return np.asarray(cftime.num2date(milliseconds, "milliseconds since 1970-01-01", calendar, True), object)


def _month_positions(times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Months since year 0, day of the month with its fraction, and the fraction of the month gone."""
    if times.dtype == object:
        index = np.array([t.year * 12 + t.month - 1 for t in times])
        day = np.array([t.day - 1 + (t.hour + t.minute / 60 + t.second / 3600) / 24 for t in times])
        length = np.array([t.daysinmonth for t in times], float)
        return index, day, day / length
    months = times.astype("datetime64[M]")
    day = (times - months.astype(times.dtype)) / np.timedelta64(1, "D")
    length = (
        (months + np.timedelta64(1, "M")).astype("datetime64[D]") - months.astype("datetime64[D]")
    ) / np.timedelta64(1, "D")
    return months.astype(np.int64) + 1970 * 12, day, day / length


def _seconds_between(times: np.ndarray) -> np.ndarray:
    if times.dtype == object:
        return np.array([delta.total_seconds() for delta in np.diff(times)])
    return np.diff(times) / np.timedelta64(1, "s")


def spacing(times: np.ndarray) -> tuple[Duration | None, np.ndarray]:
    """The spacing of increasing times and the segments at which it breaks.

    Months are recognised in any calendar, stamped at their start, middle, end or on a fixed day:
    their lengths differ, the position within the month does not.

    Returns:
        The most common spacing (``None`` for one time, or where no spacing holds for at least half),
        and (T,) int segments: a new one begins wherever neighbours are not exactly that far apart.
    """
    count = len(times)
    if count < 2:
        return None, np.zeros(count, int)
    seconds = _seconds_between(times)
    step: Duration | None
    if seconds.min() > 27 * 86400:
        index, day, fraction = _month_positions(times)
        if np.ptp(day) < 1e-6 or np.ptp(fraction) <= 0.1:
            gaps = np.diff(index)
            common = _most_common(gaps.tolist())
            step = Duration(months=int(common)) if common is not None else None
            return step, _break_where(gaps != common if step else np.ones(count - 1, bool))
    rounded = np.rint(seconds)
    common = _most_common(rounded.tolist())
    if common is None or common < 1 or np.abs(seconds - rounded).max() > 0.1:
        return None, np.arange(count)
    return Duration(seconds=int(common)), _break_where(rounded != common)


def _most_common(values: list[float]) -> float | None:
    counts = Counter(values)
    best = max(counts.values())
    return min(value for value, n in counts.items() if n == best) if 2 * best >= len(values) else None


def _break_where(broken: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(broken)]).astype(int)


def text(time: Any) -> str:
    """A time as messages show it."""
    return str(time.astype("datetime64[s]")) if isinstance(time, np.datetime64) else str(time)
