"""An element-wise map in front of the cells, as that of VEGAS: each coordinate is stretched by itself.

It needs no room of its own: the biases of the last layer of a cell are a spline that does not depend on other
coordinates. The map is put there, in the first cell that transforms the coordinate, and training goes on from
it.
"""

import numpy as np

from varflow.flow.flow import Flow
from varflow.kernels.splines import MIN_SHARE, MIN_SLOPE

__all__ = ["fit_elementwise"]

FLAT_SHARE = 0.1  # of each marginal density, uniform: nothing between the points is lost
LEAST = 1e-6  # width of a bin beyond the least that a cell gives it


def fit_elementwise(flow: Flow, u: np.ndarray, weights: np.ndarray) -> None:
    """Give a flow that is the identity, or was made by this function, the marginal densities of points.

    The bins of each coordinate have equal weight, which is what the grid of VEGAS aims at (Lepage, J. Comput.
    Phys. 27 (1978) 192), but the weights are f/q instead of their squares, as the density is to be that of f.

    Parameters
    ----------
    flow : Flow
        The flow on the unit cube, changed in place.
    u : ndarray, (n, d)
        Points.
    weights : ndarray, (n,)
        Their weights, not all zero.
    """
    architecture = flow.architecture
    is_mapped = np.zeros(flow.d, bool)
    for mask, (_, n_out, _, biases) in zip(architecture.masks, architecture.layers[:, -1], strict=True):
        logits = flow.params[biases : biases + n_out].reshape(architecture.n_logits, -1)
        for column, i in zip(logits.T, np.flatnonzero(mask), strict=True):
            if not is_mapped[i]:
                column[:] = LOGITS[architecture.cell](u[:, i], weights, architecture.n_bins)
        is_mapped |= mask


def distribution(u: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative marginal distribution of points (n,), with the flat share: abscissae and values (n + 2,)."""
    order = np.argsort(u)
    sums = np.cumsum(weights[order])
    below = np.concatenate([[0.0], (sums - 0.5 * weights[order]) / sums[-1], [1.0]])
    u = np.concatenate([[0.0], u[order], [1.0]])
    return u, (1 - FLAT_SHARE) * below + FLAT_SHARE * u


def pwlinear_logits(u: np.ndarray, weights: np.ndarray, n_bins: int) -> np.ndarray:
    """Logits (n_bins,) of a cell "pwlinear", whose bins have equal width."""
    edges = np.linspace(0, 1, n_bins + 1)
    return np.log(np.diff(np.interp(edges, *distribution(u, weights))))


def equal_bins(u: np.ndarray, weights: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Bins of equal weight: logits of their widths (n_bins,), and densities at the vertices (n_bins + 1,)."""
    abscissae, below = distribution(u, weights)
    widths = np.diff(np.interp(np.linspace(0, 1, n_bins + 1), below, abscissae))
    least = MIN_SHARE / n_bins
    logits = np.log(np.maximum(widths - least, LEAST))
    widths = np.maximum(widths, least + LEAST)
    mean = 1 / (n_bins * widths)
    # A vertex belongs to both bins beside it; the outer two make up for what the inner ones miss.
    density = np.empty(n_bins + 1)
    density[1:-1] = 2 / n_bins / (widths[:-1] + widths[1:])
    density[[0, -1]] = mean[[0, -1]]
    density[[0, -1]] = np.maximum(2 * mean[[0, -1]] - density[[1, -2]], 0.1 * mean[[0, -1]])
    return logits, density


def pwquad_logits(u: np.ndarray, weights: np.ndarray, n_bins: int) -> np.ndarray:
    """Logits (2 n_bins + 1,) of a cell "pwquad": widths, and heights of the density."""
    widths, density = equal_bins(u, weights, n_bins)
    return np.concatenate([widths, np.log(density)])


def rqs_logits(u: np.ndarray, weights: np.ndarray, n_bins: int) -> np.ndarray:
    """Logits (3 n_bins + 1,) of a cell "rqs": widths, equal heights, and slopes."""
    widths, density = equal_bins(u, weights, n_bins)
    slopes = np.maximum(density - MIN_SLOPE, MIN_SLOPE) / (1 - MIN_SLOPE)
    return np.concatenate([widths, np.zeros(n_bins), np.log(slopes)])


LOGITS = {"pwlinear": pwlinear_logits, "pwquad": pwquad_logits, "rqs": rqs_logits}
