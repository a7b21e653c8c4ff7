"""The forecasts that a surrogate has to beat; all are fitted on the training split alone.

For a state that is stepped forward: ``persistence``, ``climatology``, ``damped_persistence`` and
``linear_inverse_model``; for a map from forcings to outputs: ``climatology`` and ``linear_model``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import difflib
from typing import Protocol

import numpy as np

from surrogate.core.spec import Spec
from surrogate.core.types import UserError
from surrogate.metrics.climatology import Climatology
from surrogate.metrics.linear_inverse_model import LinearInverseModel
from surrogate.metrics.linear_model import LinearModel
from surrogate.metrics.training_fields import TrainingFields, block_size, blocks


class Baseline(Protocol):
    """A forecast in physical units, NaN where data are missing; ``lead`` counts model steps."""

    name: str

    def fit(self, train: TrainingFields, leads: Sequence[int]) -> None:
        """Learn from the training split what :meth:`predict` needs at ``leads``."""
        ...

    def predict(
        self,
        state: np.ndarray,
        init_time: np.ndarray,
        valid_time: np.ndarray,
        lead: int,
        forcing: np.ndarray | None = None,
    ) -> np.ndarray:
        """Forecasts at ``valid_time``.

        Args:
            state: (N, H, W, C) outputs at ``init_time``, in physical units.
            init_time, valid_time: (N,).
            lead: model steps from one to the other; one of the fitted leads.
            forcing: (N, H, W, F) at ``valid_time``, for maps.

        Returns:
            (N, H, W, C) float32.
        """
        ...


class Persistence:
    """Nothing changes: the state at the initial time."""

    name = "persistence"

    def __init__(self, climatology: Climatology | None = None) -> None:
        pass

    def fit(self, train: TrainingFields, leads: Sequence[int]) -> None:
        pass

    def predict(
        self, state: np.ndarray, init_time: np.ndarray, valid_time: np.ndarray, lead: int,
        forcing: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        return state


class ClimatologyForecast:
    """The training climatology at the valid time."""

    name = "climatology"

    def __init__(self, climatology: Climatology | None = None) -> None:
        self.climatology = climatology

    def fit(self, train: TrainingFields, leads: Sequence[int]) -> None:
        if self.climatology is None:
            self.climatology = Climatology().fit(train)

    def predict(
        self, state: np.ndarray | None, init_time: np.ndarray, valid_time: np.ndarray, lead: int,
        forcing: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        if self.climatology is None:
            raise UserError(f"{self.name} was not fitted")
        return self.climatology(valid_time)


class DampedPersistence:
    """The initial anomaly, damped at each point by its lagged regression Σ x'(t) x'(t+τ) / Σ x'(t)², in [0, 1].

    For a stationary series that factor is the autocorrelation at the lead.
    """

    name = "damped_persistence"

    def __init__(self, climatology: Climatology | None = None) -> None:
        self.climatology = climatology
        self.factors: dict[int, np.ndarray] = {}

    def fit(self, train: TrainingFields, leads: Sequence[int]) -> None:
        if self.climatology is None:
            self.climatology = Climatology().fit(train)
        shape = train.weights.shape
        cross = {lead: np.zeros(shape) for lead in leads}
        square = {lead: np.zeros(shape) for lead in leads}
        origins = {lead: train.origins(lead) for lead in leads}
        for lead in leads:
            if not any(len(o) for o in origins[lead]):
                raise UserError(
                    f"no two training times are {train.spec.time_step * lead} apart without a gap between them"
                )
        for i, (state, time) in enumerate(zip(train.state, train.time, strict=True)):
            for rows in blocks(shape[0], block_size(len(state) * shape[1] * shape[2])):
                anomaly = state[:, rows] - self.climatology.anomaly_base(time, rows)
                for lead in leads:
                    for part in blocks(len(origins[lead][i]), 128):
                        at = origins[lead][i][part]
                        first, later = anomaly[at], anomaly[at + lead * train.stride]
                        cross[lead][rows] += np.einsum("thwc,thwc->hwc", first, later)
                        square[lead][rows] += np.einsum("thwc,thwc->hwc", first, first)
        for lead in leads:
            good = train.mask & (square[lead] > 0)
            factor = np.where(good, cross[lead], 0.0) / np.where(good, square[lead], 1.0)
            self.factors[lead] = np.clip(factor, 0.0, 1.0).astype(np.float32)

    def predict(
        self, state: np.ndarray, init_time: np.ndarray, valid_time: np.ndarray, lead: int,
        forcing: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        if self.climatology is None or lead not in self.factors:
            raise UserError(f"{self.name} was not fitted for a lead of {lead} steps")
        anomaly = state - self.climatology(init_time)
        return self.climatology(valid_time) + self.factors[lead] * anomaly


_BASELINES: dict[str, Callable[[Climatology | None], Baseline]] = {
    "persistence": Persistence,
    "climatology": ClimatologyForecast,
    "damped_persistence": DampedPersistence,
    "linear_inverse_model": LinearInverseModel,
    "linear_model": LinearModel,
}


def applicable_baselines(spec: Spec) -> tuple[str, ...]:
    """The baselines that make sense for ``spec``, in the order of tables."""
    if spec.role("prognostic") and spec.time_step:
        return "persistence", "climatology", "damped_persistence", "linear_inverse_model"
    return ("climatology", "linear_model") if spec.role("forcing") else ("climatology",)


def find_baseline(name: str, climatology: Climatology | None = None) -> Baseline:
    """An unfitted baseline by name, sharing a fitted climatology.

    Raises:
        UserError: for an unknown name, with the names that exist.
    """
    if name not in _BASELINES:
        close = difflib.get_close_matches(name, _BASELINES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"baseline {name!r} does not exist{hint} (there are {', '.join(_BASELINES)})")
    return _BASELINES[name](climatology)


def fit_baselines(
    train: TrainingFields, leads: Sequence[int], climatology: Climatology, names: Sequence[str] = ()
) -> dict[str, Baseline]:
    """Fit the named baselines (default: all that apply) for ``leads`` in model steps, in order.

    Raises:
        UserError: for a name that does not exist or does not apply to this kind of data.
    """
    applicable = applicable_baselines(train.spec)
    fitted = {}
    for name in names or applicable:
        baseline = find_baseline(name, climatology)
        if name not in applicable:
            raise UserError(f"baseline {name!r} does not apply to this data; {', '.join(applicable)} do")
        baseline.fit(train, leads)
        fitted[name] = baseline
    return fitted
