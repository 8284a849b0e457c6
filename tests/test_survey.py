"""The survey: points are kept, flows learn from them, and the units of f do not matter."""

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from varflow import Flow
from varflow.integration.estimates import Evaluated, magnitudes
from varflow.integration.proposal import draw
from varflow.integration.state import State
from varflow.integration.steps import Stage
from varflow.integration.survey import (
    MIN_STEPS,
    ROUND,
    STEPS,
    STRATEGIES,
    Memory,
    Replay,
    choose_points,
    stage_optimiser,
)
from varflow.testing import normal_params
from varflow.training.objective import Objective

CHOOSING = [name for name in STRATEGIES if name not in ("replay", "fixed_sample")]


def gaussian(u):
    return np.exp(-50 * ((u - 0.4) ** 2).sum(axis=1))[:, None]


def make_flow(d=2, **options):
    return Flow(d, **{"cell": "pwquad", "n_bins": 8, "d_hidden": 8, "n_hidden": 1, "seed": 1} | options)


def random_flow(spread=1.0, seed=1):
    flow = make_flow(n_bins=4)
    flow.params = normal_params(flow.architecture, spread, np.random.default_rng(seed))
    return flow


def make_replay(seed=1, loss="variance", flow=None):
    flow = make_flow() if flow is None else flow
    return Replay(flow, Memory(flow.d), np.random.Generator(np.random.Philox(seed)), loss)


def go_through(replay, f=gaussian, n_rounds=10, share_of_dkl=0.5):
    """Take the rounds of a stage, and yield the points of each and f there."""
    optim = stage_optimiser()
    for k in range(n_rounds):
        points = replay.draw()
        values = f(points.u)
        replay.memory.add(points.u, Evaluated.of(values).log_f, points.log_q)
        replay.train(optim, k, n_rounds, share_of_dkl, len(points.u), Stage(n_rounds, share_of_dkl).n_steps)
        yield points, values


def staged(f=gaussian, n_rounds=10, seed=1, loss="variance", **flow_options):
    """The replay after one stage."""
    replay = make_replay(seed, loss, make_flow(**flow_options))
    for _ in go_through(replay, f, n_rounds):
        pass
    return replay


@cache
def params_of_the_unit(loss):
    """What is learnt of f in its own unit."""
    return staged(loss=loss, dtype="float64").flow.params


def relative_variance(flow, f=gaussian):
    u, log_q = flow.sample(20_000, seed=3)
    weights = f(u)[:, 0] / np.exp(log_q)
    return weights.var() / weights.mean() ** 2


def parts(*sizes, seed=1):
    """Points of several calls of `Memory.add`: u, |f| and log q of each."""
    rng = np.random.default_rng(seed)
    return [(rng.random((n, 2)), rng.uniform(0.5, 2, n), rng.normal(size=n)) for n in sizes]


def add(memory, u, f, log_q):
    memory.add(u, Evaluated.of(f[:, None]).log_f, log_q)


def remembered(*several):
    memory = Memory(2)
    for part in several:
        add(memory, *part)
    return memory


class TestMemory:
    @pytest.mark.parametrize(
        "sizes", [(5,), (ROUND,), (1, ROUND), (700, 700, 3), (10, 9 * ROUND, 1), (3, 0, 4)]
    )
    def test_grows_and_keeps_all_points(self, sizes):
        several = parts(*sizes)
        memory = remembered(*several)
        assert memory.n == sum(sizes)
        u, f, log_q = (np.concatenate(arrays) for arrays in zip(*several, strict=True))
        for first in (0, 2, memory.n - 1):
            expected = np.log(np.mean(f[first:] / np.exp(log_q[first:])))
            assert memory.log_mean(first) == pytest.approx(expected, abs=1e-12)
        flow, rows = random_flow(), np.arange(memory.n)
        of_flow = flow.log_prob(u)
        dkl, variance = (memory.objective(flow, rows, loss, 0.3).value(rows) for loss in ("dkl", "variance"))
        unit = math.exp(0.3)
        assert dkl == pytest.approx(np.mean(-f / unit / np.exp(log_q) * of_flow), rel=1e-5, abs=1e-5)
        assert variance == pytest.approx(np.mean((f / unit) ** 2 / np.exp(log_q + of_flow)), rel=1e-5)

    @pytest.mark.parametrize("power", [0.01, 0.5, 1.0])
    def test_tempered_weights_are_a_power_of_weights(self, power):
        ((u, f, log_q),) = parts(50)
        memory, flow, rows = remembered((u, f, log_q)), random_flow(), np.arange(50)
        weights, of_flow = (f / np.exp(log_q)) ** power, flow.log_prob(u)
        log_mean = memory.log_mean(0, power)
        assert log_mean == pytest.approx(np.log(weights.mean()), abs=1e-12)
        weights /= weights.mean()
        dkl, variance = (
            memory.objective(flow, rows, loss, log_mean, power).value(rows) for loss in ("dkl", "variance")
        )
        assert dkl == pytest.approx(np.mean(-weights * of_flow), rel=1e-5, abs=1e-5)
        assert variance == pytest.approx(np.mean(weights**2 * np.exp(log_q - of_flow)), rel=1e-5)

    def test_keeps_what_it_is_told_to(self):
        several = parts(700, 2 * ROUND, 5)
        memory = remembered(*several)
        memory.keep(memory.latest(2 * ROUND + 5))
        expected = remembered(*several[1:])
        assert memory.n == expected.n
        np.testing.assert_array_equal(memory.u, expected.u)
        memory.keep(slice(2 * ROUND))
        add(memory, *several[0])
        expected = remembered(several[1], several[0])
        np.testing.assert_array_equal(memory.u, expected.u)
        np.testing.assert_array_equal(
            memory.log_weights(memory.latest(900)), expected.log_weights(expected.latest(900))
        )

    @pytest.mark.parametrize("shift", [-600, 600])
    def test_log_mean_is_finite_where_weights_are_not(self, shift):
        ((u, f, log_q),) = parts(50)
        found = remembered((u, f, log_q + 2 * shift)).log_mean(0)
        assert found == pytest.approx(np.log(np.mean(f / np.exp(log_q))) - 2 * shift, abs=1e-9)

    def test_points_where_f_is_zero_count(self):
        ((u, f, log_q),) = parts(50)
        f[::2] = 0
        assert remembered((u, f, log_q)).log_mean(0) == pytest.approx(np.log(np.mean(f / np.exp(log_q))))

    def test_log_mean_where_f_is_zero_everywhere(self):
        ((u, f, log_q),) = parts(50)
        assert remembered((u, 0 * f, log_q)).log_mean(0) == -math.inf
        assert Memory(2).log_mean(0) == -math.inf

    @pytest.mark.parametrize("loss", ["variance", "dkl"])
    def test_tells_which_density_is_better(self, loss):
        u = np.random.default_rng(1).random((4000, 2))
        flow = random_flow()
        of_flow = np.exp(flow.log_prob(u))
        for f, is_uniform_better in ((of_flow, False), (np.ones(4000), True), (np.zeros(4000), True)):
            memory = remembered((u, f, np.zeros(4000)))
            assert memory.is_uniform_better(flow, 4000, loss) == is_uniform_better

    def test_looks_at_the_last_points_only(self):
        u = np.random.default_rng(1).random((4000, 2))
        flow = random_flow()
        memory = remembered((u, np.ones(4000), np.zeros(4000)), (u, np.exp(flow.log_prob(u)), np.zeros(4000)))
        assert not memory.is_uniform_better(flow, 4000, "dkl")
        add(memory, u, np.ones(4000), np.zeros(4000))
        assert memory.is_uniform_better(flow, 4000, "dkl")


class TestMagnitudes:
    def test_are_the_norm_of_the_components(self):
        np.testing.assert_array_equal(magnitudes(np.array([[-2.0], [0.0], [3.0]])), [2, 0, 3])
        np.testing.assert_allclose(magnitudes(np.array([[3.0, -4.0], [0.0, 0.0]])), [5, 0])


class TestStage:
    def test_reduces_the_variance_of_a_gaussian(self):
        for loss in ("variance", "dkl"):
            assert relative_variance(staged(n_rounds=30, loss=loss).flow) < 0.1 * relative_variance(
                make_flow()
            )

    def test_finds_a_peak_that_no_point_is_near_at_first(self):
        def narrow(u):
            return np.exp(-((u - 0.4) ** 2).sum(axis=1) / 1e-3)[:, None]

        replay = staged(narrow, n_rounds=60, d=5)
        share = math.sqrt(math.pi * 1e-3 / 2) ** 5  # effective share of uniform points: 1e-7
        assert share * 60 * ROUND < 0.01
        assert relative_variance(replay.flow, narrow) < 1

    def test_next_stage_goes_on(self):
        replay = staged(n_rounds=15)
        before = relative_variance(replay.flow)
        for _ in go_through(replay, n_rounds=30, share_of_dkl=0.25):
            pass
        assert replay.memory.n == 45 * ROUND
        assert relative_variance(replay.flow) < before

    def test_points_of_each_round_are_unbiased(self):
        replay = make_replay()
        estimates = []
        for points, values in go_through(replay):
            assert points.u.shape == (ROUND, 2)
            assert 0.01 < points.uniform_share < 0.05
            estimates.append(values[:, 0] / np.exp(points.log_q))
        assert replay.memory.n == 10 * ROUND
        # Each round's flow is older than its points: all of them are unbiased.
        means, errors = np.mean(estimates, axis=1), np.std(estimates, axis=1) / math.sqrt(ROUND)
        assert (np.abs(means - math.pi / 50 * 0.99997) < 4.5 * errors).all()

    def test_same_seed_same_bits_on_any_number_of_threads(self):
        one, again, two = (staged(threads=threads).flow.params for threads in (1, 1, 2))
        np.testing.assert_array_equal(again, one)
        np.testing.assert_array_equal(two, one)
        assert not np.array_equal(staged(seed=2).flow.params, one)

    @pytest.mark.parametrize("loss", ["variance", "dkl"])
    @pytest.mark.parametrize("unit", [1e-100, 1e100, -1.0, 2.0**300])
    def test_units_of_f_change_rounding_only(self, loss, unit):
        found = staged(lambda u: unit * gaussian(u), loss=loss, dtype="float64").flow.params
        expected = params_of_the_unit(loss)
        assert np.abs(expected - make_flow(dtype="float64").params).max() > 0.01
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("loss", ["variance", "dkl"])
    def test_zeros_of_f_are_no_trouble(self, loss):
        def half(u):
            return (u[:, :1] > 0.5) * 1.0

        replay = staged(half, n_rounds=30, loss=loss)
        assert replay.n_skipped == 0
        assert np.isfinite(replay.flow.params).all()
        assert relative_variance(replay.flow, half) < 0.6 * relative_variance(make_flow(), half)

    def test_where_f_is_zero_nothing_is_learnt(self):
        replay = staged(lambda u: np.zeros((len(u), 1)))
        np.testing.assert_array_equal(replay.flow.params, make_flow().params)
        assert replay.n_skipped == 0
        assert replay.memory.n == 10 * ROUND

    def test_learning_starts_with_the_first_point_where_f_is_not_zero(self):
        calls = []

        def f(u):
            calls.append(u)
            return gaussian(u) * (len(calls) > 5)

        replay = staged(f)
        assert replay.n_skipped == 0
        assert not np.array_equal(replay.flow.params, make_flow().params)
        assert np.isfinite(replay.flow.params).all()

    @pytest.mark.parametrize("fails_in", ["value", "gradient"])
    def test_steps_without_a_finite_gradient_are_left_out_and_counted(self, monkeypatch, fails_in):
        compute, calls = Objective.gradient, []

        def gradient(self, rows, buffers):
            value, dparams = compute(self, rows, buffers)
            calls.append(value)
            if len(calls) in (3, 20, 21):
                if fails_in == "value":
                    return math.nan, dparams
                dparams[0, 0] = math.inf
            return value, dparams

        monkeypatch.setattr(Objective, "gradient", gradient)
        replay = staged()
        assert len(calls) == MIN_STEPS > 10 * STEPS
        assert replay.n_skipped == 3
        assert np.isfinite(replay.flow.params).all()
        assert relative_variance(replay.flow) < relative_variance(make_flow())


def test_arrays_of_a_memory_stay_what_they_are():
    """A step that an exception ends goes back to them."""
    memory = memory_of(lambda u: gaussian(u)[:, 0])
    kept = memory.arrays()
    expected = {name: array.copy() for name, array in kept.items()}
    memory.scale(-700)
    memory.set_density(memory.latest(100), np.ones(100))
    np.testing.assert_array_equal(memory.arrays()["log_f"], expected["log_f"] - 700 * math.log(2))
    np.testing.assert_array_equal(memory.arrays()["log_q"][-100:], np.ones(100))
    for name, array in expected.items():
        np.testing.assert_array_equal(kept[name], array)


def memory_of(f):
    """The last 2000 points of which all are uniform."""
    u = np.random.default_rng(1).random((2000, 2))
    return remembered((u, f(u), np.zeros(2000)))


def chosen(strategy, k, flow, f=lambda u: np.ones(len(u)), n=2000):
    return choose_points(strategy, k, flow, n, np.random.default_rng(2), memory_of(f))


def is_flat(points):
    return not points.log_q.any()


class Learner:
    """What `Stage.rewind` needs of a state, with a flow that has learnt `gaussian`."""

    was_better, _log_q_with = State.was_better, State._log_q_with

    def __init__(self):
        replay = staged(n_rounds=20)
        self.flow, self.memory, self.optim = replay.flow, replay.memory, stage_optimiser()
        self.of_best_round = np.empty(0)
        self.stage = Stage(20, 0.5)

    def go_on(self, f=gaussian, flow=None):
        """Judge a round from the flow as it is, or from another one that has come out of it."""
        if flow is not None:
            self.flow.params = flow.params
        points = draw(self.flow, *np.split(np.random.default_rng(2).random((ROUND, 2)), [ROUND - 30]))
        add(self.memory, points.u, f(points.u)[:, 0], points.log_q)
        self.stage.rewind(self, self.memory.log_weights(self.memory.latest(ROUND)))


class TestRewind:
    def test_goes_back_to_the_best_round(self):
        learner = Learner()
        params = learner.flow.params.copy()
        learner.go_on()
        assert (learner.stage.best > 0.5, learner.stage.pace) == (True, 1.0)
        for pace in (0.5, 0.25):
            learner.go_on(flow=staged(lambda u: gaussian(u + 0.5), n_rounds=20).flow)  # it sees the tails
            np.testing.assert_array_equal(learner.flow.params, params)
            assert (learner.stage.pace, learner.optim) == (pace, None)

    def test_goes_on_where_it_has_found_another_region(self):
        learner = Learner()
        learner.go_on()

        def larger(u):
            return gaussian(u) + 1e6 * np.exp(-5000 * ((u - 0.85) ** 2).sum(axis=1))[:, None]

        knows_both = staged(lambda u: gaussian(u) + gaussian(u - 0.45), n_rounds=20).flow
        params = knows_both.params.copy()
        learner.go_on(larger, knows_both)
        np.testing.assert_array_equal(learner.flow.params, params)
        np.testing.assert_array_equal(learner.of_best_round, params)
        assert (learner.stage.best < 0.1, learner.stage.pace) == (True, 1.0)

    def test_single_points_do_not_tell(self):
        learner = Learner()
        learner.go_on()
        log_weights = learner.memory.log_weights(learner.memory.latest(ROUND)).copy()
        log_weights[:5] += 20
        learner.stage.rewind(learner, log_weights)
        assert learner.stage.pace == 1.0

    def test_f_is_zero_at_all_points(self):
        learner = Learner()
        learner.go_on(lambda u: np.zeros((len(u), 1)))
        assert (learner.stage.best, learner.stage.pace) == (0.0, 1.0)


class TestChoosePoints:
    @pytest.mark.parametrize("strategy", CHOOSING)
    @pytest.mark.parametrize("k", [0, 1])
    def test_points_have_the_density_that_is_told(self, strategy, k):
        flow = random_flow()
        points = chosen(strategy, k, flow, n=20_000)
        assert points.u.shape == (20_000, 2)
        assert points.n_uniform == 0
        np.testing.assert_allclose(points.log_flow, flow.log_prob(points.u), atol=1e-4)
        if not is_flat(points):
            np.testing.assert_array_equal(points.log_q, points.log_flow)
        for column in points.u.T:
            counts, _ = np.histogram(column, 20, (0, 1), weights=np.exp(-points.log_q))
            squares, _ = np.histogram(column, 20, (0, 1), weights=np.exp(-2 * points.log_q))
            assert stats.chi2.sf(((counts - 1000) ** 2 / squares).sum(), 20) > 1e-3

    @pytest.mark.parametrize(
        ("strategy", "expected"),
        [
            ("flat", [True, True, True]),
            ("forward", [False, False, False]),
            ("forward_flat_init", [True, False, False]),
        ],
    )
    def test_without_a_choice(self, strategy, expected):
        flow = random_flow()
        for k in range(3):
            for f in (lambda u: np.ones(len(u)), lambda u: np.exp(flow.log_prob(u))):
                assert is_flat(chosen(strategy, k, flow, f)) == expected[k]

    @pytest.mark.parametrize("strategy", ["adaptive_variance", "adaptive_dkl"])
    def test_adaptive_ones_take_what_is_better(self, strategy):
        flow = random_flow()
        for k in (1, 5):
            assert is_flat(chosen(strategy, k, flow, lambda u: np.ones(len(u))))
            assert is_flat(chosen(strategy, k, flow, lambda u: np.zeros(len(u))))
            assert not is_flat(chosen(strategy, k, flow, lambda u: np.exp(flow.log_prob(u))))
        assert is_flat(chosen(strategy, 0, flow, lambda u: np.exp(flow.log_prob(u))))

    def test_losses_can_disagree(self):
        # Where the flow is nearly zero the variance is large, for which the DKL loss has a logarithm only.
        flow = random_flow(spread=2.0)

        def f(u):
            of_flow = np.exp(flow.log_prob(u))
            return np.where(of_flow < np.quantile(of_flow, 0.01), 6.0, of_flow)

        assert is_flat(chosen("adaptive_variance", 1, flow, f))
        assert not is_flat(chosen("adaptive_dkl", 1, flow, f))

    @pytest.mark.parametrize("strategy", CHOOSING)
    def test_same_generator_state_same_points(self, strategy):
        one, two = (chosen(strategy, 1, random_flow()) for _ in range(2))
        np.testing.assert_array_equal(one.u, two.u)
