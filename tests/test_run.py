"""A run that is driven from outside: in any order, in parts, from threads, with losses, and by mistakes."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_integrator import EXACT, INF, OF_WAVE, SMALL, assert_right, mixed, narrow_at, normal, peak, wave
from test_resume import figures

import varflow as vf
from varflow.integration.proposal import Draw
from varflow.integration.survey import ROUND
from varflow.training.objective import Objective

N_CALLS = 40_000


def make(bounds=2, n_calls=N_CALLS, **options):
    return vf.Run(bounds, n_calls=n_calls, seed=1, flow_options=SMALL, **options)


def drive(run, f=peak):
    """Ask and tell to the end, and return the result."""
    while (points := run.ask()) is not None:
        run.tell(points, f(points))
    return run.result()


def expected(f=peak, bounds=2, n_calls=N_CALLS, **options):
    return figures(
        vf.integrate(f, bounds, n_calls=n_calls, seed=1, deterministic=True, flow_options=SMALL, **options)
    )


@pytest.fixture(scope="module")
def of_integrate():
    """Figures that several runs are to end with."""
    return expected()


class TestSameBits:
    """However a run is driven, it ends with the bits of `integrate`."""

    @pytest.mark.parametrize(
        ("f", "bounds", "options"),
        [
            (peak, 2, {}),
            (peak, 2, {"rtol": 5e-3}),
            (peak, 2, {"n_calls": 150}),
            (mixed, [(0, 1), (-1, 2)], {"n_calls": 2000}),
            (peak, 2, {"rtol": 1e-3, "n_calls": 2000}),
            (mixed, [(0, 1), (-1, 2)], {"use_survey": True, "latent_points": "random", "loss": "dkl"}),
            (normal, [(-INF, INF)] * 2, {"atol": 1e-2}),
            (lambda x: narrow_at(x, 0.4), 3, {"flow": "rqs", "n_calls": 40_000}),
        ],
    )
    def test_one_after_another(self, f, bounds, options):
        assert figures(drive(make(bounds, **options), f)) == expected(f, bounds, **options)

    @pytest.mark.parametrize("n_calls", [2000, N_CALLS])
    def test_parts_in_any_order_with_files_in_between(self, tmp_path, n_calls):
        run, rng = make(n_calls=n_calls), np.random.default_rng(1)
        while (points := run.ask()) is not None:
            for k, rows in enumerate(np.array_split(rng.permutation(len(points)), 4)):
                run.tell(points[rows], peak(points[rows]))
                if k == 1 and rng.random() < 0.2:
                    run.save(tmp_path / "run")
                    run = vf.Run.load(tmp_path / "run")
        assert figures(run.result()) == expected(n_calls=n_calls)

    def test_by_numbers(self, of_integrate):
        run = make()
        while (numbers := run.ask_numbers()) is not None:
            run.tell(numbers[::-1], peak(run.points(numbers[::-1])))
        assert figures(run.result()) == of_integrate

    def test_trained_by_hand_or_in_a_thread(self, of_integrate):
        run = make(train_in="step")
        n_steps = 0
        while (points := run.ask()) is not None:
            if len(points):
                run.tell(points, peak(points))
            else:
                assert run.n_open == 0
                n_steps += run.step()
                assert not run.step()
        assert n_steps > 10
        assert figures(run.result()) == of_integrate
        assert figures(drive(make(train_in="thread"))) == of_integrate

    def test_what_ends_training_leaves_no_trace(self, of_integrate, monkeypatch):
        """Ctrl-C in the middle of a step: the values are known, and the next call trains on them again."""
        compute, calls = Objective.gradient, []

        def gradient(self, rows, buffers):
            calls.append(None)
            if len(calls) in (5, 40):
                raise KeyboardInterrupt
            return compute(self, rows, buffers)

        run = make()
        monkeypatch.setattr(Objective, "gradient", gradient)
        n_interrupts = 0
        while True:
            try:
                if (points := run.ask()) is None:
                    break
                run.tell(points, peak(points)) if len(points) else run.step()
            except KeyboardInterrupt:
                n_interrupts += 1
        assert n_interrupts == 2
        assert figures(run.result()) == of_integrate


class TestManyWorkers:
    def test_each_point_is_handed_out_once(self):
        run, seen = make(), []

        def work():
            while (points := run.ask(100)) is not None:
                seen.append(points)
                run.tell(points, peak(points))

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(work) for _ in range(4)]:
                future.result()
        assert_right(run.result())
        points = np.concatenate(seen)
        assert len(np.unique(points, axis=0)) == len(points) == run.n_told <= N_CALLS

    @pytest.mark.parametrize("train_in", ["tell", "thread", "step"])
    def test_asks_are_open_at_once_and_come_back_late(self, train_in):
        run, rng, out = make(train_in=train_in), np.random.default_rng(2), []
        while (points := run.ask(300)) is not None:
            if len(points):
                out.append(points)
            if len(out) > 6 or (out and len(points) == 0):
                points = out.pop(rng.integers(len(out)))
                run.tell(points, peak(points))
            run.step()
        assert (out, run.n_open) == ([], 0)
        assert_right(run.result())
        assert run.n_told == N_CALLS

    def test_more_points_than_a_round_has(self):
        run = make()
        while len(run.history) < 2:  # a look, and walkers, whose points follow from each other
            points = run.ask()
            run.tell(points, peak(points))
        assert len(run.ask(3 * ROUND)) == 3 * ROUND
        assert run.n_open == 3 * ROUND

    def test_without_a_number_no_point_is_drawn_ahead(self):
        run = make()
        assert len(run.ask()) > 0
        assert run.ask().shape == (0, 2)

    def test_points_are_read_only_and_inside(self):
        run = make([(-INF, 0), (2, 3)])
        points = run.ask(50)
        assert points.shape == (50, 2)
        assert not points.flags.writeable
        assert (points[:, 0] < 0).all()
        assert ((points[:, 1] > 2) & (points[:, 1] < 3)).all()


class TestForgetting:
    @staticmethod
    def with_losses(seed):
        """Result of a run whose points are lost in jobs that f has nothing to do with, a fifth of them."""
        rng = np.random.default_rng(seed)
        run = vf.Run(2, n_calls=N_CALLS, seed=seed, flow_options=SMALL)
        while (points := run.ask()) is not None:
            for part in np.array_split(points, max(1, len(points) // 50)):
                if rng.random() < 0.2:
                    run.forget(part)
                else:
                    run.tell(part, peak(part))
        result = run.result()
        assert result.n_calls == run.n_told <= N_CALLS
        return result

    def test_integral_is_right_though_points_are_lost(self):
        assert_right(self.with_losses(0))

    @pytest.mark.slow
    def test_lost_points_leave_no_bias(self):
        results = [self.with_losses(seed) for seed in range(12)]
        pulls = [(result.mean - EXACT) / result.sdev for result in results]
        assert abs(np.mean(pulls)) < 1.2
        assert 0.4 < np.std(pulls) < 2

    def test_pieces_that_are_lost_altogether_are_drawn_again(self):
        run = make()
        for n_lost in range(60):
            points = run.ask()
            if points is None:
                break
            run.forget(points) if n_lost % 2 else run.tell(points, peak(points))
        assert_right(drive(run))

    def test_by_number(self):
        run = make()
        run.ask(10)
        run.forget([3, 4])
        np.testing.assert_array_equal(run.open_numbers(), [0, 1, 2, 5, 6, 7, 8, 9])
        with pytest.raises(ValueError, match=r"points\[1\] is number 4, which was forgotten"):
            run.tell([5, 4], [1.0, 2.0])

    def test_density_of_what_is_left(self):
        u = np.linspace(0.05, 0.95, 10)[:, None]
        points = Draw(u, np.log(2 * u[:, 0]), np.log(0.6 * 2 * u[:, 0] + 0.4), 4)
        is_kept = np.array([1, 0, 1, 1, 0, 1, 0, 1, 0, 0], bool)
        left = points.only(is_kept)
        assert left.n_uniform == 1
        np.testing.assert_allclose(np.exp(left.log_q), 0.8 * 2 * left.u[:, 0] + 0.2)


class TestRounding:
    @pytest.mark.parametrize(
        "bounds", [2, [(0, 1e-12), (-5, 5)], [(-INF, INF)] * 2, [(1e6, 1e6 + 1), (0, 1)]]
    )
    def test_points_that_were_printed_are_known_again(self, bounds):
        run = make(bounds)
        points = run.ask(200)
        printed = np.array([[float(f"{x:.15g}") for x in point] for point in points])
        assert (printed != points).any()
        run.tell(printed[::-1], np.ones(200))
        assert run.n_told == 200

    def test_six_digits_are_too_few(self):
        run = make()
        points = run.ask(200)
        with pytest.raises(ValueError, match=r"points\[0\] = .* was never asked for"):
            run.tell(np.array([[float(f"{x:.6g}") for x in point] for point in points]), np.ones(200))


def told_half(run):
    """Points of which every other one is told."""
    points = run.ask(10)
    run.tell(points[::2], peak(points[::2]))
    return points


class TestMistakes:
    @pytest.mark.parametrize(
        ("points", "values", "match"),
        [
            (lambda p: p[:1] + 0.1, [1.0], r"points\[0\] = .* was never asked for; nothing was taken"),
            (lambda p: p[[1, 0]], [1.0, 1.0], r"points\[1\] = .* was told already"),
            (lambda p: p[[1, 3, 1]], [1.0, 1.0, 1.0], r"points\[0\] and points\[2\] are the same point"),
            (lambda p: [1, 3, 1], [1.0, 1.0, 1.0], r"points\[0\] and points\[2\] are the same point"),
            (lambda p: [1, 10], [1.0, 1.0], r"points\[1\] is number 10, which was never asked for"),
            (lambda p: [1, -1], [1.0, 1.0], r"points\[1\] is number -1, which was never asked for"),
            (lambda p: [1, 2], [1.0, 1.0], r"points\[1\] is number 2, which was told already"),
            (lambda p: p[1::2], [1.0], r"values must be an array of shape \(5,\) or \(5, m\), got \(1,\)"),
            (lambda p: p[1::2], np.ones((5, 2)), r"of those told before: got shape \(2,\), before shape"),
            (lambda p: p[1::2], {"a": np.ones(5)}, "values must have the shape .* before: got a dict"),
            (lambda p: p[1::2], ["a"] * 5, "values must be real numbers, got dtype <U1"),
            (lambda p: p[1::2], None, "values must be real numbers, got None"),
            (lambda p: p[1::2], [1, 2, math.nan, 4, INF], r"values\[2\] is nan at x = .*; 2 of 5 points"),
            (lambda p: p[1::2, :1], np.ones(5), r"points must have shape \(n, 2\), or \(n,\) for"),
            (lambda p: 3, 1.0, r"points must have shape \(n, 2\)"),
            (lambda p: "abc", 1.0, "points must hold real numbers"),
            (lambda p: [[math.nan, 0.5]], [1.0], r"points\[0\] = \[nan, 0.5\] was never asked for"),
        ],
    )  # fmt: skip
    def test_are_refused_and_change_nothing(self, points, values, match):
        run, other = make(n_calls=150), make(n_calls=150)
        out, same = told_half(run), told_half(other)
        with pytest.raises((TypeError, ValueError), match=match):
            run.tell(points(out), values)
        assert (run.n_told, run.n_open) == (5, 5)
        for one in (run, other):
            one.tell(same[1::2], peak(same[1::2]))
        assert figures(drive(run)) == figures(drive(other))

    def test_values_that_are_not_finite_may_count_as_zero(self):
        run = make(on_invalid="zero")
        result = drive(run, lambda x: np.where(x[:, 0] > 0.9, np.nan, peak(x)))
        assert result.n_invalid > 0
        assert any("was not finite at" in warning for warning in result.warnings)

    def test_the_end(self):
        run = make()
        assert run.stage == "survey"
        with pytest.raises(RuntimeError, match="no estimate yet"):
            run.result()
        with pytest.raises(RuntimeError, match="the run goes on: 0 of 40000 values are told"):
            run.extend(1000)
        points = run.ask(1)
        run.tell(points, peak(points))
        result = drive(run)
        assert run.ask() is None
        assert run.ask(5) is None
        assert run.stage == "done"
        with pytest.raises(ValueError, match=r"points\[0\] = .* was told already"):
            run.tell(points, peak(points))
        run.extend(10_000)
        assert drive(run).sdev < result.sdev
        assert 49_900 < run.n_told <= 50_000

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"n_calls": 99}, "n_calls must be at least"),
            ({"rtol": -1}, "rtol"),
            ({"bounds": [(1, 0)]}, "bounds"),
            ({"train_in": "process"}, "train_in"),
            ({"flow_options": 3}, "flow_options must be a dict"),
            ({"on_invalid": "drop"}, "on_invalid"),
            ({"seed": -1}, "seed"),
        ],
    )
    def test_settings(self, options, match):
        with pytest.raises((TypeError, ValueError), match=match):
            vf.Run(**{"bounds": 2, "n_calls": N_CALLS, **options})

    @pytest.mark.parametrize("n", [0, -1, 1.5, True])
    def test_numbers_to_ask_for(self, n):
        with pytest.raises((TypeError, ValueError), match="n must be"):
            make().ask(n)


class TestFiles:
    def test_holds_what_was_told_and_what_is_out(self, tmp_path):
        run = make([(0, 1), (2, 5)], rtol=1e-3, train_in="step", on_invalid="zero")
        points = run.ask(10)
        run.tell(points[:4], peak(points[:4]))
        run.forget(points[4:6])
        run.save(tmp_path / "run")
        again = vf.Run.load(tmp_path / "run")
        np.testing.assert_array_equal(again.open_numbers(), [6, 7, 8, 9])
        np.testing.assert_array_equal(again.points([6, 7, 8, 9]), points[6:])
        assert (again.n_told, again.n_calls, again.stage) == (4, N_CALLS, "survey")
        np.testing.assert_array_equal(again.domain.bounds, run.domain.bounds)
        with pytest.raises(ValueError, match=r"points\[0\] = .* was told already"):
            again.tell(points[:1], [1.0])

    def test_other_files_are_refused(self, tmp_path):
        path = tmp_path / "run"
        run = make()
        run.save(path)
        whole = path.read_bytes()
        for damaged, match in (
            (whole[: len(whole) // 2], "is not an npz file, or is cut short|damaged"),
            (whole[:500] + b"x" + whole[501:], "damaged"),
            (b"", "is empty"),
        ):
            path.write_bytes(damaged)
            with pytest.raises(vf.FileFormatError, match=match):
                vf.Run.load(path)
        run.flow.save(path)
        with pytest.raises(vf.FileFormatError, match="format must be 'varflow run', found 'varflow flow'"):
            vf.Run.load(path)
        with pytest.raises(FileNotFoundError):
            vf.Run.load(tmp_path / "none")

    def test_result_draws_points_without_f(self):
        result = drive(make([(-1, 1), (0, 2)]), wave)
        x, log_q = result.sample(5000, seed=2)
        weights = wave(x) * np.exp(-log_q)
        exact = drive(make([(-1, 1), (0, 2)], n_calls=40_000), wave)
        assert abs(weights.mean() - exact.mean) < 5 * weights.std() / math.sqrt(5000)
        assert exact.mean != OF_WAVE  # another box
