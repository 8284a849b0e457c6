"""Estimates of integrals from values of the integrand at drawn points, with their covariances.

**Control variate for the defensive mixture.** Points are drawn from the mixture

    q = (1 - a) q_flow + a

of the flow's density q_flow and the uniform density on the unit cube, with the uniform share a (see
`varflow.integration.proposal`). The share a bounds the weights f/q, but it also adds to their scatter: even
if the flow were perfect, q_flow = f/I with I the integral of f, the weights would vary as f/q does. Now both
q_flow and the uniform density integrate to 1, so that

    h = (q_flow - 1) / q

has the mean 0 over points from q; likewise over a fixed number of points from each part of the mixture, where
each part contributes as many points as its share demands. The estimate of I is therefore the mean of

    f/q - a I_0 h

for any I_0 that is fixed before the points are drawn: it has no bias (Owen and Zhou, J. Am. Stat. Assoc. 95
(2000) 135, section 4). If f = I q_flow and I_0 = I, these controlled weights have no scatter at all:

    (f - a I (q_flow - 1)) / q = I ((1 - a) q_flow + a) / q = I.

I_0 is the estimate of the preceding iteration, and 0 in the first one. Where f has several components, each
has its own I_0.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from varflow.integration.averages import standard_deviations
from varflow.integration.iteration import times_power
from varflow.integration.proposal import Draw

__all__ = [
    "MAX_VALUES",
    "Batches",
    "Evaluated",
    "largest_size",
    "magnitudes",
    "sums_of_weights",
    "weights_of",
]

HANDFUL = 10  # points below which scatter says nothing
MAX_VALUES = 1 << 24  # numbers, of all components at some points, that are worked on together
MIN_SQUARED, MAX_SQUARED = 1e-140, 1e140  # values beyond have squares that underflow or overflow


class Evaluated(NamedTuple):
    """Values of the integrand at n points.

    Attributes
    ----------
    f : ndarray, (n, m)
        The values; 0 where they underflow.
    log_f : ndarray, (n,)
        Log of |f|, which does not underflow; -inf where f is zero.
    """

    f: np.ndarray
    log_f: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Evaluated":
        """Add the logs to values (n, m)."""
        with np.errstate(divide="ignore"):
            return cls(values, np.log(magnitudes(values)))

    @classmethod
    def of_logs(cls, log_f: np.ndarray) -> "Evaluated":
        """Add the values to logs (n,) of a positive integrand."""
        with np.errstate(under="ignore"):
            return cls(np.exp(log_f)[:, None], log_f)


def magnitudes(values: np.ndarray) -> np.ndarray:
    """Compute |f| (n,), which is what a flow learns, of values (n, m).

    Where f has several components, it is the root of the sum of their squares.
    """
    if values.shape[1] == 1:
        return np.abs(values[:, 0])
    largest = largest_size(values)
    exponent = math.frexp(largest)[1] if not MIN_SQUARED < largest < MAX_SQUARED else 0
    n_rows = max(1, MAX_VALUES // values.shape[1])
    of_unit = np.empty(len(values))
    for begin in range(0, len(values), n_rows):
        rows = slice(begin, begin + n_rows)
        with np.errstate(under="ignore"):
            of_unit[rows] = np.sqrt(np.sum(np.square(np.ldexp(values[rows], -exponent)), axis=1))
    size: np.ndarray = np.ldexp(of_unit, exponent)
    return size


def largest_size(values: np.ndarray) -> float:
    """Find the largest of the absolute values; 0 where there are none."""
    return float(max(values.max(initial=0.0), -values.min(initial=0.0)))


def _column_blocks(values: np.ndarray) -> Iterator[slice]:
    """Split the components of values (n, m) such that each block has up to ``MAX_VALUES`` numbers."""
    n, m = values.shape
    n_columns = max(1, MAX_VALUES // max(n, 1))
    for begin in range(0, m, n_columns):
        yield slice(begin, begin + n_columns)


def sums_of_weights(log_q: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum |f|/q (m,) over points with log q (n,) and values f (n, m)."""
    sums = [np.abs(weights_of(log_q, values[:, block])).sum(axis=0) for block in _column_blocks(values)]
    return np.concatenate(sums)


def weights_of(log_q: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Compute the weights f/q (n, m) of values f (n, m) at points with log q (n,)."""
    with np.errstate(over="ignore", under="ignore"):
        weights: np.ndarray = values * np.exp(-log_q)[:, None]
    return weights


class Batches:
    """Means over batches of points: their mean is the estimate, their scatter gives its covariance.

    The points of a batch need not be independent of each other, but the batches are: scrambles of
    quasi-random points, or the rounds of a survey.

    Parameters
    ----------
    expected : ndarray, (m,)
        Expected values of the integrals, known before the points are drawn: I_0 in the module's docstring.
    keeps_covariance : bool
        Whether there is to be a covariance, or variances alone.
    """

    def __init__(self, expected: np.ndarray, keeps_covariance: bool = True) -> None:
        self.expected, self.keeps_covariance = expected, keeps_covariance
        self.n = self.n_batches = 0
        self._means: list[np.ndarray] = []
        self._whole: list[np.ndarray] = []
        self._quarters: list[np.ndarray] = []
        self._sum, self._squares, self._largest = 0.0, 0.0, 0.0
        self._hits, self._sizes = np.zeros(len(expected)), np.zeros(len(expected))  # of each component

    def add(self, points: Draw, values: np.ndarray, n_batches: int = 1) -> None:
        """Add points with values f (n, m), which form `n_batches` consecutive batches of equal size.

        The points from the flow, and the uniform ones after them, are each in the order of the batches.
        """
        sizes, parts = np.zeros(len(values)), []
        for block in _column_blocks(values):
            weights = weights_of(points.log_q, values[:, block])
            controlled = _controlled(points, weights, self.expected[block])
            hits, sums = np.count_nonzero(weights, axis=0), np.abs(weights).sum(axis=0)
            sizes += np.abs(weights).sum(axis=1)
            parts.append((hits, sums, *_means_of_batches(points, controlled, n_batches)))
        hits, sums, means, whole, quarters = (
            np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)
        )
        self._hits, self._sizes = self._hits + hits, self._sizes + sums
        self._means.append(means)
        if points.n_uniform < len(points.u):
            self._whole.append(whole)
            self._quarters.append(quarters)
        self.n += len(sizes)
        self.n_batches += n_batches
        self._sum += float(sizes.sum())
        self._squares += float(np.square(sizes).sum())
        self._largest = max(self._largest, float(sizes.max()))

    def add_known(self, points: Draw, values: np.ndarray, n_batches: int, is_known: np.ndarray) -> None:
        """Add the points whose values are known, is_known (n,); batches get the densities of these alone.

        A batch keeps its full weight in the mean, whatever is left of it, and goes where nothing is: none of
        that depends on values, so that the mean is unbiased as long as the loss of points does not.
        """
        if is_known.all():
            self.add(points, values, n_batches)
            return
        n_flow = len(points.u) - points.n_uniform
        batch = np.concatenate([np.arange(n) * n_batches // max(n, 1) for n in (n_flow, points.n_uniform)])
        for k in range(n_batches):
            is_kept = is_known & (batch == k)
            if is_kept.any():
                self.add(points.only(is_kept), values[is_kept])

    def scale(self, exponent: int) -> None:
        """Multiply the integrand by 2^exponent."""
        self.expected, self._sizes = (times_power(one, exponent) for one in (self.expected, self._sizes))
        for parts in (self._means, self._whole, self._quarters):
            parts[:] = [times_power(part, exponent) for part in parts]
        self._sum, self._largest = (float(times_power(one, exponent)) for one in (self._sum, self._largest))
        self._squares = float(times_power(self._squares, 2 * exponent))

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return what was added, as arrays to be saved; see `of`."""
        sums = np.array([self.n, self.n_batches, self._sum, self._squares, self._largest])
        parts = {"means": self._means, "whole": self._whole, "quarters": self._quarters}
        empty = np.empty((0, len(self.expected)))
        arrays = {name: np.concatenate(part) if part else empty for name, part in parts.items()}
        arrays |= {"expected": self.expected, "sums": sums, "hits": self._hits, "sizes": self._sizes}
        return {f"{prefix}_{name}": array for name, array in arrays.items()}

    @classmethod
    def of(cls, prefix: str, arrays: Mapping[str, np.ndarray], keeps_covariance: bool = True) -> "Batches":
        """Rebuild the batches from what `arrays` returned."""
        batches = cls(arrays[f"{prefix}_expected"], keeps_covariance)
        n, n_batches, batches._sum, batches._squares, batches._largest = arrays[f"{prefix}_sums"].tolist()
        batches.n, batches.n_batches = int(n), int(n_batches)
        batches._hits, batches._sizes = arrays[f"{prefix}_hits"], arrays[f"{prefix}_sizes"]
        batches._means, batches._whole, batches._quarters = (
            [arrays[f"{prefix}_{name}"]] for name in ("means", "whole", "quarters")
        )
        return batches

    @property
    def means(self) -> np.ndarray:
        """Means of the batches, (n_batches, m)."""
        return np.concatenate(self._means)

    @property
    def mean(self) -> np.ndarray:
        """The estimate, (m,)."""
        mean: np.ndarray = self.means.mean(axis=0)
        return mean

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of the estimate, (m, m), or its variances alone, (m,).

        Where a component is not zero at a handful of points only, its scatter says nothing: points that were
        not hit by chance could count as much. With h of n points that were, its variance is at least

            (h + 1) (w / n)^2,    if h < ``HANDFUL``,

        the variance of a Poisson number whose mean has the density of a flat prior after h events were seen,
        in units of the mean weight w of the points that were hit: by the component, or by any of them if that
        is larger. Components are taken to be of one kind in that, as the bins of a histogram are.
        """
        residuals = self.means - self.mean
        squares = residuals.T @ residuals if self.keeps_covariance else np.square(residuals).sum(axis=0)
        covariance: np.ndarray = squares / (len(residuals) - 1) / len(residuals)
        rare = np.flatnonzero(self._hits < HANDFUL)
        if len(rare) and self._hits.any():
            hits = self._hits[rare]
            of_component = self._sizes[rare] / np.maximum(hits, 1)
            weight = np.maximum(of_component, self._sizes.sum() / self._hits.sum())
            least = (hits + 1) * np.square(weight / self.n)
            where = (rare, rare) if self.keeps_covariance else (rare,)
            covariance[where] = np.maximum(covariance[where], least)
        return covariance

    @property
    def rate(self) -> float:
        """Exponent r of the decrease of the error with n, as n^-r.

        It is estimated from the scatter of the means over a quarter of each batch's points from the flow and
        over all of them, and as it is an estimate, clipped to the range from 1/2, which independent points
        have, to 1. The smallest of the components' exponents is taken.
        """
        if not self._whole:
            return 0.5
        quarter, whole = (np.concatenate(means).std(axis=0) for means in (self._quarters, self._whole))
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = np.log(quarter / whole) / np.log(4)
        return float(np.clip(np.nan_to_num(rates, nan=0.5).min(), 0.5, 1.0))

    @property
    def ess(self) -> float:
        """Effective sample size (sum w)^2 / (n sum w^2), as a fraction of the points, with w = |f|/q.

        For several components, |f| is the sum of their absolute values.
        """
        return self._sum**2 / (self.n * self._squares) if self._squares > 0 else 0.0

    @property
    def relative_error(self) -> float:
        """Error of the estimate, the largest of the components, relative to the mean of w; see `ess`."""
        error = float(standard_deviations(self.covariance).max())
        return error * self.n / self._sum if self._sum > 0 else np.inf

    @property
    def largest_share(self) -> float:
        """Largest share of a single point in the sum of w; see `ess`."""
        return self._largest / self._sum if self._sum > 0 else 0.0


def _means_of_batches(
    points: Draw, controlled: np.ndarray, n_batches: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average controlled weights (n, m) over each batch: all points, those of the flow, a quarter of these.

    Each is (n_batches, m); the latter two have no rows where no point is from the flow.
    """
    n_flow, m = len(points.u) - points.n_uniform, controlled.shape[1]
    sums = [
        part.reshape(n_batches, len(part) // n_batches, m).sum(axis=1)
        for part in (controlled[:n_flow], controlled[n_flow:])
        if len(part)
    ]
    means = np.sum(sums, axis=0) * (n_batches / len(points.u))
    if n_flow == 0:
        return means, np.empty((0, m)), np.empty((0, m))
    by_batch = controlled[:n_flow].reshape(n_batches, n_flow // n_batches, m)
    return means, by_batch.mean(axis=1), by_batch[:, : max(1, by_batch.shape[1] // 4)].mean(axis=1)


def _controlled(points: Draw, weights: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Subtract the control variate of the module's docstring from weights (n, m)."""
    if points.n_uniform == 0:
        return weights
    with np.errstate(over="ignore", under="ignore"):
        variate = np.exp(points.log_flow - points.log_q) - np.exp(-points.log_q)
    controlled: np.ndarray = weights - points.uniform_share * variate[:, None] * expected
    return controlled
