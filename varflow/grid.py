"""The grid of VEGAS: a map of the unit cube onto itself that is piecewise linear in each coordinate."""

import math

import numpy as np
import numpy.typing as npt

from varflow.architecture import positive_int
from varflow.dataset import checked_points, read_only

__all__ = ["Grid"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

_LEAST_SHARE = 1e-257  # of the importance, which a bin is taken to have: the logarithm needs one above 0
_UNIFORM_SHARE = 1e-10  # of a refined grid, so that no bin vanishes by rounding


class Grid:
    """A map u(v) of the unit cube onto itself, linear in each bin of each coordinate.

    The bins are of equal width in v; in u they are between the edges (Lepage, J. Comput. Phys. 27 (1978)
    192; arXiv 2009.05112, section 2). An edge belongs to the bin above it, but 1 to the last.

    Parameters
    ----------
    edges : array_like, (d, n_bins + 1)
        Edges of the bins in u, rising from 0 to 1 in each dimension.

    Attributes
    ----------
    edges : ndarray, (d, n_bins + 1)
        The edges, read-only.

    Raises
    ------
    TypeError
        If `edges` does not hold real numbers.
    ValueError
        If there is no dimension or no bin, or edges do not rise from 0 to 1. The message names the first
        wrong dimension.
    """

    edges: FloatArray

    def __init__(self, edges: npt.ArrayLike) -> None:
        self.edges = read_only(_checked_edges(edges))
        self._n_bins = self.edges.shape[1] - 1
        self._widths = np.diff(self.edges)
        self._log_slopes = np.log(self._widths) + math.log(self._n_bins)
        self._cube = np.tile([0.0, 1.0], (self.d, 1))

    @classmethod
    def identity(cls, d: int, n_bins: int) -> "Grid":
        """Make the grid that maps each point onto itself.

        Parameters
        ----------
        d : int
            Number of dimensions, at least 1.
        n_bins : int
            Number of bins of each, at least 1.

        Returns
        -------
        Grid
            The grid.

        Raises
        ------
        TypeError, ValueError
            If one is no int, or is below 1.
        """
        d, n_bins = positive_int("d", d), positive_int("n_bins", n_bins)
        return cls(np.tile(np.arange(n_bins + 1) / n_bins, (d, 1)))

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return len(self.edges)

    def from_cube(self, v: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Map points v to u.

        Parameters
        ----------
        v : array_like, (n, d)
            Points of the unit cube.

        Returns
        -------
        u : ndarray, (n, d)
            Points of the unit cube. No coordinate falls as that of v rises, and 0 and 1 stay what they are.
        log_jacobian : ndarray, (n,)
            log |du/dv|, all finite.

        Raises
        ------
        TypeError, ValueError
            If v does not hold n points of the unit cube; the message names the first wrong row.
        """
        points = checked_points("v", v, self._cube)
        u, log_jacobian = np.empty_like(points), np.zeros(len(points))
        for column, edges in enumerate(self.edges):
            bins, offsets = self._located(points[:, column])
            inside = edges[bins] + self._widths[column][bins] * offsets
            # By rounding, the end of a bin may lie beyond its edge, and the map would not be monotone.
            u[:, column] = np.minimum(inside, edges[bins + 1])
            log_jacobian += self._log_slopes[column][bins]
        return u, log_jacobian

    def to_cube(self, u: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Map points u to v: the inverse of `from_cube`.

        Parameters
        ----------
        u : array_like, (n, d)
            Points of the unit cube.

        Returns
        -------
        v : ndarray, (n, d)
            Points of the unit cube. No coordinate falls as that of u rises, and 0 and 1 stay what they are.
        log_jacobian : ndarray, (n,)
            log |du/dv| at these points, as `from_cube` gives it.

        Raises
        ------
        TypeError, ValueError
            If u does not hold n points of the unit cube; the message names the first wrong row.
        """
        points = checked_points("u", u, self._cube)
        v, log_jacobian = np.empty_like(points), np.zeros(len(points))
        for column, edges in enumerate(self.edges):
            bins = np.searchsorted(edges[1:-1], points[:, column], side="right")
            offsets = (points[:, column] - edges[bins]) / self._widths[column][bins]
            v[:, column] = (bins + offsets) / self._n_bins
            log_jacobian += self._log_slopes[column][bins]
        return v, log_jacobian

    def refined(self, v: npt.ArrayLike, weights: npt.ArrayLike, alpha: float = 1.5) -> "Grid":
        """Adapt the grid once to an integrand f(u), as VEGAS does (arXiv 2009.05112, section 2).

        Bins are important as far as the weights in them are large. The edges move such that all new bins
        are of the same importance, which is smoothed before and compressed.

        Parameters
        ----------
        v : array_like, (n, d)
            Points drawn uniformly from the unit cube.
        weights : array_like, (n,)
            (f |du/dv|)^2 at them.
        alpha : float, optional
            How fast the grid adapts, from 0, not at all; the exponent of the compression.

        Returns
        -------
        Grid
            The new grid; this one if all weights are zero.

        Raises
        ------
        TypeError, ValueError
            If v does not hold n points of the unit cube, weights are not n finite numbers from 0, or alpha is
            not one.
        """
        points = checked_points("v", v, self._cube)
        squares = _checked_weights(weights, len(points))
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be finite and at least 0, found {alpha}")
        top = squares.max()
        if top == 0:
            return self
        squares = squares / top  # whose sums do not overflow
        edges = np.empty_like(self.edges)
        for column in range(self.d):
            bins, _ = self._located(points[:, column])
            importance = _compressed(_smoothed(_means(bins, squares, self._n_bins)), alpha)
            edges[column] = _moved(self.edges[column], importance)
        return Grid(edges)

    def _located(self, v: FloatArray) -> tuple[IntArray, FloatArray]:
        """Bins (n,) of coordinates v (n,), and where in them these are, from 0 to 1."""
        scaled = v * self._n_bins
        bins = np.minimum(scaled.astype(np.intp), self._n_bins - 1)
        return bins, scaled - bins


def _checked_edges(edges: npt.ArrayLike) -> FloatArray:
    """Convert to float64, (d, n_bins + 1), a copy."""
    if isinstance(edges, np.ma.MaskedArray):
        raise TypeError("edges must not be a masked array")
    array = np.asarray(edges)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"edges must be real numbers, found dtype {array.dtype}")
    if array.ndim != 2 or len(array) == 0 or array.shape[1] < 2:
        raise ValueError(f"edges must have shape (d, n_bins + 1), found {array.shape}")
    array = array.astype(np.float64)
    for dimension, row in enumerate(array):
        if row[0] != 0 or row[-1] != 1:
            raise ValueError(f"edges[{dimension}] must be from 0 to 1, found {row[0]} to {row[-1]}")
        wrong = np.flatnonzero(~(row[1:] > row[:-1]))
        if len(wrong):
            before, after = row[wrong[0] : wrong[0] + 2]
            raise ValueError(f"edges[{dimension}] must rise strictly, found {after} after {before}")
    return array


def _checked_weights(weights: npt.ArrayLike, n: int) -> FloatArray:
    array = np.asarray(weights)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"weights must be real numbers, found dtype {array.dtype}")
    if array.shape != (n,):
        raise ValueError(f"weights must have shape ({n},), found {array.shape}")
    wrong = np.flatnonzero(~((array >= 0) & (array < math.inf)))
    if len(wrong):
        raise ValueError(f"weights must be finite and at least 0, found {array[wrong[0]]} in row {wrong[0]}")
    return array.astype(np.float64, copy=False)


def _means(bins: IntArray, values: FloatArray, n_bins: int) -> FloatArray:
    """Mean of the values (n,) in each bin, (n_bins,), 0 where there are none."""
    counts = np.bincount(bins, minlength=n_bins)
    means: FloatArray = np.bincount(bins, values, minlength=n_bins) / np.maximum(counts, 1)
    return means


def _smoothed(importance: FloatArray) -> FloatArray:
    """Average with neighbours, as 1 : 6 : 1; at the ends 7 : 1."""
    padded = np.pad(importance, 1, mode="edge")
    smoothed: FloatArray = (padded[:-2] + 6 * importance + padded[2:]) / 8
    return smoothed


def _compressed(importance: FloatArray, alpha: float) -> FloatArray:
    """Take ((1 - r) / log(1/r))^alpha of the shares r, in units of the largest.

    Without it a bin that had a few large weights by chance would take all others in.
    """
    shares = np.clip(importance / importance.sum(), _LEAST_SHARE, math.nextafter(1.0, 0.0))
    compressed = (1 - shares) / -np.log(shares)
    powers: FloatArray = (compressed / compressed.max()) ** alpha
    return powers


def _moved(edges: FloatArray, importance: FloatArray) -> FloatArray:
    """Edges (n_bins + 1,) of new bins that share the importance (n_bins,) of the old ones equally."""
    uniform = np.arange(len(edges)) / len(importance)
    cumulative = np.append(0.0, np.cumsum(importance))
    moved = np.interp(uniform * cumulative[-1], cumulative, edges)
    moved += _UNIFORM_SHARE * (uniform - moved)
    return moved
