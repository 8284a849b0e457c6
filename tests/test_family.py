"""Integrals of families: estimates and errors for each theta, tables and boxes of theta, what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import varflow as vf
from varflow.integration.family_survey import log_means, neighbours_in_order

SIZES = {"n_bins": 8, "d_hidden": 16, "n_hidden": 1, "repetitions": 1}


def peak(x, theta):
    """Peak at theta of width 0.05 in the first coordinate, and a slope in the second; nearly one in all."""
    of_x = np.exp(-0.5 * ((x[:, 0] - theta[:, 0]) / 0.05) ** 2) / (0.05 * math.sqrt(2 * math.pi))
    return of_x * 2 * x[:, 1]


def exact(theta):
    return np.diff(stats.norm.cdf((np.array([[0.0, 1.0]]) - theta) / 0.05), axis=1)[:, 0]


@pytest.fixture(scope="module")
def theta():
    return np.linspace(0.25, 0.75, 30)[:, None]


@pytest.fixture(scope="module")
def result(theta):
    return vf.integrate_family(peak, 2, theta, n_calls=150_000, rtol=0.01, flow_options=SIZES, seed=1)


def test_each_theta_has_its_estimate_error_and_calls(result, theta):
    assert (result.sdev <= 0.01 * result.mean).all()
    pulls = (result.mean - exact(theta)) / result.sdev
    assert 0.6 < math.sqrt(np.mean(pulls**2)) < 1.4
    assert np.abs(pulls).max() < 4.5
    assert (result.n_calls > 0).all()
    assert result.n_calls_in_all < 150_000
    assert result.warnings == ()


def test_the_flow_is_close_to_f_at_each_theta(result):
    for place in (0.3, 0.51, 0.7):  # of the range, but not of the table
        x, logqx = result.flow.sample(2000, seed=1, conditions=[place])
        weights = peak(x, np.full((2000, 1), place)) / np.exp(logqx)
        assert abs(weights.mean() - 1) < 0.05
        assert weights.std() < 0.5


def test_the_table_is_shown(result):
    lines = str(result).splitlines()
    assert lines[0].split() == ["theta", "1", "integral", "calls"]
    assert len(lines) == 32
    assert lines[1].split()[0] == "0.25"
    assert lines[-1] == f"calls: {result.n_calls_in_all:,}, {result.n_survey:,} of them to train the flow"
    assert "theta 1" in result._repr_html_()


def test_same_seed_same_bits_for_any_number_of_threads():
    def run(**options):
        found = vf.integrate_family(
            peak, 2, [[0.3], [0.6]], n_calls=40_000, flow_options=SIZES, seed=2, **options
        )
        return found.mean.tobytes() + found.sdev.tobytes()

    assert run(threads=1) == run(threads=2)


def test_a_box_of_theta_has_sobol_points(tmp_path):
    def f(x, theta):
        return theta[:, 0] + theta[:, 1] * x[:, 0]

    options = {"n_calls": 60_000, "flow_options": SIZES, "seed": 3}
    found = vf.integrate_family(f, [(0, 2)], 16, parameter_bounds=[(1, 2), (10, 30)], **options)
    assert found.parameters.shape == (16, 2)
    assert ((found.parameters >= [1, 10]) & (found.parameters <= [2, 30])).all()
    assert np.ptp(found.parameters, axis=0).min() > 0.8
    assert found.flow.condition_bounds.tolist() == [[1, 2], [10, 30]]
    expected = 2 * found.parameters[:, 0] + 2 * found.parameters[:, 1]
    assert (np.abs(found.mean - expected) <= 5 * found.sdev).all()
    assert (found.sdev < 0.01 * found.mean).all()


def test_integrals_of_any_size_are_learnt_alike():
    """Factors over 300 orders of magnitude, and either sign, change nothing of the relative errors."""
    places = np.linspace(0.3, 0.7, 8)
    factors = np.array([1e-200, -1e100, 1e-100, 1.0, -1.0, 1e50, 1e100, 1e-150])

    def f(x, theta):
        return peak(x, theta) * theta[:, 1] * 10.0 ** theta[:, 2]

    table = np.column_stack([places, np.sign(factors), np.log10(np.abs(factors))])
    found = vf.integrate_family(f, 2, table, n_calls=80_000, flow_options=SIZES, seed=1)
    relative = found.mean / factors
    assert (np.abs(relative - exact(places[:, None])) < 5 * found.sdev / np.abs(factors)).all()
    assert (found.sdev < 0.05 * np.abs(found.mean)).all()


def test_infinite_bounds_workers_and_points_one_by_one():
    def f(x, theta):
        assert x.shape == (1,)
        return math.exp(-0.5 * ((x[0] - theta[0]) / theta[1]) ** 2)

    table = [[0.0, 1.0], [2.0, 0.5]]
    bounds = [(-math.inf, math.inf)]
    options = {"n_calls": 34_000, "flow_options": SIZES, "seed": 1}
    found = vf.integrate_family(f, bounds, table, vectorized=False, **options)
    expected = math.sqrt(2 * math.pi) * np.array([1.0, 0.5])
    assert (np.abs(found.mean - expected) < 5 * found.sdev + 1e-9).all()


def test_f_that_is_zero_for_some_theta_has_an_unknown_error():
    def f(x, theta):
        return np.where(theta[:, 0] > 0.5, peak(x, theta), 0.0)

    found = vf.integrate_family(f, 2, [[0.3], [0.6]], n_calls=40_000, flow_options=SIZES, seed=1)
    assert found.mean[0] == 0
    assert math.isinf(found.sdev[0])
    assert abs(found.mean[1] - 1) < 5 * found.sdev[1] < 0.1
    assert found.warnings[0].startswith(
        "the error is not known for 1 of 2 theta, row 0 of the table: f was zero"
    )


def test_calls_that_do_not_suffice_are_told():
    found = vf.integrate_family(
        peak, 2, [[0.3], [0.6]], n_calls=36_000, rtol=1e-7, flow_options=SIZES, seed=1
    )
    assert found.n_calls_in_all <= 36_000
    assert (found.n_calls > 0).all()
    assert found.warnings[0].startswith(
        "the tolerance was not reached for 2 of 2 theta, rows 0, 1 of the table"
    )


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            ([1.0, 2.0],),
            {},
            ValueError,
            r"^parameters must have shape \(n_theta, c\), found \(2,\); for one param",
        ),
        (([[1.0], [np.inf]],), {}, ValueError, r"^parameters must be finite, found inf in row 1, column 0$"),
        ((np.empty((0, 1)),), {}, ValueError, r"^parameters must have shape \(n_theta, c\), found \(0, 1\)$"),
        ((16,), {}, TypeError, r"^parameters must be a table, \(n_theta, c\), unless parameter_bounds gives"),
        (
            ([[1.0]],),
            {"parameter_bounds": (0, 2)},
            ValueError,
            r"^parameter_bounds must have shape \(c, 2\), fou",
        ),
        (
            ([[3.0]],),
            {"parameter_bounds": [(0, 2)]},
            ValueError,
            r"^parameters must lie within parameter_bounds",
        ),
        (
            ([[1.0]],),
            {"parameter_bounds": [(0, 2)] * 2},
            ValueError,
            r"^parameter_bounds must have 1 rows, found",
        ),
        ((0,), {"parameter_bounds": [(0, 2)]}, ValueError, r"^parameters must be at least 1, got 0$"),
        (
            ([[1.0]],),
            {"n_calls": 1000},
            ValueError,
            r"^n_calls must be at least 33280 for 1 values of theta, got",
        ),
        (([[1.0]],), {"rtol": -1}, ValueError, r"^rtol must be at least 0 and finite, got -1$"),
        (([[1.0]],), {"flow": vf.Flow(2)}, TypeError, r"^flow must be the name of a cell, got Flow"),
        (
            ([[1.0]],),
            {"flow": "realnvp"},
            ValueError,
            r"^flow must have cells that map the unit cube, and 'r",
        ),
    ],
)
def test_what_is_wrong_is_refused_before_f_is_called(arguments, options, error, message):
    def f(x, theta):
        raise AssertionError

    with pytest.raises(error, match=message):
        vf.integrate_family(f, 2, *arguments, **{"seed": 1} | options)


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"^f must return one number for each point, got 2$"):
        vf.integrate_family(lambda x, theta: x, 2, [[1.0]], seed=1)
    with pytest.raises(TypeError, match=r"^f must be callable"):
        vf.integrate_family(3, 2, [[1.0]], seed=1)
    with pytest.raises(vf.InvalidIntegrandError, match=r"is nan at x = \[0\.\d+, 0\.\d+, 7\.5\]"):
        vf.integrate_family(lambda x, theta: x[:, 0] + np.nan, 2, [[7.5]], seed=1)


@pytest.mark.slow
def test_pulls_over_seeds(theta):
    options = {"n_calls": 60_000, "flow_options": SIZES}
    found = [vf.integrate_family(peak, 2, theta, seed=seed, **options) for seed in range(20)]
    pulls = np.array([(one.mean - exact(theta)) / one.sdev for one in found])
    assert 0.75 < math.sqrt(np.mean(pulls**2)) < 1.15
    assert abs(pulls.mean()) < 0.2
    assert np.abs(pulls).max() < 6


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 99))
def test_neighbours_are_a_permutation_and_in_order_along_one_axis(n, c, seed):
    table = np.random.default_rng(seed).random((n, c))
    order = neighbours_in_order(table)
    assert sorted(order) == list(range(n))
    if c == 1:
        assert (np.diff(table[order, 0]) >= 0).all()


def test_log_means_of_groups():
    logs = np.array([0.0, -800.0, -np.inf, 800.0, -np.inf])
    found = log_means(logs, np.array([0, 0, 0, 1, 2]), 4)
    np.testing.assert_allclose(found[:2], [-math.log(3), 800.0])
    assert (found[2:] == -np.inf).all()
