! atoms_caller BUNDLE: eight atoms in a skewed cell, and the mistakes that a caller makes.
program atoms_caller
  use, intrinsic :: iso_fortran_env, only: real64
  use surrogate
  use surrogate_atoms
  implicit none
  integer, parameter :: n = 8
  type(surrogate_bundle) :: bundle
  type(surrogate_potential) :: potential, none
  character(1000) :: directory
  character(400) :: message
  real(real64) :: r(3, n), f(3, n), e(n), cell(3, 3), stress(3, 3), virial(3, 3), energy, small(3, 2)
  integer :: numbers(n), i, stat

  call get_command_argument(1, directory)
  call bundle%open(directory)
  call potential%create(bundle)
  print '(a,f8.4,i3,2i4)', 'info ', potential%cutoff(), potential%layers(), potential%species()
  cell = reshape([5.5_real64, 0.0_real64, 0.0_real64, 0.7_real64, 5.4_real64, 0.0_real64, -0.4_real64, 0.9_real64, &
    5.7_real64], [3, 3]) ! one vector after another
  do i = 1, n
    numbers(i) = merge(13, 29, modulo(i, 3) == 0)
    r(:, i) = matmul(cell, 0.5_real64*[modulo(i - 1, 2), modulo((i - 1)/2, 2), (i - 1)/4])
    r(:, i) = r(:, i) + 0.2_real64*[sin(1.7_real64*i), cos(2.3_real64*i), sin(3.1_real64*i)]
  end do
  call potential%compute(r, numbers, energy, f, cell=cell, stress=stress, virial=virial, atom_energies=e)
  print '(a,*(es25.16))', 'energy ', energy
  print '(a,*(es25.16))', 'forces ', f
  print '(a,*(es25.16))', 'stress ', stress
  print '(a,*(es25.16))', 'virial ', virial
  print '(a,*(es25.16))', 'atom_energies ', e
  call potential%compute(r, numbers, energy, f(:, n:1:-1), cell=cell, pbc=[.true., .false., .true.])
  print '(a,*(es25.16))', 'slab_energy ', energy
  print '(a,*(es25.16))', 'slab_forces ', f
  call potential%compute(r, numbers, energy, atom_energies=e(:n - 2), ghosts=2)
  print '(a,*(es25.16))', 'ghost_energy ', energy

  call none%compute(r, numbers, energy, stat=stat, errmsg=message)
  print '(a,i2,1x,a)', 'none ', stat, trim(message)
  call potential%compute(r, numbers(:3), energy, stat=stat, errmsg=message)
  print '(a,i2,1x,a)', 'shape ', stat, trim(message)
  call potential%compute(r, numbers, energy, small, stat=stat, errmsg=message)
  print '(a,i2,1x,a)', 'forces_shape ', stat, trim(message)
  numbers(2) = 1
  call potential%compute(r, numbers, energy, stat=stat, errmsg=message)
  print '(a,i2,1x,a)', 'species ', stat, trim(message)
  call potential%create(bundle, stat, message)
  print '(a,i2,1x,a)', 'twice ', stat, trim(message)
  call potential%destroy()
  call potential%destroy()
  call bundle%close()
end program atoms_caller
