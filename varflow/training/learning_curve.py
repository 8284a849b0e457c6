"""How the relative variance falls with the number of points, and how many a target needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from varflow.data.dataset import Dataset
from varflow.training.data_checks import MIN_POINTS
from varflow.training.train import TEST_SHARE, Training, train

__all__ = ["LearningCurve", "learning_curve"]

PARTS = (8, 4, 2, 1)  # of the points that are learnt from: an eighth to all
SCATTER = 0.2  # of log variance from one training to the next


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Relative variance of f/q against the number of points that q was learnt from.

    The power law is variance = c n^(-a), fitted by least squares of the logs, weighted by their errors.

    Parameters
    ----------
    n : ndarray of int, (m,)
        Numbers of points.
    variance, variance_error : ndarray, (m,)
        Relative variance of f/q, for x ~ q, and its error, on points that no flow has seen.
    variance_before : float
        Relative variance of f/p on those points.
    exponent, exponent_error : float
        The power a, and its error.
    log_prefactor : float
        Logarithm of c.
    training : Training
        The last training, on all points.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> data = vf.Dataset(x, px=np.ones(1000), fx=np.exp(-5 * x.sum(axis=1)))
    >>> curve = vf.learning_curve(data, seed=1, n_epochs=5)
    >>> curve.n
    array([112, 225, 450, 900])
    >>> curve.points_for(0.1 * curve.variance[-1]) > curve.points_for(curve.variance[-1])
    True
    """

    n: np.ndarray
    variance: np.ndarray
    variance_error: np.ndarray
    variance_before: float
    exponent: float
    exponent_error: float
    log_prefactor: float
    training: Training

    def points_for(self, variance: float) -> float:
        """Extrapolate how many points a relative variance needs; inf where more points bring nothing.

        Parameters
        ----------
        variance : float
            Relative variance that is wanted, > 0.

        Returns
        -------
        float
            Number of points. Far from the points of the curve it is no more than a guess.

        Raises
        ------
        ValueError
            If `variance` is not above 0.
        """
        if not variance > 0:
            raise ValueError(f"variance must be above 0, got {variance!r}")
        if self.exponent <= 0:
            return math.inf
        return math.exp((self.log_prefactor - math.log(variance)) / self.exponent)

    def __str__(self) -> str:
        """Return a table of the curve, and what more points would bring."""
        lines = [f"{'points':>12}{'relative variance':>24}"]
        lines += [
            f"{n:>12,}{f'{variance:.4g} ± {error:.2g}':>24}"
            for n, variance, error in zip(self.n, self.variance, self.variance_error, strict=True)
        ]
        lines += [f"relative variance ~ n^(-{self.exponent:.2f} ± {self.exponent_error:.2f})"]
        half = self.variance[-1] / 2
        if self.exponent <= self.exponent_error:
            return "\n".join([*lines, "more points of this kind bring nothing that can be seen here"])
        return "\n".join(
            [
                *lines,
                f"half of the last variance, {half:.2g}, needs some {_about(self.points_for(half))} points",
            ]
        )


def learning_curve(
    data: Dataset,
    *,
    test: float = TEST_SHARE,
    progress: Callable[[int], object] | None = None,
    **options: Any,
) -> LearningCurve:
    """Train on an eighth, a quarter, a half and all of the points, and measure each flow on the same others.

    It takes about twice as long as one training.

    Parameters
    ----------
    data : Dataset
        The points, at least 50 in the smallest part.
    test : float
        Share of the points that all flows are measured on.
    progress : callable, optional
        Called with the number of points before each training.
    **options
        Options of `train`, but for a checkpoint.

    Returns
    -------
    LearningCurve
        The curve.

    Raises
    ------
    TypeError, ValueError
        If an option is refused, or there are too few points.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> data = vf.Dataset(x, px=np.ones(1000), fx=np.exp(-5 * x.sum(axis=1)))
    >>> print(vf.learning_curve(data, seed=1, n_epochs=5))
          points       relative variance
             112 ...
    relative variance ~ n^(-...
    """
    if options.get("checkpoint") is not None:
        raise ValueError("a learning curve has no checkpoint: leave checkpoint out")
    seed = options.get("seed", 0)
    learnt, tested = data.split(test, seed)
    least = PARTS[0] * MIN_POINTS
    if learnt.n < least:
        raise ValueError(
            f"a learning curve needs at least {math.ceil(least / (1 - test))} points, got {data.n}"
        )
    sizes, trainings = [learnt.n // part for part in PARTS], []
    for part, n in zip(PARTS, sizes, strict=True):
        if progress is not None:
            progress(n)
        some = learnt if part == 1 else learnt.split(1 / part, seed)[1]
        trainings.append(train(some, test=tested, **options))
    variance = np.array([one.evaluation.variance_after for one in trainings])
    error = np.array([one.evaluation.variance_after_error for one in trainings])
    exponent, exponent_error, log_prefactor = _power_law(np.array(sizes), variance, error)
    return LearningCurve(
        n=np.array(sizes),
        variance=variance,
        variance_error=error,
        variance_before=trainings[-1].evaluation.variance_before,
        exponent=exponent,
        exponent_error=exponent_error,
        log_prefactor=log_prefactor,
        training=trainings[-1],
    )


def _power_law(n: np.ndarray, variance: np.ndarray, error: np.ndarray) -> tuple[float, float, float]:
    """Fit log variance = log c - a log n; return a, its error from the scatter or the errors, and log c."""
    weights = 1 / np.hypot(error / variance, SCATTER) ** 2
    x, y = np.log(n), np.log(variance)
    x_mean, y_mean = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = np.sum(weights * (x - x_mean) ** 2)
    slope = np.sum(weights * (x - x_mean) * (y - y_mean)) / spread
    residuals = y - y_mean - slope * (x - x_mean)
    chi_squared = np.sum(weights * residuals**2) / (len(n) - 2)
    error_of_slope = math.sqrt(max(1.0, chi_squared) / spread)
    return float(-slope), error_of_slope, float(y_mean - slope * x_mean)


def _about(n: float) -> str:
    """Write a large number with two digits."""
    digits = max(0, math.floor(math.log10(n)) - 1)
    return f"{round(n, -digits):,.0f}"
