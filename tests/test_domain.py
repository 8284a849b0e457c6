"""Boxes: the map from the unit cube stays finite, is undone by its inverse, and knows its derivative."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from varflow.integration.domain import Domain

INF = math.inf
EPS = np.finfo(float).eps
SIDES = [(0.0, 1.0), (-2.0, 5.0), (1e-3, 1e3), (1.5, INF), (-INF, -0.25), (-INF, INF)]

sides = st.sampled_from(SIDES)
units = st.floats(0.0, 1.0)
inner_units = st.floats(1e-3, 1 - 1e-3)


def x_of(u, side):
    """Map coordinates u (n,) alone."""
    x, log_jacobian = Domain([side]).from_cube(np.reshape(u, (-1, 1)))
    return x[:, 0], log_jacobian


def u_of(x, side):
    u, log_jacobian = Domain([side]).to_cube(np.reshape(x, (-1, 1)))
    return u[:, 0], log_jacobian


class TestBounds:
    def test_an_int_is_a_unit_cube(self):
        for bounds in (3, np.int64(3), [(0, 1)] * 3):
            domain = Domain(bounds)
            assert domain.d == 3
            np.testing.assert_array_equal(domain.bounds, [[0.0, 1.0]] * 3)
            assert domain.bounds.dtype == np.float64
        assert repr(Domain([(-INF, 2)])) == "Domain([[-inf, 2.0]])"

    def test_bounds_are_a_read_only_copy(self):
        bounds = np.array([[0.0, 2.0], [-INF, INF]])
        domain = Domain(bounds)
        bounds[0, 1] = 7.0
        assert domain.bounds[0, 1] == 2.0
        with pytest.raises(ValueError, match="read-only"):
            domain.bounds[0, 0] = 1.0

    def test_pickles(self):
        domain = pickle.loads(pickle.dumps(Domain(SIDES)))
        np.testing.assert_array_equal(domain.bounds, SIDES)

    @pytest.mark.parametrize(
        ("bounds", "match"),
        [
            (True, "^bounds must be an int or pairs.*found True"),
            (2.0, "^bounds must be an int or pairs.*found 2.0"),
            (None, "^bounds must be an int or pairs.*found None"),
            ("ab", "^bounds must be an int or pairs.*found 'ab'"),
            ([("a", "b")], "^bounds must be an int or pairs"),
            ([(0, 1j)], "^bounds must be an int or pairs"),
            (np.ma.asarray([[0.0, 1.0]]), "^bounds must not be a masked array"),
        ],
    )
    def test_refuses_other_types(self, bounds, match):
        with pytest.raises(TypeError, match=match):
            Domain(bounds)

    @pytest.mark.parametrize(
        ("bounds", "match"),
        [
            (0, "number of dimensions, at least 1, found 0"),
            (-2, "number of dimensions, at least 1, found -2"),
            ([], r"^bounds must have shape \(d, 2\), found \(0,\)$"),
            ((0.0, 1.0), r"found \(2,\); for one dimension, give \[\(0.0, 1.0\)\]"),
            (np.zeros((0, 2)), r"found \(0, 2\)"),
            (np.zeros((2, 3)), r"found \(2, 3\)"),
            ([(0, 1), (0, 1, 2)], "^bounds is not an array"),
            ([(0, 1), (math.nan, 1)], r"^bounds\[1\] is \(nan, 1.0\): bounds must not be NaN"),
            ([(0, math.nan)], r"^bounds\[0\] is \(0.0, nan\): bounds must not be NaN"),
            ([(0, 1)] * 2 + [(1, 0)], r"^bounds\[2\] is \(1.0, 0.0\): lower must be below upper"),
            ([(1, 1)], r"^bounds\[0\] is \(1.0, 1.0\): lower must be below upper"),
            ([(INF, INF)], r"^bounds\[0\] is \(inf, inf\): lower must be below upper"),
            ([(INF, 1)], r"^bounds\[0\] is \(inf, 1.0\): lower must be below upper"),
            ([(0, -INF)], r"^bounds\[0\] is \(0.0, -inf\): lower must be below upper"),
            ([(-1e308, 1e308)], r"^bounds\[0\] is .* the length upper - lower must not overflow"),
        ],
    )
    def test_refuses_other_values(self, bounds, match):
        with pytest.raises(ValueError, match=match):
            Domain(bounds)


class TestPoints:
    def test_unit_cube_is_the_identity_without_a_copy(self):
        u = np.random.default_rng(1).random((5, 2))
        for method in (Domain(2).from_cube, Domain([(0, 1), (0, 1)]).to_cube):
            same, log_jacobian = method(u)
            assert same is u
            np.testing.assert_array_equal(log_jacobian, np.zeros(5))

    def test_columns_are_mapped_one_by_one(self):
        u = np.random.default_rng(2).random((50, len(SIDES)))
        x, log_jacobian = Domain(SIDES).from_cube(u)
        assert x.flags.c_contiguous
        total = np.zeros(50)
        for column, side in enumerate(SIDES):
            alone, log_derivative = x_of(u[:, column], side)
            np.testing.assert_array_equal(x[:, column], alone)
            total += log_derivative
        np.testing.assert_allclose(log_jacobian, total, rtol=1e-14)
        back, log_back = Domain(SIDES).to_cube(x)
        np.testing.assert_allclose(back, u, rtol=1e-11)
        np.testing.assert_allclose(log_back, log_jacobian, rtol=1e-9)

    @pytest.mark.parametrize(
        ("u", "match"),
        [
            ([0.5], r"u must have shape \(n, d\)"),
            ([[0.5]], r"u must have shape \(n, 2\), found \(1, 1\)"),
            ([[0.5, 0.5], [0.5, 1.5]], "u must lie within bounds.*found 1.5 in row 1, column 1"),
            ([[0.5, math.nan]], "u must be finite, found nan in row 0, column 1"),
        ],
    )
    def test_refuses_points_outside_the_cube(self, u, match):
        with pytest.raises(ValueError, match=match):
            Domain([(0, 2), (0, INF)]).from_cube(u)

    @pytest.mark.parametrize(
        ("x", "match"),
        [
            ([[1.0, -0.5]], "x must lie within bounds.*found -0.5 in row 0, column 1"),
            ([[1.0, INF]], "x must be finite, found inf in row 0, column 1"),
        ],
    )
    def test_refuses_points_outside_the_box(self, x, match):
        with pytest.raises(ValueError, match=match):
            Domain([(0, 2), (0, INF)]).to_cube(x)


class TestMap:
    @given(st.lists(units, min_size=1, max_size=20), sides)
    def test_stays_within_bounds_and_finite(self, u, side):
        x, log_jacobian = x_of(u, side)
        assert np.isfinite(x).all()
        assert np.isfinite(log_jacobian).all()
        assert ((x >= side[0]) & (x <= side[1])).all()

    @given(hnp.arrays(float, 20, elements=units), sides)
    def test_is_monotone(self, u, side):
        x, _ = x_of(np.sort(u), side)
        assert (np.diff(x) >= 0).all()

    @given(inner_units, sides)
    def test_goes_there_and_back(self, u, side):
        x, log_jacobian = x_of(u, side)
        back, log_back = u_of(x, side)
        # A rounding error of x, of the size of a finite bound, is carried over by the derivative of u.
        scale = max([1.0, *(abs(bound) for bound in side if math.isfinite(bound))])
        tolerance = 8 * EPS * (1 + scale / np.exp(log_jacobian[0]))
        np.testing.assert_allclose(back, u, rtol=1e-14, atol=tolerance)
        np.testing.assert_allclose(log_back, log_jacobian, rtol=1e-9, atol=1e-9)

    @given(st.floats(-1e300, 1e300))
    def test_goes_back_and_there(self, x):
        for side in [(-INF, INF), (min(x, 0.0), INF), (-INF, max(x, 0.0))]:
            u, log_jacobian = u_of(x, side)
            assert np.isfinite(log_jacobian).all()
            again, _ = x_of(u, side)
            if u[0] < 1 - 1e-6:  # nearer to 1, u is too coarse to tell x
                np.testing.assert_allclose(again, x, rtol=1e-9, atol=1e-9)

    @given(inner_units, sides)
    def test_jacobian_is_the_derivative(self, u, side):
        step = 1e-6 * min(u, 1 - u)
        (below, above), _ = x_of([u - step, u + step], side)
        _, log_jacobian = x_of(u, side)
        slope = (above - below) / ((u + step) - (u - step))
        assert math.log(slope) == pytest.approx(log_jacobian[0], abs=1e-5)

    @pytest.mark.parametrize("side", SIDES)
    def test_ends_of_the_cube_are_moved_inside(self, side):
        if side == (0.0, 1.0):
            return  # whose points are those of the unit cube
        (low, high), _ = x_of([0.0, 1.0], side)
        assert side[0] < low < high < side[1]
        assert low < -1e307 if math.isinf(side[0]) else low - side[0] <= max(2 * EPS * abs(side[0]), 1e-307)
        assert high > 1e15 if math.isinf(side[1]) else side[1] - high <= max(2 * EPS * abs(side[1]), 1e-307)

    @given(st.floats(-1e300, 1e300), st.floats(0, 1e3), st.sampled_from([0.0, 1e-17, 0.5, 1 - EPS, 1.0]))
    def test_points_of_narrow_boxes_are_inside(self, lower, n_numbers, u):
        upper = lower
        for _ in range(2 + int(n_numbers) % 4):  # of the numbers, there are few between the bounds
            upper = math.nextafter(upper, INF)
        x, _ = x_of([u], (lower, upper))
        assert lower < x[0] < upper or upper - lower < 1e-307

    @pytest.mark.parametrize(
        "side", [(1e308, INF), (-1.7e308, INF), (-INF, 1.7e308), (-INF, -1.7e308), (-1.7e308, 0.0)]
    )
    def test_extreme_bounds_overflow_nowhere(self, side):
        x, log_jacobian = x_of([0.0, 5e-324, 0.5, 1.0], side)
        assert np.isfinite(x).all()
        assert np.isfinite(log_jacobian).all()
        largest = np.finfo(float).max
        u, log_jacobian = u_of([max(side[0], -largest), min(side[1], largest)], side)
        assert np.isfinite(u).all()
        assert np.isfinite(log_jacobian).all()

    def test_line_is_inverted_without_cancellation(self):
        x = np.array([-1e308, -1e200, -1e8, -1e-200, 0.0, 5e-324, 1e-9])
        u, _ = u_of(x, (-INF, INF))
        np.testing.assert_allclose(u[:3] * -x[:3], 0.5, rtol=1e-7)  # 1/(2 |x|) far out
        np.testing.assert_allclose(u[3:], 0.5 + x[3:] / 4, rtol=1e-15)  # 1/2 + x/4 in the middle

    def test_half_lines_are_mirror_images(self):
        u = np.random.default_rng(3).random(100)
        right, log_right = x_of(u, (0.0, INF))
        left, log_left = x_of(1 - u, (-INF, 0.0))
        np.testing.assert_allclose(left, -right, rtol=1e-12)
        np.testing.assert_allclose(log_left, log_right, rtol=1e-12)

    def test_integrates_a_gaussian(self):
        u = (np.arange(2000)[:, None] + 0.5) / 2000
        x, log_jacobian = Domain([(-INF, INF)]).from_cube(u)
        density = np.exp(log_jacobian - 0.5 * np.minimum(x[:, 0] ** 2, 1e4)) / math.sqrt(2 * math.pi)
        assert density.mean() == pytest.approx(1.0, rel=1e-12)
