"""Scores against the truth, and the baselines that scores are read beside."""

# The registry fills when this module is imported
from surrogate.metrics import deterministic as deterministic
from surrogate.metrics.base import Accumulator, Metric, find_metric, metric_names, register_metric
from surrogate.metrics.baselines import Baseline, applicable_baselines, find_baseline, fit_baselines
from surrogate.metrics.climatology import Climatology
from surrogate.metrics.indices import IndexDefinition, index_series
from surrogate.metrics.spectra import PowerSpectrum, spectrum_unavailable
from surrogate.metrics.training_fields import TrainingFields

__all__ = [
    "Accumulator",
    "Baseline",
    "Climatology",
    "IndexDefinition",
    "Metric",
    "PowerSpectrum",
    "TrainingFields",
    "applicable_baselines",
    "find_baseline",
    "find_metric",
    "fit_baselines",
    "index_series",
    "metric_names",
    "register_metric",
    "spectrum_unavailable",
]
