"""Pictures of a run, from plain data: no model, no device, no pyplot state.

Every function returns a matplotlib ``Figure`` that shows itself in a notebook; :func:`write_plots` makes all
that the data allow and writes them as PNG with their captions inside.
"""

from surrogate.run.plots.atoms import AtomsPictures
from surrogate.run.plots.crystals import PhononBands, StateCurves, phonon_bands, state_equations
from surrogate.run.plots.dynamics import Conservation, RadialDistribution, conservation, radial_distributions
from surrogate.run.plots.maps import MapPicture, field_map
from surrogate.run.plots.parity import Parity, parity
from surrogate.run.plots.rollout import RolloutSeries, rollout
from surrogate.run.plots.scorecard import scorecard
from surrogate.run.plots.skill import skill
from surrogate.run.plots.spectra import Spectrum, spectra
from surrogate.run.plots.training import training
from surrogate.run.plots.uncertainty import Uncertainty, uncertainty
from surrogate.run.plots.write import Pictures, write_plots

__all__ = [
    "AtomsPictures",
    "Conservation",
    "MapPicture",
    "Parity",
    "PhononBands",
    "Pictures",
    "RadialDistribution",
    "RolloutSeries",
    "Spectrum",
    "StateCurves",
    "Uncertainty",
    "conservation",
    "field_map",
    "parity",
    "phonon_bands",
    "radial_distributions",
    "rollout",
    "scorecard",
    "skill",
    "spectra",
    "state_equations",
    "training",
    "uncertainty",
    "write_plots",
]
