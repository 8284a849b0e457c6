"""Integration: the right integral with an honest error, whatever f is, and whatever happens on the way."""

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product

import numba
import numpy as np
import pytest
from scipy import stats

import varflow as vf
from varflow import Dataset, Flow, Integrator, InvalidIntegrandError, Result
from varflow.integration import costs, plan
from varflow.integration.averages import average
from varflow.integration.proposal import LATENT_POINTS
from varflow.integration.state import State
from varflow.integration.steps import LOOK
from varflow.integration.survey import STRATEGIES
from varflow.kernels.splines import SPLINES
from varflow.training.losses import LOSSES
from varflow.training.objective import Objective

# Python 3.12 warns of a fork beside threads, which other tests may have left waiting.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

INF = math.inf
PLANE = ((-INF, INF), (-INF, INF))
N_CALLS = 32_768
LONGER = 65_536  # calls in which a flow learns much of the peak
FEWEST = 16_384  # calls that a survey by replay takes
SMALL = {"n_bins": 8, "d_hidden": 16, "n_hidden": 1, "repetitions": 1}


def one_side(width=30, center=0.4):
    """Integral of exp(-width (x - center)^2) over [0, 1]."""
    root = math.sqrt(width)
    return math.sqrt(math.pi) / 2 / root * (math.erf(root * (1 - center)) + math.erf(root * center))


EXACT = one_side() ** 2


def peak(x):
    return np.exp(-30 * ((x - 0.4) ** 2).sum(axis=1))


def narrow_at(x, centre, width=0.05):
    return np.exp(-(((x - centre) / width) ** 2).sum(axis=1)) / (width * math.sqrt(math.pi)) ** x.shape[1]


def peak_at(point):
    return math.exp(-30 * ((point[0] - 0.4) ** 2 + (point[1] - 0.4) ** 2))


@numba.njit
def compiled_peak_at(point):
    return math.exp(-30 * ((point[0] - 0.4) ** 2 + (point[1] - 0.4) ** 2))


def normal(x):
    return np.exp(-(x**2).sum(axis=1) / 2) / (2 * math.pi)


def wave(x):
    return np.sin(4 * x[:, 0] + x[:, 1])


OF_WAVE = float(((np.exp(4j) - 1) / 4j * (np.exp(1j) - 1) / 1j).imag)


def vector(x):
    return np.column_stack([peak(x), 2 * x[:, 0], peak(x)])


def mixed(x):
    return {"peak": peak(x), "means": np.column_stack([x.sum(axis=1), wave(x)])}


class Counting:
    """A function that counts the points it is called with, and raises at the calls numbered in `bad`."""

    def __init__(self, f=peak, bad=(), error=None):
        self.f, self.bad, self.error = f, bad, error
        self.n_points = self.n_calls = 0

    def __call__(self, x):
        self.n_calls += 1
        if self.n_calls in self.bad:
            raise self.error
        self.n_points += len(x)
        return self.f(x)


def integrated(f=peak, bounds=2, n_calls=N_CALLS, seed=1, rtol=0.0, atol=0.0, **options):
    """Integrate without a look at the clock: what it would decide, `TestSeconds` is about."""
    options = {"flow_options": SMALL, "deterministic": True, **options}
    return vf.integrate(f, bounds, n_calls=n_calls, rtol=rtol, atol=atol, seed=seed, **options)


def if_slow(cases):
    """Parameters that are for slow tests."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@cache
def shared(f=peak, bounds=2, n_calls=N_CALLS):
    """Result that several tests look at; none extends it."""
    return integrated(f, bounds, n_calls)


def make(f=peak, bounds=2, **options):
    small = {"n_iter": 2, "n_points": 16_384, "seed": 1, "flow_options": SMALL}
    return Integrator(f, bounds, **(small | options))


def assert_right(result, exact=EXACT, largest=0.05):
    """Within 5 errors, and these are no larger than they need be."""
    mean, sdev = np.asarray(result.mean), np.asarray(result.sdev)
    assert (np.abs(mean - exact) < 5 * sdev).all(), str(result)
    assert (sdev < largest).all()


def assert_honest(pulls):
    """Of forty integrals, deviations in units of the errors."""
    assert len(pulls) == 40
    assert abs(np.mean(pulls)) < 0.5
    assert 0.7 < np.std(pulls, ddof=1) < 1.4


def assert_same(one, other):
    """The same bits."""
    for name in ("mean", "covariance", "n_calls", "ess"):
        np.testing.assert_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.flow.params, other.flow.params)


@pytest.fixture(scope="module")
def of_the_unit():
    """By the number of calls, the result for f in its own unit, and what this is extended to."""
    results = {n_calls: integrated(n_calls=n_calls) for n_calls in (1000, N_CALLS)}
    return {n_calls: (result, result.extend(1000)) for n_calls, result in results.items()}


class TestEstimate:
    @pytest.mark.parametrize(
        ("f", "bounds", "exact"),
        [
            (peak, 2, EXACT),
            (lambda x: 3 * x[:, 0] ** 2, 1, 1),
            (lambda x: np.prod(2 * x, axis=1), 5, 1),
            (lambda x: x[:, 0] ** 2 * x[:, 1], ((-1, 2), (0, 3)), 13.5),
            (lambda x: np.exp(-x[:, 0] - x[:, 1]), ((0, INF), (0, INF)), 1),
            (lambda x: np.exp(x[:, 0] + 1 - x[:, 1]), ((-INF, 0), (1, INF)), 1),
            (normal, PLANE, 1),
            (wave, 2, OF_WAVE),
            (lambda x: wave(x) - OF_WAVE, 2, 0),
            (lambda x: x[:, 0] ** 2 + x[:, 1] ** 2 < 1, 2, math.pi / 4),
            (lambda x: np.where(x.sum(axis=1) > 1.7, x[:, 0] ** -0.5, 0), 2, None),
        ],
        ids=["cube", "line", "5 dim", "box", "half", "halves", "plane", "signed", "zero", "disc", "corner"],
    )
    def test_is_right(self, f, bounds, exact):
        if exact is None:  # integral over x of (x - 0.7) / sqrt(x), from 0.7 on
            exact = 2 / 3 * (1 - 0.7**1.5) - 1.4 * (1 - 0.7**0.5)
        result = shared(f, bounds)
        assert_right(result, exact)
        assert isinstance(result.mean, float)
        assert isinstance(result.sdev, float)

    def test_gains_from_the_flow(self):
        plain = np.std(peak(np.random.default_rng(1).random((10_000, 2)))) / math.sqrt(LONGER)
        result = shared(n_calls=LONGER)
        assert result.sdev < 0.3 * plain
        assert result.ess > 0.6
        assert result.history[0].ess < 0.3

    def test_vector(self):
        result = shared(vector)
        assert_right(result, [EXACT, 1, EXACT])
        assert result.mean.shape == result.sdev.shape == (3,)
        covariance = result.covariance
        np.testing.assert_array_equal(covariance, covariance.T)
        np.testing.assert_allclose(covariance[0, [0, 2]], covariance[2, [2, 0]], rtol=1e-9)
        np.testing.assert_allclose(covariance[0, 0], covariance[0, 2], rtol=1e-9)  # fully correlated
        assert abs(covariance[0, 1]) < math.sqrt(covariance[0, 0] * covariance[1, 1])
        np.testing.assert_allclose(result.sdev, np.sqrt(np.diag(covariance)))

    def test_dict(self):
        result = integrated(mixed)
        assert list(result.mean) == list(result.sdev) == ["peak", "means"]
        assert isinstance(result.mean["peak"], float)
        assert abs(result.mean["peak"] - EXACT) < 5 * result.sdev["peak"]
        assert (np.abs(result.mean["means"] - [1, OF_WAVE]) < 5 * result.sdev["means"]).all()
        assert result.covariance.shape == (3, 3)

    @pytest.mark.parametrize("f", [peak_at, compiled_peak_at])
    def test_functions_of_one_point_give_what_arrays_give(self, f):
        result = integrated(f, vectorized=False)
        assert_right(result)
        np.testing.assert_allclose(result.mean, shared().mean, rtol=1e-6)

    def test_workers_give_the_same_bits(self):
        alone = shared()
        assert_same(integrated(workers=2), alone)
        with ThreadPoolExecutor(2) as pool:
            assert_same(integrated(workers=pool.map), alone)

    @pytest.mark.parametrize("loss", LOSSES)
    @pytest.mark.parametrize("cell", SPLINES)
    def test_losses_and_cells(self, loss, cell):
        result = integrated(n_calls=LONGER, loss=loss, flow=cell)
        assert_right(result)
        assert result.flow.architecture.cell == cell
        assert result.ess > 0.5

    def test_sobol_points_have_smaller_errors(self):
        results = {name: integrated(latent_points=name) for name in LATENT_POINTS}
        for result in results.values():
            assert_right(result)
        assert results["sobol"].sdev < 0.7 * results["random"].sdev

    def test_components_that_are_hardly_hit_have_errors_that_say_so(self):
        """Bins of a histogram of a peak on a low plain, far from it: none, one or a few points."""

        def histogram(x):
            bins = np.zeros((len(x), 60))
            bins[np.arange(len(x)), (60 * x[:, 0]).astype(int)] = narrow_at(x, 0.3) + 1e-4
            return bins

        edges = (np.linspace(0, 1, 61) - 0.3) / 0.05
        exact = 0.5 * np.diff([math.erf(edge) for edge in edges]) + 1e-4 / 60
        for n_calls in (2000, N_CALLS):
            result = integrated(histogram, n_calls=n_calls)
            assert (np.abs(result.mean - exact) < 5 * result.sdev).all()
            assert (result.sdev > 1e-8).all()
            assert result.dof <= 4 * (len(result.history) - 1)
            assert result.Q > 1e-3

    def test_of_zero_is_zero_with_a_warning(self):
        for rtol in (0, 1e-3):
            result = integrated(lambda x: np.zeros(len(x)), rtol=rtol)
            assert (result.mean, result.sdev) == (0, INF)
            assert any("the error is not known" in warning for warning in result.warnings)
            assert str(result).startswith("0 ± inf\nwarning: ")

    def test_of_a_constant_is_exact(self):
        result = integrated(lambda x: np.full(len(x), 2.5), [(0, 2), (-1, 3)])
        assert result.mean == pytest.approx(20, rel=1e-2)
        assert abs(result.mean - 20) < 5 * result.sdev + 1e-10

    @pytest.mark.parametrize(
        ("n_calls", "exponent"),
        [(1000, -1000), (1000, 900), *((N_CALLS, exponent) for exponent in (-1000, -700, -300, 400, 900))],
    )
    def test_units_of_f(self, n_calls, exponent, of_the_unit, tmp_path):
        """f times a power of two has the same result, times that power."""
        unit = 2.0**exponent
        result = integrated(lambda x: unit * peak(x), n_calls=n_calls)
        expected, expected_more = of_the_unit[n_calls]
        assert (result.mean / unit, result.sdev / unit) == (expected.mean, expected.sdev)
        assert (result.chi2, result.dof, result.ess) == (expected.chi2, expected.dof, expected.ess)
        np.testing.assert_array_equal(result.flow.params, expected.flow.params)
        for one, other in zip(result.history, expected.history, strict=True):
            np.testing.assert_array_equal(one.mean / unit, other.mean)
        result.save(tmp_path / "result.npz")
        loaded = Result.load(tmp_path / "result.npz")
        assert (loaded.mean, loaded.sdev, loaded.summary()) == (result.mean, result.sdev, result.summary())
        more = result.extend(1000)
        assert (more.mean / unit, more.sdev / unit) == (expected_more.mean, expected_more.sdev)

    @pytest.mark.parametrize("unit", [1e-300, -1e-160, 1e150, 1e300])
    def test_tolerances_in_units_of_f(self, unit):
        result = integrated(lambda x: unit * peak(x), n_calls=300_000, atol=1e-4 * abs(unit))
        assert abs(result.mean / unit - EXACT) < 5e-4
        assert 1e-5 < result.sdev / abs(unit) <= 1e-4
        assert not result.warnings

    def test_values_may_grow_by_all_that_numbers_hold(self):
        """The first points see a tail of 1e-200 only."""
        f = Counting(lambda x: narrow_at(x, 0.41, 0.015))
        integrator = make(lambda x: np.where(f.n_points < 3000, 1e-200, 1.0) * f(x), 2, seed=2)
        assert_right(integrator.integrate_to(N_CALLS, 0, 0), 1, 0.1)

    @pytest.mark.parametrize("unit", [1e-300, 1e300])
    def test_components_in_any_unit(self, unit):
        result, expected = integrated(lambda x: unit * vector(x), n_calls=2000), shared(vector, n_calls=2000)
        np.testing.assert_allclose(result.mean / unit, expected.mean, rtol=1e-10)
        np.testing.assert_allclose(result.sdev / unit, expected.sdev, rtol=1e-10)
        _, weights = result.sample(2000, unweight=True, seed=1)
        assert np.isfinite(weights).all()

    def test_narrow_peaks_may_be_tiny_where_points_are(self):
        # The first points are so far from the peak that f is below 1e-140 at all of them.
        exact = (2 * math.pi) ** 2 * 0.005**4
        result = integrated(lambda x: np.exp(-((x - 0.5) ** 2).sum(axis=1) / 2 / 0.005**2), 4)
        assert result.warnings or abs(result.mean - exact) < 5 * result.sdev

    @pytest.mark.slow
    def test_errors_are_honest(self):
        results = [integrated(n_calls=N_CALLS, seed=seed) for seed in range(40)]
        assert_honest([(result.mean - EXACT) / result.sdev for result in results])

    def test_errors_of_iterations_are_honest(self):
        history = make(n_iter_refine=40, n_points_refine=2048).integrate().history
        refined = [one for one in history if one.stage == "refine"]
        assert_honest([(one.mean[0] - EXACT) / math.sqrt(one.covariance[0, 0]) for one in refined])


def sample_of_peak(n=4000, bounds=((0, 1), (0, 1)), f=peak):
    lower, upper = np.array(bounds, float).T
    x = lower + (upper - lower) * np.random.default_rng(1).random((n, len(lower)))
    return x, np.full(n, 1 / np.prod(upper - lower)), f(x)


def by_sample(sample):
    options = {"n_iter_survey": 3, "trainer_options": {"n_epochs": 10}}
    return make(survey_strategy="fixed_sample", sample=sample, **options).integrate()


@pytest.fixture(scope="module")
def of_dataset():
    return by_sample(Dataset(*sample_of_peak()))


class TestStrategies:
    @pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "fixed_sample"])
    def test_each_gives_the_integral(self, strategy):
        options = {"survey_strategy": strategy, "trainer_options": {"n_epochs": 5}}
        result = make(**options).integrate()
        assert_right(result)
        assert result.ess > 0.5
        assert {iteration.stage for iteration in result.history} >= {"survey", "refine"}
        assert_same(make(**options).integrate(), result)

    def test_fixed_sample(self, of_dataset):
        assert_right(of_dataset)
        assert of_dataset.ess > 0.5

    @pytest.mark.parametrize("form", ["arrays", "dataset", "npz", "csv", "path"])
    def test_forms_of_a_fixed_sample(self, of_dataset, form, tmp_path):
        data = Dataset(*sample_of_peak())
        path = tmp_path / ("sample.csv" if form == "csv" else "sample.npz")
        data.save(path)
        sample = {"arrays": sample_of_peak(), "dataset": data, "path": path}.get(form, str(path))
        assert_same(by_sample(sample), of_dataset)

    def test_fixed_sample_of_a_box(self, tmp_path):
        bounds = [(-2, 3), (1, 1.5)]

        def f(x):
            return peak((x - [-2, 1]) / [5, 0.5])

        data = Dataset(*sample_of_peak(bounds=bounds, f=f), bounds=bounds)
        data.save(tmp_path / "sample.csv")
        options = {"survey_strategy": "fixed_sample", "n_iter_survey": 3, "trainer_options": {"n_epochs": 10}}
        result = make(f, bounds, sample=data, **options).integrate()
        assert_right(result, 2.5 * EXACT)
        assert result.ess > 0.5
        for sample in (sample_of_peak(bounds=bounds, f=f), tmp_path / "sample.csv"):
            assert make(f, bounds, sample=sample, **options).integrate().mean == pytest.approx(result.mean)

    @pytest.mark.parametrize("in_dataset", [False, True])
    def test_fixed_sample_of_the_plane(self, in_dataset):
        x = 1.5 * np.random.default_rng(1).normal(size=(4000, 2))
        sample = x, normal(x / 1.5) / 1.5**2, normal(x)
        if in_dataset:
            sample = Dataset(*sample, bounds=[-100, 100])
        bounds = [(-INF, INF)] * 2
        result = make(normal, bounds, survey_strategy="fixed_sample", sample=sample).integrate()
        assert_right(result, 1)
        assert result.ess > 0.5

    def test_survey_in_use(self):
        without, with_survey = (make(use_survey=use).integrate() for use in (False, True))
        assert_right(with_survey)
        assert all(not one.is_used for one in without.history if one.stage != "refine")
        used = [one.stage for one in with_survey.history if one.is_used]
        assert used.count("survey") == 1  # of two, the later one
        assert not with_survey.history[0].is_used  # which decided on the flow
        assert with_survey.mean != without.mean
        np.testing.assert_array_equal(with_survey.flow.params, without.flow.params)

    @pytest.mark.parametrize("strategy", ["replay", "flat"])
    def test_points_of_each_part(self, strategy):
        f = Counting()
        integrator = make(
            f, survey_strategy=strategy, n_iter_survey=3, n_points_survey=7000,
            n_iter_refine=2, n_points_refine=3200,
        )  # fmt: skip
        result = integrator.integrate()
        refined = [one.n_calls for one in result.history if one.stage == "refine"]
        assert refined == [3200, 3200]
        assert f.n_points == result.n_calls
        assert 0.9 * 21_000 <= result.n_calls - 6400 <= 1.1 * 21_000

    @pytest.mark.parametrize(("n_iter", "n_points"), [(40, 32), (3, 500), (2, 20_000)])
    def test_walkers_are_among_the_calls(self, n_iter, n_points):
        f = Counting()
        make(f, survey_strategy="flat", n_iter=n_iter, n_points=n_points).survey()
        assert 0.4 * n_iter * n_points < f.n_points <= n_iter * n_points

    def test_survey_and_refine_by_hand(self):
        integrator = make()
        with pytest.raises(RuntimeError, match="no estimate yet"):
            integrator.result()
        integrator.survey()
        surveyed = integrator.result()
        assert_right(surveyed)
        integrator.refine()
        assert_right(integrator.result())
        assert integrator.result().sdev < surveyed.sdev
        assert_same(integrator.integrate(), integrator.result())
        assert_same(integrator.result(), make().integrate())

    def test_refinement_alone(self):
        integrator = make()
        integrator.refine()
        assert_right(integrator.result())
        np.testing.assert_array_equal(integrator.flow.params, make().flow.params)


class TestReproducibility:
    def test_same_seed_same_bits_on_any_number_of_threads(self):
        one = integrated(threads=1)
        assert_same(integrated(threads=1), one)
        assert_same(integrated(threads=2), one)
        assert_same(shared(), one)  # of as many threads as there are
        assert integrated(seed=2).mean != one.mean

    def test_without_a_seed_each_is_another(self):
        one, other = (integrated(seed=None) for _ in range(2))
        assert one.mean != other.mean
        assert_right(one)

    def test_global_random_state_does_not_matter(self):
        np.random.seed(1)  # noqa: NPY002
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        integrated()
        np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


class TestStart:
    @pytest.mark.parametrize("strategy", ["replay", "forward"])
    def test_flow_that_was_trained_is_copied(self, strategy):
        first = shared(n_calls=LONGER)
        before = first.flow.params.copy()
        integrator = make(flow=first.flow, flow_options=None, survey_strategy=strategy)
        result = integrator.integrate()
        np.testing.assert_array_equal(first.flow.params, before)
        assert integrator.flow is not first.flow
        if strategy == "forward":  # the other may find that the first flow was better
            assert not np.array_equal(result.flow.params, before)
        assert_right(result)
        assert result.history[0].ess > 0.6
        assert result.ess > 0.6

    def test_flow_of_a_result_stays_as_it_was(self):
        integrator = make()
        integrator.refine()
        result = integrator.result()
        before = result.flow.params.copy()
        integrator.survey()
        np.testing.assert_array_equal(result.flow.params, before)
        assert not np.array_equal(integrator.flow.params, before)

    def test_flow_that_knows_f_needs_no_survey(self):
        flow = shared(n_calls=LONGER).flow
        integrator = make(flow=flow, flow_options=None)
        integrator.refine()
        np.testing.assert_array_equal(integrator.flow.params, flow.params)
        assert integrator.result().ess > 0.6


class TestExtend:
    def test_adds_points(self):
        result = integrated()
        before = result.mean, result.n_calls, len(result.history)
        more = result.extend(40_000)
        assert_right(more)
        assert more.n_calls - result.n_calls == pytest.approx(40_000, abs=40)
        assert more.sdev < 0.7 * result.sdev
        assert before == (result.mean, result.n_calls, len(result.history))
        assert len(more.history) == len(result.history) + 1
        assert_same(integrated().extend(40_000), more)

    def test_before_anything_else(self):
        assert_right(make().extend(8192))

    @pytest.mark.parametrize("n_calls", [32, 33, 1000])
    def test_calls_are_not_exceeded(self, n_calls):
        f = Counting()
        make(f).extend(n_calls)
        assert 0.5 * n_calls < f.n_points <= n_calls

    def test_reaches_a_tolerance_that_was_missed(self):
        result = integrated(n_calls=N_CALLS, rtol=1e-4)
        assert result.warnings
        more = result.extend(600_000)
        assert more.sdev < 1e-4 * more.mean
        assert not any("tolerance" in warning for warning in more.warnings)


class TestMap:
    """The element-wise map, which a new flow is given where it brings it much closer to f."""

    @staticmethod
    def narrow(x):
        return narrow_at(x, 0.4, width=0.02)

    @staticmethod
    def ridge(x):
        return np.exp(-(((x.sum(axis=1) % 1) - 0.5) ** 2) / 1e-4)

    @pytest.fixture
    def maps(self, monkeypatch):
        """How often a map was fitted, and how often kept."""
        counts = {"fitted": 0, "kept": 0}
        fit, judge = plan._fit_map, plan.JudgeMap.then

        def counted_fit(state):
            counts["fitted"] += 1
            fit(state)

        def counted_judge(self, state):
            n_before = state.best
            agenda = judge(self, state)
            counts["kept"] += state.best != n_before
            return agenda

        monkeypatch.setattr(plan, "_fit_map", counted_fit)
        monkeypatch.setattr(plan.JudgeMap, "then", counted_judge)
        return counts

    @pytest.mark.parametrize(
        ("cell", "tolerance"),
        [
            ("pwquad", {}),
            ("rqs", {"rtol": 2e-3}),
            *if_slow([("pwquad", {"rtol": 2e-3}), ("rqs", {})]),
        ],
    )
    def test_finds_narrow_peaks(self, maps, cell, tolerance):
        result = integrated(self.narrow, 6, n_calls=150_000, flow=cell, **tolerance)
        assert_right(result, 1, 0.01)
        assert not result.warnings
        assert maps["fitted"] >= maps["kept"] > 0

    def test_is_not_kept_where_coordinates_depend_on_each_other(self, maps):
        result = integrated(self.ridge, 3, n_calls=LONGER)
        assert_right(result, math.sqrt(math.pi * 1e-4), 0.01)
        assert maps["fitted"] > 0
        assert maps["kept"] == 0

    def test_is_not_kept_along_a_diagonal(self, maps):
        """Projections are followed into the corners, where f is nothing."""

        def along(x):
            return np.exp(-((x[:, 0] - x[:, 1]) ** 2 + (x[:, 2] - x[:, 3]) ** 2) / 0.0025)

        result = integrated(along, 4, n_calls=200_000, seed=0)
        of_two = math.sqrt(math.pi * 0.0025) - 0.0025
        assert_right(result, of_two**2, 0.01 * of_two**2)
        assert maps["fitted"] > 0
        assert maps["kept"] == 0

    def test_is_not_fitted_where_the_flow_is_close(self, maps):
        integrated(lambda x: np.prod(2 * x, axis=1), 2)
        assert maps["fitted"] == 0

    def test_a_given_flow_stays_without(self, maps):
        flow = Flow(6, "pwquad", seed=1, **SMALL)
        integrated(self.narrow, 6, n_calls=LONGER, flow=flow, flow_options=None)
        assert maps["fitted"] == 0

    def test_a_survey_after_the_first_goes_on_without(self, maps):
        integrator = make(self.narrow, 3, n_points=32_768)
        integrator.survey()
        assert maps["fitted"] > 0
        maps["fitted"] = 0
        integrator.survey()
        assert maps["fitted"] == 0

    def test_fits_take_a_quarter_of_the_calls_at_most(self, maps):
        integrator = make(self.narrow, 6, n_iter=1, n_points=LONGER)
        integrator.survey()
        assert maps["fitted"] == 4
        assert integrator.integrand.n_calls <= LONGER


def both(x):
    """Two peaks that few points meet by chance."""
    return narrow_at(x, 0.3) / 4 + 3 * narrow_at(x, 0.7) / 4


def has_lost(result):
    return any("the flow has lost a region" in warning for warning in result.warnings)


@pytest.fixture(scope="module")
def start():
    """A flow that knows the smaller one of the two peaks, in five dimensions."""
    result = integrated(lambda x: narrow_at(x, 0.3), 5, n_calls=N_CALLS)
    assert_right(result, 1)
    return {"flow": result.flow, "flow_options": None}


@pytest.fixture(scope="module")
def without_survey(start):
    integrator = make(both, 5, n_points=LONGER, seed=2, **start)
    integrator.refine()
    return integrator.result()


class TestRepeatedUse:
    def test_a_sample_has_other_numbers_than_the_survey_of_the_same_seed(self):
        seen = []

        def f(x):
            seen.append(x.copy())
            return 1 + x[:, 0]

        integrator = vf.Integrator(f, 2, n_iter=1, n_points=2000, survey_strategy="flat", seed=5)
        integrator.survey()
        surveyed = np.concatenate(seen)
        points, _ = integrator.sample(1000, seed=5)
        latent, _ = integrator.flow.to_latent(points)
        for found in (points, latent):
            assert not np.isin(np.round(found, 9), np.round(surveyed, 9)).any()

    def test_unweighting_that_keeps_next_to_nothing_ends(self):
        is_first = iter([True])

        def f(x):  # one point of the first has all the weight
            values = np.full(len(x), 1e-12)
            values[:10] = 1.0 if next(is_first, False) else 1e-12
            return values

        integrator = vf.Integrator(
            lambda x: np.ones(len(x)), 1, n_iter=1, n_points=1000, seed=1, survey_strategy="flat"
        )
        integrator.integrate()
        integrator.integrand._f = f
        with pytest.raises(ValueError, match=r"only \d+ of 100 points were kept of \d+ drawn"):
            integrator.sample(100, unweight=True, seed=1)

    def test_threads_of_a_flow_that_is_given(self):
        flow = vf.Flow(2, seed=1, threads=1)
        assert vf.Integrator(lambda x: x[:, 0], 2, flow=flow, threads=3).flow.threads == 3
        assert flow.threads == 1

    def test_warnings_of_an_early_survey_go_with_the_next(self, monkeypatch):
        integrator = make(lambda x: 1 + x[:, 0], n_iter=1, n_points=20_000)
        monkeypatch.setattr("varflow.integration.plan.is_better", lambda before, after: True)
        integrator.survey()
        assert "training made the flow no better" in str(integrator.result())
        monkeypatch.setattr("varflow.integration.plan.is_better", lambda before, after: False)
        integrator.survey()
        assert "training made the flow no better" not in str(integrator.result())


class TestManyDimensions:
    def test_training_is_left_out_where_the_flow_is_close(self):
        result = integrated(lambda x: 1 + (x[:, ::2] * x[:, 1::2]).sum(axis=1), 20, n_calls=50_000, seed=1)
        stages = [(one.stage, one.n_calls) for one in result.history]
        assert {n for stage, n in stages if stage == "survey"} == {4096}  # pilot runs alone
        assert_right(result, 3.5)

    def test_the_map_is_refined(self):
        """Of a separable peak; training takes ten times longer, and leaves a larger error."""
        d, width = 20, 0.15
        result = vf.integrate(
            lambda x: np.exp(-0.5 * np.sum(((x - 0.5) / width) ** 2, axis=1)), d, n_calls=100_000, seed=1
        )
        inside = math.sqrt(2 * math.pi) * width * math.erf(0.5 / width / math.sqrt(2))
        assert_right(result, inside**d, 1e-3 * inside**d)
        assert result.ess > 0.75
        assert {one.n_calls for one in result.history if one.stage == "survey"} == {4096}

    def test_training_is_not_left_out_elsewhere(self):
        """Of the sum of all coordinates, their map knows nothing."""
        result = integrated(
            lambda x: np.exp(-(((x.sum(axis=1) - 8) / 0.3) ** 2) / 2), 16, n_calls=50_000, seed=1
        )
        assert {one.n_calls for one in result.history if one.stage == "survey"} != {4096}
        assert_right(result, 0.249375)  # by the density of the sum of 16 uniform numbers


@pytest.mark.parametrize("seed", [0, 4])
def test_a_narrow_peak_is_not_lost_again(seed):
    """Learning at the usual pace moves bins by more than the width of the peak."""

    def needle(x):
        return np.exp(-0.5 * np.sum(((x - 0.45) / 1e-3) ** 2, axis=1)) / (2 * math.pi * 1e-6)

    assert_right(integrated(needle, n_calls=100_000, seed=seed, flow_options={}), 1)


class TestLostRegions:
    """What walkers find that the flow does not."""

    def test_are_warned_of_and_regained_by_a_survey(self, start):
        integrator = make(both, 5, n_points=LONGER, seed=2, **start)
        integrator.refine()
        result = integrator.result()
        assert result.mean < 0.5  # far from the integral, which is 1
        assert has_lost(result)
        integrator.survey()
        integrator.refine()
        more = integrator.result()
        assert_right(more, 1)
        assert not has_lost(more)
        assert not any(one.is_used for one in more.history[: len(result.history)])

    @pytest.mark.parametrize(
        ("rtol", "use_survey"),
        [(0.0, False), (1e-2, True), *if_slow([(0.0, True), (1e-2, False)])],
    )
    def test_are_regained_within_the_calls(self, start, rtol, use_survey):
        f, seed = Counting(both), 1 if rtol else 8  # with which the survey does not meet the peak by itself
        result = integrated(f, 5, n_calls=200_000, seed=seed, rtol=rtol, use_survey=use_survey, **start)
        assert_right(result, 1)
        assert not has_lost(result)
        assert f.n_points == result.n_calls <= 200_000
        assert [one.stage for one in result.history].count("regain") == 1

    def test_are_regained_with_few_calls_more(self, start):
        """Before the training of the only survey that they suffice for."""
        result = integrated(both, 5, n_calls=N_CALLS, **start)
        assert_right(result, 1)
        assert not has_lost(result)

    def test_that_the_first_look_has_met_are_not_forgotten(self):
        """The element-wise map loses the smaller of two peaks, and what it draws does not meet it again."""

        def f(x):
            of_one, of_other = ([0.3, 0.35, 0.3, 0.35], 0.05), ([0.72, 0.7, 0.75, 0.7], 0.045)
            return sum(
                share * narrow_at(x, np.array(centre), width * math.sqrt(2))
                for share, (centre, width) in ((0.8, of_one), (0.2, of_other))
            )

        result = integrated(f, 4, n_calls=40_000, seed=9)
        assert [one.stage for one in result.history].count("regain") == 1
        assert_right(result, 1, 0.01)

    def test_are_in_the_error_that_is_told(self, without_survey):
        result = without_survey
        scatter = math.sqrt(average([one for one in result.history if one.is_used])[1][0, 0])
        assert result.sdev == pytest.approx(math.hypot(scatter, result.lost * result.mean))
        assert abs(result.mean - 1) < 10 * result.sdev
        assert f"the error has {result.lost:.1%} of the integral" in result.summary()


class TestTolerance:
    @pytest.mark.parametrize(("rtol", "atol"), [(1e-2, 0), (1e-3, 0), (0, 1e-4), (1e-3, 1e-4)])
    def test_is_reached(self, rtol, atol):
        result = integrated(n_calls=300_000, rtol=rtol, atol=atol)
        assert_right(result)
        assert result.sdev <= max(atol, rtol * result.mean)
        assert result.n_calls < 150_000
        assert not result.warnings

    @pytest.mark.parametrize("n_calls", [FEWEST, 50_000])
    def test_that_is_not_reached_is_told(self, n_calls):
        result = integrated(n_calls=n_calls, rtol=1e-7)
        assert_right(result)
        assert result.sdev > 1e-7 * result.mean
        assert any("tolerance was not reached" in warning for warning in result.warnings)

    def test_training_that_does_not_help_is_given_up(self, monkeypatch):
        found = []

        def is_better(before, after):
            found.append(before)
            return True

        monkeypatch.setattr("varflow.integration.plan.is_better", is_better)
        result = integrated(n_calls=300_000, rtol=1e-4)
        assert len(found) == 2
        assert found[0] is found[1]  # the estimate of the flow that is kept
        assert_right(result)

    def test_holds_for_all_components(self):
        result = integrated(vector, n_calls=300_000, rtol=2e-3)
        assert (result.sdev <= 2e-3 * np.abs(result.mean)).all()

    @pytest.mark.parametrize(
        ("n_calls", "tolerance"),
        [
            *product([40_001], [{}, {"rtol": 1e-2}, {"rtol": 1e-9}, {"atol": 1e-12}]),
            (FEWEST, {"rtol": 1e-2}),
            (FEWEST + 1, {"rtol": 1e-9}),
            (21_847, {}),
            *if_slow(
                product([FEWEST, FEWEST + 1, 21_847], [{}, {"rtol": 1e-2}, {"rtol": 1e-9}, {"atol": 1e-12}])
            ),
        ],
    )
    def test_calls_are_never_exceeded(self, n_calls, tolerance):
        f = Counting()
        result = integrated(f, n_calls=n_calls, **tolerance)
        assert f.n_points == result.n_calls <= n_calls
        if tolerance != {"rtol": 1e-2}:
            assert result.n_calls > n_calls - 100

    @pytest.mark.parametrize("rtol", [0.0, 1e-9])
    def test_second_integration_has_calls_of_its_own(self, rtol):
        f = Counting()
        integrator, n_calls = make(f), 40_000
        for k in (1, 2, 3):
            result = integrator.integrate_to(n_calls, rtol)
            assert k * n_calls - 200 < f.n_points <= k * n_calls
            assert_right(result)

    @pytest.mark.parametrize("tolerance", [{}, {"rtol": 1e-3}])
    def test_signed_integral_of_zero_keeps_the_better_flow(self, tolerance):
        # Training helps by far, as no map follows a diagonal, and that the mean is zero does not hide it.
        def f(x):
            return np.sign(x[:, 0] - 0.5) * np.exp(-300 * (x[:, 0] - x[:, 1]) ** 2)

        for seed in (0, 1, 6):
            result = integrated(f, n_calls=LONGER, seed=seed, **tolerance)
            *_, last_look = (one for one in result.history if one.stage == "survey")
            assert result.ess > 0.8 * last_look.ess > 1.5 * 0.8 * result.history[0].ess


class TestSeconds:
    """Where decisions depend on measured costs, as they do to a tolerance unless `deterministic`."""

    @staticmethod
    def costing(monkeypatch, call, step):
        """Let each call and each step seem to cost so many seconds, whatever the clock says."""
        monkeypatch.setattr(costs, "SECONDS_A_PARAMETER", 0.0)
        monkeypatch.setattr(
            costs.Costs, "note_calls", lambda self, *_: vars(self).update(call=call, step=step)
        )
        monkeypatch.setattr(costs.Costs, "note_steps", lambda *_: None)
        monkeypatch.setattr(State, "seconds_of_survey", property(lambda self: self.n_calls * call))

    def trained(self, result):
        """Points that the flow was trained on, besides pilot runs."""
        return sum(one.n_calls for one in result.history if one.stage == "survey" and one.n_calls != LOOK)

    def test_where_f_is_cheap_a_map_is_enough(self, monkeypatch):
        self.costing(monkeypatch, 1e-7, 1.0)
        result = integrated(n_calls=10_000_000, rtol=1e-3, deterministic=False)
        assert self.trained(result) == 0
        assert_right(result)
        assert result.sdev <= 1e-3 * result.mean

    def test_where_f_is_dear_training_is_that_of_calls(self, monkeypatch):
        self.costing(monkeypatch, 1.0, 1e-6)
        results = [integrated(n_calls=300_000, rtol=1e-4, deterministic=is_det) for is_det in (False, True)]
        assert self.trained(results[0]) == self.trained(results[1]) > 0
        assert results[0].mean == results[1].mean

    def test_a_refinement_that_turns_out_too_long_is_left_for_training(self, monkeypatch):
        self.costing(monkeypatch, 1e-3, 1e-3)
        monkeypatch.setattr(plan, "_calls_missing", lambda *_: 1.0)  # as if the first look had seen little
        f = TestMap.ridge
        result = integrated(f, 3, n_calls=1_000_000, rtol=1e-3, deterministic=False)
        stages = [one.stage for one in result.history if one.stage != "scouts"]
        assert "survey" in stages[stages.index("refine") :]
        assert_right(result, math.sqrt(math.pi * 1e-4), 0.01)

    @pytest.mark.parametrize(("rtol", "n_calls"), [(1e-2, 40_000), (1e-3, 1_000_000), (1e-9, 60_000)])
    def test_by_the_clock_tolerance_and_calls_are_kept(self, rtol, n_calls):
        f = Counting()
        result = integrated(f, n_calls=n_calls, rtol=rtol, deterministic=False)
        assert f.n_points == result.n_calls <= n_calls
        assert_right(result)
        assert rtol == 1e-9 or result.sdev <= rtol * result.mean

    def test_without_a_tolerance_the_clock_does_not_matter(self):
        results = [integrated(deterministic=is_det) for is_det in (False, True)]
        assert results[0].flow.params.tobytes() == results[1].flow.params.tobytes()
        assert results[0].mean == results[1].mean

    def test_what_promises_bits_refuses_the_clock(self, tmp_path):
        with pytest.raises(ValueError, match="deterministic=False needs"):
            integrated(checkpoint=tmp_path / "run.ckpt", deterministic=False)
        with pytest.raises(TypeError, match="deterministic must be True or False"):
            integrated(deterministic=1.5)


class TestCallback:
    def test_sees_each_iteration_and_may_end_the_integration(self):
        seen = []

        def callback(result):
            seen.append(result)
            return len(seen) == 4

        f = Counting()
        result = integrated(f, callback=callback)
        assert [len(one.history) for one in seen] == [1, 2, 3, 4]
        assert all(isinstance(one, Result) for one in seen)
        assert_same(result, seen[-1])
        assert f.n_points == result.n_calls < N_CALLS

    def test_that_returns_nothing_changes_nothing(self):
        assert_same(integrated(callback=lambda result: None), shared())

    @pytest.mark.parametrize("rtol", [0.0, 1e-9])
    def test_may_end_few_calls(self, rtol):
        result = integrated(n_calls=2000, rtol=rtol, callback=lambda result: len(result.history) == 2)
        assert len(result.history) == 2


def on_diagonal(x):
    return np.abs(x[:, 0] - x[:, 1]) ** -0.5


def far_off(x):
    """A correlated normal density around (10.2, 25)."""
    y = x - [10.2, 25.0]
    return np.exp(-(y[:, 0] ** 2 - 1.8 * y[:, 0] * y[:, 1] + y[:, 1] ** 2) / 0.38) / (2 * math.pi * 0.19**0.5)


SINGULAR = {
    "root": (lambda x: x[:, 0] ** -0.5, 1, 2),
    "root at 1": (lambda x: (1 - x[:, 0]) ** -0.5, 1, 2),
    "log": (lambda x: np.log(x[:, 0]) / np.sqrt(x[:, 0]), 1, -4),
    "arcsines": (lambda x: np.prod((1 - x**2) ** -0.5, axis=1), [(-1, 1)] * 2, math.pi**2),
    "sinc": (lambda x: np.sin(x[:, 0]) / x[:, 0], [(0, 10)], 1.6583475942188740),
    "diagonal": (on_diagonal, 2, 8 / 3),
    "log of diagonal": (lambda x: np.log(np.abs(x[:, 0] - x[:, 1])), 2, -1.5),
    "centre": (lambda x: np.sum((x - 0.5) ** 2, axis=1) ** -0.5, 3, 2.3800774),
    "far off": (far_off, [(-INF, INF)] * 2, 1),
    "shifted": (lambda x: (x[:, 0] - 1e6) ** -0.5 * 1e3**0.5 / 2, [(1e6, 1e6 + 1e-3)], 1),
}


class TestSingularities:
    """f is infinite on faces, on diagonals and in the middle: where no point ever lies."""

    @pytest.mark.parametrize(
        ("name", "n_calls"),
        [(name, n_calls) for name in SINGULAR for n_calls in (1000, 50_000) if name != "diagonal"]
        # Weights have no variance there, and errors scatter by a factor of ten.
        + [("diagonal", 1000), ("diagonal", 400_000)],
    )
    def test_are_integrated(self, name, n_calls):
        f, bounds, exact = SINGULAR[name]
        result = integrated(f, bounds, n_calls=n_calls, threads=1)
        if n_calls == 1000 and any("one point carries" in warning for warning in result.warnings):
            return
        assert abs(result.mean - exact) < 5 * result.sdev
        assert result.sdev < (0.1 if n_calls == 1000 else 0.01) * abs(exact)

    def test_walkers_do_not_hit_them(self):
        def f(x):
            assert ((x > 0) & (x < 1)).all()
            assert (x * 32 % 1 != 0).all()
            assert (x[:, 0] != x[:, 1]).all()
            return np.where(x[:, 0] > 0.999, 1.0, 1e-9)

        for strategy in ("replay", "flat", "forward", "adaptive_variance"):
            make(f, 3, survey_strategy=strategy, n_iter=2, n_points=40_000).integrate()


class TestFewCalls:
    """Integrals with fewer calls than a survey by replay needs."""

    @pytest.mark.parametrize(
        ("n_calls", "tolerance"),
        [
            *product([100, 399, 400], [{}, {"rtol": 1e-9}, {"atol": 1e-3}]),
            (1000, {}),
            (5001, {"rtol": 1e-9}),
            (FEWEST - 1, {"atol": 1e-3}),
            *if_slow(product([1000, 5001, FEWEST - 1], [{}, {"rtol": 1e-9}, {"atol": 1e-3}])),
        ],
    )
    def test_calls_are_never_exceeded(self, n_calls, tolerance):
        f = Counting()
        result = integrated(f, n_calls=n_calls, **tolerance)
        assert f.n_points == result.n_calls <= n_calls
        if "atol" not in tolerance:
            assert result.n_calls > 0.95 * n_calls - 32
        assert_right(result)

    @pytest.mark.parametrize(
        ("f", "bounds", "exact"),
        [
            (lambda x: np.prod(2 * x, axis=1), 5, 1),
            (lambda x: np.exp(-x[:, 0] - x[:, 1]), [(0, INF)] * 2, 1),
            (normal, [(-INF, INF)] * 2, 1),
            (wave, 2, OF_WAVE),
            (lambda x: narrow_at(x, 0.4, 0.1), 4, 1),
        ],
        ids=["cube", "halves", "plane", "signed", "narrow"],
    )
    def test_a_flow_is_learnt(self, f, bounds, exact):
        result = integrated(f, bounds, n_calls=3000)
        assert_right(result, exact, 0.02)
        domain = vf.Domain(bounds)
        x, log_jacobian = domain.from_cube(np.random.default_rng(1).random((3000, domain.d)))
        plain = (f(x) * np.exp(log_jacobian)).std() / math.sqrt(3000)
        assert result.sdev < 0.4 * plain

    def test_errors_at_a_singularity_are_honest(self):
        """By their scatter alone, estimates would be two errors off in the mean of squares."""
        results = [integrated(lambda x: x[:, 0] ** -0.5, 1, 3000, seed) for seed in range(5)]
        pulls = np.array([(result.mean - 2) / result.sdev for result in results])
        assert np.sqrt(np.mean(pulls**2)) < 1.5
        assert max(result.sdev for result in results) < 0.1

    @pytest.mark.parametrize("n_calls", [300, 400, 1001, pytest.param(5001, marks=pytest.mark.slow)])
    def test_calls_are_never_exceeded_on_the_way_to_a_narrow_peak(self, n_calls):
        f = Counting(lambda x: narrow_at(x, 0.4, 0.02))
        assert integrated(f, 3, n_calls=n_calls).n_calls == f.n_points <= n_calls
        f = Counting(lambda x: narrow_at(x, 0.4, 0.02))
        make(f, 3, n_iter=1, n_points=n_calls).survey()
        assert 0.5 * n_calls < f.n_points <= n_calls

    def test_fewest_are_one_sobol_set(self):
        """Errors are those of Sobol points on the cube, and smaller than told."""
        errors = [integrated(n_calls=200, seed=seed) for seed in range(10)]
        rms = np.sqrt(np.mean([(one.mean - EXACT) ** 2 for one in errors]))
        plain = np.sqrt(np.var(peak(np.random.default_rng(1).random((10_000, 2)))) / 200)
        assert rms < 0.5 * plain

    def test_a_flow_that_is_given_is_used(self):
        flow = shared().flow
        result = integrated(n_calls=200, flow=flow, flow_options=None)
        assert result.sdev < 0.4 * integrated(n_calls=200).sdev
        np.testing.assert_array_equal(result.flow.params, flow.params)

    def test_zero_and_a_few_values_that_are_not(self):
        result = integrated(lambda x: np.zeros(len(x)), n_calls=1000)
        assert (result.mean, result.sdev) == (0, INF)
        assert "f was zero at all" in result.warnings[0]
        rare = integrated(lambda x: (x[:, 0] > 0.99) * 1.0, n_calls=1000)
        assert abs(rare.mean - 0.01) < 5 * rare.sdev

    def test_by_hand(self):
        integrator = make(n_iter_survey=1, n_points_survey=1000, n_iter_refine=2, n_points_refine=500)
        result = integrator.integrate()
        assert_right(result)
        assert result.n_calls <= 2000
        assert_right(integrator.extend(500))


class TestWarnings:
    def test_a_good_result_has_none(self):
        assert shared().warnings == ()

    @pytest.mark.parametrize("n_calls", [2000, N_CALLS])
    def test_weights_with_a_heavy_tail(self, n_calls):
        """An integrand without a finite variance, and one without an integral."""
        for f in (lambda x: np.prod(x**-0.9, axis=1), lambda x: x[:, 0] ** -1.1 * x[:, 1] ** -0.9):
            result = integrated(f, 3, n_calls=n_calls)
            assert result.k > 0.7
            assert any("Pareto distribution of shape k" in warning for warning in result.warnings)

    def test_training_steps_that_are_left_out(self, monkeypatch):
        compute, calls = Objective.gradient, []

        def gradient(self, rows, buffers):
            value, dparams = compute(self, rows, buffers)
            calls.append(value)
            return (math.nan if len(calls) in (3, 20) else value), dparams

        monkeypatch.setattr(Objective, "gradient", gradient)
        assert "2 training steps were left out, as their gradients were not finite" in integrated().warnings

    def test_one_point_that_outweighs_all(self):
        def f(x):
            values = np.ones(len(x))
            values[17] = 1e6
            return values

        integrator = make(f)
        integrator.refine()
        assert any(warning.startswith("one point carries") for warning in integrator.result().warnings)

    def test_values_that_are_not_finite_are_counted(self):
        n_bad = []

        def f(x):
            is_bad = x[:, 0] > 0.9
            n_bad.append(np.count_nonzero(is_bad))
            return np.where(is_bad, np.nan, peak(x))

        result = integrated(f, on_invalid="zero")
        assert result.n_invalid == sum(n_bad) > 0
        assert any(f"not finite at {sum(n_bad)} points" in warning for warning in result.warnings)
        assert abs(result.mean - EXACT) < 5 * result.sdev + 1e-4

    def test_iterations_that_disagree(self):
        f = Counting(lambda x: np.full(len(x), 1.0))
        integrator = make(lambda x: f(x) * (1 + f.n_calls) + 0.01 * x[:, 0])
        integrator.refine()
        assert any("disagree" in warning for warning in integrator.result().warnings)


def n_calls_in_all():
    """How often f is called by `make(f).integrate()`."""
    f = Counting()
    make(f).integrate()
    return f.n_calls


class TestTrouble:
    @pytest.mark.parametrize(
        ("k", "kind"),
        [*product([1, 2, 3, 12, 30, -1], [KeyError]), *product([1, 12], [KeyboardInterrupt]),
         *if_slow(product([2, 3, 30, -1], [KeyboardInterrupt]))],
    )  # fmt: skip
    def test_what_f_raises_comes_with_what_was_reached(self, k, kind):
        k, error = (n_calls_in_all() if k == -1 else k), kind("mine")
        f = Counting(bad=[k], error=error)
        integrator = make(f)
        with pytest.raises(kind) as caught:
            integrator.integrate()
        assert caught.value is error
        partial = error.partial
        if isinstance(error, Exception):
            assert error.x.shape[1] == 2
        if k == 1:
            assert partial is None
        else:
            assert isinstance(partial, Result)
            assert_right(partial)
            assert partial.n_calls <= f.n_points
            assert partial.history
        assert_right(integrator.integrate())
        assert_right(integrator.extend(4096))

    @pytest.mark.parametrize("k", [1, 2, 12, 25])
    @pytest.mark.parametrize("rtol", [0, 1e-6])
    def test_integration_can_be_begun_again(self, k, rtol):
        f = Counting(bad=[k], error=KeyError("mine"))
        integrator = make(f)
        with pytest.raises(KeyError):
            integrator.integrate_to(N_CALLS, rtol)
        result = integrator.integrate_to(N_CALLS, rtol)
        assert_right(result)
        assert f.n_points <= 2 * N_CALLS

    @pytest.mark.parametrize("strategy", ["flat", "forward"])
    @pytest.mark.parametrize("k", [1, 2])
    def test_other_strategies(self, strategy, k):
        f = Counting(bad=[k], error=KeyError("mine"))
        integrator = make(f, survey_strategy=strategy, trainer_options={"n_epochs": 2})
        with pytest.raises(KeyError) as caught:
            integrator.integrate()
        assert (caught.value.partial is None) == (k == 1)
        assert_right(integrator.integrate())

    def test_extension_that_fails_keeps_what_there_was(self):
        f = Counting()
        integrator = make(f)
        result = integrator.integrate()
        f.bad, f.error = [f.n_calls + 1], KeyError("mine")
        with pytest.raises(KeyError) as caught:
            result.extend(10_000)
        assert_same(caught.value.partial, result)

    @pytest.mark.parametrize("k", [1, 2, 12])
    def test_nan(self, k):
        f = Counting()
        with pytest.raises(InvalidIntegrandError, match="f is nan at x") as caught:
            integrated(lambda x: np.where((f.n_calls >= k - 1) & (x[:, 0] > 0.7), np.nan, f(x)))
        assert caught.value.x.shape == (2,)
        assert caught.value.x[0] > 0.7
        if k == 1:
            assert caught.value.partial is None
        else:
            assert_right(caught.value.partial)

    def test_wrong_shape(self):
        with pytest.raises(ValueError, match="must return an array of shape") as caught:
            integrated(lambda x: x[:5, 0])
        assert caught.value.partial is None

    def test_exceptions_of_workers(self):
        with ThreadPoolExecutor(2) as pool, pytest.raises(KeyError) as caught:
            integrated(Counting(bad=[30], error=KeyError("mine")), workers=pool.map)
        assert_right(caught.value.partial)


class TestSample:
    @pytest.mark.parametrize(
        ("f", "bounds", "exact"),
        [
            (peak, 2, EXACT),
            (wave, 2, OF_WAVE),
            (normal, PLANE, 1),
            (vector, 2, [EXACT, 1, EXACT]),
        ],
        ids=["cube", "signed", "plane", "vector"],
    )
    def test_mean_of_the_weights_is_the_integral(self, f, bounds, exact):
        x, weights = shared(f, bounds).sample(20_000, seed=3)
        assert x.shape == (20_000, 2)
        assert np.isfinite(x).all()
        assert weights.shape == (20_000, *np.shape(exact))
        assert (np.abs(weights.mean(axis=0) - exact) < 5 * weights.std(axis=0) / math.sqrt(20_000)).all()
        np.testing.assert_array_equal(np.sign(weights), np.sign(f(x)))

    def test_points_are_in_the_box(self):
        bounds = np.array([(-1, 2), (5, 5.5)])
        x, _ = integrated(lambda x: x[:, 0] ** 2, bounds).sample(5000, seed=3)
        assert ((x >= bounds[:, 0]) & (x <= bounds[:, 1])).all()

    def test_order_is_random(self):
        x, _ = shared().sample(40_000, seed=3)
        is_far = np.abs(x - 0.4).max(axis=1) > 0.5  # where only the uniform share has points
        assert is_far.sum() > 50
        assert stats.ks_2samp(np.flatnonzero(is_far), np.flatnonzero(~is_far)).pvalue > 1e-3

    def test_seed(self):
        result = shared()
        for unweight in (False, True):
            one, same, other = (result.sample(500, unweight=unweight, seed=seed) for seed in (3, 3, 4))
            np.testing.assert_array_equal(one[0], same[0])
            np.testing.assert_array_equal(one[1], same[1])
            assert not np.array_equal(one[0], other[0])

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_few(self, n):
        x, weights = shared().sample(n, seed=3)
        assert (x.shape, weights.shape) == ((n, 2), (n,))

    def test_does_not_change_the_result(self):
        integrator = make()
        result = integrator.integrate()
        integrator.sample(1000, seed=3)
        assert_same(integrator.result(), result)

    @pytest.mark.parametrize("strategy", ["replay", "none"])
    def test_unweighted_points_follow_f(self, strategy):
        integrator = make()
        if strategy == "replay":
            integrator.survey()
        x, weights = integrator.sample(20_000, unweight=True, seed=3)
        assert x.shape == (20_000, 2)
        assert weights.min() == 1
        assert np.mean(weights > 1) < 0.02
        edges = np.linspace(0, 1, 11)
        cumulative = [one_side() - one_side_above(edge) for edge in edges]
        expected = np.diff(cumulative) / one_side()
        for column in x.T:
            counts, _ = np.histogram(column, edges, weights=weights)
            deviations = (counts - weights.sum() * expected) ** 2 / (weights.sum() * expected)
            assert stats.chi2.sf(deviations.sum(), 9) > 1e-3

    def test_unweighted_points_have_the_sign_of_f(self):
        x, weights = shared(wave).sample(20_000, unweight=True, seed=3)
        np.testing.assert_array_equal(np.sign(weights), np.sign(wave(x)))
        of_size = np.abs(wave(np.random.default_rng(1).random((400_000, 2)))).mean()
        assert weights.mean() == pytest.approx(OF_WAVE / of_size, abs=5 / math.sqrt(20_000))

    def test_single_unweighted_points_follow_f_as_well(self):
        integrator = make(lambda x: 2 * x[:, 0])
        x = np.array([integrator.sample(1, unweight=True, seed=seed)[0][0, 0] for seed in range(400)])
        assert abs(x.mean() - 2 / 3) < 5 * x.std() / 20

    def test_nothing_to_unweight(self):
        with pytest.raises(ValueError, match="zero at nearly all"):
            make(lambda x: np.zeros(len(x))).sample(100, unweight=True)

    @pytest.mark.parametrize("n", [0, -1, 1.5, True])
    def test_wrong_number(self, n):
        with pytest.raises((TypeError, ValueError), match=r"\bn must"):
            make().sample(n)


def one_side_above(edge, width=30, center=0.4):
    """Integral of the peak's factor from the edge to 1."""
    root = math.sqrt(width)
    return math.sqrt(math.pi) / 2 / root * (math.erf(root * (1 - center)) - math.erf(root * (edge - center)))


class TestTalking:
    def test_bar(self, capsys):
        integrated(progress=True)
        out, err = capsys.readouterr()
        assert out == ""
        assert "call" in err
        assert "%" in err

    def test_bar_is_ended_by_an_exception(self, capsys):
        with pytest.raises(KeyError):
            integrated(Counting(bad=[3], error=KeyError()), progress=True)
        assert capsys.readouterr().err.endswith(("\r", "\n"))

    @pytest.mark.parametrize("progress", [False, None])  # stderr is no terminal here
    def test_no_bar(self, capsys, progress):
        integrated(progress=progress)
        assert capsys.readouterr() == ("", "")

    def test_log(self, caplog):
        with caplog.at_level(logging.INFO, "varflow"):
            result = integrated()
        lines = [record.getMessage() for record in caplog.records]
        assert sum(line.startswith("survey: ") for line in lines) >= 3
        assert sum(line.startswith("refine: ") for line in lines) == 2
        assert f"{result.n_calls} calls" in lines[-1]

    def test_log_of_other_strategies(self, caplog):
        with caplog.at_level(logging.INFO, "varflow"):
            make(survey_strategy="flat", n_points=2000).integrate()
        assert sum(record.getMessage().startswith("survey: ") for record in caplog.records) == 2

    def test_nothing_is_logged_above_info(self, caplog):
        integrated()
        assert not [record for record in caplog.records if record.levelno > logging.INFO]


class TestResult:
    @pytest.mark.parametrize("f", [peak, vector, mixed])
    def test_files(self, f, tmp_path):
        bounds = [(0, 1), (0, INF)] if f is peak else [(0, 1), (-1, 2)]
        result = integrated(f, bounds)
        result.save(tmp_path / "result.npz")
        loaded = Result.load(tmp_path / "result.npz")
        assert_same(loaded, result)
        for name in ("sdev", "chi2", "dof", "Q", "warnings", "bounds", "n_invalid", "defensive_share"):
            np.testing.assert_equal(getattr(loaded, name), getattr(result, name))
        assert str(loaded) == str(result)
        assert loaded.summary() == result.summary()
        with pytest.raises(
            RuntimeError, match="has no integrand: call the method extend of its Run, or make Integrator"
        ):
            loaded.extend(1000)
        points, log_q = loaded.sample(2000, seed=5)
        expected, weights = result.sample(2000, seed=5)
        np.testing.assert_array_equal(points, expected)
        first, w = (part["peak"] if isinstance(part, dict) else part for part in (f(points), weights))
        np.testing.assert_allclose(
            np.reshape(first, (2000, -1))[:, 0] * np.exp(-log_q),
            np.reshape(w, (2000, -1))[:, 0],
            rtol=1e-9,
            atol=1e-300,
        )
        again = make(f, loaded.bounds, flow=loaded.flow, flow_options=None)
        again.refine()
        assert again.result().ess > 0.8 * result.ess

    def test_text(self):
        result = shared()
        assert str(result).startswith("0.10")
        n_lines = len(result.history) + 2
        lines, remarks = (
            result.summary().splitlines()[part] for part in (slice(n_lines), slice(n_lines, None))
        )
        *others, shape, missed = remarks
        assert f"the error is that of Student's t with {result.error_dof:.0f} degrees of freedom" in others
        assert all(one.startswith("the error ") for one in others)
        assert shape == f"Pareto shape of the weights: k = {result.k:.2f}"
        assert missed.startswith(f"a region that fills less than {result.resolution:.2g} of the box may")
        assert lines[0].split()[:3] == ["itn", "stage", "integral"]
        assert lines[-1].startswith("total") or lines[-1].split()[0] == "total"
        assert f"{result.n_calls:,}" in lines[-1]

    def test_history_adds_up(self):
        integrator = make()
        result = integrator.integrate()
        assert result.n_calls == integrator.integrand.n_calls
        assert all(iteration.seconds >= 0 for iteration in result.history)
        assert result.dof == sum(one.is_used for one in result.history) - 1
        assert 1e-4 < result.Q <= 1

    def test_resolution_counts_points_that_looked_everywhere(self):
        """The first look, and the uniform shares after it; not the walkers, which climb."""
        result = shared()
        n_uniform = math.log(0.05) / math.log1p(-result.resolution)
        assert [one.n_calls for one in result.history if one.stage != "scouts"][:3] == [4096, 13 * 1024, 4096]
        # All of the first look and of the first round, whose flow is still uniform; 3 % of the other rounds;
        # of the second look and of two iterations, 1 % of each of 16 scrambles.
        assert n_uniform == pytest.approx(4096 + 1024 + 12 * 31 + 3 * 16 * 3)

    def test_context_manager_ends_the_workers(self):
        with make(workers=2) as integrator:
            assert_right(integrator.extend(4096))
            integrator.sample(100)
        assert_right(integrator.extend(4096))
        integrator.close()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"survey_strategy": "repaly"}, "survey_strategy .*'repaly'; did you mean 'replay'"),
            ({"loss": "varience"}, "loss .*did you mean 'variance'"),
            ({"loss": []}, "loss"),
            ({"latent_points": "sobel"}, "latent_points .*did you mean 'sobol'"),
            ({"latent_points": None}, "latent_points"),
            ({"on_invalid": "zeros"}, "on_invalid .*did you mean 'zero'"),
            ({"flow": "pwqaud"}, "did you mean 'pwquad'"),
            ({"flow": 3}, "^flow must be"),
            ({"flow": None}, "^flow must be"),
            (
                {"flow": Flow(3, seed=1), "flow_options": None},
                "d is 2, but the flow has d = 3",
            ),
            ({"flow": Flow(2, seed=1)}, "^flow_options are for"),
            ({"flow": Flow(2, bounds=(0, 2)), "flow_options": None}, "unit cube"),
            ({"flow_options": {"n_bin": 3}}, "'n_bin'"),
            ({"flow_options": {"n_bins": 0}}, "n_bins"),
            ({"flow_options": 3}, "flow_options"),
            ({"trainer_options": {"n_epoch": 3}}, "'n_epoch'; did you mean 'n_epochs'"),
            ({"trainer_options": 3}, "trainer_options"),
            ({"n_iter": 0}, "n_iter"),
            ({"n_points": 0}, "n_points"),
            ({"n_points": 1.5}, "n_points"),
            ({"n_iter_survey": -1}, "n_iter_survey"),
            ({"n_points_survey": 0.5}, "n_points_survey"),
            ({"n_iter_refine": True}, "n_iter_refine"),
            ({"n_iter_survey": 0}, "n_iter_survey"),
            ({"n_points_refine": 0}, "n_points_refine"),
            ({"n_points_refine": 31}, "n_points_refine must be at least 32, got 31"),
            ({"survey_strategy": "fixed_sample"}, "^sample is for"),
            ({"sample": sample_of_peak()}, "^sample is for"),
            ({"survey_strategy": "fixed_sample", "sample": 3}, "sample"),
            ({"survey_strategy": "fixed_sample", "sample": [1, 2, 3]}, "sample"),
            ({"survey_strategy": "fixed_sample", "sample": sample_of_peak()[:2]}, "fx"),
            (
                {"survey_strategy": "fixed_sample", "sample": sample_of_peak(bounds=[(0, 2)] * 2)},
                "x must lie",
            ),
            ({"seed": -1}, "seed"),
            ({"seed": 1.5}, "seed"),
            ({"threads": 0}, "threads"),
            ({"workers": 0}, "workers"),
            ({"workers": "two"}, "workers"),
            ({"n_pionts": 3}, "n_pionts"),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
    )
    def test_options(self, options, match):
        with pytest.raises((TypeError, ValueError), match=match):
            make(**options)

    @pytest.mark.parametrize(
        ("f", "bounds", "match"),
        [
            (3, 2, "^f must be callable"),
            (peak, 0, "bounds"),
            (peak, "two", "bounds"),
            (peak, [(1, 0)], "lower must be below upper"),
            (peak, [(0, math.nan)], "NaN"),
            (peak, (0, 1), "bounds"),
        ],
    )
    def test_function_and_bounds(self, f, bounds, match):
        with pytest.raises((TypeError, ValueError), match=match):
            make(f, bounds)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"n_calls": 99}, "n_calls must be at least 100, got 99"),
            ({"n_calls": 0}, "n_calls"),
            ({"n_calls": 1e5}, "n_calls"),
            ({"n_calls": N_CALLS, "rtol": -1e-3}, "rtol must be at least 0"),
            ({"n_calls": N_CALLS, "atol": math.nan}, "atol must be at least 0"),
            ({"n_calls": N_CALLS, "rtol": INF}, "rtol"),
            ({"n_calls": N_CALLS, "rtol": "small"}, "rtol"),
            ({"n_calls": N_CALLS, "atol": None}, "atol"),
        ],
    )
    def test_tolerances(self, arguments, match):
        f = Counting()
        with pytest.raises((TypeError, ValueError), match=match):
            make(f).integrate_to(**arguments)
        with pytest.raises((TypeError, ValueError), match=match):
            integrated(f, **arguments)
        assert f.n_calls == 0

    @pytest.mark.parametrize("n_calls", [0, 31, 1e3, True])
    def test_extension(self, n_calls):
        with pytest.raises((TypeError, ValueError), match="n_calls"):
            make().extend(n_calls)

    def test_survey_that_is_too_short(self):
        with pytest.raises(ValueError, match=r"needs \d+ calls at least"):
            make(n_points_survey=49).survey()

    @pytest.mark.parametrize("name", ["nitn", "neval"])
    def test_names_of_vegas(self, name):
        with pytest.raises(TypeError, match=f"integrate has no {name}: give n_calls, which is nitn . neval"):
            integrated(**{name: 10})

    def test_callbacks(self):
        with pytest.raises(TypeError, match="callback must be callable, got 3"):
            make(callback=3)

    def test_strategy_that_has_no_tolerance(self):
        with pytest.raises(ValueError, match="survey_strategy"):
            integrated(survey_strategy="flat")
