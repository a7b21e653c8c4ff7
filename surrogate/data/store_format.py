"""What a prepared store looks like on disk; :mod:`surrogate.data.store` writes and reads it.

    store.zarr/                      a Zarr v3 group, which zarr and xarray read as well
      manifest.json                  written last: without it the store is unfinished
      zarr.json
      static                         (latitude, longitude, channel) float32
      statistics/<name>              arrays from the training split
      trajectory_00000/
        zarr.json                    group with the name of the trajectory
        time  segment  source        (time,), time with CF units and calendar
        prognostic diagnostic forcing  (time, latitude, longitude, channel) float32

A chunk holds one time and a shard many, so that a random sample costs one read and a large store has
few files. Every chunk and every shard index ends with its CRC-32C. The manifest holds size and
SHA-256 of every file, the spec, and where the data came from. Arrays without channels are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import hashlib
import json
import os
from pathlib import Path
import re
from typing import Any
import warnings

import cftime
import numpy as np

from surrogate.core.spec import Spec
from surrogate.core.types import UserError
from surrogate.data.source import DYNAMIC_ROLES, Timeline

FORMAT = "surrogate-store"
VERSION = 1
MANIFEST = "manifest.json"
PLAN = ".plan.json"  # what is being written; goes when the manifest comes
DONE = ".done.jsonl"  # a line for every shard that is on disk whole
DIMENSIONS = ("time", "latitude", "longitude", "channel")

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC = {"name": "crc32c"}
_BLOSC = {
    "name": "blosc",
    "configuration": {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "typesize": 4, "blocksize": 0},
}
_ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
# Codecs run code chosen by the file, and for Zarr there is one that unpickles: only these are opened.
ALLOWED_CODECS = frozenset({"sharding_indexed", "bytes", "blosc", "zstd", "crc32c"})
_NAME = re.compile(r"[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]{0,199}$")
_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def trajectory_name(number: int) -> str:
    return f"trajectory_{number:05d}"


def dynamic_arrays(spec: Spec, lengths: list[int]) -> Iterator[tuple[int, str, str, tuple[int, int, int, int]]]:
    """(trajectory, role, path, shape) of every array that has shards."""
    for number, length in enumerate(lengths):
        for role in DYNAMIC_ROLES:
            if channels := len(spec.role(role)):
                yield number, role, f"{trajectory_name(number)}/{role}", (length, *spec.grid.shape, channels)


def shard_path(array: str, shard: int) -> str:
    return f"{array}/c/{shard}/0/0/0"


def num_shards(length: int, shard_length: int) -> int:
    return -(-length // shard_length)


def sharded_metadata(shape: tuple[int, ...], shard_length: int, attributes: dict[str, Any]) -> dict[str, Any]:
    rest = list(shape[1:])
    sharding = {
        "chunk_shape": [1, *rest],
        "codecs": [_BYTES, _BLOSC, _CRC],
        "index_codecs": [_BYTES, _CRC],
        "index_location": "end",
    }
    return {
        "shape": list(shape),
        "data_type": "float32",
        "fill_value": "NaN",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard_length, *rest]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": list(DIMENSIONS),
        "attributes": attributes,
    }


def plain_metadata(values: np.ndarray, dims: tuple[str, ...], attributes: dict[str, Any]) -> dict[str, Any]:
    codecs = [_BYTES if values.itemsize > 1 else {"name": "bytes"}, _ZSTD, _CRC]
    return {
        "shape": list(values.shape),
        "data_type": values.dtype.name,
        "fill_value": "NaN" if values.dtype.kind == "f" else False if values.dtype.kind == "b" else 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(1, n) for n in values.shape]}},
        "codecs": codecs,
        **({"dimension_names": list(dims)} if dims else {}),
        "attributes": attributes,
    }


def group_metadata(attributes: dict[str, Any]) -> bytes:
    return dump({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def check_metadata(metadata: Any, where: Path) -> None:
    """Refuse codecs that are not on the list.

    Raises:
        UserError: with the file and the codec.
    """
    try:
        pending = list(metadata["codecs"]) if metadata["node_type"] == "array" else []
        while pending:
            codec = pending.pop()
            if codec["name"] not in ALLOWED_CODECS:
                raise UserError(f"{where} uses the codec {codec['name']!r}, which is not opened")
            settings = codec.get("configuration", {})
            pending += [*settings.get("codecs", ()), *settings.get("index_codecs", ())]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{where} is not the metadata of a Zarr v3 array or group") from None


@contextmanager
def _any_year() -> Iterator[None]:
    """cftime warns of years before 1, for which CF has no convention; here both directions state theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cftime.CFWarning)
        yield


def encode_time(time: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Times as integers with CF attributes; :func:`decode_time` inverts it exactly.

    Whole seconds where possible, else the unit of the input (cftime: microseconds).
    """
    if time.dtype.kind == "M":
        # Months and days are not lengths that divide a second; every finer unit is.
        unit = np.datetime_data(time.dtype)[0] if np.datetime_data(time.dtype)[0] in _UNITS else "s"
        seconds = time.astype("datetime64[s]")
        unit = "s" if (seconds == time).all() else unit
        numbers = time.astype(f"datetime64[{unit}]").astype(np.int64)
        kind, calendar = time.dtype.str, "proleptic_gregorian"
    elif time.dtype.kind == "O":
        calendar = str(time[0].calendar) if len(time) else "standard"
        year_zero = bool(time[0].has_year_zero) if len(time) else False
        kind = f"cftime:{int(year_zero)}"
        units = "microseconds since 1970-01-01 00:00:00"
        with _any_year():
            micros = cftime.date2num(time, units, calendar, has_year_zero=year_zero) if len(time) else []
        numbers = np.array(micros, np.int64)
        unit = "us"
        if not (numbers % 1_000_000).any():
            numbers, unit = numbers // 1_000_000, "s"
    elif time.dtype.kind in "iu":
        return time.astype(np.int64), {"kind": "index"}
    else:
        raise ValueError(f"times of dtype {time.dtype} are neither datetime64, cftime nor sample numbers")
    return numbers, {"units": f"{_UNITS[unit]} since 1970-01-01 00:00:00", "calendar": calendar, "kind": kind}


def decode_time(numbers: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    kind = attributes["kind"]
    if kind == "index":
        return numbers
    if kind.startswith("cftime:"):
        with _any_year():
            dates = cftime.num2date(
                numbers,
                attributes["units"],
                attributes["calendar"],
                only_use_cftime_datetimes=True,
                has_year_zero=kind == "cftime:1",
            )
        return np.array(list(dates), dtype=object) if len(numbers) else np.empty(0, object)
    unit = {long: short for short, long in _UNITS.items()}[attributes["units"].split()[0]]
    return numbers.astype(f"datetime64[{unit}]").astype(np.dtype(kind))


def split_statistics(statistics: Mapping[str, Any] | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays, and the rest, which must be JSON."""
    arrays, plain = {}, {}
    for name, value in (statistics or {}).items():
        if not _NAME.match(name):
            raise ValueError(f"statistics may not be named {name!r}")
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(value)
            if array.dtype.kind not in "biuf":
                raise ValueError(f"statistics {name!r} has dtype {array.dtype}, which is not a number")
            arrays[name] = array.astype(array.dtype.newbyteorder("="))
        else:
            plain[name] = value
    return arrays, plain


def describe(
    spec: Spec,
    stride: int,
    timelines: tuple[Timeline, ...],
    shard_length: int,
    provenance: list[dict[str, Any]],
    statistics: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The part of the manifest that is known before anything is written."""
    arrays, plain = split_statistics(statistics)
    return {
        "format": FORMAT,
        "version": VERSION,
        "spec": spec.to_dict(),
        "stride": stride,
        "shard_length": shard_length,
        "trajectories": [{"name": t.name, "length": len(t), "files": list(t.files)} for t in timelines],
        "provenance": provenance,
        "statistics": {"arrays": sorted(arrays), "values": plain} if statistics is not None else None,
    }


def dump(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def write_atomically(path: Path, content: bytes) -> None:
    """The whole content or nothing, also across a power cut."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    if hasattr(os, "O_DIRECTORY"):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def file_record(path: Path) -> tuple[int, str]:
    """Size and SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def seal(manifest: dict[str, Any]) -> bytes:
    """The manifest with the digest of the rest of itself."""
    return dump({**manifest, "digest": hashlib.sha256(dump(manifest)).hexdigest()})


def unseal(path: Path) -> dict[str, Any]:
    """The manifest in directory ``path``, checked.

    Raises:
        UserError: when there is none, it is damaged, or of another version.
    """
    where = path / MANIFEST
    if not where.is_file():
        if (path / PLAN).is_file():
            raise UserError(f"{path} is unfinished: run the same surrogate.prepare again, it goes on where it stopped")
        state = "does not exist" if not path.exists() else f"is not a prepared store: it has no {MANIFEST}"
        raise UserError(f"{path} {state}")
    try:
        manifest = json.loads(where.read_bytes())
        digest = manifest.pop("digest")
        intact = digest == hashlib.sha256(dump(manifest)).hexdigest() and manifest["format"] == FORMAT
    except (ValueError, KeyError, AttributeError, TypeError, OSError):
        intact = False
    if not intact:
        raise UserError(f"{where} is damaged: it does not have the digest that it states")
    if manifest["version"] != VERSION:
        raise UserError(f"{path} has store version {manifest['version']}; this program reads {VERSION}: prepare again")
    return manifest
