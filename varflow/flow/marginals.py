"""Densities of single coordinates, fitted to weighted points, in the bins of a spline.

A density that is linear in each bin is a mixture of triangles ("hats"), one at each edge of a bin. Their
shares are those of largest likelihood, found by expectation maximisation (Dempster, Laird and Rubin, J. R.
Stat. Soc. B 39 (1977) 1), which costs a sum over points for each step and cannot fail. A prior keeps a vertex
near the mean of its two bins where few points tell.

Bins of equal weight, as the grid of VEGAS has them (Lepage, J. Comput. Phys. 27 (1978) 192), follow
singularities, but leave the flanks and the tails of a peak to a few wide bins. A linear interpolation of a
density p has the least error if edges are as dense as a power of p, (p''^2 / p)^(1/5) (de Boor, A Practical
Guide to Splines, chapter III). Hence several placements are tried, and the likelihood chooses.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["Marginal", "distribution", "equal_marginal", "fitted_marginal"]

# (power of the density that edges are as dense as, share of bins with equal weight)
PLACEMENTS = (1.0, 0.0), (1 / 3, 0.0), (0.5, 0.5)
N_FINE = 64  # bins of equal weight that tell the density for a placement
N_CELLS = 32  # in a bin: points in the same one count as one
N_STEPS = 20  # of expectation maximisation
PRIOR_POINTS = 8  # of each hat
LEAST_WIDTH = 1e-12  # of a fine bin


class Marginal(NamedTuple):
    """Density on [0, 1] that is linear in each of n bins.

    Attributes
    ----------
    edges : ndarray, (n + 1,)
        Edges of the bins, from 0 to 1.
    density : ndarray, (n + 1,)
        The density there, up to a factor.
    """

    edges: np.ndarray
    density: np.ndarray


def distribution(u: np.ndarray, weights: np.ndarray, flat_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return abscissae and values, (n + 2,) each, of the CDF of points (n,), including a uniform share."""
    order = np.argsort(u)
    sums = np.cumsum(weights[order])
    below = np.concatenate([[0.0], (sums - 0.5 * weights[order]) / sums[-1], [1.0]])
    u = np.concatenate([[0.0], u[order], [1.0]])
    return u, (1 - flat_share) * below + flat_share * u


def fitted_marginal(
    u: np.ndarray, weights: np.ndarray, n_bins: int, flat_share: float, least_width: float
) -> Marginal:
    """Fit a density to points.

    Parameters
    ----------
    u : ndarray, (n,)
        Points in [0, 1].
    weights : ndarray, (n,)
        Their weights, not all zero.
    n_bins : int
        Number of bins.
    flat_share : float
        Uniform (defensive) share of the density, so that gaps between points keep some.
    least_width : float
        Least width of a bin.

    Returns
    -------
    Marginal
        The density of largest likelihood, of those with bins in one of the ``PLACEMENTS``.
    """
    abscissae, below = distribution(u, weights, flat_share)
    fine = np.interp(np.linspace(0, 1, N_FINE + 1), below, abscissae)
    edges = np.array([_wide_enough(_placed(fine, n_bins, *one), least_width) for one in PLACEMENTS])
    log_likelihoods, densities = _fitted(u, weights, edges, flat_share)
    best = int(log_likelihoods.argmax())
    return Marginal(edges[best], densities[best])


def equal_marginal(
    u: np.ndarray, weights: np.ndarray, n_bins: int, flat_share: float, least_width: float
) -> Marginal:
    """Take bins of equal weight, and the means of their densities at their edges; see `fitted_marginal`."""
    abscissae, below = distribution(u, weights, flat_share)
    edges = _wide_enough(np.interp(np.linspace(0, 1, n_bins + 1), below, abscissae), least_width)
    widths = np.diff(edges)
    mean = 1 / (n_bins * widths)
    # An inner vertex gets the mean density of its two bins, an outer one what gives its bin the right mean.
    density = np.empty(n_bins + 1)
    density[1:-1] = 2 / n_bins / (widths[:-1] + widths[1:])
    density[[0, -1]] = mean[[0, -1]]
    density[[0, -1]] = np.maximum(2 * mean[[0, -1]] - density[[1, -2]], 0.1 * mean[[0, -1]])
    return Marginal(edges, density)


def _placed(fine: np.ndarray, n_bins: int, power: float, equal_share: float) -> np.ndarray:
    """Place edges, (n_bins + 1,), as dense as a power of the density, from fine bins of equal weight."""
    widths = np.maximum(np.diff(fine), LEAST_WIDTH)
    of_power = widths ** (1 - power)
    shares = equal_share / len(widths) + (1 - equal_share) * of_power / of_power.sum()
    sums = np.concatenate([[0.0], np.cumsum(shares)])
    return np.interp(np.linspace(0, 1, n_bins + 1), sums / sums[-1], fine)


def _wide_enough(edges: np.ndarray, least_width: float) -> np.ndarray:
    """Widen bins that are too narrow, at the expense of the others."""
    extra = np.maximum(np.diff(edges) - least_width, 0.0)
    widths = least_width + extra * ((1 - least_width * len(extra)) / extra.sum())
    return np.concatenate([[0.0], np.cumsum(widths)[:-1], [1.0]])


def _fitted(
    u: np.ndarray, weights: np.ndarray, edges: np.ndarray, flat_share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the density in the bins of several placements, which are worked on together.

    edges: (n_placements, n_bins + 1). Returns mean log-likelihoods, (n_placements,), and the densities at
    the edges, (n_placements, n_bins + 1).
    """
    of_placements = [_in_cells(u, weights, one) for one in edges]
    place, shares_of_cells = (np.array(part) for part in zip(*of_placements, strict=True))
    rest, widths = 1 - place, np.diff(edges)
    area = 0.5 * _at_vertices(widths, widths)  # of a hat of height 1

    def at_cells(values: np.ndarray) -> np.ndarray:
        interpolated: np.ndarray = values[:, :-1, None] * rest + values[:, 1:, None] * place
        return interpolated

    masses = shares_of_cells.sum(axis=2)
    prior = 0.5 * _at_vertices(masses, masses)  # the mean density of the two bins
    prior = (1 - flat_share) * prior / prior.sum(axis=1, keepdims=True) + flat_share * area
    shares = 0.5 * (prior + area)
    n_of_prior = PRIOR_POINTS * area.shape[1]
    n_effective = np.square(weights.sum()) / np.square(weights).sum()
    of_prior = n_of_prior / (n_effective + n_of_prior)
    for _ in range(N_STEPS):
        heights = shares / area
        ratios = shares_of_cells / at_cells(heights)
        sums_of_hats = _at_vertices(*(np.einsum("kbc,kbc->kb", ratios, part) for part in (rest, place)))
        shares = of_prior * prior + (1 - of_prior) * heights * sums_of_hats
    density = (1 - flat_share) * shares / area + flat_share
    return np.sum(shares_of_cells * np.log(at_cells(density)), axis=(1, 2)), density


def _at_vertices(of_left: np.ndarray, of_right: np.ndarray) -> np.ndarray:
    """Add what bins, (..., n_bins), give to the vertices at their left, and at their right."""
    sums = np.zeros((*of_left.shape[:-1], of_left.shape[-1] + 1))
    sums[..., :-1] = of_left
    sums[..., 1:] += of_right
    return sums


def _in_cells(u: np.ndarray, weights: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join points in the same cell of a bin.

    Returns for each of them, (n_bins, N_CELLS), the mean place of its points in the bin, from 0 to 1, and
    their share of the weights.
    """
    n_bins = len(edges) - 1
    bins = np.clip(np.searchsorted(edges, u, side="right") - 1, 0, n_bins - 1)
    place = np.clip((u - edges[bins]) / np.diff(edges)[bins], 0.0, 1.0)
    weights = weights / weights.sum()
    cell = bins * N_CELLS + np.minimum((place * N_CELLS).astype(np.int64), N_CELLS - 1)
    sums, places = (np.bincount(cell, one, n_bins * N_CELLS) for one in (weights, weights * place))
    np.divide(places, sums, out=places, where=sums > 0)
    return places.reshape(n_bins, N_CELLS), sums.reshape(n_bins, N_CELLS)
