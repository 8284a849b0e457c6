! event_generator.f90 - events of two peaks, drawn from a flow that varflow has exported.
!
! It is event_generator.c in Fortran, and writes the same events.
!
!     varflow integrate examples/camel.py:f --dim 4 -o camel.npz
!     varflow export camel.npz --language fortran -o source
!
! Build:  gfortran -O3 -march=native -o event_generator source/camel.f90 examples/event_generator.f90
! Usage:  ./event_generator events.txt [n_points [seed]]     (defaults 100000 and 1)
program event_generator
   use, intrinsic :: iso_fortran_env, only: error_unit, int64, real64
   use camel_module
   implicit none
   integer, parameter :: batch = 1000
   real(real64), parameter :: pi = acos(-1.0_real64), width = 0.2_real64
   type(camel_workspace), save :: work ! large: not on the stack
   real(real64), save :: x(camel_d, batch), log_q(batch)
   real(real64) :: total, total_of_squares, largest, weight
   integer(int64) :: first, n, seed, state
   integer :: i, m, n_events, n_cut, status, events
   character(len=500) :: path

   call get_command_argument(1, path)
   n = argument(2, 100000_int64)
   seed = argument(3, 1_int64)
   if (path == "" .or. n < batch) then
      write (error_unit, "(a)") "usage: ./event_generator events.txt [n_points [seed]], with n_points of 1000 or more"
      stop 2
   end if
   open (newunit=events, file=path, status="replace", action="write")
   state = 12345
   n_events = 0
   n_cut = 0
   total = 0
   total_of_squares = 0
   largest = 0
   call camel_verify(camel_weights, work, status)
   call check(status)
   do first = 0, n - 1, batch
      m = int(min(int(batch, int64), n - first))
      call camel_sample(seed, first, m, x, log_q, camel_weights, work, status)
      call check(status)
      do i = 1, m
         weight = f(x(:, i)) * exp(-log_q(i))
         total = total + weight
         total_of_squares = total_of_squares + weight**2
         if (first < n / 10) then
            largest = max(largest, weight)
         else if (next_random() * largest < weight) then
            n_events = n_events + 1
            if (weight > largest) n_cut = n_cut + 1
            write (events, "(*(f8.6, :, 1x))") x(:, i)
         end if
      end do
   end do
   close (events)
   print "(a, i0, a, i0, a, i0, a)", "the flow is as in Python: ", camel_n_weights, &
      " weights, static size ", storage_size(camel_weights) / 8 * camel_n_weights, " bytes, workspace ", &
      storage_size(work) / 8, " bytes"
   print "(a, f7.5, a, f7.5)", "integral: ", total / n, " ± ", &
      sqrt((total_of_squares / n - (total / n)**2) / (n - 1))
   print "(a, f0.1, a)", "effective sample size: ", 100 * total**2 / total_of_squares / n, " %"
   print "(a, i0, a, i0)", "events of equal weight: ", n_events, ", with weights cut: ", n_cut

contains

   ! The function that is to be sampled.
   real(real64) function f(point)
      real(real64), intent(in) :: point(camel_d)
      f = (exp(-sum((point - 1 / 3.0_real64)**2) / width**2) + exp(-sum((point - 2 / 3.0_real64)**2) / width**2)) &
         / (2 * (width * sqrt(pi))**camel_d)
   end function f

   ! Random number in (0, 1) of Park and Miller's generator, which decides on the acceptance.
   real(real64) function next_random()
      state = mod(state * 48271, 2147483647_int64)
      next_random = real(state, real64) / 2147483647
   end function next_random

   integer(int64) function argument(number, default)
      integer, intent(in) :: number
      integer(int64), intent(in) :: default
      character(len=30) :: text
      argument = default
      call get_command_argument(number, text)
      if (text /= "") read (text, *) argument
   end function argument

   subroutine check(code)
      integer, intent(in) :: code
      if (code == camel_ok) return
      write (error_unit, "(a)") trim(camel_message(code))
      stop 1
   end subroutine check

end program event_generator
