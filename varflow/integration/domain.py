"""Boxes to integrate over, finite or infinite, as images of the unit cube."""

import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import checked_points, read_only
from varflow.data.discrete import Discrete, check_whole, separated, states_of
from varflow.flow.discrete_flow import DiscreteFlow

__all__ = ["MAX_ON_CUBE", "MIN_ON_CUBE", "Domain", "domain_of", "finite_bounds"]

FloatArray = npt.NDArray[np.float64]

Bounds = int | Sequence[Sequence[float] | Discrete] | npt.NDArray[np.floating]

_LARGEST = float(np.finfo(np.float64).max)
# Smallest and largest coordinate of points inside the unit cube: 1/u and 1/(1-u) are finite there.
MIN_ON_CUBE = float(np.finfo(np.float64).tiny)
MAX_ON_CUBE = math.nextafter(1.0, 0.0)
MAX_COORDINATE = 1e300  # of a given point where the bounds are infinite


class Domain:
    """Box with a map onto it from the unit cube, which acts on each coordinate separately.

    The map of a side is

    - x = lower + u (upper - lower) if both bounds are finite,
    - x = lower + u / (1 - u) if only the lower bound is finite,
    - x = upper - (1 - u) / u if only the upper bound is finite,
    - x = (u - 1/2) / (u (1 - u)) if neither bound is finite.

    Parameters
    ----------
    bounds : int or array_like, (d, 2)
        Lower and upper bound of each dimension, where a lower bound may be -inf and an upper bound inf; or
        the number of dimensions of the unit cube. In a sequence, a `Discrete` may stand for the bounds of a
        dimension: k intervals of equal length of the unit interval are its states then.

    Attributes
    ----------
    bounds : ndarray, (d, 2)
        The bounds, read-only; of discrete dimensions, (0, k).
    discrete : dict
        The `Discrete` of each discrete dimension, by its number.

    Raises
    ------
    TypeError
        If `bounds` is neither an int nor pairs of real numbers; True and False do not count as ints.
    ValueError
        If there are no dimensions, the shape is not (d, 2), a bound is NaN, a lower bound is not below its
        upper bound, or the length of a finite side overflows. The message names the first wrong pair.

    Examples
    --------
    >>> domain = vf.Domain([(-1, 1), (0, np.inf)])
    >>> domain
    Domain([[-1.0, 1.0], [0.0, inf]])
    >>> x, log_jacobian = domain.from_cube([[0.75, 0.5]])
    >>> x
    array([[0.5, 1. ]])
    >>> np.exp(log_jacobian).round(6)  # 2 times 1 / (1 - 0.5)^2
    array([8.])
    >>> domain.to_cube(x)[0]
    array([[0.75, 0.5 ]])
    >>> vf.Domain(3).d
    3
    """

    bounds: FloatArray

    def __init__(self, bounds: Bounds) -> None:
        intervals, self.discrete = separated(bounds)
        self.bounds = read_only(_checked_pairs(intervals))
        self._cube = np.tile([0.0, 1.0], (self.d, 1))

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return len(self.bounds)

    def __repr__(self) -> str:
        intervals = enumerate(self.bounds.tolist())
        return f"Domain([{', '.join(repr(self.discrete.get(row, pair)) for row, pair in intervals)}])"

    @property
    def _is_cube(self) -> bool:
        """Whether points of the unit cube are points of the box."""
        return not self.discrete and np.array_equal(self.bounds, self._cube)

    def from_cube(self, u: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Map points of the unit cube into the box.

        Parameters
        ----------
        u : array_like, (n, d)
            Points of the unit cube, its faces included. Coordinates that rounding would put on a face of a
            box other than the unit cube are moved inside, by the least that float64 can hold; on infinite
            sides, so that x is finite.

        Returns
        -------
        x : ndarray, (n, d)
            Points of the box, all finite. If the box is the unit cube, this is `u`, not copied.
        log_jacobian : ndarray, (n,)
            Logarithm of the Jacobian, log |dx/du|, all finite.

        Raises
        ------
        TypeError, ValueError
            If u does not hold n points of the unit cube; the message names the first wrong row.
        """
        points = checked_points("u", u, self._cube)
        log_jacobian = np.zeros(len(points))
        if self._is_cube:
            return points, log_jacobian
        x = np.empty_like(points)
        for column, (lower, upper) in enumerate(self.bounds.tolist()):
            x[:, column], log_derivative = _stretched(points[:, column], lower, upper)
            log_jacobian += log_derivative
        for column, one in self.discrete.items():
            x[:, column] = states_of(x[:, column], one.k)
        return x, log_jacobian

    def to_cube(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Map points of the box into the unit cube, as the inverse of `from_cube`.

        Parameters
        ----------
        x : array_like, (n, d)
            Points of the box, all finite, its faces included; whole numbers where it is discrete.

        Returns
        -------
        u : ndarray, (n, d)
            Points of the unit cube. If the box is the unit cube, this is `x`, not copied. States come to the
            middle of their intervals.
        log_jacobian : ndarray, (n,)
            Logarithm of the Jacobian, log |dx/du|, as returned by `from_cube`. It is computed from x, and is
            therefore accurate even where u rounds to 1.

        Raises
        ------
        TypeError, ValueError
            If x does not hold n points of the box; the message names the first wrong row.
        """
        points = checked_points("x", x, self.bounds)
        log_jacobian = np.zeros(len(points))
        if self._is_cube:
            return points, log_jacobian
        check_whole("x", points, self.discrete)
        u = np.empty_like(points)
        for column, (lower, upper) in enumerate(self.bounds.tolist()):
            u[:, column], log_derivative = _shrunk(points[:, column], lower, upper)
            log_jacobian += log_derivative
        for column, one in self.discrete.items():
            u[:, column] = (points[:, column] + 0.5) / one.k
        return u, log_jacobian


def domain_of(bounds: FloatArray, flow: object) -> Domain:
    """Make the box with these bounds (d, 2), whose discrete coordinates are those of a flow."""
    discrete = flow.discrete if isinstance(flow, DiscreteFlow) else {}
    return Domain([discrete.get(row, pair) for row, pair in enumerate(bounds.tolist())])


def finite_bounds(bounds: FloatArray) -> FloatArray:
    """Give bounds (d, 2) for points that are there: far off where a side is infinite."""
    clipped: FloatArray = np.clip(bounds, -MAX_COORDINATE, MAX_COORDINATE)
    return clipped


def _checked_pairs(bounds: object) -> FloatArray:
    if isinstance(bounds, bool):
        raise TypeError(f"bounds must be an int or pairs (lower, upper), found {bounds!r}")
    if isinstance(bounds, Integral):
        if bounds < 1:
            raise ValueError(f"bounds given as an int is a number of dimensions, at least 1, found {bounds}")
        return np.tile([0.0, 1.0], (int(bounds), 1))
    pairs = _real_pairs(bounds)
    for row, (lower, upper) in enumerate(pairs.tolist()):
        found = f"bounds[{row}] is ({lower}, {upper})"
        if math.isnan(lower) or math.isnan(upper):
            raise ValueError(f"{found}: bounds must not be NaN")
        if not lower < upper:
            raise ValueError(f"{found}: lower must be below upper")
        if math.isfinite(lower) and math.isfinite(upper) and math.isinf(upper - lower):
            raise ValueError(f"{found}: the length upper - lower must not overflow")
    return pairs


def _real_pairs(bounds: object) -> FloatArray:
    """Convert bounds to float64, (d, 2), as a copy."""
    if isinstance(bounds, np.ma.MaskedArray):
        raise TypeError("bounds must not be a masked array")
    try:
        array = np.asarray(bounds)
    except ValueError as error:
        raise ValueError(f"bounds is not an array: {error}") from None
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise TypeError(f"bounds must be an int or pairs (lower, upper) of real numbers, found {bounds!r}")
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
        hint = f"; for one dimension, give [{tuple(array.tolist())}]" if array.shape == (2,) else ""
        raise ValueError(f"bounds must have shape (d, 2), found {array.shape}{hint}")
    with np.errstate(over="ignore"):
        return array.astype(np.float64)


def _stretched(u: FloatArray, lower: float, upper: float) -> tuple[FloatArray, FloatArray | float]:
    """Map u (n,) to x (n,) between the bounds, and compute log |dx/du|."""
    if math.isfinite(lower) and math.isfinite(upper):
        x = np.clip(lower + u * (upper - lower), *_innermost(lower, upper))
        return x, math.log(upper - lower)
    first, last = _innermost(lower, upper)
    if math.isfinite(lower):
        u = np.minimum(u, MAX_ON_CUBE)
        return np.clip(lower + u / (1 - u), first, _LARGEST), -2 * np.log1p(-u)
    u = np.maximum(u, MIN_ON_CUBE)
    if math.isfinite(upper):
        with np.errstate(over="ignore"):  # where the upper bound is near the most negative float64
            return np.clip(upper - (1 - u) / u, -_LARGEST, last), -2 * np.log(u)
    u = np.minimum(u, MAX_ON_CUBE)
    spread = u * (1 - u)
    return (u - 0.5) / spread, _log_derivative_of_line(u)


def _innermost(lower: float, upper: float) -> tuple[float, float]:
    """Smallest and largest number between bounds, where f is not evaluated; these themselves if none is."""
    # Differences from bounds of 0 are to be normal numbers, whose inverse is finite.
    first = max(math.nextafter(lower, math.inf), lower + MIN_ON_CUBE)
    last = min(math.nextafter(upper, -math.inf), upper - MIN_ON_CUBE)
    return (first, last) if first <= last else (lower, upper)


def _shrunk(x: FloatArray, lower: float, upper: float) -> tuple[FloatArray, FloatArray | float]:
    """Map x (n,) between the bounds to u (n,), and compute log |dx/du|."""
    if math.isfinite(lower) and math.isfinite(upper):
        return (x - lower) / (upper - lower), math.log(upper - lower)
    if math.isfinite(lower) or math.isfinite(upper):
        with np.errstate(over="ignore"):
            distance = np.minimum(x - lower if math.isfinite(lower) else upper - x, _LARGEST)
        u = distance / (1 + distance) if math.isfinite(lower) else 1 / (1 + distance)
        return u, 2 * np.log1p(distance)
    # u solves x u (1 - u) = u - 1/2. The smaller one of u and 1 - u is computed as a sum of positive terms,
    # without cancellation; the factors 0.5 keep the sum of the root and |x| from overflowing.
    root = np.hypot(1.0, x)
    lesser = 0.5 * (1 + 0.5 / (0.5 * root + 0.5 * np.abs(x))) / (1 + root)
    return np.where(x < 0, lesser, 1 - lesser), _log_derivative_of_line(lesser)


def _log_derivative_of_line(u: FloatArray) -> FloatArray:
    """Compute the log of d/du of (u - 1/2) / (u (1 - u)), which is the same at u and 1 - u."""
    derivative: FloatArray = np.log(0.5 - u * (1 - u)) - 2 * (np.log(u) + np.log1p(-u))
    return derivative
