"""Variances alone, where components are so many that their covariances take too much memory."""

import tracemalloc

import numpy as np
import pytest

import varflow as vf
from varflow.integration import estimates, integrator, plan, steps
from varflow.integration.estimates import Batches, magnitudes, sums_of_weights
from varflow.integration.proposal import Draw

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


def strips(m, shapes=None):
    """x + y over m strips of x; keeps the shapes of what it was called with."""

    def f(x):
        if shapes is not None:
            shapes.append(x.shape)
        values = np.zeros((len(x), m))
        values[np.arange(len(x)), np.minimum((x[:, 0] * m).astype(int), m - 1)] = x.sum(axis=1)
        return values

    return f


def peak_of(m):
    tracemalloc.start()
    vf.integrate(strips(m), 2, n_calls=300, seed=1, covariance=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_is_linear_in_the_components():
    of_few, of_many = peak_of(500), peak_of(4000)
    assert of_many < 8 * of_few
    assert of_many < 4000 * 4000 * 8  # less than a covariance has


@pytest.fixture
def few_at_once(monkeypatch):
    for module in (estimates, integrator, plan, steps):
        monkeypatch.setattr(module, "MAX_VALUES", 9000)


def refined(f, **settings):
    made = vf.Integrator(f, 2, seed=1, covariance=False, **settings)
    made.refine()
    return made.result()


def test_values_that_are_worked_on_together(few_at_once):
    shapes = []
    result = refined(strips(30, shapes), n_iter=2, n_points=6000)
    n_at_once = [n for n, _ in shapes]
    assert n_at_once[0] == 64  # before it is known how many components there are
    assert max(n_at_once[1:]) <= 300
    assert sum(n_at_once) == result.n_calls == 12_000
    np.testing.assert_allclose(result.mean.sum(), 1, rtol=1e-3)
    assert np.mean(np.abs(result.mean - (np.arange(30) + 15.5) / 900) < 3 * result.sdev) > 0.9


def test_few_calls_are_refined_in_parts(few_at_once):
    result = vf.integrate(strips(30), 2, n_calls=10_000, seed=1, covariance=False)
    refined = [one.n_calls for one in result.history if one.stage == "refine"]
    assert len(refined) > 1
    assert max(refined) <= 8 * 300
    assert 9900 < result.n_calls <= 10_000


def test_scrambles_are_drawn_one_by_one(few_at_once):
    made = vf.Integrator(strips(30), 2, seed=1, covariance=False, n_iter=1, n_points=12_000)
    made.refine()
    engine = made._engine
    engine.begin([steps.Estimate(12_000)])
    numbers, _ = engine.ask()
    assert len(numbers) == engine.agenda[0].n_each == 375
    assert engine.agenda[0].n_pieces == 32


def test_many_components_go_on_from_a_checkpoint(few_at_once, tmp_path):
    class StopError(Exception):
        """End it."""

    def stop_at(n, f):
        def counted(x):
            nonlocal n
            n -= len(x)
            if n < 0:
                raise StopError
            return f(x)

        return counted

    settings = {"n_iter": 2, "n_points": 9000}
    kept = {**settings, "checkpoint": tmp_path / "run.npz"}
    with pytest.raises(StopError):
        refined(stop_at(12_000, strips(30)), **kept)
    resumed = refined(strips(30), **kept, resume=True)
    whole = refined(strips(30), **settings, deterministic=True)
    np.testing.assert_array_equal(resumed.mean, whole.mean)
    np.testing.assert_array_equal(resumed.sdev, whole.sdev)


def test_blocks_of_components(few_at_once):
    generator = np.random.default_rng(1)
    values, n = generator.normal(size=(400, 57)), 400
    points = Draw(generator.random((n, 2)), generator.normal(size=n), generator.normal(size=n), 80)
    weights = values * np.exp(-points.log_q)[:, None]
    np.testing.assert_allclose(magnitudes(values), np.linalg.norm(values, axis=1), rtol=1e-14)
    np.testing.assert_allclose(sums_of_weights(points.log_q, values), np.abs(weights).sum(axis=0), rtol=1e-13)
    expected = generator.normal(size=57)
    together = Batches(expected)
    together.add(points, values, 8)
    for k in range(57):
        alone = Batches(expected[k : k + 1])
        alone.add(points, values[:, k : k + 1], 8)
        np.testing.assert_allclose(together.means[:, k], alone.means[:, 0], rtol=1e-12, atol=1e-15)
    assert together.ess == pytest.approx(
        np.abs(weights).sum() ** 2 / n / np.square(np.abs(weights).sum(axis=1)).sum()
    )
