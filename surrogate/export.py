"""``python -m surrogate.export run=runs/climate/latest out=climate.sg``: a Bundle for C, C++, Fortran and Python.

Usage: python -m surrogate.export run=DIRECTORY out=DIRECTORY.sg [option=value ...]

  platforms=[cpu]        where it shall run: cpu, cuda, tpu, rocm
  batches=[1,8,64]       of fields: samples in a program; callers may use any number
  steps=[1]              1 is one time step; [1,10] adds ten in one call
  capacities=[64x48]     of a potential: atoms x neighbors of one atom, for each program; chosen by default
  plugins={cpu:PATH}     the PJRT plugin that serves a platform; an installed one by default
  unverified=[cuda]      platforms that this machine cannot run, shipped without having been checked
  tolerance=1e-6         largest difference from jax.jit, relative to an output's largest magnitude

Every program is run on golden samples by the plugin that will serve it before anything is published.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def main() -> None:
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

    def export(directory, experiment, options):
        import sys

        from surrogate.domains.base import find_domain
        from surrogate.exporting import export_bundle
        from surrogate.run.surrogate_files import load

        if not options.get("out"):
            raise UserError("where to? give out=NAME.sg")
        pairs = [w.partition(":") for w in options.get("plugins", "").strip("{}").split(",") if w.strip()]
        given = {
            "platforms": words(options.get("platforms", "cpu"), "platforms"),
            "batches": words(options.get("batches", "1,8,64"), "batches", int),
            "steps": words(options.get("steps", "1"), "steps", int),
            "capacities": words(options.get("capacities", ""), "capacities", capacity),
            "unverified": words(options.get("unverified", ""), "unverified"),
            "plugins": {name.strip(): path.strip() for name, _, path in pairs},
            "tolerance": words(options.get("tolerance", "1e-6"), "tolerance", float)[0],
        }
        surrogate = load(directory, domain=find_domain(experiment.domain))
        out = export_bundle(surrogate, options["out"], **given, say=lambda text: print(text, file=sys.stderr))
        print(f"{out} is ready; {out}/surrogate.h says how to call it from C, {out}/surrogate.f90 from Fortran")
        return 0

    names = ("out", "platforms", "batches", "steps", "capacities", "plugins", "unverified", "tolerance")
    run_on_directory(export, options=names, usage=__doc__ or "")


if __name__ == "__main__":
    main()
