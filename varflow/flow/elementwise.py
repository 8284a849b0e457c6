"""An element-wise map, as in VEGAS, to initialize a flow: each coordinate is mapped independently.

The map needs no parameters of its own. The biases of the last layer of a cell by themselves describe a spline
that does not depend on other coordinates. The map is stored there, in the first cell that transforms the
coordinate, and training starts from it. Where there is a single coordinate, all cells are part of the map,
each fitted to what those before it have left: together they have bins as narrow as singularities and needles
need. With more coordinates, that would learn noise.
"""

from collections.abc import Callable

import numpy as np

from varflow.flow.discrete_flow import DiscreteFlow
from varflow.flow.flow import Flow
from varflow.flow.marginals import Marginal, distribution, equal_marginal, fitted_marginal
from varflow.kernels.splines import MIN_SHARE, MIN_SLOPE

__all__ = ["FLAT_SHARE", "biases_of", "fit_elementwise"]

Fit = Callable[[np.ndarray, np.ndarray, int, float, float], Marginal]

FLAT_SHARE = 0.1  # uniform share of a coordinate's density, with which training begins best
MIN_EXTRA = 1e-6  # least width or height of a bin in excess of the minimum that the spline imposes


def fit_elementwise(flow: Flow, u: np.ndarray, weights: np.ndarray, flat_share: float = FLAT_SHARE) -> None:
    """Set a flow to the product of the marginal densities of weighted points.

    The weights are f/q, rather than their squares as in VEGAS, since the density is meant to be that of f.
    For the fit see `varflow.flow.marginals`. The bins of a single coordinate have equal weight: a likelihood
    would fit noise that all of its cells add up. For piecewise linear splines, whose bins have equal widths,
    the heights alone are adapted.

    Parameters
    ----------
    flow : Flow
        A flow on the unit cube, modified in place. It must be the identity, or the result of this function.
    u : ndarray, (n, d)
        Points.
    weights : ndarray, (n,)
        Their weights, not all zero.
    flat_share : float
        Uniform (defensive) share of the density of each coordinate.
    """
    if isinstance(flow, DiscreteFlow):
        _fit_discrete(flow, u, weights, flat_share)
        return
    architecture, cells = flow.architecture, _logits_of_cells(flow)
    for logits in cells:
        logits[:] = 0
    make_logits, is_mapped = LOGITS[architecture.cell], np.zeros(flow.d, bool)
    fit = equal_marginal if flow.d == 1 else fitted_marginal
    # Nothing depends on conditions as yet, so that any will do.
    given = np.zeros(flow.n_conditions) if flow.n_conditions else None
    for mask, logits in zip(architecture.masks, cells, strict=True):
        u_of_cell = flow.to_latent(u, given)[0] if flow.d == 1 else u
        for column, i in zip(logits.T, np.flatnonzero(mask), strict=True):
            if not is_mapped[i]:
                column[:] = make_logits(fit, u_of_cell[:, i], weights, architecture.n_bins, flat_share)
        if flow.d > 1:
            is_mapped |= mask


def _fit_discrete(flow: DiscreteFlow, u: np.ndarray, weights: np.ndarray, flat_share: float) -> None:
    """Set a flow with discrete coordinates to the product of its probabilities and of the other marginals."""
    states, of_states = flow.states(u), flow.params_of_states
    of_states[:] = flow.categorical.fitted_params(of_states, states, weights, flat_share)
    if flow.continuous is not None:
        own = flow.continuous_columns(u, states)[:, : flow.continuous.d]
        fit_elementwise(flow.continuous, np.ascontiguousarray(own), weights, flat_share)


def biases_of(flow: Flow) -> np.ndarray:
    """Give the biases of the last layers of all cells, which are zero as long as the flow is the identity.

    Of a flow with discrete coordinates, they are those of the others.
    """
    if isinstance(flow, DiscreteFlow):
        return np.empty(0) if flow.continuous is None else biases_of(flow.continuous)
    return np.concatenate([logits.ravel() for logits in _logits_of_cells(flow)])


def _logits_of_cells(flow: Flow) -> list[np.ndarray]:
    """Give views of the biases of the last layer of each cell, (n_logits, n_transformed)."""
    architecture = flow.architecture
    return [
        flow.params[biases : biases + n_out].reshape(architecture.n_logits, -1)
        for _, n_out, _, biases in architecture.layers[:, -1]
    ]


def pwlinear_logits(
    fit: Fit, u: np.ndarray, weights: np.ndarray, n_bins: int, flat_share: float
) -> np.ndarray:
    """Compute logits (n_bins,) for a cell "pwlinear", whose bins have equal widths."""
    edges = np.linspace(0, 1, n_bins + 1)
    return np.log(np.diff(np.interp(edges, *distribution(u, weights, flat_share))))


def pwquad_logits(fit: Fit, u: np.ndarray, weights: np.ndarray, n_bins: int, flat_share: float) -> np.ndarray:
    """Compute logits (2 n_bins + 1,) for a cell "pwquad": widths, and heights of the density."""
    edges, density = fit(u, weights, n_bins, flat_share, MIN_SHARE / n_bins + MIN_EXTRA)
    return np.concatenate([_logits_of_shares(np.diff(edges)), np.log(density)])


def rqs_logits(fit: Fit, u: np.ndarray, weights: np.ndarray, n_bins: int, flat_share: float) -> np.ndarray:
    """Compute logits (3 n_bins + 1,) for a cell "rqs": widths, heights, and slopes."""
    edges, density = fit(u, weights, n_bins, flat_share, MIN_SHARE / n_bins + MIN_EXTRA)
    masses = 0.5 * np.diff(edges) * (density[1:] + density[:-1])
    slopes = np.maximum(density / masses.sum() - MIN_SLOPE, MIN_SLOPE) / (1 - MIN_SLOPE)
    shares = masses / masses.sum()
    return np.concatenate([_logits_of_shares(np.diff(edges)), _logits_of_shares(shares), np.log(slopes)])


def _logits_of_shares(shares: np.ndarray) -> np.ndarray:
    """Logits of which the spline makes bins with these shares of the interval."""
    least = MIN_SHARE / len(shares)
    return np.log(np.maximum(shares - least, MIN_EXTRA))


LOGITS = {"pwlinear": pwlinear_logits, "pwquad": pwquad_logits, "rqs": rqs_logits}
