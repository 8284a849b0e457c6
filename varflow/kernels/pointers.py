"""Calls of somebody's compiled function, by its address, at one point after another.

The function is given a copy of each point, which it may overwrite: old codes do. Addresses are arguments and
not constants, so that one kernel serves all functions.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from varflow.kernels.compile import kernel

DOUBLE, INT32, POINTER = ir.DoubleType(), ir.IntType(32), ir.IntType(8).as_pointer()


def _caller(result: Any, *parameters: Any) -> Any:
    """Create the intrinsic that calls a function with such parameters; pointers are given as addresses."""
    number = types.float64 if result == DOUBLE else types.int32

    @intrinsic
    def call(typing_context: Any, address: Any, arguments: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            function = builder.inttoptr(values[0], ir.FunctionType(result, parameters).as_pointer())
            given = zip(cgutils.unpack_tuple(builder, values[1]), parameters, strict=True)
            return builder.call(
                function,
                [
                    builder.inttoptr(value, kind) if kind == POINTER else builder.trunc(value, kind)
                    for value, kind in given
                ],
            )

        return number(address, arguments), generate

    return call


_call_scipy = _caller(DOUBLE, INT32, POINTER, POINTER)
_call_vegas77 = _caller(DOUBLE, POINTER, POINTER)
_call_cuba = _caller(INT32, *[POINTER] * 7)


@kernel
def call_scipy(address, user, x, values, point):
    """Set values (n, 1) to double f(int d, double *x, void *user) at points x (n, d).

    address, user: integers; point: space for a point, (d,).
    """
    n, d = x.shape
    for i in range(n):
        for k in range(d):
            point[k] = x[i, k]
        values[i, 0] = _call_scipy(address, (d, point.ctypes.data, user))


@kernel
def call_vegas77(address, x, values, point, weight):
    """Set values (n, 1) to fxn(x, wgt) at points x (n, d); arguments by reference, wgt = 1.

    address: integer; point, weight: space for a point, (d,), and for wgt, (1,).
    """
    n, d = x.shape
    for i in range(n):
        for k in range(d):
            point[k] = x[i, k]
        weight[0] = 1.0
        values[i, 0] = _call_vegas77(address, (point.ctypes.data, weight.ctypes.data))


@kernel
def call_cuba(address, user, x, values, points, sizes):
    """Set values (n, m) by Cuba's integrand at points x (n, d), as many at once as there is space for.

    int f(const int *ndim, const double x[], const int *ncomp, double f[], void *user, const int *nvec,
    const int *core); address, user: integers; points: space for points, (nvec, d); sizes: for ndim, ncomp,
    nvec and core, int32 (4,).

    Returns the row, the number of points and the status of the first call whose status is not 0, or zeros.
    """
    n, d = x.shape
    m = values.shape[1]
    integers = sizes.ctypes.data
    for begin in range(0, n, len(points)):
        count = min(len(points), n - begin)
        for i in range(count):
            for k in range(d):
                points[i, k] = x[begin + i, k]
        sizes[0], sizes[1], sizes[2], sizes[3] = d, m, count, 0
        status = _call_cuba(
            address,
            (integers, points.ctypes.data, integers + 4, values.ctypes.data + 8 * m * begin, user,
             integers + 8, integers + 12),
        )  # fmt: skip
        if status != 0:
            return begin, count, status
    return 0, 0, 0
