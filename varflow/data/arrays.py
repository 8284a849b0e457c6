"""Checks and conversions of arrays of points, bounds and values."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.runtime.backend import is_on_device, load_gpu

__all__ = [
    "FloatArray",
    "as_floats",
    "check_rows",
    "checked_bounds",
    "checked_points",
    "finite_points",
    "infinite_bounds",
    "is_unbounded",
    "log_mean_exp",
    "log_sum_exp",
    "points_within",
    "read_only",
    "row_blocks",
    "weighted_quantiles",
]

FloatArray = npt.NDArray[np.float64]

ROWS_AT_ONCE = 65_536  # rows processed at a time, so that temporaries stay small for any number of rows


def as_floats(name: str, values: npt.ArrayLike) -> FloatArray:
    """Convert to a C-contiguous, aligned, native float64 array, without a copy if it is one already."""
    parts = values if isinstance(values, list | tuple) else ()  # NumPy would drop the masks of elements
    if any(isinstance(part, np.ma.MaskedArray) for part in (values, *parts)):
        raise TypeError(f"{name} must not be a masked array: leave the masked rows out")
    if is_on_device(values):
        values = load_gpu().to_host(values)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} is not an array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, found dtype {array.dtype}")
    with np.errstate(over="ignore"):  # a long double that is too large becomes inf, which later checks reject
        return np.require(array, np.float64, ["C", "A"])


def checked_points(name: str, points: npt.ArrayLike, bounds: FloatArray) -> FloatArray:
    """Check that points are finite, of the right dimension and within bounds.

    Parameters
    ----------
    name : str
        Name of the argument, for error messages.
    points : array_like, (n, d)
        The points.
    bounds : ndarray, (d, 2)
        Lower and upper bound of each dimension, both inclusive.

    Returns
    -------
    ndarray, (n, d)
        The points as C-contiguous float64, not copied if they were that already.

    Raises
    ------
    TypeError, ValueError
        If a check fails; the message names the first offending row.
    """
    array = finite_points(name, points)
    if array.shape[1] != len(bounds):
        raise ValueError(f"{name} must have shape (n, {len(bounds)}), found {array.shape}")
    return points_within(name, array, bounds)


def infinite_bounds(d: int) -> FloatArray:
    """Give the bounds (d, 2) of all of space."""
    return np.tile([-math.inf, math.inf], (d, 1))


def is_unbounded(bounds: npt.NDArray[Any]) -> bool:
    """Tell whether bounds (d, 2), or (2,) for all dimensions, are -inf and inf in every one of them."""
    return bounds.shape[-1:] == (2,) and bool((bounds == [-math.inf, math.inf]).all())


def checked_bounds(
    bounds: npt.ArrayLike | None, d: int, name: str = "bounds", *, may_be_infinite: bool = False
) -> FloatArray:
    """Check the bounds of a box.

    Parameters
    ----------
    bounds : array_like, (d, 2) or (2,), or None
        Lower and upper bound of each dimension, or of all of them; the unit cube if None.
    d : int
        Number of dimensions.
    name : str
        Name of the argument, for error messages.
    may_be_infinite : bool
        Whether they may be -inf and inf, in all dimensions.

    Returns
    -------
    ndarray, (d, 2)
        A copy of the bounds.

    Raises
    ------
    TypeError, ValueError
        If the bounds have the wrong dtype or shape, are not finite or not in ascending order, or if their
        difference overflows or is zero or denormal.
    """
    if bounds is None:
        return np.tile([0.0, 1.0], (d, 1))
    array = as_floats(name, bounds)
    array = np.tile(array, (d, 1)) if array.shape == (2,) else array.copy()
    if array.shape != (d, 2):
        raise ValueError(f"{name} must have shape ({d}, 2) or (2,), found {array.shape}")
    if may_be_infinite and is_unbounded(array):
        return array
    rule = "be finite, or -inf and inf in all dimensions" if may_be_infinite else "be finite"
    check_rows(name, array, rule, np.isfinite)
    with np.errstate(over="ignore"):
        widths = array[:, 1] - array[:, 0]
    # The reciprocal of a denormal width would be infinite.
    for row in np.flatnonzero(~((widths >= np.finfo(np.float64).tiny) & (widths < math.inf))):
        raise ValueError(
            f"{name} must have lower < upper, a finite way apart, found {array[row].tolist()} in row {row}"
        )
    return array


def read_only(array: FloatArray) -> FloatArray:
    """Return a read-only view of an array.

    Kernels receive their input as such views. Numba treats writable and read-only arrays as different types
    and would otherwise compile a kernel for each.
    """
    view = array.view()
    view.flags.writeable = False
    return view


def finite_points(name: str, points: npt.ArrayLike) -> FloatArray:
    """Check that points (n, d) are finite, and return them as float64; see `as_floats`."""
    array = as_floats(name, points)
    if array.ndim == 1:
        raise ValueError(
            f"{name} must have shape (n, d), found {array.shape}; for one dimension, give {name}[:, None]"
        )
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"{name} must have shape (n, d) with a row and a column at least, found {array.shape}"
        )
    check_rows(name, array, "be finite", np.isfinite)
    return array


def points_within(name: str, points: FloatArray, bounds: FloatArray) -> FloatArray:
    """Check that points (n, d) lie within bounds (d, 2), and return them."""
    lower, upper = bounds.T
    rule = "lie within bounds (the unit cube if not given)"
    check_rows(name, points, rule, lambda block: (block >= lower) & (block <= upper))
    return points


def check_rows(
    name: str, array: FloatArray, rule: str, holds: Callable[[FloatArray], npt.NDArray[np.bool_]]
) -> None:
    """Raise a ValueError that names the first element for which `holds` is False, if there is one."""
    first: list[int] = []
    count = 0
    for rows in row_blocks(len(array)):
        good = holds(array[rows])
        if good.all():
            continue
        bad = np.argwhere(~good)
        count += len(bad)
        if len(bad) and not first:
            first = [rows.start + int(bad[0, 0]), *bad[0, 1:].tolist()]
    if not first:
        return
    column = f", column {first[1]}" if len(first) > 1 else ""
    more = f" (and {count - 1} more)" if count > 1 else ""
    raise ValueError(f"{name} must {rule}, found {array[tuple(first)]} in row {first[0]}{column}{more}")


def row_blocks(n: int) -> Iterator[slice]:
    """Divide n rows into blocks."""
    return (slice(start, min(start + ROWS_AT_ONCE, n)) for start in range(0, n, ROWS_AT_ONCE))


def log_sum_exp(logs: FloatArray) -> float:
    """Compute log(sum(exp(logs))) without overflow; -inf if all logs are -inf."""
    top, scaled = _scaled_exp(logs)
    return top + math.log(scaled.sum()) if top > -math.inf else top


def log_mean_exp(logs: FloatArray) -> float:
    """Compute log(mean(exp(logs))) without overflow; -inf if all logs are -inf, or there are none."""
    top, scaled = _scaled_exp(logs)
    return top + float(np.log(np.mean(scaled))) if top > -math.inf else top


def _scaled_exp(logs: FloatArray) -> tuple[float, FloatArray]:
    """Return the largest of some logs, and exp(logs) divided by its exponential."""
    top = float(logs.max(initial=-math.inf))
    with np.errstate(under="ignore", invalid="ignore"):
        return top, np.exp(logs - top)


def weighted_quantiles(values: FloatArray, counts: FloatArray, shares: Sequence[float]) -> FloatArray:
    """Find the values (k,) up to which the counts (n,) of all values (n,) have these shares (k,)."""
    order = np.argsort(values)
    total = np.cumsum(counts[order])
    rows = np.searchsorted(total, np.multiply(shares, total[-1])).clip(max=len(values) - 1)
    return values[order[rows]]
