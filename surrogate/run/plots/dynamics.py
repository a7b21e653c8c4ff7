"""Molecular dynamics with a surrogate: is energy conserved, what temperature, what structure?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np

from surrogate.core.types import UserError
from surrogate.run.style import FAINT, INK, RC, SURROGATE_COLOR, TRUTH_COLOR, WORSE_COLOR, Picture, number


@dataclass(frozen=True)
class Conservation:
    """A run at constant energy.

    Attributes:
        name: of the system, for the title.
        time: (T,) fs.
        total_energy: (T,) eV, kinetic and potential, of all ``num_atoms`` atoms, from any zero; NaN after it broke.
        temperature: (T,) K.
        start_temperature: K to which a thermostat brought it before, if one did.
    """

    name: str
    time: np.ndarray
    total_energy: np.ndarray
    temperature: np.ndarray
    num_atoms: int
    start_temperature: float | None = None

    def __post_init__(self) -> None:
        for name in ("total_energy", "temperature"):
            if np.shape(getattr(self, name)) != np.shape(self.time):
                raise UserError(
                    f"dynamics of {self.name!r}: {name} has shape {np.shape(getattr(self, name))}, time has "
                    f"{np.shape(self.time)}"
                )


@dataclass(frozen=True)
class RadialDistribution:
    """A radial distribution function, of the surrogate's dynamics and of a reference.

    Attributes:
        name: of the pair or system, such as ``Cu–Au``.
        distance: (R,) Å; ``surrogate``: (R,) g(r); ``reference``: (R,) likewise, or None.
        reference_name: what the reference is, for the legend.
    """

    name: str
    distance: np.ndarray
    surrogate: np.ndarray
    reference: np.ndarray | None = None
    reference_name: str = "reference"

    def __post_init__(self) -> None:
        for name in ("surrogate", "reference"):
            values = getattr(self, name)
            if values is not None and np.shape(values) != np.shape(self.distance):
                raise UserError(
                    f"g(r) of {self.name!r}: {name} has shape {np.shape(values)}, distance {np.shape(self.distance)}"
                )


@matplotlib.rc_context(RC)
def conservation(items: Sequence[Conservation]) -> Picture:
    """Change of the total energy with its straight line, and temperature, against time; a column a run."""
    if not items:
        raise UserError("no dynamics to draw")
    figure = Picture(max(6.4, 4.9 * len(items)), 4.8)
    top, bottom = figure.subplots(2, len(items), squeeze=False, sharex="col", height_ratios=[1.3, 1])
    for item, above, below in zip(items, top, bottom, strict=True):
        time = np.asarray(item.time, float) / 1000
        energy = 1000 * np.asarray(item.total_energy, float) / item.num_atoms
        finite = np.isfinite(energy)
        energy = energy - (energy[finite][0] if finite.any() else 0.0)
        above.plot(time, energy, color=SURROGATE_COLOR, linewidth=0.9, label="total energy")
        if finite.sum() > 2 and np.ptp(time[finite]) > 0:
            slope, level = np.polyfit(time[finite], energy[finite], 1)
            text = f"drift {number(float(slope))} meV/atom/ps"
            above.plot(time, level + slope * time, color=WORSE_COLOR, linewidth=1.3, linestyle="--", label=text)
        above.set_ylabel("change of the total\nenergy (meV/atom)")
        above.legend(loc="best", fontsize=8)
        above.set_title(item.name)
        below.plot(time, item.temperature, color=SURROGATE_COLOR, linewidth=0.8)
        usable = np.asarray(item.temperature, float)[np.isfinite(item.temperature)]
        if usable.size:
            mean = float(usable.mean())
            below.axhline(mean, color=INK, linewidth=1.1, linestyle="--", label=f"mean {mean:.0f} K")
        if item.start_temperature is not None:
            below.axhline(item.start_temperature, color="#8A8A8A", linewidth=1.2, linestyle=":",
                          label=f"equilibrated at {item.start_temperature:g} K")  # fmt: skip
        below.set_ylim(bottom=0)
        below.set_ylabel("temperature (K)")
        below.set_xlabel("time (ps)")
        below.legend(loc="lower right", fontsize=8)
        if not finite.all():
            broken = float(time[~finite][0])
            for ax in (above, below):
                ax.axvline(broken, color=WORSE_COLOR, linewidth=1.2)
            above.text(broken, 0.5, " not finite", transform=above.get_xaxis_transform(), color=WORSE_COLOR, fontsize=8)
    figure.align_ylabels()
    return figure


@matplotlib.rc_context(RC)
def radial_distributions(items: Sequence[RadialDistribution]) -> Picture:
    """g(r) of the surrogate's dynamics over that of the reference; a panel a pair. 1 is no order at that distance."""
    if not items:
        raise UserError("no radial distribution function to draw")
    columns = min(3, len(items))
    rows = -(-len(items) // columns)
    figure = Picture(max(5.6, 3.9 * columns), 2.9 * rows + 0.2)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[len(items) :]:
        ax.set_visible(False)
    for ax, item in zip(axes, items, strict=False):
        ax.axhline(1, color=FAINT, linewidth=1.2, zorder=1)
        if item.reference is not None:
            ax.fill_between(item.distance, item.reference, color=TRUTH_COLOR, alpha=0.10, linewidth=0)
            ax.plot(item.distance, item.reference, color=TRUTH_COLOR, linewidth=1.2, label=item.reference_name)
        ax.plot(item.distance, item.surrogate, color=SURROGATE_COLOR, linewidth=1.9, linestyle="--", label="surrogate")
        ax.set_xlim(0, float(np.max(item.distance)))
        ax.set_ylim(bottom=0)
        ax.set_title(item.name)
        ax.set_xlabel("distance (Å)")
        ax.set_ylabel("g(r)")
        ax.legend(loc="upper left", fontsize=8)
    return figure
