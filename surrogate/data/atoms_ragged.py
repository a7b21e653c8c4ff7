"""Configurations as NetCDF in CF's contiguous ragged array representation: what training reads and ``prepare`` writes.

Dimensions ``frame`` and ``atom``; ``row_size(frame)`` with ``sample_dimension = "atom"`` says how many atoms each frame
has, the rows of a frame following those of the one before. Lengths Å, energies eV, forces eV/Å, stress eV/Å³ as
six components under tension.

    https://cfconventions.org/cf-conventions/cf-conventions.html#_contiguous_ragged_array_representation
"""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path
import re
from typing import Any
import uuid

import numpy as np
import xarray as xr

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_files import open_netcdf
from surrogate.data.atoms_labels import Labels, Native, Raw, assemble, missing
from surrogate.data.atoms_units import VOIGT, property_factor, to_voigt
from surrogate.data.disk import Disk

FORMAT_VERSION = 1
SPLITS = ("train", "valid", "test")
# What we write first; the rest is what others call the same.
_NAMES = {
    "positions": ("position", "positions", "coordinates"),
    "species": ("atomic_number", "atomic_numbers", "species", "numbers"),
    "cell": ("cell", "lattice"),
    "pbc": ("pbc",),
    "energy": ("energy",),
    "forces": ("force", "forces"),
    "stress": ("stress",),
}
_CHUNK = 65536  # rows: half a MB of numbers, which a checksum covers


# -- writing -------------------------------------------------------------------------------------


def write_ragged(
    path: str | os.PathLike[str],
    frames: Frames | Mapping[str, Frames],
    *,
    attrs: Mapping[str, str] | None = None,
) -> Path:
    """Write ``frames``, or ``{"train": …, "valid": …, "test": …}``, which :func:`read_splits` gives back.

    The file appears under its name only when it is whole and on the disk; an older one stays until then. Reading
    it back gives the same bits.

    Args:
        attrs: further attributes of the file (``title``, ``source``).

    Raises:
        UserError: when nothing is given, for a split of another name, or when the file cannot be written.
    """
    splits = None
    if isinstance(frames, Mapping):
        if unknown := set(frames) - set(SPLITS):
            raise UserError(f"{path}: splits are {', '.join(SPLITS)}, not {', '.join(sorted(unknown))}")
        parts = {name: frames[name] for name in SPLITS if name in frames and len(frames[name])}
        if not parts:
            raise UserError(f"{path}: there is no frame to write")
        splits = np.concatenate([np.full(len(part), SPLITS.index(name), np.int8) for name, part in parts.items()])
        frames = Frames.concat(list(parts.values()))
    if not len(frames):
        raise UserError(f"{path}: there is no frame to write")
    target = Path(path)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        write_file(partial, frames, splits, attrs or {})
        os.replace(partial, target)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise UserError(f"cannot write {target}: {reason}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def write_file(path: Path, frames: Frames, splits: np.ndarray | None, attrs: Mapping[str, str]) -> None:
    """The file itself, under the name given.

    Raises:
        OSError: when it cannot be written.
    """
    import h5netcdf

    with Disk(path, "w+") as disk:
        with h5netcdf.File(disk, "w") as file:
            _fill(file, frames, splits, attrs)
            disk.check()
        disk.check()
        os.fsync(disk.fileno())  # the name must not outlive the bytes in a power cut


def _fill(file: Any, frames: Frames, splits: np.ndarray | None, attrs: Mapping[str, str]) -> None:
    file.dimensions = {
        "frame": len(frames), "atom": frames.num_atoms, "spatial": 3, "cell_vector": 3, "component": 6,
        "group": len(frames.groups),
    }  # fmt: skip
    file.attrs.update(
        {
            "Conventions": "CF-1.11", "title": "atomic configurations with energies, forces and stresses",
            "institution": "unknown", "source": "see the attributes source_label", "references": "none",
            "history": f"surrogate.data.atoms_ragged, format {FORMAT_VERSION}",
            "comment": "contiguous ragged array: the atoms of a frame follow those of the frame before",
            "surrogate_atoms_format": np.int32(FORMAT_VERSION), **attrs,
        }
    )  # fmt: skip

    def put(name: str, dims: tuple[str, ...], values: np.ndarray, **attributes: Any) -> None:
        if values.dtype.kind in "OU":
            import h5py

            variable = file.create_variable(name, dims, data=values.astype(object), dtype=h5py.string_dtype())
        else:
            chunks = (min(_CHUNK, len(values)), *values.shape[1:])
            # fletcher32 makes a flipped bit an error on reading; without it numbers change in silence.
            variable = file.create_variable(
                name, dims, values.dtype, data=values, chunks=chunks, compression="gzip", compression_opts=1,
                shuffle=True, fletcher32=True,
            )  # fmt: skip
        variable.attrs.update({k: v for k, v in attributes.items() if v is not None})

    label = frames.labels.get
    put("row_size", ("frame",), frames.row_size.astype(np.int32), long_name="number of atoms of the frame",
        sample_dimension="atom", units="1")  # fmt: skip
    put("position", ("atom", "spatial"), frames.positions, long_name="Cartesian position", units="angstrom")
    put("atomic_number", ("atom",), frames.species.astype(np.int16), long_name="atomic number", units="1")
    put("cell", ("frame", "cell_vector", "spatial"), frames.cell, long_name="cell vectors, one a row", units="angstrom")
    put("pbc", ("frame", "cell_vector"), frames.pbc.astype(np.int8), long_name="whether the frame repeats along the vector",
        flag_values=np.array([0, 1], np.int8), flag_meanings="open periodic")  # fmt: skip
    if frames.energy is not None:
        put("energy", ("frame",), frames.energy, long_name="potential energy", units="eV", source_label=label("energy"))
    if frames.forces is not None:
        put("force", ("atom", "spatial"), frames.forces, long_name="force, minus the gradient of the energy",
            units="eV angstrom-1", source_label=label("forces"))  # fmt: skip
    if frames.stress is not None:
        put("stress", ("frame", "component"), to_voigt(frames.stress), units="eV angstrom-3",
            long_name="stress, derivative of the energy by strain over the volume; positive under tension",
            sign_convention="tension", voigt_order=VOIGT, coordinates="stress_component",
            source_label=label("stress"))  # fmt: skip
        put("stress_component", ("component",), np.array(VOIGT.split(","), object), long_name="component of the stress")
    taken = set(file.variables) | set(file.dimensions)
    for name, values in frames.properties.items():
        variable = f"property_{re.sub(r'[^A-Za-z0-9_]', '_', name)}"
        while variable in taken:
            variable += "_"
        taken.add(variable)
        put(variable, ("frame",), values, long_name=name, units=frames.property_units[name], property=name,
            source_label=label(name))  # fmt: skip
    put("group", ("frame",), frames.group, long_name="index of the group that the frame comes from", units="1")
    put("group_name", ("group",), np.array(frames.groups, object), long_name="file or trajectory")
    put("frame_number", ("frame",), frames.frame, long_name="number of the frame within its group", units="1")
    if splits is not None:
        put("split", ("frame",), splits, long_name="what the frame is for", flag_values=np.arange(3, dtype=np.int8),
            flag_meanings=" ".join(SPLITS))  # fmt: skip


# -- reading -------------------------------------------------------------------------------------


def is_ragged(dataset: xr.Dataset) -> bool:
    """Whether a file has a count variable of the contiguous ragged representation."""
    return any("sample_dimension" in v.attrs for v in dataset.variables.values())


def read_ragged(path: str | os.PathLike[str], labels: Labels | None = None) -> Frames:
    """All frames of a file that :func:`write_ragged` or anyone else wrote in this representation.

    Args:
        labels: what must be there; by default everything that is there is read.

    Raises:
        UserError: for a file that is damaged, counts that exceed it, units that are not stated, a label that was named
            and is missing, and what the checks refuse.
    """
    with open_netcdf(path) as dataset:
        return frames_of(str(path), dataset, labels)


def read_splits(path: str | os.PathLike[str], labels: Labels | None = None) -> dict[str, Frames]:
    """``{"train": …, "valid": …, "test": …}`` of a file that holds splits; those without frames are left out.

    Raises:
        UserError: for a file without splits, and as :func:`read_ragged`.
    """
    with open_netcdf(path) as dataset:
        if not _with_splits(dataset):
            raise UserError(
                f"{path}: holds no splits; only what surrogate.prepare wrote does. Read it with data.source=netcdf"
            )
        frames = frames_of(str(path), dataset, labels)
        split = _values(str(path), dataset, "split", (len(frames),))
    return {name: frames[split == i] for i, name in enumerate(SPLITS) if (split == i).any()}


def has_splits(path: str | os.PathLike[str]) -> bool:
    """Whether :func:`read_splits` can read a NetCDF file."""
    with open_netcdf(path) as dataset:
        return _with_splits(dataset)


def _with_splits(dataset: xr.Dataset) -> bool:
    meanings = dataset["split"].attrs.get("flag_meanings") if "split" in dataset.variables else None
    return meanings == " ".join(SPLITS) and is_ragged(dataset)


def frames_of(path: str, dataset: xr.Dataset, labels: Labels | None) -> Frames:
    """:func:`read_ragged` of a dataset that is open."""
    row_size, atoms = _row_size(path, dataset)
    num = len(row_size)
    positions = _values(path, dataset, _find(path, dataset, "positions"), (atoms, 3))
    species = _values(path, dataset, _find(path, dataset, "species"), (atoms,))
    cell, pbc = np.zeros((num, 3, 3)), np.zeros((num, 3), bool)
    if any(n in dataset.variables for n in _NAMES["cell"]):
        cell = _values(path, dataset, _find(path, dataset, "cell"), (num, 3, 3))
        pbc = np.ones((num, 3), bool)  # a cell without pbc repeats everywhere
    if "pbc" in dataset.variables:
        pbc = _values(path, dataset, "pbc", (num, 3)).astype(bool)
    labels, everything = _asked(dataset, labels)
    units: dict[str, Any] = {"length": _units(path, dataset, _find(path, dataset, "positions"), labels.units.length)}
    found: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    for kind, shape in (("energy", (num,)), ("forces", (atoms, 3)), ("stress", None)):
        key = getattr(labels, kind)
        if key is None:
            continue
        name = next((n for n in _NAMES[kind] if n in dataset.variables), key) if key == kind else key
        if name not in dataset.variables:
            raise missing(path, kind, name, map(str, dataset.data_vars))
        found[kind], names[kind] = _values(path, dataset, name, shape), name
        units[kind] = _units(path, dataset, name, getattr(labels.units, kind))
    properties, property_units = _properties(path, dataset, labels, everything, num)
    sign = dataset[names["stress"]].attrs if "stress" in names else {}
    native = Native(
        **units, convention=sign.get("sign_convention"), order=sign.get("voigt_order"), property_units=property_units
    )
    groups, group, frame = _origin(path, dataset, num)
    raw = Raw(
        positions, species, cell, pbc, row_size, found.get("energy"), found.get("forces"), found.get("stress"),
        properties, names, groups, group, frame,
    )  # fmt: skip
    frames = assemble(raw, labels, native)
    # What a value was before it was prepared is worth more than its name in the store.
    for kind in list(frames.labels):
        name = names.get(kind) or _property_variables(dataset).get(kind, kind)
        if name in dataset.variables and "source_label" in dataset[name].attrs:
            frames.labels[kind] = str(dataset[name].attrs["source_label"])
    return frames


def _row_size(path: str, dataset: xr.Dataset) -> tuple[np.ndarray, int]:
    counts = [str(n) for n, v in dataset.variables.items() if "sample_dimension" in v.attrs]
    if len(counts) != 1:
        raise UserError(f"{path}: has {len(counts)} variables with a sample_dimension, a ragged array has one")
    dimension = str(dataset[counts[0]].attrs["sample_dimension"])
    if dimension not in dataset.sizes:
        raise UserError(f"{path}: {counts[0]} counts along {dimension!r}, a dimension that the file does not have")
    values, atoms = _values(path, dataset, counts[0]), int(dataset.sizes[dimension])
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise UserError(
            f"{path}: {counts[0]} is {values.dtype} of the shape {values.shape}, expected whole numbers (frames)"
        )
    row_size = values.astype(np.int64)
    bad = (row_size < 1) | (row_size > atoms) | (np.cumsum(row_size) > atoms)
    if bad.any():
        i = int(np.argmax(bad))
        before = int(row_size[:i].sum())
        raise UserError(f"{path} frame {i}: claims {row_size[i]} atoms, {max(atoms - before, 0)} are left of {atoms}")
    if int(row_size.sum()) != atoms:
        raise UserError(f"{path}: the frames have {int(row_size.sum())} atoms, the file holds {atoms}")
    return row_size, atoms


def _find(path: str, dataset: xr.Dataset, kind: str) -> str:
    for name in _NAMES[kind]:
        if name in dataset.variables:
            return name
    raise UserError(f"{path}: has no {_NAMES[kind][0]!r}; it has {', '.join(map(str, dataset.data_vars))}")


def _values(path: str, dataset: xr.Dataset, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    try:
        values = np.asarray(dataset[name].values)
    except Exception as error:  # HDF5 has many; a checksum that fails is an OSError
        raise UserError(f"{path}: {name} cannot be read, the file is damaged ({error})") from error
    if shape is not None and values.shape != shape:
        raise UserError(f"{path}: {name} has the shape {values.shape}, expected {shape}")
    attrs = dataset[name].attrs
    fills = [np.ravel(attrs[k])[0] for k in ("_FillValue", "missing_value") if k in attrs]
    if values.dtype.kind == "f":
        for fill in fills:
            values = np.where(values == fill, np.nan, values)
    if "scale_factor" in attrs or "add_offset" in attrs:
        values = values * float(attrs.get("scale_factor", 1)) + float(attrs.get("add_offset", 0))
    return values


def _units(path: str, dataset: xr.Dataset, name: str, stated: str | None) -> str | None:
    unit = dataset[name].attrs.get("units")
    if unit is None and stated is None:
        raise UserError(f"{path}: {name} has no attribute units; say in data.units what they are")
    return None if unit is None else str(unit)


def _property_variables(dataset: xr.Dataset) -> dict[str, str]:
    """Name of a property → its variable."""
    return {str(v.attrs["property"]): str(n) for n, v in dataset.variables.items() if "property" in v.attrs}


def _asked(dataset: xr.Dataset, labels: Labels | None) -> tuple[Labels, bool]:
    if labels is not None:
        return labels, False
    there = {
        kind: kind if any(n in dataset.variables for n in _NAMES[kind]) else None
        for kind in ("energy", "forces", "stress")
    }
    return Labels(**there), True  # type: ignore[arg-type]


def _properties(
    path: str, dataset: xr.Dataset, labels: Labels, everything: bool, num: int
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    variables = _property_variables(dataset)
    found, units = {}, {}
    for name in variables if everything else labels.properties:
        variable = variables.get(name, name)
        if variable not in dataset.variables:
            raise missing(path, "properties", name, [*variables, *map(str, dataset.data_vars)])
        found[name] = _values(path, dataset, variable, (num,))
        unit = str(dataset[variable].attrs.get("units", "1"))
        units[name] = unit
        if name in labels.property_units and property_factor(unit) != property_factor(labels.property_units[name]):
            raise UserError(f"{path}: {name} is in {unit}, data.property_units says {labels.property_units[name]}")
    return found, units


def _origin(path: str, dataset: xr.Dataset, num: int) -> tuple[tuple[str, ...], np.ndarray | None, np.ndarray | None]:
    """Groups and numbers within them as they were written; else the file is one group."""
    if not {"group", "group_name", "frame_number"} <= set(dataset.variables):
        return (path,), None, None
    names = [v.decode() if isinstance(v, bytes) else str(v) for v in _values(path, dataset, "group_name").tolist()]
    group = _values(path, dataset, "group", (num,))
    if num and (group.min() < 0 or group.max() >= len(names)):
        raise UserError(f"{path}: group goes to {group.max()}, {len(names)} names are there")
    return tuple(names), group, _values(path, dataset, "frame_number", (num,))
