"""The linear bar for maps from forcings to outputs at the same time: ridge regression on principal components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from surrogate.core.types import UserError
from surrogate.metrics.climatology import Climatology
from surrogate.metrics.principal_components import PrincipalComponents, RidgeChoice, solve_ridge
from surrogate.metrics.training_fields import TrainingFields, block_size, blocks

_HELD_OUT = 0.2
_MAX_PREDICTORS = 160
_MAX_TARGETS = 320


class LinearModel:
    """Outputs' anomalies regressed on the principal components of the forcings' anomalies.

    With forcings that are uniform over the grid (CO₂, a global mean) the components are those scalars and the model
    is pattern scaling (Santer et al. 1990): one regression a grid point. The number of components and the ridge
    penalty are chosen on the last fifth of every training trajectory, judged by the outputs' leading components;
    the final regression is on every grid point, that is on all components of the outputs.
    """

    name = "linear_model"

    def __init__(self, climatology: Climatology | None = None) -> None:
        self.climatology = climatology
        self.chosen: tuple[int, float] = (0, 0.0)

    def fit(self, train: TrainingFields, leads: Sequence[int] = (0,)) -> None:
        """Fit on all training samples; ``leads`` must be (0,).

        Raises:
            UserError: without forcings, or for another lead.
        """
        if not train.forcing or not train.forcing[0].shape[-1]:
            raise UserError("the linear model maps forcings to outputs, and this data has no forcing")
        if tuple(leads) != (0,):
            raise UserError(
                f"the linear model predicts at the time of its forcings (lead 0), not at leads {list(leads)}"
            )
        if self.climatology is None:
            self.climatology = Climatology().fit(train)
        self.weights = train.weights
        season = self.climatology.season
        # Cells where every channel of the forcings has data all the time
        present = np.all([np.isfinite(f).all(axis=0) for f in train.forcing], axis=0)
        area = np.where(present, train.spec.grid.area_weights()[..., None], 0.0)
        self.forcing_climatology = Climatology().fit_arrays(train.forcing, train.time, area, season)

        cut = [int(np.ceil(len(s) * (1 - _HELD_OUT))) for s in train.state]
        inputs = self._patterns(train.forcing, train.time, cut, area, self.forcing_climatology, _MAX_PREDICTORS)
        outputs = self._patterns(train.state, train.time, cut, train.weights, self.climatology, _MAX_TARGETS)
        x = [inputs.project(f, t) for f, t in zip(train.forcing, train.time, strict=True)]
        y = [outputs.project(s, t) for s, t in zip(train.state, train.time, strict=True)]
        fitted, held = [slice(0, c) for c in cut], [slice(c, None) for c in cut]
        choice = RidgeChoice(*(np.concatenate([a[s] for a, s in zip(v, part, strict=True)])
                               for part in (fitted, held) for v in (x, y)))  # fmt: skip
        self.chosen = choice.components, choice.penalty

        whole = [len(s) for s in train.state]
        self.inputs = self._patterns(train.forcing, train.time, whole, area, self.forcing_climatology, _MAX_PREDICTORS)
        k = min(choice.components, self.inputs.patterns.shape[1])
        gram, cross = np.zeros((k, k)), np.zeros((k, train.weights.size))
        for forcing, state, time in zip(train.forcing, train.state, train.time, strict=True):
            for block in blocks(len(time), block_size(train.weights.size)):
                p = self.inputs.project(forcing[block], time[block])[:, :k]
                anomaly = np.where(train.mask, state[block] - self.climatology.anomaly_base(time[block]), np.float32(0))
                gram += p.T @ p
                cross += p.astype(np.float32).T @ anomaly.reshape(len(p), -1)
        self.coefficients = solve_ridge(gram, cross, choice.penalty).astype(np.float32)

    @staticmethod
    def _patterns(
        fields: Sequence[np.ndarray], time: Sequence[np.ndarray], lengths: list[int], weights: np.ndarray,
        climatology: Climatology, number: int,
    ) -> PrincipalComponents:  # fmt: skip
        number = max(1, min(number, sum(lengths) // 2))
        return PrincipalComponents(climatology, weights).fit(fields, time, lengths, number)

    def predict(
        self,
        state: np.ndarray | None,
        init_time: np.ndarray,
        valid_time: np.ndarray,
        lead: int,
        forcing: np.ndarray | None = None,
    ) -> np.ndarray:
        if self.climatology is None or lead != 0 or forcing is None:
            raise UserError("the linear model must be fitted, and predicts at lead 0 from given forcings")
        p = self.inputs.project(forcing, valid_time)[:, : len(self.coefficients)]
        anomaly = p.astype(np.float32) @ self.coefficients
        return self.climatology(valid_time) + anomaly.reshape(len(p), *self.weights.shape)
