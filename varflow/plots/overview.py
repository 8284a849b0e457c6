"""The densities f and q side by side, and the weights before and after."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.plots.picture import AFTER, BEFORE, check_dims, panels, shown_bounds
from varflow.plots.weights import draw_weights
from varflow.training.log_weights import LogWeights, drawn_like, without_overflow
from varflow.training.tempering import effective_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["overview"]

MIN_BINS, MAX_BINS = 8, 60  # in each dimension
N_SAMPLE = 200_000
USUAL = 0.98  # share of the bins of f that the scale of colours has room for


def overview(
    flow: Flow | Mixture,
    data: Dataset,
    dims: Sequence[int] = (0, 1),
    labels: Sequence[str] | None = None,
    seed: int = 0,
) -> "Figure":
    """Draw f and q in two dimensions, on one scale, and the importance weights of both.

    The density of f comes from the weighted points, that of q from 200 000 that are drawn. Of a single
    dimension, both are drawn as lines. The weights are those of `weights`.

    Parameters
    ----------
    flow : Flow or Mixture
        The flow, with density q.
    data : Dataset
        At least two points, with the bounds of the flow. Where f has both signs, it is |f| that is drawn.
    dims : sequence of int, optional
        The two dimensions, counted from 0, where there are several.
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
        If Matplotlib is not installed.
    ValueError
        If dimensions or labels are not two, dimensions do not exist, or as for `weights`.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> data = vf.Dataset(x, px=np.ones(1000), fx=np.exp(-5 * x.sum(axis=1)))
    >>> learnt, others = data.split(0.5)
    >>> flow = vf.train(learnt, seed=1, n_epochs=10).flow
    >>> vf.plots.overview(flow, others, labels=["mass / GeV", "angle"]).savefig("overview.png")
    """
    chosen = [int(dim) for dim in dims] if data.d > 1 else [0]
    if data.d > 1 and len(chosen) != 2:
        raise ValueError(f"dims must be two dimensions, got {len(chosen)}")
    check_dims(chosen, data.d)
    labels = [f"$x_{{{dim + 1}}}$" for dim in chosen] if labels is None else list(labels)
    if len(labels) != len(chosen):
        raise ValueError(f"labels must be one for each of {len(chosen)} dimensions, got {len(labels)}")
    found = LogWeights.of(flow, data)
    figure, (*planes, weights) = panels(1, 1 + len(chosen))
    n_bins = int(np.clip(np.sqrt(effective_size(found.before)), MIN_BINS, MAX_BINS))
    drawn = drawn_like(flow, data, N_SAMPLE, seed)
    options = {"bins": n_bins, "range": shown_bounds(flow.bounds, drawn)[chosen].tolist(), "density": True}
    of_f, edges = np.histogramdd(data.x[:, chosen], weights=without_overflow(found.before), **options)
    of_q, _ = np.histogramdd(drawn[:, chosen], **options)
    draw = _draw_lines if data.d == 1 else _draw_planes
    draw(planes, edges, of_f, of_q, labels)
    draw_weights(weights, found)
    return figure


def _draw_lines(
    axes: "list[Axes]", edges: Sequence[np.ndarray], of_f: np.ndarray, of_q: np.ndarray, labels: list[str]
) -> None:
    """Draw both densities in the single dimension."""
    (plane,) = axes
    for density, color, label in ((of_f, BEFORE, "f"), (of_q, AFTER, "q")):
        plane.stairs(density, edges[0], color=color, label=label)
    plane.set(title="densities", xlabel=labels[0], ylabel=f"density, in 1 / unit of {labels[0]}")
    plane.legend()


def _draw_planes(
    axes: "list[Axes]", edges: Sequence[np.ndarray], of_f: np.ndarray, of_q: np.ndarray, labels: list[str]
) -> None:
    """Draw both densities in two dimensions, on one scale, which single noisy bins of f may exceed."""
    largest = max(of_q.max(), np.quantile(of_f[of_f > 0], USUAL))
    extent = edges[0][0], edges[0][-1], edges[1][0], edges[1][-1]
    for plane, density, title in zip(axes, (of_f, of_q), ("weighted points: f", "flow: q"), strict=True):
        image = plane.imshow(
            density.T,
            origin="lower",
            extent=extent,
            aspect="auto",
            interpolation="nearest",
            cmap="magma",
            vmin=0,
            vmax=largest,
        )
        plane.set(title=title, xlabel=labels[0], ylabel=labels[1])
    figure = axes[-1].figure
    figure.colorbar(image, ax=axes[-1], label="density, in 1 / units of the axes")
