! The Lorenz-96 model with and without its fast variables, and with a learned closure in their place.
!
!   dX_k/dt = -X_{k-1} (X_{k-2} - X_{k+1}) - X_k + F + U_k,       U_k = -(h c / b) sum_j Y_jk
!   dY_i/dt = -c b Y_{i+1} (Y_{i+2} - Y_{i-1}) - c Y_i + (h c / b) X_k     all Y on one ring, J of them to a sector k
!
! Four runs from the same states: the truth with both scales; X alone with U = 0; with the surrogate's U; and with the
! polynomial of Wilks (2005). The sectors are shared among the ranks of MPI. README.md says how to build and run.
program lorenz96
  use, intrinsic :: iso_fortran_env, only: int32, int64, real64, error_unit
  use surrogate
  use ring
  implicit none
  integer, parameter :: sectors = 8, fast = 32
  real(real64), parameter :: forcing = 20, h = 1, b = 10, c = 10
  real(real64), parameter :: fine = 0.0025d0, coarse = 0.01d0, between = 0.1d0, spin_up = 3
  integer, parameter :: truth = 0, none = 1, learned = 2, wilks = 3, bins = 400
  character(10), parameter :: title(0:3) = [character(10) :: 'truth', 'none', 'surrogate', 'polynomial']
  integer :: members = 32
  real(real64) :: length = 20, coefficients(0:4) = 0
  namelist /run/ members, length
  namelist /polynomial/ coefficients
  type(surrogate_bundle) :: bundle
  type(surrogate_function) :: closure
  real(real64), allocatable :: start(:, :), x(:, :), y(:, :), u(:, :), last(:, :)
  real(real64), allocatable :: whole(:, :, :, :) ! (sectors, members, time, run) on rank 0
  integer(int32), allocatable :: flags(:)
  integer(int64) :: columns = 0, ticks = 0, rate
  integer :: own, times, kind, t, outside = 0, unit
  character(1000) :: directory, settings, target

  call get_command_argument(1, directory) ! the Bundle
  call get_command_argument(2, settings)  ! namelists run and polynomial
  call get_command_argument(3, target)    ! the states at the end, for comparison
  call ring_start()
  open (newunit=unit, file=trim(settings), status='old')
  read (unit, nml=polynomial)
  rewind (unit)
  read (unit, nml=run)
  close (unit)
  own = sectors/ranks
  if (own*ranks /= sectors .or. own < 2) error stop 'the sectors are shared among 1, 2 or 4 ranks'
  times = nint(length/between)
  allocate (x(-1:own + 2, members), y(-1:own*fast + 2, members), u(own, members), start(own, members), flags(own*members))
  allocate (whole(sectors, members, 0:times, 0:3), last(sectors, 4*members))

  call bundle%open(directory) ! once, never in the time loop
  ! One program for every call: what a column gives then does not depend on how many ranks share the columns.
  call closure%create(bundle, 'point', batch=64)

  call initial()
  do t = 1, nint(spin_up/fine)
    call step_truth()
  end do
  start = x(1:own, :)
  do kind = truth, wilks
    if (kind /= truth) x(1:own, :) = start
    call keep(0)
    do t = 1, times
      call advance(kind)
      call keep(t)
    end do
  end do
  outside = ring_sum(outside)
  if (rank == 0) call results()
  call closure%destroy()
  call bundle%close()
  call ring_stop()

contains

  !> States that depend on the place in the ring and the member alone, not on the ranks.
  subroutine initial()
    integer :: i, k, e
    do e = 1, members
      do i = 1, own
        k = rank*own + i
        x(i, e) = 4 + 4*sin(1.7d0*k + 12.9898d0*e*e)
      end do
      do i = 1, own*fast
        k = rank*own*fast + i
        y(i, e) = 0.1d0*cos(3.1d0*k + 7.233d0*e)
      end do
    end do
  end subroutine initial

  subroutine advance(kind)
    integer, intent(in) :: kind
    integer :: n
    if (kind == truth) then
      do n = 1, nint(between/fine)
        call step_truth()
      end do
    else
      do n = 1, nint(between/coarse)
        call step_reduced(kind)
      end do
    end if
  end subroutine advance

  subroutine keep(t)
    integer, intent(in) :: t
    call ring_gather(x(1:own, :), whole(:, :, t, kind))
  end subroutine keep

  !> Of X without what the fast variables do.
  subroutine slow_tendency(x, dx)
    real(real64), intent(in) :: x(-1:, :)
    real(real64), intent(out) :: dx(:, :)
    integer :: k
    do k = 1, own
      dx(k, :) = -x(k - 1, :)*(x(k - 2, :) - x(k + 1, :)) - x(k, :) + forcing
    end do
  end subroutine slow_tendency

  subroutine truth_tendency(x, y, dx, dy)
    real(real64), intent(inout) :: x(-1:, :), y(-1:, :)
    real(real64), intent(out) :: dx(:, :), dy(:, :)
    integer :: e, i, k
    call ring_halo(x)
    call ring_halo(y)
    call slow_tendency(x, dx)
    do e = 1, members
      do k = 1, own
        dx(k, e) = dx(k, e) - h*c/b*sum(y((k - 1)*fast + 1:k*fast, e))
      end do
      do i = 1, own*fast
        dy(i, e) = -c*b*y(i + 1, e)*(y(i + 2, e) - y(i - 1, e)) - c*y(i, e) + h*c/b*x((i - 1)/fast + 1, e)
      end do
    end do
  end subroutine truth_tendency

  !> Runge-Kutta's method of fourth order.
  subroutine step_truth()
    real(real64) :: xs(-1:own + 2, members), ys(-1:own*fast + 2, members)
    real(real64) :: dx(own, members), dy(own*fast, members), sx(own, members), sy(own*fast, members)
    real(real64), parameter :: weight(4) = [1, 2, 2, 1]/6d0, ahead(4) = [0.5d0, 0.5d0, 1d0, 0d0]
    integer :: s
    xs = x
    ys = y
    sx = 0
    sy = 0
    do s = 1, 4
      call truth_tendency(xs, ys, dx, dy)
      sx = sx + weight(s)*dx
      sy = sy + weight(s)*dy
      xs(1:own, :) = x(1:own, :) + ahead(s)*fine*dx
      ys(1:own*fast, :) = y(1:own*fast, :) + ahead(s)*fine*dy
    end do
    x(1:own, :) = x(1:own, :) + fine*sx
    y(1:own*fast, :) = y(1:own*fast, :) + fine*sy
  end subroutine step_truth

  subroutine step_reduced(kind)
    integer, intent(in) :: kind
    real(real64) :: xs(-1:own + 2, members), dx(own, members), sx(own, members)
    real(real64), parameter :: weight(4) = [1, 2, 2, 1]/6d0, ahead(4) = [0.5d0, 0.5d0, 1d0, 0d0]
    integer :: s
    xs = x
    sx = 0
    do s = 1, 4
      call ring_halo(xs)
      call slow_tendency(xs, dx)
      if (kind == learned) call learned_closure(xs)
      if (kind == wilks) u = quartic(xs(1:own, :))
      if (kind /= none) dx = dx + u
      sx = sx + weight(s)*dx
      xs(1:own, :) = x(1:own, :) + ahead(s)*coarse*dx
    end do
    x(1:own, :) = x(1:own, :) + coarse*sx
  end subroutine step_reduced

  elemental real(real64) function quartic(x)
    real(real64), intent(in) :: x
    quartic = coefficients(0) + x*(coefficients(1) + x*(coefficients(2) + x*(coefficients(3) + x*coefficients(4))))
  end function quartic

  !> The surrogate's U of every column; where its guard warns, the physics that the model had before.
  subroutine learned_closure(x)
    real(real64), intent(in) :: x(-1:, :)
    integer(int64) :: before, after
    call system_clock(before, rate)
    call closure%set('x', reshape(x(1:own, :), [own*members]))
    call closure%set('x_west', reshape(x(0:own - 1, :), [own*members]))
    call closure%set('x_east', reshape(x(2:own + 1, :), [own*members]))
    call closure%run(outside=flags)
    call fetch(u)
    where (reshape(flags, [own, members]) /= surrogate_inside) u = quartic(x(1:own, :))
    call system_clock(after)
    ticks = ticks + after - before
    columns = columns + own*members
    outside = outside + count(flags /= surrogate_inside)
  end subroutine learned_closure

  subroutine fetch(values)
    real(real64), intent(out) :: values(own, members)
    real(real64) :: flat(own*members)
    call closure%get('subgrid', flat)
    values = reshape(flat, [own, members])
  end subroutine fetch

  subroutine results()
    real(real64) :: frequency(bins, 0:3), mean(0:3), deviation(0:3), rmse(0:3), late(0:3), climate
    integer :: k
    if (times < 10) error stop 'length must be at least 1'
    do k = truth, wilks
      associate (a => whole(:, :, times/4:, k))
        mean(k) = sum(a)/size(a)
        deviation(k) = sqrt(sum((a - mean(k))**2)/size(a))
        frequency(:, k) = cumulative(reshape(a, [size(a)]))
      end associate
      rmse(k) = error_at(k, 5)
      late(k) = error_at(k, 10)
    end do
    print '(a)', 'run         mean X    std X   KS distance   RMSE at 0.5   at 1.0'
    do k = truth, wilks
      climate = maxval(abs(frequency(:, k) - frequency(:, truth)))
      print '(a10, 2f9.3, f14.4, f14.3, f9.3)', title(k), mean(k), deviation(k), climate, rmse(k), late(k)
    end do
    print '(a, f8.5)', 'share of columns outside the training data: ', real(outside, real64)/(columns*ranks)
    print '(a, f8.3)', 'microseconds per column in the closure: ', real(ticks, real64)/rate*1d6/columns
    do k = truth, wilks
      last(:, k*members + 1:(k + 1)*members) = whole(:, :, times, k)
    end do
    if (len_trim(target) == 0) return
    open (newunit=unit, file=trim(target), access='stream', form='unformatted', status='replace')
    write (unit) last
    close (unit)
  end subroutine results

  real(real64) function error_at(k, t)
    integer, intent(in) :: k, t
    error_at = sqrt(sum((whole(:, :, t, k) - whole(:, :, t, truth))**2)/(sectors*members))
  end function error_at

  !> The distribution function of values between -25 and 35.
  function cumulative(values) result(share)
    real(real64), intent(in) :: values(:)
    real(real64) :: share(bins)
    integer :: i, n
    share = 0
    do i = 1, size(values)
      n = min(bins, max(1, 1 + int((values(i) + 25)/60*bins)))
      share(n) = share(n) + 1
    end do
    do i = 2, bins
      share(i) = share(i) + share(i - 1)
    end do
    share = share/size(values)
  end function cumulative

end program lorenz96
