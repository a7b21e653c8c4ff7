"""``python -m surrogate.prepare +experiment=climate out=climate.zarr``: make a training-ready store.

Usage: python -m surrogate.prepare out=STORE.zarr [workers=N | scheduler=ADDRESS] [+experiment=NAME] [data.key=value] ...

Whatever ``surrogate.train`` can read becomes a Zarr v3 store with a chunk per sample, checksums, and statistics of
the training split alone. Train from it with ``data=store data.paths=[STORE.zarr]`` and the rest unchanged. The
same command continues a preparation that was interrupted. Atoms become one ragged NetCDF file with their splits.

Data larger than memory (data.memory_gb) pass through in blocks. workers=N reads and writes them in N processes of this
machine by Dask (pip install 'surrogate[dask]'), scheduler=tcp://HOST:8786 or scheduler=FILE.json in a Dask cluster that
is running and sees the same files. The store has the same bytes, however it was made.
"""

from __future__ import annotations


def main() -> None:
    from surrogate.cli import run_door

    def prepare(experiment, options):
        from surrogate.run.prepare_store import prepare_store

        prepare_store(experiment, options.pop("out", ""), **options)
        return 0

    run_door(prepare, options=("out", "workers", "scheduler"), usage=__doc__ or "")


if __name__ == "__main__":
    main()
