"""Files that are whole or absent, and disk troubles told as one sentence."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
import secrets
from typing import Any

import numpy as np

from surrogate.core.types import UserError

_PLAIN = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk reports an input/output error",
}
# Libraries that write for us (tensorstore among them) turn errno into prose of their own.
_PROSE = {
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "permission denied": errno.EACCES,
    "input/output error": errno.EIO,
}


def disk_reason(error: BaseException) -> str | None:
    """Why the disk refused, in plain words, searching the causes of ``error`` too; None when it is no disk trouble."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, OSError) and link.errno in _PLAIN:
            return _PLAIN[link.errno]
        text = str(link).lower()
        for phrase, number in _PROSE.items():
            if phrase in text:
                return _PLAIN[number]
        link = link.__cause__ or link.__context__
    return None


def disk_error(doing: str, path: str | os.PathLike[str], error: BaseException) -> UserError:
    """``UserError`` for a failed write or read, e.g. ``disk_error("write the lock", path, error)``."""
    return UserError(f"cannot {doing} {os.fspath(path)}: {disk_reason(error) or error}")


def fsync_directory(directory: Path) -> None:
    """Make renames and new names inside ``directory`` survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: a reader, or a kill at any moment, sees the old or the new file, never a part.

    Raises:
        UserError: the disk is full, read-only or forbidden; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise disk_error("write", path, error) from error


def plain_json(value: Any) -> Any:
    """``value`` as standard JSON values: arrays become lists, paths text, and non-finite numbers null."""
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)) or hasattr(value, "__array__"):
        return plain_json(np.asarray(value).tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


def json_text(value: Any, indent: int | None = None) -> str:
    """One spelling for JSON everywhere: UTF-8, no NaN (see :func:`plain_json`)."""
    return json.dumps(plain_json(value), indent=indent, ensure_ascii=False, allow_nan=False)
