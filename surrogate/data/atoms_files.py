"""Opening a NetCDF file of atoms: closed afterwards, and damaged in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
import warnings

import xarray as xr

from surrogate.core.types import UserError
from surrogate.data.files import open_files


@contextmanager
def open_netcdf(path: str | os.PathLike[str]) -> Iterator[xr.Dataset]:
    """The file as stored, nothing decoded.

    Raises:
        UserError: for what is no NetCDF file, is truncated or damaged.
    """
    with warnings.catch_warnings():
        # Codes write square arrays over one dimension twice, (xyz, xyz); only their numbers are used here.
        warnings.filterwarnings("ignore", "Duplicate dimension names present", UserWarning)
        try:
            dataset = open_files(str(path))[0].dataset
        except UserError:
            raise
        except Exception as error:  # HDF5 has many for one flipped bit
            raise UserError(f"{path}: cannot be read, damaged or cut short ({error})") from error
        with dataset:
            yield dataset
