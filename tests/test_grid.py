"""Grids: the map is a monotone one of the unit cube, knows its derivative, and follows an integrand."""

import math
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from varflow.grid import Grid

EPS = np.finfo(float).eps


@st.composite
def grids(draw, spread=3.0):
    """Grids whose bins differ in width by factors of exp(spread) or so."""
    d, n_bins = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    widths = np.exp(spread * np.random.default_rng(draw(seeds)).normal(size=(d, n_bins)))
    widths += 1e-14 * widths.sum(axis=1, keepdims=True)  # lest an edge round to its neighbour
    edges = np.append(np.zeros((d, 1)), np.cumsum(widths, axis=1), axis=1)
    return Grid(edges / edges[:, -1:])


def points(grid, seed, n=200):
    """Random points, and all edges in v and the numbers next to them, shuffled in each dimension."""
    rng = np.random.default_rng(seed)
    exact = np.linspace(0.0, 1.0, grid.edges.shape[1])
    near = np.clip([np.nextafter(exact, -1), exact, np.nextafter(exact, 2)], 0, 1).ravel()
    column = np.concatenate([near, rng.random(n)])
    return rng.permuted(np.tile(column, (grid.d, 1)), axis=1).T


def gauss(u, sigma=0.05):
    return np.exp(-np.sum(((u - 0.4) / sigma) ** 2, axis=1) / 2) / (sigma * math.sqrt(2 * math.pi)) ** 4


def weights_of(grid, f, v):
    u, log_jacobian = grid.from_cube(v)
    return f(u) * np.exp(log_jacobian)


def adapted(f, d, n_bins=50, rounds=5, n=4000):
    rng = np.random.default_rng(1)
    grid = Grid.identity(d, n_bins)
    for _ in range(rounds):
        v = rng.random((n, d))
        grid = grid.refined(v, weights_of(grid, f, v) ** 2)
    return grid


class TestMap:
    @given(grids(), seeds)
    def test_inverse(self, grid, seed):
        v = points(grid, seed)
        u, log_jacobian = grid.from_cube(v)
        again, _ = grid.to_cube(u)
        # u is known to a rounding error, which the map back magnifies where bins are narrow.
        slopes = (grid.edges.shape[1] - 1) * np.diff(grid.edges)
        assert np.abs(again - v).max() < max(1e-12, 4 * EPS / slopes.min())
        inner = v * (grid.edges.shape[1] - 1) % 1
        inner = ((inner > 1e-9) & (inner < 1 - 1e-9)).all(axis=1) & (slopes.min() > 1e-6)
        np.testing.assert_array_equal(grid.to_cube(u)[1][inner], log_jacobian[inner])

    @given(grids(), seeds)
    def test_inverse_of_inverse(self, grid, seed):
        u = np.concatenate([points(grid, seed), grid.edges.T])
        v, _ = grid.to_cube(u)
        np.testing.assert_allclose(grid.from_cube(v)[0], u, rtol=0, atol=1e-12)

    @given(grids(), seeds)
    def test_monotone_within_the_cube(self, grid, seed):
        for function in (grid.from_cube, grid.to_cube):
            found = function(np.sort(points(grid, seed), axis=0))[0]
            assert (np.diff(found, axis=0) >= 0).all()
            assert found.min() >= 0
            assert found.max() <= 1

    @given(grids(spread=10.0))
    def test_ends_are_exact(self, grid):
        ends = np.repeat([[0.0], [1.0]], grid.d, axis=1)
        for function in (grid.from_cube, grid.to_cube):
            found, log_jacobian = function(ends)
            np.testing.assert_array_equal(found, ends)
            assert np.isfinite(log_jacobian).all()

    @given(grids(spread=1.0), seeds)
    def test_jacobian_is_the_slope(self, grid, seed):
        n_bins = grid.edges.shape[1] - 1
        rng = np.random.default_rng(seed)
        v = (rng.integers(n_bins, size=(50, grid.d)) + rng.uniform(0.1, 0.8, (50, grid.d))) / n_bins
        step = 0.1 / n_bins
        u, log_jacobian = grid.from_cube(v)
        expected = np.log((grid.from_cube(v + step)[0] - u) / step).sum(axis=1)
        np.testing.assert_allclose(log_jacobian, expected, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(grid.to_cube(u)[1], log_jacobian)

    @given(st.integers(1, 5), st.integers(1, 100), seeds)
    def test_identity(self, d, n_bins, seed):
        grid = Grid.identity(d, n_bins)
        v = np.random.default_rng(seed).random((100, d))
        for function in (grid.from_cube, grid.to_cube):
            found, log_jacobian = function(v)
            np.testing.assert_allclose(found, v, rtol=0, atol=4 * EPS)
            np.testing.assert_allclose(log_jacobian, 0.0, rtol=0, atol=d * n_bins * 4 * EPS)

    def test_known_grid(self):
        grid = Grid([[0, 0.5, 0.75, 1]])
        u, log_jacobian = grid.from_cube([[1 / 6], [0.5], [1.0]])
        np.testing.assert_allclose(u[:, 0], [0.25, 0.625, 1.0], rtol=1e-15)
        np.testing.assert_allclose(np.exp(log_jacobian), [1.5, 0.75, 0.75], rtol=1e-15)

    def test_integral_is_kept(self):
        grid = adapted(gauss, 4)
        v = np.random.default_rng(2).random((20_000, 4))
        values = weights_of(grid, gauss, v)
        assert abs(values.mean() - 1) < 4 * values.std() / math.sqrt(len(v))


class TestArguments:
    def test_edges_are_a_read_only_copy(self):
        edges = np.array([[0.0, 0.5, 1.0]])
        grid = Grid(edges)
        edges[0, 1] = 0.25
        assert grid.edges[0, 1] == 0.5
        with pytest.raises(ValueError, match="read-only"):
            grid.edges[0, 1] = 0.25

    def test_pickles(self):
        grid = Grid([[0, 0.3, 1], [0, 0.6, 1]])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(grid)).edges, grid.edges)

    @pytest.mark.parametrize(
        ("edges", "error", "match"),
        [
            ([0, 1], ValueError, "edges must have shape (d, n_bins + 1), found (2,)"),
            ([[0], [1]], ValueError, "found (2, 1)"),
            (np.empty((0, 3)), ValueError, "found (0, 3)"),
            ([["a", "b"]], TypeError, "edges must be real numbers, found dtype <U1"),
            ([[0, 1j]], TypeError, "found dtype complex128"),
            (np.ma.array([[0, 1]]), TypeError, "edges must not be a masked array"),
            ([[0, 1], [0, 2]], ValueError, "edges[1] must be from 0 to 1, found 0.0 to 2.0"),
            ([[0.1, 1]], ValueError, "edges[0] must be from 0 to 1, found 0.1 to 1.0"),
            ([[0, 0.5, 0.5, 1]], ValueError, "edges[0] must rise strictly, found 0.5 after 0.5"),
            ([[0, 0.5, 0.25, 1]], ValueError, "found 0.25 after 0.5"),
            ([[0, math.nan, 1]], ValueError, "found nan after 0.0"),
            ([[0, math.inf, math.inf, 1]], ValueError, "found inf after inf"),
            ([[math.nan, 1]], ValueError, "found nan to 1.0"),
        ],
    )
    def test_wrong_edges(self, edges, error, match):
        with pytest.raises(error, match=re.escape(match)):
            Grid(edges)

    @pytest.mark.parametrize(
        ("arguments", "error", "match"),
        [
            ((2, 0), ValueError, "^n_bins must be at least 1, got 0"),
            ((0, 2), ValueError, "^d must be at least 1, got 0"),
            ((2.0, 1), TypeError, "^d must be an integer, got 2.0"),
            ((2, True), TypeError, "^n_bins must be an integer, got True"),
        ],
    )
    def test_wrong_identity(self, arguments, error, match):
        with pytest.raises(error, match=match):
            Grid.identity(*arguments)

    def test_points_outside(self):
        grid = Grid.identity(2, 3)
        with pytest.raises(ValueError, match="v must lie within bounds"):
            grid.from_cube([[0.5, 1.5]])
        with pytest.raises(ValueError, match=r"u must have shape \(n, 2\)"):
            grid.to_cube([[0.5]])
        with pytest.raises(ValueError, match="a row and a column at least"):
            grid.refined(np.empty((0, 2)), [])

    @pytest.mark.parametrize(
        ("weights", "options", "error", "match"),
        [
            ([1.0], {}, ValueError, r"^weights must have shape \(2,\), found \(1,\)"),
            ([1.0, -1.0], {}, ValueError, "^weights must be finite and at least 0, found -1.0 in row 1"),
            ([math.nan, 1.0], {}, ValueError, "found nan in row 0"),
            ([1.0, math.inf], {}, ValueError, "found inf in row 1"),
            (["a", "b"], {}, TypeError, "^weights must be real numbers"),
            ([1.0, 1.0], {"alpha": -1.0}, ValueError, "^alpha must be finite and at least 0, found -1.0"),
            ([1.0, 1.0], {"alpha": math.nan}, ValueError, "^alpha must be finite"),
        ],
    )
    def test_wrong_weights(self, weights, options, error, match):
        with pytest.raises(error, match=match):
            Grid.identity(1, 3).refined([[0.1], [0.9]], weights, **options)


class TestRefined:
    def test_variance_falls(self):
        v = np.random.default_rng(2).random((20_000, 4))
        before = weights_of(Grid.identity(4, 50), gauss, v).var()
        after = weights_of(adapted(gauss, 4), gauss, v).var()
        assert after < before / 100

    def test_edges_follow_a_separable_density(self):
        # For f = 2u, the best grid has u = sqrt(v): du/dv = 1/(2u).
        edges = adapted(lambda u: 2 * u[:, 0], 1, n_bins=20, rounds=20, n=20_000).edges[0]
        np.testing.assert_allclose(edges, np.sqrt(np.arange(21) / 20), atol=0.03)

    @pytest.mark.parametrize("importance", [[3.0, 1.0, 0.0, 2.0], [1.0, 0.0, 0.0, 0.0], [1.0], [0.0, 5.0]])
    def test_against_the_formulas(self, importance):
        n = len(importance)
        edges = np.append(0.0, np.cumsum(np.arange(1, n + 1))) / (n * (n + 1) / 2)
        mean = np.array(importance) + 1.0
        v = np.repeat((np.arange(n) + 0.5) / n, 2)[:, None]
        weights = np.repeat(mean, 2) * np.tile([0.5, 1.5], n)
        smoothed = [
            (mean[max(k - 1, 0)] + 6 * mean[k] + mean[min(k + 1, n - 1)]) / 8 for k in range(n)
        ] / mean.sum()
        compressed = [((1 - r) / math.log(1 / r)) ** 1.5 if r < 1 else 1.0 for r in smoothed]
        found = Grid([edges]).refined(v, weights).edges[0]
        # In each new bin, the old bins' importance is what they have a share of.
        cumulative = np.interp(found, edges, np.append(0.0, np.cumsum(compressed)))
        np.testing.assert_allclose(np.diff(cumulative), np.sum(compressed) / n, rtol=1e-8)

    def test_bins_of_few_points_count_by_their_mean(self):
        v = np.array([[0.25]] * 9 + [[0.75]])
        edges = Grid.identity(1, 2).refined(v, np.ones(10)).edges
        np.testing.assert_allclose(edges, [[0, 0.5, 1]], rtol=1e-15)

    @given(grids(), seeds, st.integers(1, 300), st.floats(0, 10), st.floats(0, 300))
    def test_no_bin_vanishes(self, grid, seed, n, alpha, power):
        rng = np.random.default_rng(seed)
        for _ in range(5):
            v = rng.random((n, grid.d))
            grid = grid.refined(v, rng.random(n) ** power * 1e300, alpha)
        assert grid.edges[:, 0].max() == 0
        assert grid.edges[:, -1].min() == 1
        assert (np.diff(grid.edges) > 1e-13).all()

    def test_narrow_peak_for_long(self):
        grid = adapted(lambda u: (np.abs(u[:, 0] - 0.7) < 1e-14).astype(float) + 1e-3, 1, 1000, 100, 1000)
        assert (np.diff(grid.edges) > 0).all()

    @pytest.mark.parametrize("factor", [1e-300, 1.0, 1e300])
    def test_scale_of_weights_does_not_matter(self, factor):
        v = np.random.default_rng(1).random((1000, 2))
        weights = v.sum(axis=1)
        grid = Grid.identity(2, 10)
        np.testing.assert_allclose(
            grid.refined(v, weights * factor).edges, grid.refined(v, weights).edges, rtol=1e-12
        )

    def test_repeats_bit_for_bit(self):
        np.testing.assert_array_equal(adapted(gauss, 4).edges, adapted(gauss, 4).edges)

    @given(grids(), seeds)
    def test_unchanged(self, grid, seed):
        v = np.random.default_rng(seed).random((50, grid.d))
        assert grid.refined(v, np.zeros(50)) is grid
        still = grid.refined(v, v[:, 0], alpha=0.0)
        np.testing.assert_allclose(still.edges, grid.edges, rtol=0, atol=2e-10)
