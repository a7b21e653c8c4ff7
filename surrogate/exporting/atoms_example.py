"""The example that a potential's Bundle carries: molecular dynamics of a small crystal in Fortran."""

from __future__ import annotations

import math
from typing import Any

from surrogate.exporting.example import BUILD

_SOURCE = """! Molecular dynamics with the potential {name!r}: 50 steps of velocity Verlet, at constant energy.
{build}
program example
  use, intrinsic :: iso_fortran_env, only: real64
  use surrogate
  use surrogate_atoms
  implicit none
  integer, parameter :: side = {side}, n = side**3
  real(real64), parameter :: spacing = {spacing:.6f}_real64 ! angstrom
  real(real64), parameter :: step = 1.0_real64 ! fs
  real(real64), parameter :: mass = 50.0_real64 / 9.648533212331e-3_real64 ! 50 u in eV fs^2 / angstrom^2
  type(surrogate_bundle) :: bundle
  type(surrogate_potential) :: potential
  character(1000) :: directory
  integer :: numbers(n), species({species}), i, k
  real(real64) :: r(3, n), v(3, n), f(3, n), cell(3, 3), stress(3, 3), energy, kinetic

  directory = '.'
  if (command_argument_count() > 0) call get_command_argument(1, directory)
  call bundle%open(directory)                       ! once, never in the time loop
  call potential%create(bundle)

  species = potential%species()
  cell = 0
  do k = 1, 3
    cell(k, k) = side*spacing
  end do
  do i = 1, n ! a simple cubic lattice, in which each atom is a little off its site
    numbers(i) = species(1 + modulo(i, size(species)))
    r(:, i) = spacing*[modulo(i - 1, side), modulo((i - 1)/side, side), (i - 1)/side**2]
    r(:, i) = r(:, i) + 0.05_real64*[sin(1.7_real64*i), cos(2.3_real64*i), sin(3.1_real64*i)]
  end do
  v = 0

  call potential%compute(r, numbers, energy, f, cell=cell, stress=stress)
  do k = 0, 50
    if (k > 0) then
      v = v + 0.5_real64*step*f/mass
      r = r + step*v
      call potential%compute(r, numbers, energy, f, cell=cell, stress=stress)
      v = v + 0.5_real64*step*f/mass
    end if
    kinetic = 0.5_real64*mass*sum(v**2)
    if (modulo(k, 10) == 0) print '(a,i4,a,f16.6,a,f16.6,a,es12.4)', 'step ', k, '  potential energy ', energy, &
      ' eV  total ', energy + kinetic, ' eV  pressure eV/angstrom^3 ', -(stress(1, 1) + stress(2, 2) + stress(3, 3))/3
  end do
  call potential%destroy()
  call bundle%close()
end program example
"""


def atoms_example(record: dict[str, Any], bundle: str) -> str:
    """Source of ``example.f90`` for a potential, whose manifest entry is ``record``: a system that its ladder holds."""
    largest = max(rung["atoms"] for rung in record["rungs"])
    slots = min(rung["neighbors"] for rung in record["rungs"])
    side = min(3, max(1, math.floor(largest ** (1 / 3) + 1e-9)))
    # A spacing at which a site has no more than two thirds of the neighbors that there are slots for.
    spacing = record["cutoff"] * (4 * math.pi / 3 / (2 * slots / 3)) ** (1 / 3)
    build = BUILD.format(modules="surrogate.f90 surrogate_atoms.f90")
    return _SOURCE.format(name=bundle, build=build, side=side, spacing=spacing, species=len(record["species"]))
