"""Integrals in a given time, by a clock that stands still but for f and for training."""

import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import varflow as vf
from varflow.integration import clock, costs
from varflow.integration.clock import Deadline
from varflow.integration.survey import Replay

SMALL = {"n_bins": 8, "d_hidden": 16, "n_hidden": 1, "repetitions": 1}
EXACT = (math.sqrt(math.pi / 30) / 2 * (math.erf(math.sqrt(30) * 0.4) + math.erf(math.sqrt(30) * 0.6))) ** 2


def peak(x):
    return np.exp(-30 * ((x - 0.4) ** 2).sum(axis=1))


class Clock:
    """A clock that others put forward; f takes `a_call` seconds a call and `a_point` a point."""

    def __init__(self, a_point, a_call=0.0, f=peak):
        self.time, self.a_point, self.a_call, self.f = 100.0, a_point, a_call, f
        self.n_points = 0

    def __call__(self, x):
        self.time += self.a_call + self.a_point * len(x)
        self.n_points += len(x)
        return self.f(x)


@pytest.fixture
def timed(monkeypatch):
    """Make a function that takes so long, by the clock that integrations go by."""

    def make(a_point, a_call=0.0, f=peak, a_step=0.0):
        made, train = Clock(a_point, a_call, f), Replay.train

        def slow_train(self, optim, k, n_rounds, share_of_dkl, n_new, n_steps, pace):
            made.time += a_step * n_steps
            train(self, optim, k, n_rounds, share_of_dkl, n_new, n_steps, pace)

        monkeypatch.setattr(clock, "now", lambda: made.time)
        monkeypatch.setattr(costs, "SECONDS_A_PARAMETER", a_step / vf.Flow(2, **SMALL).n_params)
        monkeypatch.setattr(Replay, "train", slow_train)
        return made

    return make


def integrated(f, d=2, **options):
    return vf.integrate(f, d, seed=1, **{"flow_options": SMALL, **options})


def trained(result):
    """Points that the flow was trained on in stages."""
    return sum(one.n_calls for one in result.history if one.stage == "survey" and one.n_calls > 4096)


def assert_right(result, exact=EXACT):
    assert abs(result.mean - exact) < 5 * result.sdev, str(result)


@pytest.mark.parametrize(
    ("a_point", "a_call", "seconds"),
    [
        (2e-5, 0.0, 1.0),
        (2e-5, 1e-3, 1.0),
        (1e-3, 0.0, 2.0),
        (0.02, 0.0, 10.0),
        (0.02, 0.0, 2.0),
        (1e-4, 0.5, 10.0),  # whatever the number of points
    ],
)
def test_the_time_is_used_and_kept(timed, a_point, a_call, seconds):
    f = timed(a_point, a_call, a_step=1e-4)
    result = integrated(f, seconds=seconds)
    longest = a_call + 2 * a_point  # a call that has begun is not ended
    assert 0.8 * seconds < result.seconds <= seconds + max(0.3, 0.1 * seconds, longest)
    assert f.n_points == result.n_calls == sum(one.n_calls for one in result.history)
    assert_right(result)
    assert f"it took {result.seconds:.2f} of {seconds:g} s" in result.notes


@pytest.mark.parametrize("seconds", [1e-6, 1e-3])
def test_the_least_that_gives_an_error_may_take_a_little_longer(timed, seconds):
    f = timed(1e-3)
    result = integrated(f, seconds=seconds)
    assert f.n_points == result.n_calls == 32
    assert_right(result)
    assert result.error_dof == 3


def test_too_short_a_time_is_refused_in_words_and_may_be_gone_on_with(timed):
    f = timed(1.0)
    with vf.Integrator(f, 2, seed=1, flow_options=SMALL) as integrator:
        with pytest.raises(
            ValueError, match=r"seconds=2 is too short: after \d s, f is known at . points, and 32"
        ):
            integrator.integrate_to(seconds=2)
        assert 2 <= f.n_points <= 3
        result = integrator.integrate_to(seconds=60)
        assert f.n_points == result.n_calls <= 63
        assert_right(result)


def test_training_belongs_to_the_time(timed):
    longer, shorter = (integrated(timed(1e-5, a_step=1e-2), seconds=seconds) for seconds in (8, 0.5))
    assert trained(longer) > 0 == trained(shorter)
    assert longer.sdev < shorter.sdev
    assert any("trained in" in note for note in longer.notes)
    assert any("no room for another stage" in note for note in shorter.notes)
    for result in longer, shorter:
        assert_right(result)
        assert result.history[-1].stage == "refine"


def test_a_training_that_turns_out_slower_is_cut_short(timed, monkeypatch):
    f = timed(1e-5, a_step=0.05)
    monkeypatch.setattr(costs, "SECONDS_A_PARAMETER", 0.0)  # which is not expected
    result = integrated(f, seconds=10)
    assert result.seconds < 11
    assert_right(result)


def test_kernels_that_have_to_be_compiled_first_keep_from_training(timed, monkeypatch):
    f = timed(1e-5)
    monkeypatch.setattr(costs.Costs, "compiling", property(lambda self: 20.0))
    result = integrated(f, seconds=2)
    assert trained(result) == 0
    assert result.seconds < 2.2


def test_time_of_a_first_training_is_that_of_its_kernels(monkeypatch):
    measured = costs.Costs.in_seconds(1000)

    class Kernel:
        signatures = ()

    monkeypatch.setattr(costs, "gradient", Kernel)
    monkeypatch.setattr(costs.announcement, "seconds", 0.0)
    for is_kept, expected in (True, 0.0), (False, costs.SECONDS_OF_COMPILING):
        monkeypatch.setattr(costs, "is_kept", lambda kernel, found=is_kept: found)
        assert measured.compiling == expected
    monkeypatch.setattr(costs.announcement, "seconds", 10.0)
    assert measured.compiling == 10.0 * costs.COMPILING
    measured.note_steps(1.0, 10)
    assert measured.compiling == 0


def test_whichever_comes_first_ends_it(timed):
    by_calls = integrated(timed(1e-5), seconds=100, n_calls=500)
    assert by_calls.n_calls == 500
    by_tolerance = integrated(timed(1e-5), seconds=100, rtol=1e-2)
    assert by_tolerance.sdev <= 1e-2 * by_tolerance.mean
    assert by_tolerance.seconds < 50
    assert not by_tolerance.warnings
    by_time = integrated(timed(1e-3), seconds=1, rtol=1e-9, n_calls=10**9)
    assert by_time.seconds < 1.3
    assert any("was not reached in" in warning and "and 1 s" in warning for warning in by_time.warnings)
    for result in by_calls, by_tolerance, by_time:
        assert_right(result)


@pytest.mark.parametrize("a_point", [1e-4, 1e-3, 0.1])
def test_a_single_dimension(timed, a_point):
    result = integrated(timed(a_point), 1, seconds=4)
    assert_right(result, math.sqrt(EXACT))
    assert result.seconds <= 4.4


def test_logarithms_workers_and_callbacks(timed):
    f = timed(1e-3, f=lambda x: -30 * ((x - 0.4) ** 2).sum(axis=1))
    result = integrated(f, seconds=1, log=True)
    assert abs(result.log_mean - math.log(EXACT)) < 5 * result.log_sdev
    with ThreadPoolExecutor(2) as pool:
        result = integrated(timed(1e-3), seconds=1, workers=pool)
    assert_right(result)
    seen = []
    result = integrated(timed(1e-3), seconds=1, callback=lambda result: seen.append(result) or len(seen) == 3)
    assert len(result.history) == len(seen) == 3
    assert [one.seconds for one in seen] == sorted(one.seconds for one in seen)


def test_another_time_on_the_same_integrator_adds_to_it(timed):
    f = timed(1e-3)
    with vf.Integrator(f, 2, seed=1, flow_options=SMALL) as integrator:
        first, second = (integrator.integrate_to(seconds=1) for _ in range(2))
    assert f.n_points == second.n_calls > 1.5 * first.n_calls
    assert 1.8 < second.seconds < 2.4
    assert_right(second)


def test_what_f_raises_leaves_the_same_call_to_go_on_with(timed):
    f = timed(1e-3)

    def fails_once(x):
        if 200 < f.n_points < 10_000:
            f.n_points = 10_000
            raise RuntimeError("once")
        return f(x)

    with vf.Integrator(fails_once, 2, seed=1, flow_options=SMALL) as integrator:
        with pytest.raises(RuntimeError, match="once") as caught:
            integrator.integrate_to(seconds=1)
        assert caught.value.partial.seconds > 0
        assert_right(integrator.integrate_to(seconds=1))


@pytest.mark.parametrize(
    ("seconds", "error", "words"),
    [
        (0, ValueError, "seconds must be above 0 and finite, got 0"),
        (-1.0, ValueError, "seconds must be above 0"),
        (math.nan, ValueError, "seconds must be above 0 and finite, got nan"),
        (math.inf, ValueError, "seconds must be above 0 and finite, got inf"),
        ("3", TypeError, "seconds must be a number, got '3'"),
        (True, TypeError, "seconds must be a number, got True"),
    ],
)
def test_what_is_no_time_is_refused(seconds, error, words):
    with pytest.raises(error, match=words):
        vf.integrate(peak, 2, seconds=seconds)


def test_what_promises_bits_refuses_a_time(tmp_path):
    with pytest.raises(ValueError, match="deterministic=True"):
        integrated(peak, seconds=1, deterministic=True)
    with pytest.raises(ValueError, match="checkpoint and comm promise the same bits"):
        integrated(peak, seconds=1, checkpoint=tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match="or a time needs survey_strategy='replay'"):
        integrated(peak, seconds=1, survey_strategy="flat")
    with pytest.raises(ValueError, match=r"seconds=1: a run does not know"):
        vf.Run(2, seconds=1)


def test_a_deadline_is_none_without_a_number():
    none, some = Deadline.after(None), Deadline.after(1e9)
    assert not none
    assert none.left == math.inf
    assert not none.is_over
    assert some
    assert 0 < some.left <= 1e9


class TestNotes:
    """What was decided, and why."""

    @pytest.mark.parametrize(
        ("a_step", "words"),
        [
            (
                10.0,
                r"the flow was left as it is, uniform: refining it .* expected to take .* s, training .* s",
            ),
            (1e-5, r"the flow was trained in \d stages?: "),
        ],
    )
    def test_to_a_tolerance(self, timed, a_step, words, tmp_path):
        result = integrated(timed(1e-5, a_step=a_step), rtol=1e-3, n_calls=10_000_000)
        assert len(result.notes) == 1
        assert re.match(words, result.notes[0]), result.notes
        assert result.notes[0] in result.summary()
        result.save(tmp_path / "result.npz")
        loaded = vf.Result.load(tmp_path / "result.npz")
        assert loaded.notes == result.notes
        assert loaded.seconds == result.seconds

    def test_in_calls_where_clocks_do_not_count(self):
        result = integrated(peak, rtol=1e-3, n_calls=1_000_000, deterministic=True)
        assert "calls" in result.notes[0]

    def test_none_without_a_choice(self):
        result = integrated(peak, n_calls=400)
        assert result.notes == ()
        assert result.seconds > 0
