"""The example that a Bundle carries: a Fortran time loop with the Bundle's own names, shapes and units."""

from __future__ import annotations

import re

import numpy as np

from surrogate.exporting.function import Argument, Function

# How to build an example, as a comment in it.
BUILD = """! Build in a copy (cp -r NAME.sg build; cd build): an open Bundle refuses files that its manifest does not name.
!
!   cc -std=c11 -O2 -fPIC -fvisibility=hidden -shared -o libsurrogate.so \\
!      surrogate.c sg_atoms.c sg_bundle.c sg_json.c sg_neighbors.c sg_pjrt.c sg_plugin.c sg_sha256.c -ldl -lpthread
!   gfortran -o example {modules} example.f90 -L. -lsurrogate -Wl,-rpath,.
!   SURROGATE_PLUGIN=/path/to/plugin.so ./example ../NAME.sg
!"""
_HEAD = """! A time loop that calls the surrogate {name!r}: names, shapes and units are those of this Bundle.
{build}
! Dimensions are in Fortran order, the first the fastest. The fields here are constant, the mean of two training
! samples: put those of your model in their place.
program example
  use, intrinsic :: iso_fortran_env, only: int32, real32
  use surrogate
  implicit none
  type(surrogate_bundle) :: model
  type(surrogate_function) :: advance
  character(1000) :: directory
  integer :: n
"""


def _identifier(name: str) -> str:
    """A Fortran name for an argument: at most 50 characters that begin with a letter."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:48]
    return plain if plain[:1].isalpha() else f"v_{plain}"


def _identifiers(arguments: tuple[Argument, ...], ending: str) -> list[str]:
    found: list[str] = []
    for argument in arguments:
        name = f"{_identifier(argument.name)}_{ending}"
        # Fortran does not tell cases apart.
        taken = {f.lower() for f in found}
        found.append(name if name.lower() not in taken else f"{name}{len(found)}")
    return found


def _declare(argument: Argument, name: str) -> str:
    kind = "real(real32)" if argument.dtype == "float32" else "integer(int32)"
    shape = f"({', '.join(str(n) for n in reversed(argument.shape))})" if argument.shape else ""
    meaning = ", ".join(reversed(argument.dims)) or "one number"
    return f"  {kind} :: {name}{shape} ! {meaning}; {argument.units}"


def fortran_example(function: Function, bundle: str) -> str:
    """Source of ``example.f90``: three calls of ``function``, what it predicts being handed to it again."""
    inputs, outputs = _identifiers(function.inputs, "in"), _identifiers(function.outputs, "out")
    lines = [_HEAD.format(name=bundle, build=BUILD.format(modules="surrogate.f90")).rstrip()]
    lines += [_declare(a, n) for a, n in zip(function.inputs, inputs, strict=True)]
    lines += [_declare(a, n) for a, n in zip(function.outputs, outputs, strict=True)]
    lines += ["", "  directory = '.'", "  if (command_argument_count() > 0) call get_command_argument(1, directory)"]
    for argument, name in zip(function.inputs, inputs, strict=True):
        values = function.golden[argument.name]
        if argument.role == "time":
            lines.append(f"  {name} = [{', '.join(str(int(v)) for v in values[0])}] ! {argument.description}")
        else:
            lines.append(f"  {name} = {float(np.nanmean(values)):.6e} ! {argument.description}")
    lines += ["", "  call model%open(directory)                 ! once, never in the time loop"]
    lines += [f"  call advance%create(model, '{function.name}')", "  do n = 1, 3"]
    quoted = [(a, n, a.name.replace("'", "''")) for a, n in zip(function.inputs, inputs, strict=True)]
    lines += [f"    call advance%set('{key}', {name})" for _, name, key in quoted]
    lines.append("    call advance%run()")
    lines += [
        "    call advance%get('{}', {})".format(a.name.replace("'", "''"), n)
        for a, n in zip(function.outputs, outputs, strict=True)
    ]
    given = {a.name: (a, n) for a, n in zip(function.inputs, inputs, strict=True)}
    for argument, name in zip(function.outputs, outputs, strict=True):
        if argument.name in given and argument.role == "prognostic":
            lines += _feed(*given[argument.name], argument, name, function.steps)
    if any(a.role == "time" for a in function.inputs):
        lines.append("    ! Here your model's clock moves on, and the date with it; so do the forcings.")
    lines.append("  end do")
    for argument, name in zip(function.outputs, outputs, strict=True):
        key = argument.name.replace("'", "''")
        lines.append(f"  print *, '{key}: ', minval({name}), ' to ', maxval({name})")
    lines += ["  call advance%destroy()", "  call model%close()", "end program example", ""]
    return "\n".join(lines)


def _feed(given: Argument, into: str, output: Argument, name: str, steps: int) -> list[str]:
    """The newest prediction becomes the present state; older states move on."""
    rank = len(output.shape) - (1 if steps > 1 else 0)
    colons = ", ".join([":"] * rank)
    newest = f"{name}({colons}, {steps})" if steps > 1 else name
    if "history" not in given.dims:
        return [f"    {into} = {newest}"]
    history = given.shape[0]
    return [
        f"    {into}({colons}, :{history - 1}) = {into}({colons}, 2:)",
        f"    {into}({colons}, {history}) = {newest}",
    ]
