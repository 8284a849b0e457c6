"""Weighted points that a flow learns from, checked once, where they enter."""

import math
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.backend import is_on_device, load_gpu
from varflow.errors import FileFormatError
from varflow.files import read_points, write_points

__all__ = ["Dataset", "checked_bounds", "checked_points", "minibatch_rows", "read_only"]

FloatArray = npt.NDArray[np.float64]

_BLOCK = 65_536  # rows looked at together, so that temporaries stay small however many rows there are
_LOG_2 = math.log(2.0)


class Dataset:
    """Points x drawn from a known density p, and the values f(x) of the function to be integrated.

    Arrays that are C-contiguous float64 already are held without a copy, others are converted. They are
    never written to, and must not change as long as the dataset is in use. Arrays on a GPU are copied to the
    host for their checks; training there uses points that are C-contiguous float64 where they are.

    Parameters
    ----------
    x : array_like, (n, d)
        Points, within `bounds`.
    px : array_like, (n,), optional
        Density that the points were drawn from, > 0, in 1 / (units of x)^d. Either this or `logpx`.
    fx : array_like, (n,), optional
        Values of the function, of either sign: |f| is what a flow learns. Either this or `logfx`.
    logpx : array_like, (n,), optional
        Natural log of the density.
    logfx : array_like, (n,), optional
        Natural log of the function, which is then taken to be positive; -inf where it is zero.
    bounds : array_like, (d, 2) or (2,), optional
        Lower and upper bound of each dimension, or of all; the unit cube if not given.

    Attributes
    ----------
    x : ndarray, (n, d)
        The points.
    bounds : ndarray, (d, 2)
        The bounds.

    Raises
    ------
    TypeError
        If an array is masked or does not hold real numbers, or both or neither of a value and its log
        are given.
    ValueError
        If there are no points, shapes disagree, a value is not what is said above, or f is zero everywhere.
        The message names the first wrong row, counted from 0.
    """

    x: FloatArray
    bounds: FloatArray
    device_x: Any  # the points where a GPU can use them as they are, or None
    _values: dict[str, FloatArray]  # px or logpx, and fx or logfx: what was given, under its name

    def __init__(
        self,
        x: npt.ArrayLike,
        px: npt.ArrayLike | None = None,
        fx: npt.ArrayLike | None = None,
        *,
        logpx: npt.ArrayLike | None = None,
        logfx: npt.ArrayLike | None = None,
        bounds: npt.ArrayLike | None = None,
    ) -> None:
        given = _only_one(px=px, logpx=logpx) | _only_one(fx=fx, logfx=logfx)
        points = _finite_points("x", x)
        self.bounds = checked_bounds(bounds, points.shape[1])
        self.x = _within("x", points, self.bounds)
        self.device_x = _kept_on_device(x)
        self._values = {name: _floats(name, values) for name, values in given.items()}
        for name, values in self._values.items():
            _check_values(name, values, self.n)

    @classmethod
    def _checked(cls, x: FloatArray, values: dict[str, FloatArray], bounds: FloatArray) -> "Dataset":
        """Build a dataset of rows that were checked before; all of their f may be zero."""
        data = cls.__new__(cls)
        data.x, data._values, data.bounds = x, values, bounds
        data.device_x = None
        return data

    @classmethod
    def read(cls, path: str | os.PathLike[str], bounds: npt.ArrayLike | None = None) -> "Dataset":
        """Read a dataset from a file; see `varflow.files.read_points` for the formats.

        Parameters
        ----------
        path : str or path
            The file: ``.npz``, ``.csv``, ``.txt``, ``.dat``, ``.h5`` or ``.hdf5``.
        bounds : array_like, (d, 2) or (2,), optional
            Bounds; if not given, those in the file, or else the unit cube.

        Returns
        -------
        Dataset
            The points of the file.

        Raises
        ------
        FileFormatError
            If the file cannot be understood, or its points are refused.
        OSError
            If the file cannot be opened.
        ValueError
            If the extension is unknown.
        """
        arrays: dict[str, Any] = read_points(path)
        if bounds is not None:
            arrays["bounds"] = bounds
        try:
            return cls(**arrays)
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the dataset to a file that `read` takes; text files leave the bounds out.

        Parameters
        ----------
        path : str or path
            The file. One that exists is replaced once the new one is complete.

        Raises
        ------
        OSError
            If the file cannot be written.
        ValueError
            If the extension is unknown.
        """
        write_points(path, {"x": self.x, **self._values, "bounds": self.bounds})

    @staticmethod
    def concatenate(*datasets: "Dataset") -> "Dataset":
        """Join datasets, in the order given.

        Parameters
        ----------
        *datasets : Dataset
            One or more, with the same d and bounds.

        Returns
        -------
        Dataset
            All rows. p, or f, is held by its log where any part was given so; the sign of f is lost then.

        Raises
        ------
        ValueError
            If there is none, or dimensions or bounds differ.
        """
        if not datasets:
            raise ValueError("concatenate needs one dataset or more")
        first = datasets[0]
        for data in datasets:
            if data.d != first.d:
                raise ValueError(f"datasets must have the same d, found {first.d} and {data.d}")
            if not np.array_equal(data.bounds, first.bounds):
                found = f"{first.bounds.tolist()} and {data.bounds.tolist()}"
                raise ValueError(f"datasets must have the same bounds, found {found}")
        names = [
            log if any(log in data._values for data in datasets) else plain
            for plain, log in (("px", "logpx"), ("fx", "logfx"))
        ]
        values = {name: np.concatenate([getattr(data, name) for data in datasets]) for name in names}
        return Dataset._checked(np.concatenate([data.x for data in datasets]), values, first.bounds)

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.x)

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return self.x.shape[1]

    @property
    def px(self) -> FloatArray:
        """Density, (n,); where given by its log, computed anew each time, and it may under- or overflow."""
        return _value_or_exp(self._values, "px")

    @property
    def fx(self) -> FloatArray:
        """Function, (n,); where given by its log, computed anew each time, and it may under- or overflow."""
        return _value_or_exp(self._values, "fx")

    @property
    def logpx(self) -> FloatArray:
        """Log of the density, (n,)."""
        return self._log_p(slice(None))

    @property
    def logfx(self) -> FloatArray:
        """Log of |f|, (n,); -inf where f is zero."""
        if "logfx" in self._values:
            return self._values["logfx"]
        with np.errstate(divide="ignore"):
            return np.log(np.abs(self._values["fx"]))

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"Dataset(n={self.n}, d={self.d}, {', '.join(self._values)})"

    @property
    def log_integral(self) -> float:
        """Log of the mean of |f|/p, which estimates the integral of |f|; -inf where every f is zero."""
        return self._log_mean + self._scale * (1.0 if "logfx" in self._values else _LOG_2)

    def log_weight(self, power: int) -> FloatArray:
        """Compute log(f̂^power / p) for each point, where f̂ = |f| / (mean of |f|/p).

        Multiplying fx by a power of two changes no bit of it, as long as no fx under- or overflows.

        Parameters
        ----------
        power : {1, 2}
            Power of f̂.

        Returns
        -------
        ndarray, (n,)
            Log weights; -inf where f is zero.

        Raises
        ------
        ValueError
            If `power` is neither 1 nor 2.
        """
        if power not in (1, 2):
            raise ValueError(f"power must be 1 or 2, found {power!r}")
        mean = self._log_mean if self._log_mean > -math.inf else 0.0
        weight = np.empty(self.n)
        for rows in _blocks(self.n):
            weight[rows] = power * (self._log_scaled_f(rows) - mean) - self._log_p(rows)
        return weight

    def split(self, fraction: float, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """Divide the rows into two random parts.

        Parameters
        ----------
        fraction : float
            Share of the second part, in (0, 1).
        seed : int
            Seed of the random numbers.

        Returns
        -------
        Dataset, Dataset
            The second has round(fraction * n) rows, the first has the others.

        Raises
        ------
        ValueError
            If `fraction` is not in (0, 1), or leaves a part without rows.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, found {fraction!r}")
        second = round(fraction * self.n)
        if not 0 < second < self.n:
            raise ValueError(f"fraction {fraction!r} of {self.n} rows leaves one part without rows")
        order = np.random.default_rng(seed).permutation(self.n)
        return self._take(order[second:]), self._take(order[:second])

    def minibatches(self, size: int | float | None, seed: int = 0) -> Iterator["Dataset"]:
        """Go through all rows once, in random order.

        Parameters
        ----------
        size : int, float or None
            Rows per batch, as in `minibatch_rows`. The last batch may be smaller.
        seed : int
            Seed of the random numbers.

        Returns
        -------
        iterator of Dataset
            The batches.

        Raises
        ------
        TypeError, ValueError
            If `size` is refused by `minibatch_rows`.
        """
        rows = minibatch_rows(size, self.n)
        order = np.random.default_rng(seed).permutation(self.n)
        return (self._take(order[start : start + rows]) for start in range(0, self.n, rows))

    def _take(self, rows: npt.NDArray[np.intp]) -> "Dataset":
        values = {name: values[rows] for name, values in self._values.items()}
        return Dataset._checked(self.x[rows], values, self.bounds)

    @cached_property
    def _scale(self) -> float:
        """What f is divided by: for fx the exponent of a power of two, for logfx the largest of them."""
        if "logfx" in self._values:
            top = float(self._values["logfx"].max())
            return top if top > -math.inf else 0.0
        fx = self._values["fx"]
        return int(np.frexp(max(fx.max(), -fx.min()))[1])

    @cached_property
    def _log_mean(self) -> float:
        """Log of the mean of |f|/p, with f divided by its scale."""
        sums = [_log_sum_exp(self._log_scaled_f(rows) - self._log_p(rows)) for rows in _blocks(self.n)]
        return _log_sum_exp(np.array(sums)) - math.log(self.n)

    def _log_scaled_f(self, rows: slice) -> FloatArray:
        if "logfx" in self._values:
            return self._values["logfx"][rows] - self._scale
        # The exponents are subtracted as integers: dividing would let values far below the largest underflow.
        mantissa, exponent = np.frexp(np.abs(self._values["fx"][rows]))
        with np.errstate(divide="ignore"):
            return np.log(mantissa) + (exponent - self._scale) * _LOG_2

    def _log_p(self, rows: slice) -> FloatArray:
        if "logpx" in self._values:
            return self._values["logpx"][rows]
        return np.log(self._values["px"][rows])


def minibatch_rows(size: int | float | None, n: int) -> int:
    """Find how many rows a batch has.

    Parameters
    ----------
    size : int, float or None
        An int is a number of rows (at least 1, and n if it is larger), a float a fraction of n in (0, 1],
        None stands for all.
    n : int
        Number of rows there are.

    Returns
    -------
    int
        Number of rows, from 1 to n.

    Raises
    ------
    TypeError
        If `size` is none of these; True and False are not either.
    ValueError
        If it is out of range, or the fraction rounds to no row.
    """
    if size is None:
        return n
    if isinstance(size, bool) or not isinstance(size, Real):
        raise TypeError(f"minibatch size must be an int, a float or None, found {size!r}")
    if isinstance(size, Integral):
        if size < 1:
            raise ValueError(f"minibatch size must be at least 1 row, found {size!r}")
        return min(int(size), n)
    if not 0 < size <= 1:
        raise ValueError(f"minibatch size given as a float is a fraction in (0, 1], found {size!r}")
    rows = round(float(size) * n)
    if rows == 0:
        raise ValueError(f"minibatch size {size!r} of {n} rows rounds to 0 rows")
    return rows


def _only_one(**pair: npt.ArrayLike | None) -> dict[str, npt.ArrayLike]:
    given = {name: values for name, values in pair.items() if values is not None}
    if len(given) != 1:
        raise TypeError(f"give either {' or '.join(pair)}, found {'both' if given else 'neither'}")
    return given


def _floats(name: str, values: npt.ArrayLike) -> FloatArray:
    """Convert to a C-contiguous, aligned, native float64 array, without a copy where it is one."""
    parts = values if isinstance(values, list | tuple) else ()  # whose masks NumPy would drop
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
    with np.errstate(over="ignore"):  # a long double too large becomes inf, which is refused as such
        return np.require(array, np.float64, ["C", "A"])


def _kept_on_device(x: object) -> Any:
    """View points that are on a GPU, and C-contiguous float64 there, as numba's device array; else None."""
    if not is_on_device(x):
        return None
    array = load_gpu().as_device_array(x)
    return array if array.dtype == np.float64 and array.is_c_contiguous() else None


def checked_points(name: str, points: npt.ArrayLike, bounds: FloatArray) -> FloatArray:
    """Check that points are finite, of the right dimension and within bounds.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    points : array_like, (n, d)
        The points.
    bounds : ndarray, (d, 2)
        Lower and upper bound of each dimension, which belong to the box.

    Returns
    -------
    ndarray, (n, d)
        C-contiguous float64, without a copy where they were that.

    Raises
    ------
    TypeError, ValueError
        If they are not; the message names the first wrong row.
    """
    array = _finite_points(name, points)
    if array.shape[1] != len(bounds):
        raise ValueError(f"{name} must have shape (n, {len(bounds)}), found {array.shape}")
    return _within(name, array, bounds)


def checked_bounds(bounds: npt.ArrayLike | None, d: int) -> FloatArray:
    """Check the bounds of a box.

    Parameters
    ----------
    bounds : array_like, (d, 2) or (2,), or None
        Lower and upper bound of each dimension, or of all; the unit cube if None.
    d : int
        Number of dimensions.

    Returns
    -------
    ndarray, (d, 2)
        The bounds, a copy.

    Raises
    ------
    TypeError, ValueError
        If they are not finite, reversed, so far apart that their distance is infinite, or so near that it
        is denormal.
    """
    if bounds is None:
        return np.tile([0.0, 1.0], (d, 1))
    array = _floats("bounds", bounds)
    array = np.tile(array, (d, 1)) if array.shape == (2,) else array.copy()
    if array.shape != (d, 2):
        raise ValueError(f"bounds must have shape ({d}, 2) or (2,), found {array.shape}")
    _check_rows("bounds", array, "be finite", np.isfinite)
    with np.errstate(over="ignore"):
        widths = array[:, 1] - array[:, 0]
    # The reciprocal of a denormal width would be infinite.
    for row in np.flatnonzero(~((widths >= np.finfo(np.float64).tiny) & (widths < math.inf))):
        raise ValueError(
            f"bounds must have lower < upper, a finite way apart, found {array[row].tolist()} in row {row}"
        )
    return array


def read_only(array: FloatArray) -> FloatArray:
    """View an array such that it cannot be written to.

    Kernels are given such views of what they read: numba counts arrays of either kind as different types,
    and would compile for each.
    """
    view = array.view()
    view.flags.writeable = False
    return view


def _finite_points(name: str, points: npt.ArrayLike) -> FloatArray:
    array = _floats(name, points)
    if array.ndim == 1:
        raise ValueError(
            f"{name} must have shape (n, d), found {array.shape}; for one dimension, give {name}[:, None]"
        )
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"{name} must have shape (n, d) with a row and a column at least, found {array.shape}"
        )
    _check_rows(name, array, "be finite", np.isfinite)
    return array


def _within(name: str, points: FloatArray, bounds: FloatArray) -> FloatArray:
    lower, upper = bounds.T
    rule = "lie within bounds (the unit cube if not given)"
    _check_rows(name, points, rule, lambda block: (block >= lower) & (block <= upper))
    return points


def _check_values(name: str, values: FloatArray, n: int) -> None:
    """Check px, logpx, fx or logfx."""
    if values.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), one value for each row of x, found {values.shape}")
    if name == "logfx":
        _check_rows(name, values, "be finite or -inf", lambda block: block < math.inf)
        if values.max() == -math.inf:
            raise ValueError("logfx is -inf everywhere: f is zero, and there is nothing to learn")
        return
    _check_rows(name, values, "be finite", np.isfinite)
    if name == "px":
        _check_rows(name, values, "be positive", lambda block: block > 0)
    if name == "fx" and not values.any():
        raise ValueError("fx is zero everywhere: there is nothing to learn")


def _check_rows(
    name: str, array: FloatArray, rule: str, holds: Callable[[FloatArray], npt.NDArray[np.bool_]]
) -> None:
    """Raise ValueError naming the first of the elements for which `holds` is False."""
    first: list[int] = []
    count = 0
    for rows in _blocks(len(array)):
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


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK))


def _value_or_exp(values: dict[str, FloatArray], name: str) -> FloatArray:
    if name in values:
        return values[name]
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(values[f"log{name}"])


def _log_sum_exp(logs: FloatArray) -> float:
    """Log of the sum of exp(logs), free of overflow; -inf where all are."""
    top = float(logs.max())
    if top == -math.inf:
        return top
    with np.errstate(under="ignore"):
        return top + math.log(np.exp(logs - top).sum())
