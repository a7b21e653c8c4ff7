! caller BUNDLE OUTPUT: inputs by a formula of their indices, so that any exchange of dimensions shows.
program caller
  use, intrinsic :: iso_fortran_env, only: int32, real32, real64
  use surrogate
  implicit none
  integer, parameter :: width = 10, height = 6, levels = 2, history = 2, samples = 5
  type(surrogate_bundle) :: bundle, other
  type(surrogate_function) :: step
  real(real32) :: temperature(width, height, levels, history, samples), salinity(width, height, history, samples)
  real(real64) :: insolation(2*width, height, samples)
  real(real32) :: next_temperature(width, height, levels, samples), rain(width, height, samples)
  real(real64) :: next_salinity(width, height, samples), one(width, height)
  integer(int32) :: date(6, samples)
  character(300) :: path, target, message
  integer :: i, j, k, h, s, stat, unit

  call get_command_argument(1, path)
  call get_command_argument(2, target)

  call other%open('/nowhere', stat=stat, errmsg=message)
  call show('nowhere', stat, message)
  call other%open(path, plugin='/nowhere/plugin.so', stat=stat, errmsg=message)
  call show('plugin', stat, message)

  call bundle%open(path)
  call step%create(bundle, 'leap', stat=stat, errmsg=message)
  call show('function', stat, message)
  call step%create(bundle, 'step')
  print '(a)', 'info '//bundle%info('time_step')//' '//bundle%info('calendar')
  print '(a, *(1x, i0))', 'shape', step%shape('temperature')
  print '(a)', 'dims '//step%dims('temperature')//'; '//step%units('temperature')//'; '//step%role('rain')
  print '(a, *(1x, f0.1))', 'levels', step%levels('temperature')
  print '(a, *(1x, f0.1))', 'latitude', bundle%coordinate('latitude')
  do i = 1, step%num_inputs()
    print '(a)', 'input '//step%input_name(i)
  end do

  do s = 1, samples
    do h = 1, history
      do j = 1, height
        do i = 1, width
          do k = 1, levels
            temperature(i, j, k, h, s) = 230 + i + 2.5*j + 7*k - 3*h + 0.25*s
          end do
          salinity(i, j, h, s) = 33 + 0.1*i + 0.31*j - 0.2*h + 0.05*s
          insolation(2*i - 1, j, s) = 300 + 10*i - 4*j + s
          insolation(2*i, j, s) = -1d30 ! between the elements that are handed over
        end do
      end do
    end do
    date(:, s) = [2001, 2*s, 28, 18, 0, 0]
  end do

  call step%run(stat=stat, errmsg=message)
  call show('unset', stat, message)
  call step%set('temperature', reshape(temperature, [height, width, levels, history, samples]), stat, message)
  call show('transposed', stat, message)
  call step%set('pressure', salinity, stat, message)
  call show('name', stat, message)
  call step%set('temperature', salinity(:, 1, 1, 1), stat, message)
  call show('rank', stat, message)
  call step%set('date', temperature(1:6, 1, 1, 1, 1), stat, message)
  call show('type', stat, message)

  call step%set('temperature', temperature)
  call step%set('salinity', real(salinity, real64))
  call step%set('date', date)
  call step%set('insolation', insolation(::2, :, 1))
  call step%run(stat=stat, errmsg=message)
  call show('samples', stat, message)
  call step%set('insolation', insolation(::2, :, :)) ! every other element, in double precision
  call step%run()
  call step%get('temperature', next_temperature)
  call step%get('salinity', next_salinity)
  call step%get('rain', rain)
  call step%get('rain', one, stat, message)
  call show('get', stat, message)
  open (newunit=unit, file=target, access='stream', form='unformatted', status='replace')
  write (unit) next_temperature, real(next_salinity, real32), rain

  ! One sample needs no dimension for it.
  call step%set('temperature', temperature(:, :, :, :, 2))
  call step%set('salinity', salinity(:, :, :, 2))
  call step%set('date', date(:, 2))
  call step%set('insolation', insolation(::2, :, 2))
  call step%run()
  call step%get('rain', one)
  write (unit) real(one, real32)
  close (unit)

  call bundle%close(stat=stat, errmsg=message)
  call show('in_use', stat, message)
  call step%destroy()
  call bundle%close()
  call bundle%close()
  call step%run(stat=stat, errmsg=message)
  call show('destroyed', stat, message)

contains

  subroutine show(what, status, sentence)
    character(*), intent(in) :: what, sentence
    integer, intent(in) :: status
    print '(a, 1x, i0, 1x, a)', what, status, trim(sentence)
  end subroutine show
end program caller
