! Integrands of all kinds in Fortran, for test_compiled.py.
module integrands
  use, intrinsic :: iso_c_binding
  implicit none
contains
  function batch(x, n, d, out, m, user) result(status) bind(c, name='batch')
    integer(c_int64_t), value :: n
    integer(c_int32_t), value :: d, m
    real(c_double), intent(in) :: x(d, n)
    real(c_double), intent(out) :: out(m, n)
    type(c_ptr), value :: user
    integer(c_int) :: status
    integer :: j
    status = merge(1, 0, c_associated(user))
    do j = 1, m
      out(j, :) = j * matmul([real(c_double) :: 1, 2, 3], x**2)
    end do
  end function

  real(c_double) function scipy_kind(n, x, user) bind(c, name='scipy_kind')
    integer(c_int), value :: n
    real(c_double), intent(in) :: x(n)
    type(c_ptr), value :: user
    scipy_kind = dot_product([real(c_double) :: 1, 2, 3], x**2)
    if (c_associated(user)) scipy_kind = 0
  end function

  double precision function in_module(x, wgt)
    double precision, intent(in) :: x(3), wgt
    in_module = wgt * sum(x)
  end function
end module

! As FORTRAN 77 has it: by reference, in COMMON, and it overwrites its argument.
double precision function fxn(x, wgt)
  implicit none
  double precision :: x(3), wgt, factor
  common /params/ factor
  x = x * x
  fxn = wgt * factor * (x(1) + 2 * x(2) + 3 * x(3))
end function

integer function cuba77(ndim, x, ncomp, f)
  implicit none
  integer :: ndim, ncomp, j
  double precision :: x(ndim), f(ncomp)
  do j = 1, ncomp
    f(j) = j * (x(1)**2 + 2 * x(2)**2 + 3 * x(3)**2)
  end do
  cuba77 = 0
end function

double precision function stops(x, wgt)
  implicit none
  double precision :: x(3), wgt
  if (x(1) > 0.999d0) stop 4
  stops = wgt * x(1)
end function

block data
  implicit none
  double precision :: factor
  common /params/ factor
  data factor /1d0/
end block data
