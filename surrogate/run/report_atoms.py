"""Sections of the report that only atoms have: crystals, molecular dynamics, uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
import math
from typing import Any

from surrogate.run.style import number, quantity, words

_METHODS = ("surrogate", "reference")
_FACTS = {
    "drift": "drift of the energy (meV/atom/ps)", "temperature": "temperature (K)",
    "temperature_std": "its standard deviation (K)", "picoseconds": "length (ps)", "time_step_fs": "time step (fs)",
    "steps_per_s": "steps/s", "radial_rmse": "RMS difference of g(r)", "spread": "predicted standard deviation (RMS)", "rmse": "error (RMS)",
    "factor": "error / spread", "spearman": "rank correlation of the two", "count": "values",
    "calibration_error": "mean relative gap in bins",
}  # fmt: skip
_NAMES = {
    "axis_ratio": "c/a", "energy": "energy at the minimum", "bulk_modulus": "bulk modulus B",
    "bulk_modulus_derivative": "dB/dp", "highest_phonon": "highest phonon",
}  # fmt: skip


def crystals_section(summary: Mapping[str, Any]) -> str:
    """Tables of ``summary["crystals"]``: surrogate, reference and difference; empty where there are none."""
    crystals = summary.get("crystals") or {}
    if not crystals:
        return ""
    parts = [
        "<section><h2>Crystals</h2><p class=note>Each method relaxes the crystal for itself. The bulk modulus is that of a "
        "Birch–Murnaghan fit, elastic constants are those of finite strains with relaxed ions, phonons of finite "
        "displacements.</p>"
    ]
    for place, (name, found) in enumerate(crystals.items()):
        opened = " open" if place < 3 else ""
        notes = "".join(f"<p class=loss>{escape(str(note))}</p>" for note in found.get("notes") or ())
        parts.append(f"<details{opened}><summary><h3>{escape(name)}</h3></summary>{notes}{_table(found)}</details>")
    return "".join(parts) + "</section>"


def dynamics_section(summary: Mapping[str, Any]) -> str:
    """A table of ``summary["dynamics"]``, a column a run: its facts are plain numbers with their units in the names."""
    return _facts("Molecular dynamics", summary.get("dynamics") or {})


def uncertainty_section(summary: Mapping[str, Any]) -> str:
    """A table of ``summary["uncertainty"]``, a column a variable."""
    found = _facts("Uncertainty of the ensemble", summary.get("uncertainty") or {})
    note = (
        "<p class=note>The factor is √⟨error²/spread²⟩: 1 where spreads are as large as errors. Spearman's rank correlation "
        "of error and spread stays well below 1 even for a perfect spread, since errors are random.</p>"
    )
    return found.replace("</section>", f"{note}</section>") if found else ""


def _table(found: Mapping[str, Any]) -> str:
    properties = found.get("properties") or {}
    methods = [m for m in _METHODS if any(m in p for p in properties.values())]
    compared = len(methods) == 2
    heads = "".join(f"<th scope=col>{m}</th>" for m in methods) + ("<th scope=col>difference</th>" if compared else "")
    rows = []
    for key, values in properties.items():
        label = escape(quantity(_NAMES.get(key, words(key)), str(values.get("units", ""))))
        cells = [f"<td>{_fine(values.get(m))}</td>" for m in methods]
        if compared:
            cells.append(f"<td>{_difference(values, relative=key != 'energy')}</td>")
        rows.append(f"<tr><th scope=row>{label}</th>{''.join(cells)}</tr>")
    for point, values in (found.get("phonons") or {}).items():
        cells = [f"<td>{escape(_frequencies(values.get(m)))}</td>" for m in methods]
        if compared:
            pair = [values.get(m) for m in methods]
            whole = pair[0] and pair[1]
            gap = max((abs(a - b) for a, b in zip(*pair, strict=True)), default=0.0) if whole else None
            cells.append("<td>–</td>" if gap is None else f"<td>at most {number(gap)}</td>")
        rows.append(f"<tr><th scope=row>phonons at {escape(point)} (THz)</th>{''.join(cells)}</tr>")
    if found.get("phonon_rmse") is not None:
        rows.append(
            f"<tr><th scope=row>phonons in the whole zone (THz)</th><td colspan={len(methods)}></td>"
            f"<td>RMS {number(found['phonon_rmse'])}</td></tr>"
        )
    if not rows:
        return ""
    return (
        f"<div class=wide><table><thead><tr><th scope=col>property</th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _difference(values: Mapping[str, Any], relative: bool) -> str:
    mine, theirs = values.get("surrogate"), values.get("reference")
    if mine is None or theirs is None or not (math.isfinite(mine) and math.isfinite(theirs)):
        return "–"
    gap = mine - theirs
    sign = "+" if gap > 0 else ""
    if relative and theirs:
        return f"{sign}{100 * gap / abs(theirs):.2f} %".replace("-", "−")
    return f"{sign}{number(gap)}"


def _fine(value: float | None) -> str:
    """Five digits: lattice constants differ in the fourth."""
    if value is None or not math.isfinite(value):
        return "–" if value is None else number(value)
    if value and not 1e-3 <= abs(value) < 1e5:
        return number(value)
    decimals = max(0, 4 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{min(decimals, 5)}f}".replace("-", "−")


def _frequencies(values: Sequence[float] | None) -> str:
    """All different ones, degenerate ones once with their number."""
    if not values:
        return "–"
    groups: list[tuple[float, int]] = []
    for value in values:
        if groups and abs(value - groups[-1][0]) < 0.005:
            groups[-1] = groups[-1][0], groups[-1][1] + 1
        else:
            groups.append((value, 1))
    texts = [f"{v:.2f}".replace("-", "−") + (f" ×{n}" if n > 1 else "") for v, n in groups]
    return ", ".join(texts)


def _facts(title: str, columns: Mapping[str, Any]) -> str:
    """Mapping of mappings as a table, a column each; a plain mapping is one column without a head."""
    if not columns:
        return ""
    nested = all(isinstance(v, Mapping) for v in columns.values())
    table: dict[str, Mapping[str, Any]] = dict(columns) if nested else {"": columns}
    names = dict.fromkeys(name for of in table.values() for name in of if name != "notes")
    heads = "".join(f"<th scope=col>{escape(words(str(c)))}</th>" for c in table)
    rows = []
    for name in names:
        cells = "".join(f"<td>{escape(_fact(of.get(name)))}</td>" for of in table.values())
        rows.append(f"<tr><th scope=row>{escape(_FACTS.get(name, words(str(name))))}</th>{cells}</tr>")
    head = f"<thead><tr><th scope=col></th>{heads}</tr></thead>" if nested else ""
    notes = [str(note) for of in table.values() for note in of.get("notes") or ()]
    return (
        f"<section><h2>{escape(title)}</h2>{''.join(f'<p class=loss>{escape(note)}</p>' for note in notes)}"
        f"<div class=wide><table>{head}<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _fact(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(_fact(v) for v in value)
    return str(value)
