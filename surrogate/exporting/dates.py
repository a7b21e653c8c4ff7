"""Calendar arithmetic inside a compiled program: dates as int32 (..., 6) year, month, day, hour, minute, second.

A program that needs the month of a climatology or the time of year takes one date, that of the present
state, as its caller has it; the dates before and after it are worked out here, in the calendar of training.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from surrogate.core.durations import Duration
from surrogate.core.types import UserError

_FIELDS: TypeAlias = "tuple[jax.Array, jax.Array, jax.Array, jax.Array]"  # year, month, day, second of the day

# CF name → the rule of leap years. Mixed "standard" dates are Gregorian from 15 October 1582, as are all since.
_RULES = {
    "standard": "gregorian", "gregorian": "gregorian", "proleptic_gregorian": "gregorian", "julian": "julian",
    "noleap": "never", "365_day": "never", "all_leap": "always", "366_day": "always", "360_day": "360",
}  # fmt: skip
_DAYS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int32)
# Years that are a multiple of the rule's cycle are added to keep every division one of non-negative numbers.
_SHIFT = 400 * 5000


class ProgramCalendar:
    """Dates of one calendar. Raises UserError for a calendar without dates."""

    def __init__(self, name: str) -> None:
        if name not in _RULES:
            raise UserError(f"the surrogate needs dates, and its calendar {name!r} is not one of {', '.join(_RULES)}")
        self.rule = _RULES[name]

    def _leap(self, year: jax.Array) -> jax.Array:
        if self.rule == "gregorian":
            return ((year % 4 == 0) & (year % 100 != 0)) | (year % 400 == 0)
        if self.rule == "julian":
            return year % 4 == 0
        return jnp.full(year.shape, self.rule == "always")

    def _month_length(self, year: jax.Array, month: jax.Array) -> jax.Array:
        if self.rule == "360":
            return jnp.full(month.shape, 30, jnp.int32)
        days = jnp.asarray(_DAYS)[jnp.clip(month - 1, 0, 11)]
        return days + (self._leap(year) & (month == 2)).astype(jnp.int32)

    def _day_of_year(self, year: jax.Array, month: jax.Array, day: jax.Array) -> jax.Array:
        """From 0."""
        if self.rule == "360":
            return (month - 1) * 30 + day - 1
        before = jnp.asarray(np.concatenate([[0], np.cumsum(_DAYS)[:-1]]).astype(np.int32))[jnp.clip(month - 1, 0, 11)]
        return before + day - 1 + (self._leap(year) & (month > 2)).astype(jnp.int32)

    def _year_length(self, year: jax.Array) -> jax.Array:
        if self.rule == "360":
            return jnp.full(year.shape, 360, jnp.int32)
        return 365 + self._leap(year).astype(jnp.int32)

    def _add_days(self, fields: _FIELDS, days: jax.Array) -> _FIELDS:
        """Add at most a few thousand days: through day numbers of years beginning in March, so that leap days end them."""
        year, month, day, second = fields
        if self.rule == "360":
            total = (year * 12 + month - 1) * 30 + day - 1 + days
            return total // 360, total // 30 % 12 + 1, total % 30 + 1, second
        march = month <= 2
        y, m = year - march + _SHIFT, (month + 9) % 12
        number = self._days_before(y) + (153 * m + 2) // 5 + day - 1 + days
        # One guess by the mean year, put right by at most one.
        mean = {"gregorian": (146097, 400), "julian": (1461, 4), "never": (365, 1), "always": (366, 1)}[self.rule]
        y = self._divide(number, mean)
        y = jnp.where(self._days_before(y) > number, y - 1, y)
        y = jnp.where(self._days_before(y + 1) <= number, y + 1, y)
        rest = number - self._days_before(y)
        m = (5 * rest + 2) // 153
        month = jnp.where(m < 10, m + 3, m - 9)
        return y - _SHIFT + (month <= 2), month, rest - (153 * m + 2) // 5 + 1, second

    @staticmethod
    def _divide(number: jax.Array, mean: tuple[int, int]) -> jax.Array:
        """number × years / days without overflow of int32."""
        days, years = mean
        return number // days * years + number % days * years // days

    def _days_before(self, year: jax.Array) -> jax.Array:
        """Days before 1 March of ``year``, counted from that of year 0 of the shifted count."""
        if self.rule == "gregorian":
            return 365 * year + year // 4 - year // 100 + year // 400
        if self.rule == "julian":
            return 365 * year + year // 4
        return (366 if self.rule == "always" else 365) * year

    def valid(self, date: jax.Array) -> jax.Array:
        """Whether (..., 6) is a date of this calendar: (...) bool."""
        year, month, day, hour, minute, second = (date[..., i] for i in range(6))
        inside = (month >= 1) & (month <= 12) & (day >= 1) & (day <= self._month_length(year, month))
        clock = (hour >= 0) & (hour < 24) & (minute >= 0) & (minute < 60) & (second >= 0) & (second < 60)
        return inside & clock & (jnp.abs(year) < 100_000)

    def advance(self, date: jax.Array, step: Duration, number: int) -> _FIELDS:
        """The date ``number`` steps (negative: before) from ``date``; months keep the day, or end at their last."""
        year, month, day = (date[..., i] for i in range(3))
        second = (date[..., 3] * 60 + date[..., 4]) * 60 + date[..., 5]
        if step.months:
            total = year * 12 + month - 1 + step.months * number
            year, month = total // 12, total % 12 + 1
            return year, month, jnp.minimum(day, self._month_length(year, month)), second
        days, seconds = divmod(step.seconds * number, 86400)
        second = second + seconds
        carry = second // 86400
        if not step.seconds or not number:
            return year, month, day, second
        return self._add_days((year, month, day, second - carry * 86400), days + carry)

    def month(self, fields: _FIELDS) -> jax.Array:
        """From 0 (January); within bounds whatever was given."""
        return jnp.clip(fields[1] - 1, 0, 11)

    def features(self, fields: _FIELDS, names: tuple[str, ...]) -> jax.Array:
        """Sine and cosine of the time of year (``season``) and of day (``diurnal``): (..., 2 or 4) float32.

        Angles of whole days and hours come from tables made in double precision and the small rest from
        the addition theorem, so that single precision loses no more than a rounding.
        """
        year, month, day, second = fields
        columns: list[jax.Array] = []
        if "season" in names:
            length = self._year_length(year)
            index = self._day_of_year(year, month, day)
            rest = second.astype(jnp.float32) * jnp.float32(2 * math.pi / 86400) / length.astype(jnp.float32)
            lengths = {"360": (360,), "never": (365,), "always": (366,)}.get(self.rule, (365, 366))
            columns += self._turn(index, length, rest, lengths)
        if "diurnal" in names:
            rest = (second % 3600).astype(jnp.float32) * jnp.float32(2 * math.pi / 86400)
            columns += self._turn(second // 3600, jnp.full(second.shape, 24, jnp.int32), rest, (24,))
        return jnp.stack(columns, axis=-1) if columns else jnp.zeros((*year.shape, 0), jnp.float32)

    @staticmethod
    def _turn(index: jax.Array, length: jax.Array, rest: jax.Array, lengths: tuple[int, ...]) -> list[jax.Array]:
        """Sine and cosine of 2π index / length + rest."""
        sine, cosine = jnp.zeros(index.shape, jnp.float32), jnp.zeros(index.shape, jnp.float32)
        for size in lengths:
            angle = 2 * np.pi * np.arange(size) / size
            place = jnp.clip(index, 0, size - 1)
            sine = jnp.where(length == size, jnp.asarray(np.sin(angle), jnp.float32)[place], sine)
            cosine = jnp.where(length == size, jnp.asarray(np.cos(angle), jnp.float32)[place], cosine)
        s, c = jnp.sin(rest), jnp.cos(rest)
        return [sine * c + cosine * s, cosine * c - sine * s]
