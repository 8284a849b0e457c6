! Calls a subroutine of an exported flow on points from a file; see driver.c.
program driver
   use, intrinsic :: iso_fortran_env, only: int64, real64
   use NAME_module
   implicit none
#ifdef HAS_FILE
   real(NAME_real), allocatable :: weights(:)
#endif
   type(NAME_workspace), allocatable :: work
   real(real64), allocatable :: points(:, :), results(:, :), log_q(:)
   character(len=500) :: arguments(7)
   integer(int64) :: seed, first
   integer :: n, k, unit, status

   do k = 1, 7
      call get_command_argument(k, arguments(k))
   end do
   read (arguments(2), *) n
   read (arguments(3), *) seed
   read (arguments(4), *) first
   allocate (points(NAME_d, max(n, 0)), results(NAME_d, max(n, 0)), log_q(max(n, 0)), work)
   results = 0
   log_q = 0
   open (newunit=unit, file=arguments(5), access="stream", form="unformatted", status="old", action="read")
   if (arguments(1) /= "sample" .and. arguments(1) /= "verify" .and. arguments(1) /= "load") read (unit) points
   close (unit)
#ifdef HAS_FILE
   allocate (weights(NAME_n_weights))
   call NAME_load(trim(arguments(7)), weights, status)
#else
   associate (weights => NAME_weights)
#endif
   select case (arguments(1))
#ifdef HAS_FILE
   case ("load")
      results(1, 1) = real(weights(NAME_n_weights), real64)
#endif
   case ("sample")
      call NAME_sample(seed, first, n, results, log_q, weights, work, status)
   case ("log_prob")
      call NAME_log_prob(n, points, log_q, weights, work, status)
   case ("verify")
      call NAME_verify(weights, work, status)
#ifndef IS_MIXTURE
   case ("to_latent")
      call NAME_to_latent(n, points, results, log_q, weights, work, status)
   case ("from_latent")
      call NAME_from_latent(n, points, results, log_q, weights, work, status)
   case ("null") ! Fortran has no null arrays: too small ones take their place
      status = 0
      call NAME_to_latent(n, points(:, 2:), results, log_q, weights, work, k)
      if (k /= NAME_bad_argument) status = -1
      call NAME_to_latent(n, points, results(:, 2:), log_q, weights, work, k)
      if (k /= NAME_bad_argument) status = -1
      call NAME_from_latent(n, points, results, log_q(2:), weights, work, k)
      if (k /= NAME_bad_argument) status = -1
      call NAME_log_prob(n, points(2:, :), log_q, weights, work, k)
      if (k /= NAME_bad_argument) status = -1
      call NAME_sample(seed, first, n, results, log_q(2:), weights, work, k)
      if (k /= NAME_bad_argument) status = -1
#endif
   end select
#ifndef HAS_FILE
   end associate
#endif
   open (newunit=unit, file=arguments(6), access="stream", form="unformatted", status="replace", action="write")
   write (unit) real(status, real64), results, log_q
   close (unit)
   print "(a)", trim(NAME_message(status))
end program driver
