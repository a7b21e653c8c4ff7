"""Prepare data that are larger than memory: serially, and by Dask's workers, beside the disk's own speed.

    python benchmarks/prepare.py [gib=26] [workers=2] [folder=DIRECTORY] [serial=true] [kill=true] [out=prepare.json]

Writes ``gib`` GiB of NetCDF files (fields of 721 × 1440, smooth waves and noise) into ``folder``, then runs
``python -m surrogate.prepare`` on them as a person would: with ``workers``, killed by SIGKILL in the middle and started
again, and serially. Every store's files are compared by their SHA-256. For each run: seconds, CPU seconds and the peak
resident memory of all its processes together (sampled every 0.2 s from /proc, without what they share). The raw
reading and writing speed of the disk is measured on the same files, with the page cache emptied of them.
A directory ``prepare`` in ``folder``, by default where temporary files go, needs twice ``gib`` of space and is removed at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import h5py
import numpy as np

ROWS, COLUMNS, VARIABLES, TIMES = 721, 1440, ("t850", "z500"), 64
FILE_BYTES = 4 * ROWS * COLUMNS * len(VARIABLES) * TIMES


def write_file(path: Path, number: int) -> None:
    """One of the files of a single trajectory, six-hourly; chunks of one time, as archives have them."""
    rng = np.random.default_rng(number)
    lat, lon = np.linspace(-90, 90, ROWS), np.arange(COLUMNS) * 0.25
    with h5py.File(path, "w") as file:
        hours = 6.0 * (number * TIMES + np.arange(TIMES))
        for name, values, units in (
            ("time", hours, "hours since 2001-01-01"), ("latitude", lat, "degrees_north"), ("longitude", lon, "degrees_east"),
        ):  # fmt: skip
            file[name] = values
            file[name].attrs["units"] = units
            file[name].make_scale(name)
        for offset, name in enumerate(VARIABLES):
            shape = (TIMES, ROWS, COLUMNS)
            data = file.create_dataset(name, shape, "f4", chunks=(1, ROWS, COLUMNS))
            data.attrs["units"] = "K"
            for dim, scale in enumerate(("time", "latitude", "longitude")):
                data.dims[dim].attach_scale(file[scale])
            for t in range(TIMES):
                wave = np.cos(np.deg2rad(lat))[:, None] * np.sin(np.deg2rad(3 * lon) - 0.1 * hours[t] + offset)
                noise = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
                data[t] = (280 + 10 * wave).astype(np.float32) + np.float32(0.5) * noise


def drop_cache(paths: list[Path]) -> None:
    """Let the kernel forget these files, so that reading them reads the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def raw_speeds(paths: list[Path], scratch: Path) -> dict[str, float]:
    """Bytes/s of plain reading and of writing with fsync, one file each."""
    drop_cache(paths[:2])
    buffer = bytearray(2**24)
    began, read = time.perf_counter(), 0
    for path in paths[:2]:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                read += count
    reading = read / (time.perf_counter() - began)
    block = np.random.default_rng(0).bytes(2**24)
    began = time.perf_counter()
    with open(scratch, "wb", buffering=0) as file:
        for _ in range(64):
            file.write(block)
        os.fsync(file.fileno())
    writing = 64 * len(block) / (time.perf_counter() - began)
    scratch.unlink()
    return {"read_bytes_per_s": reading, "write_bytes_per_s": writing}


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, pending = [], [pid]
    while pending:
        current = pending.pop()
        found.append(current)
        pending += parents.get(current, [])
    return found


def private_bytes(pid: int) -> int:
    """Of a process's own resident memory; mapped files and what it shares count where they are whole, not here."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Private_"))


def run(words: list[str], *, kill_after: int = 0, log: Path | None = None) -> dict[str, Any]:
    """One command; with ``kill_after`` it is killed once so many shards are in ``log``."""
    before, began = os.times(), time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "surrogate.prepare", *words], stdout=subprocess.DEVNULL)
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.2):
            peak = max(peak, sum(map(private_bytes, family(process.pid))))
            if kill_after and log is not None and log.exists() and log.read_bytes().count(b"\n") >= kill_after:
                process.send_signal(signal.SIGKILL)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    ended.set()
    watcher.join()
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return {"code": code, "seconds": time.perf_counter() - began, "cpu_seconds": cpu, "peak_bytes": peak}


def digest(store: Path) -> str:
    """Of the names and contents of all files of a store."""
    total = hashlib.sha256()
    for path in sorted(p for p in store.rglob("*") if p.is_file()):
        with open(path, "rb") as file:
            total.update(f"{path.relative_to(store)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def main() -> int:
    options = {"gib": "26", "workers": "2", "folder": "", "serial": "true", "kill": "true", "out": ""}
    given = dict(word.partition("=")[::2] for word in sys.argv[1:])
    if unknown := set(given) - set(options):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(options)}")
    options |= given
    folder = Path(options["folder"] or tempfile.mkdtemp()) / "prepare"
    count = max(2, round(float(options["gib"]) * 2**30 / FILE_BYTES))
    (folder / "data").mkdir(parents=True)
    paths = [folder / "data" / f"{n:03d}.nc" for n in range(count)]
    for number, path in enumerate(paths):
        write_file(path, number)
        print(f"\rwriting data: {number + 1} of {count}", end="", flush=True, file=sys.stderr)
    size = sum(p.stat().st_size for p in paths)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found: dict[str, Any] = {"data_bytes": size, "memory_bytes": memory, "workers": int(options["workers"])}
    print(f"\n{size / 2**30:.1f} GiB of data, {memory / 2**30:.1f} GiB of memory", file=sys.stderr)
    found |= raw_speeds(paths, folder / "raw")
    words = [f"data.paths=[{folder}/data]", f"data.variables=[{','.join(VARIABLES)}]", "data.leads=[1D]"]
    runs = {"workers": [f"workers={options['workers']}"]} | ({"serial": []} if options["serial"] == "true" else {})
    digests = {}
    for name, more in runs.items():
        store = folder / f"{name}.zarr"
        command = [f"out={store}", *more, *words]
        drop_cache(paths)
        if name == "workers" and options["kill"] == "true":
            # A third of the way; a shard is 64 MiB of fields.
            found["killed"] = run(command, kill_after=int(size / 2**26) // 3, log=store / ".done.jsonl")
            assert found["killed"]["code"] == -signal.SIGKILL, "it ended before it was killed"
            assert not (store / "manifest.json").exists()
        found[name] = run(command)
        assert found[name]["code"] == 0
        digests[name] = digest(store)
        print(json.dumps({name: found[name]}), file=sys.stderr)
        shutil.rmtree(store)
    found["same_bytes"] = len(set(digests.values())) == 1
    shutil.rmtree(folder)
    if not options["folder"]:
        folder.parent.rmdir()
    text = json.dumps(found, indent=1)
    print(text)
    if options["out"]:
        Path(options["out"]).write_text(text + "\n")
    return 0 if found["same_bytes"] else 1


if __name__ == "__main__":
    sys.exit(main())
