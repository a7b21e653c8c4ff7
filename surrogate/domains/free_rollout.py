"""A long forecast that no data correct: does it stay on the climate's attractor?"""

from __future__ import annotations

from typing import Any

import numpy as np

from surrogate.core.durations import Duration
from surrogate.domains.forecast import make_rollout
from surrogate.parallel.blocks import FIELD

CHUNK = 32  # steps computed between visits to the host


def free_rollout(
    scores: Any, sample: np.ndarray, steps: int, length: Duration, train: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Roll out from one sample; global means and variances against the range that the training data take.

    Forcing fields are taken from the data at their valid times, so with forcings the rollout ends where the
    data do. Variance is that over the globe.

    Returns:
        ``summary["rollout"]``, and the series of the pictures. Per variable: ``drift_per_year`` (slope of a
        straight line through the global mean), ``std_ratio`` (forecast over truth, spatial standard
        deviation), means, and ``first_nonfinite``, the lead of the first NaN or infinity.
    """
    from surrogate.domains.fields_evaluate import later_times

    frame, source, spec = scores.frame, scores.source, scores.spec
    number, index = int(sample[0]), int(sample[1])
    line = source.timelines[number]
    if spec.role("forcing"):
        segment = line.segment[index]
        last = int(np.flatnonzero(line.segment == segment)[-1])
        steps = min(steps, (last - index) // source.stride)
        scores.notes.append(f"the free rollout ends with the forcings, after {steps} steps")
    times = later_times(line.time[index], spec.time_step, steps)
    run = make_rollout(scores.graphdef, frame.num_prognostic, scores.placement)
    state = scores.placement.put(scores.domain.gather(sample[None], 1, targets=False)["state"], FIELD)
    weights = scores.domain.weights()
    weights = weights / weights.sum((0, 1), keepdims=True)
    means, variances = [], []
    for start in range(0, steps, CHUNK):
        part = times[start : start + CHUNK]
        if spec.role("forcing"):
            ahead = index + source.stride * np.arange(start + 1, start + len(part) + 1)
            forcing = scores.domain.forcing_at(number, ahead)
        else:
            forcing = frame.forcing_inputs(part, np.zeros((len(part), *spec.grid.shape, 0), np.float32))
        state, outputs = run(scores.params, scores.constants, state, forcing[:, None])
        fields = scores.physical(np.asarray(scores.placement.fetch(outputs))[:, 0], part)
        mean, variance = _moments(fields, weights)
        means.append(mean)
        variances.append(variance)
    mean, variance = np.concatenate(means), np.concatenate(variances)
    truth = [_moments(block, weights) for block in train.state if len(block)]
    truth_mean, truth_variance = (np.concatenate([t[i] for t in truth]) for i in (0, 1))
    days = _days(spec.time_step, steps)
    variables, series = {}, []
    for channel, variable in enumerate(spec.outputs):
        bad = np.flatnonzero(~np.isfinite(mean[:, channel]) | ~np.isfinite(variance[:, channel]))
        good = slice(0, int(bad[0]) if len(bad) else steps)
        enough = good.stop > 2
        slope = float(np.polyfit(days[good], mean[good, channel], 1)[0]) * 365.25 if enough else None
        ratio = np.sqrt(variance[good, channel].mean() / truth_variance[:, channel].mean()) if good.stop else None
        variables[variable.key] = {
            "drift_per_year": slope,
            "std_ratio": None if ratio is None else float(ratio),
            "mean_truth": float(truth_mean[:, channel].mean()),
            "mean_forecast": float(mean[good, channel].mean()) if good.stop else None,
            "first_nonfinite": str(spec.time_step * int(bad[0] + 1)) if len(bad) else None,
        }
        series.append({
            "key": variable.key, "units": variable.units, "days": days, "mean": mean[:, channel],
            "variance": variance[:, channel],
            "truth_range": (float(truth_mean[:, channel].min()), float(truth_mean[:, channel].max())),
            "truth_variance_range": (float(truth_variance[:, channel].min()), float(truth_variance[:, channel].max())),
        })  # fmt: skip
    return {"length": str(spec.time_step * steps), "variables": variables}, series


def _moments(fields: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area-weighted mean and variance over the globe of each field: (T, C) each; missing points have weight 0."""
    values = np.where(weights > 0, fields, 0).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = np.einsum("thwc,hwc->tc", values, weights)
        square = np.einsum("thwc,hwc->tc", (values - mean[:, None, None, :]) ** 2, weights)
    return mean, square


def _days(step: Duration, steps: int) -> np.ndarray:
    length = step.seconds / 86400 if step.seconds else step.months * 365.25 / 12
    return length * np.arange(1, steps + 1)
