"""Making a training-ready store of whatever an experiment reads."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from surrogate.config import Experiment
from surrogate.core.types import UserError
from surrogate.data.blocks import Blocks
from surrogate.data.cluster import Workers, working
from surrogate.data.normalize import fit_normalizer
from surrogate.data.prepared import ROLES
from surrogate.data.splits import make_splits
from surrogate.data.store import verify_store, write_store
from surrogate.data.waiting import bar_for
from surrogate.domains.base import find_domain
from surrogate.run.files import disk_error

# Smaller than any data: workers read blocks, whatever would fit into memory.
_NOTHING_GB = 1e-12


def prepare_store(experiment: Experiment, out: str, *, workers: str = "", scheduler: str = "") -> Path:
    """Write the experiment's data to the store ``out``, Zarr v3 of fields or ragged NetCDF of atoms, and read all of it back.

    Data larger than ``data.memory_gb`` pass through in blocks. An interrupted preparation is continued.

    Args:
        workers: how many processes of this machine read and write, by Dask; empty: this one alone.
        scheduler: of a Dask cluster that does, whose workers see the same files: its address or its file.

    Raises:
        UserError: for whatever the experiment's data are refused for, or when ``out`` cannot be written.
    """
    if not out:
        raise UserError("where to? give out=STORE.zarr (fields) or out=STORE.nc (atoms)")
    path = Path(out).expanduser().absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error("make the store in", path.parent, error) from error
    domain: Any = find_domain(experiment.domain)
    if hasattr(domain, "write_store"):
        if workers or scheduler:
            raise UserError(f"workers= and scheduler= prepare fields; {experiment.domain} is prepared by one process")
        print(f"{path}: {domain.write_store(experiment.data, path)}")
        return path
    if not hasattr(domain, "open_data"):
        raise UserError(f"the domain {experiment.domain!r} has no data that a store can hold")
    if not (workers or scheduler):
        source, roles = domain.open_data(experiment.data, lazily=True)
        _write(path, experiment, source, roles, None)
        return path
    data = replace(experiment.data, memory_gb=_NOTHING_GB)
    with working(workers, scheduler) as client:
        source, roles = domain.open_data(data, lazily=True)
        _write(path, experiment, source, roles, Workers(client, partial(domain.open_blocks, data)))
    return path


def _write(path: Path, experiment: Experiment, source: Any, roles: tuple[str, ...], blocks: Blocks | None) -> None:
    splits = make_splits(source.timelines, roles, experiment.data.split)
    normalizer = fit_normalizer(source, splits, anomaly=experiment.data.anomaly, blocks=blocks)
    source.spec = replace(source.spec, attrs={**source.spec.attrs, ROLES: list(roles)})
    with bar_for(f"writing {path}", "samples") as progress:
        write_store(path, source, statistics=normalizer.arrays(), progress=progress, blocks=blocks)
    with bar_for(f"verifying {path}", "shards") as progress:
        verify_store(path, progress, blocks)
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    total = sum(len(t) for t in source.timelines)
    print(
        f"{path}: {total} samples in {len(source.timelines)} trajectories, {size / 2**20:.1f} MiB, every chunk verified. "
        f"Train from it with data=store data.paths=[{path}]"
    )
