! varflow.f90: integrate, train and sample from a program in Fortran 2008.
!
! Names, arguments and statuses are those of varflow.h, which says what each function does; every function
! returns a status, vf_ok or another, and vf_last_error() then says in words what was wrong. Arrays are
! contiguous: points x(d, n), values(m, n), bounds(2, d). Bounds may be left out for the unit cube, and options
! for none.
module varflow
   use, intrinsic :: iso_c_binding
   implicit none
   private

   integer(c_int32_t), parameter, public :: vf_abi_version = 2 ! vf_start() refuses a library that has another

   integer(c_int), parameter, public :: &
      vf_ok = 0, vf_end = 1, vf_refused = 2, vf_bad_handle = 3, vf_callback_failed = 4, vf_not_finite = 5, &
      vf_file_failed = 6, vf_no_memory = 7, vf_not_started = 8, vf_no_python = 9, vf_other_abi = 10, &
      vf_failed = 11

   integer, parameter, public :: vf_handle = c_int64_t ! kind of the integers that are handles

   type, bind(c), public :: vf_result
      real(c_double) :: mean, sdev, log_mean, log_sdev, chi2, q
      integer(c_int64_t) :: dof, n_calls, n_warnings, handle
   end type

   type, bind(c), public :: vf_evaluation
      integer(c_int64_t) :: n
      real(c_double) :: variance_before, variance_before_error, variance_after, variance_after_error
      real(c_double) :: ratio, ratio_error, ess_before, ess_after, efficiency_before, efficiency_after
      real(c_double) :: pareto_before, pareto_after, floor
   end type

   abstract interface
      function vf_integrand(x, n, d, values, m, user) bind(c) result(status)
         import :: c_double, c_int, c_int32_t, c_int64_t, c_ptr
         integer(c_int64_t), value :: n
         integer(c_int32_t), value :: d, m
         real(c_double), intent(in) :: x(d, n)
         real(c_double), intent(out) :: values(m, n)
         type(c_ptr), value :: user
         integer(c_int) :: status
      end function
   end interface
   public :: vf_integrand

   ! These are called as they are.
   interface
      function vf_ask(run, n, x) bind(c) result(status)
         import :: c_double, c_int, c_int64_t
         integer(c_int64_t), value :: run
         integer(c_int64_t), intent(inout) :: n
         real(c_double), intent(inout) :: x(*)
         integer(c_int) :: status
      end function

      function vf_tell(run, n, values) bind(c) result(status)
         import :: c_double, c_int, c_int64_t
         integer(c_int64_t), value :: run, n
         real(c_double), intent(in) :: values(*)
         integer(c_int) :: status
      end function

      function vf_run_forget(run, n) bind(c) result(status)
         import :: c_int, c_int64_t
         integer(c_int64_t), value :: run, n
         integer(c_int) :: status
      end function

      function vf_run_step(run) bind(c) result(status)
         import :: c_int, c_int64_t
         integer(c_int64_t), value :: run
         integer(c_int) :: status
      end function

      function vf_run_extend(run, n_calls) bind(c) result(status)
         import :: c_int, c_int64_t
         integer(c_int64_t), value :: run, n_calls
         integer(c_int) :: status
      end function

      function vf_run_result(run, result) bind(c) result(status)
         import :: c_int, c_int64_t, vf_result
         integer(c_int64_t), value :: run
         type(vf_result), intent(inout) :: result
         integer(c_int) :: status
      end function

      function vf_mean(result, m, mean, covariance) bind(c) result(status)
         import :: c_double, c_int, c_int32_t, c_int64_t
         integer(c_int64_t), value :: result
         integer(c_int32_t), value :: m
         real(c_double), intent(inout) :: mean(m), covariance(m, m)
         integer(c_int) :: status
      end function

      function vf_sample(handle, n, seed, x, log_q) bind(c) result(status)
         import :: c_double, c_int, c_int64_t
         integer(c_int64_t), value :: handle, n, seed
         real(c_double), intent(inout) :: x(*), log_q(*)
         integer(c_int) :: status
      end function

      function vf_log_prob(flow, n, x, log_q) bind(c) result(status)
         import :: c_double, c_int, c_int64_t
         integer(c_int64_t), value :: flow, n
         real(c_double), intent(in) :: x(*)
         real(c_double), intent(inout) :: log_q(*)
         integer(c_int) :: status
      end function

      function vf_n_parameters(flow, n) bind(c) result(status)
         import :: c_int, c_int64_t
         integer(c_int64_t), value :: flow
         integer(c_int64_t), intent(inout) :: n
         integer(c_int) :: status
      end function

      function vf_get_parameters(flow, n, parameters) bind(c) result(status)
         import :: c_double, c_int, c_int64_t
         integer(c_int64_t), value :: flow, n
         real(c_double), intent(inout) :: parameters(*)
         integer(c_int) :: status
      end function

      function vf_set_parameters(flow, n, parameters) bind(c) result(status)
         import :: c_double, c_int, c_int64_t
         integer(c_int64_t), value :: flow, n
         real(c_double), intent(in) :: parameters(*)
         integer(c_int) :: status
      end function

      function vf_dimension(handle, d) bind(c) result(status)
         import :: c_int, c_int32_t, c_int64_t
         integer(c_int64_t), value :: handle
         integer(c_int32_t), intent(inout) :: d
         integer(c_int) :: status
      end function

      function vf_free(handle) bind(c) result(status)
         import :: c_int, c_int64_t
         integer(c_int64_t), value :: handle
         integer(c_int) :: status
      end function
   end interface
   public :: vf_ask, vf_tell, vf_run_forget, vf_run_step, vf_run_extend, vf_run_result, vf_mean
   public :: vf_sample, vf_log_prob, vf_n_parameters, vf_get_parameters, vf_set_parameters, vf_dimension
   public :: vf_free

   ! These take text, which C ends with a null character, or arguments that may be left out.
   interface
      function c_start(abi_version) bind(c, name="vf_start_abi") result(status)
         import :: c_int, c_int32_t
         integer(c_int32_t), value :: abi_version
         integer(c_int) :: status
      end function

      function c_last_error() bind(c, name="vf_last_error") result(text)
         import :: c_ptr
         type(c_ptr) :: text
      end function

      function c_version() bind(c, name="vf_version") result(text)
         import :: c_ptr
         type(c_ptr) :: text
      end function

      function c_length(text) bind(c, name="strlen") result(length)
         import :: c_ptr, c_size_t
         type(c_ptr), value :: text
         integer(c_size_t) :: length
      end function

      function c_integrate(f, user, d, bounds, options, result) bind(c, name="vf_integrate") result(status)
         import :: c_char, c_funptr, c_int, c_int32_t, c_ptr, vf_result
         type(c_funptr), value :: f
         type(c_ptr), value :: user, bounds
         integer(c_int32_t), value :: d
         character(kind=c_char), intent(in) :: options(*)
         type(vf_result), intent(inout) :: result
         integer(c_int) :: status
      end function

      function c_run_new(d, bounds, options, run) bind(c, name="vf_run_new") result(status)
         import :: c_char, c_int, c_int32_t, c_int64_t, c_ptr
         integer(c_int32_t), value :: d
         type(c_ptr), value :: bounds
         character(kind=c_char), intent(in) :: options(*)
         integer(c_int64_t), intent(inout) :: run
         integer(c_int) :: status
      end function

      function c_flow_new(d, bounds, options, flow) bind(c, name="vf_flow_new") result(status)
         import :: c_char, c_int, c_int32_t, c_int64_t, c_ptr
         integer(c_int32_t), value :: d
         type(c_ptr), value :: bounds
         character(kind=c_char), intent(in) :: options(*)
         integer(c_int64_t), intent(inout) :: flow
         integer(c_int) :: status
      end function

      function c_train(flow, n, x, p, f, options) bind(c, name="vf_train") result(status)
         import :: c_char, c_double, c_int, c_int64_t
         integer(c_int64_t), value :: flow, n
         real(c_double), intent(in) :: x(*), p(*), f(*)
         character(kind=c_char), intent(in) :: options(*)
         integer(c_int) :: status
      end function

      function c_train_new(d, bounds, n, x, p, f, options, evaluation, flow) bind(c, name="vf_train_new") &
         result(status)
         import :: c_char, c_double, c_int, c_int32_t, c_int64_t, c_ptr, vf_evaluation
         integer(c_int32_t), value :: d
         type(c_ptr), value :: bounds
         integer(c_int64_t), value :: n
         real(c_double), intent(in) :: x(*), p(*), f(*)
         character(kind=c_char), intent(in) :: options(*)
         type(vf_evaluation), intent(inout) :: evaluation
         integer(c_int64_t), intent(inout) :: flow
         integer(c_int) :: status
      end function

      function c_evaluate(flow, n, x, p, f, options, evaluation) bind(c, name="vf_evaluate") result(status)
         import :: c_char, c_double, c_int, c_int64_t, vf_evaluation
         integer(c_int64_t), value :: flow, n
         real(c_double), intent(in) :: x(*), p(*), f(*)
         character(kind=c_char), intent(in) :: options(*)
         type(vf_evaluation), intent(inout) :: evaluation
         integer(c_int) :: status
      end function

      function c_gradient(flow, n, x, p, f, options, loss, gradient) bind(c, name="vf_gradient") &
         result(status)
         import :: c_char, c_double, c_int, c_int64_t
         integer(c_int64_t), value :: flow, n
         real(c_double), intent(in) :: x(*), p(*), f(*)
         character(kind=c_char), intent(in) :: options(*)
         real(c_double), intent(inout) :: loss, gradient(*)
         integer(c_int) :: status
      end function

      function c_warnings(handle, size, text) bind(c, name="vf_warnings") result(status)
         import :: c_char, c_int, c_int64_t
         integer(c_int64_t), value :: handle, size
         character(kind=c_char), intent(inout) :: text(*)
         integer(c_int) :: status
      end function

      function c_save(handle, path) bind(c, name="vf_save") result(status)
         import :: c_char, c_int, c_int64_t
         integer(c_int64_t), value :: handle
         character(kind=c_char), intent(in) :: path(*)
         integer(c_int) :: status
      end function

      function c_load(path, options, handle) bind(c, name="vf_load") result(status)
         import :: c_char, c_int, c_int64_t
         character(kind=c_char), intent(in) :: path(*), options(*)
         integer(c_int64_t), intent(inout) :: handle
         integer(c_int) :: status
      end function
   end interface
   public :: vf_start, vf_last_error, vf_version, vf_integrate, vf_run_new, vf_flow_new, vf_train
   public :: vf_train_new, vf_evaluate, vf_gradient, vf_warnings, vf_save, vf_load

contains

   integer(c_int) function vf_start()
      vf_start = c_start(vf_abi_version)
   end function

   function vf_last_error() result(words)
      character(:), allocatable :: words
      words = copied(c_last_error())
   end function

   function vf_version() result(words)
      character(:), allocatable :: words
      words = copied(c_version())
   end function

   integer(c_int) function vf_integrate(f, user, d, bounds, options, result)
      procedure(vf_integrand) :: f
      type(c_ptr), intent(in) :: user ! given to f; c_null_ptr for nothing
      integer(c_int32_t), intent(in) :: d
      real(c_double), intent(in), optional, target :: bounds(2, d)
      character(*), intent(in), optional :: options
      type(vf_result), intent(inout) :: result
      vf_integrate = c_integrate(c_funloc(f), user, d, address(d, bounds), ended(options), result)
   end function

   integer(c_int) function vf_run_new(d, bounds, options, run)
      integer(c_int32_t), intent(in) :: d
      real(c_double), intent(in), optional, target :: bounds(2, d)
      character(*), intent(in), optional :: options
      integer(vf_handle), intent(inout) :: run
      vf_run_new = c_run_new(d, address(d, bounds), ended(options), run)
   end function

   integer(c_int) function vf_flow_new(d, bounds, options, flow)
      integer(c_int32_t), intent(in) :: d
      real(c_double), intent(in), optional, target :: bounds(2, d)
      character(*), intent(in), optional :: options
      integer(vf_handle), intent(inout) :: flow
      vf_flow_new = c_flow_new(d, address(d, bounds), ended(options), flow)
   end function

   integer(c_int) function vf_train(flow, n, x, p, f, options)
      integer(vf_handle), intent(in) :: flow
      integer(c_int64_t), intent(in) :: n
      real(c_double), intent(in) :: x(*), p(*), f(*)
      character(*), intent(in), optional :: options
      vf_train = c_train(flow, n, x, p, f, ended(options))
   end function

   integer(c_int) function vf_train_new(d, bounds, n, x, p, f, options, evaluation, flow)
      integer(c_int32_t), intent(in) :: d
      real(c_double), intent(in), optional, target :: bounds(2, d)
      integer(c_int64_t), intent(in) :: n
      real(c_double), intent(in) :: x(*), p(*), f(*)
      character(*), intent(in), optional :: options
      type(vf_evaluation), intent(inout) :: evaluation
      integer(vf_handle), intent(inout) :: flow
      vf_train_new = c_train_new(d, address(d, bounds), n, x, p, f, ended(options), evaluation, flow)
   end function

   integer(c_int) function vf_evaluate(flow, n, x, p, f, options, evaluation)
      integer(vf_handle), intent(in) :: flow
      integer(c_int64_t), intent(in) :: n
      real(c_double), intent(in) :: x(*), p(*), f(*)
      character(*), intent(in), optional :: options
      type(vf_evaluation), intent(inout) :: evaluation
      vf_evaluate = c_evaluate(flow, n, x, p, f, ended(options), evaluation)
   end function

   integer(c_int) function vf_gradient(flow, n, x, p, f, options, loss, gradient)
      integer(vf_handle), intent(in) :: flow
      integer(c_int64_t), intent(in) :: n
      real(c_double), intent(in) :: x(*), p(*), f(*)
      character(*), intent(in), optional :: options
      real(c_double), intent(inout) :: loss, gradient(*)
      vf_gradient = c_gradient(flow, n, x, p, f, ended(options), loss, gradient)
   end function

   integer(c_int) function vf_warnings(handle, text)
      integer(vf_handle), intent(in) :: handle
      character(*), intent(inout) :: text ! padded with blanks; it must have room for one character more
      character(kind=c_char) :: bytes(len(text))
      integer :: k, length
      vf_warnings = c_warnings(handle, int(len(text), c_int64_t), bytes)
      if (vf_warnings /= vf_ok) return
      length = 0
      do while (bytes(length + 1) /= c_null_char)
         length = length + 1
      end do
      text = ""
      do k = 1, length
         text(k:k) = bytes(k)
      end do
   end function

   integer(c_int) function vf_save(handle, path)
      integer(vf_handle), intent(in) :: handle
      character(*), intent(in) :: path
      vf_save = c_save(handle, ended(path))
   end function

   integer(c_int) function vf_load(path, options, handle)
      character(*), intent(in) :: path
      character(*), intent(in), optional :: options
      integer(vf_handle), intent(inout) :: handle
      vf_load = c_load(ended(path), ended(options), handle)
   end function

   ! Text as C has it, without blanks at its end; empty if there is none.
   function ended(text) result(bytes)
      character(*), intent(in), optional :: text
      character(:, kind=c_char), allocatable :: bytes
      bytes = c_null_char
      if (present(text)) bytes = trim(text)//c_null_char
   end function

   function address(d, bounds) result(where)
      integer(c_int32_t), intent(in) :: d
      real(c_double), intent(in), optional, target :: bounds(2, d)
      type(c_ptr) :: where
      where = c_null_ptr
      if (present(bounds)) where = c_loc(bounds)
   end function

   function copied(text) result(words)
      type(c_ptr), intent(in) :: text
      character(:), allocatable :: words
      character(kind=c_char), pointer :: bytes(:)
      integer :: k
      call c_f_pointer(text, bytes, [c_length(text)])
      allocate (character(size(bytes)) :: words)
      do k = 1, size(bytes)
         words(k:k) = bytes(k)
      end do
   end function

end module
