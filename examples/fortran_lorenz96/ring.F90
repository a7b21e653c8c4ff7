! A ring of cells, shared among the ranks of MPI in equal runs; without USE_MPI there is one rank.
module ring
  use, intrinsic :: iso_fortran_env, only: real64
#ifdef USE_MPI
  use mpi
#endif
  implicit none
  private
  public :: ring_start, ring_stop, ring_halo, ring_gather, ring_sum
  integer, public, protected :: rank = 0, ranks = 1

contains

  subroutine ring_start()
#ifdef USE_MPI
    integer :: status
    call MPI_Init(status)
    call MPI_Comm_rank(MPI_COMM_WORLD, rank, status)
    call MPI_Comm_size(MPI_COMM_WORLD, ranks, status)
#endif
  end subroutine ring_start

  subroutine ring_stop()
#ifdef USE_MPI
    integer :: status
    call MPI_Finalize(status)
#endif
  end subroutine ring_stop

  !> Fill the two cells before and after this rank's run: a(-1:n+2, members).
  subroutine ring_halo(a)
    real(real64), intent(inout) :: a(-1:, :)
    integer :: n
#ifdef USE_MPI
    real(real64), dimension(2, size(a, 2)) :: first, last, before, after
    integer :: west, east, count, status
#endif
    n = ubound(a, 1) - 2
#ifdef USE_MPI
    west = modulo(rank - 1, ranks)
    east = modulo(rank + 1, ranks)
    count = size(first)
    first = a(1:2, :)
    last = a(n - 1:n, :)
    call MPI_Sendrecv(last, count, MPI_DOUBLE_PRECISION, east, 1, before, count, MPI_DOUBLE_PRECISION, west, 1, &
      MPI_COMM_WORLD, MPI_STATUS_IGNORE, status)
    call MPI_Sendrecv(first, count, MPI_DOUBLE_PRECISION, west, 2, after, count, MPI_DOUBLE_PRECISION, east, 2, &
      MPI_COMM_WORLD, MPI_STATUS_IGNORE, status)
    a(-1:0, :) = before
    a(n + 1:n + 2, :) = after
#else
    a(-1:0, :) = a(n - 1:n, :)
    a(n + 1:n + 2, :) = a(1:2, :)
#endif
  end subroutine ring_halo

  !> The whole ring (cells, members) on rank 0 from each rank's part.
  subroutine ring_gather(part, whole)
    real(real64), intent(in), contiguous :: part(:, :) ! MPI sees an address, not a section
    real(real64), intent(out) :: whole(:, :)
#ifdef USE_MPI
    real(real64) :: buffer(size(part, 1), size(part, 2), ranks)
    integer :: r, n, status
    n = size(part, 1)
    call MPI_Gather(part, size(part), MPI_DOUBLE_PRECISION, buffer, size(part), MPI_DOUBLE_PRECISION, 0, &
      MPI_COMM_WORLD, status)
    whole = 0
    if (rank /= 0) return
    do r = 1, ranks
      whole((r - 1)*n + 1:r*n, :) = buffer(:, :, r)
    end do
#else
    whole = part
#endif
  end subroutine ring_gather

  !> A count summed over the ranks, on rank 0.
  integer function ring_sum(count)
    integer, intent(in) :: count
#ifdef USE_MPI
    integer :: status
    call MPI_Reduce(count, ring_sum, 1, MPI_INTEGER, MPI_SUM, 0, MPI_COMM_WORLD, status)
    if (rank /= 0) ring_sum = 0
#else
    ring_sum = count
#endif
  end function ring_sum

end module ring
