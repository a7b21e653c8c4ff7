"""From an entry of ``data.paths`` to opened files, still as stored: nothing decoded, nothing guessed."""

from __future__ import annotations

from dataclasses import dataclass
import difflib
import glob
import importlib.util
from pathlib import Path
from typing import Any

import xarray as xr

from surrogate.core.types import UserError
from surrogate.data import zarr as zarr_stores
from surrogate.data.classic import check_complete

_ENDINGS = (".nc", ".nc4", ".cdf", ".netcdf", ".h5", ".hdf5", ".grib", ".grib2", ".grb", ".grb2", ".zarr")


@dataclass(frozen=True)
class RawFile:
    """One opened file or store: numbers and attributes as stored, read when asked for."""

    path: str
    dataset: xr.Dataset
    groups: tuple[str, ...] = ()


def open_files(entry: str, storage_options: dict[str, Any] | None = None) -> list[RawFile]:
    """Open everything an entry names. ``file.nc#/group`` opens a group of each file.

    Raises:
        UserError: for an entry that names nothing, and for files that cannot be read.
    """
    entry, _, group = entry.partition("#/")
    group = group.strip("/")
    if zarr_stores.is_remote(entry):
        if entry.rstrip("/").lower().endswith(tuple(e for e in _ENDINGS if e != ".zarr")):
            raise UserError(f"{entry}: only Zarr stores are read from a URL; download the file and give its path")
        return [_open_zarr(entry, group, storage_options)]
    return [_open_one(path, group, storage_options) for path in resolve(entry)]


def resolve(entry: str) -> list[str]:
    """Local paths of an entry (a file, a glob, a directory or a Zarr store), in the order of their names."""
    path = Path(entry).expanduser()
    if path.is_file() or zarr_stores.is_store(path):
        return [str(path)]
    if path.is_dir():
        found = sorted(str(p) for p in path.iterdir() if p.suffix.lower() in _ENDINGS and not p.name.startswith("."))
        if not found:
            raise UserError(f"{entry}: the directory holds no NetCDF, Zarr or GRIB file ({', '.join(_ENDINGS)})")
        return found
    found = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(path)) else []
    if not found:
        raise UserError(f"{entry}: no such file, directory or store")
    return found


def _open_one(path: str, group: str, storage_options: dict[str, Any] | None) -> RawFile:
    if Path(path).is_dir():
        if not zarr_stores.is_store(Path(path)):
            raise UserError(f"{path}: a directory that is not a Zarr store (no zarr.json, .zgroup or .zmetadata)")
        return _open_zarr(path, group, storage_options)
    try:
        with open(path, "rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror})") from None
    # No index: only the coordinates of the variables asked for are read.
    plain: dict[str, Any] = {"decode_cf": False, "cache": False, "create_default_indexes": False}
    try:
        if magic.startswith(b"\x89HDF\r\n\x1a\n"):
            # h5netcdf rather than the netCDF4 module, which crashes when two threads read.
            dataset = xr.open_dataset(path, engine="h5netcdf", group=group or None, phony_dims="access", **plain)
            return RawFile(path, dataset, _hdf5_groups(path, group))
        if magic[:4] in (b"CDF\x01", b"CDF\x02", b"CDF\x05"):
            check_complete(path)
            if group:
                raise UserError(f"{path}: a classic NetCDF file has no groups, so none called {group!r}")
            # CDF-5 is beyond SciPy. xarray serialises the netCDF4 module behind one lock of the process.
            engine = "netcdf4" if magic[3] == 5 else "scipy"
            return RawFile(path, xr.open_dataset(path, engine=engine, **plain))
        if magic.startswith(b"GRIB"):
            return RawFile(path, _open_grib(path))
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{path}: no group {group!r}; it has {', '.join(_hdf5_groups(path, '')) or 'none'}") from error
    except Exception as error:
        raise UserError(f"{path}: cannot be read, damaged or cut short ({type(error).__name__}: {error})") from error
    raise UserError(f"{path}: neither NetCDF, Zarr nor GRIB (it begins with {magic[:4]!r})")


def _open_zarr(path: str, group: str, storage_options: dict[str, Any] | None) -> RawFile:
    return RawFile(path, zarr_stores.open_raw(path, group, storage_options))


def _open_grib(path: str) -> xr.Dataset:
    if importlib.util.find_spec("cfgrib") is None:
        raise UserError(f"{path}: reading GRIB needs the extra: pip install 'surrogate[grib]'")
    # No index file: it would be a pickle, written beside the data and trusted later.
    return xr.open_dataset(path, engine="cfgrib", decode_cf=False, backend_kwargs={"indexpath": ""})


def _hdf5_groups(path: str, below: str) -> tuple[str, ...]:
    import h5py

    with h5py.File(path, "r") as file:
        names: list[str] = []
        root = file[below] if below else file
        root.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Group) else None)
    return tuple(f"{below}/{name}".strip("/") for name in names)


def data_variables(dataset: xr.Dataset) -> list[str]:
    """Variables with numbers that are not coordinates or their bounds."""
    bounds = {str(v.attrs[k]) for v in dataset.variables.values() for k in ("bounds", "climatology") if k in v.attrs}
    return [
        str(n) for n, v in dataset.variables.items()
        if v.ndim and v.dtype.kind in "fiub" and n not in dataset.dims and n not in bounds
    ]  # fmt: skip


def describe(files: list[RawFile], entry: str) -> str:
    """The variables that there are, for messages: ``tas, pr; groups: a, b``."""
    names = list(dict.fromkeys(n for file in files for n in data_variables(file.dataset)))
    text = ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
    groups = list(dict.fromkeys(g for file in files for g in file.groups))
    if groups:
        text = (text or "no variable here") + f"; groups (write {entry.partition('#/')[0]}#/GROUP): {', '.join(groups)}"
    return text or "no variable with numbers"


def unknown_variable(name: str, files: list[RawFile], entry: str) -> UserError:
    names = [n for file in files for n in data_variables(file.dataset)]
    close = difflib.get_close_matches(name, list(dict.fromkeys(names)), 3, 0.5)
    hint = f"did you mean {', '.join(map(repr, close))}? " if close else ""
    return UserError(f"{entry}: no variable {name!r}; {hint}It has: {describe(files, entry)}")
