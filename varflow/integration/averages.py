"""Averages of iterations, and tests of whether the iterations agree."""

import math

import numpy as np

from varflow.integration.iteration import Array, Iteration

__all__ = [
    "RATE_OF_MANY",
    "USUAL_RATE",
    "average",
    "consistency",
    "degrees_of_freedom",
    "estimate",
    "probability",
    "standard_deviations",
    "student_variance",
    "variances_of",
    "weight_of",
]

USUAL_RATE = 0.65  # power of n with which errors of scrambled Sobol points usually fall
RATE_OF_MANY = 0.55  # the same for the points of an iteration with a trained flow
POWER_OF_PROGRESS = 4

_ROUNDING = 1e-12  # relative rounding error that a mean may have even where f is constant
MAX_DIRECTIONS = 4  # of components together: covariances from 16 batches know no more to a factor of 1.5
_RESOLVED = 1e-10  # relative variance below which a linear combination of components counts as constant


def average(used: list[Iteration]) -> tuple[Array, Array]:
    """Average iterations with their weights. Returns the mean, (m,), and its covariance, (m, m) or (m,)."""
    weights = np.array([iteration.weight for iteration in used])
    shares = weights / weights.max()  # first, so that the sum cannot overflow
    shares /= shares.sum()
    with np.errstate(over="ignore", invalid="ignore"):  # a mean that is not finite is seen in the result
        mean = sum(share * iteration.mean for share, iteration in zip(shares, used, strict=True))
        covariance = sum(
            share**2 * iteration.covariance for share, iteration in zip(shares, used, strict=True)
        )
    return np.asarray(mean), np.asarray(covariance)


def estimate(used: list[Iteration], heavier: Array, lost: float = 0.0) -> tuple[Array, Array]:
    """Average iterations, and add what they cannot see to the errors.

    Parameters
    ----------
    used : list of Iteration
        The iterations.
    heavier : ndarray, (m,) or (1,)
        Error from weights heavier than all that were seen.
    lost : float
        Error from regions that the flow has lost, relative to the mean.

    Returns
    -------
    mean, covariance : ndarray, (m,) and (m, m), or (m,) where the iterations have variances alone
    """
    mean, covariance = average(used)
    if lost:
        covariance = _widened(covariance, lost * mean)
    return mean, _widened(covariance, heavier)


def _widened(covariance: Array, error: Array) -> Array:
    """Add an error, (m,) or (1,), of all components alike, and of unknown sign."""
    if not np.isfinite(error).all():
        return np.full_like(covariance, math.inf)
    return covariance + (np.outer(error, error) if covariance.ndim == 2 else np.square(error))


def weight_of(n: int, n_of_scramble: int, progress: float = 1.0) -> float:
    """Weight of an iteration in the average: the inverse of the variance that it may be expected to have.

    With the flow as it is at the end of a training, m points of one scramble have a variance that falls as
    m^(-2 r), r being ``RATE_OF_MANY``, and n/m scrambles leave m/n of it: n^-1 m^(1 - 2 r). Flows are worse
    before: on the cases of `tests/benchmarks/integrate.py`, the inverse variance of a point grows as a power
    of the progress from 0 to 4, of which ``POWER_OF_PROGRESS`` is on the safe side. (Owen and Zhou, arXiv
    1901.02976, take the power 1/2 where nothing is known of the progress.)

    The weight depends on numbers of points alone. One that depended on values, such as the inverse of the
    measured variance, would bias the average, as iterations that have missed a peak have small variances.

    Parameters
    ----------
    n : int
        Number of points of the iteration.
    n_of_scramble : int
        Number of points of each of its scrambles; 1 for pseudo-random points.
    progress : float
        How much of the training is done when the iteration begins, from 0 to 1.
    """
    return float(n) * float(n_of_scramble) ** (2 * RATE_OF_MANY - 1) * progress**POWER_OF_PROGRESS


def degrees_of_freedom(used: list[Iteration]) -> float:
    """Compute those of the error of the average, the fewest of all components.

    By Welch and Satterthwaite (Biometrics Bull. 2 (1946) 110) they are (sum v)^2 / sum(v^2 / dof), with v the
    variance that an iteration contributes.
    """
    variances = np.array([one.weight**2 * variances_of(one.covariance) for one in used])
    largest = variances.max(axis=0)
    if not np.isfinite(largest).all() or not largest.any():
        return min(one.error_dof for one in used)
    shares = variances[:, largest > 0] / largest[largest > 0]
    of_each = np.array([[one.error_dof] for one in used])
    with np.errstate(divide="ignore"):
        dof = np.square(shares.sum(axis=0)) / (np.square(shares) / of_each).sum(axis=0)
    return float(dof.min())


def student_variance(dof: int) -> float:
    """Variance of Student's t with so many degrees of freedom, or with 3, below which it is infinite."""
    dof = max(dof, 3)
    return dof / (dof - 2)


def variances_of(covariance: Array) -> Array:
    """Return the variances, (m,), of a covariance, (m, m), or of variances alone."""
    return np.diag(covariance) if covariance.ndim == 2 else covariance


def standard_deviations(covariance: Array) -> Array:
    """Compute standard deviations, (m,), taking variances that rounding has made negative as zero."""
    variances = variances_of(covariance)
    return np.sqrt(np.where(variances < 0, 0.0, variances))


def consistency(used: list[Iteration]) -> tuple[float, int]:
    """Compute chi2 of the iterations and its number of degrees of freedom.

    Components are first divided by their largest mean or error, so that their rounding errors are of similar
    size, and then by their errors, so that linear combinations that do not fluctuate can be recognised; these
    are left out. Where a combination fluctuates in general, but not in one iteration, its error in that
    iteration counts as small instead of zero, and the common mean is tied to that iteration.

    Of more than ``MAX_DIRECTIONS`` linear combinations that do not depend on each other, those count that
    fluctuate most: estimated from few batches, the smaller variances are far too small. Where there are
    variances alone, the largest component counts.
    """
    n = len(used)
    if n == 1:
        return 0.0, 0
    means = np.array([iteration.mean for iteration in used])
    covariances = np.array([iteration.covariance for iteration in used])
    if covariances.ndim == 2:
        largest = [int(np.argmax(np.abs(means.mean(axis=0))))]
        means, covariances = means[:, largest], covariances[:, largest, None]
    m = means.shape[1]
    if not (np.isfinite(means).all() and np.isfinite(covariances).all()):
        return math.nan, (n - 1) * m
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    unit = np.maximum(abs(means), np.sqrt(abs(variances))).max(axis=0)
    means, covariances = _in_units(unit, means, covariances)
    covariances += _ROUNDING**2 * np.eye(m)
    means, covariances = _in_units(standard_deviations(covariances.mean(axis=0)), means, covariances)
    values, basis = np.linalg.eigh(covariances.mean(axis=0))
    basis = basis[:, values > _RESOLVED * values[-1]][:, -MAX_DIRECTIONS:]
    chi2 = _chi2((means - means[0]) @ basis, basis.T @ covariances @ basis)
    return chi2, (n - 1) * basis.shape[1]


def _in_units(unit: Array, means: Array, covariances: Array) -> tuple[Array, Array]:
    """Divide components by their units, (m,); covariances twice, as products of units may underflow."""
    unit = np.where(unit == 0, 1.0, unit)
    return means / unit, covariances / unit[:, None] / unit


def _chi2(means: Array, covariances: Array) -> float:
    """Compute chi2 of means (n, r) with covariances (n, r, r) of order 1, which may be singular."""
    values, vectors = np.linalg.eigh(covariances)
    scaled = vectors / np.sqrt(np.maximum(values, _RESOLVED))[:, None, :]
    inverses = scaled @ scaled.swapaxes(1, 2)
    pulls = (inverses @ means[:, :, None]).sum(axis=0)
    common = np.linalg.solve(inverses.sum(axis=0), pulls)[:, 0]
    deviations = means - common
    return float(np.einsum("ij,ijk,ik", deviations, inverses, deviations))


def probability(chi2: float, dof: int) -> float:
    """Compute the probability of a chi2 at least as large by chance; NaN without degrees of freedom."""
    from scipy.special import gammaincc  # takes as long to import as varflow itself

    return float(gammaincc(dof / 2, chi2 / 2)) if dof > 0 else math.nan
