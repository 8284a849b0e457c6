"""Variances alone, where components are so many that their covariances take too much memory."""

import tracemalloc

import numpy as np
import pytest

import varflow as vf

EDGES = np.linspace(0, 1, 701)


def histogram(x):
    """Integral of x + y over 700 strips of x."""
    values = np.zeros((len(x), 700))
    values[np.arange(len(x)), np.searchsorted(EDGES, x[:, 0]) - 1] = x.sum(axis=1)
    return values


def three(x):
    return np.stack([x[:, 0], x[:, 0] * x[:, 1], np.exp(-x.sum(axis=1))], axis=1)


@pytest.fixture(scope="module")
def results():
    return [vf.integrate(three, 2, n_calls=2000, seed=1, covariance=kept) for kept in (True, False)]


def test_errors_are_the_same(results):
    with_covariances, alone = results
    np.testing.assert_array_equal(alone.mean, with_covariances.mean)
    np.testing.assert_allclose(alone.sdev, with_covariances.sdev, rtol=1e-12)
    assert alone.history[-1].covariance.shape == (3,)
    np.testing.assert_allclose(
        alone.history[-1].covariance, with_covariances.history[-1].covariance.diagonal()
    )
    assert (
        alone.summary().splitlines()[1].split()[2:4]
        == with_covariances.summary().splitlines()[1].split()[2:4]
    )


def test_chi2_is_that_of_the_largest_component(results):
    one = vf.integrate(
        lambda x: three(x), 2, n_calls=20_000, seed=1, covariance=False, survey_strategy="replay"
    )
    used = [iteration for iteration in one.history if iteration.is_used]
    assert one.dof == len(used) - 1
    assert 0 <= one.chi2 < 100


def test_asked_for_anyway(results):
    with pytest.raises(ValueError, match=r"covariances of 3 components were not kept: sdev has their errors"):
        results[1].covariance  # noqa: B018


def test_kept_in_files(results, tmp_path):
    results[1].save(tmp_path / "result.npz")
    read = vf.Result.load(tmp_path / "result.npz")
    np.testing.assert_array_equal(read.sdev, results[1].sdev)
    assert read.summary() == results[1].summary()


def test_run_goes_on_from_a_file(tmp_path):
    def done(run):
        while (points := run.ask()) is not None:
            run.tell(points, three(points))
        return run.result()

    run = vf.Run(2, n_calls=1000, seed=1, covariance=False)
    points = run.ask()
    run.tell(points, three(points))
    run.save(tmp_path / "run.npz")
    results = [done(one) for one in (run, vf.Run.load(tmp_path / "run.npz"))]
    np.testing.assert_array_equal(*(one.sdev for one in results))
    assert results[1].history[0].covariance.shape == (3,)


def test_many_components_have_variances_alone():
    tracemalloc.start()
    result = vf.integrate(histogram, 2, n_calls=300, seed=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.history[-1].covariance.shape == (700,)
    assert peak < 30 * 300 * 700 * 8  # some copies of the values
    centres = (EDGES[1:] + EDGES[:-1]) / 2
    exact = (centres + 0.5) / 700
    assert np.mean(np.abs(result.mean - exact) < 3 * result.sdev) > 0.97


@pytest.mark.parametrize("covariance", ["no", 1, 0.5])
def test_neither_yes_nor_no(covariance):
    with pytest.raises(TypeError, match="covariance must be True, False or None"):
        vf.Integrator(three, 2, covariance=covariance)
