"""Sections about a flow on points that it has not learnt from."""

from collections.abc import Sequence

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.markup import paragraph
from varflow.plots.calibration import calibration
from varflow.plots.corner import corner
from varflow.plots.overview import overview
from varflow.plots.weights import weights
from varflow.plots.worst import worst
from varflow.reporting.page import Section, scrollable
from varflow.reporting.pictures import escaped_labels, picture
from varflow.training.evaluation import Evaluation, figures_table
from varflow.training.log_weights import LogWeights, without_overflow
from varflow.training.worst_points import worst_points, worst_table

__all__ = ["data_section", "density_section", "figures_section", "points_sections"]

MAX_DIMS = 6  # of the corner plot
N_WORST = 10


def figures_section(found: Evaluation) -> Section:
    """Show figures of merit."""
    return Section("Figures of merit", scrollable("Figures of merit", figures_table(found)))


def density_section(density: Flow | Mixture) -> Section:
    """Show what a flow is made of."""
    return Section("The flow", scrollable("The flow, its cells and its box", density._repr_html_()))


def data_section(data: Dataset) -> Section:
    """Show the numbers and ranges of points."""
    return Section("The points", scrollable("The points and their ranges", data._repr_html_()))


def points_sections(
    flow: Flow | Mixture, data: Dataset, found: Evaluation, names: Sequence[str]
) -> list[Section]:
    """Show where a flow is good and where it is not.

    Parameters
    ----------
    flow : Flow or Mixture
        The flow.
    data : Dataset
        At least two points with its bounds.
    found : Evaluation
        Its figures of merit on them.
    names : sequence of str
        Names of the coordinates.

    Returns
    -------
    list of Section
        Pictures, and the points of largest weight.
    """
    log_weights = LogWeights.of(flow, data)
    pictures = [
        _overview(flow, data, found, names),
        _weights(flow, data, found),
        _calibration(flow, data, log_weights),
        _corner(flow, data, log_weights, names),
    ]
    table = worst_table(worst_points(flow, data, N_WORST), names)
    worst_picture = picture(
        worst(flow, data, N_WORST),
        "The points of largest weight: a line for each, with its place in the box in every dimension.",
        f"Lines of {min(N_WORST, data.n)} points across the dimensions, over a band that holds 80 % of f. "
        "The table below has their coordinates and weights.",
    )
    return [
        Section("Pictures", "".join(pictures)),
        Section("Where the flow is smallest", worst_picture + scrollable("Points of largest weight", table)),
    ]


def _overview(flow: Flow | Mixture, data: Dataset, found: Evaluation, names: Sequence[str]) -> str:
    n_drawn = min(2, data.d)
    return picture(
        overview(flow, data, labels=escaped_labels(names[:n_drawn])),
        f"The density of f, from {data.n:,} weighted points, that of the flow, and the importance weights.",
        f"Densities of f and of the flow in {'two dimensions' if n_drawn == 2 else 'the dimension'}, on one "
        "scale, and a histogram of the weights before and after the training. The effective sample size is "
        f"{found.ess_before:.1%} of the points before, and {found.ess_after:.1%} after.",
    )


def _weights(flow: Flow | Mixture, data: Dataset, found: Evaluation) -> str:
    return picture(
        weights(flow, data),
        "Importance weights before and after, and their tails. The narrower around 1, the better; dashed: "
        "the Pareto distribution that fits the tail, with a finite variance for k below 0.5.",
        f"Histogram of the weights, and the share of points with a larger weight, on logarithmic axes. The "
        f"relative variance is {found.variance_before:.3g} before, and {found.variance_after:.3g} after.",
    )


def _calibration(flow: Flow | Mixture, data: Dataset, found: LogWeights) -> str:
    weights_after, is_upper = without_overflow(found.after), found.q > np.median(found.q)
    low, high = (weights_after[rows].max(initial=0.0) for rows in (~is_upper, is_upper))
    return picture(
        calibration(flow, data),
        "Where the flow is wrong: f/q at points of small density, on the left, to large, on the right. Above "
        "1, the flow has too little density.",
        "Mean of f/q over its mean, for parts of equal shares of q. The largest weight is "
        f"{low:.3g} at the half of the points where q is smaller, and {high:.3g} at the others.",
    )


def _corner(flow: Flow | Mixture, data: Dataset, found: LogWeights, names: Sequence[str]) -> str:
    dims = _farthest(data.x, found)
    if data.n <= len(dims):
        return paragraph(f"A corner plot of {len(dims)} dimensions needs more points than that.")
    drawn = "all dimensions"
    if len(dims) < data.d:
        drawn = f"the {len(dims)} of {data.d} dimensions in which f and q differ most"
    chosen = [names[dim] for dim in dims]
    return picture(
        corner(flow, data, dims, escaped_labels(chosen)),
        f"One- and two-dimensional densities of {drawn}. Shading: f; contours: 39 and 86 % of q. Where the "
        "flow is good, they follow the shading.",
        f"Corner plot of f and q in {drawn}: {', '.join(chosen)}. The largest distance of two cumulative "
        f"distributions is {max(_distance(data.x[:, dim], found) for dim in dims):.1%}.",
    )


def _farthest(x: np.ndarray, found: LogWeights) -> list[int]:
    """Choose the dimensions in which the distributions of f and q differ most, in their order."""
    d = x.shape[1]
    if d <= MAX_DIMS:
        return list(range(d))
    distances = [_distance(values, found) for values in x.T]
    return sorted(np.argsort(distances)[-MAX_DIMS:].tolist())


def _distance(values: np.ndarray, found: LogWeights) -> float:
    """Largest difference of the cumulative distributions of f and of q in one coordinate."""
    order = np.argsort(values)
    of_f, of_q = (np.cumsum(without_overflow(logs[order])) for logs in (found.before, found.counts))
    return float(np.abs(of_f / of_f[-1] - of_q / of_q[-1]).max())
