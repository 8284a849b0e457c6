"""Tail of importance ratios: the shape of the generalised Pareto distribution that fits it."""

import math

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import FloatArray, as_floats, check_rows

__all__ = ["change_by_heavier", "pareto_scale", "pareto_shape", "pareto_shape_of_largest", "tail_size"]

MIN_TAIL = 5  # distinct ratios in a tail, at least, and its effective number of points
ROUNDING = 1e-12  # relative difference of ratios or counts that is put down to the rounding of their logs
TINY = 1e-100  # instead of theta = 0, where theta / k has a limit but no value
PRIOR_POINTS, PRIOR_SHAPE = 10, 0.5  # prior of the shape: as if so many points had that shape
MIN_HEAVY = 0.5  # shape from which on ratios have no variance
MAX_MEAN_SHAPE = 0.8  # the excess is that of this shape where k is larger


def tail_size(n: float) -> float:
    """Compute how many of n ratios make the tail: min(n/5, 3 sqrt(n)), as the paper of `pareto_shape`."""
    return min(n / 5, 3 * math.sqrt(n))


def pareto_shape(log_ratios: npt.ArrayLike, log_counts: npt.ArrayLike | None = None) -> float:
    """Estimate the shape k of the upper tail of importance ratios r = f/q over points from q.

    Ratios with shape k have finite moments of orders below 1/k. Above k = 0.7, estimates of their mean
    converge too slowly to be of use, and so do estimates of their error (Vehtari et al., "Pareto smoothed
    importance sampling", arXiv 1507.02646, JMLR 25 (2024) 72).

    The tail is that of the same paper: the min(n/5, 3 sqrt(n)) largest of n ratios, rounded up, without
    those that equal the next largest, u. A generalised Pareto distribution is fitted to their excesses r - u
    by the estimator of Zhang and Stephens (Technometrics 51 (2009) 316), with a grid of 30 + sqrt(M) points
    for a tail of M, as in the R package loo. A weak prior (appendix C) draws k towards 0.5 as ten points
    with that shape would.

    Points from another density p stand for mu = q/p points from q each. They count as n = (sum mu)^2 /
    sum mu^2 points, and each of them as its share of n in proportion to mu. Sizes and ranks are sums of such
    counts, means are weighted by them. Within the tail, M is likewise the effective number of its own points:
    it says how well the fit is determined, whereas the sum of their counts can be far larger or smaller.
    Where p is above q in the tail, the shape is known more precisely than from points from q. Where p is so
    far below q that few points have most of the tail's count, the estimate is too low.

    Parameters
    ----------
    log_ratios : array_like, (n,)
        Natural logs of the ratios, up to a common constant, on which the shape does not depend; -inf where f
        is zero.
    log_counts : array_like, (n,), optional
        Natural logs of mu, up to a common constant; -inf for points that do not count. All points count
        equally if not given.

    Returns
    -------
    float
        The shape. It is -inf if all ratios are equal, or if u and the largest ones are, 5 or more: ratios
        are then bounded, and reach their bound. It is nan if it cannot be told: f is zero at all points that
        count, there is only one of them, or the tail has fewer than 5 distinct ratios or an effective number
        of points below 5. Ratios that differ by a part in 10^12 or less are taken as equal, as are counts
        if all of them do.

    Raises
    ------
    TypeError
        If an array is masked or does not contain real numbers.
    ValueError
        If an array has the wrong shape, a value is nan or +inf, or no point counts.
    """
    log_ratios = as_floats("log_ratios", log_ratios)
    if log_ratios.ndim != 1 or len(log_ratios) == 0:
        raise ValueError(f"log_ratios must have shape (n,), one value or more, found {log_ratios.shape}")
    check_rows("log_ratios", log_ratios, "be finite or -inf", lambda block: block < math.inf)
    counts = np.ones(len(log_ratios)) if log_counts is None else _counts(log_counts, len(log_ratios))
    log_ratios, counts = log_ratios[counts > 0], counts[counts > 0]
    if counts.min() >= 1 - ROUNDING:
        counts = np.ones(len(counts))  # whose ranks are integers, and must not become others by rounding
    order = np.argsort(-log_ratios)
    with np.errstate(under="ignore"):
        return _shape_of_sorted(log_ratios[order], counts[order])


def pareto_shape_of_largest(log_ratios: FloatArray, n: int) -> float:
    """Estimate the shape k of the upper tail of n importance ratios, see `pareto_shape`, from the largest.

    Parameters
    ----------
    log_ratios : ndarray, (m,)
        Natural logs of the largest ratios, one more than `tail_size` or all of them; -inf where f is zero.
    n : int
        Number of all ratios.

    Returns
    -------
    float
        The shape, -inf or nan as told there.
    """
    order = np.sort(log_ratios)[::-1]
    if len(order) < 2 or order[0] == -math.inf:
        return math.nan
    n_tail = min(math.ceil(tail_size(n)), len(order) - 1)
    with np.errstate(under="ignore"):
        return _shape_of_tail(order, np.ones(len(order)), n_tail)


def change_by_heavier(log_ratios: FloatArray, n: int, log_mean: float) -> float:
    """Compute how much the mean of n ratios would change if one were heavier than all that were seen.

    With a generalised Pareto distribution of shape k and scale sigma above the threshold u, a ratio above the
    largest one, r_1, is expected to be

        r_1 + (sigma + k (r_1 - u)) / (1 - k)

    (Coles, An Introduction to Statistical Modeling of Extreme Values, section 4.3.1: the mean excess is
    linear in the threshold), and one of n may well be so by chance. Sigma follows from the median
    of the excesses. As the tail of few ratios tells k no better than by some tenths, a k above
    ``MAX_MEAN_SHAPE`` counts as that.

    Parameters
    ----------
    log_ratios, n
        As for `pareto_shape_of_largest`.
    log_mean : float
        Natural log of the mean of all n.

    Returns
    -------
    float
        The change relative to the mean; 0 where k is below ``MIN_HEAVY``, so that the variance is finite and
        the scatter tells the error. Infinite where it would exceed the mean while k is not known to be below
        1: then the tail may have no mean, and what was seen says nothing about it.
    """
    k = pareto_shape_of_largest(log_ratios, n)
    if k < MIN_HEAVY:
        return 0.0
    if log_mean == -math.inf or len(log_ratios) < 2:
        return math.inf
    with np.errstate(under="ignore"):
        ratios = np.exp(np.sort(log_ratios)[::-1] - log_mean)
    n_tail = min(math.ceil(tail_size(n)), len(ratios) - 1)
    largest, threshold = float(ratios[0]), float(ratios[n_tail])
    shape = MAX_MEAN_SHAPE if math.isnan(k) else min(k, MAX_MEAN_SHAPE)
    scale = pareto_scale(float(np.median(ratios[:n_tail])) - threshold, shape)
    excess = (scale + shape * (largest - threshold)) / (1 - shape)
    change = (largest - 1 + excess) / n
    # Logs have rounding errors that depend on the units of f, and this no more than three digits.
    return math.inf if change > 1 and not k < 1 else float(f"{change:.3g}")


def pareto_scale(median: float, k: float) -> float:
    """Compute the scale sigma of a generalised Pareto distribution of shape k from its median."""
    return median * k / math.expm1(k * math.log(2)) if k else median / math.log(2)


def _counts(log_counts: npt.ArrayLike, n: int) -> FloatArray:
    """Compute mu, (n,), in units of the largest."""
    log_counts = as_floats("log_counts", log_counts)
    if log_counts.shape != (n,):
        raise ValueError(
            f"log_counts must have shape ({n},), one value for each ratio, found {log_counts.shape}"
        )
    check_rows("log_counts", log_counts, "be finite or -inf", lambda block: block < math.inf)
    top = log_counts.max()
    if top == -math.inf:
        raise ValueError("log_counts is -inf everywhere: there is no point that counts")
    with np.errstate(under="ignore"):
        return np.exp(log_counts - top)


def _effective(counts: FloatArray) -> FloatArray:
    """Scale counts such that their sum is the effective number of points; equal ones become exactly 1."""
    counts = counts / counts.max()
    return counts * (counts.sum() / np.square(counts).sum())


def _rank(counts: FloatArray, target: float) -> int:
    """Find the first index up to which counts sum up to the target, which their total exceeds."""
    return int(np.searchsorted(np.cumsum(counts), target))


def _shape_of_sorted(log_ratios: FloatArray, counts: FloatArray) -> float:
    """Estimate the shape from the logs of ratios in descending order."""
    top = log_ratios[0]
    if len(log_ratios) == 1 or top == -math.inf:
        return math.nan
    if top - log_ratios[-1] <= ROUNDING:
        return -math.inf
    counts_of_all = _effective(counts)
    n = float(counts_of_all.sum())
    n_tail = 1 + _rank(counts_of_all, tail_size(n))
    n_tail = min(n_tail, len(counts) - 1)  # if it takes the last point, that one has most of the count
    return _shape_of_tail(log_ratios, counts, n_tail)


def _shape_of_tail(log_ratios: FloatArray, counts: FloatArray, n_tail: int) -> float:
    """Estimate the shape from the first n_tail ratios in descending order, and the one that follows."""
    top, threshold = log_ratios[0], log_ratios[n_tail]
    if top - threshold <= ROUNDING and n_tail >= MIN_TAIL:
        return -math.inf
    n_tail = int(np.searchsorted(-log_ratios[:n_tail], -threshold))
    log_tail = log_ratios[:n_tail][::-1]
    if 1 + np.count_nonzero(np.diff(log_tail) > ROUNDING) < MIN_TAIL:
        return math.nan
    counts = _effective(counts[:n_tail][::-1])
    if counts.sum() < MIN_TAIL:
        return math.nan
    log_excesses = log_tail + np.log(-np.expm1(threshold - log_tail))  # ratios may span more than floats
    return _fitted_shape(log_excesses, counts)


def _fitted_shape(log_excesses: FloatArray, counts: FloatArray) -> float:
    """Fit a generalised Pareto distribution by the estimator of Zhang and Stephens, with the prior of k.

    Parameters
    ----------
    log_excesses : ndarray, (m,)
        Logs of the excesses x, in ascending order.
    counts : ndarray, (m,)
        Numbers of points for which each stands.

    Returns
    -------
    float
        The shape k: minus that of Zhang and Stephens.
    """
    n = float(counts.sum())
    quartile = log_excesses[_rank(counts, math.floor(n / 4 + 0.5))]
    log_excesses = log_excesses - quartile

    def shape(theta: float) -> float:
        """Compute the most likely k for a given theta = -k / sigma: the mean of log(1 - theta x)."""
        exponents = math.log(max(abs(theta), TINY)) + log_excesses
        logs = np.logaddexp(0, exponents) if theta < 0 else np.log1p(-np.exp(exponents))
        return float(counts @ logs / n)

    n_grid = 30 + math.floor(math.sqrt(n))
    thetas = math.exp(-log_excesses[-1]) + (1 - np.sqrt(n_grid / (np.arange(n_grid) + 0.5))) / 3
    thetas[thetas == 0] = TINY
    shapes = np.array([shape(theta) for theta in thetas])
    log_likelihoods = n * (np.log(-thetas / shapes) - shapes - 1)
    weights = np.exp(log_likelihoods - log_likelihoods.max())
    k = shape(float(weights @ thetas / weights.sum()))
    return (n * k + PRIOR_POINTS * PRIOR_SHAPE) / (n + PRIOR_POINTS)
