"""Weighted points for training a flow, validated once, when the dataset is created."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from numbers import Integral, Real
from typing import Any, Protocol, TypeAlias, runtime_checkable

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
    read_only,
    row_blocks,
)
from varflow.data.discrete import Discrete, bounds_of_states, check_whole, checked_discrete
from varflow.data.points import read_points, write_points
from varflow.data.shared_points import read_shared_points
from varflow.errors import FileFormatError
from varflow.markup import number, pairs, table
from varflow.runtime.backend import is_on_device, load_gpu
from varflow.runtime.communicator import ALONE, Communicator
from varflow.runtime.fingerprint import digest_of
from varflow.runtime.ranks import as_communicator

__all__ = ["Dataset", "minibatch_rows", "permuted_rows"]

logger = logging.getLogger(__name__)

_LOG_2 = math.log(2.0)
# Largest difference in log p between a density and what a dataset stores for its own points: it leaves room
# for the rounding of float32 networks. A wrong density, or one not normalised, is much further off.
_AGREEMENT = 1e-4


@runtime_checkable
class _HasLogProb(Protocol):
    """A density that knows its logarithm, as a flow does."""

    def log_prob(self, x: FloatArray, /) -> npt.ArrayLike:
        """Compute the logarithm of the density, (n,), at points x (n, d)."""


Density: TypeAlias = _HasLogProb | Callable[[FloatArray], npt.ArrayLike]


class Dataset:
    """Points x drawn from a known density p, with the values f(x) of the function to be integrated.

    Arrays that are already C-contiguous float64 are not copied; others are converted. The arrays are never
    modified, and must not be modified by others while the dataset is in use. Arrays on a GPU are copied to
    the host for validation; training on a GPU uses the original points in place if they are C-contiguous
    float64.

    Parameters
    ----------
    x : array_like, (n, d)
        Points, within `bounds`.
    px : array_like, (n,), optional
        Density from which the points were drawn, > 0, in 1 / (units of x)^d. Give either this or `logpx`.
    fx : array_like, (n,), optional
        Values of the function, of either sign; a flow learns |f|. Give either this or `logfx`.
    logpx : array_like, (n,), optional
        Natural logarithm of the density.
    logfx : array_like, (n,), optional
        Natural logarithm of the function, which is then taken to be non-negative; -inf where it is zero.
    bounds : array_like, (d, 2) or (2,), optional
        Lower and upper bound of each dimension, or of all of them: finite, or -inf and inf in all
        dimensions, for points that have no bounds. The default is the unit cube.
    conditions : array_like, (n, c), optional
        Numbers that p and f depend on besides, and that were not drawn from p, such as parameters of f: for
        flows with c conditions. p is then the density of x given the conditions. What is learnt of each is
        weighed by the square of the integral of f there; where that varies much, divide f by an estimate.
    discrete : dict, optional
        Columns of x, from 0, that are discrete, with their numbers of states k, or as a `Discrete`: they hold
        whole numbers from 0 to k - 1, and p is the probability of the states times the density of the rest.

    Attributes
    ----------
    x : ndarray, (n, d)
        The points.
    bounds : ndarray, (d, 2)
        The bounds.
    conditions : ndarray, (n, c)
        The conditions; (n, 0) where there are none.
    discrete : dict
        The `Discrete` of each discrete column, by its number.

    Raises
    ------
    TypeError
        If an array is masked or does not contain real numbers, or if both or neither of a quantity and its
        logarithm are given.
    ValueError
        If there are no points, shapes are inconsistent, a value violates the conditions above, or f is zero
        everywhere. The message names the first offending row, counted from 0.

    Examples
    --------
    Four uniform points, and values of a function of either sign:

    >>> x = [[0.1, 0.2], [0.4, 0.8], [0.9, 0.6], [0.9, 0.6]]
    >>> data = vf.Dataset(x, px=np.ones(4), fx=[1.0, 0.0, -2.0, -2.0])
    >>> data
    Dataset(n=4, d=2, px, fx)
    >>> data.n, data.d, data.n_nonzero, data.n_duplicates, data.has_both_signs
    (4, 2, 3, 1, True)
    >>> round(np.exp(data.log_integral).item(), 6)  # the mean of |f|/p
    1.25

    Two times e^-1000 would underflow, and is given by its logarithm:

    >>> tiny = vf.Dataset([[0.5]], px=[2.0], logfx=[np.log(2) - 1000])
    >>> tiny.logfx - tiny.logpx
    array([-1000.])
    >>> tiny.fx, tiny.px
    (array([0.]), array([2.]))

    Points of a function with a parameter, whose value each has:

    >>> given = vf.Dataset([[0.1], [0.4]], px=[1.0, 1.0], fx=[3.0, 2.0], conditions=[[90.5], [91.2]])
    >>> given, given.n_conditions
    (Dataset(n=2, d=1, n_conditions=1, px, fx), 1)

    Points whose first coordinate is one of three states:

    >>> states = vf.Dataset([[0, 0.1], [2, 0.4]], px=[1 / 3, 1 / 3], fx=[1.0, 2.0], discrete={0: 3})
    >>> states.discrete, states.bounds.tolist()
    ({0: Discrete(3)}, [[0.0, 3.0], [0.0, 1.0]])

    Points are known again by a sum over all of them:

    >>> data.save("events.npz")
    >>> vf.Dataset.read("events.npz").digest() == data.digest()
    True
    """

    x: FloatArray
    bounds: FloatArray
    conditions: FloatArray
    device_x: Any  # the points on the GPU, if they can be used there in place, or None
    _values: dict[str, FloatArray]  # the given arrays, by name: px or logpx, and fx or logfx
    discrete: dict[int, Discrete]
    _comm: Communicator = ALONE  # ranks that have the arrays in common

    def __init__(
        self,
        x: npt.ArrayLike,
        px: npt.ArrayLike | None = None,
        fx: npt.ArrayLike | None = None,
        *,
        logpx: npt.ArrayLike | None = None,
        logfx: npt.ArrayLike | None = None,
        bounds: npt.ArrayLike | None = None,
        conditions: npt.ArrayLike | None = None,
        discrete: Mapping[int, Any] | None = None,
    ) -> None:
        given = _only_one(px=px, logpx=logpx) | _only_one(fx=fx, logfx=logfx)
        points = finite_points("x", x)
        self.bounds = checked_bounds(bounds, points.shape[1], may_be_infinite=True)
        self.discrete = checked_discrete(discrete, points.shape[1])
        if self.discrete:
            self.bounds = bounds_of_states(self.bounds, self.discrete)
        check_whole("x", points, self.discrete)
        self.x = points_within("x", points, self.bounds)
        self.device_x = _kept_on_device(x)
        self._values = {name: as_floats(name, values) for name, values in given.items()}
        for name, values in self._values.items():
            _check_values(name, values, self.n)
        self.conditions = _checked_conditions(conditions, self.n)

    @classmethod
    def _checked(
        cls,
        x: FloatArray,
        values: dict[str, FloatArray],
        bounds: FloatArray,
        conditions: FloatArray,
        discrete: dict[int, Discrete],
    ) -> "Dataset":
        """Build a dataset from validated rows, in all of which f may be zero."""
        data = cls.__new__(cls)
        data.x, data._values, data.bounds, data.conditions = x, values, bounds, conditions
        data.device_x, data.discrete = None, discrete
        return data

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        bounds: npt.ArrayLike | None = None,
        *,
        columns: Sequence[str] | None = None,
        conditions: Sequence[str] | None = None,
        discrete: Mapping[int, Any] | None = None,
        comm: Any = None,
    ) -> "Dataset":
        """Read a dataset from a file.

        Arrays in npz and HDF5 files have the names of the arguments of `Dataset`. Text has a row a point.

        Parameters
        ----------
        path : str or path
            The file: ``.npz``, ``.csv``, ``.tsv``, ``.txt``, ``.dat``, ``.h5`` or ``.hdf5``; text may be
            compressed by gzip, bz2 or xz. ``file.h5:/group`` is a group in an HDF5 file.
        bounds : array_like, (d, 2) or (2,), optional
            Bounds. The default is the bounds in the file, or the unit cube if it has none.
        columns : sequence of str, optional
            For text: the names of all columns, in order, such as ``["x1", "x2", "p", "f"]``: one is p (or px,
            logp, logpx), one f (or fx, logf, logfx), the others are coordinates. The default is what the
            header of the file says, or x..., p, f if it has none.
        conditions : sequence of str, optional
            For text: the names of the columns that are conditions, rather than coordinates. The default is
            those called condition1, condition2 and so on. Of other files, it is the array conditions.
        discrete : dict, optional
            Columns of x that are discrete, with their numbers of states, as for `Dataset`; files do not tell.
        comm : mpi4py.MPI.Intracomm, optional
            Ranks that all read the file, for a training with the same `comm`. The rows lie once in the memory
            of each node, as do those of parts that the dataset is split into. Each rank reads a share of the
            rows of HDF5 files, and of npz files that are not compressed, whose checksums are not looked at
            then; the first of each node reads other files.

        Returns
        -------
        Dataset
            The points in the file.

        Raises
        ------
        FileFormatError
            If the file cannot be parsed, its header does not say what each column is, or its points fail
            validation.
        OSError
            If the file cannot be opened.
        TypeError, ValueError
            If the extension is unknown, if `columns` does not name x, p and f, or `conditions` does not name
            columns of the file, or one of them is given for a file whose arrays have names.
        ImportError
            If the file is in HDF5 format and h5py is not installed.

        Examples
        --------
        >>> from pathlib import Path
        >>> _ = Path("events.dat").write_text("3.0 0.1 0.2 1.0")
        >>> data = vf.Dataset.read("events.dat", columns=["f", "x1", "x2", "p"])
        >>> data.x, data.fx
        (array([[0.1, 0.2]]), array([3.]))
        """
        ranks = as_communicator(comm)
        with ranks.together():
            read = partial(read_shared_points, comm=ranks) if ranks.size > 1 else read_points
            arrays: dict[str, Any] = read(path, columns, conditions)
            if bounds is not None:
                arrays["bounds"] = bounds
            try:
                data = cls(**arrays, discrete=discrete)
            except (TypeError, ValueError) as error:
                raise FileFormatError(f"{path}: {error}") from error
        data._comm = ranks
        logger.info("read %s, %d points with d = %d", os.fspath(path), data.n, data.d)
        return data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the dataset to a file that `read` can read; text files do not store the bounds.

        Which columns are discrete is in no file: `read` is told it again.

        Parameters
        ----------
        path : str or path
            Name of the file. An existing file is replaced once the new one is complete.

        Raises
        ------
        OSError
            If the file cannot be written.
        ValueError
            If the extension is unknown.

        Examples
        --------
        >>> from pathlib import Path
        >>> vf.Dataset([[0.25]], px=[1.0], fx=[2.0]).save("events.csv")
        >>> Path("events.csv").read_text().split()
        ['x1,p,f', '0.25,1,2']
        """
        given = {"conditions": self.conditions} if self.n_conditions > 0 else {}
        write_points(path, {"x": self.x, **given, **self._values, "bounds": self.bounds})

    @staticmethod
    def concatenate(*datasets: "Dataset", densities: Sequence[Density | None] | None = None) -> "Dataset":
        """Concatenate datasets, in the order given.

        The mean of f/p over the result estimates the integral of f, whichever of two densities p its points
        get. Let dataset k hold n_k of the N points, drawn from p_k.

        **Their own.** Without `densities`, or if one of them is None, each point keeps the p that is stored
        with it. Each p_k must be positive wherever f is not zero. The variance of the estimate is

            sum_k n_k sigma_k^2 / N^2,    where sigma_k^2 is the variance of f/p_k under p_k.

        The worst set dominates this sum: if p_k is far too small somewhere, a few points with large f/p_k
        outweigh all others, however good the other sets are.

        **That of the mixture.** If all densities are given, each point gets

            p(x) = sum_k n_k p_k(x) / N,

        whichever set it is from: the balance heuristic (Veach and Guibas, SIGGRAPH 1995, 419), or
        deterministic mixture (Owen and Zhou, J. Am. Stat. Assoc. 95 (2000) 135). It is enough that one of
        the p_k is positive wherever f is not zero, and a point is harmless if any set has a large density
        there. The variance of the estimate is

            sum_k n_k Var_{p_k}(f/p) / N^2,

        which never exceeds that of N independent draws from the mixture, Var_p(f/p) / N. The estimate is
        unbiased if no p_k depends on the points of the sets. A flow that was trained on another of the sets
        does, and brings the small bias of adaptive multiple importance sampling (Cornuet et al., Scand. J.
        Stat. 39 (2012) 798). Where there are conditions, those of all sets must have been drawn alike.

        Parameters
        ----------
        *datasets : Dataset
            One or more datasets with the same d, bounds and number of conditions.
        densities : sequence, optional
            For each dataset, the density p_k from which its points were drawn, normalised, in 1 / (units of
            x)^d: an object with a method ``log_prob(x)``, such as a flow, that returns log p_k, (n,), -inf
            where p_k is zero; or a function ``density(x)`` that returns p_k itself, (n,); or None if it is
            not known. Each is evaluated at the points of all datasets, in blocks of rows, which are
            read-only; none is if one of them is None. Where the datasets have conditions, they are a second
            argument, (m, c).

        Returns
        -------
        Dataset
            All rows. If any of the datasets holds f as its logarithm, so does the result, and the sign of f
            is lost. Likewise for p; the density of the mixture is always held as its logarithm.

        Raises
        ------
        TypeError
            If a density is none of these, or does not return real numbers.
        ValueError
            If no datasets are given, or if their dimensions, bounds or numbers of conditions differ; if there
            is not one density for each dataset, if one returns the wrong shape, NaN, infinite or negative
            densities, or if its logarithm differs by more than 1e-4 from what its dataset stores for its own
            points. The tolerance is the same for all. It allows for the rounding of float32 networks, but not
            for points that were rounded to float32 once drawn: at the edge of a bin, the density of a flow
            may jump.

        Examples
        --------
        Uniform points, and as many in the lower half, where the mixture is denser:

        >>> x = np.random.default_rng(1).random((100, 1))
        >>> sets = [vf.Dataset(x, px=np.ones(100), fx=np.exp(-x[:, 0]))]
        >>> sets += [vf.Dataset(x / 2, px=np.full(100, 2.0), fx=np.exp(-x[:, 0] / 2))]
        >>> densities = [lambda x: np.ones(len(x)), lambda x: np.where(x[:, 0] < 0.5, 2.0, 0.0)]
        >>> data = vf.Dataset.concatenate(*sets, densities=densities)
        >>> data.n, np.unique(data.px.round(6))
        (200, array([0.5, 1.5]))
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
            if data.discrete != first.discrete:
                found = f"{first.discrete} and {data.discrete}"
                raise ValueError(f"datasets must have the same discrete columns, found {found}")
            if data.n_conditions != first.n_conditions:
                found = f"{first.n_conditions} and {data.n_conditions}"
                raise ValueError(f"datasets must have the same number of conditions, found {found}")
        if known := _known_densities(datasets, densities):
            values = {"logpx": _log_mixture(datasets, known)}
        else:
            values = _joined(datasets, "px", "logpx")
        values |= _joined(datasets, "fx", "logfx")
        x, conditions = (
            np.concatenate([getattr(data, name) for data in datasets]) for name in ("x", "conditions")
        )
        return Dataset._checked(x, values, first.bounds, conditions, first.discrete)

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.x)

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return self.x.shape[1]

    @property
    def n_conditions(self) -> int:
        """Number of conditions of a point."""
        return self.conditions.shape[1]

    @property
    def px(self) -> FloatArray:
        """Density, (n,); if given as a logarithm, recomputed on each access, and may under- or overflow."""
        return _value_or_exp(self._values, "px")

    @property
    def fx(self) -> FloatArray:
        """Function, (n,); if given as a logarithm, recomputed on each access, and may under- or overflow."""
        return _value_or_exp(self._values, "fx")

    @property
    def has_both_signs(self) -> bool:
        """Whether f is positive at some points and negative at others."""
        fx = self._values.get("fx")
        return fx is not None and bool(fx.min() < 0 < fx.max())

    @property
    def logpx(self) -> FloatArray:
        """Logarithm of the density, (n,)."""
        return self._log_p(slice(None))

    @property
    def logfx(self) -> FloatArray:
        """Logarithm of |f|, (n,); -inf where f is zero."""
        return self._log_f(slice(None))

    @property
    def n_nonzero(self) -> int:
        """Number of points where f is not zero."""
        return sum(int(np.count_nonzero(self._log_f(rows) > -math.inf)) for rows in row_blocks(self.n))

    def logpx_in_common(self, comm: Communicator) -> FloatArray:
        """Give `logpx`; what is not stored is computed once for all ranks of a node, by all of them.

        Parameters
        ----------
        comm : Communicator
            The ranks, as the trainers have them.

        Returns
        -------
        ndarray, (n,)
            Logarithm of the density.

        Examples
        --------
        >>> from varflow.runtime.ranks import as_communicator
        >>> data = vf.Dataset([[0.25]], px=[1.0], fx=[2.0])
        >>> data.logpx_in_common(as_communicator(None))
        array([0.])
        """
        if "logpx" in self._values:
            return self._values["logpx"]
        return comm.fill_shared((self.n,), lambda begin, end: self._log_p(slice(begin, end)))

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        given = f"n_conditions={self.n_conditions}, " if self.n_conditions > 0 else ""
        return f"Dataset(n={self.n}, d={self.d}, {given}{', '.join(self._values)})"

    def _repr_html_(self) -> str:
        """Return numbers of points and ranges as HTML, for notebooks."""
        shown = {
            "points": f"{self.n:,}",
            "dimensions": self.d,
            "points where f is zero": f"{1 - self.n_nonzero / self.n:.2%}",
            "effective sample size of f/p": f"{self._effective_share:.2%} of the points",
            "signs of f": "both" if self.has_both_signs else "one",
        }
        bounds, extremes = self.bounds, zip(self.x.min(axis=0), self.x.max(axis=0), strict=True)
        rows = [
            (f"x{k + 1}", number(lower), number(least), number(most), number(upper))
            for k, ((lower, upper), (least, most)) in enumerate(zip(bounds, extremes, strict=True))
        ]
        others = {f"condition {k + 1}": column for k, column in enumerate(self.conditions.T)}
        rows += [
            (name, "-", number(values.min()), number(values.max()), "-")
            for name, values in (others | self._values).items()
        ]
        titles = ["quantity", "lower bound", "smallest", "largest", "upper bound"]
        return pairs("Dataset", shown) + table("Ranges", titles, rows)

    @property
    def _effective_share(self) -> float:
        """Effective sample size of the weights f/p, as a fraction of the points."""
        if self._log_mean == -math.inf:
            return 0.0
        log_weights = self.log_weight(1)
        return math.exp(2 * log_sum_exp(log_weights) - log_sum_exp(2 * log_weights)) / self.n

    @property
    def log_integral(self) -> float:
        """Log of the mean of |f|/p, which estimates the integral of |f|; -inf if f is zero everywhere."""
        return self._log_mean + self._scale * (1.0 if "logfx" in self._values else _LOG_2)

    def log_weight(self, power: int, rows: slice = slice(None)) -> FloatArray:
        """Compute log(f̂^power / p) for each point, or some of them, where f̂ = |f| / (mean of |f|/p).

        The result is bitwise invariant under multiplication of fx by a power of two, as long as no element
        of fx under- or overflows.

        Parameters
        ----------
        power : {1, 2}
            Power of f̂.
        rows : slice
            Which points, one after the other.

        Returns
        -------
        ndarray, (n,) or (number of rows,)
            Logarithms of the weights; -inf where f is zero.

        Raises
        ------
        ValueError
            If `power` is neither 1 nor 2.

        Examples
        --------
        >>> data = vf.Dataset([[0.1], [0.9]], px=[1.0, 1.0], fx=[300.0, 100.0])
        >>> np.exp(data.log_weight(1)).round(6)
        array([1.5, 0.5])
        """
        if power not in (1, 2):
            raise ValueError(f"power must be 1 or 2, found {power!r}")
        mean = self._log_mean if self._log_mean > -math.inf else 0.0
        first, last, _ = rows.indices(self.n)
        weight = np.empty(last - first)
        for part in row_blocks(last - first):
            wanted = slice(first + part.start, first + part.stop)
            weight[part] = power * (self._log_scaled_f(wanted) - mean) - self._log_p(wanted)
        return weight

    @cached_property
    def n_duplicates(self) -> int:
        """Number of rows whose point, with its conditions, occurs in an earlier row; -0.0 equals 0.0."""
        # Rows that are equal agree in the first coordinate, where continuous points hardly ever do.
        first = np.ascontiguousarray(self.x[:, 0])
        ordered = np.sort(first)
        shared = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(shared) == 0:
            return 0
        is_tied = np.isin(first, shared)
        tied = np.concatenate([self.x[is_tied], self.conditions[is_tied]], axis=1)
        tied += 0.0  # turns -0.0 into 0.0, as rows are sorted by their bytes
        tied.view(f"V{tied[0].nbytes}")[:, 0].sort()
        return int(np.count_nonzero((tied[1:] == tied[:-1]).all(axis=1)))

    def digest(self) -> str:
        """Compute a SHA-256 sum of all points, p and f, by which they are known again.

        Returns
        -------
        str
            The sum, in hexadecimal digits.
        """
        return digest_of(self._columns())

    def _columns(self) -> Iterator[FloatArray]:
        """Give x, and log p and log |f| in blocks, so that these are not in memory as a whole."""
        yield self.x
        if self.n_conditions > 0:
            yield self.conditions
        for values in (self._log_p, self._log_f):
            yield from map(values, row_blocks(self.n))

    def split(self, fraction: float, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """Split the rows randomly into two datasets.

        Parameters
        ----------
        fraction : float
            Fraction of the rows that go into the second dataset, in (0, 1).
        seed : int
            Seed of the random numbers.

        Returns
        -------
        Dataset, Dataset
            The second has round(fraction * n) rows, the first has the others.

        Raises
        ------
        ValueError
            If `fraction` is not in (0, 1), or leaves one of the datasets without rows.

        Examples
        --------
        >>> data = vf.Dataset(np.linspace(0, 1, 10)[:, None], px=np.ones(10), fx=np.ones(10))
        >>> learnt, held_out = data.split(0.2, seed=1)
        >>> learnt.n, held_out.n
        (8, 2)
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, found {fraction!r}")
        second = round(fraction * self.n)
        if not 0 < second < self.n:
            raise ValueError(f"fraction {fraction!r} of {self.n} rows leaves one part without rows")
        order = permuted_rows(self.n, seed, self._comm)
        return self._part(order[second:]), self._part(order[:second])

    def minibatches(self, size: int | float | None, seed: int = 0) -> Iterator["Dataset"]:
        """Iterate over all rows once, in random order, in minibatches.

        Parameters
        ----------
        size : int, float or None
            Rows of a minibatch, or a fraction of all in (0, 1] as a float; None means all. The last one may
            be smaller.
        seed : int
            Seed of the random numbers.

        Returns
        -------
        iterator of Dataset
            The minibatches.

        Raises
        ------
        TypeError, ValueError
            If `size` is not valid.

        Examples
        --------
        >>> data = vf.Dataset(np.linspace(0, 1, 10)[:, None], px=np.ones(10), fx=np.ones(10))
        >>> [part.n for part in data.minibatches(4, seed=1)]
        [4, 4, 2]
        """
        rows = minibatch_rows(size, self.n)
        order = np.random.default_rng(seed).permutation(self.n)
        return (self._take(order[start : start + rows]) for start in range(0, self.n, rows))

    def _part(self, rows: npt.NDArray[np.intp]) -> "Dataset":
        """Take rows for a dataset that lies where this one does: in memory that ranks have in common."""

        def taken(array: FloatArray) -> FloatArray:
            shape = (len(rows), *array.shape[1:])
            part = self._comm.fill_shared(shape, lambda begin, end: array[rows[begin:end]])
            return part if self._comm.size == 1 else read_only(part)

        values = {name: taken(array) for name, array in self._values.items()}
        conditions = taken(self.conditions) if self.n_conditions > 0 else self.conditions[: len(rows)]
        part = Dataset._checked(taken(self.x), values, self.bounds, conditions, self.discrete)
        part._comm = self._comm
        return part

    def _take(self, rows: npt.NDArray[np.intp]) -> "Dataset":
        values = {name: values[rows] for name, values in self._values.items()}
        return Dataset._checked(self.x[rows], values, self.bounds, self.conditions[rows], self.discrete)

    @cached_property
    def _scale(self) -> float:
        """Log of the scale that f is divided by: to base 2 and an integer for fx, the maximum for logfx."""
        if "logfx" in self._values:
            top = float(self._values["logfx"].max())
            return top if top > -math.inf else 0.0
        fx = self._values["fx"]
        return int(np.frexp(max(fx.max(), -fx.min()))[1])

    @cached_property
    def _log_mean(self) -> float:
        """Logarithm of the mean of |f|/p, with f divided by its scale."""
        sums = [log_sum_exp(self._log_scaled_f(rows) - self._log_p(rows)) for rows in row_blocks(self.n)]
        return log_sum_exp(np.array(sums)) - math.log(self.n)

    def _log_scaled_f(self, rows: slice) -> FloatArray:
        if "logfx" in self._values:
            return self._values["logfx"][rows] - self._scale
        # Subtract the exponents as integers: a division would underflow for values far below the largest.
        mantissa, exponent = np.frexp(np.abs(self._values["fx"][rows]))
        with np.errstate(divide="ignore"):
            return np.log(mantissa) + (exponent - self._scale) * _LOG_2

    def _log_f(self, rows: slice) -> FloatArray:
        if "logfx" in self._values:
            return self._values["logfx"][rows]
        with np.errstate(divide="ignore"):
            return np.log(np.abs(self._values["fx"][rows]))

    def _log_p(self, rows: slice) -> FloatArray:
        if "logpx" in self._values:
            return self._values["logpx"][rows]
        return np.log(self._values["px"][rows])


def minibatch_rows(size: int | float | None, n: int) -> int:
    """Return the number of rows in a minibatch.

    Parameters
    ----------
    size : int, float or None
        Number of rows as an int (at least 1; values larger than n mean n), or fraction of n in (0, 1] as a
        float; None means all rows.
    n : int
        Total number of rows.

    Returns
    -------
    int
        Number of rows, from 1 to n.

    Raises
    ------
    TypeError
        If `size` has another type; bool is not accepted as an int.
    ValueError
        If `size` is out of range, or a fraction that rounds to zero rows.
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


def permuted_rows(n: int, seed: int, comm: Communicator = ALONE) -> npt.NDArray[np.int64]:
    """Put n rows in random order, (n,), which the ranks of a node have in common."""
    return comm.fill_shared((n,), lambda *_: np.random.default_rng(seed).permutation(n), True, np.int64)


def _only_one(**pair: npt.ArrayLike | None) -> dict[str, npt.ArrayLike]:
    given = {name: values for name, values in pair.items() if values is not None}
    if len(given) != 1:
        raise TypeError(f"give either {' or '.join(pair)}, found {'both' if given else 'neither'}")
    return given


def _kept_on_device(x: object) -> Any:
    """Return points on a GPU as a Numba device array, if they are C-contiguous float64, or else None."""
    if not is_on_device(x):
        return None
    array = load_gpu().as_device_array(x)
    return array if array.dtype == np.float64 and array.is_c_contiguous() else None


def _checked_conditions(conditions: npt.ArrayLike | None, n: int) -> FloatArray:
    """Check conditions, (n, c), and return them; (n, 0) if there are none."""
    if conditions is None:
        return np.empty((n, 0))
    array = as_floats("conditions", conditions)
    if array.ndim != 2 or len(array) != n:
        hint = "; for one condition, give conditions[:, None]" if array.shape == (n,) else ""
        raise ValueError(
            f"conditions must have shape ({n}, c), a row for each of x, found {array.shape}{hint}"
        )
    check_rows("conditions", array, "be finite", np.isfinite)
    return array


def _check_values(name: str, values: FloatArray, n: int) -> None:
    """Validate px, logpx, fx or logfx."""
    _check_shape(name, values, n)
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


def _check_shape(name: str, values: FloatArray, n: int) -> None:
    if values.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), one value for each row of x, found {values.shape}")


def _value_or_exp(values: dict[str, FloatArray], name: str) -> FloatArray:
    if name in values:
        return values[name]
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(values[f"log{name}"])


def _joined(datasets: Sequence[Dataset], plain: str, log: str) -> dict[str, FloatArray]:
    """Concatenate p or f, by name: as its logarithm if any of the datasets holds that."""
    name = log if any(log in data._values for data in datasets) else plain
    return {name: np.concatenate([getattr(data, name) for data in datasets])}


def _known_densities(
    datasets: Sequence[Dataset], densities: Sequence[Density | None] | None
) -> Sequence[Density]:
    """Check that there is an entry for each dataset. Returns the densities, or none if not all are known."""
    if densities is None:
        return ()
    if len(densities) != len(datasets):
        raise ValueError(
            f"densities must have one entry for each of the {len(datasets)} datasets, found {len(densities)}"
        )
    for k, density in enumerate(densities):
        if not (density is None or isinstance(density, _HasLogProb) or callable(density)):
            raise TypeError(
                f"densities[{k}] must be an object with a method log_prob, a function, or None, "
                f"found {density!r}"
            )
    known = [density for density in densities if density is not None]
    return known if len(known) == len(datasets) else ()


def _log_mixture(datasets: Sequence[Dataset], densities: Sequence[Density]) -> FloatArray:
    """Compute log(sum_k n_k p_k / N) at all points, (N,).

    It is finite: each point is one of a set k, whose p_k agrees there with a p that is positive.
    """
    n_points = sum(data.n for data in datasets)
    mixtures = []
    for j, data in enumerate(datasets):
        mixture = np.full(data.n, -math.inf)
        for k, density in enumerate(densities):
            log_p = _log_density(f"densities[{k}] at the points of datasets[{j}]", density, data)
            if k == j:
                _check_agreement(k, log_p, data.logpx)
            with np.errstate(under="ignore"):
                np.logaddexp(mixture, log_p + math.log(datasets[k].n / n_points), out=mixture)
        mixtures.append(mixture)
    return np.concatenate(mixtures)


def _log_density(name: str, density: Density, data: Dataset) -> FloatArray:
    """Compute the logarithm of a density, (n,), at the points of a dataset."""
    if isinstance(density, _HasLogProb):
        values = _evaluated(name, density.log_prob, data)
        rule = "have a log_prob that is finite or -inf"
        check_rows(name, values, rule, lambda block: block < math.inf)
        return values
    values = _evaluated(name, density, data)
    check_rows(name, values, "be finite and >= 0", lambda block: (block >= 0) & (block < math.inf))
    with np.errstate(divide="ignore"):
        return np.log(values, out=values)


def _evaluated(name: str, function: Callable[..., npt.ArrayLike], data: Dataset) -> FloatArray:
    """Evaluate a function, in blocks of rows, at the points of a dataset; return its values, (n,)."""
    arrays = [data.x] if data.n_conditions == 0 else [data.x, data.conditions]
    values = np.empty(data.n)
    for rows in row_blocks(data.n):
        block = as_floats(name, function(*(read_only(array[rows]) for array in arrays)))
        _check_shape(name, block, rows.stop - rows.start)
        values[rows] = block
    return values


def _check_agreement(k: int, log_p: FloatArray, stored: FloatArray) -> None:
    """Check that densities[k] is the density that datasets[k] stores for its points."""
    bad = np.flatnonzero(np.abs(log_p - stored) > _AGREEMENT)
    if len(bad) == 0:
        return
    row = bad[0]
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    raise ValueError(
        f"densities[{k}] must agree with the density that datasets[{k}] stores for its points, found log p = "
        f"{log_p[row]} where {stored[row]} is stored, in row {row}{more}: usually it is not the density from "
        "which they were drawn, it is not normalised, or they were rounded afterwards"
    )
