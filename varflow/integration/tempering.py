"""Tempering: weights that a few points dominate are raised to a power at which many points have a say."""

import numpy as np

__all__ = ["tempered_power"]

ESS = 0.2  # of the points where f is not zero, that tempered weights have at least


def tempered_power(log_weights: np.ndarray) -> float:
    """Find the largest power of weights, at most 1, at which their effective sample size is large enough.

    Weights f/q to the power b are those of the density q^(1 - b) f^b, which lies between q and f. A flow that
    learns it comes closer to f, and the power rises by itself: the adaptive steps of sequential Monte Carlo
    (Jasra et al., Scand. J. Stat. 38 (2011) 1, section 3.2), without which a flow that is far off would learn
    the one point that has all the weight.

    Parameters
    ----------
    log_weights : ndarray, (n,)
        Logs of the weights; -inf where f is zero.

    Returns
    -------
    float
        The power, above 0; 1 where f is zero everywhere.
    """
    log_weights = log_weights[log_weights > -np.inf]
    if len(log_weights) == 0:
        return 1.0
    log_weights = log_weights - log_weights.max()

    def excess(power: float) -> float:
        with np.errstate(under="ignore"):
            weights = np.exp(power * log_weights)
        return float(weights.sum() ** 2 / np.square(weights).sum() / len(weights)) - ESS

    if excess(1.0) >= 0:
        return 1.0
    from scipy.optimize import brentq  # as late as other parts of SciPy

    return float(brentq(excess, 0.0, 1.0, xtol=1e-12, rtol=1e-4))
