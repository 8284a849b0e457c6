"""Where a flow is wrong: f/q against q."""

from typing import TYPE_CHECKING

import numpy as np

from varflow.data.arrays import weighted_quantiles
from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.plots.picture import AFTER, NEUTRAL, panels
from varflow.training.log_weights import LogWeights, without_overflow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["calibration"]

MAX_BINS, POINTS_A_BIN = 20, 10
BAND = 0.16, 0.84  # quantiles of the weights


def calibration(flow: Flow | Mixture, data: Dataset) -> "Figure":
    """Draw f/q against q, which shows where the flow is wrong.

    The points are sorted by q and divided into parts that have equal shares of q. For each, the mean of f/q,
    over its mean everywhere, is drawn with its error: above 1, the flow has too little density there, below 1
    too much. The band holds the middle 68 % of the weights.

    Parameters
    ----------
    flow : Flow or Mixture
        The flow, with density q.
    data : Dataset
        At least two points that the flow was not trained on, with its bounds. Where f has both signs, the
        weights are those of |f|.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        As for `weights`.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> data = vf.Dataset(x, px=np.ones(1000), fx=np.exp(-5 * x.sum(axis=1)))
    >>> learnt, others = data.split(0.5)
    >>> flow = vf.train(learnt, seed=1, n_epochs=10).flow
    >>> vf.plots.calibration(flow, others).savefig("calibration.svg")
    """
    found = LogWeights.of(flow, data)
    order = np.argsort(found.q, kind="stable")
    weights, counts = without_overflow(found.after[order]), without_overflow(found.counts[order])
    quantile = (np.cumsum(counts) - counts / 2) / counts.sum()
    n_bins = max(1, min(MAX_BINS, data.n // POINTS_A_BIN))
    bins = [part for part in np.split(np.arange(data.n), _ends(quantile, n_bins)) if len(part)]
    middle = np.array([np.average(quantile[part], weights=counts[part]) for part in bins])
    mean, error = np.array([_mean(weights[part], counts[part]) for part in bins]).T
    low, high = np.array([weighted_quantiles(weights[part], counts[part], BAND) for part in bins]).T
    figure, (axes,) = panels(1, 1)
    axes.axhline(1, color=NEUTRAL, linewidth=1, label="f = q")
    axes.fill_between(
        100 * middle, low, high, color=AFTER, alpha=0.2, label="68 % of the points", linewidth=0
    )
    axes.errorbar(100 * middle, mean, error, fmt="o", markersize=4, color=AFTER, label="mean and its error")
    axes.set(
        title="where the flow is wrong", xlabel="share of q at points of less density / %", xlim=(0, 100)
    )
    axes.set(ylabel="f/q over its mean", ylim=(0, None))
    axes.legend()
    return figure


def _ends(quantile: np.ndarray, n_bins: int) -> np.ndarray:
    """Find the rows at which parts begin, all but the first."""
    return np.searchsorted(quantile, np.arange(1, n_bins) / n_bins)


def _mean(weights: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Compute the mean of weights with counts, and its error to first order."""
    mean = float(np.average(weights, weights=counts))
    return mean, float(np.sqrt(np.square(counts * (weights - mean)).sum()) / counts.sum())
