"""``libsurrogate``: building it where there is a C compiler, and running its checker on a Bundle."""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
import os
from pathlib import Path
import secrets
import shutil
import subprocess

from surrogate.core.types import UserError

HERE = Path(__file__).resolve().parent
# What a Bundle carries along, so that it can be built against with nothing else at hand.
SOURCES = tuple(sorted(
    p.name for p in HERE.iterdir() if p.suffix in (".c", ".h", ".f90", ".hpp") or p.name == "CMakeLists.txt"
))  # fmt: skip
FLAGS = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden")
LIBRARIES = ("-ldl", "-lpthread")


@dataclass(frozen=True)
class Library:
    """Where a built ``libsurrogate`` lies, and its checker."""

    directory: Path
    library: Path
    checker: Path


def library_sources() -> list[Path]:
    """The C files of the library: all but those with a ``main``."""
    return [HERE / name for name in SOURCES if name.endswith(".c") and not name.startswith("surrogate_check")]


def build(directory: Path | None = None, flags: tuple[str, ...] = ()) -> Library:
    """Compile the library and its checker with ``$CC`` (``cc``).

    Args:
        directory: where to; by default a cache of the user's, keyed on sources, compiler and flags.

    Raises:
        UserError: without a C compiler, or with its message when it fails.
    """
    compiler = os.environ.get("CC", "cc").split()
    if shutil.which(compiler[0]) is None:
        raise UserError(
            f"a Bundle is verified by the C library, and there is no C compiler {compiler[0]!r} to build it"
        )
    if directory is None:
        key = hashlib.sha256(" ".join([*compiler, *FLAGS, *flags]).encode())
        for name in SOURCES:
            key.update((HERE / name).read_bytes())
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        directory = cache / "surrogate" / f"native-{key.hexdigest()[:16]}"
    built = Library(directory, directory / "libsurrogate.so", directory / "surrogate-check")
    if built.library.is_file() and built.checker.is_file():
        return built
    directory.mkdir(parents=True, exist_ok=True)
    tag = f"{os.getpid()}-{secrets.token_hex(4)}"
    sources = [str(p) for p in library_sources()]
    for target, arguments in (
        (built.library, ["-shared", *sources]),
        (built.checker, [*sources, str(HERE / "surrogate_check.c")]),
    ):
        part = target.with_name(f".{target.name}.{tag}")
        command = [*compiler, *FLAGS, *flags, *arguments, "-o", str(part), *LIBRARIES]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"libsurrogate cannot be built with {compiler[0]}: {done.stderr.strip()[-500:]}")
        os.replace(part, target)  # two builds at once then leave one whole file
    return built


def check(bundle: Path, platform: str, plugin: Path, *, backend: str = "pjrt", timeout: float = 3600) -> dict[str, str]:
    """Let the library open ``bundle`` in a process of its own and run every program on the golden samples.

    Returns:
        What the checker found: the backend → its version, ``function/batch/output`` → ``error of allowed``,
        ``function/batch/microseconds`` → time of a call.

    Raises:
        UserError: the library's own sentence when it refuses, or when the plugin brings the process down.
    """
    library = build()
    command = [str(library.checker), str(bundle), "--platform", platform, "--plugin", str(plugin)]
    command += ["--backend", backend]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{plugin.name} did not finish within {timeout:g} s") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("surrogate-check: ")]
        last = said[-1].partition(": ")[2] if said else f"it ended with status {done.returncode}: {done.stderr[-300:]}"
        raise UserError(last)
    lines = [line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line]
    return {line[0]: line[1] for line in lines}
