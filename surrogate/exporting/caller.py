"""Python callers of a Bundle: arrays in, arrays out, with JAX alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from surrogate.core.types import Array, UserError
from surrogate.exporting.files import FORMAT, KIND, unpack
from surrogate.exporting.function import compare
from surrogate.run.artefact import read_artefact


class Bundle:
    """A Bundle opened in Python. Every hash was verified; nothing it names was imported or run.

    Attributes:
        manifest: names, units, shapes, versions and provenance.
        functions: what can be called, the first being the one that ``bundle(...)`` calls.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        self.directory, self.manifest, self._files = directory, manifest, files
        self._entries = {entry["name"]: entry for entry in manifest["functions"]}
        self.functions = tuple(self._entries)
        self._compiled: dict[str, Any] = {}
        self._parameters: dict[str, jax.Array] = {
            name: jax.device_put(value)
            for name, value in unpack(files["parameters.bin"], manifest["parameters"], "parameters.bin").items()
        }

    def __repr__(self) -> str:
        return f"Bundle({self.manifest['name']!r}: {', '.join(self.functions)})"

    def inputs(self, function: str = "") -> list[dict[str, Any]]:
        """Name, units, dims and shape (C order, samples first) of each input."""
        return self._entry(function)["inputs"]

    def outputs(self, function: str = "") -> list[dict[str, Any]]:
        """As :meth:`inputs`."""
        return self._entry(function)["outputs"]

    def __call__(self, inputs: Mapping[str, Array], function: str = "") -> dict[str, jax.Array]:
        """Run a function on any number of samples.

        Args:
            inputs: name → (samples, *shape) in the units of :meth:`inputs`.
            function: one of :attr:`functions`; the first where left out.

        Raises:
            UserError: for inputs that are missing, unknown or of another shape.
        """
        entry = self._entry(function)
        names = [a["name"] for a in entry["inputs"]]
        if extra := sorted(set(inputs) - set(names)):
            raise UserError(f"{entry['name']} has no input {extra[0]!r}; it takes {', '.join(names)}")
        arrays, samples = [], None
        for argument in entry["inputs"]:
            name = argument["name"]
            if name not in inputs:
                raise UserError(f"{entry['name']} needs the input {name!r}, {argument['description']}")
            value, expected = inputs[name], tuple(argument["shape"])
            shape = np.shape(value)
            if shape[1:] != expected or not shape or (samples is not None and shape[0] != samples):
                first = "samples" if samples is None else samples
                dims = ", ".join(map(str, (first, *expected)))
                raise UserError(f"input {name!r} has shape {shape}, expected ({dims}): {_dims(argument)}")
            samples = shape[0]
            dtype = np.result_type(value)
            if not np.can_cast(dtype, argument["dtype"], "same_kind"):
                raise UserError(f"input {name!r} is {dtype}, expected {argument['dtype']}")
            arrays.append(jnp.asarray(value, argument["dtype"]))
        parameters = tuple(self._parameters[p] for p in entry["parameters"])
        program, size = self._program(entry), 1 if entry.get("single") else max(samples or 0, 1)
        if size >= (samples or 0):
            outputs = program(parameters, tuple(arrays))
        else:
            pieces = [program(parameters, tuple(x[i : i + size] for x in arrays)) for i in range(samples or 0)]
            outputs = [jnp.concatenate(values) for values in zip(*pieces, strict=True)]
        return {a["name"]: value for a, value in zip(entry["outputs"], outputs, strict=True)}

    def check(self) -> None:
        """Compare every function with its golden samples on this machine.

        Raises:
            UserError: naming the output that differs, and by how much.
        """
        for name in self._entries:
            self.check_function(name)

    def check_function(self, name: str) -> None:
        """As :meth:`check`, of one function."""
        golden = unpack(self._files["golden.bin"], self.manifest["golden"], "golden.bin")
        entry = self._entries[name]
        inputs = {a["name"]: golden[f"{name}/input/{a['name']}"] for a in entry["inputs"]}
        outputs = self(inputs, name)
        for argument in entry["outputs"]:
            expected = golden[f"{name}/output/{argument['name']}"]
            error, limit = compare(argument, expected, np.asarray(outputs[argument["name"]]))
            if not error <= limit:
                raise UserError(
                    f"{self.directory}: {name} computes {argument['name']!r} wrongly on this machine: "
                    f"it differs by {error:.3g} {argument['units']} from the golden vector, {limit:.3g} allowed"
                )

    def _entry(self, function: str) -> dict[str, Any]:
        name = function or self.functions[0]
        if name not in self._entries:
            raise UserError(f"{self.directory} has no function {name!r}; there are {', '.join(self.functions)}")
        return self._entries[name]

    def _program(self, entry: dict[str, Any]) -> Any:
        name = entry["name"]
        if name not in self._compiled:
            try:
                exported = export.deserialize(bytearray(self._files[entry["python"]]))
            except ImportError as error:  # JAX reads these bytes by a package that it does not require
                raise UserError(f"{self.directory}: {error}") from error
            self._compiled[name] = jax.jit(exported.call)
        return self._compiled[name]


def _dims(argument: dict[str, Any]) -> str:
    return " × ".join(argument["c_dims"])


def open_bundle(path: str | Path, *, check: bool = True) -> Bundle:
    """Open a Bundle for Python: JAX and NumPy are all it needs.

    Every hash is verified before anything is parsed. A hash tells damage, not authorship: open Bundles
    of people you trust.

    Args:
        check: compare with the golden samples at once, which compiles the functions.

    Raises:
        UserError: for files that are missing, extra, damaged or not those of a Bundle, and results that differ.
    """
    directory = Path(path).expanduser()
    if not directory.is_dir():
        raise UserError(f"{directory} is not a Bundle: it is not a directory")
    manifest, files = read_artefact(directory)
    if manifest.get("kind") != KIND or manifest.get("format") != FORMAT:
        raise UserError(
            f"{directory} holds {manifest.get('kind')!r} of format {manifest.get('format')!r}; "
            f"this version opens Bundles of format {FORMAT}"
        )
    bundle: Bundle
    if "atoms" in manifest:
        from surrogate.exporting.atoms_caller import AtomsBundle

        bundle = AtomsBundle(directory, manifest, files)
    else:
        bundle = Bundle(directory, manifest, files)
    if check:
        bundle.check()
    return bundle
