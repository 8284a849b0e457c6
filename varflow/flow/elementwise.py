"""An element-wise map, as in VEGAS, to initialize a flow: each coordinate is mapped independently.

The map needs no parameters of its own. The biases of the last layer of a cell by themselves describe a spline
that does not depend on other coordinates. The map is stored there, in the first cell that transforms the
coordinate, and training starts from it. Where there is a single coordinate, all cells are part of the map,
each fitted to what those before it have left: together they have bins as narrow as singularities and needles
need. With more coordinates, that would learn noise.
"""

import numpy as np

from varflow.flow.flow import Flow
from varflow.kernels.splines import MIN_SHARE, MIN_SLOPE

__all__ = ["fit_elementwise"]

FLAT_SHARE = 0.1  # uniform (defensive) share of each marginal density, so that gaps between points keep some
MIN_EXTRA_WIDTH = 1e-6  # least width of a bin in excess of the minimum that the spline imposes


def fit_elementwise(flow: Flow, u: np.ndarray, weights: np.ndarray) -> None:
    """Set a flow to the product of the marginal densities of weighted points.

    The adapted bins of a coordinate contain equal weight, as the grid of VEGAS does (Lepage, J. Comput. Phys.
    27 (1978) 192). The weights are f/q, however, rather than their squares, since the density is meant to be
    that of f. For piecewise linear splines, whose bins have equal widths, the heights are adapted instead.

    Parameters
    ----------
    flow : Flow
        A flow on the unit cube, modified in place. It must be the identity, or the result of this function.
    u : ndarray, (n, d)
        Points.
    weights : ndarray, (n,)
        Their weights, not all zero.
    """
    architecture = flow.architecture
    cells = [
        flow.params[biases : biases + n_out].reshape(architecture.n_logits, -1)
        for _, n_out, _, biases in architecture.layers[:, -1]
    ]
    for logits in cells:
        logits[:] = 0
    is_mapped = np.zeros(flow.d, bool)
    for mask, logits in zip(architecture.masks, cells, strict=True):
        u_of_cell = flow.to_latent(u)[0] if flow.d == 1 else u
        for column, i in zip(logits.T, np.flatnonzero(mask), strict=True):
            if not is_mapped[i]:
                column[:] = LOGITS[architecture.cell](u_of_cell[:, i], weights, architecture.n_bins)
        if flow.d > 1:
            is_mapped |= mask


def distribution(u: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return abscissae and values, (n + 2,) each, of the CDF of points (n,), including the uniform share."""
    order = np.argsort(u)
    sums = np.cumsum(weights[order])
    below = np.concatenate([[0.0], (sums - 0.5 * weights[order]) / sums[-1], [1.0]])
    u = np.concatenate([[0.0], u[order], [1.0]])
    return u, (1 - FLAT_SHARE) * below + FLAT_SHARE * u


def pwlinear_logits(u: np.ndarray, weights: np.ndarray, n_bins: int) -> np.ndarray:
    """Compute logits (n_bins,) for a cell "pwlinear", whose bins have equal widths."""
    edges = np.linspace(0, 1, n_bins + 1)
    return np.log(np.diff(np.interp(edges, *distribution(u, weights))))


def equal_bins(u: np.ndarray, weights: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute bins of equal weight: width logits (n_bins,) and densities at the vertices (n_bins + 1,)."""
    abscissae, below = distribution(u, weights)
    widths = np.diff(np.interp(np.linspace(0, 1, n_bins + 1), below, abscissae))
    least = MIN_SHARE / n_bins
    logits = np.log(np.maximum(widths - least, MIN_EXTRA_WIDTH))
    widths = np.maximum(widths, least + MIN_EXTRA_WIDTH)
    mean = 1 / (n_bins * widths)
    # An inner vertex gets the mean density of its two bins, an outer one what gives its bin the right mean.
    density = np.empty(n_bins + 1)
    density[1:-1] = 2 / n_bins / (widths[:-1] + widths[1:])
    density[[0, -1]] = mean[[0, -1]]
    density[[0, -1]] = np.maximum(2 * mean[[0, -1]] - density[[1, -2]], 0.1 * mean[[0, -1]])
    return logits, density


def pwquad_logits(u: np.ndarray, weights: np.ndarray, n_bins: int) -> np.ndarray:
    """Compute logits (2 n_bins + 1,) for a cell "pwquad": widths, and heights of the density."""
    widths, density = equal_bins(u, weights, n_bins)
    return np.concatenate([widths, np.log(density)])


def rqs_logits(u: np.ndarray, weights: np.ndarray, n_bins: int) -> np.ndarray:
    """Compute logits (3 n_bins + 1,) for a cell "rqs": widths, equal heights, and slopes."""
    widths, density = equal_bins(u, weights, n_bins)
    slopes = np.maximum(density - MIN_SLOPE, MIN_SLOPE) / (1 - MIN_SLOPE)
    return np.concatenate([widths, np.zeros(n_bins), np.log(slopes)])


LOGITS = {"pwlinear": pwlinear_logits, "pwquad": pwquad_logits, "rqs": rqs_logits}
