"""What is learnt where points say little about f, and the loss and the unit that held-out points give."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varflow import weighted_dkl_loss, weighted_variance_loss
from varflow.training.held_out import held_out_loss, log_unit
from varflow.training.target import LARGEST_SHARE, MANY_POINTS, Target
from varflow.training.tempering import ESS, effective_size


def log_ratios(n=1000, width=1.0, seed=1):
    """Logs of weights f/p whose mean is one; the larger the width, the fewer carry it."""
    logs = width * np.random.default_rng(seed).normal(size=n)
    return logs - math.log(np.mean(np.exp(logs)))


ROWS = np.arange(1000)


class TestTarget:
    def test_even_weights_are_learnt_as_they_are(self):
        ratios = log_ratios(width=0.5)
        target = Target(ratios, ROWS)
        assert target.share == 0
        assert target.power(0.0) == 1
        np.testing.assert_array_equal(target.log_ratios(0.0, 0.25)(0, len(ROWS)), ratios - 0.25)

    def test_share_of_p_grows_as_fewer_points_carry_the_integral(self):
        shares = [Target(log_ratios(width=width), ROWS).share for width in (1.0, 2.0, 2.5, 3.0, 10.0)]
        assert shares[0] == 0
        assert shares[-1] == LARGEST_SHARE
        assert shares == sorted(shares)
        target = Target(log_ratios(width=2.5), ROWS)
        assert target.n_eff < MANY_POINTS
        assert target.share == pytest.approx((2 / target.n_eff) ** 2)

    @given(width=st.floats(2.5, 10), seed=st.integers(0, 99))
    def test_no_weight_exceeds_that_of_the_share(self, width, seed):
        target = Target(log_ratios(width=width, seed=seed), ROWS)
        assert np.exp(target.log_ratios(1.0, 0.0)(0, len(ROWS))).min() >= target.share * (1 - 1e-12)

    def test_power_rises_to_one_from_where_enough_points_have_weight(self):
        ratios = log_ratios(width=4.0)
        target = Target(ratios, ROWS)
        powers = [target.power(progress) for progress in (0, 0.2, 0.5, 1)]
        assert effective_size(powers[0] * ratios) / 1000 == pytest.approx(ESS, rel=1e-2)
        assert powers == sorted(powers)
        assert powers[2:] == [1, 1]
        for progress in (0, 0.25):  # in units of its own integral
            assert np.exp(target.log_ratios(progress, 0.0)(0, len(ROWS))).mean() == pytest.approx(1, rel=1e-9)

    def test_points_without_f_learn_p_alone(self):
        ratios = log_ratios(width=5.0)
        ratios[:500] = -np.inf
        target = Target(ratios, ROWS)
        np.testing.assert_allclose(target.log_ratios(1.0, 0.0)(0, len(ROWS))[:500], math.log(target.share))

    @given(st.floats(-700, 700))
    def test_effective_size_is_free_of_units(self, shift):
        logs = np.log([1.0, 2.0, 3.0])
        assert effective_size(logs + shift) == pytest.approx(36 / 14, rel=1e-9)


class TestHeldOutLoss:
    """Points x ~ p = 2x, f = 3x^2, q = (1 + x) / 1.5, all densities of the unit interval."""

    @staticmethod
    def points(n, seed=1):
        x = np.sqrt(np.random.default_rng(seed).random(n))
        return np.log(3 * x**2), np.log((1 + x) / 1.5), np.log(2 * x)

    @pytest.mark.parametrize(("power", "loss"), [(1, weighted_dkl_loss), (2, weighted_variance_loss)])
    def test_expectation_is_that_of_the_loss(self, power, loss):
        log_f, log_q, log_p = self.points(1_000_000)
        plain = loss(np.exp(log_f), np.exp(log_p), log_q)
        found = held_out_loss(log_f - log_p, log_q - log_p, log_p, power)
        assert found == pytest.approx(plain, abs=5e-3)

    @pytest.mark.parametrize(("power", "least"), [(1, None), (2, 1.0)])
    def test_no_noise_is_left_where_q_is_f(self, power, least):
        log_f, _, log_p = self.points(100)
        found = held_out_loss(log_f - log_p, log_f - log_p, log_p, power)
        entropy = -np.mean(np.exp(log_f - log_p) * log_f) + np.mean(np.exp(log_f - log_p)) - 1
        assert found == pytest.approx(entropy if least is None else least, abs=1e-12)

    def test_points_without_f_count(self):
        found = held_out_loss(np.array([-np.inf, 0.0]), np.array([0.0, 0.0]), np.zeros(2), 2)
        assert found == pytest.approx(1.5)


class TestUnit:
    def test_is_found_from_a_density_that_is_near_f(self):
        log_f, _, log_p = TestHeldOutLoss.points(400)
        unit = 0.3
        ratios = (
            log_f - log_p + unit
        )  # f is too large by exp(unit), and the mean of all points has not said so
        found = log_unit(ratios, log_f - log_p, spread=0.05)
        assert found == pytest.approx(unit, abs=0.03)

    def test_is_left_where_the_density_tells_less_than_the_mean(self):
        log_f, log_q, log_p = TestHeldOutLoss.points(20)
        assert log_unit(log_f - log_p + 0.3, log_q - log_p, spread=1e-6) == 0
        assert log_unit(np.zeros(5), np.full(5, 800.0), spread=0.1) == 0  # overflows

    def test_is_limited(self):
        near = np.zeros(100)
        assert log_unit(near + 3, near, spread=0.01) == pytest.approx(math.log(1.3))
        assert log_unit(near - 9, near, spread=1.0) == pytest.approx(math.log(0.5))
        assert log_unit(near, near, spread=0.0) == 0
