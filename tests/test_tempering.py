"""Tempering: as much of the weights as many points can carry."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import seeds

from varflow.training.tempering import ESS, tempered_power

log_weights = arrays(float, st.integers(1, 200), elements=st.floats(-700, 700) | st.just(-math.inf))


def effective_share(log_weights, power):
    """Effective sample size of the tempered weights, as a share of the points that count."""
    log_weights = log_weights[log_weights > -math.inf]
    weights = np.exp(power * (log_weights - log_weights.max()))
    return weights.sum() ** 2 / (weights**2).sum() / len(weights)


@given(log_weights)
def test_power_is_the_largest_at_which_many_points_count(log_weights):
    power = tempered_power(log_weights)
    assert 0 < power <= 1
    if (log_weights > -math.inf).any():
        if power == 1:
            assert effective_share(log_weights, 1) >= ESS
        else:
            assert effective_share(log_weights, power) == pytest.approx(ESS, rel=0.01)


@given(log_weights, st.floats(-700, 700), seeds)
def test_neither_units_nor_order_nor_zeros_matter(log_weights, shift, seed):
    power = tempered_power(log_weights)
    shuffled = np.random.default_rng(seed).permutation(np.append(log_weights + shift, -math.inf))
    assert tempered_power(shuffled) == pytest.approx(power, rel=1e-3)


@given(st.integers(1, 100), st.integers(0, 100))
def test_a_constant_is_not_tempered(n, n_zeros):
    assert tempered_power(np.append(np.full(n, 3.0), np.full(n_zeros, -math.inf))) == 1


def test_zero_everywhere():
    assert tempered_power(np.full(5, -math.inf)) == 1


@pytest.mark.parametrize("width", [0.3, 0.1, 0.03, 1e-3])
def test_narrower_peaks_are_tempered_more(width):
    u = np.linspace(0, 1, 10_001)
    log_weights = -(((u - 0.5) / width) ** 2)
    # Of exp(-b y^2 / w^2) over the line, (sum w)^2 / sum w^2 is w sqrt(2 pi / b).
    expected = min(1, 2 * math.pi * width**2 / ESS**2)
    assert tempered_power(log_weights) == pytest.approx(expected, rel=1e-2)
