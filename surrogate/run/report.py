"""``report.html``: one file that says how good a run is, shows it, and tells how it was made and how to use it.

Pictures are inside as data URIs; there is no script and nothing is fetched, so it can be mailed and archived.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
import math
import os
from pathlib import Path
import struct
from typing import Any
import zlib

from surrogate.core.types import UserError
from surrogate.run.report_atoms import crystals_section, dynamics_section, uncertainty_section
from surrogate.run.report_style import CSS
from surrogate.run.scores import HEADLINE, by_lead, compare, held_out, leads_of, metrics_of, verdict
from surrogate.run.style import SURROGATE, lead_order, lead_words, metric_name, number, pick, unit_text, words

_MOST_LEADS = 8
_BADGES = {"good": "better than every baseline", "mixed": "mixed", "bad": "not better", "unknown": "not judged"}


def write_report(
    path: Path | str,
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    plots: Sequence[Path],
    config_text: str,
    provenance: Mapping[str, Any],
) -> Path:
    """Write the report of a run.

    Args:
        summary: as in ``summary.json``.
        rows: of ``metrics.jsonl``; the last loss is quoted.
        plots: PNG files in the order they shall appear; the caption is the PNG's ``Description`` text.
        config_text: the resolved configuration, YAML.
        provenance: plain data, shown whole; ``command`` comes first.

    Raises:
        UserError: if a plot is missing or is not a PNG.
    """
    path = Path(path)
    judged = verdict(summary)
    title = f"{summary.get('experiment', 'run')} – surrogate report"
    body = [
        f"<header><h1>{escape(str(summary.get('experiment', 'run')))}</h1>"
        f"<p class=sub>{escape(_subtitle(summary))}</p></header>",
        f'<section class="verdict {judged.level}" aria-label="verdict">'
        f"<p class=badge>{_BADGES[judged.level]}</p><p>{escape(judged.text)}</p></section>",
        _scores(summary),
        _rollout(summary),
        uncertainty_section(summary),
        crystals_section(summary),
        dynamics_section(summary),
        _pictures(plots),
        _made(summary, rows, config_text, provenance),
        _use(path, summary),
    ]
    html = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed, so that a reader never meets half a report.
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(html, encoding="utf-8")
    os.replace(partial, path)
    return path


def _subtitle(summary: Mapping[str, Any]) -> str:
    parts = [str(summary["devices"])] if summary.get("devices") else []
    if summary.get("steps") is not None:
        parts.append(f"{summary['steps']:,} steps")
    if summary.get("seconds") is not None:
        parts.append(_clock(summary["seconds"]))
    if summary.get("parameters") is not None:
        parts.append(f"{summary['parameters']:,} parameters")
    return " · ".join([*parts, f"status: {summary.get('status', 'unknown')}"])


def _scores(summary: Mapping[str, Any]) -> str:
    split, scores = held_out(summary)
    if not scores:
        notes = "; ".join(map(str, summary.get("notes") or ())) or "none"
        return f"<section><h2>Scores</h2><p>{escape(_capital(notes))}.</p></section>"
    parts = [
        f"<section><h2>Scores on the {escape(split)} split</h2><p>Best of each column in <b>bold</b>. The surrogate's "
        'score is <span class="win">blue ✓</span> where it beats every baseline, <span class="loss">red ✗</span> where '
        "it does not, and = where the two differ by less than half a percent.</p>"
    ]
    for place, metric in enumerate(metrics_of(scores)):
        table = _score_table(summary, metric)
        name = escape(_capital(metric_name(metric)))
        # A long table folds: the verdict and the scorecard say it first.
        opened = " open" if place == 0 and len(scores) <= 9 else ""
        parts.append(f"<details{opened}><summary><h3>{name}</h3></summary>{table}</details>")
    notes = "".join(f"<p class=note>{escape(_capital(str(note)))}.</p>" for note in summary.get("notes") or ())
    return "".join(parts) + notes + "</section>"


def _score_table(summary: Mapping[str, Any], metric: str) -> str:
    _, scores = held_out(summary)
    baselines = summary.get("baselines") or {}
    units = summary.get("units") or {}
    variables = [v for v in scores if by_lead(scores, v, metric)]
    every = leads_of(scores, variables, [metric])
    leads = pick(every, _MOST_LEADS)
    rivals = [n for n in baselines if any(by_lead(baselines[n], v, metric) for v in variables)]
    heads = "".join(
        f"<th scope=col>{escape(lead_words(k) if k != 'PT0S' else metric_name(metric))}</th>" for k in leads
    )
    heads = f"<tr><th scope=col>variable</th><th scope=col>forecast</th>{heads}</tr>"
    out = [f"<div class=wide><table class=scores><thead>{heads}</thead>"]
    for variable in variables:
        cells = [compare(scores, baselines, variable, metric, lead) for lead in leads]
        unit = f" <small>{escape(unit_text(str(units[variable])))}</small>" if variable in units else ""
        row = []
        for cell in cells:
            mark = {"win": " ✓", "loss": " ✗", "tie": " =", "unknown": ""}[cell.outcome]
            text = f"{number(cell.value)}{mark}"
            row.append(
                f'<td class="{cell.outcome}">{f"<b>{text}</b>" if cell.outcome in ("win", "tie") else text}</td>'
            )
        out.append(f'<tbody><tr class=own><th scope=rowgroup rowspan="{1 + len(rivals)}">{escape(variable)}{unit}</th>'
                   f"<th scope=row>{SURROGATE}</th>{''.join(row)}</tr>")  # fmt: skip
        for rival in rivals:
            values = by_lead(baselines[rival], variable, metric)
            texts = []
            for cell in cells:
                value = values.get(cell.lead)
                text = number(value) if cell.lead in values else "–"
                best = cell.name == rival and cell.outcome in ("loss", "tie")
                texts.append(f"<td>{f'<b>{text}</b>' if best else text}</td>")
            out.append(f"<tr><th scope=row>{escape(words(rival))}</th>{''.join(texts)}</tr>")
        out.append("</tbody>")
    out.append("</table></div>")
    if len(leads) < len(every):
        out.append(f"<p class=note>{len(leads)} of {len(every)} leads; all are in summary.json.</p>")
    return "".join(out)


def _rollout(summary: Mapping[str, Any]) -> str:
    rollout = summary.get("rollout") or {}
    if not rollout.get("variables"):
        return ""
    names = {"mean_truth": "mean, truth", "mean_forecast": "mean, surrogate", "drift_per_year": "drift per year",
             "std_ratio": "std / truth's std", "first_nonfinite": "first non-finite value"}  # fmt: skip
    heads = "".join(f"<th scope=col>{escape(name)}</th>" for name in names.values())
    lines = []
    for variable, facts in rollout["variables"].items():
        broken = facts.get("first_nonfinite")
        cells = [
            f"<td>{number(facts[k]) if facts.get(k) is not None else '–'}</td>" for k in names if k != "first_nonfinite"
        ]
        cells.append(f'<td class="loss">from {escape(lead_words(broken))} on ✗</td>' if broken else "<td>none</td>")
        lines.append(f"<tr><th scope=row>{escape(variable)}</th>{''.join(cells)}</tr>")
    return (
        f"<section><h2>Free rollout of {escape(lead_words(rollout['length']))}</h2><div class=wide><table><thead><tr>"
        f"<th scope=col>variable</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _pictures(plots: Sequence[Path]) -> str:
    figures = []
    for plot in map(Path, plots):
        try:
            data = plot.read_bytes()
        except OSError as error:
            raise UserError(f"report: the picture {plot} cannot be read ({error.strerror})") from error
        caption = _caption(plot, data)
        uri = base64.b64encode(data).decode()
        figures.append(f'<figure><img src="data:image/png;base64,{uri}" alt="{escape(caption)}">'
                       f"<figcaption>{escape(caption)}</figcaption></figure>")  # fmt: skip
    return f"<section><h2>Pictures</h2>{''.join(figures)}</section>" if figures else ""


def _made(
    summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], config_text: str, provenance: Mapping[str, Any]
) -> str:
    rest = dict(provenance)
    command = rest.pop("command", None)
    if config_text:
        rest.pop("config", None)  # the same settings once more
    if isinstance(command, (list, tuple)):
        command = " ".join(map(str, command))
    through = summary.get("throughput") or {}
    facts: dict[str, str] = {}
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    if summary.get("steps") is not None:
        facts["steps"] = f"{summary['steps']:,}"
    if losses:
        facts["last training loss"] = number(losses[-1])
    if summary.get("seconds") is not None:
        facts["time"] = _clock(summary["seconds"])
    if summary.get("parameters") is not None:
        facts["parameters"] = f"{summary['parameters']:,}"
    if summary.get("devices"):
        facts["devices"] = str(summary["devices"])
    if summary.get("mesh"):
        facts["mesh"] = ", ".join(f"{axis} {size}" for axis, size in summary["mesh"].items())
    for key, name, form in (
        ("samples_per_s", "throughput", lambda v: f"{number(v)} samples/s"),
        ("step_ms", "time per step", lambda v: f"{number(v)} ms"),
        ("input_wait_fraction", "waiting for input", lambda v: f"{100 * v:.1f} %"),
        ("model_flops_per_s", "model arithmetic", lambda v: f"{_si(v)}FLOP/s"),
        ("peak_memory_bytes", "peak memory", lambda v: f"{v / 2**30:.2f} GiB"),
    ):
        if through.get(key) is not None:
            facts[name] = form(through[key])
    table = "".join(f"<tr><th scope=row>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
    parts = ["<section><h2>How it was made</h2>"]
    if command:
        parts.append(f"<pre><code>{escape(str(command))}</code></pre>")
    parts.append(f"<table class=facts><tbody>{table}</tbody></table>")
    if config_text:
        parts.append(
            f"<details><summary>Configuration</summary><pre><code>{escape(config_text)}</code></pre></details>"
        )
    for key, value in rest.items():
        if value not in (None, "", [], {}):
            name = escape(_capital(words(str(key))))
            parts.append(f"<details><summary>{name}</summary>{_plain(value)}</details>")
    return "".join(parts) + "</section>"


def _use(path: Path, summary: Mapping[str, Any]) -> str:
    directory = path.parent
    if directory.is_absolute() and directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())
    _, scores = held_out(summary)
    leads = [k for k in leads_of(scores, scores, [m for m in HEADLINE if m in metrics_of(scores)]) if k != "PT0S"]
    lines = ["import surrogate as sg", "", f"model = sg.load({str(directory)!r})"]
    if leads:
        lines += [
            "",
            "import xarray as xr",
            "",
            'data = xr.open_dataset("year.nc")                  # a state of the simulation, in its own units',
            f'forecast = model.rollout(data.isel(time=slice(0, 1)), lead_time="{lead_order(leads)[-1]}")',
        ]
    if any(v.partition("@")[0] == "forces" for v in scores):
        lines += [
            "",
            "from ase.io import read",
            "",
            'atoms = read("structure.xyz")                       # any of the elements that it was trained on',
            "atoms.calc = model.calculator()",
            "print(atoms.get_potential_energy(), atoms.get_forces())",
        ]
    return f"<section><h2>How to use it</h2><pre><code>{escape(chr(10).join(lines))}</code></pre></section>"


def _plain(value: Any) -> str:
    """Plain data as HTML: mappings and lists of mappings are tables, other lists are lists."""
    if isinstance(value, Mapping):
        rows = "".join(f"<tr><th scope=row>{escape(str(k))}</th><td>{_plain(v)}</td></tr>" for k, v in value.items())
        return f"<div class=wide><table class=facts><tbody>{rows}</tbody></table></div>"
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(item, Mapping) for item in value):
            names = list(dict.fromkeys(name for item in value for name in item))
            heads = "".join(f"<th scope=col>{escape(str(name))}</th>" for name in names)
            rows = "".join(
                f"<tr>{''.join(f'<td>{_plain(item[n]) if n in item else chr(0x2013)}</td>' for n in names)}</tr>"
                for item in value
            )
            return (
                f"<div class=wide><table class=facts><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
            )
        return f"<ul>{''.join(f'<li>{_plain(item)}</li>' for item in value)}</ul>"
    return escape("–" if value is None else f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value))


def _caption(plot: Path, data: bytes) -> str:
    """The ``Description`` text chunk of a PNG, or the file's name as words.

    Read here, twenty lines, rather than by decoding the whole image. Layout: PNG specification, 11.3.3.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise UserError(f"report: the picture {plot} is not a PNG file")
    at = 8
    while at + 12 <= len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        chunk = data[at + 8 : at + 8 + length]
        keyword, _, rest = chunk.partition(b"\0")
        if keyword == b"Description" and kind == b"tEXt":
            return rest.decode("latin-1")
        if keyword == b"Description" and kind == b"iTXt" and len(rest) > 2:
            text = rest[2:].split(b"\0", 2)[2]
            return (zlib.decompress(text) if rest[0] else text).decode("utf-8")
        at += 12 + length
    return _capital(words(plot.stem))


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown time"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{seconds:.1f} s"


def _si(value: float) -> str:
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= factor:
            return f"{number(value / factor)} {prefix}"
    return f"{number(value)} "


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
