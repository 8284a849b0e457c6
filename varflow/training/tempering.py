"""Tempering of importance weights: a power at which their effective sample size is large enough."""

import numpy as np

from varflow.data.arrays import row_blocks

__all__ = ["effective_size", "tempered_power"]

ENOUGH = 0.9  # of the points, which no power is asked to exceed
ESS = 0.2  # effective sample size of tempered weights, at least, as a fraction of the points with f != 0


def effective_size(log_weights: np.ndarray, power: float = 1.0) -> float:
    """Compute (sum w)^2 / sum w^2 of powers w of weights given by their logs, not all -inf."""
    top, total, squares = log_weights.max(), 0.0, 0.0
    with np.errstate(under="ignore"):
        for rows in row_blocks(len(log_weights)):
            weights = power * (log_weights[rows] - top)
            total += np.exp(weights, out=weights).sum()
            # Not by BLAS, whose bits depend on the number of threads.
            squares += np.square(weights, out=weights).sum()
    return float(total**2 / squares)


def tempered_power(log_weights: np.ndarray, least: float | None = None) -> float:
    """Find the largest power of weights, at most 1, at which their effective sample size is large enough.

    Weights f/q, raised to the power b, are the weights of the density q^(1 - b) f^b, which lies between q and
    f. A flow that learns this density comes closer to f, and the power rises by itself, as in the adaptive
    steps of sequential Monte Carlo (Jasra et al., Scand. J. Stat. 38 (2011) 1, section 3.2). Without
    tempering, a flow that is far off would learn the one point that has all of the weight.

    Large enough means that (sum w)^2 / sum w^2, for the tempered weights w = (f/q)^b, is at least ``ESS``
    times the number of points where f is not zero, or `least` where that is given.

    Parameters
    ----------
    log_weights : ndarray, (n,)
        Logs of the weights; -inf where f is zero.
    least : float, optional
        The least effective sample size.

    Returns
    -------
    float
        The power, above 0; 1 if f is zero at all points.
    """
    log_weights = log_weights[log_weights > -np.inf]
    if len(log_weights) == 0:
        return 1.0
    log_weights -= log_weights.max()  # of a copy
    wanted = ESS if least is None else min(least / len(log_weights), ENOUGH)

    def excess(power: float) -> float:
        return effective_size(log_weights, power) / len(log_weights) - wanted

    if excess(1.0) >= 0:
        return 1.0
    from scipy.optimize import brentq  # slow to import, as other parts of SciPy are

    return float(brentq(excess, 0.0, 1.0, xtol=1e-12, rtol=1e-4))
