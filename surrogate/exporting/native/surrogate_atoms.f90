! Module surrogate_atoms: energies and forces of atoms by an exported potential, from Fortran.
!
!     use surrogate
!     use surrogate_atoms
!     type(surrogate_bundle)    :: bundle
!     type(surrogate_potential) :: potential
!     real(real64) :: energy, r(3, n), f(3, n), cell(3, 3), stress(3, 3)
!
!     call bundle%open('alloy.sg')                     ! once: verifies, compiles, tests itself
!     call potential%create(bundle)
!     do while (running)                               ! the time loop
!       call potential%compute(r, numbers, energy, f, cell=cell, stress=stress)
!     end do
!     call potential%destroy()
!     call bundle%close()
!
! Build: compile surrogate.f90, then this file, and link with -lsurrogate.
!
! Arrays   real64, any stride. r(:, i) is the position of atom i in angstrom, anywhere. cell(:, k) is the k-th cell vector
!          (a column: the array that C and Python call the cell is the transpose of the same memory).
!          numbers are atomic numbers.
! Units    Energies in eV, forces in eV/angstrom, stress in eV/angstrom^3 with tension positive.
! Ghosts   With ghosts=g the last g atoms of r and numbers are copies of atoms of other processes, whose energies do not
!          count; the forces on them belong to their owners. See "Ghosts" in surrogate.h.
! Errors   stat= and errmsg= as in the module surrogate; without stat= an error stops the program.
module surrogate_atoms
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: error_unit, int32, int64, real64
  use surrogate, only: surrogate_bundle, surrogate_ok, surrogate_invalid
  implicit none
  private

  public :: surrogate_potential

  !> The potential of a bundle, ready to be called by one thread.
  type :: surrogate_potential
    private
    type(c_ptr) :: handle = c_null_ptr
  contains
    procedure :: create => potential_create
    procedure :: destroy => potential_destroy
    procedure :: compute => potential_compute
    procedure :: cutoff => potential_cutoff     !< angstrom
    procedure :: layers => potential_layers     !< an atom's energy depends on those within layers * cutoff
    procedure :: species => potential_species   !< atomic numbers, ascending
  end type surrogate_potential

  type, bind(C) :: c_info
    integer(c_size_t) :: struct_size
    type(c_ptr) :: function
    real(c_double) :: cutoff
    integer(c_int) :: layers, num_species
    type(c_ptr) :: species, reference_energies
    integer(c_int) :: num_capacities
    type(c_ptr) :: max_atoms, max_neighbors
  end type c_info

  type, bind(C) :: c_system
    integer(c_size_t) :: struct_size
    integer(c_int64_t) :: num_atoms
    type(c_ptr) :: positions, numbers, cell
    integer(c_int) :: pbc(3)
    integer(c_int64_t) :: num_ghosts
    type(c_ptr) :: owners
    integer(c_int64_t) :: num_lists
    type(c_ptr) :: num_neighbors, neighbors
  end type c_system

  type, bind(C) :: c_energies
    integer(c_size_t) :: struct_size
    real(c_double) :: energy, virial(9), stress(9)
    integer(c_int64_t) :: used_atoms, used_neighbors
    integer(c_int) :: capacity
    type(c_ptr) :: forces, atom_energies, atom_virials
  end type c_energies

  interface
    function c_create(model, result) bind(C, name='surrogate_atoms_create') result(status)
      import :: c_int, c_ptr
      type(c_ptr), value :: model
      type(c_ptr), intent(out) :: result
      integer(c_int) :: status
    end function c_create
    function c_destroy(atoms) bind(C, name='surrogate_atoms_destroy') result(status)
      import :: c_int, c_ptr
      type(c_ptr), value :: atoms
      integer(c_int) :: status
    end function c_destroy
    function c_describe(atoms, result) bind(C, name='surrogate_atoms_describe') result(status)
      import :: c_int, c_ptr, c_info
      type(c_ptr), value :: atoms
      type(c_info), intent(inout) :: result
      integer(c_int) :: status
    end function c_describe
    function c_run(atoms, system, result) bind(C, name='surrogate_atoms_run') result(status)
      import :: c_int, c_ptr, c_system, c_energies
      type(c_ptr), value :: atoms
      type(c_system), intent(in) :: system
      type(c_energies), intent(inout) :: result
      integer(c_int) :: status
    end function c_run
    function c_last_error() bind(C, name='surrogate_last_error') result(text)
      import :: c_ptr
      type(c_ptr) :: text
    end function c_last_error
    function c_strlen(text) bind(C, name='strlen') result(size)
      import :: c_ptr, c_size_t
      type(c_ptr), value :: text
      integer(c_size_t) :: size
    end function c_strlen
  end interface

contains

  !> Hand status and sentence to the caller, or stop where the caller did not ask for them.
  subroutine report(status, sentence, stat, errmsg)
    integer, intent(in) :: status
    character(*), intent(in) :: sentence
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    if (present(stat)) stat = status
    if (status == surrogate_ok) return
    if (present(errmsg)) errmsg = sentence
    if (present(stat)) return
    write (error_unit, '(a)') 'surrogate: '//sentence
    error stop 1
  end subroutine report

  subroutine report_c(status, stat, errmsg)
    integer(c_int), intent(in) :: status
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    character(kind=c_char), pointer :: letters(:)
    character(:), allocatable :: text
    type(c_ptr) :: address
    integer :: i
    text = ''
    if (status /= surrogate_ok) then
      address = c_last_error()
      call c_f_pointer(address, letters, [c_strlen(address)])
      do i = 1, size(letters)
        text = text//letters(i)
      end do
    end if
    call report(int(status), text, stat, errmsg)
  end subroutine report_c

  !> Make the potential of an open bundle ready to be called.
  subroutine potential_create(this, bundle, stat, errmsg)
    class(surrogate_potential), intent(inout) :: this
    class(surrogate_bundle), intent(in) :: bundle
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    if (c_associated(this%handle)) then
      call report(surrogate_invalid, 'the potential is created already', stat, errmsg)
      return
    end if
    call report_c(c_create(bundle%c_handle(), this%handle), stat, errmsg)
  end subroutine potential_create

  !> Destroying twice is allowed.
  subroutine potential_destroy(this)
    class(surrogate_potential), intent(inout) :: this
    integer(c_int) :: status
    status = c_destroy(this%handle)
    this%handle = c_null_ptr
  end subroutine potential_destroy

  !> What the library says of the potential; all zero where none was created.
  function describe(this) result(info)
    class(surrogate_potential), intent(in) :: this
    type(c_info) :: info
    info = c_info(0, c_null_ptr, 0.0_c_double, 0, 0, c_null_ptr, c_null_ptr, 0, c_null_ptr, c_null_ptr)
    if (.not. c_associated(this%handle)) return
    info%struct_size = c_sizeof(info)
    if (c_describe(this%handle, info) /= surrogate_ok) error stop 'surrogate: a potential that cannot be described'
  end function describe

  real(real64) function potential_cutoff(this)
    class(surrogate_potential), intent(in) :: this
    type(c_info) :: info
    info = describe(this)
    potential_cutoff = info%cutoff
  end function potential_cutoff

  integer function potential_layers(this)
    class(surrogate_potential), intent(in) :: this
    type(c_info) :: info
    info = describe(this)
    potential_layers = info%layers
  end function potential_layers

  function potential_species(this) result(numbers)
    class(surrogate_potential), intent(in) :: this
    integer, allocatable :: numbers(:)
    integer(c_int32_t), pointer :: found(:)
    type(c_info) :: info
    info = describe(this)
    allocate (numbers(info%num_species))
    if (info%num_species == 0) return
    call c_f_pointer(info%species, found, [info%num_species])
    numbers = found
  end function potential_species

  !> Energy and forces of one system. pbc is all true where cell is given without it; stress is NaN unless all three
  !> directions are periodic; atom_energies has the atoms without the ghosts.
  subroutine potential_compute(this, positions, numbers, energy, forces, cell, pbc, stress, virial, atom_energies, &
      ghosts, stat, errmsg)
    class(surrogate_potential), intent(inout) :: this
    real(real64), intent(in) :: positions(:, :)
    integer, intent(in) :: numbers(:)
    real(real64), intent(out) :: energy
    real(real64), intent(out), optional :: forces(:, :)
    real(real64), intent(in), optional :: cell(3, 3)
    logical, intent(in), optional :: pbc(3)
    real(real64), intent(out), optional :: stress(3, 3), virial(3, 3), atom_energies(:)
    integer, intent(in), optional :: ghosts
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_double), allocatable, target :: r(:, :), f(:, :), e(:), vectors(:, :)
    integer(c_int32_t), allocatable, target :: z(:)
    type(c_system) :: system
    type(c_energies) :: found
    integer(c_int) :: status
    integer :: all, count
    energy = 0
    all = size(numbers)
    count = all
    if (present(ghosts)) count = all - ghosts
    if (.not. c_associated(this%handle)) then
      call report(surrogate_invalid, 'the potential was not created', stat, errmsg)
      return
    else if (size(positions, 1) /= 3 .or. size(positions, 2) /= all) then
      call report(surrogate_invalid, 'positions must have the shape (3, size(numbers))', stat, errmsg)
      return
    else if (count < 0 .or. count > all) then
      call report(surrogate_invalid, 'ghosts must be a part of the atoms', stat, errmsg)
      return
    end if
    if (present(forces)) then
      if (size(forces, 1) /= 3 .or. size(forces, 2) /= all) then
        call report(surrogate_invalid, 'forces must have the shape (3, size(numbers))', stat, errmsg)
        return
      end if
    end if
    if (present(atom_energies)) then
      if (size(atom_energies) /= count) then
        call report(surrogate_invalid, 'atom_energies must have an element for each atom that is no ghost', stat, errmsg)
        return
      end if
    end if
    allocate (r(3, all), f(3, all), e(count), z(all), vectors(3, 3))
    r = positions
    z = int(numbers, c_int32_t)
    vectors = 0
    system = c_system(c_sizeof(system), count, c_loc(r), c_loc(z), c_null_ptr, [0, 0, 0], all - count, c_null_ptr, 0, &
      c_null_ptr, c_null_ptr)
    if (present(cell)) then
      vectors = cell
      system%cell = c_loc(vectors)
      if (count == all) system%pbc = 1
    end if
    if (present(pbc)) system%pbc = merge(1_c_int, 0_c_int, pbc)
    found%struct_size = c_sizeof(found)
    found%forces = c_loc(f)
    found%atom_energies = c_loc(e)
    found%atom_virials = c_null_ptr
    status = c_run(this%handle, system, found)
    if (status == surrogate_ok) then
      energy = found%energy
      if (present(forces)) forces = f
      if (present(stress)) stress = reshape(found%stress, [3, 3])
      if (present(virial)) virial = reshape(found%virial, [3, 3])
      if (present(atom_energies)) atom_energies = e
    end if
    call report_c(status, stat, errmsg)
  end subroutine potential_compute

end module surrogate_atoms
