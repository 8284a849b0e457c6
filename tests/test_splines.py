"""Cells: monotone maps of [0, 1] onto itself, with the derivatives that they claim, at the edges too.

Tolerances: heights are sums of n_bins numbers divided by their total, so z is good to n_bins rounding errors
and a slope, n_bins times one share of the total, to as many relative ones. Inverting divides the error of
z by the slope.
"""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dtypes, edges, seeds

from varflow.architecture import DTYPES
from varflow.kernels.splines import CELLS, cell_backward, cell_forward, cell_inverse

EPS = np.finfo(np.float64).eps
LOWEST = -79.99  # the networks let no logit be more than 80 below the largest; float32 rounds it across that

cells = st.sampled_from(sorted(CELLS))
spreads = st.sampled_from([1.0, 5.0, 80.0])


def forward(cell, exps, x):
    z, slope = np.full((2, len(x)), np.nan)
    cell_forward(CELLS[cell].code, z, slope, exps, x, np.full((3, len(x)), np.nan))
    return z, slope


def inverse(cell, exps, z):
    x, slope = np.full((2, len(z)), np.nan)
    cell_inverse(CELLS[cell].code, x, slope, exps, z, np.full((3, len(z)), np.nan))
    return x, slope


def backward(cell, exps, x, dz, dlog_slope):
    """Derivatives in the logits and in x; dz is overwritten, as it is in the flow."""
    z, slope = forward(cell, exps, x)
    dlogits, dx = np.full_like(exps, np.nan), dz.copy()
    scratch = np.full((3, len(x)), np.nan)
    cell_backward(CELLS[cell].code, dlogits, dx, exps, x, z, slope, dx, dlog_slope, scratch)
    return dlogits, dx


@st.composite
def logits(draw, cell, m, scale=spreads):
    """Logits (P, m), the largest of each column being zero and none below LOWEST."""
    n_logits = CELLS[cell].logits_per_bin * draw(st.integers(1, 20))
    values = draw(scale) * np.random.default_rng(draw(seeds)).normal(size=(n_logits, m))
    return np.maximum(values - values.max(axis=0), LOWEST)


def exponentials(logits, dtype="float64"):
    """What the networks hand to the cells, and the logits that it stands for exactly."""
    exps = np.exp(logits).astype(dtype)
    return exps, np.log(exps.astype(np.float64))


def n_bins_of(cell, exps):
    return len(exps) // CELLS[cell].logits_per_bin


@given(st.data(), cells, dtypes, st.integers(1, 150))
def test_forward_and_inverse_agree_with_the_oracle(data, cell, dtype, m):
    exps, exact = exponentials(data.draw(logits(cell, m)), dtype)
    tolerance = 4 * (n_bins_of(cell, exps) + 80) * EPS  # 80 for the exponentials that the oracle takes again
    x = np.random.default_rng(data.draw(seeds)).random(m)
    z, slope = forward(cell, exps, x)
    expected_z, expected_slope, _ = naive.CELLS[cell].forward(exact, x)
    np.testing.assert_allclose(z, expected_z, rtol=0, atol=tolerance)
    np.testing.assert_allclose(slope, expected_slope, rtol=tolerance)
    found, found_slope = inverse(cell, exps, x)
    expected, expected_slope = naive.CELLS[cell].inverse(exact, x)
    assert (np.abs(found - expected) <= tolerance * (1 + 1 / np.minimum(found_slope, expected_slope))).all()
    is_same_bin = np.floor(found * n_bins_of(cell, exps)) == np.floor(expected * n_bins_of(cell, exps))
    np.testing.assert_allclose(found_slope[is_same_bin], expected_slope[is_same_bin], rtol=tolerance)


@given(st.data(), cells, dtypes)
def test_latent_round_trip(data, cell, dtype):
    m = 100
    exps, _ = exponentials(data.draw(logits(cell, m)), dtype)
    n_bins = n_bins_of(cell, exps)
    z = np.random.default_rng(data.draw(seeds)).random(m)
    x, slope = inverse(cell, exps, z)
    again, again_slope = forward(cell, exps, x)
    # No slope is above n_bins, so that however flat the map is elsewhere, z comes back.
    np.testing.assert_allclose(again, z, rtol=0, atol=4 * n_bins * EPS)
    is_inside = np.abs(x * n_bins - np.round(x * n_bins)) > 1e-9
    np.testing.assert_allclose(again_slope[is_inside], slope[is_inside], rtol=4 * n_bins * EPS)


@given(st.data(), cells, dtypes)
def test_target_round_trip(data, cell, dtype):
    m = 100
    exps, _ = exponentials(data.draw(logits(cell, m, st.just(1.0))), dtype)
    n_bins = n_bins_of(cell, exps)
    x = np.concatenate([np.random.default_rng(data.draw(seeds)).random(m - 2), [0.0, 1.0]])
    z, _ = forward(cell, exps, x)
    again, _ = inverse(cell, exps, z)
    flattest = n_bins * (exps / exps.sum(axis=0)).min(axis=0)
    assert (np.abs(again - x) <= 4 * n_bins * EPS / flattest).all()


@given(st.data(), cells, dtypes)
def test_at_bin_edges(data, cell, dtype):
    column = data.draw(logits(cell, 1))
    points = edges(n_bins_of(cell, column))
    exps, exact = exponentials(np.repeat(column, len(points), axis=1), dtype)
    n_bins = n_bins_of(cell, exps)
    tolerance = 4 * (n_bins + 80) * EPS
    z, slope = forward(cell, exps, points)
    expected, _, _ = naive.CELLS[cell].forward(exact, points)
    np.testing.assert_allclose(z, expected, rtol=0, atol=tolerance)
    assert (np.diff(z) >= 0).all()
    # Next to an edge rounding decides which bin a point is in, but it is in one of the two.
    beside = [naive.CELLS[cell].forward(exact, np.clip(points + shift, 0, 1))[1] for shift in (-1e-9, 1e-9)]
    error = np.abs(slope / beside - 1).min(axis=0)
    assert (error <= tolerance).all(), f"slopes {slope[error > tolerance]} at x = {points[error > tolerance]}"


@given(st.data(), cells, dtypes)
def test_corners_map_to_corners(data, cell, dtype):
    exps, _ = exponentials(data.draw(logits(cell, 50)), dtype)
    tolerance = 4 * n_bins_of(cell, exps) * EPS
    for mapped in (forward, inverse):
        np.testing.assert_array_equal(mapped(cell, exps, np.zeros(50))[0], 0)
    for below_one in (np.ones(50), np.nextafter(np.ones(50), 0)):
        z, _ = forward(cell, exps, below_one)
        assert (z <= 1).all()
        assert (1 - z <= tolerance).all()
        x, _ = inverse(cell, exps, below_one)
        assert (x <= 1).all()
        assert (1 - forward(cell, exps, x)[0] <= tolerance).all()  # x itself where the map is not flat there


@given(st.data(), cells, dtypes)
def test_monotone(data, cell, dtype):
    column = data.draw(logits(cell, 1))
    points = np.sort(np.concatenate([np.random.default_rng(data.draw(seeds)).random(200), edges(7)]))
    exps, _ = exponentials(np.repeat(column, len(points), axis=1), dtype)
    for mapped in (forward, inverse):
        values, _ = mapped(cell, exps, points)
        assert (values >= 0).all()
        assert (values <= 1).all()
        assert (np.diff(values) >= 0).all()


@pytest.mark.parametrize("cell", sorted(CELLS))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("high", [0, 1, 2])
def test_extreme_logits(cell, dtype, high):
    """All but one bin as low as the networks let it be: no NaN, and slopes as the logits say."""
    n_bins = 3 * CELLS[cell].logits_per_bin
    x = np.array([0.0, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1.0])
    column = np.full((n_bins, 1), LOWEST)
    column[high] = 0.0
    exps, exact = exponentials(np.repeat(column, len(x), axis=1), dtype)
    z, slope = forward(cell, exps, x)
    expected_z, expected_slope, _ = naive.CELLS[cell].forward(exact, x)
    np.testing.assert_allclose(z, expected_z, rtol=1e-13)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-13)
    again, slope = inverse(cell, exps, x)
    assert np.isfinite(again).all()
    assert (slope > 0).all()
    dlogits, dx = backward(cell, exps, x, np.ones(len(x)), np.ones(len(x)))
    assert np.isfinite(dlogits).all()
    assert (dx > 0).all()


@settings(max_examples=50)
@given(st.data(), cells)
def test_backward_is_the_derivative(data, cell):
    m = 60
    values = data.draw(logits(cell, m, st.sampled_from([1.0, 5.0])))
    exps, exact = exponentials(values)
    rng = np.random.default_rng(data.draw(seeds))
    x, (dz, dlog_slope) = rng.random(m), rng.normal(size=(2, m))
    dlogits, dx = backward(cell, exps, x, dz, dlog_slope)

    def derivative(logits, x):
        z, slope, _ = naive.CELLS[cell].forward(logits, x)
        return (dz * z + dlog_slope * np.log(slope)).imag / naive.STEP

    tolerance = 4 * (n_bins_of(cell, exps) + 80) * EPS
    for j in range(len(values)):
        raised = exact.astype(complex)
        raised[j] += 1j * naive.STEP
        np.testing.assert_allclose(dlogits[j], derivative(raised, x), rtol=0, atol=10 * tolerance)
    expected = derivative(exact.astype(complex), x + 1j * naive.STEP)
    np.testing.assert_allclose(dx, expected, rtol=tolerance, atol=tolerance)


@given(st.data(), cells)
def test_backward_in_float32_is_that_in_float64(data, cell):
    m = 60
    exps, _ = exponentials(data.draw(logits(cell, m)), "float32")
    rng = np.random.default_rng(data.draw(seeds))
    x, (dz, dlog_slope) = rng.random(m), rng.normal(size=(2, m))
    dlogits, dx = backward(cell, exps, x, dz, dlog_slope)
    expected, expected_dx = backward(cell, exps.astype(np.float64), x, dz, dlog_slope)
    np.testing.assert_allclose(dlogits, expected, rtol=2e-7, atol=1e-30)  # rounded when it is stored
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-12)


@given(st.data(), cells)
def test_a_column_does_not_depend_on_its_neighbours(data, cell):
    m = 64
    exps, _ = exponentials(data.draw(logits(cell, m)))
    rng = np.random.default_rng(data.draw(seeds))
    x, order = rng.random(m), rng.permutation(m)
    shuffled = np.ascontiguousarray(exps[:, order])
    for mapped in (forward, inverse):
        for value, moved in zip(mapped(cell, exps, x), mapped(cell, shuffled, x[order]), strict=True):
            np.testing.assert_array_equal(value[order], moved)
