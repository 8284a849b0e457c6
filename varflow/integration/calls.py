"""Evaluation of the user's function at a block of points, with checks of what it returns."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from numba.core.registry import CPUDispatcher

from varflow.data.arrays import read_only
from varflow.integration.components import FloatArray, Values

__all__ = ["checked_values", "evaluate_block", "tell_nobody"]

OF_F, OF_CALLER = "f must return", "values must be"  # how messages begin


def tell_nobody(n: int) -> None:
    """Take the number of points whose values are there, for nothing."""


def evaluate_block(
    f: Callable[..., Any],
    vectorized: bool,
    points: FloatArray,
    told: Callable[[int], object] = tell_nobody,
) -> Values:
    """Evaluate f at points (n, d). Returns a float64 array (n, ...), or a dict of such arrays.

    Where they come one after another, `told` is called with the number of those that are there.
    """
    # To numba, read-only arrays are a type of their own: functions with given signatures get a copy instead.
    points = read_only(points) if getattr(f, "_can_compile", True) else points.copy()
    if not vectorized:
        return _evaluate_each(f, points, told)
    result = _call(f, points)
    if isinstance(result, Mapping):
        return {
            key: _checked(part, len(points), f" under {key!r}") for key, part in _checked_keys(result).items()
        }
    return _checked(result, len(points), "")


def checked_values(values: object, n: int) -> Values:
    """Check and copy values of f at n points that were told. Returns what `evaluate_block` returns."""
    if isinstance(values, Mapping):
        parts = _checked_keys(values, OF_CALLER).items()
        return {key: _checked(part, n, f" under {key!r}", OF_CALLER) for key, part in parts}
    return _checked(values, n, "", OF_CALLER)


def _evaluate_each(f: Callable[..., Any], points: FloatArray, told: Callable[[int], object]) -> Values:
    """Evaluate f at points (n, d), one at a time."""
    first = _call(f, points[0])
    if isinstance(f, CPUDispatcher) and isinstance(first, float | int):
        return np.append(float(first), _compiled_values(f, points[1:]))
    results = [first]
    for n, point in enumerate(points[1:], 2):
        results.append(_call(f, point))
        told(n)
    if not any(isinstance(result, Mapping) for result in results):
        return _stacked(results, "")
    keys = _checked_keys(first).keys() if isinstance(first, Mapping) else None
    for result in results:
        if keys is None or not isinstance(result, Mapping) or result.keys() != keys:
            raise ValueError("f must return a dict with the same keys at every point, or at none")
    return {key: _stacked([result[key] for result in results], f" under {key!r}") for key in keys or ()}


def _compiled_values(f: CPUDispatcher, points: FloatArray) -> FloatArray:
    values = np.empty(len(points))
    row = np.zeros(1, np.int64)
    try:
        _compiled_loop(f)(points, values, row)
    except Exception as error:
        _tell_points(error, points[row[0]])
        raise
    return values


@lru_cache(maxsize=64)
def _compiled_loop(f: CPUDispatcher) -> Callable[[FloatArray, FloatArray, npt.NDArray[np.int64]], None]:
    """Compile the loop over points, which keeps the current row in `row`, in case f raises."""

    @njit(nogil=True)
    def loop(points: Any, values: Any, row: Any) -> None:
        for i in range(len(points)):
            row[0] = i
            values[i] = f(points[i])

    return loop


def _call(f: Callable[..., Any], points: FloatArray) -> Any:
    try:
        return f(points)
    except Exception as error:
        _tell_points(error, points)
        raise


def _tell_points(error: Exception, points: FloatArray) -> None:
    """Attach the points passed to f to an exception raised by f, unless it has an attribute `x` already."""
    first = np.atleast_2d(points)[0].tolist()
    with suppress(Exception):  # its class may forbid attributes and notes; what matters is the exception
        if not hasattr(error, "x"):
            error.x = points.copy()  # type: ignore[attr-defined]
    with suppress(Exception):  # moreover, Python 3.10 has no notes
        error.add_note(f"varflow called f with x of shape {points.shape}, first point {first}")


def _checked_keys(result: Mapping[str, Any], words: str = OF_F) -> Mapping[str, Any]:
    if not result:
        raise ValueError(f"{words} a dict of one array at least, got an empty one")
    for key in result:
        if not isinstance(key, str):
            raise TypeError(f"{words} a dict with strings for keys, got {key!r}")
    return result


def _checked(result: object, n: int, where: str, words: str = OF_F) -> FloatArray:
    """Convert what f returned for n points to float64, (n, ...), as a copy."""
    array = _numbers(result, where, words)
    if array.ndim == 0 or len(array) != n or array.size == 0:
        is_scalar = array.ndim == 0 and words == OF_F
        hint = "; for a function of one point, give vectorized=False" if is_scalar else ""
        raise ValueError(f"{words} an array of shape ({n},) or ({n}, m){where}, got {array.shape}{hint}")
    return array


def _stacked(results: list[Any], where: str) -> FloatArray:
    """Stack what f returned for each of n points into a float64 array, (n, ...)."""
    for result in results:
        if isinstance(result, np.ma.MaskedArray):
            _numbers(result, where)  # raises
    array = _numbers(results, where)
    if array.size == 0:
        raise ValueError(f"f must return one number at least{where}, got shape {array.shape[1:]}")
    return array


def _numbers(result: object, where: str, words: str = OF_F) -> FloatArray:
    if isinstance(result, np.ma.MaskedArray):
        raise TypeError(f"{words} an array that is not masked{where}")
    try:
        array = np.asarray(result)
    except ValueError as error:
        raise ValueError(f"{words} an array{where}, or the same shape at every point: {error}") from None
    if array.dtype.kind not in "biuf":
        found = "None" if result is None else f"dtype {array.dtype}"
        raise TypeError(f"{words} real numbers{where}, got {found}")
    with np.errstate(over="ignore"):  # a long double that is too large becomes inf, an invalid value
        return array.astype(np.float64, order="C")
