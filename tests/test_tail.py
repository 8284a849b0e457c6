"""What weights heavier than all that were seen would add to an estimate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import genpareto

import varflow as vf
from varflow.integration.tail import Tail
from varflow.training.pareto import change_by_heavier, pareto_shape_of_largest


def log_mean(log_ratios):
    return float(np.logaddexp.reduce(log_ratios) - math.log(len(log_ratios)))


class TestChangeByHeavier:
    @given(st.floats(-300, 300), st.integers(0, 2**32 - 1))
    def test_units_do_not_matter(self, log_unit, seed):
        log_ratios = np.random.default_rng(seed).normal(0, 2, 300)
        change = change_by_heavier(log_ratios, 300, log_mean(log_ratios))
        moved = change_by_heavier(log_ratios + log_unit, 300, log_mean(log_ratios) + log_unit)
        assert moved == change

    @pytest.mark.parametrize("shape", [0.6, 0.7])
    def test_is_the_mean_excess_of_a_pareto_distribution(self, shape):
        """Averaged over samples, it is what the distribution itself expects above the largest of each."""
        found, expected, k, n = [], [], [], 2000
        for seed in range(100):
            ratios = 1 + genpareto.rvs(shape, size=n, random_state=seed)
            k.append(pareto_shape_of_largest(np.log(ratios), n))
            found.append(change_by_heavier(np.log(ratios), n, math.log(ratios.mean())))
            largest = ratios.max() - 1
            heavier = largest + (1 + shape * largest) / (1 - shape)
            expected.append((1 + heavier - ratios.mean()) / n / ratios.mean())
        found, expected = (np.array(one)[np.array(k) >= 0.5] for one in (found, expected))
        assert len(found) > 40
        assert np.median(found) == pytest.approx(np.median(expected), rel=0.35)

    def test_of_ratios_that_reach_their_bound(self):
        log_ratios = np.repeat([0.0, -math.inf], 100)
        assert change_by_heavier(log_ratios, 200, log_mean(log_ratios)) == 0

    def test_of_nearly_equal_ratios(self):
        log_ratios = 1e-3 * np.random.default_rng(1).normal(size=10_000)
        assert change_by_heavier(log_ratios, 10_000, log_mean(log_ratios)) < 1e-6

    @pytest.mark.parametrize("n_nonzero", [0, 1, 3])
    def test_of_few_that_are_not_zero(self, n_nonzero):
        log_ratios = np.full(100, -math.inf)
        log_ratios[:n_nonzero] = np.arange(n_nonzero) * 10.0
        assert change_by_heavier(log_ratios, 100, log_mean(log_ratios)) == math.inf

    def test_without_a_mean(self):
        log_ratios = 30 * np.random.default_rng(1).normal(size=200)
        assert change_by_heavier(log_ratios, 200, log_mean(log_ratios)) == math.inf


class TestTail:
    def weights(self, n, m, seed=1):
        weights = np.random.default_rng(seed).pareto(2, (n, m))
        return np.log(np.linalg.norm(weights, axis=1)), weights

    def tail(self, n, m):
        tail, (log_weights, weights) = Tail(), self.weights(n, m)
        tail.add(log_weights, weights.sum(axis=0))
        return tail

    def test_in_parts(self):
        log_weights, weights = self.weights(100_000, 2)
        parts, whole = Tail(), Tail()
        whole.add(log_weights, weights.sum(axis=0))
        for rows in np.split(np.arange(100_000), 10):
            parts.add(log_weights[rows], weights[rows].sum(axis=0))
        parts.add(log_weights[:0], np.zeros(2))
        assert len(parts.largest) < parts.n == 100_000
        assert parts.shape == whole.shape == pareto_shape_of_largest(log_weights, 100_000)
        np.testing.assert_allclose(parts.heavier, whole.heavier, rtol=1e-12)

    def test_kept(self):
        tail = self.tail(1000, 3)
        read = Tail.of("it", tail.arrays("it"))
        assert (read.n, read.shape) == (tail.n, tail.shape)
        np.testing.assert_array_equal(read.heavier, tail.heavier)

    @given(st.integers(-300, 300))
    def test_scaled(self, exponent):
        tail = self.tail(1000, 2)
        before = tail.heavier
        tail.scale(exponent)
        np.testing.assert_allclose(tail.heavier, np.ldexp(before, exponent), rtol=1e-9)

    def test_empty(self):
        assert Tail().heavier.tolist() == [0]


def narrow(x):
    """Gaussian of width 0.1 in eight dimensions: 200 uniform points see its tails only. The integral is 1."""
    return np.exp(-0.5 * np.sum(((x - 0.5) / 0.1) ** 2, axis=1)) / (0.1 * math.sqrt(2 * math.pi)) ** 8


def edge(x):
    """The integral is 1, the variance infinite."""
    return 0.2 * x[:, 0] ** -0.8


@pytest.mark.parametrize(("f", "d"), [(narrow, 8), (edge, 1)])
def test_errors_of_few_points(f, d):
    """By the scatter alone, estimates are up to 20 errors off."""
    results = [vf.integrate(f, d, n_calls=200, seed=seed) for seed in range(30)]
    pulls = np.array([(result.mean - 1) / result.sdev for result in results])
    assert abs(pulls.mean()) < 0.7
    assert pulls.std() < 1.3


def test_shown(tmp_path):
    result = vf.integrate(edge, 1, n_calls=200, seed=1)
    assert math.isfinite(result.sdev)
    assert "for weights larger than those so far" in result.summary()
    result.save(tmp_path / "result.npz")
    assert vf.Result.load(tmp_path / "result.npz").sdev == result.sdev


def test_error_that_is_not_known():
    result = vf.integrate(narrow, 8, n_calls=200, seed=3)
    assert result.sdev == math.inf
    assert "± inf" in str(result)
    assert "inf%" not in result.summary()
    assert any("the error is not known" in warning for warning in result.warnings)


def test_good_results_have_the_error_of_their_scatter():
    result = vf.integrate(lambda x: np.exp(-np.sum(x, axis=1)), 3, n_calls=20_000, seed=1)
    assert result.heavier.tolist() == [0]
