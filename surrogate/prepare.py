"""``python -m surrogate.prepare +experiment=climate out=climate.zarr``: make a training-ready store.

Usage: python -m surrogate.prepare out=STORE.zarr [+experiment=NAME] [data.key=value] ...

Whatever ``surrogate.train`` can read becomes a Zarr v3 store with a chunk per sample, checksums, and statistics of
the training split alone. Train from it with ``data=store data.paths=[STORE.zarr]`` and the rest unchanged. The
same command continues a preparation that was interrupted. Atoms become one ragged NetCDF file with their splits.
"""

from __future__ import annotations


def main() -> None:
    from surrogate.cli import run_door

    def prepare(experiment, options):
        from surrogate.run.prepare_store import prepare_store

        prepare_store(experiment, options.get("out", ""))
        return 0

    run_door(prepare, options=("out",), usage=__doc__ or "")


if __name__ == "__main__":
    main()
