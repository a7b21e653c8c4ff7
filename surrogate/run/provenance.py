"""Where a result comes from: code, packages, machine, data; and the run's records on disk."""

from __future__ import annotations

from datetime import UTC, datetime
import hashlib
from importlib import metadata
import json
import os
from pathlib import Path
import platform
import shlex
import subprocess
import sys
from typing import Any

from surrogate.core.types import UserError
from surrogate.run.files import disk_error, json_text, write_bytes_atomic

PACKAGES = (
    "surrogate", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "xarray", "netcdf4",
    "h5netcdf", "h5py", "cftime", "zarr", "tensorstore", "dask", "fsspec", "safetensors", "hydra-core", "dinosaur",
)  # fmt: skip

_hashes: dict[tuple[str, int, int], str] = {}


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file; remembered within the process for the same path, size and modification time."""
    status = os.stat(path)
    slot = (os.path.abspath(path), status.st_size, status.st_mtime_ns)
    if slot not in _hashes:
        with open(path, "rb") as file:
            _hashes[slot] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[slot]


def describe_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """``{"path", "size", "sha256"}`` of a file, or of a directory (a Zarr store) as one.

    A directory's hash is that of the lines ``<sha256>  <relative name>\\n`` sorted by name, and its
    size the sum, so that it can be checked with ``sha256sum``. Addresses of remote stores
    (``gs://…``, ``http://…``) have neither.

    Raises:
        UserError: the path does not exist or cannot be read.
    """
    text = os.fspath(path)
    if "://" in text:
        return {"path": text, "size": None, "sha256": None}
    try:
        if not os.path.isdir(text):
            return {"path": text, "size": os.path.getsize(text), "sha256": sha256_file(text)}
        root = Path(text)
        names = sorted(item.relative_to(root).as_posix() for item in root.rglob("*") if item.is_file())
        lines = "".join(f"{sha256_file(root / name)}  {name}\n" for name in names)
        size = sum((root / name).stat().st_size for name in names)
        return {"path": text, "size": size, "sha256": hashlib.sha256(lines.encode()).hexdigest()}
    except OSError as error:
        raise disk_error("read", text, error) from error


def _git(*arguments: str) -> str | None:
    directory = Path(__file__).parent
    command = ["git", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def git_revision() -> dict[str, Any] | None:
    """``{"revision", "dirty"}`` of the checkout that tracks this package's source; None when installed otherwise."""
    # A virtual environment may lie inside somebody else's checkout: only tracked source counts.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    revision = _git("rev-parse", "HEAD")
    if revision is None:
        return None
    state = _git("status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "dirty": None if state is None else bool(state)}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.lower().startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the standard library's answer below
    return platform.processor() or platform.machine()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _command() -> str:
    return shlex.join(sys.orig_argv)


def collect(config: dict, files: list[dict], seeds: dict, mesh: dict) -> dict:
    """Everything needed to say how a result was made, as plain JSON values.

    Args:
        config: the resolved configuration.
        files: one dict per data file or store with at least ``path``; ``size`` and ``sha256`` are added
            where absent (give ``"sha256": None`` to skip hashing a very large store).
        seeds: name → integer.
        mesh: mesh axis → size.

    Raises:
        UserError: a data file cannot be read.
    """
    import jax

    devices: dict[str, int] = {}
    for device in jax.devices():
        devices[device.device_kind] = devices.get(device.device_kind, 0) + 1
    described = [entry if "sha256" in entry else {**describe_file(entry["path"]), **entry} for entry in files]
    record = {
        "created": _now(),
        "command": _command(),
        "directory": os.getcwd(),
        "git": git_revision(),
        "packages": _versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": {"model": _cpu_model(), "count": os.cpu_count()},
        "devices": devices,
        "processes": jax.process_count(),
        "mesh": mesh,
        "seeds": seeds,
        "data": described,
        "config": config,
        "history": [],
    }
    return json.loads(json_text(record))


def append_history(path: Path, event: dict) -> None:
    """Add ``event`` (e.g. ``{"event": "resume", "step": 120}``) with time, command and revision to ``provenance.json``.

    Raises:
        UserError: the file is missing or is not a provenance record, or the disk refuses.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        history = record["history"]
    except OSError as error:
        raise disk_error("read", path, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a provenance record: {error!r}") from error
    history.append({"time": _now(), "command": _command(), "git": git_revision(), **event})
    write_json_atomic(path, record)


def write_json_atomic(path: Path, obj: Any) -> None:
    """Write ``obj`` as indented JSON, whole or not at all; non-finite numbers become null.

    Raises:
        UserError: the disk is full, read-only or forbidden.
    """
    write_bytes_atomic(Path(path), (json_text(obj, indent=2) + "\n").encode())


def append_jsonl(path: Path, row: dict) -> None:
    """Append one line. What a kill left of an unfinished last line is removed first.

    Raises:
        UserError: the disk is full, read-only or forbidden.
    """
    line = (json_text(row) + "\n").encode()
    try:
        with open(path, "ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    _finish_last_line(file)
            file.write(line)
    except OSError as error:
        raise disk_error("append to", path, error) from error


def _finish_last_line(file: Any) -> None:
    file.seek(0)
    data = file.read()
    start = data.rfind(b"\n") + 1
    if _row(data[start:]) is None:
        file.truncate(start)
    else:  # whole but for its newline, as an editor may leave it
        file.write(b"\n")


def _row(line: bytes) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def read_jsonl(path: Path) -> list[dict]:
    """The rows of a JSON-lines file; an unfinished last line (a kill while writing) is left out.

    Raises:
        UserError: the file cannot be read, or another line than the last is not a JSON object.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise disk_error("read", path, error) from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):  # it has its newline, so it was not cut short by a kill
            raise UserError(f"{path}, line {number}: not a JSON object: {line[:80]!r}")
    return rows


def truncate_jsonl(path: Path, step: int) -> int:
    """Drop the rows whose ``step`` is beyond ``step`` (a resumed run will write them again); returns how many.

    Rows without a ``step`` stay. A missing file is an empty one.

    Raises:
        UserError: as :func:`read_jsonl`, or the disk refuses.
    """
    path = Path(path)
    if not path.exists():
        return 0
    rows = read_jsonl(path)
    kept = [row for row in rows if row.get("step", step) <= step]
    write_bytes_atomic(path, "".join(json_text(row) + "\n" for row in kept).encode())
    return len(rows) - len(kept)
