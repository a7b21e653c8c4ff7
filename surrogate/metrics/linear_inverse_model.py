"""The linear inverse model: regression of principal components at a lead on those at the initial time.

After Penland & Sardeshmukh (1995, J. Climate 8, 1999–2024), fitted for each lead by itself rather than
as a power of one propagator, since that is the stronger forecast when the dynamics are not quite linear.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from surrogate.core.types import UserError
from surrogate.metrics.climatology import Climatology
from surrogate.metrics.principal_components import PrincipalComponents, RidgeChoice, solve_ridge
from surrogate.metrics.training_fields import TrainingFields

_HELD_OUT = 0.2


class LinearInverseModel:
    """x'(t + τ) = E Aτ Eᵀ x'(t) with E the leading patterns of all channels' standardised anomalies.

    The number of predictors and the ridge penalty are chosen for each lead on the last fifth of every
    training trajectory (patterns and regression fitted on the rest); then everything is fitted again on the
    whole training split. Every retained pattern is a predictand whatever the number of predictors.
    """

    name = "linear_inverse_model"

    def __init__(self, climatology: Climatology | None = None, max_components: int = 320) -> None:
        self.climatology = climatology
        self.max_components = max_components
        self.chosen: dict[int, tuple[int, float]] = {}
        self.propagators: dict[int, np.ndarray] = {}

    def fit(self, train: TrainingFields, leads: Sequence[int]) -> None:
        """Fit for ``leads`` in model steps.

        Raises:
            UserError: when the training split is too short for a lead.
        """
        if self.climatology is None:
            self.climatology = Climatology().fit(train)
        cut = [int(np.ceil(len(s) * (1 - _HELD_OUT))) for s in train.state]
        self.chosen = self._choose(train, leads, cut, self.climatology)
        whole = [len(s) for s in train.state]
        self.pcs = self._patterns(train, whole, self.climatology)
        projected = [self.pcs.project(s, t) for s, t in zip(train.state, train.time, strict=True)]
        self.propagators = {}
        for lead in leads:
            x, y = _pairs(train, projected, lead)
            k, penalty = self.chosen[lead]
            x = x[:, :k]
            self.propagators[lead] = solve_ridge(x.T @ x, x.T @ y, penalty) if k else np.zeros((0, y.shape[1]))

    def _patterns(self, train: TrainingFields, lengths: list[int], climatology: Climatology) -> PrincipalComponents:
        number = max(1, min(self.max_components, sum(lengths) // 2))
        return PrincipalComponents(climatology, train.weights).fit(train.state, train.time, lengths, number)

    def _choose(
        self, train: TrainingFields, leads: Sequence[int], cut: list[int], climatology: Climatology
    ) -> dict[int, tuple[int, float]]:
        pcs = self._patterns(train, cut, climatology)
        projected = [pcs.project(s, t) for s, t in zip(train.state, train.time, strict=True)]
        chosen = {}
        for lead in leads:
            x, y = _pairs(train, projected, lead, before=cut)
            x_held, y_held = _pairs(train, projected, lead, after=cut)
            if len(x) < 2 or not len(x_held):
                raise UserError(
                    f"a linear inverse model at a lead of {train.spec.time_step * lead} needs a longer training split: "
                    f"{len(x)} pairs to fit and {len(x_held)} to choose with"
                )
            choice = RidgeChoice(x, y, x_held, y_held)
            chosen[lead] = choice.components, choice.penalty
        return chosen

    def predict(
        self,
        state: np.ndarray,
        init_time: np.ndarray,
        valid_time: np.ndarray,
        lead: int,
        forcing: np.ndarray | None = None,
    ) -> np.ndarray:
        if self.climatology is None or lead not in self.propagators:
            raise UserError(f"{self.name} was not fitted for a lead of {lead} steps")
        propagator = self.propagators[lead]
        components = self.pcs.project(state, init_time)[:, : len(propagator)] @ propagator
        return self.climatology(valid_time) + self.pcs.expand(components)


def _pairs(
    train: TrainingFields,
    projected: list[np.ndarray],
    lead: int,
    before: list[int] | None = None,
    after: list[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Components at initial and valid times, (n, K) each, both times before or from given indices on."""
    offset = lead * train.stride
    x, y = [], []
    for i, (pcs, origins) in enumerate(zip(projected, train.origins(lead), strict=True)):
        keep = origins
        if before is not None:
            keep = keep[keep + offset < before[i]]
        if after is not None:
            keep = keep[keep >= after[i]]
        x.append(pcs[keep])
        y.append(pcs[keep + offset])
    return np.concatenate(x), np.concatenate(y)
