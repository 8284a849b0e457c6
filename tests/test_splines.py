"""Cells: monotone maps of [0, 1] onto itself, with the derivatives that they claim, at the edges too.

Tolerances: edges are sums of n_bins numbers, so they are good to n_bins rounding errors, and what is found at
x may be what holds at a point as near to it as that. The oracle is given the values that the cell works with.
"""

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import dtypes, percent_of_examples, seeds

from varflow.flow.architecture import DTYPES
from varflow.kernels import splines
from varflow.kernels.compile import kernel
from varflow.kernels.lanes import LANES
from varflow.kernels.splines import CELLS, MIN_SHARE, N_KEPT, SPLINES

EPS = np.finfo(np.float64).eps
MOST = 50.0  # logits are tested up to this, of either sign

every_cell = pytest.mark.parametrize("cell", sorted(SPLINES))
cells = st.sampled_from(sorted(SPLINES))
spreads = st.sampled_from([0.0, 1.0, 5.0, MOST])


cell_activate, all_forward, all_backward, all_inverse = (
    kernel(function.py_func)
    for function in (splines.cell_activate, splines.all_forward, splines.all_backward, splines.all_inverse)
)


def whole(array):
    """Columns of an array, and copies of the last of them up to a whole number of vectors."""
    m = array.shape[-1]
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, -m % LANES)], mode="edge")


def activate(cell, logits, dtype="float64"):
    values = whole(np.array(logits, dtype))
    cell_activate(CELLS[cell].code, values, np.full(values.shape[1], np.nan, dtype))
    return np.ascontiguousarray(values[:, : np.shape(logits)[1]])


def forward(cell, values, x, kept=None):
    z, slope = np.full((2, len(whole(x))), np.nan)
    kept = np.empty((0, len(z))) if kept is None else kept
    all_forward(CELLS[cell].code, z, slope, kept, whole(values), whole(x))
    return z[: len(x)], slope[: len(x)]


def inverse(cell, values, z):
    """The inverse; z is overwritten, as it is in the flow."""
    x = whole(z).copy()
    slope = np.full(len(x), np.nan)
    all_inverse(CELLS[cell].code, x, slope, whole(values), x)
    return x[: len(z)], slope[: len(z)]


def backward(cell, values, x, dz, dlog_slope):
    """Derivatives in the logits and in x; dz is overwritten, as it is in the flow."""
    m = len(x)
    values, x, dx, dlog_slope = whole(values), whole(x), whole(dz).copy(), whole(dlog_slope)
    kept = np.full((N_KEPT, len(x)), np.nan)
    z, slope = forward(cell, values, x, kept)
    dlogits = np.full_like(values, np.nan)
    all_backward(CELLS[cell].code, dlogits, dx, kept, values, z, slope, dx, dlog_slope)
    return dlogits[:, :m], dx[:m]


def oracle(cell, values, x):
    return naive.CELLS[cell].forward(values.astype(np.float64), np.clip(x, 0, 1))[:2]


@st.composite
def logits(draw, cell, m, scale=spreads):
    """Logits (P, m) of a cell with 1 to 20 bins."""
    n_logits = CELLS[cell].n_logits(draw(st.integers(1, 20)))
    values = draw(scale) * np.random.default_rng(draw(seeds)).normal(size=(n_logits, m))
    return np.clip(values, -MOST, MOST)


def tolerance(values):
    return 8 * (len(values) + 10) * EPS


def edge_points(cell, column):
    """Edges of the bins of a column of values (P, 1), 0 and 1 among them, and the numbers next to them."""
    exact = naive.CELLS[cell].edges(column.astype(np.float64))[:, 0]
    return np.unique(np.clip([np.nextafter(exact, -1), exact, np.nextafter(exact, 2)], 0, 1))


def max_slope(cell, values):
    """Largest slope (m,) at the edges of the bins."""
    edges = naive.CELLS[cell].edges(values.astype(np.float64))
    return np.max([oracle(cell, values, edge)[1] for edge in edges], axis=0)


def assert_as_oracle(cell, values, x, z, slope):
    """Assert that z and slope are those at x, or at a point that rounding does not tell from it."""
    error = tolerance(values)
    nearby = [oracle(cell, values, x + shift) for shift in (-error, 0, error)]
    heights, slopes = np.array([found[0] for found in nearby]), np.array([found[1] for found in nearby])
    # As far off as z changes to either side: beyond 0 and 1 there is no point to compare with.
    assert (np.abs(z - heights[1]) <= np.abs(heights - heights[1]).max(axis=0) + error).all()
    steepest = max_slope(cell, values)  # slopes are differences of such numbers
    lowest, highest = slopes.min(axis=0), slopes.max(axis=0)
    # A vertex between those points may stick out as far as they are apart.
    margin = error * highest + 16 * EPS * steepest + (highest - lowest)
    is_within = (slope >= lowest - margin) & (slope <= highest + margin)
    assert is_within.all(), (x[~is_within], slope[~is_within], slopes[:, ~is_within])


@given(cells, seeds, dtypes)
def test_activate(cell, seed, dtype):
    values = np.clip(20 * np.random.default_rng(seed).normal(size=(CELLS[cell].n_logits(5), 40)), -MOST, MOST)
    expected = naive.CELLS[cell].activate(values.astype(dtype).astype(np.float64))
    np.testing.assert_allclose(activate(cell, values, dtype), expected, rtol=100 * np.finfo(dtype).eps)


@every_cell
@pytest.mark.parametrize("n_bins", [1, 2, 7, 100])
def test_identity_at_the_start(cell, n_bins):
    x = np.linspace(0, 1, 101)
    values = activate(cell, np.zeros((CELLS[cell].n_logits(n_bins), len(x))))
    for mapped in (forward, inverse):
        found, slope = mapped(cell, values, x)
        np.testing.assert_allclose(found, x, rtol=0, atol=n_bins * EPS)
        np.testing.assert_allclose(slope, 1, rtol=4e3 * n_bins * EPS)


@given(st.data(), cells, dtypes, st.integers(1, 150))
def test_forward_agrees_with_the_oracle(data, cell, dtype, m):
    values = activate(cell, data.draw(logits(cell, m)), dtype)
    x = np.random.default_rng(data.draw(seeds)).random(m)
    assert_as_oracle(cell, values, x, *forward(cell, values, x))


@given(st.data(), cells, dtypes, st.integers(1, 150))
def test_latent_round_trip(data, cell, dtype, m):
    """However flat the map is elsewhere, z comes back, and the slope is that at x."""
    values = activate(cell, data.draw(logits(cell, m)), dtype)
    z = np.random.default_rng(data.draw(seeds)).random(m)
    x, slope = inverse(cell, values, z)
    again, _ = forward(cell, values, x)
    steepest = (
        oracle(cell, values, x - EPS)[1] + oracle(cell, values, x)[1] + oracle(cell, values, x + EPS)[1]
    )
    assert (np.abs(again - z) <= tolerance(values) * (1 + steepest)).all()
    assert_as_oracle(cell, values, x, again, slope)


@given(st.data(), cells, dtypes)
def test_target_round_trip(data, cell, dtype):
    m = 100
    values = activate(cell, data.draw(logits(cell, m, st.just(1.0))), dtype)
    x = np.concatenate([np.random.default_rng(data.draw(seeds)).random(m - 2), [0.0, 1.0]])
    z, slope = forward(cell, values, x)
    again, _ = inverse(cell, values, z)
    flattest = np.minimum(slope, forward(cell, values, again)[1])
    assert (np.abs(again - x) <= 10 * tolerance(values) * (1 + 1 / flattest)).all()


@given(st.data(), cells, dtypes)
def test_at_bin_edges(data, cell, dtype):
    column = data.draw(logits(cell, 1))
    points = edge_points(cell, activate(cell, column, dtype))
    values = activate(cell, np.repeat(column, len(points), axis=1), dtype)
    z, slope = forward(cell, values, points)
    assert_as_oracle(cell, values, points, z, slope)
    assert (np.diff(z) >= -2 * EPS).all()
    x, slope = inverse(cell, values, z)
    assert_as_oracle(cell, values, x, forward(cell, values, x)[0], slope)


@pytest.mark.parametrize("n_bins", [1, 2, 3, 7, 10, 49, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_next_to_an_edge_one_bin_is_found(n_bins, dtype):
    """Edges are where x * n_bins rounds to an integer; slope and derivatives are those of one bin."""
    edges = np.arange(n_bins + 1) / n_bins
    points = np.unique(np.clip([np.nextafter(edges, -1), edges, np.nextafter(edges, 2)], 0, 1))
    column = np.random.default_rng(n_bins).normal(size=(n_bins, 1))
    values = activate("pwlinear", np.repeat(column, len(points), axis=1), dtype)
    z, slope = forward("pwlinear", values, points)
    here = np.minimum((points * n_bins).astype(int), n_bins - 1)
    shares = values.astype(float) / values.astype(float).sum(axis=0)
    np.testing.assert_allclose(slope, n_bins * shares[here, np.arange(len(points))], rtol=(n_bins + 4) * EPS)
    assert (np.diff(z) >= -2 * EPS).all()
    dlogits, _ = backward("pwlinear", values, points, np.zeros(len(points)), np.ones(len(points)))
    is_here = np.arange(n_bins)[:, None] == here
    np.testing.assert_allclose(dlogits, is_here - shares, rtol=0, atol=100 * np.finfo(dtype).eps)
    x, slope = inverse("pwlinear", values, z)
    np.testing.assert_allclose(x, points, rtol=0, atol=10 * tolerance(values))
    assert (slope > 0).all()


def test_the_upper_corner_belongs_to_the_last_bin():
    """Even where the last bins are so small that sums over the others are rounded to all there is."""
    n_bins = 15
    columns = 50 * np.random.default_rng(3).normal(size=(CELLS["pwquad"].n_logits(n_bins), 2000))
    values = activate("pwquad", np.clip(columns, -MOST, MOST))
    widths = MIN_SHARE / n_bins + (1 - MIN_SHARE) * values[:n_bins] / values[:n_bins].sum(axis=0)
    heights = values[n_bins:]
    area = np.sum(widths * (heights[1:] + heights[:-1]) / 2, axis=0)
    x, slope = inverse("pwquad", values, np.ones(2000))
    np.testing.assert_array_equal(x, 1)
    np.testing.assert_allclose(slope, heights[-1] / area, rtol=1e-12, atol=1e-14)


@given(st.data(), cells, dtypes)
def test_corners_map_to_corners(data, cell, dtype):
    values = activate(cell, data.draw(logits(cell, 50)), dtype)
    for mapped in (forward, inverse):
        np.testing.assert_array_equal(mapped(cell, values, np.zeros(50))[0], 0)
    np.testing.assert_array_equal(inverse(cell, values, np.ones(50))[0], 1)
    for below_one in (np.ones(50), np.nextafter(np.ones(50), 0)):
        z, _ = forward(cell, values, below_one)
        assert (z <= 1).all()
        steepest = 1 + oracle(cell, values, below_one)[1]
        assert (1 - z <= tolerance(values) * steepest).all()
        x, _ = inverse(cell, values, below_one)
        assert (x <= 1).all()


@given(st.data(), cells, dtypes)
def test_monotone(data, cell, dtype):
    column = data.draw(logits(cell, 1))
    points = np.sort(np.append(np.random.default_rng(data.draw(seeds)).random(200), [0.0, 1.0]))
    values = activate(cell, np.repeat(column, len(points), axis=1), dtype)
    for mapped in (forward, inverse):
        found, slope = mapped(cell, values, points)
        assert (found >= 0).all()
        assert (found <= 1).all()
        assert (np.diff(found) >= -2 * EPS).all()
        assert (slope > 0).all()


@every_cell
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("most", [MOST, 1e4, 1e30])
def test_extreme_logits(cell, dtype, most):
    """Each logit in turn as high or as low as it gets, the others being the contrary: no NaN."""
    n_logits = CELLS[cell].n_logits(3)
    x = np.array([0.0, 1e-300, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, np.nextafter(1, 0), 1.0])
    for high in range(n_logits):
        for sign in (-1, 1):
            column = np.full((n_logits, len(x)), -sign * most)
            column[high] = sign * most
            values = activate(cell, column, dtype)
            if most == MOST:
                assert_as_oracle(cell, values, x, *forward(cell, values, x))
            for mapped in (forward, inverse):
                found, slope = mapped(cell, values, x)
                assert ((found >= 0) & (found <= 1)).all()
                assert ((slope > 0) & (slope < 1e300)).all()
            dlogits, dx = backward(cell, values, x, np.ones(len(x)), np.ones(len(x)))
            assert np.isfinite(dlogits).all()
            assert np.isfinite(dx).all()


@percent_of_examples(50)
@given(st.data(), cells, st.sampled_from([1.0, 3.0]))
def test_backward_is_the_derivative(data, cell, spread):
    m = 60
    values = data.draw(logits(cell, m, st.just(spread)))
    rng = np.random.default_rng(data.draw(seeds))
    x, (dz, dlog_slope) = rng.random(m), rng.normal(size=(2, m))
    dlogits, dx = backward(cell, activate(cell, values), x, dz, dlog_slope)

    def derivative(logits, x):
        z, slope, _ = naive.CELLS[cell].forward(naive.CELLS[cell].activate(logits), x)
        return (dz * z + dlog_slope * np.log(slope)).imag / naive.STEP

    expected_dx = derivative(values.astype(complex), x + 1j * naive.STEP)
    # A slope may be as small as the least width or slope that there is, and all divide by it, or by a width.
    error = (
        100 * tolerance(values) * (1 + np.abs(expected_dx) + 1 / forward(cell, activate(cell, values), x)[1])
    )

    def assert_near(found, logits, x, error):
        # Sums of widths are rounded, as if x were elsewhere by as much: in narrow bins, that is what counts.
        below, above = (derivative(logits, x + side * len(values) * EPS) for side in (-1, 1))
        assert (np.abs(found - derivative(logits, x)) <= error + np.abs(above - below)).all()

    for j in range(len(values)):
        raised = values.astype(complex)
        raised[j] += 1j * naive.STEP
        assert_near(dlogits[j], raised, x, error)
    assert_near(dx, values.astype(complex), x + 1j * naive.STEP, error * (1 + np.abs(expected_dx)))


@given(st.data(), cells)
def test_backward_in_float32_is_that_in_float64(data, cell):
    m = 60
    values = activate(cell, data.draw(logits(cell, m)), "float32")
    rng = np.random.default_rng(data.draw(seeds))
    x, (dz, dlog_slope) = rng.random(m), rng.normal(size=(2, m))
    dlogits, dx = backward(cell, values, x, dz, dlog_slope)
    expected, expected_dx = backward(cell, values.astype(np.float64), x, dz, dlog_slope)
    scale = np.abs(expected).max(axis=0) * 1e-9
    assert (np.abs(dlogits - expected) <= 2e-7 * np.abs(expected) + scale).all()  # rounded when it is stored
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-12)


@given(st.data(), cells)
def test_a_column_does_not_depend_on_its_neighbours(data, cell):
    m = 64
    values = activate(cell, data.draw(logits(cell, m)))
    rng = np.random.default_rng(data.draw(seeds))
    x, order = rng.random(m), rng.permutation(m)
    shuffled = np.ascontiguousarray(values[:, order])
    for mapped in (forward, inverse):
        for value, moved in zip(mapped(cell, values, x), mapped(cell, shuffled, x[order]), strict=True):
            np.testing.assert_array_equal(value[order], moved)
