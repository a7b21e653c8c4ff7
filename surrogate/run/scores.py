"""Scores against baselines: who is better where, the verdict in words, and the table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from surrogate.run.style import (
    SURROGATE,
    lead_order,
    lead_words,
    leads_words,
    list_words,
    metric_name,
    number,
    pick,
    words,
)

Scores = Mapping[str, Mapping[str, Any]]  # variable → metric → lead → value
Outcome = Literal["win", "tie", "loss", "unknown"]

# Scores this near each other print as the same three digits or nearly so: nobody wins.
TIE = 0.005
HEADLINE = ("rmse", "relative_l2", "mae", "crps", "mse")  # smaller is better; the first that a variable has
_LARGER_IS_BETTER = ("acc", "correlation", "r2")
_TARGET = {"bias": 0.0, "activity": 1.0, "spread_skill": 1.0}
_ORDER = (*HEADLINE, "acc", "correlation", "bias", "activity")


@dataclass(frozen=True)
class Cell:
    """The surrogate against the best baseline, for one variable, metric and lead.

    Attributes:
        value: the surrogate's score; NaN where the forecast was not finite.
        best: the best baseline's score, NaN where there is none, and ``name``, its name.
        outcome: ``"unknown"`` where no baseline has a finite score.
    """

    variable: str
    metric: str
    lead: str
    value: float
    best: float
    name: str
    outcome: Outcome

    @property
    def ratio(self) -> float:
        """value / best; infinite where the forecast was not finite or the baseline is exact."""
        if self.outcome == "unknown":
            return math.nan
        if not math.isfinite(self.value):
            return math.inf
        return self.value / self.best if self.best else (1.0 if self.value == 0 else math.inf)


@dataclass(frozen=True)
class Verdict:
    """A headline and, per variable, how it fared over all leads."""

    text: str
    level: Literal["good", "mixed", "bad", "unknown"]
    better: tuple[str, ...] = ()
    not_better: tuple[str, ...] = ()
    no_baseline: tuple[str, ...] = ()


def held_out(summary: Mapping[str, Any]) -> tuple[str, Scores]:
    """The split that the scores are of (``"test"``, else ``"valid"``), and they."""
    scores = summary.get("scores") or {}
    for split in ("test", "valid"):
        if scores.get(split):
            return split, scores[split]
    return "test", {}


def by_lead(scores: Scores, variable: str, metric: str) -> dict[str, float]:
    """Lead → value, shortest first. A bare number (no leads, as for atoms) is lead zero; null is NaN."""
    values = scores.get(variable, {}).get(metric)
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        values = {"PT0S": values}
    return {lead: _float(values[lead]) for lead in lead_order(values)}


def metrics_of(scores: Scores) -> list[str]:
    """Metrics that any variable has, the usual ones first."""
    present = list(dict.fromkeys(metric for values in scores.values() for metric in values))
    return [m for m in _ORDER if m in present] + [m for m in present if m not in _ORDER]


def leads_of(scores: Scores, variables: Iterable[str], metrics: Iterable[str]) -> list[str]:
    found = [lead for v in variables for m in metrics for lead in by_lead(scores, v, m)]
    return lead_order(found)


def headline_metric(scores: Scores, variable: str) -> str | None:
    """The metric that decides for this variable, or None."""
    return next((metric for metric in HEADLINE if by_lead(scores, variable, metric)), None)


def loss_of(metric: str, value: float) -> float:
    """A number that is smaller for a better score, whatever the metric; NaN stays NaN."""
    if metric in _LARGER_IS_BETTER:
        return -value
    return abs(value - _TARGET[metric]) if metric in _TARGET else value


def compare(scores: Scores, baselines: Mapping[str, Scores], variable: str, metric: str, lead: str) -> Cell:
    """Set the surrogate beside the best baseline that has a finite score there.

    A surrogate that is not finite loses to any finite baseline. Equal within half a percent is a tie.
    """
    value = by_lead(scores, variable, metric).get(lead, math.nan)
    rivals = {name: by_lead(of, variable, metric).get(lead, math.nan) for name, of in baselines.items()}
    rivals = {name: rival for name, rival in rivals.items() if math.isfinite(rival)}
    if not rivals:
        return Cell(variable, metric, lead, value, math.nan, "", "unknown")
    name = min(rivals, key=lambda n: loss_of(metric, rivals[n]))
    best = rivals[name]
    mine, theirs = loss_of(metric, value), loss_of(metric, best)
    outcome: Outcome
    if not math.isfinite(value):
        outcome = "loss"
    elif abs(mine - theirs) <= TIE * max(abs(mine), abs(theirs)):
        outcome = "tie"
    else:
        outcome = "win" if mine < theirs else "loss"
    return Cell(variable, metric, lead, value, best, name, outcome)


def verdict(summary: Mapping[str, Any], most_named: int = 6) -> Verdict:
    """The result in one or a few sentences, losses as plain as wins.

    A variable counts as better only if it beats every baseline at every lead by more than half a percent.
    """
    split, scores = held_out(summary)
    baselines = summary.get("baselines") or {}
    after = _afterword(summary, split)
    rows = {
        variable: [compare(scores, baselines, variable, metric, lead) for lead in by_lead(scores, variable, metric)]
        for variable in scores
        if (metric := headline_metric(scores, variable))
    }
    if not rows:
        return Verdict(_join("The run has no scores.", after), "unknown")
    broken = [v for v, cells in rows.items() if any(not math.isfinite(c.value) for c in cells)]
    judged = {v: [c for c in cells if c.outcome != "unknown"] for v, cells in rows.items()}
    judged = {v: cells for v, cells in judged.items() if cells}
    without = tuple(v for v in rows if v not in judged)
    if not judged:
        text = "No baseline was scored, so there is nothing to judge these scores by."
        text = _join(text, f"The forecast is not finite for {_names(broken, most_named)}." if broken else "")
        return Verdict(_join(text, after), "bad" if broken else "unknown", no_baseline=without)

    better = tuple(v for v, cells in judged.items() if all(c.outcome == "win" for c in cells))
    worse = sorted((v for v in judged if v not in better), key=lambda v: -max(c.ratio for c in judged[v]))
    names = {
        name for v in judged for name in baselines if any(by_lead(baselines[name], v, c.metric) for c in judged[v])
    }
    metric_names = {cells[0].metric for cells in judged.values()}
    subject = metric_name(metric_names.pop()) if len(metric_names) == 1 else "The error"
    subject = subject[0].upper() + subject[1:]
    leads = lead_order(c.lead for cells in judged.values() for c in cells)
    rivals = words(next(iter(names))) if len(names) == 1 else "both baselines" if len(names) == 2 else ""
    rivals = rivals or f"all {len(names)} baselines"
    when = f" at {_all_leads(leads)}" if any(leads) and leads != ["PT0S"] else ""
    if better:
        count = f"all {len(judged)}" if not worse else f"{len(better)} of {len(judged)}"
        noun = "variables" if len(judged) > 1 else "variable"
        whom = f"{count} {noun}" if len(judged) > 1 else better[0]
        text = f"{subject} is below {rivals}{when} for {whom}."
    else:
        # Nothing wins everywhere; say plainly that it does not, and still name where it ties or loses.
        whom = f"any of the {len(judged)} variables" if len(judged) > 1 else worse[0]
        every = f" at every lead ({_all_leads(leads)})" if len(leads) > 1 else when
        text = f"{subject} is not below {rivals}{every} for {whom}."
    if worse:
        named = "; ".join(_shortfall(judged[v]) for v in worse[:most_named])
        more = f"; and {len(worse) - most_named} more" if len(worse) > most_named else ""
        text = _join(text, f"{'Not better' if better else 'In detail'}: {named}{more}.")
    if without:
        text = _join(text, f"No baseline was scored for {_names(without, most_named)}.")
    level: Literal["good", "mixed", "bad"] = "good" if not worse else "mixed" if better else "bad"
    return Verdict(_join(text, after), level, better, tuple(worse), without)


def scores_table(
    summary: Mapping[str, Any], *, metrics: Sequence[str] | None = None, full: bool | None = None
) -> list[Table]:
    """One table per metric for a terminal of 100 columns; the best of each column is bold.

    ✓ is better than every baseline, ✗ is not, = is level within half a percent.

    Args:
        metrics: which; by default those that decide, ACC and correlation (the report has all).
        full: a row for every baseline (the choice for nine variables or fewer), or a row per variable with
            the surrogate's score and its ratio to the best baseline's.
    """
    split, scores = held_out(summary)
    baselines = summary.get("baselines") or {}
    full = len(scores) <= 9 if full is None else full
    tables = []
    usual = [m for m in metrics_of(scores) if m in (*HEADLINE, *_LARGER_IS_BETTER)]
    for metric in usual if metrics is None else metrics:
        variables = [v for v in scores if by_lead(scores, v, metric)]
        leads = pick(leads_of(scores, variables, [metric]), 5)
        rivals = [n for n in baselines if any(by_lead(baselines[n], v, metric) for v in variables)]
        title = f"{metric_name(metric)}, {split} split"
        if metric in HEADLINE and rivals and not full:
            title += " (× best baseline)"
        table = Table(title=Text(title), title_justify="left", header_style="dim", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("variable", max_width=24, overflow="fold")
        if full and rivals:
            table.add_column("forecast", max_width=22, overflow="ellipsis", no_wrap=True)
        for lead in leads:
            name = lead_words(lead) if lead != "PT0S" else metric_name(metric)
            table.add_column(name, justify="right", max_width=15, no_wrap=not full)
        for variable in variables:
            cells = [compare(scores, baselines, variable, metric, lead) for lead in leads]
            if not full:
                table.add_row(Text(variable), *(_terminal(c, with_ratio=bool(rivals)) for c in cells))
                continue
            name_cell = [Text(SURROGATE, "bold")] if rivals else []
            table.add_row(Text(variable, "bold"), *name_cell, *(_terminal(c) for c in cells))
            for rival in rivals:
                values = by_lead(baselines[rival], variable, metric)
                shown = [
                    Text(
                        (number(values[c.lead]) if c.lead in values else "–") + "  ",
                        "bold" if c.name == rival and c.outcome != "win" else "dim",
                    )
                    for c in cells
                ]
                table.add_row("", Text(words(rival), "dim"), *shown)
        tables.append(table)
    return tables


def _terminal(cell: Cell, with_ratio: bool = False) -> Text:
    style = {"win": "bold green", "loss": "red", "tie": "bold yellow", "unknown": ""}[cell.outcome]
    mark = {"win": " ✓", "loss": " ✗", "tie": " =", "unknown": ""}[cell.outcome]
    comparable = cell.metric in HEADLINE and math.isfinite(cell.ratio)
    return Text(number(cell.value) + (f" ×{cell.ratio:.2f}" if with_ratio and comparable else "") + mark, style)


def _shortfall(cells: Sequence[Cell]) -> str:
    """``"z500 (19 % above climatology at 5 days)"``: the worst lead of one variable."""
    bad = [c for c in cells if c.outcome in ("loss", "tie")]
    broken = [c.lead for c in bad if not math.isfinite(c.value)]
    when = lambda lead: "" if lead == "PT0S" else f" at {lead_words(lead)}"  # noqa: E731
    if broken:
        return f"{bad[0].variable} (the forecast is not finite{when(broken[0])})"
    worst = max(bad, key=lambda c: c.ratio)
    if worst.outcome == "tie":
        return f"{worst.variable} (level with {words(worst.name)}{when(worst.lead)})"
    if math.isinf(worst.ratio):
        return f"{worst.variable} (above {words(worst.name)}, which is exact{when(worst.lead)})"
    amount = f"{number(worst.ratio)} times" if worst.ratio >= 2 else f"{100 * (worst.ratio - 1):.1f} % above"
    return f"{worst.variable} ({amount} {words(worst.name)}{when(worst.lead)})"


def _afterword(summary: Mapping[str, Any], split: str) -> str:
    """What a reader must know beside the scores: another split, an unfinished run, a rollout that broke."""
    parts = []
    if split != "test" and (summary.get("scores") or {}).get(split):
        parts.append(f"These are scores of the {split} split, not of an independent test.")
    if (status := summary.get("status", "complete")) != "complete":
        parts.append(f"The run is not complete (status: {status}).")
    rollout = summary.get("rollout") or {}
    failed = {k: v["first_nonfinite"] for k, v in (rollout.get("variables") or {}).items() if v.get("first_nonfinite")}
    if failed:
        first = min(failed, key=lambda k: lead_order(failed.values()).index(failed[k]))
        parts.append(
            f"The free rollout of {lead_words(rollout['length'])} breaks: {first} is not finite from "
            f"{lead_words(failed[first])} on."
        )
    return " ".join(parts)


def _all_leads(leads: Sequence[str]) -> str:
    if len(leads) <= 6:
        return leads_words(leads)
    return f"all {len(leads)} leads from {lead_words(leads[0])} to {lead_words(leads[-1])}"


def _names(names: Sequence[str], most: int) -> str:
    if len(names) <= most:
        return list_words(list(names))
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _join(first: str, second: str) -> str:
    return f"{first} {second}".strip()


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)
