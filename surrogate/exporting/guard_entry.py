"""The manifest's ``guard`` of a function, from the statistics of the training inputs that a Surrogate keeps."""

from __future__ import annotations

from typing import Any

import numpy as np

from surrogate.core.types import UserError
from surrogate.data.input_statistics import InputStatistics
from surrogate.domains.fields_inputs import FIELD, POINT, channel_names, field_weights
from surrogate.domains.fields_surrogate import FieldSurrogate
from surrogate.exporting.fields import groups
from surrogate.exporting.function import Function

NO_GUARD = "without a guard: the surrogate was saved without statistics of its inputs; train it anew to have one"


def check_options(quantile: float, margin: float) -> None:
    """Raises: UserError for a quantile or margin that means nothing."""
    if not 0.5 <= quantile <= 1:
        raise UserError(f"guard={quantile:g} must lie between 0.5 and 1: the share of training samples that pass")
    if not 0 <= margin < 10:
        raise UserError(f"guard_margin={margin:g} must lie between 0 and 10")


def guard_entry(
    function: Function, surrogate: FieldSurrogate, statistics: dict[str, np.ndarray], quantile: float, margin: float
) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
    """JSON values for the manifest, and the arrays they name; None where the surrogate has no statistics.

    Args:
        statistics: arrays of the surrogate, among which those of ``fields_inputs`` are looked for.
        quantile: the share of the training samples whose distance passes.
        margin: by how much of its length a range is widened on either side.
    """
    found = InputStatistics.from_arrays(statistics, POINT if function.kind == "point" else FIELD)
    if found is None:
        return None, {}
    arrays = {f"{function.name}/factor": found.factor().astype(np.float32)}
    inputs = [
        _input(name, role, indices, function, surrogate, found, arrays)
        for role in ("prognostic", "forcing", *(("static",) if function.kind == "point" else ()))
        for name, indices in groups(surrogate.spec.role(role))
    ]
    entry = {
        "quantile": quantile, "threshold": found.threshold(quantile), "margin": margin, "samples": found.samples,
        "mean": _numbers(found.mean), "std": _numbers(found.std), "factor": f"{function.name}/factor", "inputs": inputs,
    }  # fmt: skip
    return entry, arrays


def _input(
    name: str, role: str, indices: list[int], function: Function, surrogate: FieldSurrogate, found: InputStatistics,
    arrays: dict[str, np.ndarray],
) -> dict[str, Any]:  # fmt: skip
    place = {key: i for i, key in enumerate(channel_names(surrogate.spec))}
    past = surrogate.spec.history if role == "prognostic" else 1
    repeats = function.steps if role == "forcing" else 1
    features = [place[role, h, c] for h in range(past) for c in indices] * repeats
    block, weights = 1, ""
    if function.kind == "field":
        block = int(np.prod(surrogate.spec.grid.shape))
        grid = surrogate.spec.grid
        if role == "prognostic":
            weights, shares = f"{function.name}/weights/{name}", field_weights(surrogate.frame)[..., indices]
        else:
            weights, shares = f"{function.name}/weights", (grid.area_weights() / block)[..., None]
        arrays[weights] = np.moveaxis(shares, -1, 0).reshape(-1, block).astype(np.float32)
    return {
        "name": name, "features": features, "block": block, "weights": weights,
        "low": _numbers(found.low[features]), "high": _numbers(found.high[features]),
    }  # fmt: skip


def _numbers(values: np.ndarray) -> list[float]:
    return [float(v) for v in values]
