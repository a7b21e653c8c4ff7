"""What happened during training: loss, validation, learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.ticker import FuncFormatter, MaxNLocator
import numpy as np

from surrogate.core.types import UserError
from surrogate.run.plots.log_ticks import log_ticks
from surrogate.run.style import RC, SURROGATE_COLOR, WORSE_COLOR, Picture, number, words

_VALID_COLOR, _RATE_COLOR, _GRAD_COLOR = "#D55E00", "#6B6B6B", "#7A5195"


@matplotlib.rc_context(RC)
def training(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Loss (training as logged and its running median; validation), learning rate and gradient norm by step.

    Args:
        rows: of ``metrics.jsonl``. Validation is ``valid_loss`` or ``valid: {"loss": …}``; other validation scores
            (``valid_forces_rmse``, or further entries of ``valid``) are drawn relative to their first value with the last
            one written, at most six of them.

    Raises:
        UserError: if no row has a loss.
    """
    loss = _series(rows, "loss")
    if not loss[0].size:
        raise UserError("metrics.jsonl has no row with a loss")
    valid = _series(rows, "valid_loss")
    scores = dict(_validation(rows))
    if not valid[0].size:
        valid = scores.pop("loss", valid)
    scores = {name: s for name, s in scores.items() if s[1].size > 1 and s[1][0]}
    rate, norm = _series(rows, "learning_rate"), _series(rows, "grad_norm")
    panels = ["loss"] + ["scores"] * bool(scores) + ["rate"] * bool(rate[0].size) + ["norm"] * bool(norm[0].size)
    heights = [3.0 if p == "loss" else 1.7 if p == "scores" else 1.15 for p in panels]
    figure = Picture(8.0, sum(heights) + 0.5)
    axes = dict(zip(panels, figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0],
                    strict=True))  # fmt: skip

    ax = axes["loss"]
    ax.plot(*loss, color=SURROGATE_COLOR, linewidth=0.8, alpha=0.35, label="training, as logged")
    window = max(1, len(loss[0]) // 40)
    if window > 1:
        ax.plot(loss[0], _running_median(loss[1], window), color=SURROGATE_COLOR, linewidth=2, label="training, median")
    if valid[0].size:
        ax.plot(*valid, color=_VALID_COLOR, marker="D", markersize=4, linewidth=1.3, label="validation")
    both = np.concatenate([loss[1], valid[1]])
    both = both[np.isfinite(both)]
    if both.size and both.min() > 0:
        ax.set_yscale("log")
        log_ticks(ax.yaxis, both.min(), both.max())
    broken = loss[0][~np.isfinite(loss[1])]
    if broken.size:
        ax.axvline(broken[0], color=WORSE_COLOR, linewidth=1.2, linestyle="--")
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "right", "va": "top"}
        note = f"not finite at step {broken[0]:g}"
        ax.annotate(note, (broken[0], 0.98), xytext=(-4, 0), color=WORSE_COLOR, fontsize=8, **place)
    ax.set_ylabel("loss")
    ax.legend(loc="upper right" if not broken.size else "lower left", ncols=3)
    if scores:
        ax = axes["scores"]
        for name, (step, value) in list(scores.items())[:6]:
            ax.plot(step, value / value[0], marker=".", linewidth=1.2, label=f"{words(name)}, last {number(value[-1])}")
        ax.set_ylabel("validation scores\n/ first value")
        ax.legend(loc="upper right", ncols=2, fontsize=7.5)
        ratios = np.concatenate([v[np.isfinite(v)] / v[0] for _, v in list(scores.values())[:6]])
        if ratios.min(initial=1.0) > 0 and ratios.min(initial=1.0) < 0.1:
            ax.set_yscale("log")
            log_ticks(ax.yaxis, ratios.min(), ratios.max())
        else:
            ax.set_ylim(bottom=0)
    if rate[0].size:
        axes["rate"].plot(*rate, color=_RATE_COLOR, linewidth=1.5)
        axes["rate"].set_ylabel("learning\nrate")
        axes["rate"].set_ylim(bottom=0)
        axes["rate"].yaxis.set_major_locator(MaxNLocator(3))
        axes["rate"].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))
    if norm[0].size:
        axes["norm"].plot(*norm, color=_GRAD_COLOR, linewidth=0.9)
        axes["norm"].set_ylabel("gradient\nnorm")
        positive = norm[1][np.isfinite(norm[1])]
        if positive.size and positive.min() > 0:
            axes["norm"].set_yscale("log")
            log_ticks(axes["norm"].yaxis, positive.min(), positive.max())
    axes[panels[-1]].set_xlabel("optimizer step")
    figure.align_ylabels()
    return figure


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(row["step"], row[name]) for row in rows if name in row and "step" in row]
    steps = np.array([step for step, _ in pairs], float)
    return steps, np.array([np.nan if value is None else value for _, value in pairs], float)


def _validation(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        flat = {k.removeprefix("valid_"): v for k, v in row.items() if k.startswith("valid_") and k != "valid_loss"}
        for name, value in _leaves(flat | dict(row.get("valid") or {})):
            found.setdefault(name, []).append((row["step"], value))
    for name, pairs in found.items():
        yield name, (np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float))


def _leaves(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _leaves(value, f"{name} {key}".strip())
    elif isinstance(values, (int, float)) and not isinstance(values, bool):
        yield name, float(values)


def _running_median(values: np.ndarray, window: int) -> np.ndarray:
    """Centred, narrower at both ends; what is not finite is left out."""
    out = np.full(values.shape, np.nan)
    for i in range(len(values)):
        near = values[max(0, i - window) : i + window + 1]
        near = near[np.isfinite(near)]
        if near.size and np.isfinite(values[i]):
            out[i] = np.median(near)
    return out
