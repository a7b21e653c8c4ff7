"""One run in one directory."""

from __future__ import annotations

from datetime import UTC, datetime
import errno
import fcntl
import json
import logging
import os
from pathlib import Path
import socket
import threading
import time
from types import TracebackType

from surrogate.core.types import UserError
from surrogate.run.files import disk_error

log = logging.getLogger(__name__)

LOCK_FILE = "run.lock"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """Context manager that refuses a second run in ``directory`` (created when absent).

    The operating system's lock decides, so that a run that was killed leaves nothing to clean up. It may
    not reach across the hosts of a parallel file system, though: there the information in the file
    decides, with a heartbeat (the file's modification time) that tells a live run from a dead one.

    Raises:
        UserError: another run holds the directory (its host, process and start time are named), or the
            directory cannot be written.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.path = self.directory / LOCK_FILE
        self._handle: int | None = None
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    def __enter__(self) -> RunLock:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise disk_error("write in the run directory", self.directory, error) from error
        try:
            self._acquire(handle)
            self._write_owner(handle)
        except BaseException:
            os.close(handle)  # releases the lock as well
            raise
        self._handle = handle
        self._stop.clear()
        self._heart = threading.Thread(target=self._beat, args=(handle,), name="run-lock", daemon=True)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handle, self._handle = self._handle, None
        if handle is None:
            return
        self._stop.set()
        if self._heart is not None:
            self._heart.join()
        try:
            # Emptied, not deleted: deleting would let two later runs lock two files of one name.
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def _acquire(self, handle: int) -> None:
        supported = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._refusal(_read_owner(handle)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise disk_error("lock", self.path, error) from error
            supported = False
            log.warning("%s: this file system has no locks; relying on the information in the file", self.path)
        owner = _read_owner(handle)
        if owner is None:
            return
        if owner.get("host") == socket.gethostname():
            alive = not supported and _same_process(owner)
        else:
            alive = _age(handle) < STALE_SECONDS
        if alive:
            raise self._refusal(owner)
        log.warning("%s: taking over from a run that ended without leaving (%s)", self.directory, _name(owner))

    def _refusal(self, owner: dict | None) -> UserError:
        elsewhere = owner is not None and owner.get("host") != socket.gethostname()
        again = f"; if that host is gone, try again in {STALE_SECONDS:g} s" if elsewhere else ""
        who = "it has not written its name yet" if owner is None else _name(owner)
        return UserError(
            f"{self.directory} is in use by another run ({who}): wait for it, stop it, or give another run.dir{again}"
        )

    def _write_owner(self, handle: int) -> None:
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "born": _born(os.getpid()),
        }
        data = (json.dumps(owner) + "\n").encode()
        try:
            os.ftruncate(handle, 0)
            if os.pwrite(handle, data, 0) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError as error:
            raise disk_error("write", self.path, error) from error

    def _beat(self, handle: int) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                os.utime(handle)
            except OSError as error:
                log.warning("%s: cannot renew the lock's heartbeat: %s", self.path, error)


def _read_owner(handle: int) -> dict | None:
    try:
        owner = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return None  # empty after an orderly end, or being written at this moment
    return owner if isinstance(owner, dict) else None


def _name(owner: dict) -> str:
    return f"host {owner.get('host')}, process {owner.get('pid')}, started {owner.get('started')}"


def _born(pid: int) -> str | None:
    """Start of a process in clock ticks since boot, where the system tells: process numbers are used again."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]  # field 22 of proc(5); 2 fields precede the last parenthesis


def _same_process(owner: dict) -> bool:
    pid = owner.get("pid")
    if type(pid) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, and belongs to someone else
    return owner.get("born") is None or owner["born"] == _born(pid)


def _age(handle: int) -> float:
    """Seconds since the last heartbeat. Host clocks may differ, but by far less than the limit on one cluster."""
    return time.time() - os.fstat(handle).st_mtime
