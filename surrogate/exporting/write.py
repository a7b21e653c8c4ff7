"""Exporting a Surrogate: lower, run on the golden samples by what will serve it, and only then publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
import secrets
import shutil
from typing import Any

import jax
import jaxlib
import numpy as np

from surrogate.core.types import UserError
from surrogate.data.normalize import describe
from surrogate.domains.atoms_surrogate import AtomsSurrogate
from surrogate.domains.fields_surrogate import FieldSurrogate
from surrogate.exporting import native, stablehlo
from surrogate.exporting.atoms import atoms_functions, golden_structures
from surrogate.exporting.atoms_example import atoms_example
from surrogate.exporting.caller import Bundle
from surrogate.exporting.example import fortran_example
from surrogate.exporting.fields import field_functions
from surrogate.exporting.files import ABI, FORMAT, KIND, pack
from surrogate.exporting.function import Function, tolerances
from surrogate.exporting.plugins import Plugin, find_plugin
from surrogate.run.artefact import MANIFEST, read_artefact, unseal, write_artefact
from surrogate.run.surrogate_files import decode_netcdf

MISSING = (
    "A point that has no value in the training data (land for an ocean variable) is ignored in inputs, whatever it "
    "holds, and is NaN in outputs. A NaN at any other point, or a date that does not exist, makes the outputs NaN."
)


def export_bundle(
    surrogate: Any,
    out: str | Path,
    *,
    platforms: Sequence[str] = ("cpu",),
    batches: Sequence[int] = (1, 8, 64),
    steps: Sequence[int] = (1,),
    capacities: Sequence[tuple[int, int]] = (),
    plugins: Mapping[str, str] | None = None,
    unverified: Sequence[str] = (),
    tolerance: float = 1e-6,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write a Bundle of a trained surrogate, whole or not at all.

    Args:
        surrogate: what ``surrogate.load`` gives, of gridded fields or of atoms.
        out: the directory, ``climate.sg``; an earlier Bundle there is replaced.
        platforms: of ``cpu``, ``cuda``, ``tpu``, ``rocm``.
        batches: of fields: numbers of samples for which programs are made; callers may use any number.
        steps: of fields: ``1`` is the function ``step``; k is ``steps<k>``, k time steps in one call.
        capacities: of atoms: (atoms, neighbors of one atom at most) for which programs are made; a system takes
            the first that holds it. See :func:`surrogate.exporting.atoms.default_capacities`.
        plugins: platform → path of the PJRT plugin that will serve it; an installed one by default.
        unverified: platforms that this machine cannot run, to be shipped as they are; the library still
            checks them against the golden samples when it opens the Bundle.
        tolerance: largest difference from ``jax.jit`` in float32, relative to the largest magnitude of an
            output (see :func:`surrogate.exporting.function.tolerances`).
        say: is told of progress.

    Raises:
        UserError: naming the target that cannot be lowered or compiled, or misses its tolerance.
    """
    out = Path(out).expanduser()
    _check(platforms, batches, unverified, tolerance, plugins or {})
    _check_replaceable(out)
    served = {p: find_plugin(p, (plugins or {}).get(p, "")) for p in platforms if p not in unverified}
    functions, batches, facts = _functions(surrogate, steps, batches, capacities)
    files: dict[str, bytes] = {name: (native.HERE / name).read_bytes() for name in native.SOURCES}
    entries: list[dict[str, Any]] = []
    golden: dict[str, np.ndarray] = {}
    parameters: dict[str, np.ndarray] = {}
    for function in functions:
        say(f"lowering {function.name} for {', '.join(platforms)}, samples {', '.join(map(str, batches))}")
        entry = _entry(function, files, platforms, batches)
        parameters |= function.parameters
        expected = stablehlo.reference(function)
        for argument, values in zip(function.outputs, entry["outputs"], strict=True):
            values["tolerance"], values["block"] = tolerances(
                argument, expected[argument.name], tolerance, function.steps
            )
        golden |= {f"{function.name}/input/{name}": value for name, value in function.golden.items()}
        golden |= {f"{function.name}/output/{name}": value for name, value in expected.items()}
        entries.append(entry)
    name = surrogate.manifest["name"]
    example = atoms_example(facts["atoms"], name) if "atoms" in facts else fortran_example(functions[0], name)
    files["example.f90"] = example.encode()
    files["parameters.bin"], parameter_table = pack(parameters)
    files["golden.bin"], golden_table = pack(golden)
    manifest = {
        "kind": KIND, "format": FORMAT, "abi": ABI, "name": name, **facts,
        "functions": entries, "parameters": parameter_table, "golden": golden_table,
        "relative_tolerance": tolerance, "plugins": {},
        "versions": {
            "surrogate": metadata.version("surrogate"), "jax": jax.__version__, "jaxlib": jaxlib.__version__,
            "stablehlo": stablehlo.version(),
        },
        "surrogate": {
            "domain": surrogate.manifest["domain"], "model": surrogate.manifest["model"],
            "digest": surrogate.manifest.get("digest", ""),
        },
    }  # fmt: skip
    _verify_python(out, manifest, files, say)
    manifest["plugins"] = _verify_native(out, manifest, files, served, say)
    write_artefact(out, files, manifest)
    return out


def _check(
    platforms: Sequence[str], batches: Sequence[int], unverified: Sequence[str], tolerance: float, plugins: Mapping
) -> None:
    for platform in (*platforms, *unverified, *plugins):
        if platform not in stablehlo.PLATFORMS:
            raise UserError(f"platform {platform!r} is not one of {', '.join(stablehlo.PLATFORMS)}")
    for name, chosen in (("unverified", unverified), ("plugins", plugins)):
        if stray := set(chosen) - set(platforms):
            raise UserError(f"{name} names {sorted(stray)[0]!r}, which is not among platforms={list(platforms)}")
    if not platforms or len(set(platforms)) != len(platforms):
        raise UserError(f"platforms={list(platforms)} must be different names, at least one")
    if not batches or min(batches) < 1 or len(set(batches)) != len(batches):
        raise UserError(f"batches={list(batches)} must be different whole numbers from 1, at least one")
    if not 0 < tolerance < 1:
        raise UserError(f"tolerance={tolerance} must lie between 0 and 1")


def _check_replaceable(out: Path) -> None:
    """Refuse, before minutes of work, to put a Bundle where anything but an earlier Bundle is."""
    if not out.exists() and not out.is_symlink():
        return
    file = out / MANIFEST
    empty = out.is_dir() and not any(out.iterdir())
    if not empty and not (file.is_file() and unseal(file.read_bytes(), str(file)).get("kind") == KIND):
        raise UserError(f"{out} is there already and is not a Bundle: give another name")


def _functions(
    surrogate: Any, steps: Sequence[int], batches: Sequence[int], capacities: Sequence[tuple[int, int]]
) -> tuple[Sequence[Function], Sequence[int], dict[str, Any]]:
    """Functions, numbers of samples of their programs, and the facts of the manifest that belong to the domain."""
    if isinstance(surrogate, AtomsSurrogate):
        if tuple(steps) != (1,):
            raise UserError("steps= is for surrogates that advance a state; this one gives energies of atoms")
        if surrogate.meaning.target != "energy":
            raise UserError(
                f"the surrogate gives the property {surrogate.meaning.target!r}; of atoms only potentials have an exported form"
            )
        structures = golden_structures(surrogate.geometry, _golden(surrogate))
        found = atoms_functions(
            surrogate.geometry, surrogate.graphdef, surrogate.params, capacities, structures, surrogate.members
        )
        return found.functions, (1,), {"atoms": found.record}
    if not isinstance(surrogate, FieldSurrogate):
        raise UserError(
            f"surrogates of the kind {type(surrogate).__name__} have no exported form yet; gridded fields and atoms have"
        )
    if capacities:
        raise UserError("capacities= is for surrogates of atoms; this one is of gridded fields")
    functions = field_functions(surrogate, _golden(surrogate), steps)
    return functions, batches, {
        "grid": surrogate.spec.to_dict()["grid"], "time_step": str(surrogate.spec.time_step),
        "calendar": surrogate.spec.calendar, "normalisation": describe(surrogate.frame.normalizer), "missing": MISSING,
    }  # fmt: skip


def _golden(surrogate: Any) -> dict[str, np.ndarray]:
    if surrogate.directory is None:
        raise UserError("the surrogate has no directory: export what surrogate.load read")
    return decode_netcdf(read_artefact(surrogate.directory)[1]["golden.nc"])


def _entry(
    function: Function, files: dict[str, bytes], platforms: Sequence[str], batches: Sequence[int]
) -> dict[str, Any]:
    """The manifest's entry of a function; its programs are added to ``files``."""
    programs = []
    for platform in platforms:
        for batch in sorted(batches):
            name = f"{function.name}.{platform}.{batch}.mlir"
            files[name] = stablehlo.lower(function, platform, batch)
            programs.append({"platform": platform, "batch": batch, "backend": "pjrt", "file": name})
    files[f"{function.name}.jax"] = stablehlo.symbolic(function, platforms)
    return {
        "name": function.name, "steps": function.steps,
        "inputs": [a.to_dict() for a in function.inputs], "outputs": [a.to_dict() for a in function.outputs],
        "parameters": list(function.parameters), "programs": programs, "python": f"{function.name}.jax",
        "golden_samples": len(next(iter(function.golden.values()))), "single": function.single,
    }  # fmt: skip


def _verify_python(out: Path, manifest: dict[str, Any], files: dict[str, bytes], say: Callable[[str], None]) -> None:
    say("checking python on the golden samples")
    try:
        Bundle(out, manifest, files).check()
    except UserError as error:
        raise UserError(f"target python: {error}") from error


def _verify_native(
    out: Path,
    manifest: dict[str, Any],
    files: dict[str, bytes],
    served: Mapping[str, Plugin],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run every program by the library and the plugin that will serve it; the manifest's records of the plugins."""
    records: dict[str, Any] = {}
    trial = out.with_name(f".{out.name}.{secrets.token_hex(4)}.trial")
    try:
        for platform, plugin in served.items():
            say(f"checking {platform} on the golden samples by {plugin.path.name} {plugin.version}".rstrip())
            records[platform] = plugin.record()
            write_artefact(trial, files, {**manifest, "plugins": records})
            try:
                found = native.check(trial, platform, plugin.path)
            except UserError as error:
                text = str(error).replace(str(trial), str(out))
                raise UserError(f"target {platform} ({plugin.path.name}): {text}") from error
            records[platform] |= {"pjrt": found.pop("pjrt"), "errors": found}
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return records
