"""Densities of single coordinates, fitted to weighted points."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from varflow.flow.marginals import distribution, fitted_marginal

N_BINS, LEAST = 16, 1e-4
N = 4096


def fitted(u, weights=None, n_bins=N_BINS, flat_share=0.02):
    return fitted_marginal(u, np.ones(len(u)) if weights is None else weights, n_bins, flat_share, LEAST)


def density(marginal, u):
    edges, heights = marginal
    area = np.sum(np.diff(edges) * (heights[1:] + heights[:-1]) / 2)
    return np.interp(u, edges, heights) / area


def relative_variance(marginal, p):
    """Variance of p/q over points from q, of a density p that is given up to a factor."""
    u = (np.arange(200_000) + 0.5) / 200_000
    p_of_u = p(u) / p(u).mean()
    return float(np.mean(p_of_u**2 / density(marginal, u))) - 1


def points(p, n=N):
    """Quantiles of a density."""
    edges = np.linspace(0, 1, 200_001)
    below = np.concatenate([[0], np.cumsum(p((edges[1:] + edges[:-1]) / 2))])
    return np.interp((np.arange(n) + 0.5) / n, below / below[-1], edges)


def peak(centre, width):
    return lambda u: np.exp(-0.5 * ((u - centre) / width) ** 2)


@pytest.mark.parametrize(
    ("p", "most"),
    [
        (peak(0.5, 0.1), 0.015),  # bins of equal weight: 0.09
        (peak(0.5, 0.3), 0.003),
        (lambda u: peak(0.25, 0.05)(u) + peak(0.75, 0.05)(u), 0.03),  # 0.3
        (lambda u: 1 / ((u - 0.4) ** 2 + 0.005**2), 0.025),  # 0.11
        (lambda u: u**2, 0.005),
        (lambda u: 1 + 0.5 * np.sin(12 * u), 0.003),
        (lambda u: u**-0.5, 0.3),
    ],
)
def test_follows(p, most):
    assert relative_variance(fitted(points(p)), p) < most


def test_linear_density_is_exact():
    marginal = fitted(points(lambda u: 0.5 + u, 100_000))
    u = np.linspace(0, 1, 11)
    np.testing.assert_allclose(density(marginal, u), (0.5 + u), rtol=0.03)


def test_few_points_are_smoothed():
    """Of 100 points, each of 16 bins has 6 by chance."""
    u = np.random.default_rng(1).random(100)
    assert relative_variance(fitted(u), np.ones_like) < 0.1


def test_no_worse_than_bins_of_equal_weight_in_likelihood():
    for p in (peak(0.3, 0.02), lambda u: u**-0.8):
        u = points(p)
        abscissae, below = distribution(u, np.ones(N), 0.02)
        edges = np.interp(np.linspace(0, 1, N_BINS + 1), below, abscissae)
        equal = np.interp(u, edges, np.zeros(N_BINS + 1))
        bins = np.clip(np.searchsorted(edges, u) - 1, 0, N_BINS - 1)
        equal = 1 / (N_BINS * np.diff(edges)[bins])
        assert np.log(density(fitted(u), u)).mean() > np.log(equal).mean()


samples = arrays(float, st.integers(1, 60), elements=st.floats(0, 1))


@given(samples, st.integers(1, 30), st.floats(0.001, 0.5), st.integers(0, 2**32 - 1))
def test_laws(u, n_bins, flat_share, seed):
    weights = np.random.default_rng(seed).exponential(size=len(u))
    edges, heights = fitted(u, weights, n_bins, flat_share)
    assert (edges[0], edges[-1]) == (0, 1)
    assert np.diff(edges).min() > 0.99 * LEAST
    assert heights.min() >= flat_share
    area = np.sum(np.diff(edges) * (heights[1:] + heights[:-1]) / 2)
    assert area == pytest.approx(1, abs=1e-9)


@given(samples, st.floats(-200, 200))
def test_units_of_weights_do_not_matter(u, log_unit):
    weights = np.random.default_rng(len(u)).exponential(size=len(u))
    one, other = fitted(u, weights), fitted(u, weights * math.exp(log_unit))
    np.testing.assert_allclose(density(one, u), density(other, u), rtol=1e-6)


def test_points_without_weight_do_not_count():
    u = np.random.default_rng(1).random(200)
    weights = (u < 0.5) * 1.0
    np.testing.assert_array_equal(fitted(u, weights).density, fitted(u[u < 0.5]).density)
