"""Tables of maps in NumPy files: a PDE's inputs and solutions, a sample a row, no time and no names of axes.

Each entry is a ``.npz`` file. A variable is written ``file_array`` = ``name``, such as ``x``: (N, H, W). The grid
is a plane whose coordinates run over the unit interval at cell centres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
import zipfile

import numpy as np

from surrogate.core.durations import Duration
from surrogate.core.spec import Grid, Role, Spec, Variable
from surrogate.core.types import UserError
from surrogate.data.settings import FieldsDataConfig, requested_levels
from surrogate.data.source import DYNAMIC_ROLES, MemorySource, Source, Timeline


def open_arrays(config: FieldsDataConfig) -> tuple[Source, tuple[str, ...]]:
    """Maps from forcings to diagnostics, one sample a row.

    Returns:
        The source, and per entry ``all`` or the split it is reserved for.

    Raises:
        UserError: for files or arrays that are missing, or of shapes that do not fit.
    """
    names: dict[Role, tuple[str, ...]] = {
        "diagnostic": tuple(requested_levels(config.diagnostics, "diagnostics")),
        "forcing": tuple(requested_levels(config.forcings, "forcings")),
    }
    if config.variables or config.statics:
        raise UserError("data.source=arrays has no time: name inputs in data.forcings and outputs in data.diagnostics")
    for role, setting in (("diagnostic", "diagnostics"), ("forcing", "forcings")):
        if not names[role]:  # type: ignore[index]
            raise UserError(f"data.{setting} is empty; name arrays of the files")
    groups = {"all": config.paths, "train": config.train_paths, "valid": config.valid_paths, "test": config.test_paths}
    entries = [(split, Path(config.root).expanduser() / p) for split, paths in groups.items() for p in paths]
    if not entries:
        raise UserError("data.paths is empty; give .npz files")
    tables = [_read(path, names, config.fetch) for _, path in entries]
    shape = tables[0]["diagnostic"].shape[1:3]
    for (_, path), table in zip(entries, tables, strict=True):
        if table["diagnostic"].shape[1:3] != shape:
            raise UserError(f"{path} is on {table['diagnostic'].shape[1:3]} points, {entries[0][1]} on {shape}")
    grid = Grid(_centres(shape[0]), _centres(shape[1]), "plane", False)
    variables = tuple(Variable(n, role) for role in ("diagnostic", "forcing") for n in names[role])
    lines = tuple(_line(path, len(t["diagnostic"])) for (_, path), t in zip(entries, tables, strict=True))
    static = np.zeros((*shape, 0), np.float32)
    files = [{"path": str(path)} for _, path in entries]
    spec = Spec(variables, grid, Duration(), "none")
    return MemorySource(spec, lines, tables, static, 1, files), tuple(split for split, _ in entries)


def _centres(size: int) -> tuple[float, ...]:
    return tuple(float(v) for v in (np.arange(size) + 0.5) / size)


def _line(path: Path, count: int) -> Timeline:
    return Timeline(str(path), np.arange(count), np.arange(count), np.zeros(count, int), (str(path),))


def _read(path: Path, names: dict[Role, tuple[str, ...]], fetch: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path} does not exist" + (f"; {fetch}" if fetch else ""))
    try:
        with np.load(path, allow_pickle=False) as file:
            held: dict[str, Any] = {n: file[n] for role in names for n in names[role] if n in file.files}
            there = list(file.files)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as .npz arrays: {error}") from error
    arrays: dict[str, np.ndarray] = {}
    count = None
    for role in names:
        columns = []
        for name in names[role]:
            if name not in held:
                raise UserError(f"{path} has no array {name!r}; it has {', '.join(there)}")
            values = held[name]
            if values.ndim != 3 or values.dtype.kind not in "fiub":
                raise UserError(
                    f"{path}: {name!r} is {values.dtype}{list(values.shape)}, expected numbers (sample, row, column)"
                )
            if not np.isfinite(values).all():
                sample, row, column = np.argwhere(~np.isfinite(values))[0]
                raise UserError(f"{path}: {name!r} is not finite at sample {sample}, row {row}, column {column}")
            if count not in (None, values.shape):
                raise UserError(
                    f"{path}: {name!r} has shape {list(values.shape)}, the arrays before it {list(count or ())}"
                )
            count = values.shape
            columns.append(values.astype(np.float32))
        arrays[role] = np.stack(columns, axis=-1)
    assert count is not None
    return {role: arrays.get(role, np.zeros((*count, 0), np.float32)) for role in DYNAMIC_ROLES}
