"""One- and two-dimensional densities of f and of q."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.plots.picture import AFTER, BEFORE, check_dims, empty_figure, import_for_plots, shown_bounds
from varflow.training.evaluation import check_measurable
from varflow.training.log_weights import drawn_like, without_overflow
from varflow.training.objective import check_same_box
from varflow.training.tempering import effective_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["corner"]

MAX_PANELS = 10  # in a row
PANEL = 1.9  # inches
MIN_BINS, MAX_BINS = 8, 40  # in each dimension
POWER_OF_BINS = 0.4  # of the effective number of points: more bins show noise
LEVELS = 0.393, 0.865  # shares within 1 and 2 standard deviations of a normal distribution
N_SAMPLE = 200_000


def corner(
    flow: Flow | Mixture,
    data: Dataset,
    dims: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
) -> "Figure":
    """Draw one- and two-dimensional densities of f and of q.

    Those of f come from the weighted points, those of q from 200 000 that are drawn. The shading is f, the
    contours hold 39 and 86 % of q, as one and two standard deviations of a normal distribution in two
    dimensions do. Where the flow is good, they follow the shading.

    Parameters
    ----------
    flow : Flow or Mixture
        The flow, with density q.
    data : Dataset
        Points with the bounds of the flow, more of them than dimensions are drawn. Where f has both signs,
        the density is that of |f|.
    dims : sequence of int, optional
        Dimensions that are drawn, counted from 0, at most 10. All if not given.
    labels : sequence of str, optional
        Their names and units.
    seed : int, optional
        Seed of the points from q.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    ImportError
        If Matplotlib or the package `corner` is not installed.
    ValueError
        If there are more than ten dimensions and none are chosen, dimensions do not exist, labels are not
        one for each, or the points are too few, do not belong to the flow, or have f = 0 everywhere.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> data = vf.Dataset(x, px=np.ones(1000), fx=np.exp(-5 * x.sum(axis=1)))
    >>> learnt, others = data.split(0.5)
    >>> flow = vf.train(learnt, seed=1, n_epochs=10).flow
    >>> figure = vf.plots.corner(flow, data, dims=[0, 1], labels=["$m_{12}^2$ / GeV²", "angle"])
    >>> figure.savefig("corner.png")
    """
    check_same_box(flow, data)
    check_measurable(data)
    chosen = _checked_dims(dims, data)
    labels = [f"$x_{{{dim + 1}}}$" for dim in chosen] if labels is None else list(labels)
    if len(labels) != len(chosen):
        raise ValueError(f"labels must be one for each of {len(chosen)} dimensions, got {len(labels)}")
    package = import_for_plots("corner")
    size = PANEL * len(chosen) + 1
    figure = empty_figure(size, size)
    figure.subplots(len(chosen), len(chosen), squeeze=False)
    drawn = drawn_like(flow, data, N_SAMPLE, seed)
    log_weights = data.log_weight(1)
    weights = without_overflow(log_weights - log_weights.max())
    common = {
        "bins": int(np.clip(effective_size(log_weights) ** POWER_OF_BINS, MIN_BINS, MAX_BINS)),
        "range": shown_bounds(flow.bounds, drawn)[chosen].tolist(),
        "labels": labels,
        "levels": LEVELS,
        "smooth": 1.0,
        "plot_datapoints": False,
        "fig": figure,
    }
    for points, color, options in (
        (data.x, BEFORE, {"weights": weights, "plot_contours": False}),
        (drawn, AFTER, {"plot_density": False, "no_fill_contours": True}),
    ):
        package.corner(
            points[:, chosen], color=color, hist_kwargs={"density": True, "color": color}, **common, **options
        )
    for axes in figure.axes[:: len(chosen) + 1]:  # the diagonal, whose limits fit the last drawn alone
        axes.relim()
        axes.autoscale(axis="y")
    figure.text(0.98, 0.98, f"f: {data.n:,} weighted points", color=BEFORE, ha="right", va="top")
    figure.text(0.98, 0.98, f"\nq: {N_SAMPLE:,} drawn points", color=AFTER, ha="right", va="top")
    return figure


def _checked_dims(dims: Sequence[int] | None, data: Dataset) -> list[int]:
    """Choose all dimensions, or check those that are chosen."""
    chosen = list(range(data.d)) if dims is None else [int(dim) for dim in dims]
    if not 1 <= len(chosen) <= MAX_PANELS:
        raise ValueError(
            f"dims must be 1 to {MAX_PANELS} dimensions, got {len(chosen)}: choose some, as in dims=[0, 1, 2]"
        )
    check_dims(chosen, data.d)
    if data.n <= len(chosen):
        raise ValueError(f"a picture of {len(chosen)} dimensions needs more points than that, got {data.n}")
    return chosen
