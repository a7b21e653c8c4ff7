"""When two spellings of a unit mean the same; nothing is ever converted in silence."""

from __future__ import annotations

import re

# Spelling → one form. Only exact synonyms: K and degC are different units, and stay so.
_SYNONYMS = {
    "kelvin": "k", "degk": "k", "degree_kelvin": "k", "degrees_kelvin": "k", "deg_k": "k", "degreek": "k",
    "celsius": "degc", "deg_c": "degc", "degree_celsius": "degc", "degrees_celsius": "degc", "degrees_c": "degc",
    "celcius": "degc", "°c": "degc", "degree_c": "degc", "c": "degc", "oc": "degc", "deg c": "degc",
    "mb": "hpa", "mbar": "hpa", "millibar": "hpa", "millibars": "hpa", "hectopascal": "hpa", "hectopascals": "hpa",
    "pascal": "pa", "pascals": "pa", "metre": "m", "metres": "m", "meter": "m", "meters": "m", "gpm": "m",
    "geopotential_meter": "m", "": "1", "none": "1", "dimensionless": "1", "unitless": "1", "-": "1", "fraction": "1",
    "percent": "%",
}  # fmt: skip


def canonical_units(units: str) -> str:
    """One spelling for each unit: ``"m/s"``, ``"m s**-1"``, ``"m s-1"`` → ``"m s-1"``."""
    text = re.sub(r"\s+", " ", units.strip().lower())
    if text in _SYNONYMS:
        return _SYNONYMS[text]
    text = text.replace("**", "").replace("^", "").replace("·", " ").replace("*", " ").replace(".", " ")
    parts: dict[str, int] = {}
    sign = 1
    for token in re.findall(r"/|[^\s/]+", text):
        if token == "/":
            sign = -1
            continue
        match = re.fullmatch(r"([a-zµ°%_]+)([+-]?\d+)?", token)
        if not match:
            return text
        name = _SYNONYMS.get(match[1], match[1])
        parts[name] = parts.get(name, 0) + sign * int(match[2] or 1)
        sign = 1
    return " ".join(name + ("" if power == 1 else str(power)) for name, power in sorted(parts.items()) if power) or "1"


def same_units(a: str, b: str) -> bool:
    """Whether two unit strings mean the same."""
    return canonical_units(a) == canonical_units(b)
