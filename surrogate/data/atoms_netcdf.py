"""NetCDF as materials codes write it: which of the known layouts a file has, and its reader."""

from __future__ import annotations

import os

from surrogate.core.types import UserError
from surrogate.data.atoms import Frames
from surrogate.data.atoms_abinit import is_abinit, read_abinit
from surrogate.data.atoms_amber import is_amber, read_amber
from surrogate.data.atoms_files import open_netcdf
from surrogate.data.atoms_labels import Labels
from surrogate.data.atoms_ragged import frames_of, is_ragged
from surrogate.data.files import data_variables


def read_netcdf(path: str | os.PathLike[str], labels: Labels | None = None) -> Frames:
    """Frames of ragged NetCDF, ABINIT's ``*_HIST.nc`` and ``*_GSR.nc``, or an AMBER trajectory.

    Raises:
        UserError: for a file that is none of these, damaged, or refused by its reader.
    """
    labels = labels or Labels()
    with open_netcdf(path) as dataset:
        if is_ragged(dataset):
            return frames_of(str(path), dataset, labels)
        if is_amber(dataset):
            return read_amber(str(path), dataset, labels)
        if is_abinit(dataset):
            return read_abinit(str(path), dataset, labels)
        names = data_variables(dataset)
        there = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        raise UserError(
            f"{path}: holds no atoms that can be read: it is neither a ragged array (a variable with sample_dimension) "
            f"nor a file of ABINIT or AMBER; it has {there or 'no variable with numbers'}"
        )
