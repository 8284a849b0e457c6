! Prints the nanoseconds that a point takes to be drawn, and to be evaluated.
program export_timer
   use, intrinsic :: iso_fortran_env, only: int64, real64
   use flow_module
   implicit none
   integer, parameter :: n = 50000
   real(real64), save :: x(flow_d, n), log_q(n)
   type(flow_workspace), save :: work
   real(real64) :: begin, middle, end
   integer :: status

   call cpu_time(begin)
   call flow_sample(1_int64, 0_int64, n, x, log_q, flow_weights, work, status)
   call cpu_time(middle)
   if (status == flow_ok) call flow_log_prob(n, x, log_q, flow_weights, work, status)
   call cpu_time(end)
   if (status /= flow_ok) error stop
   print *, 1e9_real64 / n * (middle - begin), 1e9_real64 / n * (end - middle)
end program export_timer
