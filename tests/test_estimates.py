"""Estimates: batches have the right mean, with or without a good guess, and tell of their own errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from varflow import Flow
from varflow.integration.estimates import Batches, weights_of
from varflow.integration.proposal import Draw, draw, random_points
from varflow.integration.sobol import sobol_points
from varflow.testing import normal_params


def make_flow(d=2, spread=0.5, seed=1):
    flow = Flow(d, "pwquad", n_bins=4, d_hidden=8, n_hidden=1, seed=seed)
    flow.params = normal_params(flow.architecture, spread, np.random.default_rng(seed))
    return flow


FLOW = make_flow()


def product(u):
    """Integral 1."""
    return np.prod(2 * u, axis=1)[:, None]


def vector(u):
    """Integrals 1, 3 and 0."""
    return np.column_stack([product(u), 3 * product(u), u[:, 0] - u[:, 1]])


def drawn(generator, n_batches, n_flow, n_uniform, make=random_points):
    latent, uniform = (
        np.concatenate([make(n, 2, generator) for _ in range(n_batches)]) for n in (n_flow, n_uniform)
    )
    return draw(FLOW, latent, uniform)


def batched(f=product, expected=(0.0,), n_batches=16, n_flow=90, n_uniform=10, seed=1, make=random_points):
    batches = Batches(np.array(expected))
    points = drawn(np.random.default_rng(seed), n_batches, n_flow, n_uniform, make)
    batches.add(points, f(points.u), n_batches)
    return batches


def at(*values):
    """One batch a value, with points that are uniform."""
    u = np.random.default_rng(1).random((len(values), 2))
    return Draw(u, np.zeros(len(u)), np.zeros(len(u)), 0), np.array(values, float).reshape(len(u), -1)


def of_weights(*weights):
    batches = Batches(np.zeros(1))
    batches.add(*at(*weights), len(weights))
    return batches


class TestMean:
    @pytest.mark.parametrize("expected", [0.0, 1.0, -3.0, 30.0])
    @pytest.mark.parametrize("n_uniform", [0, 1, 50])
    def test_is_unbiased_whatever_is_expected(self, expected, n_uniform):
        batches = batched(expected=[expected], n_batches=2000, n_flow=40, n_uniform=n_uniform)
        assert abs(batches.mean[0] - 1) < 4 * math.sqrt(batches.covariance[0, 0])

    @pytest.mark.parametrize("n_uniform", [1, 30])
    def test_is_unbiased_for_a_vector(self, n_uniform):
        batches = batched(vector, [2.0, -1.0, 0.5], 2000, 40, n_uniform)
        sdev = np.sqrt(np.diag(batches.covariance))
        assert (np.abs(batches.mean - [1, 3, 0]) < 4 * sdev).all()

    def test_without_uniform_points_is_that_of_the_weights(self):
        points = drawn(np.random.default_rng(1), 1, 200, 0)
        batches = Batches(np.array([7.0]))
        batches.add(points, product(points.u), 20)
        np.testing.assert_allclose(
            batches.mean, weights_of(points.log_q, product(points.u)).mean(axis=0), rtol=1e-12
        )

    def test_weights_are_f_over_q(self):
        points = drawn(np.random.default_rng(1), 1, 20, 5)
        np.testing.assert_allclose(
            weights_of(points.log_q, vector(points.u)),
            vector(points.u) / np.exp(points.log_q)[:, None],
            rtol=1e-12,
        )

    @pytest.mark.parametrize("n_uniform", [0, 3])
    def test_batches_added_at_once_or_one_by_one_are_the_same(self, n_uniform):
        points = drawn(np.random.default_rng(1), 5, 40, n_uniform)
        one, other = Batches(np.full(3, 0.7)), Batches(np.full(3, 0.7))
        one.add(points, vector(points.u), 5)
        for k in range(5):
            rows = np.r_[40 * k : 40 * (k + 1), 200 + n_uniform * k : 200 + n_uniform * (k + 1)]
            part = Draw(points.u[rows], points.log_flow[rows], points.log_q[rows], n_uniform)
            other.add(part, vector(part.u))
        np.testing.assert_allclose(other.means, one.means, rtol=1e-12)
        for name in ("mean", "covariance", "rate", "ess", "largest_share", "n"):
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-10)

    @pytest.mark.parametrize("n_uniform", [0, 6])
    def test_what_is_left_of_batches_is_unbiased(self, n_uniform):
        """A third of the points is lost, at random, and some batches with all of theirs."""
        points = drawn(np.random.default_rng(1), 400, 20, n_uniform)
        values = vector(points.u)
        is_known = np.random.default_rng(2).random(len(points.u)) > 0.3
        n_flow = 400 * 20
        is_known[: 5 * 20] = is_known[n_flow : n_flow + 5 * n_uniform] = False
        batches = Batches(np.array([2.0, -1.0, 0.5]))
        batches.add_known(points, values, 400, is_known)
        assert batches.n_batches == 395
        assert batches.n == np.count_nonzero(is_known)
        sdev = np.sqrt(np.diag(batches.covariance))
        assert (np.abs(batches.mean - [1, 3, 0]) < 4 * sdev).all()
        assert np.isfinite(batches.rate)


class TestControlVariate:
    @pytest.mark.parametrize("integral", [1.0, -2.5, 1e100])
    def test_leaves_no_scatter_where_f_is_the_flow(self, integral):
        def f(u):
            return integral * np.exp(FLOW.log_prob(u))[:, None]

        batches = batched(f, [integral])
        np.testing.assert_allclose(batches.means, integral, rtol=1e-4)  # networks are float32
        assert math.sqrt(batched(f).covariance[0, 0]) > 100 * math.sqrt(batches.covariance[0, 0])

    def test_a_good_guess_leaves_less_scatter_than_none(self):
        def f(u):
            return np.exp(FLOW.log_prob(u))[:, None] * (1 + 0.02 * np.sin(40 * u[:, :1]))

        none, good = (batched(f, [guess], 400).covariance[0, 0] for guess in (0.0, 1.0))
        assert good < 0.5 * none


class TestCovariance:
    def test_follows_from_the_means_of_the_batches(self):
        batches = batched(vector, [0.0])
        assert batches.means.shape == (16, 3)
        np.testing.assert_allclose(batches.mean, batches.means.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(batches.covariance, np.cov(batches.means.T) / 16, rtol=1e-10)

    @pytest.mark.parametrize("make", [random_points, sobol_points])
    def test_is_that_of_repeated_estimates(self, make):
        repeated = [batched(vector, [1.0, 3.0, 0.0], 16, 30, 2, seed, make) for seed in range(80)]
        found = np.mean([batches.covariance for batches in repeated], axis=0)
        expected = np.cov(np.array([batches.mean for batches in repeated]).T)
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        np.testing.assert_allclose(found / scale, expected / scale, atol=0.4)

    def test_multiples_are_fully_correlated(self):
        covariance = batched(vector, [1.0]).covariance
        np.testing.assert_allclose(covariance[0, 1] ** 2, covariance[0, 0] * covariance[1, 1], rtol=1e-1)
        covariance = batched(vector, [1.0, 3.0, 0.0]).covariance
        np.testing.assert_allclose(
            covariance[:2, :2], covariance[0, 0] * np.array([[1, 3], [3, 9]]), rtol=1e-9
        )


class TestRate:
    @given(seeds, st.integers(1, 40), st.integers(0, 5), st.sampled_from([random_points, sobol_points]))
    def test_is_held_between_a_half_and_one(self, seed, n_flow, n_uniform, make):
        assert 0.5 <= batched(product, [1.0], 4, n_flow, n_uniform, seed, make).rate <= 1

    @pytest.mark.parametrize("values", [[0.0] * 8, [1.0] * 8, [0.0] * 7 + [1.0], [1e-130, 1e130] * 4])
    def test_is_so_for_odd_values_too(self, values):
        batches = Batches(np.zeros(1))
        batches.add(*at(*values), 2)
        assert 0.5 <= batches.rate <= 1

    def test_tells_sobol_points_from_random_ones(self):
        of_random, of_sobol = (
            np.mean([batched(product, [1.0], 32, 256, 2, seed, make).rate for seed in range(10)])
            for make in (random_points, sobol_points)
        )
        assert of_random < 0.65 < 0.75 < of_sobol


class TestQuality:
    @pytest.mark.parametrize(
        ("weights", "ess", "largest"),
        [
            ([1, 1, 1, 1], 1, 1 / 4),
            ([4, 0, 0, 0], 1 / 4, 1),
            ([3, 1], 0.8, 3 / 4),
            ([1, -1], 1, 1 / 2),
            ([0, 0], 0, 0),
            ([3e100, 1e100], 0.8, 3 / 4),
        ],
    )
    def test_of_known_weights(self, weights, ess, largest):
        batches = of_weights(*weights)
        assert batches.ess == pytest.approx(ess)
        assert batches.largest_share == pytest.approx(largest)
        assert batches.n == len(weights)

    def test_of_points_added_in_turn(self):
        batches = Batches(np.zeros(1))
        for weights in ([1, 2], [5], [4, 0, 0]):
            batches.add(*at(*weights))
        assert batches.n == 6
        assert batches.ess == pytest.approx(12**2 / (6 * 46))
        assert batches.largest_share == pytest.approx(5 / 12)

    def test_of_vectors_is_that_of_their_sums(self):
        batches = Batches(np.zeros(2))
        batches.add(*at([1, -2], [0, 1]), 2)
        assert batches.ess == pytest.approx(16 / 20)
        assert batches.largest_share == pytest.approx(3 / 4)
