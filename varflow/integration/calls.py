"""Calls of the user's function for a block of points, and checks of what it returns."""

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

__all__ = ["evaluate_block"]


def evaluate_block(f: Callable[..., Any], vectorized: bool, points: FloatArray) -> Values:
    """Call f for points (n, d). Returns one float64 array, or a dict of them, each (n, ...)."""
    # Numba takes a read-only array for another type: a function compiled for given signatures gets a copy.
    points = read_only(points) if getattr(f, "_can_compile", True) else points.copy()
    if not vectorized:
        return _evaluate_each(f, points)
    result = _call(f, points)
    if isinstance(result, Mapping):
        return {
            key: _checked(part, len(points), f" under {key!r}") for key, part in _checked_keys(result).items()
        }
    return _checked(result, len(points), "")


def _evaluate_each(f: Callable[..., Any], points: FloatArray) -> Values:
    """Call f for points (n, d), one at a time."""
    first = _call(f, points[0])
    if isinstance(f, CPUDispatcher) and isinstance(first, float | int):
        return np.append(float(first), _compiled_values(f, points[1:]))
    results = [first, *(_call(f, point) for point in points[1:])]
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
    """Compile the loop over points; it leaves in `row` where it is, in case f raises."""

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
    """Write to an exception of f's what f was given. An attribute `x` of its own is left as it is."""
    first = np.atleast_2d(points)[0].tolist()
    with suppress(Exception):  # a class may forbid either, and the exception itself is what matters
        if not hasattr(error, "x"):
            error.x = points.copy()  # type: ignore[attr-defined]
    with suppress(Exception):  # besides, Python 3.10 has no notes
        error.add_note(f"varflow called f with x of shape {points.shape}, first point {first}")


def _checked_keys(result: Mapping[str, Any]) -> Mapping[str, Any]:
    if not result:
        raise ValueError("f must return a dict of one array at least, got an empty one")
    for key in result:
        if not isinstance(key, str):
            raise TypeError(f"f must return a dict with strings for keys, got {key!r}")
    return result


def _checked(result: object, n: int, where: str) -> FloatArray:
    """Convert what f returned for n points to float64, (n, ...), a copy."""
    array = _numbers(result, where)
    if array.ndim == 0 or len(array) != n or array.size == 0:
        hint = "; for a function of one point, give vectorized=False" if array.ndim == 0 else ""
        raise ValueError(
            f"f must return an array of shape ({n},) or ({n}, m){where}, got {array.shape}{hint}"
        )
    return array


def _stacked(results: list[Any], where: str) -> FloatArray:
    """Convert what f returned for each of n points to float64, (n, ...)."""
    for result in results:
        if isinstance(result, np.ma.MaskedArray):
            _numbers(result, where)  # raises
    array = _numbers(results, where)
    if array.size == 0:
        raise ValueError(f"f must return one number at least{where}, got shape {array.shape[1:]}")
    return array


def _numbers(result: object, where: str) -> FloatArray:
    if isinstance(result, np.ma.MaskedArray):
        raise TypeError(f"f must not return a masked array{where}")
    try:
        array = np.asarray(result)
    except ValueError as error:
        raise ValueError(
            f"f must return an array{where}, or the same shape at every point: {error}"
        ) from None
    if array.dtype.kind not in "biuf":
        found = "None" if result is None else f"dtype {array.dtype}"
        raise TypeError(f"f must return real numbers{where}, got {found}")
    with np.errstate(over="ignore"):  # a long double too large becomes inf, which is treated as such
        return array.astype(np.float64, order="C")
