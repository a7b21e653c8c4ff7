"""A published directory that can be trusted to be what was written, or is refused before anything is parsed.

``manifest.json`` names every other file with its size and SHA-256, and carries the digest of its own
remaining bytes, so that one changed bit anywhere is noticed. A digest is no signature: it guards against
damage and half-copied directories; who wrote it is for a signature over the directory to say.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
import re
import secrets
import shutil
import stat
from typing import Any

import numpy as np
import safetensors.numpy

from surrogate.core.types import UserError
from surrogate.run.files import disk_error, fsync_directory

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_FILES = 1000
MAX_HEADER_BYTES = 16 * 2**20
_RESERVED = ("digest", "files")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # used with fullmatch: no separators, no leading dot
_HEX = re.compile(rb"[0-9a-f]{64}")
_PREFIX = b'{\n "digest": "'
_SUFFIX = b'",'


def seal(record: dict[str, Any]) -> bytes:
    """``record`` as JSON whose first key, ``digest``, is the SHA-256 of the same JSON without that line.

    Raises:
        ValueError: the record is empty or has a key ``digest``, or holds a non-finite number.
    """
    if not record or "digest" in record:
        raise ValueError("a sealed record is not empty and has no key 'digest' of its own")
    body = json.dumps(record, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=True).encode() + b"\n"
    return _PREFIX + hashlib.sha256(body).hexdigest().encode() + _SUFFIX + body[1:]


def unseal(data: bytes, name: str) -> dict[str, Any]:
    """Invert :func:`seal`; the digest is compared over the raw bytes before they are parsed.

    Raises:
        UserError: not a sealed record, or changed since it was written; names ``name``.
    """
    start, end = len(_PREFIX), len(_PREFIX) + 64
    digest, body = data[start:end], b"{" + data[end + len(_SUFFIX) :]
    if not data.startswith(_PREFIX) or data[end : end + len(_SUFFIX)] != _SUFFIX or not _HEX.fullmatch(digest):
        raise UserError(f"{name} does not begin with its digest: it is damaged or not a manifest")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise UserError(f"{name} was changed or damaged: its content does not match its digest")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not valid JSON: {error}") from error


def _check_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == MANIFEST:
        raise UserError(f"{where}: the file name {name!r} is not allowed (letters, digits, '.', '_', '-', no folders)")


def write_artefact(directory: Path, files: dict[str, bytes], manifest: dict) -> None:
    """Write ``directory`` whole or not at all: into a temporary sibling, then renamed into place.

    Args:
        directory: the artefact; one that is there already is replaced, another directory is not.
        files: name → content; plain names without folders.
        manifest: JSON values, without the keys ``digest`` and ``files``, which are added.

    Raises:
        UserError: a name is not allowed, ``directory`` holds something else, or the disk refuses.
        ValueError: the manifest has a reserved key or a non-finite number.
    """
    directory = Path(os.path.abspath(directory))
    for name in files:
        _check_name(name, str(directory))
    if len({name.casefold() for name in files}) != len(files):
        raise UserError(f"{directory}: two file names differ in case only")
    for key in _RESERVED:
        if key in manifest:
            raise ValueError(f"manifest key {key!r} is reserved")
    table = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in sorted(files.items())
    }
    sealed = seal({**manifest, "files": table})
    if len(sealed) > MAX_MANIFEST_BYTES:
        raise UserError(f"{directory}: the manifest has {len(sealed)} bytes, more than {MAX_MANIFEST_BYTES}")
    _check_replaceable(directory)
    tag = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = directory.with_name(f".{directory.name}.{tag}.tmp")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        for name, data in {**files, MANIFEST: sealed}.items():
            with open(temporary / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        fsync_directory(temporary)
        _swap(temporary, directory, directory.with_name(f".{directory.name}.{tag}.old"))
        fsync_directory(directory.parent)
    except OSError as error:
        raise disk_error("write", directory, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(directory: Path) -> None:
    """Refuse to replace anything but an empty directory or an earlier artefact."""
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise UserError(f"{directory} is there already and is not a directory")
    if not directory.is_dir():
        return
    names = {item.name for item in directory.iterdir()}
    if names and (MANIFEST not in names or any(item.is_dir() for item in directory.iterdir())):
        raise UserError(f"{directory} is there already and is not a model: give another directory")


def _swap(new: Path, target: Path, old: Path) -> None:
    # POSIX has no exchange of two directories: between the two renames a reader finds none, never a mixture.
    replaced = target.is_dir()
    if replaced:
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if replaced:
            os.rename(old, target)
        raise
    if replaced:
        shutil.rmtree(old)


def read_artefact(directory: Path, *, max_bytes: int = 8 * 2**30) -> tuple[dict, dict[str, bytes]]:
    """Read and verify every byte of an artefact; nothing but the manifest is parsed here.

    Args:
        directory: what :func:`write_artefact` wrote.
        max_bytes: refuse more than this in all, before reading.

    Returns:
        The manifest (with ``files`` and ``digest``) and name → content of every other file.

    Raises:
        UserError: a link, folder, special, missing, extra or oversize file, a name that is not allowed, a size
            or hash that differs, or a manifest that is damaged or not of the expected form; names the file.
    """
    directory = Path(directory)
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise disk_error("open the model directory", directory, error) from error
    try:
        # Everything goes through this one handle, so the directory cannot be exchanged in between.
        present = set(os.listdir(folder))
        if MANIFEST not in present:
            raise UserError(f"{directory} has no {MANIFEST}: it is not a model directory, or was copied in part")
        manifest = unseal(_read(folder, directory, MANIFEST, limit=MAX_MANIFEST_BYTES), str(directory / MANIFEST))
        table = _check_table(manifest, directory, max_bytes)
        extra, missing = sorted(present - set(table) - {MANIFEST}), sorted(set(table) - present)
        if extra:
            raise UserError(f"{directory} holds files that its manifest does not name: {', '.join(map(repr, extra))}")
        if missing:
            raise UserError(f"{directory} lacks files that its manifest names: {', '.join(missing)}")
        content = {}
        for name, entry in table.items():
            data = _read(folder, directory, name, size=entry["size"], limit=entry["size"])
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise UserError(f"{directory / name} was changed or damaged: its SHA-256 is not the manifest's")
            content[name] = data
        return manifest, content
    finally:
        os.close(folder)


def _check_table(manifest: dict, directory: Path, max_bytes: int) -> dict[str, dict[str, Any]]:
    where = str(directory / MANIFEST)
    table = manifest.get("files")
    if not isinstance(table, dict) or len(table) > MAX_FILES:
        raise UserError(f"{where}: 'files' is not a table of at most {MAX_FILES} files")
    total = 0
    for name, entry in table.items():
        _check_name(name, where)
        if not isinstance(entry, dict) or set(entry) != {"sha256", "size"}:
            raise UserError(f"{where}: the entry of {name} does not have exactly 'sha256' and 'size'")
        size, digest = entry["size"], entry["sha256"]
        if type(size) is not int or size < 0:
            raise UserError(f"{where}: the size of {name} is not a whole number: {size!r}")
        if not isinstance(digest, str) or not _HEX.fullmatch(digest.encode()):
            raise UserError(f"{where}: the SHA-256 of {name} is not 64 hexadecimal digits")
        total += size
    if total > max_bytes:
        raise UserError(f"{directory} holds {total} bytes, more than the {max_bytes} allowed")
    return table


def _read(folder: int, directory: Path, name: str, *, limit: int, size: int | None = None) -> bytes:
    path = directory / name
    # O_NOFOLLOW refuses a link; O_NONBLOCK keeps a pipe of that name from hanging the reader.
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise UserError(f"{path} is a link: a model directory holds plain files only") from error
        raise disk_error("read", path, error) from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise UserError(f"{path} is not a plain file")
    with os.fdopen(handle, "rb") as file:
        if size is not None and status.st_size != size:
            raise UserError(f"{path} has {status.st_size} bytes, the manifest says {size}: it was changed or cut")
        if status.st_size > limit:
            raise UserError(f"{path} has {status.st_size} bytes, more than the {limit} allowed")
        try:
            data = file.read(limit + 1)  # one more, so that growth since the check shows
        except OSError as error:
            raise disk_error("read", path, error) from error
    if len(data) != status.st_size:
        raise UserError(f"{path} changed while it was read")
    return data


# safetensors' names of the types that NumPy has; anything else in a header is refused.
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


def encode_tensors(tensors: dict[str, np.ndarray]) -> bytes:
    """Arrays as safetensors bytes; the same arrays give the same bytes.

    Raises:
        UserError: an array's dtype has no place in the format; names the array.
    """
    ready = {}
    for name, value in tensors.items():
        array = np.asarray(value)
        if array.dtype.newbyteorder("<").str not in _DTYPES.values():
            raise UserError(f"tensor {name!r}: dtype {array.dtype} cannot be stored; cast it first")
        # The writer copies memory as it lies, so strided or big-endian arrays would be stored wrong.
        ready[name] = np.array(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return safetensors.numpy.save(ready)


def decode_tensors(data: bytes) -> dict[str, np.ndarray]:
    """Invert :func:`encode_tensors`; the header is bounded and checked before any array is made.

    Raises:
        UserError: the header is oversize or malformed, a dtype is unknown, or offsets overlap, leave gaps or
            do not fit the shapes; names the tensor.
    """
    if len(data) < 8:
        raise UserError("tensor file: shorter than its header")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES or length > len(data) - 8:
        raise UserError(f"tensor file: a header of {length} bytes in a file of {len(data)}")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"tensor file: the header is not valid JSON: {error}") from error
    if not isinstance(header, dict) or header.pop("__metadata__", None) is not None:
        raise UserError("tensor file: the header is not a plain table of tensors")
    spans = sorted((_check_tensor(name, entry), name) for name, entry in header.items())
    position = 0
    for (start, end), name in spans:
        if start != position:
            raise UserError(f"tensor {name!r}: its bytes begin at {start}, expected {position}")
        position = end
    if position != len(data) - 8 - length:
        raise UserError(f"tensor file: {len(data) - 8 - length} bytes of data, the header names {position}")
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"tensor file: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice")
    return table


def _check_tensor(name: str, entry: Any) -> tuple[int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise UserError(f"tensor {name!r}: the header entry does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UserError(f"tensor {name!r}: dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    for field, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or len(numbers) > 32 or any(type(n) is not int or n < 0 for n in numbers):
            raise UserError(f"tensor {name!r}: {field} is not a list of whole numbers")
    if len(offsets) != 2:
        raise UserError(f"tensor {name!r}: data_offsets has {len(offsets)} numbers, expected 2")
    count = 1
    for n in shape:
        count *= n
    if offsets[1] - offsets[0] != count * np.dtype(_DTYPES[dtype]).itemsize:
        raise UserError(f"tensor {name!r}: {offsets[1] - offsets[0]} bytes do not hold {dtype} of shape {shape}")
    return offsets[0], offsets[1]
