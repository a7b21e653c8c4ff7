! climate BUNDLE STATES MEMBERS STEPS FORECAST: an ensemble forecast by an exported surrogate; see README.md.
! With MPI every rank steps its own members.
program climate
  use, intrinsic :: iso_fortran_env, only: int64, real32, error_unit
  use surrogate
#ifdef USE_MPI
  use mpi
#endif
  implicit none
  type(surrogate_bundle) :: model
  type(surrogate_function) :: advance
  ! Dimensions are in Fortran order, the members last.
  real(real32), allocatable :: temperature(:, :, :, :), u(:, :, :, :), v(:, :, :, :)
  real(real32), allocatable :: surface_pressure(:, :, :), z500(:, :, :)
  character(1000) :: bundle, states, forecast, word
  integer :: extent(3), members, steps, first, last, own, ranks, rank, n, unit, status
  integer(int64) :: place, length

  rank = 0
  ranks = 1
#ifdef USE_MPI
  call MPI_Init(status)
  call MPI_Comm_rank(MPI_COMM_WORLD, rank, status)
  call MPI_Comm_size(MPI_COMM_WORLD, ranks, status)
#endif
  if (command_argument_count() /= 5) call fail('usage: climate BUNDLE STATES MEMBERS STEPS FORECAST')
  call get_command_argument(1, bundle)
  call get_command_argument(2, states)
  call get_command_argument(3, word)
  read (word, *) members
  call get_command_argument(4, word)
  read (word, *) steps
  call get_command_argument(5, forecast)
  first = members*rank/ranks + 1
  last = members*(rank + 1)/ranks
  own = last - first + 1

  call model%open(trim(bundle))        ! once, never in the time loop
  call advance%create(model, 'step')
  extent = advance%shape('temperature') ! longitude, latitude, level
  allocate (temperature(extent(1), extent(2), extent(3), own), u(extent(1), extent(2), extent(3), own), &
            v(extent(1), extent(2), extent(3), own), surface_pressure(extent(1), extent(2), own), &
            z500(extent(1), extent(2), own))

  open (newunit=unit, file=trim(states), access='stream', form='unformatted', action='read', status='old', iostat=status)
  if (status /= 0) call fail('cannot read '//trim(states))
  place = 1
  call read_field3(temperature)
  call read_field3(u)
  call read_field3(v)
  call read_field2(surface_pressure)
  call read_field2(z500)
  inquire (unit=unit, size=length)
  if (members < 1 .or. length /= place - 1) call fail('holds another number of members: '//trim(states))
  close (unit)

  do n = 1, steps
    call advance%set('temperature', temperature)
    call advance%set('u_component_of_wind', u)
    call advance%set('v_component_of_wind', v)
    call advance%set('surface_pressure', surface_pressure)
    call advance%set('z500', z500)
    call advance%run()
    call advance%get('temperature', temperature)
    call advance%get('u_component_of_wind', u)
    call advance%get('v_component_of_wind', v)
    call advance%get('surface_pressure', surface_pressure)
    call advance%get('z500', z500)
    print '(a, i0, a, i0, a, f0.4, a)', 'rank ', rank, ', step ', n, ': mean of temperature ', &
      sum(real(temperature, kind(1d0)))/size(temperature), ' '//advance%units('temperature')
  end do

  ! One rank after another into one file: each field has the members of all ranks.
  do n = 0, ranks - 1
    if (n == rank) call write_own()
#ifdef USE_MPI
    call MPI_Barrier(MPI_COMM_WORLD, status)
#endif
  end do
  call advance%destroy()
  call model%close()
#ifdef USE_MPI
  call MPI_Finalize(status)
#endif

contains

  subroutine fail(sentence)
    character(*), intent(in) :: sentence
    write (error_unit, '(a)') 'climate: '//sentence
    error stop 1, quiet=.true.
  end subroutine

  subroutine read_field3(field)
    real(real32), intent(out) :: field(:, :, :, :)
    integer(int64) :: one
    one = int(product(extent), int64)
    read (unit, pos=place + 4*one*(first - 1), iostat=status) field
    if (status /= 0) call fail('too short: '//trim(states))
    place = place + 4*one*members
  end subroutine

  subroutine read_field2(field)
    real(real32), intent(out) :: field(:, :, :)
    integer(int64) :: one
    one = int(product(extent(:2)), int64)
    read (unit, pos=place + 4*one*(first - 1), iostat=status) field
    if (status /= 0) call fail('too short: '//trim(states))
    place = place + 4*one*members
  end subroutine

  subroutine write_own()
    integer(int64) :: three, two
    three = int(product(extent), int64)
    two = int(product(extent(:2)), int64)
    ! The first rank makes the file anew, the others add to it.
    open (newunit=unit, file=trim(forecast), access='stream', form='unformatted', action='write', &
          status=merge('replace', 'old    ', rank == 0), iostat=status)
    if (status /= 0) call fail('cannot write '//trim(forecast))
    write (unit, pos=1 + 4*three*(first - 1)) temperature
    write (unit, pos=1 + 4*three*(members + first - 1)) u
    write (unit, pos=1 + 4*three*(2*members + first - 1)) v
    write (unit, pos=1 + 4*(3*three*members + two*(first - 1))) surface_pressure
    write (unit, pos=1 + 4*(3*three*members + two*(members + first - 1))) z500
    close (unit)
  end subroutine
end program
