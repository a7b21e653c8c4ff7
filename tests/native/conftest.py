"""What the native tests need: compilers, a PJRT plugin, the library built once, bundles exported once."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import subprocess

import pytest
from surrogates import make, need

from surrogate.domains.fields_surrogate import FieldSurrogate
from surrogate.exporting import native, plugins
from surrogate.exporting.write import export_bundle

HERE = Path(__file__).parent
C_FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{native.HERE}"]


@pytest.fixture(scope="session")
def plugin() -> Path:
    """The PJRT plugin of the ``native`` extra."""
    found = plugins.installed("cpu")
    if not found:
        pytest.skip("no PJRT plugin for cpu is installed (pip install 'surrogate[native]')")
    return found[0].path


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> native.Library:
    need("cc")
    return native.build(tmp_path_factory.mktemp("libsurrogate"), ("-Wall", "-Wextra", "-Werror"))


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> FieldSurrogate:
    """History, levels, land, a monthly climatology, forcings, diagnostics, season and hour, on 6 × 10 points."""
    return make(tmp_path_factory.mktemp("rich") / "model")


@pytest.fixture(scope="session")
def bundle(
    rich: FieldSurrogate, plugin: Path, library: native.Library, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The rich surrogate's bundle."""
    out = tmp_path_factory.mktemp("bundle") / "rich.sg"
    return export_bundle(rich, out, batches=(1, 4), plugins={"cpu": str(plugin)})


@pytest.fixture(scope="session")
def environment(plugin: Path) -> dict[str, str]:
    """For programs: the plugin, without its messages on start."""
    return {**os.environ, "SURROGATE_PLUGIN": str(plugin), "TF_CPP_MIN_LOG_LEVEL": "2"}


@pytest.fixture(scope="session")
def program(library: native.Library, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compile a source of this directory against the library: ``program("driver.c")``."""
    directory = tmp_path_factory.mktemp("programs")
    link = [f"-L{library.directory}", "-lsurrogate", f"-Wl,-rpath,{library.directory}", "-lpthread", "-lm"]

    def compile_program(name: str) -> Path:
        target = directory / name.replace(".", "_")
        if target.exists():
            return target
        source = str(HERE / name)
        if name.endswith(".c"):
            command = [need("cc"), *C_FLAGS, source, "-o", str(target), *link]
        elif name.endswith(".cpp"):
            flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{native.HERE}"]
            command = [need("c++"), *flags, source, "-o", str(target), *link]
        else:
            # Traps as in a model's debug build: the plugin's own arithmetic must not spring them.
            flags = ["-std=f2018", "-O1", "-Wall", "-Wextra", "-fcheck=all", "-ffpe-trap=invalid,zero,overflow"]
            module = str(native.HERE / "surrogate.f90")
            command = [need("gfortran"), *flags, f"-J{directory}", module, source, "-o", str(target), *link]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return target

    return compile_program


@pytest.fixture(scope="session")
def run(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run_program(*words: object, **extra: str) -> subprocess.CompletedProcess[str]:
        command = [str(w) for w in words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**environment, **extra})

    return run_program
