! Minimises the loss of a flow by an optimiser of its own, trains another, integrates two components at once, and
! loses points of a run, whose f it knows by the logarithm: it calls what the example does not.
module functions
   use, intrinsic :: iso_c_binding
   implicit none
contains
   ! x1 and x1 x2
   function components(x, n, d, values, m, user) bind(c) result(status)
      integer(c_int64_t), value :: n
      integer(c_int32_t), value :: d, m
      real(c_double), intent(in) :: x(d, n)
      real(c_double), intent(out) :: values(m, n)
      type(c_ptr), value :: user
      integer(c_int) :: status
      values(1, :) = x(1, :)
      values(2, :) = x(1, :)*x(2, :)
      status = merge(1, 0, c_associated(user) .or. m /= 2)
   end function
end module

program optimiser
   use, intrinsic :: iso_c_binding
   use varflow
   use functions
   implicit none
   integer, parameter :: d = 2
   integer(c_int64_t), parameter :: n = 1000
   integer(c_int64_t) :: n_parameters, k
   integer(c_int32_t) :: found
   integer(vf_handle) :: flow
   type(vf_result) :: result
   real(c_double), allocatable :: parameters(:), gradient(:), m(:), v(:)
   real(c_double) :: x(d, n), p(n), f(n), log_q(n), loss, mean(2), covariance(2, 2)
   character(2000) :: text

   if (vf_start() /= vf_ok) error stop
   print "(a)", vf_version()

   call check(vf_flow_new(d, options="n_bins=4 d_hidden=8 n_hidden=1 dtype=float64 seed=1", flow=flow))
   call check(vf_dimension(flow, found))
   call check(vf_n_parameters(flow, n_parameters))
   allocate (parameters(n_parameters), gradient(n_parameters), m(n_parameters), v(n_parameters))
   call check(vf_get_parameters(flow, n_parameters, parameters))
   call random_number(x)
   p = 1
   f = exp(-20*((x(1, :) - 0.3d0)**2 + (x(2, :) - 0.6d0)**2))
   m = 0
   v = 0
   do k = 1, 60 ! Adam
      call check(vf_gradient(flow, n, x, p, f, "loss=variance", loss, gradient))
      if (k == 1) print "(f10.6)", loss
      m = 0.9d0*m + 0.1d0*gradient
      v = 0.99d0*v + 0.01d0*gradient**2
      parameters = parameters - 0.02d0*m/(sqrt(v) + 1d-8)
      call check(vf_set_parameters(flow, n_parameters, parameters))
   end do
   call check(vf_log_prob(flow, n, x, log_q))
   print "(f10.6)", sum(f**2/exp(log_q))/n/(sum(f)/n)**2

   call check(vf_integrate(components, c_null_ptr, d, options="n_calls=100 m=2 seed=1", result=result))
   call check(vf_mean(result%handle, 2, mean, covariance))
   print "(2f10.6, 2f14.10)", mean, sqrt(covariance(1, 1)), sqrt(covariance(2, 2))
   call check(vf_warnings(result%handle, text))

   found = vf_integrate(components, c_null_ptr, d, options="n_cals=100", result=result)
   print "(i0, 1x, a)", found, vf_last_error()

   call train()
   call lose_points()

contains

   subroutine train()
      type(vf_evaluation) :: before, after
      call check(vf_flow_new(d, options="n_bins=4 d_hidden=8 n_hidden=1 seed=1", flow=flow))
      call check(vf_evaluate(flow, n, x, p, f, evaluation=before))
      call check(vf_train(flow, n, x, p, f, "n_epochs=20 lr=0.01 betas=0.9,0.99"))
      call check(vf_evaluate(flow, n, x, log(p), log(f), "logpx=.true. logfx=.true.", after))
      print "(2f10.6, 1x, i0)", before%variance_after, after%variance_after, after%n
   end subroutine

   subroutine lose_points()
      integer(c_int64_t) :: n_asked
      integer(vf_handle) :: run
      integer :: round
      call check(vf_run_new(d, options="n_calls=100 seed=1 log=true train_in=step", run=run))
      do round = 1, 2
         do
            n_asked = 10
            found = vf_ask(run, n_asked, x)
            if (found /= vf_ok) exit
            if (n_asked == 0) then
               call check(vf_run_step(run))
            else if (round == 2 .and. n_asked == 10) then
               call check(vf_run_forget(run, n_asked))
               exit
            else
               call check(vf_tell(run, n_asked, -1000 - x(1, :n_asked)))
            end if
         end do
         if (round == 1) call check(vf_run_extend(run, 100_c_int64_t))
      end do
      do
         n_asked = 100
         found = vf_ask(run, n_asked, x)
         if (found == vf_end) exit
         call check(found)
         if (n_asked == 0) call check(vf_run_step(run))
         call check(vf_tell(run, n_asked, -1000 - x(1, :n_asked)))
      end do
      call check(vf_run_result(run, result))
      print "(2f14.6, 1x, i0)", result%log_mean, result%log_sdev, result%n_calls
      call check(vf_free(run))
   end subroutine

   subroutine check(status)
      integer(c_int), intent(in) :: status
      if (status == vf_ok) return
      print "(i0, 1x, a)", status, vf_last_error()
      error stop
   end subroutine
end program
