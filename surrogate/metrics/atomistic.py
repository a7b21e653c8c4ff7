"""Errors of energies, forces and stresses: mean absolute, root mean square and largest, of any number of variables.

As everywhere a score is sufficient statistics, weighting and a final function. The statistics of a variable are the
number of values, Σ|e|, Σe² and max|e| over the values that count; those of chunks or processes are merged, and the
score of all is the same up to the rounding of float64.

Which values count, and how: an energy per atom is one value a frame; forces are three values an atom, so that MAE and
RMSE are over Cartesian components as the literature has them; a stress is the nine components of the symmetric
tensor, which makes its RMSE independent of the orientation of the axes (six would not).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

UNITS = {"energy_per_atom": "meV/atom", "forces": "eV/Å", "stress": "eV/Å³"}


@dataclass(frozen=True)
class ErrorSums:
    """Sufficient statistics of the errors of one variable."""

    count: int = 0
    absolute: float = 0.0  # Σ|e|
    square: float = 0.0  # Σe²
    largest: float = 0.0  # max|e|

    @staticmethod
    def of(error: np.ndarray, mask: np.ndarray | None = None) -> ErrorSums:
        """Of errors of any shape.

        An error that is not finite makes the scores so: a prediction that blew up has no score.

        Args:
            mask: bool, broadcast along the trailing axes: which entries of the first axes count; default all.
        """
        error = np.asarray(error, np.float64)
        size = np.abs(error if mask is None else error[np.asarray(mask, bool)]).ravel()
        if not size.size:
            return ErrorSums()
        with np.errstate(over="ignore", invalid="ignore"):
            return ErrorSums(size.size, float(size.sum()), float(size @ size), float(size.max()))

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.count + other.count, self.absolute + other.absolute, self.square + other.square,
            float(np.maximum(self.largest, other.largest)),  # unlike max() it passes NaN on, whichever side it is
        )  # fmt: skip

    def scores(self) -> dict[str, float]:
        """``mae``, ``rmse`` and ``max_error`` in the units of the errors.

        Raises:
            ValueError: when nothing was summed.
        """
        if not self.count:
            raise ValueError("no value was added, so there is no score")
        return {
            "mae": self.absolute / self.count,
            "rmse": float(np.sqrt(self.square / self.count)),
            "max_error": self.largest,
        }


@dataclass
class ErrorTable:
    """Statistics by variable, in the order in which variables came."""

    sums: dict[str, ErrorSums] = field(default_factory=dict)

    def add(self, variable: str, error: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Add a chunk's errors (prediction − truth); a variable without any value yet has no row."""
        new = ErrorSums.of(error, mask)
        if new.count:
            self.sums[variable] = self.sums.get(variable, ErrorSums()) + new

    def __add__(self, other: ErrorTable) -> ErrorTable:
        """The table of both sets of chunks (say, of two processes)."""
        names = dict.fromkeys([*self.sums, *other.sums])
        return ErrorTable({n: self.sums.get(n, ErrorSums()) + other.sums.get(n, ErrorSums()) for n in names})

    def scores(self) -> dict[str, dict[str, float]]:
        """Variable → metric → score."""
        return {name: sums.scores() for name, sums in self.sums.items()}


def units_of(scores: Mapping[str, object]) -> dict[str, str]:
    """Units of variables that :data:`UNITS` knows, ``name@part`` included."""
    return {key: UNITS[key.partition("@")[0]] for key in scores if key.partition("@")[0] in UNITS}
