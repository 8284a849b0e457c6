"""Proposals: points come from the mixture that they are said to come from, and latent points are uniform."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import percent_of_examples, seeds

from varflow import Flow
from varflow.integration.proposal import LATENT_POINTS, draw, random_points
from varflow.integration.sobol import sobol_points
from varflow.testing import normal_params


def make_flow(d, spread=1.0, seed=1):
    flow = Flow(d, "pwquad", n_bins=4, d_hidden=8, n_hidden=1, seed=seed)
    flow.params = normal_params(flow.architecture, spread, np.random.default_rng(seed))
    return flow


def drawn(flow, n_flow, n_uniform, seed=2):
    rng = np.random.default_rng(seed)
    return draw(flow, rng.random((n_flow, flow.d)), rng.random((n_uniform, flow.d)))


class TestMixture:
    @pytest.mark.parametrize(("d", "n_a_side"), [(1, 20_000), (2, 300)])
    @pytest.mark.parametrize("ratio", [0.5, 9])
    def test_density_integrates_to_one(self, d, n_a_side, ratio):
        side = (np.arange(n_a_side) + 0.5) / n_a_side
        grid = np.stack(np.meshgrid(*[side] * d), axis=-1).reshape(-1, d)
        flow = make_flow(d, spread=2)
        latent = np.random.default_rng(1).random((int(ratio * len(grid)), d))
        points = draw(flow, latent, grid)  # the grid in place of random points, to have the density there
        density = np.exp(points.log_q[-len(grid) :])
        assert density.max() > 1.2 > 0.9 > density.min()
        np.testing.assert_allclose(density.mean(), 1, rtol=2e-3)

    @pytest.mark.parametrize(("n_flow", "n_uniform"), [(900, 100), (1, 1), (10, 990)])
    def test_density_is_that_of_all_points_whichever_part_they_are_from(self, n_flow, n_uniform):
        flow = make_flow(2)
        points = drawn(flow, n_flow, n_uniform)
        share = n_uniform / (n_flow + n_uniform)
        assert points.uniform_share == share
        assert points.u.shape == (n_flow + n_uniform, 2)
        of_flow = np.exp(flow.log_prob(points.u))
        np.testing.assert_allclose(np.exp(points.log_flow), of_flow, rtol=1e-4)
        np.testing.assert_allclose(np.exp(points.log_q), (1 - share) * of_flow + share, rtol=1e-4)

    @pytest.mark.parametrize(
        ("contains", "volume"),
        [
            (lambda u: np.full(len(u), True), 1),
            (lambda u: u[:, 0] < 0.2, 0.2),
            (lambda u: u.sum(axis=1) > 1.5, 0.125),
        ],
        ids=["cube", "slab", "corner"],
    )
    def test_points_have_the_density(self, contains, volume):
        points = drawn(make_flow(2), 36_000, 4_000)
        terms = contains(points.u) * np.exp(-points.log_q)
        assert abs(terms.mean() - volume) < 4 * terms.std() / np.sqrt(len(terms))

    def test_without_uniform_points_the_density_is_the_flow(self):
        flow = make_flow(2)
        points = drawn(flow, 100, 0)
        assert points.uniform_share == points.n_uniform == 0
        np.testing.assert_array_equal(points.log_q, points.log_flow)
        z, log_det = flow.to_latent(points.u)
        np.testing.assert_allclose(z, np.random.default_rng(2).random((100, 2)), atol=1e-5)
        np.testing.assert_allclose(points.log_q, log_det, atol=1e-4)

    def test_last_points_are_the_uniform_ones(self):
        uniform = np.random.default_rng(3).random((7, 2))
        points = draw(make_flow(2), np.random.default_rng(4).random((20, 2)), uniform)
        assert points.n_uniform == 7
        np.testing.assert_array_equal(points.u[-7:], uniform)

    @given(seeds, st.floats(0.1, 30), st.integers(1, 50), st.integers(1, 50))
    @percent_of_examples(40)
    def test_no_weight_exceeds_f_over_the_share(self, seed, spread, n_flow, n_uniform):
        points = drawn(make_flow(2, spread, seed), n_flow, n_uniform, seed)
        assert np.isfinite(points.log_q).all()
        assert np.exp(-points.log_q).max() <= (1 + 1e-12) / points.uniform_share


def test_no_point_lies_on_a_face():
    z = np.array([[0.0, 0.5], [1.0, 1.0], [0.3, 0.0]])
    for points in (draw(Flow(2, seed=1), z, z), draw(make_flow(2, spread=3.0), z, z)):
        assert (points.u > 0).all()
        assert (points.u < 1).all()
        assert np.isfinite(1 / points.u).all()
        assert np.isfinite(points.log_q).all()


class TestLatentPoints:
    @pytest.mark.parametrize("make", LATENT_POINTS.values(), ids=LATENT_POINTS)
    @given(st.integers(0, 3000), st.integers(1, 12), seeds)
    @percent_of_examples(40)
    def test_any_number_of_points(self, make, n, d, seed):
        points = make(n, d, np.random.default_rng(seed))  # warnings are errors
        assert points.shape == (n, d)
        assert ((points >= 0) & (points < 1)).all()
        assert len(np.unique(points, axis=0)) == n

    @pytest.mark.parametrize("make", LATENT_POINTS.values(), ids=LATENT_POINTS)
    def test_same_generator_state_same_points(self, make):
        one, two = np.random.default_rng(5), np.random.default_rng(5)
        np.testing.assert_array_equal(make(300, 3, one), make(300, 3, two))
        np.testing.assert_array_equal(make(300, 3, one), make(300, 3, two))

    @pytest.mark.parametrize("make", LATENT_POINTS.values(), ids=LATENT_POINTS)
    def test_each_call_gives_other_points(self, make):
        generator = np.random.default_rng(5)
        one, two = make(256, 2, generator), make(256, 2, generator)
        assert not np.isin(one, two).any()

    @pytest.mark.parametrize("d", [1, 4, 16])
    def test_a_power_of_two_of_sobol_points_has_one_in_each_interval(self, d):
        points = sobol_points(512, d, np.random.default_rng(6))
        np.testing.assert_array_equal(
            np.sort((512 * points).astype(int), axis=0), np.tile(np.arange(512), (d, 1)).T
        )

    @pytest.mark.parametrize("n", [101, 1000])
    def test_other_numbers_of_sobol_points_are_nearly_as_even(self, n):
        points = sobol_points(n, 3, np.random.default_rng(7))
        for column in points.T:
            assert stats.kstest(column, "uniform").statistic < 0.3 / np.sqrt(
                n
            )  # of random points it is 0.9 over the root on average

    @pytest.mark.parametrize("n", [1, 6])
    def test_each_point_is_uniform_over_the_scrambles(self, n):
        generator = np.random.default_rng(8)
        points = np.array([sobol_points(n, 2, generator) for _ in range(300)])
        for k in range(n):
            for column in points[:, k].T:
                assert stats.kstest(column, "uniform").pvalue > 1e-3

    def test_means_over_sobol_points_have_less_scatter(self):
        generator = np.random.default_rng(9)
        of_sobol, of_random = (
            np.std([np.prod(2 * make(1000, 2, generator), axis=1).mean() for _ in range(30)])
            for make in (sobol_points, random_points)
        )
        assert of_sobol < 0.1 * of_random
