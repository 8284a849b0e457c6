"""Tail of importance weights on logarithmic axes, with the Pareto distribution that fits it."""

import math
from typing import TYPE_CHECKING

import numpy as np

from varflow.training.log_weights import without_overflow
from varflow.training.pareto import pareto_scale, tail_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_tail"]

UPPER = 0.5  # share of the points that is drawn
POINTS_OF_FIT = 100
FARTHEST = 3.0  # times the largest weight, to which the fit is drawn


def draw_tail(
    axes: "Axes", log_weights: np.ndarray, log_counts: np.ndarray, n: float, k: float, **style: str
) -> None:
    """Draw the share of points with a larger weight, and a dashed line for the fit.

    Parameters
    ----------
    axes : Axes
        Where.
    log_weights : ndarray, (m,)
        Natural logs of the largest weights.
    log_counts : ndarray, (m,)
        Natural logs of the number of points that each stands for.
    n : float
        Number of all points.
    k : float
        Pareto shape of the tail; no line is drawn where it is 0 or not finite.
    **style
        Colour and label of the weights.
    """
    order = np.argsort(-log_weights)
    weights, share = without_overflow(log_weights[order]), np.cumsum(without_overflow(log_counts[order])) / n
    is_drawn = share <= UPPER
    axes.step(weights[is_drawn], share[is_drawn], where="pre", color=style["color"], label=style["label"])
    axes.set(xscale="log", yscale="log")
    axes.tick_params(which="minor", labelsize="xx-small")  # of an axis that is shorter than a decade
    n_tail = int(np.searchsorted(share, tail_size(n) / n))
    has_fit = math.isfinite(k) and k != 0 and 0 < n_tail < len(weights)
    if not (has_fit and weights[n_tail] < weights[0]):
        return
    threshold = weights[n_tail]
    scale = pareto_scale(float(np.median(weights[:n_tail]) - threshold), k)
    x = np.geomspace(threshold, FARTHEST * weights[0], POINTS_OF_FIT)
    with np.errstate(divide="ignore", invalid="ignore"):
        fit = share[n_tail] * np.maximum(1 + k * (x - threshold) / scale, 0) ** (-1 / k)
    axes.plot(x, fit, "--", color=style["color"], label=f"Pareto shape k = {k:.2f}")
