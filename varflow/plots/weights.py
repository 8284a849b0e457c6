"""Importance weights before and after a training."""

from typing import TYPE_CHECKING

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.plots.picture import AFTER, BEFORE, panels
from varflow.plots.tail import draw_tail
from varflow.training.log_weights import LogWeights, without_overflow
from varflow.training.pareto import pareto_shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_weights", "weights"]

BINS = 60
LEAST = 1e-4  # weight over the mean, below which all are drawn as one


def weights(flow: Flow | Mixture, data: Dataset) -> "Figure":
    """Draw the importance weights f/p of points from p, and f/q of points from q.

    On the left is the share of points with each weight: the narrower around 1, the better. On the right is
    the share of points with a larger weight, for the tail on which the error of an estimate depends, and
    the generalised Pareto distributions that fit it; see `varflow.Evaluation` for what their shape means.

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
        If there are fewer than two points, f is zero at all of them, or they do not have the dimension d and
        the bounds of the flow.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> data = vf.Dataset(x, px=np.ones(1000), fx=np.exp(-5 * x.sum(axis=1)))
    >>> learnt, others = data.split(0.5)
    >>> flow = vf.train(learnt, seed=1, n_epochs=10).flow
    >>> figure = vf.plots.weights(flow, others)
    >>> figure.savefig("weights.pdf")
    """
    found = LogWeights.of(flow, data)
    figure, (histogram, tail) = panels(1, 2)
    draw_weights(histogram, found)
    every = np.zeros(data.n)
    draw_tail(
        tail, found.before, every, data.n, pareto_shape(found.before), color=BEFORE, label="f/p, x from p"
    )
    k = pareto_shape(found.after, found.counts)
    draw_tail(tail, found.after, found.counts, data.n, k, color=AFTER, label="f/q, x from q")
    tail.set(xlabel="weight over its mean", ylabel="share of points with a larger weight")
    tail.set(title="tail of the weights")
    tail.legend()
    return figure


def draw_weights(axes: "Axes", found: LogWeights) -> None:
    """Draw a histogram of both."""
    of_p, of_q = without_overflow(found.before), without_overflow(found.after)
    bins = np.geomspace(LEAST, 1.1 * max(of_p.max(), of_q.max()), BINS)
    n = len(of_p)
    for drawn, counts, color, label in (
        (of_p, np.ones(n), BEFORE, "f/p, x from p"),
        (of_q, without_overflow(found.counts), AFTER, "f/q, x from q"),
    ):
        axes.hist(
            np.maximum(drawn, LEAST), bins.tolist(), weights=counts / n, alpha=0.6, color=color, label=label
        )
    axes.set(title="importance weights", xlabel="weight over its mean", xscale="log")
    axes.set(ylabel="share of the points")
    axes.legend()
