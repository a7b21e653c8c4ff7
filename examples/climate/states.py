"""Starting states of an ensemble, as the programs beside this file read them.

    python states.py BUNDLE RECORD.nc OUT [--members 8] [--from 0]

Members are states of the record, evenly spaced from the time with the number ``--from`` to its end. OUT holds, for each
input of ``step`` in the Bundle's order, all members as float32 in C order.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys

import numpy as np
import xarray as xr


def main() -> None:
    parser = argparse.ArgumentParser(description="Starting states of an ensemble from a NetCDF file.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--from", type=int, default=0, dest="first", help="number of the first time that may be used")
    options = parser.parse_args()
    functions = json.loads((options.bundle / "manifest.json").read_text())["functions"]
    (step,) = (f for f in functions if f["name"] == "step")
    with xr.open_dataset(options.record, engine="h5netcdf") as record, open(options.out, "wb") as out:
        times = np.linspace(options.first, record.sizes["time"] - 1, options.members).astype(int)
        for argument in step["inputs"]:
            if argument["role"] != "prognostic" or "history" in argument["dims"]:
                sys.exit(
                    f"states.py: '{argument['name']}' is a {argument['role']} input; this example steps states alone"
                )
            values = record[argument["name"]].isel(time=times)
            if list(values.shape[1:]) != list(argument["shape"]):
                sys.exit(f"states.py: '{argument['name']}' has the shape {values.shape[1:]}, not {argument['shape']}")
            out.write(np.ascontiguousarray(values.to_numpy(), np.float32).tobytes())


if __name__ == "__main__":
    main()
