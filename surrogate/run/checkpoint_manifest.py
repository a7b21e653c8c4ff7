"""The manifest of a checkpoint: what its files were when it was written, and whether they still are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
import hashlib
import os
from pathlib import Path
from typing import Any

from surrogate.core.types import PyTree, UserError
from surrogate.run.artefact import MAX_MANIFEST_BYTES, seal, unseal
from surrogate.run.files import write_bytes_atomic

MANIFEST = "manifest.json"
SMALL = 2**20
"""Bytes up to which a file counts as description and not as arrays: nothing parses those before they are verified."""


class Rejected(Exception):
    """Why a step is not trusted."""


def write_manifest(folder: Path, step: int, leaves: list[list], extra: dict) -> None:
    """Hash the files of a committed step and seal the result: from then on it is trusted."""
    names = list(_list_files(folder))
    # Few threads: the training wants the cores.
    hashes = _hash_files(folder, names, max(1, _cores() // 4))
    record = {"step": step, "leaves": leaves, "files": dict(zip(names, hashes, strict=True)), "extra": extra}
    write_bytes_atomic(folder / MANIFEST, seal(record))


def _cores() -> int:
    return os.cpu_count() or 1


def _list_files(folder: Path) -> dict[str, int]:
    """Relative name → size of every file below ``folder`` but the manifest, sorted."""
    table = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Rejected(f"{name} is not a plain file")
        if path.is_file() and name != MANIFEST:
            table[name] = path.stat().st_size
    return table


def _hash_file(path: Path) -> dict[str, Any]:
    # Not remembered between calls: a flipped bit changes neither size nor time.
    with open(path, "rb") as file:
        return {
            "size": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _hash_files(folder: Path, names: Iterable[str], threads: int) -> list[dict[str, Any]]:
    """Size and SHA-256 of files, several at a time: hashing and reading let go of Python's lock."""
    with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
        return list(pool.map(lambda name: _hash_file(folder / name), names))


def read_manifest(folder: Path, step: int) -> dict:
    path = folder / MANIFEST
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise Rejected("it has no manifest (the run was ended while saving it)") from None
    except OSError as error:
        raise Rejected(f"its manifest cannot be read: {error}") from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise Rejected("its manifest is too large")
    try:
        manifest = unseal(data, str(path))
    except UserError as error:
        raise Rejected(str(error)) from error
    if set(manifest) != {"digest", "step", "leaves", "files", "extra"} or manifest["step"] != step:
        raise Rejected(f"its manifest is not that of step {step}")
    return manifest


def verify(folder: Path, step: int, load: Callable[[dict], PyTree] | None = None) -> tuple[dict, PyTree]:
    """The manifest of a step whose every file is as it was written, and what ``load(manifest)`` made of it meanwhile.

    ``load`` begins once everything is known to be right but the content of large files; what it returns or raises is
    forgotten where one of these is damaged.

    Raises:
        Rejected: with the reason.
    """
    manifest = read_manifest(folder, step)
    listed = manifest["files"]
    try:
        found = _list_files(folder)
        for name in sorted(set(listed) | set(found)):
            if name not in found:
                raise Rejected(f"file {name} is missing")
            if name not in listed:
                raise Rejected(f"file {name} does not belong to it")
            if found[name] != listed[name]["size"]:
                raise Rejected(f"file {name} has {found[name]} bytes, expected {listed[name]['size']}")
        large = sorted((name for name in found if found[name] > SMALL), key=lambda name: -found[name])
        _check_files(folder, listed, [name for name in found if found[name] <= SMALL])
        if load is None:
            _check_files(folder, listed, large)
            return manifest, None
        with ThreadPoolExecutor(1, thread_name_prefix="verify") as beside:
            check = beside.submit(_check_files, folder, listed, large)
            state, failure = None, None
            try:
                state = load(manifest)
            except Exception as error:
                failure = error
            check.result()
    except OSError as error:
        raise Rejected(f"it cannot be read: {error}") from error
    if failure is not None:
        raise failure
    return manifest, state


def _check_files(folder: Path, listed: dict[str, dict[str, Any]], names: list[str]) -> None:
    """Raise :class:`Rejected` for the first of ``names`` that is not as the manifest says."""
    for name, found in zip(names, _hash_files(folder, names, _cores()), strict=True):
        if found != listed[name]:
            raise Rejected(f"file {name} was damaged: its SHA-256 differs")
