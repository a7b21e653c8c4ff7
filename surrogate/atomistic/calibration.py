"""Is an ensemble's spread the size of its error? Factors that make it so, and how well spread and error go together.

An ensemble's standard deviation ranks predictions well but is too small, since its members share data and form. One
factor, fitted on the validation split, mends the size:

    F. Musil, M. J. Willatt, M. A. Langovoy and M. Ceriotti, 2019: Fast and accurate uncertainty estimation in chemical
    machine learning. Journal of Chemical Theory and Computation 15, 906–915 (eq. 21 without its term for few members:
    the factor that maximises the likelihood of Gaussian errors).

The comparison in bins of equal number and the mean relative gap between them (expected normalized calibration error):

    D. Levi, L. Gispan, N. Giladi and E. Fetaya, 2022: Evaluating and calibrating uncertainty prediction in regression
    tasks. Sensors 22, 5540.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from surrogate.atomistic.predict import Predicted
from surrogate.core.types import UserError
from surrogate.data.atoms import Frames

_BINS = 12
# Where symmetry makes a force zero for every potential, spread and error are rounding and their ratio says nothing.
_ZERO_FORCE, _ZERO_ENERGY = 1e-4, 1e-6  # eV/Å, eV/atom


@dataclass(frozen=True)
class Reliability:
    """Errors against the spreads that foretold them, for one variable, in bins of equal number by spread.

    Attributes:
        key, units: of the variable.
        spread: (K,) root mean square of the predicted standard deviations of each bin, ascending.
        error: (K,) root mean square error of each bin.
        count: values in all.
        factor: √⟨e²/σ²⟩: multiply spreads by this to make ⟨e²/σ²⟩ = 1; 1 says that they are of the right size.
        spearman: rank correlation of |error| and spread; even a perfect σ reaches only about 0.4 to 0.6, since the
            error is a draw from the distribution that σ is the width of.
        calibration_error: ⟨|error − spread| / spread⟩ over the bins; 0 is best.
    """

    key: str
    units: str
    spread: np.ndarray
    error: np.ndarray
    count: int
    factor: float
    spearman: float
    calibration_error: float

    def summary(self) -> dict[str, Any]:
        """Numbers for ``summary.json``."""
        return {
            "units": self.units, "spread": float(np.sqrt(np.mean(self.spread**2))),
            "rmse": float(np.sqrt(np.mean(self.error**2))), "factor": self.factor, "spearman": self.spearman,
            "calibration_error": self.calibration_error, "count": self.count,
        }  # fmt: skip

    def picture(self) -> dict[str, Any]:
        """Keyword arguments of ``surrogate.run.plots.Uncertainty``."""
        return {
            "key": self.key, "units": self.units, "spread": self.spread, "error": self.error,
            "factor": self.factor, "spearman": self.spearman,
        }  # fmt: skip


def calibration(predicted: Predicted, frames: Frames) -> dict[str, Reliability]:
    """``forces`` (a value an atom, eV/Å) and ``energy_per_atom`` (a value a frame, meV/atom), as far as there are labels.

    On the validation split with the raw spreads, the factors are what ``spread_factor`` of a predictor shall be; on the
    test split with those in place, ``factor`` says by how much they still miss.

    Raises:
        UserError: for predictions without spreads, or an ensemble whose members all agree.
    """
    if predicted.force_spread is None or predicted.energy_spread is None:
        raise UserError("a single potential has no spread to calibrate; train an ensemble")
    found = {}
    if frames.forces is not None:
        # The spread is the root of the mean variance over components; so is the error over them.
        error = np.sqrt(np.mean((predicted.forces - frames.forces) ** 2, axis=1))
        found["forces"] = reliability("forces", "eV/Å", error, predicted.force_spread, _ZERO_FORCE)
    if frames.energy is not None:
        error = 1000 * np.abs(predicted.energy - frames.energy) / frames.row_size
        spread = 1000 * predicted.energy_spread / frames.row_size
        found["energy_per_atom"] = reliability("energy_per_atom", "meV/atom", error, spread, 1000 * _ZERO_ENERGY)
    return found


def reliability(key: str, units: str, error: np.ndarray, spread: np.ndarray, zero: float) -> Reliability:
    """Of absolute errors (K,) and standard deviations (K,); values where both are below ``zero`` do not count.

    Raises:
        UserError: when there is no error to compare with, a value is not finite, or most spreads are zero.
    """
    counts = (error > zero) | (spread > zero)
    error, spread = np.asarray(error, float)[counts], np.asarray(spread, float)[counts]
    if not error.size:
        raise UserError(f"{key}: neither errors nor spreads differ from zero, so there is nothing to calibrate")
    if not (np.isfinite(error).all() and np.isfinite(spread).all()):
        raise UserError(f"{key}: an error or a spread is not finite")
    if 2 * np.count_nonzero(spread) < spread.size:
        raise UserError(
            f"{key}: the ensemble's members agree exactly at {int((spread == 0).sum())} of {spread.size} values where they "
            "are wrong; were they trained with different seeds?"
        )
    # A few may agree by the rounding of float32: they are as sure as the surest of the others.
    spread = np.maximum(spread, spread[spread > 0].min())
    factor = float(np.sqrt(np.mean((error / spread) ** 2)))
    groups = np.array_split(np.argsort(spread, kind="stable"), min(_BINS, len(spread)))
    rms = lambda values: np.array([np.sqrt(np.mean(values[g] ** 2)) for g in groups])  # noqa: E731
    by_spread, by_error = rms(spread), rms(error)
    rank = float(spearmanr(error, spread).statistic) if len(error) > 2 else float("nan")
    gap = float(np.mean(np.abs(by_error - by_spread) / by_spread))
    return Reliability(key, units, by_spread, by_error, len(error), factor, rank, gap)
