! host_program.f90: a program in Fortran that integrates a function of its own, trains a flow on points of its
! own, keeps it in a file, and draws points from it.
!
!     varflow build-library -o lib
!     gfortran -O2 -ffpe-trap=invalid,zero,overflow -o host_program lib/varflow.f90 host_program.f90 \
!         -Llib -lvarflow -Wl,-rpath,"$PWD/lib"
!     ./host_program
module peaks
   use, intrinsic :: iso_c_binding, only: c_double, c_f_pointer, c_int, c_int32_t, c_int64_t, c_ptr
   use varflow, only: vf_last_error, vf_ok
   implicit none

   integer(c_int32_t), parameter :: d = 2
   real(c_double), parameter :: bounds(2, d) = reshape([-1d0, 1d0, 0d0, 2d0], [2, d])
   real(c_double), parameter :: volume = 4, centre(d) = [0.2d0, 0.7d0], two_pi = 6.283185307179586d0

   type :: peak_parameters
      real(c_double) :: width
      integer(c_int64_t) :: n_calls
   end type

contains

   subroutine check(status, what)
      integer(c_int), intent(in) :: status
      character(*), intent(in) :: what
      if (status == vf_ok) return
      print "(a, ': status ', i0, ', ', a)", what, status, vf_last_error()
      error stop
   end subroutine

   ! The integrand, at one point: a Gaussian peak whose integral is 1 but for its tails.
   pure function peak(x, width)
      real(c_double), intent(in) :: x(d), width
      real(c_double) :: peak
      peak = exp(-0.5d0*sum((x - centre)**2)/width**2)/(two_pi*width**2)
   end function

   ! The integrand as varflow calls it: m values at each of n points.
   function integrand(x, n, d, values, m, user) bind(c) result(status)
      integer(c_int64_t), value :: n
      integer(c_int32_t), value :: d, m
      real(c_double), intent(in) :: x(d, n)
      real(c_double), intent(out) :: values(m, n)
      type(c_ptr), value :: user
      integer(c_int) :: status
      type(peak_parameters), pointer :: parameters
      integer(c_int64_t) :: i
      call c_f_pointer(user, parameters)
      do i = 1, n
         values(:, i) = peak(x(:, i), parameters%width)
      end do
      parameters%n_calls = parameters%n_calls + n
      status = 0 ! any other ends the integration
   end function
end module

program host_program
   use, intrinsic :: iso_c_binding, only: c_double, c_int, c_int64_t, c_loc
   use varflow
   use peaks
   implicit none
   call check(vf_start(), "vf_start")
   call integrate()
   call ask_and_tell()
   call train("peak.npz")
   call draw("peak.npz")

contains

   subroutine print_result(what, result)
      character(*), intent(in) :: what
      type(vf_result), intent(in) :: result
      character(4096) :: text
      print "(a10, f9.5, ' +- ', f7.5, ', chi2/dof = ', f5.2, '/', i0, ', ', i0, ' calls')", &
         what, result%mean, result%sdev, result%chi2, result%dof, result%n_calls
      if (result%n_warnings > 0) then
         call check(vf_warnings(result%handle, text), "vf_warnings")
         print "(a)", trim(text)
      end if
      call check(vf_free(result%handle), "vf_free")
   end subroutine

   ! varflow calls the integrand.
   subroutine integrate()
      type(peak_parameters), target :: parameters
      type(vf_result) :: result
      parameters = peak_parameters(0.1d0, 0)
      call check(vf_integrate(integrand, c_loc(parameters), d, bounds, "n_calls=40000 d_hidden=16 seed=1", &
                              result), "vf_integrate")
      call print_result("integral  ", result)
   end subroutine

   ! The program calls the integrand, in a loop of its own, and gets the same result.
   subroutine ask_and_tell()
      integer, parameter :: room = 1000
      real(c_double) :: x(d, room), values(room)
      integer(vf_handle) :: run
      type(vf_result) :: result
      integer(c_int64_t) :: n, i
      integer(c_int) :: status
      call check(vf_run_new(d, bounds, "n_calls=40000 d_hidden=16 seed=1", run), "vf_run_new")
      do
         n = room
         status = vf_ask(run, n, x)
         if (status /= vf_ok) exit
         do i = 1, n
            values(i) = peak(x(:, i), 0.1d0)
         end do
         call check(vf_tell(run, n, values), "vf_tell")
      end do
      if (status /= vf_end) call check(status, "vf_ask")
      call check(vf_run_result(run, result), "vf_run_result")
      call print_result("own loop  ", result)
      call check(vf_free(run), "vf_free")
   end subroutine

   ! A flow is trained on points that the program has, and kept.
   subroutine train(path)
      character(*), intent(in) :: path
      integer(c_int64_t), parameter :: n = 2000
      real(c_double) :: x(d, n), p(n), f(n)
      type(vf_evaluation) :: measured
      integer(vf_handle) :: flow
      integer(c_int64_t) :: i
      call random_number(x)
      do i = 1, n
         x(:, i) = bounds(1, :) + x(:, i)*(bounds(2, :) - bounds(1, :))
         f(i) = peak(x(:, i), 0.1d0)
      end do
      p = 1/volume ! the density that x was drawn from
      call check(vf_train_new(d, bounds, n, x, p, f, "d_hidden=16 n_epochs=20 seed=1", measured, flow), &
                 "vf_train_new")
      print "(a10, ' to need 1/', f0.1, ' of the points for the same error')", "trained   ", measured%ratio
      call check(vf_save(flow, path), "vf_save")
      call check(vf_free(flow), "vf_free")
   end subroutine

   ! Another run of the program draws points from it, by which an integral has a smaller error.
   subroutine draw(path)
      character(*), intent(in) :: path
      integer(c_int64_t), parameter :: n = 2000
      real(c_double) :: x(d, n), log_q(n), weights(n), mean
      integer(vf_handle) :: flow
      integer(c_int64_t) :: i
      call check(vf_load(path, handle=flow), "vf_load")
      call check(vf_sample(flow, n, 2_c_int64_t, x, log_q), "vf_sample")
      call check(vf_free(flow), "vf_free")
      do i = 1, n
         weights(i) = peak(x(:, i), 0.1d0)*exp(-log_q(i))
      end do
      mean = sum(weights)/n
      print "(a10, f9.5, ' +- ', f7.5, ', ', i0, ' points')", &
         "flow      ", mean, sqrt((sum(weights**2)/n - mean**2)/n), n
   end subroutine
end program
