"""Points of the largest weights, in all dimensions at once."""

from typing import TYPE_CHECKING

import numpy as np

from varflow.data.arrays import weighted_quantiles
from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.plots.picture import BEFORE, import_for_plots, panels, shown_bounds
from varflow.training.log_weights import without_overflow
from varflow.training.worst_points import worst_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["worst"]

BAND = 0.1, 0.9  # quantiles of f in each dimension


def worst(flow: Flow | Mixture, data: Dataset, k: int = 10) -> "Figure":
    """Draw the points at which f/q is largest: where the flow is too small.

    Each line is a point, with its place in the box in every dimension; darker ones have larger weights. The
    band holds the middle 80 % of f in each dimension. `varflow.worst_points` has the same points as a table.

    Parameters
    ----------
    flow : Flow or Mixture
        The flow, with density q.
    data : Dataset
        At least two points that the flow was not trained on, with its bounds.
    k : int, optional
        How many; all if there are fewer.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    TypeError, ValueError
        As for `varflow.worst_points`.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> data = vf.Dataset(x, px=np.ones(1000), fx=np.exp(-5 * x.sum(axis=1)))
    >>> learnt, others = data.split(0.5)
    >>> flow = vf.train(learnt, seed=1, n_epochs=10).flow
    >>> vf.plots.worst(flow, others, k=5).savefig("worst.png")
    """
    found = worst_points(flow, data, k)
    lower, upper = shown_bounds(data.bounds, data.x).T
    places, dims = (found.x - lower) / (upper - lower), np.arange(1, data.d + 1)
    figure, (axes,) = panels(1, 1)
    low, high = (_of_f(data) - lower[:, None]).T / (upper - lower)
    axes.fill_between(dims, low, high, step="mid", color=BEFORE, alpha=0.15, linewidth=0, label="80 % of f")
    colors = import_for_plots("matplotlib").colormaps["cividis"](np.linspace(0, 0.9, len(places)))
    for place, weight, color in zip(places, found.weight, colors, strict=True):
        axes.plot(dims, place, "o-", markersize=4, linewidth=1, color=color, label=f"weight {weight:.3g}")
    axes.set(title=f"the {len(places)} points of largest f/q", xlabel="dimension", xticks=dims)
    axes.set(ylabel="place in the box, from lower to upper bound", ylim=(0, 1), xlim=(0.5, data.d + 0.5))
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _of_f(data: Dataset) -> np.ndarray:
    """Find the quantiles of f in each dimension, (d, 2)."""
    weights = without_overflow(data.log_weight(1))
    return np.array([weighted_quantiles(x, weights, BAND) for x in data.x.T])
