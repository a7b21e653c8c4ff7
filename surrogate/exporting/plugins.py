"""PJRT plugins: which shared library compiles and runs programs on a platform."""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
from importlib.metadata import PackageNotFoundError, distribution
import os
from pathlib import Path

from surrogate.core.types import UserError

# Platform → distributions that hold a plugin, the first installed one being taken, and its file.
_PACKAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "cpu": (
        ("lammps-jax-pjrt-cpu", "pjrt_c_api_cpu_plugin.so"),
        ("xla-cpu-pjrt", "xla_cpu_pjrt.so"),
        ("fastatomstruct-xla-cpu", "libpjrt_cpu.so"),
    ),
    "cuda": (("jax-cuda13-pjrt", "xla_cuda_plugin.so"), ("jax-cuda12-pjrt", "xla_cuda_plugin.so")),
    "rocm": (("jax-rocm7-pjrt", "xla_rocm_plugin.so"),),
    "tpu": (("libtpu", "libtpu.so"),),
}


# ONNX Runtime, the plugin of the backend onnx.
_RUNTIME = ("onnxruntime", "libonnxruntime.so.1")


@dataclass(frozen=True)
class Plugin:
    """A plugin on this machine; ``package`` and ``version`` are empty for one given by path."""

    platform: str
    path: Path
    package: str = ""
    version: str = ""

    def record(self) -> dict[str, str]:
        """For the manifest: a bare file name, never a path, since a Bundle may not say what is loaded from where."""
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        return {
            "file": self.path.name, "package": self.package, "version": self.version, "sha256": digest.hexdigest(),
        }  # fmt: skip


def installed(platform: str) -> list[Plugin]:
    """The plugins of a platform that are installed as packages, in order of preference. Nothing is imported."""
    found = []
    for package, name in _PACKAGES.get(platform, ()):
        try:
            dist = distribution(package)
        except PackageNotFoundError:
            continue
        for file in dist.files or ():
            path = Path(str(dist.locate_file(file)))
            if file.name == name and path.is_file():
                found.append(Plugin(platform, path.resolve(), package, dist.version))
    return found


def find_runtime(given: str = "") -> Plugin | None:
    """ONNX Runtime: the library given by path, else ``$SURROGATE_ONNXRUNTIME``, else that of the installed wheel.

    Raises:
        UserError: for a path that is not a file.
    """
    given = given or os.environ.get("SURROGATE_ONNXRUNTIME", "")
    package, prefix = _RUNTIME
    found: Plugin | None = None
    try:
        dist = distribution(package)
        for file in dist.files or ():
            path = Path(str(dist.locate_file(file)))
            if file.name.startswith(prefix) and path.is_file():
                found = Plugin("cpu", path.resolve(), package, dist.version)
    except PackageNotFoundError:
        pass  # it may be given by path
    if not given:
        return found
    path = Path(given).expanduser()
    if not path.is_file():
        raise UserError(f"ONNX Runtime, {given}, is not a file")
    return found if found and found.path == path.resolve() else Plugin("cpu", path.resolve())


def find_plugin(platform: str, given: str = "") -> Plugin:
    """The plugin to serve ``platform``: the one given by path, else ``$SURROGATE_PLUGIN`` for cpu, else an installed one.

    Raises:
        UserError: when there is none, with what to install.
    """
    if not given and platform == "cpu":
        given = os.environ.get("SURROGATE_PLUGIN", "")
    if given:
        path = Path(given).expanduser()
        if not path.is_file():
            raise UserError(f"the plugin for {platform}, {given}, is not a file")
        known = [p for p in installed(platform) if p.path == path.resolve()]
        return known[0] if known else Plugin(platform, path.resolve())
    found = installed(platform)
    if not found:
        names = " or ".join(package for package, _ in _PACKAGES.get(platform, ())) or "a PJRT plugin"
        raise UserError(
            f"no plugin for {platform} is installed to verify its programs with: install {names}, name one with "
            f"plugins={{{platform}:PATH}}, or ship them unverified with unverified=[{platform}]"
        )
    return found[0]
