"""Neural surrogates of scientific simulations: train, score honestly, roll out, with xarray in and out.

    import surrogate as sg
    experiment = sg.load_experiment("climate", ["train.steps=2000"])
    model = sg.fit(experiment)
    forecast = model.rollout(data.isel(time=slice(0, 1)), lead_time="5D")
    scores = sg.score(forecast, data, baselines=["persistence"])
    sg.plot.skill(scores, variable="temperature")

Everything is imported on first use, so that ``import surrogate`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Name → module and attribute; ``None`` is the module itself.
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "load_experiment": ("surrogate.cli", "load_experiment"),
    "fit": ("surrogate.api", "fit"),
    "load": ("surrogate.run.surrogate_files", "load"),
    "score": ("surrogate.api", "score"),
    "md": ("surrogate.api", "md"),
    "open_bundle": ("surrogate.exporting", "open_bundle"),
    "plot": ("surrogate.plot", None),
    "Domain": ("surrogate.domains.base", "Domain"),
    "Experiment": ("surrogate.config", "Experiment"),
    "FieldSurrogate": ("surrogate.domains.fields_surrogate", "FieldSurrogate"),
    "AtomsSurrogate": ("surrogate.domains.atoms_surrogate", "AtomsSurrogate"),
    "UserError": ("surrogate.core.types", "UserError"),
    "testing": ("surrogate.testing", None),
}

if TYPE_CHECKING:
    from surrogate import plot, testing
    from surrogate.api import fit, md, score
    from surrogate.cli import load_experiment
    from surrogate.config import Experiment
    from surrogate.core.types import UserError
    from surrogate.domains.atoms_surrogate import AtomsSurrogate
    from surrogate.domains.base import Domain
    from surrogate.domains.fields_surrogate import FieldSurrogate
    from surrogate.exporting import open_bundle
    from surrogate.run.surrogate_files import load

__all__ = [
    "AtomsSurrogate",
    "Domain",
    "Experiment",
    "FieldSurrogate",
    "UserError",
    "fit",
    "load",
    "load_experiment",
    "md",
    "open_bundle",
    "plot",
    "score",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'surrogate' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    found = importlib.import_module(module)
    value = found if attribute is None else getattr(found, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
