"""Files that are made once and kept: where they lie, and how one appears under its name only when it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
from pathlib import Path
from typing import TypeVar
import uuid

from surrogate.core.types import UserError

T = TypeVar("T")


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """``cache_dir``, else ``$SURROGATE_CACHE``, else ``$XDG_CACHE_HOME/surrogate``, else ``~/.cache/surrogate``."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if own := os.environ.get("SURROGATE_CACHE"):
        return Path(own).expanduser()
    # The XDG specification says that a relative path is to be ignored.
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else Path("~/.cache").expanduser()) / "surrogate"


def write_once(
    path: Path,
    *,
    check: Callable[[Path], None],
    prepare: Callable[[], T],
    write: Callable[[Path, T], None],
    what: str,
) -> Path:
    """``path``, checked where it exists, and written now where it does not.

    A second process that asks for the same file meanwhile waits and uses the first one's.

    Args:
        check: raises :class:`UserError` for a file that is not the one meant.
        prepare: what has to succeed before the directory is touched; its result is given to ``write``.
        write: writes the file under the (temporary) name that it is given.
        what: is simulated, for the message.

    Raises:
        UserError: when the directory cannot be written or the disk is full.
    """
    if path.exists():
        check(path)
        return path
    prepared = prepare()
    directory = path.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory / f".{path.name}.lock"):
            if path.exists():  # another process finished while this one waited
                check(path)
                return path
            for abandoned in directory.glob(f".{path.name}.*.partial"):  # of a process that was killed
                abandoned.unlink(missing_ok=True)
            partial = directory / f".{path.name}.{uuid.uuid4().hex}.partial"
            try:
                write(partial, prepared)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise UserError(f"cannot write the simulated {what} {path}: {reason}; set SURROGATE_CACHE") from error
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock, which the system releases even when the process is killed."""
    try:
        import fcntl
    except ImportError:  # not POSIX: two processes may both simulate; each one's file is still whole
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
