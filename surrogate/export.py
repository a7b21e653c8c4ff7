"""``python -m surrogate.export run=runs/climate/latest out=climate.sg``: a Bundle for C, C++, Fortran and Python.

Usage: python -m surrogate.export run=DIRECTORY out=DIRECTORY.sg [option=value ...]
       python -m surrogate.export sign   bundle=DIRECTORY.sg key=PRIVATE.pem [signature=FILE]
       python -m surrogate.export verify bundle=DIRECTORY.sg key=PUBLIC.pem [signature=FILE]

  kind=field             a sample is a map; point: a sample is one column, as a parameterisation is called
  platforms=[cpu]        where it shall run: cpu, cuda, tpu, rocm
  batches=[1,8,64]       of fields: samples in a program; callers may use any number; of points [1,16,256,4096]
  steps=[1]              1 is one time step; [1,10] adds ten in one call
  capacities=[64x48]     of a potential: atoms x neighbors of one atom, for each program; chosen by default
  plugins={cpu:PATH}     the PJRT plugin that serves a platform; an installed one by default
  backends=[pjrt,onnx]   for PJRT plugins, for ONNX Runtime; both where possible by default
  runtime=PATH           libonnxruntime.so.1.*; that of the installed package by default
  unverified=[cuda]      platforms that this machine cannot run, shipped without having been checked
  tolerance=1e-6         largest difference from jax.jit, relative to an output's largest magnitude
  guard=0.999            the share of training samples that the guard lets pass by their distance
  guard_margin=0.1       by how much of its length the range of an input is widened on either side

Every program is run on golden samples by the plugin that will serve it before anything is published.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def main() -> None:
    import sys

    if sys.argv[1:2] in (["sign"], ["verify"]):
        from surrogate.exporting.signing import command

        sys.exit(command(sys.argv[1], sys.argv[2:]))
    from surrogate.cli import run_on_directory
    from surrogate.core.types import UserError

    def words(text: str, name: str, kind: Callable[[str], Any] = str) -> list:
        try:
            return [kind(w.strip()) for w in text.strip("[]").split(",") if w.strip()]
        except ValueError:
            example = "[64x48,512x64]" if name == "capacities" else "[1,8]"
            raise UserError(f"{name}={text} is not a list such as {example}") from None

    def capacity(word: str) -> tuple[int, int]:
        atoms, _, neighbors = word.partition("x")
        return int(atoms), int(neighbors)

    def number(text: str, name: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise UserError(f"{name}={text} is not a number") from None

    def export(directory, experiment, options):
        from surrogate.domains.base import find_domain
        from surrogate.exporting import export_bundle
        from surrogate.run.surrogate_files import load

        if not options.get("out"):
            raise UserError("where to? give out=NAME.sg")
        pairs = [w.partition(":") for w in options.get("plugins", "").strip("{}").split(",") if w.strip()]
        given = {
            "platforms": words(options.get("platforms", "cpu"), "platforms"),
            "kind": options.get("kind", "field"),
            "batches": words(options["batches"], "batches", int) if "batches" in options else None,
            "steps": words(options.get("steps", "1"), "steps", int),
            "capacities": words(options.get("capacities", ""), "capacities", capacity),
            "unverified": words(options.get("unverified", ""), "unverified"),
            "backends": words(options["backends"], "backends") if options.get("backends") else None,
            "runtime": options.get("runtime", ""),
            "plugins": {name.strip(): path.strip() for name, _, path in pairs},
            "tolerance": number(options.get("tolerance", "1e-6"), "tolerance"),
            "guard": number(options.get("guard", "0.999"), "guard"),
            "guard_margin": number(options.get("guard_margin", "0.1"), "guard_margin"),
        }
        surrogate = load(directory, domain=find_domain(experiment.domain))
        out = export_bundle(surrogate, options["out"], **given, say=lambda text: print(text, file=sys.stderr))
        print(f"{out} is ready; {out}/surrogate.h says how to call it from C, {out}/surrogate.f90 from Fortran")
        return 0

    names = (
        "out", "kind", "platforms", "batches", "steps", "capacities", "plugins", "backends", "runtime", "unverified",
        "tolerance", "guard", "guard_margin",
    )  # fmt: skip
    run_on_directory(export, options=names, usage=__doc__ or "")


if __name__ == "__main__":
    main()
