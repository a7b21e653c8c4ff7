"""Zarr stores, local or remote: v2 or v3, consolidated or not, with nothing run and nothing made up.

Two things that plain readers do are refused. A codec outside the list below (``pickle`` runs code) is an
error before any array is opened. A chunk that is absent reads as zarr's fill value: where that is NaN
or a declared ``_FillValue`` a warning names the chunk and the check of values sees the hole; otherwise it
is an error when it is read. An inner chunk absent from a shard that exists is not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from surrogate.core.types import UserError

logger = logging.getLogger(__name__)

# The public WeatherBench 2 copy of ERA5 at 64 × 32, 6-hourly, (time, level, longitude, latitude).
ERA5_URL = "gs://weatherbench2/datasets/era5/1959-2022-6h-64x32_equiangular_conservative.zarr"
ERA5_VARIABLES = (
    "geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "specific_humidity",
    "2m_temperature", "mean_sea_level_pressure", "10m_u_component_of_wind", "10m_v_component_of_wind",
)  # fmt: skip
ERA5_STATICS = ("geopotential_at_surface", "land_sea_mask")

_SAFE_CODECS = frozenset({
    "bytes", "endian", "transpose", "gzip", "zlib", "zstd", "blosc", "lz4", "lzma", "bz2", "crc32c", "crc32", "adler32",
    "fletcher32", "jenkins_lookup3", "sharding_indexed", "shuffle", "delta", "fixedscaleoffset", "bitround", "quantize",
    "packbits", "astype", "vlen-utf8", "vlen-bytes", "vlen-array",
})  # fmt: skip
# Attribute under which a fill value of doubtful meaning is handed to the decoder.
UNSURE_FILL = "zarr_fill_value"
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
_EXTRAS = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs"}


def is_remote(path: str) -> bool:
    return "://" in path


def is_store(path: Path) -> bool:
    return path.is_dir() and any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata", ".zarray"))


class CompleteStore(WrapperStore[Store]):
    """A store that refuses to answer for a chunk that is not there.

    Attributes:
        tolerant: paths of arrays whose absent chunks read as missing values.
        starts: keys of first chunks of coordinates. Writers leave out a chunk of zeros, such as the first time of
            a store that grows step by step; wrong zeros would break the order of a coordinate.
        label: what messages call the store.
    """

    def __init__(
        self,
        store: Store,
        label: str = "",
        tolerant: frozenset[str] = frozenset(),
        starts: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(store)
        self.label, self.tolerant, self.starts = label, tolerant, starts

    def _with_store(self, store: Store) -> CompleteStore:
        return CompleteStore(store, self.label, self.tolerant, self.starts)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        value = await super().get(key, prototype, byte_range)
        if value is None:
            self._refuse(key)
        return value

    def _refuse(self, key: str) -> None:
        if key.rsplit("/", 1)[-1] in _METADATA:
            return
        if any(key.startswith(f"{path}/") for path in self.tolerant):
            logger.warning("%s: chunk %s is absent and reads as missing values", self.label, key)
            return
        if key in self.starts:
            logger.warning("%s: chunk %s is absent and reads as zero", self.label, key)
            return
        raise UserError(
            f"{self.label}: chunk {key} is absent and would read as a constant; the store is incomplete, or was "
            "written without its empty chunks and declares no _FillValue (rewrite it with write_empty_chunks=True)"
        )


def _store(path: str, storage_options: dict[str, Any] | None) -> CompleteStore:
    if not is_remote(path):
        return CompleteStore(LocalStore(path, read_only=True), path)
    scheme = path.split("://", 1)[0]
    options = dict(storage_options or {})
    if scheme in ("gs", "gcs"):
        options.setdefault("token", "anon")
    elif scheme == "s3":
        options.setdefault("anon", True)
    try:
        return CompleteStore(FsspecStore.from_url(path, storage_options=options, read_only=True), path)
    except ImportError:
        package = _EXTRAS.get(scheme, "a package of fsspec")
        raise UserError(f"{path}: {scheme}:// needs {package}: pip install 'surrogate[cloud]'") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def open_raw(path: str, group: str = "", storage_options: dict[str, Any] | None = None) -> xr.Dataset:
    """Open a store as stored: numbers packed, times as numbers, attributes untouched.

    Raises:
        UserError: for a store that is absent, has unsafe codecs or cannot be read.
    """
    store = _store(path, storage_options)
    label = f"{path}#/{group}" if group else path
    try:
        arrays = _array_metadata(store, path, group)
        for name, metadata in arrays.items():
            check_codecs(metadata, name, label)
        # A zarr Store is accepted, though xarray's annotation names paths and files alone.
        source: Any = store
        dataset = xr.open_dataset(
            source, engine="zarr", group=group or None, decode_cf=False, cache=False, create_default_indexes=False,
            backend_kwargs={"consolidated": _is_consolidated(store, group)},
        )  # fmt: skip
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{label}: cannot be read as a Zarr store ({type(error).__name__}: {error})") from error
    prefix = f"{group}/" if group else ""
    tolerant, starts = set(), set()
    for name, metadata in arrays.items():
        if name not in dataset.variables:
            continue
        attrs, fill = dataset.variables[name].attrs, _fill_value(metadata)
        if metadata.get("zarr_format") == 2 and fill == 0:
            # xarray takes the fill value of a v2 array as its _FillValue. Zero is also zarr's default, so it
            # is no mark by itself, but is looked for where numbers are packed.
            attrs[UNSURE_FILL] = attrs.pop("_FillValue", fill)
        if _reads_as_missing(fill, attrs):
            tolerant.add(prefix + name)
        elif dataset.variables[name].dims == (name,) and fill == 0:
            starts |= {f"{prefix}{name}/c/0", f"{prefix}{name}/0"}
    store.tolerant, store.starts = frozenset(tolerant), frozenset(starts)
    return dataset


def _reads_as_missing(fill: Any, attrs: Mapping[str, Any]) -> bool:
    if not isinstance(fill, (int, float)):
        return False
    declared = np.ravel(attrs.get("_FillValue", np.nan))
    return bool(np.isnan(fill)) or any(isinstance(d, (int, float, np.number)) and fill == d for d in declared)


def _read_json(store: Store, key: str) -> dict[str, Any] | None:
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    value = sync(store.get(key, default_buffer_prototype()))
    if value is None:
        return None
    document = json.loads(value.to_bytes())
    if not isinstance(document, dict):
        raise ValueError(f"{key} is not a JSON object")
    return document


def _is_consolidated(store: Store, group: str) -> bool:
    prefix = f"{group}/" if group else ""
    v3 = _read_json(store, f"{prefix}zarr.json")
    if v3 is not None:
        return bool(v3.get("consolidated_metadata"))
    return _read_json(store, f"{prefix}.zmetadata") is not None


def _array_metadata(store: Store, path: str, group: str) -> dict[str, dict[str, Any]]:
    """The metadata of every array directly below the group, read as JSON alone."""
    prefix = f"{group}/" if group else ""
    v3 = _read_json(store, f"{prefix}zarr.json")
    if v3 is not None and v3.get("consolidated_metadata"):
        items = v3["consolidated_metadata"]["metadata"].items()
        return {name: m for name, m in items if m.get("node_type") == "array"}
    v2 = _read_json(store, f"{prefix}.zmetadata") if v3 is None else None
    if v2 is not None:
        return {key[: -len("/.zarray")]: m for key, m in v2["metadata"].items() if key.endswith("/.zarray")}
    if v3 is None and _read_json(store, f"{prefix}.zgroup") is None:
        raise UserError(f"{path}: no Zarr group {'at ' + repr(group) if group else 'there'} (no zarr.json or .zgroup)")
    if not store.supports_listing:
        raise UserError(f"{path}: the store is not consolidated, and its server cannot list it")
    return _listed_metadata(store, path, prefix)


def _listed_metadata(store: Store, path: str, prefix: str) -> dict[str, dict[str, Any]]:
    from zarr.core.sync import sync

    async def names() -> list[str]:
        return [name async for name in store.list_dir(prefix.rstrip("/"))]

    found: dict[str, dict[str, Any]] = {}
    for name in sorted(sync(names())):
        if name in _METADATA:
            continue
        metadata = _read_json(store, f"{prefix}{name}/zarr.json") or _read_json(store, f"{prefix}{name}/.zarray")
        if metadata is not None and metadata.get("node_type", "array") == "array":
            found[name] = metadata
    if not found:
        raise UserError(f"{path}: no array could be listed; a store on a plain web server must be consolidated")
    return found


def check_codecs(metadata: Mapping[str, Any], name: str, label: str) -> None:
    """Refuse codecs outside the list, at any depth (shards hold codecs of their own).

    Raises:
        UserError: naming the array and the codec.
    """
    for codec in _codec_names(metadata):
        if codec.removeprefix("numcodecs.") not in _SAFE_CODECS:
            reason = "which runs code when it is read" if "pickle" in codec else "which is not on the list of safe ones"
            raise UserError(f"{label}: array {name!r} uses the codec {codec!r}, {reason}")


def _codec_names(metadata: Mapping[str, Any]) -> Iterable[str]:
    if metadata.get("zarr_format") == 2:
        for codec in (metadata.get("compressor"), *(metadata.get("filters") or ())):
            if codec:
                yield str(codec.get("id"))
        return
    pending = list(metadata.get("codecs", ()))
    while pending:
        codec = pending.pop()
        yield str(codec if isinstance(codec, str) else codec.get("name"))
        settings = codec.get("configuration", {}) if isinstance(codec, Mapping) else {}
        pending += [*settings.get("codecs", ()), *settings.get("index_codecs", ())]


def _fill_value(metadata: Mapping[str, Any]) -> Any:
    fill = metadata.get("fill_value")
    return float(fill) if fill in ("NaN", "Infinity", "-Infinity") else fill


def open_era5(requests: Sequence[Any], url: str = ERA5_URL, **options: Any) -> Any:
    """ERA5 in the public WeatherBench 2 layout, read anonymously.

    Arguments, result and errors are those of :func:`surrogate.data.netcdf.open_trajectory`; levels are in hPa.
    """
    from surrogate.data.netcdf import open_trajectory

    return open_trajectory(url, requests, **options)
