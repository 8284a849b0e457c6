"""Sobol points: those of SciPy, without the import of its statistics."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import qmc

from varflow.integration.sobol import MAX_DIMENSIONS, directions, sobol_points

SIZES = st.integers(0, 300) | st.sampled_from([1023, 1024, 1025])


def of_scipy(n, d, generator):
    """The first n points of SciPy's sequence with the same scramble."""
    seed = int(generator.integers(2**63))
    try:
        sequence = qmc.Sobol(d, bits=53, rng=seed)
    except TypeError:
        pytest.skip("before SciPy 1.15, the scramble of a seed was another")
    return sequence.random_base2(max(n - 1, 0).bit_length())[:n]


@given(SIZES, st.integers(1, 40), st.integers(0, 2**32))
def test_points_have_the_bits_of_scipy_s(n, d, seed):
    own, others = (make(n, d, np.random.default_rng(seed)) for make in (sobol_points, of_scipy))
    np.testing.assert_array_equal(own, others)


@pytest.mark.parametrize("d", [MAX_DIMENSIONS, MAX_DIMENSIONS + 1])
def test_any_number_of_dimensions(d):
    own, others = (make(5, d, np.random.default_rng(1)) for make in (sobol_points, of_scipy))
    np.testing.assert_array_equal(own, others)


@given(st.integers(1, 10), st.integers(1, 50))
def test_each_coordinate_has_one_point_in_each_interval(k, d):
    """As many intervals of equal length as points, whatever the scramble is."""
    points = sobol_points(1 << k, d, np.random.default_rng(d))
    cells = np.sort((points[:, -1] * (1 << k)).astype(int))
    np.testing.assert_array_equal(cells, np.arange(1 << k))


def test_generators_go_on():
    generator = np.random.default_rng(1)
    assert not np.any(sobol_points(10, 3, generator) == sobol_points(10, 3, generator))


def test_direction_numbers_of_fewer_coordinates_are_the_first():
    np.testing.assert_array_equal(directions(MAX_DIMENSIONS)[:7], directions(7))


def test_an_integral_imports_nothing_of_scipy_s_that_is_slow():
    code = (
        "import sys, varflow as vf\n"
        "print(vf.integrate(lambda x: x[:, 0], 3, n_calls=100, seed=1).mean)\n"
        "assert not {'scipy.stats', 'scipy.optimize', 'scipy.spatial'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
