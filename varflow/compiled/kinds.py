"""The kinds of compiled integrands: how each is declared, and how it is called at a block of points."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from varflow.kernels import pointers

__all__ = ["KINDS", "NO_FAILURE", "Failure", "Kind", "compile_calls"]

FloatArray = npt.NDArray[np.float64]
Failure = tuple[int, int, int]  # first row, number of points and status of a call; zeros where there is none
# address of f, user, x (n, d), values (n, m), space for the points of a call, (nvec, d) -> failure
Evaluate = Callable[[int, int, FloatArray, FloatArray, FloatArray], Failure]

NO_FAILURE: Failure = (0, 0, 0)
_BATCH = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32,
    ctypes.c_void_p,
)  # fmt: skip

# Further arguments, which a function of the kind does not take, and conventions of calls let be. One
# of another kind takes an address where nothing is for its own, and leaves the number where doubles return.
_NOWHERE = 16
_BEYOND = 64  # numbers after wgt, which a function of the kind does not read
_NOT_TAKEN = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_double


@dataclass(frozen=True)
class Kind:
    """How an integrand is declared and called.

    Attributes
    ----------
    prototype : str
        Its declaration, as a person reads it.
    result : str
        Type of what it returns: "int32" or "double".
    parameters : tuple of str
        Types of its arguments.
    n_needed : int
        How many of these a function must have; it need not take those at the end.
    n_components : int or None
        How many numbers it returns for a point; None where that is told it.
    evaluate : callable
        Calls it at all points x (n, d), one after another or at once. It lets go of the GIL.
    try_out : callable
        Does the same in such a way that a function of another kind hardly survives, or sets no values.
    is_at_once : bool
        Whether it is one call for all points.
    """

    prototype: str
    result: str
    parameters: tuple[str, ...]
    n_needed: int
    n_components: int | None
    evaluate: Evaluate
    try_out: Evaluate
    is_at_once: bool = False


def _evaluate_batch(
    address: int, user: int, x: FloatArray, values: FloatArray, points: FloatArray
) -> Failure:
    n, d = x.shape
    status = _batch_at(address)(x.ctypes.data, n, d, values.ctypes.data, values.shape[1], user) if n else 0
    return (0, n, status) if status else NO_FAILURE


@lru_cache(maxsize=64)
def _batch_at(address: int) -> Callable[..., int]:
    return _BATCH(address)


def _evaluate_scipy(
    address: int, user: int, x: FloatArray, values: FloatArray, points: FloatArray
) -> Failure:
    pointers.call_scipy(address, user, x, values, points[0])
    return NO_FAILURE


def _try_scipy(address: int, user: int, x: FloatArray, values: FloatArray, points: FloatArray) -> Failure:
    f = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *_NOT_TAKEN)(
        address
    )
    for point, value in zip(x, values, strict=True):
        points[0] = point
        value[0] = f(len(point), points.ctypes.data, user, _NOWHERE, _NOWHERE, _NOWHERE, value[0])
    return NO_FAILURE


def _evaluate_cuba(address: int, user: int, x: FloatArray, values: FloatArray, points: FloatArray) -> Failure:
    failure: Failure = pointers.call_cuba(address, user, x, values, points, np.empty(4, np.int32))
    return failure


def _evaluate_vegas77(
    address: int, user: int, x: FloatArray, values: FloatArray, points: FloatArray
) -> Failure:
    pointers.call_vegas77(address, x, values, points[0], np.empty(1))
    return NO_FAILURE


def _try_vegas77(address: int, user: int, x: FloatArray, values: FloatArray, points: FloatArray) -> Failure:
    kinds = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, *_NOT_TAKEN
    f, weights = ctypes.CFUNCTYPE(ctypes.c_double, *kinds)(address), np.ones(1 + _BEYOND)

    def called(point: FloatArray, before: float, beyond: float) -> float:
        points[0], weights[1:] = point, beyond
        return f(points.ctypes.data, weights.ctypes.data, *[_NOWHERE] * 4, before)

    for point, value in zip(x, values, strict=True):
        first, again, other = (called(point, value[0], beyond) for beyond in (0.25, 0.25, 0.75))
        if first == again != other:
            raise ValueError("it reads more than one number where wgt is")
        value[0] = other
    return NO_FAILURE


KINDS = {
    "batch": Kind(
        "int f(const double *x, int64_t n, int32_t d, double *out, int32_t m, void *user)",
        "int32",
        ("double *", "int64", "int32", "double *", "int32", "void *"),
        5,
        None,
        _evaluate_batch,
        _evaluate_batch,
        is_at_once=True,
    ),
    "scipy": Kind(
        "double f(int n, double *x, void *user)",
        "double",
        ("int32", "double *", "void *"),
        2,
        1,
        _evaluate_scipy,
        _try_scipy,
    ),
    "cuba": Kind(
        "int f(const int *ndim, const double x[], const int *ncomp, double f[], void *user, const int *nvec)",
        "int32",
        ("int32 *", "double *", "int32 *", "double *", "void *", "int32 *", "int32 *"),
        4,
        None,
        _evaluate_cuba,
        _evaluate_cuba,
    ),
    "vegas77": Kind(
        "double precision function fxn(x, wgt)",
        "double",
        ("double *", "double *"),
        2,
        1,
        _evaluate_vegas77,
        _try_vegas77,
    ),
}


def compile_calls() -> None:
    """Compile the loops over points, which otherwise happens at the first call of a function."""
    x, values, points = np.empty((0, 1)), np.empty((0, 1)), np.empty((1, 1))
    x.flags.writeable = False
    for kind in KINDS.values():
        kind.evaluate(0, 0, x, values, points)
