"""Statistics of the training inputs of gridded fields, kept with a surrogate for the guard of its callers.

Of two kinds: of whole maps (the range of each variable, and the area means of the variables together), and of single
columns where the surrogate could be called with those.
"""

from __future__ import annotations

import numpy as np

from surrogate.core.spec import Spec
from surrogate.data.input_statistics import fit_inputs
from surrogate.data.source import Source
from surrogate.domains.frame import FieldFrame

# Maps that are read at least, and columns in all: enough to tell shares of a tenth of a percent.
_MAPS, _COLUMNS = 512, 32768
FIELD, POINT = "guard.field.", "guard.point."


def channel_names(spec: Spec) -> list[tuple[str, int, int]]:
    """What the inputs are, in their order: role, past state (0 the oldest) and channel of the role.

    States from the oldest to the present one, then forcings; for columns the static fields follow.
    """
    states = [("prognostic", h, c) for h in range(spec.history) for c in range(len(spec.role("prognostic")))]
    forcings = [("forcing", 0, c) for c in range(len(spec.role("forcing")))]
    return states + forcings + [("static", 0, c) for c in range(len(spec.role("static")))]


def field_weights(frame: FieldFrame) -> np.ndarray:
    """(H, W, P) share of each point in the mean of a prognostic field: its area, 0 where it has no value."""
    weights = frame.spec.grid.area_weights()[..., None] * frame.normalizer.mask[..., : frame.num_prognostic]
    return weights / weights.sum((0, 1))


def input_statistics(source: Source, frame: FieldFrame, samples: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of the statistics of training inputs in physical units, few enough maps being read for any size of data.

    Args:
        samples: (N, 2) trajectory and initial time of the training samples.
    """
    spec = frame.spec
    dynamic = [c for c in channel_names(spec) if c[0] != "static"]
    if not len(samples) or not dynamic:
        return {}
    height, width = spec.grid.shape
    count = min(len(samples), max(_MAPS, _COLUMNS // (height * width)))
    chosen = samples[np.unique(np.linspace(0, len(samples) - 1, count).astype(int))]
    places = np.sort(np.random.default_rng(0).permutation(height * width)[: -(-_COLUMNS // count)])
    area = (spec.grid.area_weights() / (height * width))[..., None]
    masks, weights = _by_channel(frame, dynamic, area)
    means, lows, highs, columns = [], [], [], []
    static = source.static.reshape(height * width, -1)[places]
    for number, start in chosen:
        values = _inputs(source, spec, int(number), int(start))  # (H, W, C)
        inside = np.where(masks, values, 0)
        means.append((inside * weights).sum((0, 1)))
        lows.append(np.where(masks, values, np.inf).min((0, 1)))
        highs.append(np.where(masks, values, -np.inf).max((0, 1)))
        columns.append(np.concatenate([values.reshape(height * width, -1)[places], static], axis=-1))
    whole = fit_inputs(np.stack(means), np.min(lows, 0), np.max(highs, 0))
    found = whole.arrays(FIELD) if whole is not None else {}
    if not frame.bound_to_places():
        single = fit_inputs(np.concatenate(columns))
        found |= single.arrays(POINT) if single is not None else {}
    return found


def _by_channel(
    frame: FieldFrame, channels: list[tuple[str, int, int]], area: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, C) where each input has a value, and the share of each point in its mean."""
    own = field_weights(frame)
    everywhere = np.ones(frame.spec.grid.shape, bool)
    masks = [frame.normalizer.mask[..., c] if role == "prognostic" else everywhere for role, _, c in channels]
    weights = [own[..., c] if role == "prognostic" else area[..., 0] for role, _, c in channels]
    return np.stack(masks, axis=-1), np.stack(weights, axis=-1)


def _inputs(source: Source, spec: Spec, number: int, start: int) -> np.ndarray:
    """States up to ``start`` and forcings at the time predicted: (H, W, history × P + F)."""
    parts = []
    ahead = 0
    if spec.role("prognostic"):
        past = start + np.arange(-(spec.history - 1), 1) * source.stride
        states = source.read(number, past)["prognostic"]
        parts.append(np.moveaxis(states, 0, 2).reshape(*spec.grid.shape, -1))
        ahead = source.stride
    if spec.role("forcing"):
        parts.append(source.read(number, np.array([start + ahead]))["forcing"][0])
    return np.concatenate(parts, axis=-1)
