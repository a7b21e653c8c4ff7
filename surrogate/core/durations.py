"""Durations as scientists write them (``6h``, ``1D``, ``3M``) and as files store them (ISO 8601).

A duration is either a fixed number of seconds or a whole number of calendar months;
the two never mix, since a month has no fixed length.
"""

from __future__ import annotations

from dataclasses import dataclass
import re

_UNITS = {
    "s": 1, "sec": 1, "second": 1, "seconds": 1,
    "min": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hour": 3600, "hours": 3600,
    "d": 86400, "day": 86400, "days": 86400,
    "w": 604800, "week": 604800, "weeks": 604800,
}  # fmt: skip
_MONTHS = {"m": 1, "mon": 1, "month": 1, "months": 1, "y": 12, "yr": 12, "year": 12, "years": 12}
_ISO = re.compile(
    r"P(?:(?P<years>\d+)Y)?(?:(?P<months>\d+)M)?(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?$"
)


@dataclass(frozen=True, order=True)
class Duration:
    """A length of time: ``months`` calendar months, or ``seconds`` seconds (one of them is 0)."""

    months: int = 0
    seconds: int = 0

    def __post_init__(self) -> None:
        if self.months and self.seconds:
            raise ValueError("a duration is either calendar months or a fixed time, not both")
        if self.months < 0 or self.seconds < 0:
            raise ValueError("a duration cannot be negative")

    @classmethod
    def parse(cls, text: str | Duration) -> Duration:
        """Parse ``"6h"``, ``"5D"``, ``"3M"`` (months), ``"10min"`` or ISO 8601 (``"PT6H"``, ``"P1D"``).

        Raises:
            ValueError: with the text and the accepted forms.
        """
        if isinstance(text, Duration):
            return text
        stripped = str(text).strip()
        if stripped in ("0", "PT0S", "P0D"):
            return cls()
        iso = _ISO.match(stripped) if len(stripped) > 1 else None
        if iso and any(iso.groups()):
            part = {name: int(value or 0) for name, value in iso.groupdict().items()}
            seconds = part["weeks"] * 604800 + part["days"] * 86400
            seconds += part["hours"] * 3600 + part["minutes"] * 60 + part["seconds"]
            return cls(part["years"] * 12 + part["months"], seconds)
        match = re.fullmatch(r"(\d+)\s*([A-Za-z]+)", stripped)
        if match:
            number, unit = int(match[1]), match[2].lower()
            if unit in _UNITS:
                return cls(0, number * _UNITS[unit])
            if unit in _MONTHS:
                return cls(number * _MONTHS[unit], 0)
        raise ValueError(f"{text!r} is not a duration; write it like 6h, 1D, 3M (months), 10min or PT6H")

    def __bool__(self) -> bool:
        return bool(self.months or self.seconds)

    def __str__(self) -> str:
        """ISO 8601, as in ``summary.json``: ``PT6H``, ``P1D``, ``P3M``, ``PT0S``."""
        if self.months:
            return f"P{self.months}M"
        if not self.seconds:
            return "PT0S"
        days, rest = divmod(self.seconds, 86400)
        hours, rest = divmod(rest, 3600)
        minutes, seconds = divmod(rest, 60)
        clock = "".join(f"{n}{u}" for n, u in ((hours, "H"), (minutes, "M"), (seconds, "S")) if n)
        return "P" + (f"{days}D" if days else "") + (f"T{clock}" if clock else "")

    def __mul__(self, number: int) -> Duration:
        return Duration(self.months * number, self.seconds * number)

    def steps_of(self, step: Duration) -> int:
        """How many ``step`` this duration lasts.

        Raises:
            ValueError: when it is not a whole number of steps.
        """
        whole, by = (self.months, step.months) if step.months else (self.seconds, step.seconds)
        if (step.months and self.seconds) or (step.seconds and self.months) or not by or whole % by:
            raise ValueError(f"{self} is not a whole number of time steps of {step}")
        return whole // by
