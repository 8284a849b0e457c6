"""Weighted points that a flow learns from, checked once, where they enter."""

import math
import os
from collections.abc import Iterator
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import (
    FloatArray,
    as_floats,
    check_rows,
    checked_bounds,
    finite_points,
    log_sum_exp,
    points_within,
    row_blocks,
)
from varflow.data.points import read_points, write_points
from varflow.errors import FileFormatError
from varflow.runtime.backend import is_on_device, load_gpu
from varflow.runtime.fingerprint import digest

__all__ = ["Dataset", "minibatch_rows"]

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
        points = finite_points("x", x)
        self.bounds = checked_bounds(bounds, points.shape[1])
        self.x = points_within("x", points, self.bounds)
        self.device_x = _kept_on_device(x)
        self._values = {name: as_floats(name, values) for name, values in given.items()}
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
        """Read a dataset from a file; see `varflow.data.points.read_points` for the formats.

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
        for rows in row_blocks(self.n):
            weight[rows] = power * (self._log_scaled_f(rows) - mean) - self._log_p(rows)
        return weight

    def digest(self) -> str:
        """Compute a SHA-256 sum of all points, p and f, by which they are known again."""
        return digest(self.x, self.logpx, self.logfx)

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
        sums = [log_sum_exp(self._log_scaled_f(rows) - self._log_p(rows)) for rows in row_blocks(self.n)]
        return log_sum_exp(np.array(sums)) - math.log(self.n)

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


def _kept_on_device(x: object) -> Any:
    """View points that are on a GPU, and C-contiguous float64 there, as numba's device array; else None."""
    if not is_on_device(x):
        return None
    array = load_gpu().as_device_array(x)
    return array if array.dtype == np.float64 and array.is_c_contiguous() else None


def _check_values(name: str, values: FloatArray, n: int) -> None:
    """Check px, logpx, fx or logfx."""
    if values.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), one value for each row of x, found {values.shape}")
    if name == "logfx":
        check_rows(name, values, "be finite or -inf", lambda block: block < math.inf)
        if values.max() == -math.inf:
            raise ValueError("logfx is -inf everywhere: f is zero, and there is nothing to learn")
        return
    check_rows(name, values, "be finite", np.isfinite)
    if name == "px":
        check_rows(name, values, "be positive", lambda block: block > 0)
    if name == "fx" and not values.any():
        raise ValueError("fx is zero everywhere: there is nothing to learn")


def _value_or_exp(values: dict[str, FloatArray], name: str) -> FloatArray:
    if name in values:
        return values[name]
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(values[f"log{name}"])
