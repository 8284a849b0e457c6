"""Losses: their values are the means that they are said to be, and derivatives are theirs."""

import math

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from varflow import Loss, weighted_dkl_loss, weighted_variance_loss
from varflow.training.losses import LOSSES, as_loss

PUBLIC = {"variance": weighted_variance_loss, "dkl": weighted_dkl_loss}


def points(seed, n):
    """f of either sign and sometimes zero, p and log q, over a few orders of magnitude."""
    rng = np.random.default_rng(seed)
    fx = rng.normal(size=n) * (rng.random(n) < 0.9)
    return fx, np.exp(rng.normal(size=n)), 2 * rng.normal(size=n)


names = st.sampled_from(sorted(LOSSES))
samples = st.builds(points, seeds, st.integers(1, 200))


@given(names, samples)
def test_values_are_those_of_the_oracle(name, sample):
    found = LOSSES[name].value(*sample)
    assert type(found) is float
    # The terms of the dkl loss have either sign: rounding is relative to their size, not to their mean.
    size = np.mean(np.abs(sample[0]) / sample[1] * np.abs(sample[2])) if name == "dkl" else found
    assert abs(found - naive.LOSSES[name](*sample)) <= 1e-14 * size
    assert PUBLIC[name] is LOSSES[name].value


@given(names, samples)
def test_derivatives_are_those_of_the_values(name, sample):
    fx, px, log_q = sample
    found = LOSSES[name].derivative(fx, px, log_q)
    assert found.shape == log_q.shape
    shifts = 1j * naive.STEP * np.eye(len(fx))
    expected = naive.LOSSES[name](fx, px, log_q + shifts).imag / naive.STEP
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=0)


@given(names, samples)
def test_derivatives_agree_with_central_differences(name, sample):
    fx, px, log_q = sample
    direction, h = np.cos(np.arange(len(fx))), 1e-5
    value, derivative = LOSSES[name][:2]
    found = derivative(fx, px, log_q) @ direction
    expected = (value(fx, px, log_q + h * direction) - value(fx, px, log_q - h * direction)) / (2 * h)
    # Truncation is h^2 / 6 of the terms, rounding 1e-16 / h of them.
    size = np.mean(np.abs(fx) / px * np.maximum(np.abs(fx) * np.exp(-log_q), np.abs(log_q)))
    assert abs(found - expected) <= 1e-9 * size


def test_known_values():
    fx, px, log_q = np.array([2.0, -1.0]), np.array([1.0, 0.5]), np.log([4.0, 0.5])
    assert weighted_variance_loss(fx, px, log_q) == pytest.approx((4 / 4 + 1 / 0.25) / 2, rel=1e-15)
    expected = -(2 * math.log(4) + 2 * math.log(0.5)) / 2
    assert weighted_dkl_loss(fx, px, log_q) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_sign_of_f_does_not_matter(name):
    fx, px, log_q = points(1, 50)
    assert LOSSES[name].value(fx, px, log_q) == LOSSES[name].value(-fx, px, log_q)
    expected = LOSSES[name].derivative(fx, px, log_q)
    np.testing.assert_array_equal(LOSSES[name].derivative(-fx, px, log_q), expected)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_values_take_lists(name):
    sample = points(1, 5)
    assert PUBLIC[name](*[array.tolist() for array in sample]) == PUBLIC[name](*sample)


def test_density_proportional_to_f_is_the_minimum():
    """Over all histograms: any other density has a larger loss on average over p, here exactly."""
    rng = np.random.default_rng(1)
    f = rng.uniform(0.1, 1, 20)
    px = np.ones(20)
    best = np.log(f / f.mean())
    for _ in range(100):
        other = rng.uniform(0.1, 1, 20)
        for value in PUBLIC.values():
            assert value(f, px, np.log(other / other.mean())) > value(f, px, best)
    assert weighted_variance_loss(f, px, best) == pytest.approx(f.mean() ** 2, rel=1e-14)


class TestAsLoss:
    def test_names(self):
        assert as_loss("variance") is LOSSES["variance"]
        assert as_loss("dkl") is LOSSES["dkl"]

    def test_pairs(self):
        loss = Loss(math.fsum, math.hypot)
        assert as_loss(loss) is loss
        for pair in ((math.fsum, math.hypot), [math.fsum, math.hypot]):
            assert as_loss(pair) == loss
        assert loss.power is None  # the kernels know nothing of it

    @pytest.mark.parametrize(("found", "meant"), [("varianz", "variance"), ("dlk", "dkl")])
    def test_misspelt_name(self, found, meant):
        message = f"^loss must be one of 'variance', 'dkl', got '{found}'; did you mean '{meant}'\\?$"
        with pytest.raises(ValueError, match=message):
            as_loss(found)

    @pytest.mark.parametrize(
        "wrong", [None, 1, math.fsum, (math.fsum,), (math.fsum, None), (math.fsum, math.hypot, 2)]
    )
    def test_anything_else_is_refused(self, wrong):
        with pytest.raises(TypeError, match=r"^loss must be a name, a Loss or a pair"):
            as_loss(wrong)
