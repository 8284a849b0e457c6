"""Whether densities integrate to one: right ones are never called wrong, and wrong ones mostly are."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, kstest
from strategies import percent_of_examples, seeds

from varflow.training.margins import Margin, map_by_margins
from varflow.training.normalization import MAX_POINTS, Normalization, estimate_normalization

BENCHMARKS = Path(__file__).parent / "benchmarks"
KINDS = ["betas", "gaussians", "grids", "flows", "boxes", "plateaus"]  # without holes too fine to be seen
NOTICED = {
    "betas": 0.8,
    "gaussians": 0.7,
    "boxes": 0.8,
    "plateaus": 0.8,
}  # if twice too large, of 2000 points

FROM_NORMAL = """
import numpy as np
from varflow.training.normalization import estimate_normalization

x = np.clip(np.random.default_rng(1).normal(0.5, 0.1, (20_000, 6)), 0, 1)
log_p = (-(((x - 0.5) / 0.1) ** 2) / 2 - np.log(0.1 * np.sqrt(2 * np.pi))).sum(axis=1)
found = estimate_normalization(x, log_p, np.tile([0.0, 1.0], (6, 1)))
print(found.factor.hex(), found.error.hex(), found.is_conclusive)
"""


@pytest.fixture
def campaign(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import normalization

    return normalization


def cube(d):
    return np.tile([0.0, 1.0], (d, 1))


def beta_points(seed, n=1000, d=2):
    generator = np.random.default_rng(seed)
    a, b = 10 ** generator.uniform(-0.3, 1, (2, d))
    x = np.clip(generator.beta(a, b, (n, d)), 1e-300, np.nextafter(1, 0))
    return x, beta.logpdf(x, a, b).sum(axis=1)


def same(found, expected):
    return found.factor == pytest.approx(expected.factor, rel=1e-6) and found[1:] == (
        pytest.approx(expected.error, rel=1e-6),
        expected.is_conclusive,
    )


@pytest.mark.parametrize("n", [500, 2000])
@pytest.mark.parametrize("kind", KINDS)
def test_right_densities_are_not_called_wrong(kind, n, campaign):
    assert not list(campaign.false_alarms(kind, n, range(6)))


@pytest.mark.slow
@pytest.mark.parametrize("n", [500, 2000, 20_000])
@pytest.mark.parametrize("kind", KINDS)
def test_right_densities_are_not_called_wrong_in_the_campaign(kind, n, campaign):
    assert not list(campaign.false_alarms(kind, n, range(200)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", NOTICED)
def test_most_wrong_densities_are_noticed(kind, campaign):
    shares = dict(zip(campaign.FACTORS, campaign.share_noticed(kind, 2000, range(6)), strict=True))
    assert min(shares[0.5], shares[2]) > 0.6
    assert min(shares[1e-30], shares[1e30]) > 0.8


@percent_of_examples(20)
@given(seeds, st.floats(-200, 200))
def test_the_factor_is_that_of_the_density(seed, exponent):
    x, log_p = beta_points(seed)
    right = estimate_normalization(x, log_p, cube(2))
    found = estimate_normalization(x, log_p + exponent * math.log(10), cube(2))
    assert found.factor == pytest.approx(right.factor * 10**exponent, rel=1e-6)
    assert found.error == pytest.approx(right.error, rel=1e-6)


@percent_of_examples(20)
@given(seeds, st.floats(-100, 100), st.floats(-10, 10))
def test_units_do_not_matter(seed, exponent, shift):
    x, log_p = beta_points(seed)
    unit = 10.0**exponent
    bounds = unit * np.array([[shift, shift + 1], [0, 2]])
    widths = bounds[:, 1] - bounds[:, 0]
    moved = np.clip(bounds[:, 0] + widths * x, *bounds.T)
    found = estimate_normalization(moved, log_p - np.log(widths).sum(), bounds)
    assert same(found, estimate_normalization(x, log_p, cube(2)))


@pytest.mark.parametrize("seed", [1, 2])
def test_errors_are_those_of_the_estimates(seed):
    """Pulls have a standard deviation of one, by 20 samples of uniform points."""
    points = np.random.default_rng(seed).random((20, 1000, 2))
    found = [estimate_normalization(x, np.zeros(1000), cube(2)) for x in points]
    pulls = np.array([math.log(each.factor) / each.error for each in found])
    assert 0.25 < np.sqrt(np.mean(pulls**2)) < 2.5  # chi^2 with 20 degrees of freedom, at 10^-8 either way


@given(
    st.floats(1e-300, 1e300),
    st.floats(0, 1),
    st.booleans(),
)
def test_wrong_is_what_is_conclusive_large_and_significant(factor, error, is_conclusive):
    size = math.log(factor)
    is_large = not 0.8 <= factor <= 1.5
    expected = is_conclusive and is_large and abs(size) > 5 * error
    assert Normalization(factor, error, is_conclusive).is_wrong == expected


def test_overflow_is_wrong():
    x, log_p = beta_points(0)
    for shift, factor in ((2000.0, math.inf), (-2000.0, 0.0)):
        found = estimate_normalization(x, log_p + shift, cube(2))
        assert found.factor == factor
        assert found.is_wrong


def test_of_very_many_points_evenly_spread_ones_are_used():
    x, log_p = beta_points(0, 5 * MAX_POINTS)
    assert estimate_normalization(x, log_p, cube(2)) == estimate_normalization(x[::5], log_p[::5], cube(2))


@pytest.mark.parametrize("n", [1, 2, 10, 49, 50, 100])
@pytest.mark.parametrize("d", [1, 20])
def test_too_few_points_are_no_alarm(n, d):
    x = np.random.default_rng(n).random((n, d))
    assert not estimate_normalization(x, np.zeros(n), cube(d)).is_wrong


@pytest.mark.parametrize("column", ["constant", "at a border", "at both borders", "repeated", "few values"])
def test_points_that_no_density_has_are_no_alarm(column):
    generator = np.random.default_rng(1)
    x = generator.random((1000, 2))
    x[:, 0] = {
        "constant": np.full(1000, 0.3),
        "at a border": np.zeros(1000),
        "at both borders": np.arange(1000) % 2,
        "repeated": x[np.arange(1000) // 20 * 20, 0],
        "few values": np.round(x[:, 0], 1),
    }[column]
    assert not estimate_normalization(x, np.zeros(1000), cube(2)).is_wrong


def test_many_copies_of_few_points_are_no_alarm():
    x = np.repeat(np.random.default_rng(1).random((30, 2)), 40, axis=0)
    assert not estimate_normalization(x, np.zeros(len(x)), cube(2)).is_wrong


def test_arguments_are_not_modified():
    x, log_p = beta_points(3)
    for array in (x, log_p):
        array.flags.writeable = False
    estimate_normalization(x, log_p, cube(2))


def test_bits_do_not_depend_on_the_number_of_threads():
    def printed(threads):
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        return subprocess.run(
            [sys.executable, "-c", FROM_NORMAL], env=os.environ | dict.fromkeys(names, threads),
            capture_output=True, text=True, check=True, timeout=300,
        ).stdout  # fmt: skip

    assert printed("1") == printed("4")


class TestMargin:
    @given(seeds, st.integers(30, 3000), st.floats(0.3, 30), st.floats(0.3, 30))
    def test_is_nearly_normal(self, seed, n, a, b):
        generator = np.random.default_rng(seed)
        fitted, fresh = np.clip(generator.beta(a, b, (2, n)), 1e-300, np.nextafter(1, 0))
        y, _ = Margin(fitted)(fresh)
        # Between knots, F is within the two steps of the samples' own distribution functions, and its share.
        assert kstest(y, "norm").statistic < 4.5 / math.sqrt(n) + max(n ** (2 / 3), 20) / n

    @given(seeds, st.floats(0.3, 30), st.floats(0.3, 30))
    def test_slope_is_the_derivative(self, seed, a, b):
        generator = np.random.default_rng(seed)
        margin = Margin(np.clip(generator.beta(a, b, 300), 1e-300, np.nextafter(1, 0)))
        t = generator.uniform(0.01, 0.99, 200)
        step = 1e-7
        (below, _), (above, _), (_, log_slope) = margin(t - step), margin(t + step), margin(t)
        is_smooth = np.abs(t[:, None] - margin.knots).min(axis=1) > step
        np.testing.assert_allclose(
            ((above - below) / (2 * step))[is_smooth], np.exp(log_slope[is_smooth]), rtol=1e-4, atol=1e-6
        )

    def test_borders_are_at_infinity_and_left_out(self):
        x = np.random.default_rng(1).random((100, 2))
        x[0, 0], x[1, 1] = 0, 1
        y, log_p = map_by_margins([Margin(column) for column in x.T], x, np.zeros(100))
        assert y.shape == (98, 2)
        assert log_p.shape == (98,)
        assert Margin(x[2:, 0])(np.array([0.0, 1.0]))[0].tolist() == [-math.inf, math.inf]
