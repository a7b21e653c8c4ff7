"""Training from a store that ``surrogate.prepare`` wrote."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from surrogate.core.durations import Duration
from surrogate.core.types import UserError
from surrogate.data.settings import FieldsDataConfig
from surrogate.data.source import Source
from surrogate.data.store import StoreSource

# Key of ``spec.attrs`` under which a store keeps the split that each trajectory is reserved for.
ROLES = "trajectory_splits"


def open_prepared(config: FieldsDataConfig) -> tuple[Source, tuple[str, ...]]:
    """The store of ``data.paths``, and per trajectory ``all`` or the split it is reserved for.

    Raises:
        UserError: for a store that is missing or damaged, or was prepared with other settings than are asked for.
    """
    if len(config.paths) != 1:
        raise UserError("data=store needs exactly one entry: data.paths=[STORE.zarr]")
    source: Any = StoreSource(config.paths[0])
    spec = source.spec
    if config.time_step is not None and spec.role("prognostic") and Duration.parse(config.time_step) != spec.time_step:
        raise UserError(
            f"{config.paths[0]} was prepared with a time step of {spec.time_step}, data.time_step={config.time_step} "
            "needs a store of its own"
        )
    source.spec = replace(spec, history=config.history if spec.role("prognostic") else 1)
    roles = tuple(spec.attrs.get(ROLES) or ["all"] * len(source.timelines))
    return source, roles
