"""Making a training-ready store of whatever an experiment reads."""

from __future__ import annotations

from dataclasses import replace
import logging
from pathlib import Path
from typing import Any

from surrogate.config import Experiment
from surrogate.core.types import UserError
from surrogate.data.normalize import fit_normalizer
from surrogate.data.prepared import ROLES
from surrogate.data.splits import make_splits
from surrogate.data.store import verify_store, write_store
from surrogate.data.waiting import bar_for
from surrogate.domains.base import find_domain
from surrogate.run.files import disk_error

log = logging.getLogger(__name__)


def prepare_store(experiment: Experiment, out: str) -> Path:
    """Write the experiment's data to the store ``out``, Zarr v3 of fields or ragged NetCDF of atoms, and read all of it back.

    Data larger than ``data.memory_gb`` pass through in blocks. An interrupted preparation is continued.

    Raises:
        UserError: for whatever the experiment's data are refused for, or when ``out`` cannot be written.
    """
    if not out:
        raise UserError("where to? give out=STORE.zarr (fields) or out=STORE.nc (atoms)")
    path = Path(out).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error("make the store in", path.parent, error) from error
    domain: Any = find_domain(experiment.domain)
    if hasattr(domain, "write_store"):
        print(f"{path}: {domain.write_store(experiment.data, path)}")
        return path
    if not hasattr(domain, "open_data"):
        raise UserError(f"the domain {experiment.domain!r} has no data that a store can hold")
    source, roles = domain.open_data(experiment.data, lazily=True)
    splits = make_splits(source.timelines, roles, experiment.data.split)
    normalizer = fit_normalizer(source, splits, anomaly=experiment.data.anomaly)
    source.spec = replace(source.spec, attrs={**source.spec.attrs, ROLES: list(roles)})
    statistics = normalizer.arrays()
    with bar_for(f"writing {path}", "samples") as progress:
        write_store(path, source, statistics=statistics, progress=progress)
    verify_store(path)
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    total = sum(len(t) for t in source.timelines)
    print(
        f"{path}: {total} samples in {len(source.timelines)} trajectories, {size / 2**20:.1f} MiB, every chunk verified. "
        f"Train from it with data=store data.paths=[{path}]"
    )
    return path
