"""The element-wise map: the marginal densities of weighted points, whatever the cell."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import seeds

from varflow import Flow
from varflow.flow.elementwise import fit_elementwise, pwlinear_logits
from varflow.flow.marginals import fitted_marginal
from varflow.flow.masks import MASKS
from varflow.kernels.splines import SPLINES

CELL_NAMES = sorted(SPLINES)


def make_flow(d=3, cell="pwquad", **options):
    return Flow(d, cell, **{"n_bins": 16, "d_hidden": 8, "n_hidden": 1, "seed": 1} | options)


def fitted(u, weights=None, **options):
    flow = make_flow(u.shape[1], **options)
    fit_elementwise(flow, u, np.ones(len(u)) if weights is None else weights)
    return flow


def log_peak(u, width):
    """Log of a Gaussian in the middle, whose integral over the line is 1."""
    log_density = -(((u - 0.5) / width) ** 2) - math.log(width * math.sqrt(math.pi))
    return log_density.sum(axis=1)


def peak_points(width, n=4000, d=3, seed=1):
    return np.clip(np.random.default_rng(seed).normal(0.5, width / math.sqrt(2), (n, d)), 0, 1)


@pytest.mark.parametrize("masking", sorted(MASKS))
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_density_is_a_product_over_coordinates(cell, masking):
    flow = fitted(np.random.default_rng(1).beta(2, 5, (4000, 3)), cell=cell, masking=masking)
    one, other = np.random.default_rng(2).random((2, 500, 3))
    mixed, rest = one.copy(), other.copy()
    mixed[:, 1], rest[:, 1] = other[:, 1], one[:, 1]
    one, other, mixed, rest = (flow.log_prob(u) for u in (one, other, mixed, rest))
    assert np.ptp(one) > 1
    np.testing.assert_allclose(mixed + rest, one + other, atol=1e-4)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize(
    ("cell", "width"), [("pwlinear", 0.3), ("pwquad", 0.3), ("rqs", 0.3), ("pwquad", 0.01), ("rqs", 0.01)]
)
def test_narrow_peaks_are_found(cell, width, d):
    flow = fitted(peak_points(width, d=d), cell=cell)
    u = peak_points(width, d=d, seed=2)
    missing = np.mean(log_peak(u, width) - flow.log_prob(u)) / d
    assert missing < (0.21 if d == 1 else 0.15)  # of which the flat share is 0.1


@pytest.mark.parametrize("cell", ["pwquad", "rqs"])  # widths of "pwlinear" are fixed
def test_a_single_coordinate_has_bins_as_narrow_as_it_needs(cell):
    """Each cell is fitted to what those before it have left: their bins are bins within bins."""
    u = np.linspace(0, 1, 4001)[1:-1, None] ** 10  # points of the density u^-0.9 / 10
    one, four = (fitted(u, cell=cell, repetitions=n) for n in (1, 4))
    tail = np.geomspace(1e-12, 1, 400)[:-1, None]
    off = [np.abs(flow.log_prob(tail) - np.log(0.1 * tail[:, 0] ** -0.9)).mean() for flow in (one, four)]
    assert off[1] < 0.7
    assert off[1] < 0.5 * off[0]


def test_weights_count_as_points():
    u, log_weights = np.random.default_rng(1).random((50_000, 2)), None
    log_weights = log_peak(u, 0.2)
    flow, other = fitted(u, np.exp(log_weights)), fitted(peak_points(0.2, 50_000, d=2))
    u = peak_points(0.2, d=2, seed=2)
    np.testing.assert_allclose(flow.log_prob(u).mean(), other.log_prob(u).mean(), atol=0.03)


def test_fitting_again_forgets_the_first_map():
    flow = fitted(peak_points(0.1))
    again = peak_points(0.3)
    fit_elementwise(flow, again, np.ones(len(again)))
    np.testing.assert_array_equal(flow.params, fitted(again).params)


def test_pwlinear_bins_have_the_share_of_their_points():
    u, weights = np.array([0.1, 0.15, 0.6]), np.array([1.0, 2.0, 5.0])
    # At a point half of its weight is to the left; between points the distribution is a straight line.
    contents = np.exp(pwlinear_logits(fitted_marginal, u, weights, 4, 0.1))
    assert contents.sum() == pytest.approx(1)
    below = np.interp([0.25, 0.5, 0.75], [0, *u, 1], [0, 0.5 / 8, 2 / 8, 5.5 / 8, 1])
    expected = 0.9 * below + 0.1 * np.array([0.25, 0.5, 0.75])
    np.testing.assert_allclose(np.cumsum(contents)[:-1], expected)


@given(
    st.sampled_from(CELL_NAMES),
    arrays(float, st.tuples(st.integers(1, 50), st.just(2)), elements=st.floats(0, 1)),
    st.integers(1, 20),
    seeds,
)
def test_any_points_give_a_density_that_is_nowhere_small(cell, u, n_bins, seed):
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=len(u)) * (np.arange(len(u)) % 2 == 0)
    flow = fitted(u, weights, cell=cell, n_bins=n_bins)
    assert np.isfinite(flow.params).all()
    grid = np.linspace(0, 1, 101)
    for k in range(2):
        line = np.full((101, 2), 0.5)
        line[:, k] = grid
        assert flow.log_prob(line).min() > -8  # a bin's density is 1 / n_bins at least, or little less
