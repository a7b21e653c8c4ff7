"""Are values what they claim to be? Missing, infinite and undeclared fill values, named with their place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from surrogate.core.types import UserError

# Numbers that writers put where there is no value; suspect only where the rest of the data are far away.
SENTINELS = (
    -99.0, -99.9, -99.99, -999.0, -999.9, -999.99, -8888.0, -9999.0, -9999.9, -99999.0, -999999.0, -9999999.0,
    -32767.0, -32768.0, -2147483647.0, -2147483648.0, 999.0, 9999.0, 99999.0, 999999.0, 32767.0,
)  # fmt: skip

Place = Callable[[tuple[int, ...]], str]


def check_values(
    values: np.ndarray, *, name: str, place: Place, allow_missing: bool, suspects: tuple[float, ...] = ()
) -> None:
    """Refuse values that would be learnt as physics and are not.

    Args:
        values: (T, …) physical values, NaN where declared missing.
        name: the variable, for messages.
        place: index into ``values`` → file, time and place, for messages.
        allow_missing: accept missing values whose pattern is the same at all times (land, sea, a domain's
            corner).
        suspects: further fills to look for: the library's default fill of a packed variable.

    Raises:
        UserError: for infinite values, values that look like undeclared fills, missing values where none are
            allowed, missing values whose pattern changes in time, and for nothing but missing values.
    """
    finite = np.isfinite(values)
    if not finite.all():
        _check_missing(values, finite, name, place, allow_missing)
    found = undeclared_fill(values, finite, suspects)
    if found is not None:
        hits = values == np.float32(found)
        raise UserError(
            f"{name}: {int(hits.sum())} values of {found:.9g} look like a fill value that the file does not declare, "
            f"the first at {place(_first(hits))}; declare it with fill_values: [{found:.9g}]"
        )


def _check_missing(values: np.ndarray, finite: np.ndarray, name: str, place: Place, allow_missing: bool) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        raise UserError(f"{name}: infinite at {place(_first(infinite))}")
    if not finite.any():
        raise UserError(f"{name}: nothing but missing values, from {place((0,) * values.ndim)}")
    if not allow_missing:
        raise UserError(
            f"{name}: {int((~finite).sum())} values are missing (NaN, a declared fill, or outside the valid range), "
            f"the first at {place(_first(~finite))}"
        )
    changed = finite != finite[0]
    if changed.any():
        at = _first(changed)
        state = "present" if finite[at] else "missing"
        raise UserError(
            f"{name}: {state} at {place(at)}, unlike at the first time; a mask must be the same at all times"
        )


def _first(hits: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(hits)), hits.shape))


def undeclared_fill(values: np.ndarray, finite: np.ndarray, suspects: tuple[float, ...] = ()) -> float | None:
    """A value that looks like a fill, or ``None``.

    Three kinds of evidence: an enormous value (1e15 or more) a million times the next largest; a usual
    sentinel outside the range of all other values by more than 5% of that range; and a usual sentinel
    inside that range which repeats ten times as often as the values around it.
    """
    data = values[finite] if not finite.all() else values.ravel()
    if not data.size:
        return None
    low, high = float(data.min()), float(data.max())
    for extreme in (low, high):
        if abs(extreme) >= 1e15:
            rest = np.abs(data[data != np.float32(extreme)])
            rest = rest[rest != np.float32(abs(extreme))]
            if not rest.size or float(rest.max()) < 1e-6 * abs(extreme):
                return extreme
    for sentinel in (*suspects, *SENTINELS):
        number = np.float32(sentinel)
        if not low <= number <= high:
            continue
        hits = int((data == number).sum())
        if hits and _stands_out(data, number, hits):
            return float(sentinel)
    return None


def _stands_out(data: np.ndarray, number: np.float32, hits: int) -> bool:
    others = data[data != number]
    if not others.size:
        return bool(number < 0)
    low, high = float(others.min()), float(others.max())
    spread = high - low
    if number < low or number > high:
        return max(low - float(number), float(number) - high) > 0.05 * spread
    near = others[np.abs(others - number) <= 0.01 * spread]
    distinct = np.unique(near)
    return hits > 10 * max(1.0, near.size / max(1, distinct.size))
