"""Loss on held-out points, and the unit of f that they give."""

import math

import numpy as np

__all__ = ["held_out_loss", "log_unit"]

LARGEST_EXCESS = 3.0  # of the unit, in standard deviations of the mean of f/p
SMALLEST_UNIT = 0.5  # in terms of the mean of f/p


def held_out_loss(log_ratios: np.ndarray, log_q_over_p: np.ndarray, log_p: np.ndarray, power: int) -> float:
    """Estimate the variance or the DKL loss, with the control variate of `varflow.training.objective`.

    Parameters
    ----------
    log_ratios : ndarray, (n,)
        log(f/p) at points x ~ p, with f in units of its integral; -inf where f is zero.
    log_q_over_p : ndarray, (n,)
        log(q/p) at these points.
    log_p : ndarray, (n,)
        log p at these points.
    power : {1, 2}
        Power of f in the loss: 2 for the variance loss, 1 for the DKL loss.

    Returns
    -------
    float
        1 + mean((f - q)^2 / (p q)), or mean((q - f log q) / p) - 1.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # NaN is refused as infinity is
        q_over_p = np.exp(log_q_over_p)
        if power == 2:
            return 1 + float(np.mean(q_over_p * np.square(np.expm1(log_ratios - log_q_over_p))))
        return float(np.mean(q_over_p - np.exp(log_ratios) * (log_q_over_p + log_p))) - 1


def log_unit(log_ratios: np.ndarray, log_q_over_p: np.ndarray, spread: float) -> float:
    """Estimate the integral of f from held-out points, given an estimate of one from all points.

    The mean of f/p over all points, one here, has the variance s^2 = `spread`. The mean of (f - q)/p over the
    held-out points estimates the integral less one, with a variance e^2 that falls as q comes closer to f:
    q/p is a control variate whose mean is known (Owen, "Monte Carlo theory, methods and examples", section
    8.9). Weighted by the inverse of their variances, both give the integral

        1 + mean((f - q) / p) s^2 / (s^2 + e^2),

    which is limited to ``LARGEST_EXCESS`` deviations s from one. It is one where e exceeds s.

    Parameters
    ----------
    log_ratios : ndarray, (n,)
        log(f/p) at points that q was not trained on, f in units of the mean of f/p over all points.
    log_q_over_p : ndarray, (n,)
        log(q/p) at these points.
    spread : float
        Variance of the mean of f/p over all points.

    Returns
    -------
    float
        Log of the integral.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        differences = np.exp(log_ratios) - np.exp(log_q_over_p)
        error = float(np.var(differences)) / len(differences)
    if not error <= spread or spread == 0:
        return 0.0
    excess = float(np.mean(differences)) * spread / (spread + error)
    limit = LARGEST_EXCESS * math.sqrt(spread)
    return math.log1p(min(max(excess, -limit, SMALLEST_UNIT - 1), limit))
