"""Shape of the tail of importance ratios, against loops over its definition, SciPy, and known shapes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import seeds

from varflow.training.pareto import pareto_shape

SHAPES = [0.1, 0.3, 0.5, 0.7, 0.9]


def pareto(u, k):
    """Ratio with shape k that is exceeded with probability u."""
    return (u**-k - 1) / k


def draw(seed, n, k, share_of_zeros=0.0, decimals=None):
    """Ratios with shape k, some of them zero; rounding lets some be equal."""
    rng = np.random.default_rng(seed)
    ratios = pareto(rng.random(n), k) * (rng.random(n) >= share_of_zeros)
    return ratios if decimals is None else ratios.round(decimals)


def logs(ratios):
    with np.errstate(divide="ignore"):
        return np.log(ratios)


def naive_shape(ratios):
    """Shape by loops over the definition of Zhang and Stephens, whose k has the other sign."""
    descending = sorted(ratios, reverse=True)
    size = math.ceil(min(len(ratios) / 5, 3 * math.sqrt(len(ratios))))
    threshold = descending[size]
    excesses = sorted(r - threshold for r in descending[:size] if r > threshold)
    n = len(excesses)
    if n < 5 or len(set(excesses)) < 5:
        return math.nan

    def k_of(theta):
        return -sum(math.log1p(-theta * x) for x in excesses) / n

    def log_likelihood(theta):
        return n * (math.log(theta / k_of(theta)) + k_of(theta) - 1)

    quartile = excesses[math.floor(n / 4 + 0.5) - 1]
    m = 30 + math.floor(math.sqrt(n))
    grid = [1 / excesses[-1] + (1 - math.sqrt(m / (j - 0.5))) / (3 * quartile) for j in range(1, m + 1)]
    values = [log_likelihood(theta) for theta in grid]
    estimate = sum(
        theta / sum(math.exp(min(other - value, 700)) for other in values)
        for theta, value in zip(grid, values, strict=True)
    )
    return (n * -k_of(estimate) + 10 * 0.5) / (n + 10)


def naive_weighted_shape(ratios, mu):
    """Shape of points with counts, by loops, for distinct ratios."""

    def effective(counts):
        return [c * sum(counts) / sum(c * c for c in counts) for c in counts]

    def rank(counts, target):
        """First row up to which there are `target` counts."""
        return next(row for row in range(len(counts)) if sum(counts[: row + 1]) >= target)

    points = sorted(zip(ratios, mu, strict=True), reverse=True)
    counts = effective([c for _, c in points])
    n = sum(counts)
    threshold = points[rank(counts, min(n / 5, 3 * math.sqrt(n))) + 1][0]
    tail = sorted((r - threshold, c) for r, c in points if r > threshold)
    excesses, counts = [x for x, _ in tail], effective([c for _, c in tail])
    n = sum(counts)
    if min(len(tail), n) < 5:
        return math.nan

    def k_of(theta):
        return -sum(c * math.log1p(-theta * x) for x, c in zip(excesses, counts, strict=True)) / n

    quartile = excesses[rank(counts, math.floor(n / 4 + 0.5))]
    m = 30 + math.floor(math.sqrt(n))
    grid = [1 / excesses[-1] + (1 - math.sqrt(m / (j - 0.5))) / (3 * quartile) for j in range(1, m + 1)]
    values = [n * (math.log(theta / k_of(theta)) + k_of(theta) - 1) for theta in grid]
    weights = [math.exp(value - max(values)) for value in values]
    estimate = sum(theta * w for theta, w in zip(grid, weights, strict=True)) / sum(weights)
    return (n * -k_of(estimate) + 10 * 0.5) / (n + 10)


samples = st.builds(
    draw,
    seeds,
    st.integers(2, 400),
    st.floats(0.05, 3),
    st.sampled_from([0.0, 0.5, 0.95]),
    st.sampled_from([None, 1]),
)


@given(samples)
def test_equal_points_have_the_shape_of_the_definition(ratios):
    shape = pareto_shape(logs(ratios))
    assert type(shape) is float
    if shape == -math.inf:
        assert len(set(ratios)) == 1 or np.sum(ratios == ratios.max()) > 5
    else:
        assert shape == pytest.approx(naive_shape(ratios), rel=1e-9, abs=1e-9, nan_ok=True)


@given(seeds, st.integers(100, 400), st.floats(0.05, 3), st.floats(0.1, 1))
def test_points_from_elsewhere_have_the_shape_of_the_definition(seed, n, k, width):
    ratios, log_counts = draw(seed, n, k), width * np.random.default_rng([seed, 1]).normal(size=n)
    expected = naive_weighted_shape(ratios, np.exp(log_counts))
    shape = pareto_shape(np.log(ratios), log_counts)
    assert shape == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


@given(samples, st.floats(-700, 700), st.sampled_from([0, 1e-13]), seeds)
def test_equal_counts_change_no_bit(ratios, log_count, noise, seed):
    """Nor do counts that are equal but for the rounding of their logs."""
    log_counts = log_count + noise * np.random.default_rng(seed).random(len(ratios))
    np.testing.assert_array_equal(pareto_shape(logs(ratios), log_counts), pareto_shape(logs(ratios)))


@given(seeds, st.floats(0.05, 3), st.floats(-2000, 2000), st.floats(-2000, 2000))
def test_neither_units_nor_order_nor_points_that_do_not_count_matter(seed, k, shift, count_shift):
    rng = np.random.default_rng([seed, 1])
    log_ratios, log_counts = np.log(draw(seed, 300, k)), rng.normal(size=300)
    order = rng.permutation(310)
    ratios_too = np.append(log_ratios + shift, np.linspace(-9, 9, 10) + shift)[order]
    counts_too = np.append(log_counts + count_shift, np.full(10, -math.inf))[order]
    expected = pareto_shape(log_ratios, log_counts)
    assert pareto_shape(ratios_too, counts_too) == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True)


@given(
    arrays(float, 60, elements=st.floats(-1e6, 1e6) | st.sampled_from([-math.inf, 0.0, 700.0])),
    arrays(float, 60, elements=st.floats(-1e6, 1e6) | st.sampled_from([-math.inf, 0.0, 700.0])),
)
def test_nothing_overflows(log_ratios, log_counts):
    log_counts[0] = 0.0
    with np.errstate(all="raise"):
        for shape in (pareto_shape(log_ratios), pareto_shape(log_ratios, log_counts)):
            assert -math.inf <= shape < 1e9 or math.isnan(shape)


@pytest.mark.parametrize("k", [5.0, 1e4])
def test_ratios_may_span_more_than_floats(k):
    log_ratios = k * np.random.default_rng(1).exponential(size=20_000)  # a Pareto distribution of shape k
    # The grid ends near the lower quartile of excesses. If k is large, it is thus too low by up to ln(4/3) k.
    assert (1 - math.log(4 / 3)) * k * 0.85 < pareto_shape(log_ratios) < 1.15 * k


@pytest.mark.parametrize("j", range(5, 33))
def test_a_point_of_the_grid_may_be_zero(j):
    """In a tail of five with a lower quartile of one, the largest ratio can make point j of the grid zero."""
    zero = (math.sqrt(32 / (j - 0.5)) - 1) / 3
    for shift in (-2, -1, 0, 1, 2):
        largest = -math.log(zero) + shift * math.ulp(math.log(zero))
        others = [-math.inf] * 20 + [0.0, 0.1, 0.2, 0.3]
        near = pareto_shape([*others, largest + 1e-9])
        assert pareto_shape([*others, largest]) == pytest.approx(near, abs=1e-6)


@pytest.mark.parametrize("n", [2, 10, 1000])
@pytest.mark.parametrize("noise", [0.0, 1e-14])
def test_constant_ratios_have_no_tail(n, noise):
    log_ratios = 3 + noise * np.random.default_rng(1).normal(size=n)
    assert pareto_shape(log_ratios) == -math.inf
    assert pareto_shape(log_ratios, np.linspace(-1, 1, n)) == -math.inf


def test_ratios_that_reach_their_bound_often_have_no_tail():
    assert pareto_shape(logs(np.repeat([0.0, 1.0, 2.0], 100))) == -math.inf


@pytest.mark.parametrize(
    "ratios",
    [
        [1.0],  # one is always constant
        np.zeros(100),
        np.arange(1.0, 21.0),  # a fifth of them are 4
        np.repeat([0.0, 1.0], [14, 6]),  # the tail is too short to show that 1 is a bound
        np.repeat([0.0, 1.0], [96, 4]),
        [*np.zeros(80), *np.linspace(1, 1 + 1e-13, 20)],  # distinct by rounding alone
        [*np.zeros(96), 1.0, 2.0, 3.0, 4.0],
        np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], [900, 25, 25, 25, 25]),
    ],
)
def test_a_short_tail_tells_nothing(ratios):
    assert math.isnan(pareto_shape(logs(np.asarray(ratios))))


def test_five_distinct_ratios_are_a_tail():
    assert math.isfinite(pareto_shape(logs(np.arange(1.0, 22.0))))
    assert math.isfinite(pareto_shape(logs(np.append(np.zeros(95), np.arange(1.0, 6.0)))))


def test_one_point_with_nearly_all_counts_of_the_tail_tells_nothing():
    log_ratios = np.log(draw(1, 1000, 0.5))
    log_counts = np.zeros(1000)
    log_counts[log_ratios.argmax()] = 5.0
    assert math.isnan(pareto_shape(log_ratios, log_counts))


def test_the_lowest_ratio_is_the_threshold_if_its_point_has_nearly_all_counts():
    excesses = draw(1, 1000, 0.5)
    log_counts = np.append(np.full(1000, -20.0), 0.0)
    alone = pareto_shape(np.log(np.append(excesses + 1, 1.0)), log_counts)
    assert alone == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("k", SHAPES)
def test_long_tails_have_the_most_likely_shape(k):
    from scipy.stats import genpareto

    ratios = np.sort(draw(1, 1_000_000, k))
    expected = genpareto.fit(ratios[-3000:] - ratios[-3001], floc=0)[0]
    assert pareto_shape(np.log(ratios)) == pytest.approx(expected, abs=0.005)
    assert pareto_shape(np.log(ratios)) == pytest.approx(k, abs=0.1)


def student(u, k):
    from scipy.special import stdtrit

    return -stdtrit(1 / k, u / 2)


def lognormal(u, k):
    """Lognormal ratio; the width is such that the local shape at u = 0.02 is k.

    The local shape is the derivative of (1 - F) / F' (von Mises): with Mills's ratio m of the normal
    distribution, and z from there, (width + z) m - 1.
    """
    from scipy.special import ndtri

    z = -ndtri(0.02)
    mills = 0.02 / (math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))
    return np.exp(-((1 + k) / mills - z) * ndtri(u))


@pytest.mark.parametrize("ratio", [pareto, student, lognormal])
@pytest.mark.parametrize("k", SHAPES)
@pytest.mark.parametrize(
    ("power", "width", "spread"),
    [
        (1.0, 0.0, 0.12),
        (1.0, 0.7, 0.14),  # counts that have nothing to do with the ratio
        (0.8, 0.0, 0.09),  # more points in the tail than q has there
        (0.5, 0.0, 0.05),
    ],
)
def test_known_shapes_are_found(ratio, k, power, width, spread):
    rng = np.random.default_rng(2)
    found = []
    for _ in range(30):
        u = rng.random(5000) ** (1 / power)  # from the density p = power u^(power - 1); q is uniform
        log_counts = (1 - power) * np.log(u) + width * rng.normal(size=5000)
        found.append(pareto_shape(np.log(ratio(u, k)), log_counts))
    assert np.mean(found) == pytest.approx(k, abs=0.13 if ratio is lognormal else 0.07)
    assert np.std(found) < spread


def test_counts_that_the_fit_needs():
    """Without counts, points from p would show the shape of other ratios."""
    u = np.random.default_rng(1).random(50_000) ** 2
    log_ratios, log_counts = np.log(pareto(u, 0.5)), 0.5 * np.log(u)
    assert pareto_shape(log_ratios, log_counts) == pytest.approx(0.5, abs=0.07)
    assert pareto_shape(log_ratios) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("log_ratios", "log_counts", "error", "words"),
    [
        (np.zeros((3, 1)), None, ValueError, r"log_ratios must have shape \(n,\).* found \(3, 1\)"),
        ([], None, ValueError, r"log_ratios must have shape \(n,\).* found \(0,\)"),
        ([0.0, math.nan], None, ValueError, "log_ratios must be finite or -inf, found nan in row 1"),
        ([math.inf, 0.0], None, ValueError, "log_ratios must be finite or -inf, found inf in row 0"),
        (["a"], None, TypeError, "log_ratios must hold real numbers"),
        ([0.0, 1.0], [0.0], ValueError, r"log_counts must have shape \(2,\).* found \(1,\)"),
        ([0.0, 1.0], [0.0, math.nan], ValueError, "log_counts must be finite or -inf, found nan in row 1"),
        ([0.0, 1.0], [-math.inf, -math.inf], ValueError, "log_counts is -inf everywhere"),
    ],
)
def test_errors_name_the_argument(log_ratios, log_counts, error, words):
    with pytest.raises(error, match=words):
        pareto_shape(log_ratios, log_counts)
