"""Figures of importance sampling, against their definitions and against many repetitions."""

import dataclasses
import math

import numpy as np
import pytest

from varflow import Dataset, Evaluation, Flow, evaluate
from varflow.training.evaluation import _unseen
from varflow.training.pareto import pareto_shape


def make_flow(d=2, scale=0.3, **options):
    """Flow that is not the identity, in float64."""
    sizes = {"n_bins": 4, "d_hidden": 8, "n_hidden": 1, "repetitions": 1}
    flow = Flow(d, "pwlinear", **sizes, dtype="float64", seed=1, **options)
    flow.params = scale * np.random.default_rng(1).normal(size=flow.n_params)
    return flow


def points(n=3000, d=2, seed=1):
    """Points from p = product of 1/2 + x, and a function of either sign."""
    rng = np.random.default_rng(seed)
    x = np.sqrt(0.25 + 2 * rng.random((n, d))) - 0.5
    return x, np.prod(0.5 + x, axis=1), np.sin(5 * x[:, 0]) * np.exp(-(x**2).sum(axis=1))


def quantile(values, counts, share):
    """Least of the values up to which there is that share of the counts."""
    return min(v for v in values if counts[values <= v].sum() >= share * counts.sum() * (1 - 1e-12))


def figures(evaluation):
    return np.array(dataclasses.astuple(evaluation))


class TestFigures:
    def test_are_those_of_their_definitions(self):
        flow = make_flow()
        x, px, fx = points()
        found = evaluate(flow, Dataset(x, px, 1e3 * fx))
        q = np.exp(flow.log_prob(x))
        f = np.abs(fx) / np.mean(np.abs(fx) / px)
        before, unit = np.mean(f**2 / px**2) - 1, 1 / np.mean(q / px)
        after = np.mean((f / unit - q) ** 2 / (px * q)) / np.mean(q / px)
        floor = (np.mean(np.abs(fx) / px) / np.mean(fx / px)) ** 2 - 1
        expected = {
            "n": 3000,
            "variance_before": before,
            "variance_after": after,
            "ratio": before / after,
            "ess_before": 1 / (1 + before),
            "ess_after": 1 / (1 + after),
            "efficiency_before": 1 / quantile(f / px, np.ones(3000), 0.999),
            "efficiency_after": np.average(f / q, weights=q / px) / quantile(f / q, q / px, 0.999),
            "floor": floor,
            "pareto_before": pareto_shape(np.log(f / px)),
            "pareto_after": pareto_shape(np.log(f / q), np.log(q / px)),
        }
        for name, value in expected.items():
            assert getattr(found, name) == pytest.approx(value, rel=1e-11), name

    def test_units_of_f_and_of_x_do_not_matter(self):
        x, px, fx = points()
        expected = figures(evaluate(make_flow(), Dataset(x, px, fx)))
        for unit in (1e-290, 1e290):
            np.testing.assert_allclose(
                figures(evaluate(make_flow(), Dataset(x, px, unit * fx))), expected, rtol=1e-11
            )
        logs = Dataset(x, logpx=np.log(px), logfx=np.log(np.abs(fx)) + 5000)
        np.testing.assert_allclose(figures(evaluate(make_flow(), logs))[:-1], expected[:-1], rtol=1e-9)
        twice = Dataset(x, 2 * px, fx)  # what p lacks changes no figure
        np.testing.assert_allclose(figures(evaluate(make_flow(), twice)), expected, rtol=1e-9)
        bounds = np.array([[-3.0, 5.0], [10.0, 10.5]])
        box = Dataset(bounds[:, 0] + (bounds[:, 1] - bounds[:, 0]) * x, px / 4, fx, bounds=bounds)
        np.testing.assert_allclose(figures(evaluate(make_flow(bounds=bounds), box)), expected, rtol=1e-9)

    def test_uniform_flow_is_as_good_as_uniform_points(self):
        x, _, fx = points()
        found = evaluate(make_flow(scale=0), Dataset(x, np.ones(3000), fx))
        assert found.ratio == pytest.approx(1, rel=1e-13)
        for name in ("variance", "ess", "efficiency"):
            assert getattr(found, f"{name}_after") == pytest.approx(
                getattr(found, f"{name}_before"), rel=1e-13
            )
        # Both variances come from the same points: their ratio does not fluctuate.
        assert found.ratio_error < 1e-13
        assert found.variance_after_error == pytest.approx(found.variance_before_error, rel=1e-12)

    def test_perfect_flow_has_no_variance(self):
        flow = make_flow()
        x, logqx = flow.sample(3000, seed=2)
        found = evaluate(flow, Dataset(x, logpx=logqx, logfx=logqx))
        assert abs(found.variance_after) < 1e-13
        assert abs(found.variance_before) < 1e-13
        assert found.variance_after_error < 1e-13
        assert found.ess_after == pytest.approx(1, abs=1e-13)
        assert found.efficiency_after == pytest.approx(1, rel=1e-12)
        assert math.isnan(found.ratio) or abs(found.ratio) < math.inf

    def test_flow_as_good_as_the_points_can_tell(self):
        # f = q with points from p: nothing but rounding is left, and it is never negative.
        flow = make_flow()
        for seed in range(10):
            x, px, _ = points(300, seed=seed)
            found = evaluate(flow, Dataset(x, px, np.exp(flow.log_prob(x))))
            assert 0 <= found.variance_after < 1e-25
            assert found.ess_after == pytest.approx(1, abs=1e-15)
            str(found)

    def test_signed_f_has_a_floor_from_which_is_counted(self):
        # A fifth of the weights are negative: |f| = q can be reached, f/q has the variance of its sign.
        flow = make_flow()
        x, logqx = flow.sample(20_000, seed=2)
        signs = np.where(np.arange(20_000) % 5, 1, -1)
        found = evaluate(flow, Dataset(x, np.exp(logqx), signs * np.exp(logqx)))
        assert found.variance_after < 1e-25
        assert found.floor == pytest.approx(1 / 0.6**2 - 1)
        assert "its variance is 1.778 or more" in str(found)
        assert math.isinf(evaluate(flow, Dataset(x[:2], [1, 1], [1, -1])).floor)

    def test_flow_that_misses_f_altogether_has_infinite_variance(self):
        x, _, _ = points(100)
        logs = np.where(np.arange(100) == 50, 900.0, 0.0)
        found = evaluate(make_flow(), Dataset(x, logpx=logs, logfx=logs))
        assert found.variance_before == pytest.approx(0, abs=1e-12)
        assert (found.variance_after, found.ess_after, found.ratio) == (math.inf, 0, 0)
        assert not found.variance_after_error < math.inf


N_DATASETS = 1000


@pytest.fixture(scope="module")
def pulls():
    """(estimate - truth) / error of each figure, for many datasets.

    In one dimension q is constant in each bin, so that the truth is known for f = 1 + x.
    """
    flow = Flow(1, "pwlinear", n_bins=4, repetitions=1, dtype="float64", seed=1)
    flow.params = [0.3, 0.0, -0.4, 0.6]
    edges = np.linspace(0, 1, 5)
    q = np.exp(flow.log_prob((edges[:-1, None] + edges[1:, None]) / 2))
    squares = np.diff((1 + edges) ** 3) / 3  # of f, integrated over each bin
    before, after = squares.sum() / 1.5**2 - 1, (squares / q).sum() / 1.5**2 - 1
    truth = {"variance_before": before, "variance_after": after, "ratio": before / after}
    xs = np.random.default_rng(5).random((N_DATASETS, 2000, 1))
    found = [evaluate(flow, Dataset(x, np.ones(2000), 1 + x[:, 0])) for x in xs]
    return {
        name: np.array([(getattr(e, name) - value) / getattr(e, f"{name}_error") for e in found])
        for name, value in truth.items()
    }


class TestErrors:
    @pytest.mark.parametrize("name", ["variance_before", "variance_after", "ratio"])
    def test_are_standard_deviations(self, pulls, name):
        # Four standard deviations of what is estimated here, on a seed that is fixed.
        assert abs(pulls[name].std() - 1) < 4 / math.sqrt(2 * N_DATASETS)
        assert abs(pulls[name].mean()) < 4 / math.sqrt(N_DATASETS)

    def test_fall_with_the_root_of_the_number_of_points(self):
        few, many = (evaluate(make_flow(), Dataset(*points(n))) for n in (20_000, 320_000))
        for name in ("variance_before_error", "variance_after_error", "ratio_error"):
            assert getattr(few, name) / getattr(many, name) == pytest.approx(4, rel=0.1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "match"),
        [
            (Dataset([[0.5, 0.5]], [1.0], [1.0]), "at least 2 points, got 1"),
            (Dataset(*points(d=3)), "flow has d = 2, the data have d = 3"),
            (
                Dataset(*points(), bounds=[[0, 2], [0, 1]]),
                r"bounds \[\[0.0, 1.0\], \[0.0, 1.0\]\], the data have",
            ),
        ],
    )
    def test_other_data(self, data, match):
        with pytest.raises(ValueError, match=match):
            evaluate(make_flow(), data)

    @pytest.mark.parametrize("log", [False, True])
    def test_a_part_of_a_dataset_with_no_f_in_it(self, log):
        x, px, _ = points(10)
        fx = np.eye(10)[0]
        if log:
            with np.errstate(divide="ignore"):
                data = Dataset(x, px, logfx=np.log(fx))
        else:
            data = Dataset(x, px, fx)
        parts = [part for part in data.split(0.5) if not part.fx.any()]
        assert len(parts) == 1
        with pytest.raises(ValueError, match=r"f is zero at all \d+ points"):
            evaluate(make_flow(), parts[0])


class TestTable:
    def test_lines(self):
        evaluation = Evaluation(
            n=12_345,
            variance_before=3.8471,
            variance_before_error=0.1123,
            variance_after=0.11321,
            variance_after_error=0.0361,
            ratio=33.987,
            ratio_error=10.2,
            ess_before=0.2063,
            ess_after=0.8983,
            efficiency_before=0.1084,
            efficiency_after=0.3579,
            pareto_before=0.312,
            pareto_after=-math.inf,
            floor=0.0,
        )
        assert str(evaluation).splitlines() == [
            "on 12,345 points                before (f/p)         after (f/q)",
            "relative variance               3.847 ± 0.11      0.1132 ± 0.036",
            "effective sample size                  20.6%               89.8%",
            "unweighting efficiency                 10.8%               35.8%",
            "Pareto shape of the tail                0.31                none",
            "variance ratio                                        33.99 ± 10",
        ]
        unknown = dataclasses.replace(evaluation, ratio=math.nan, ratio_error=math.nan)
        assert str(unknown).splitlines()[-1].endswith(" nan ± nan")
        bad = dataclasses.replace(evaluation, variance_after=4.0, pareto_after=0.83, pareto_before=math.nan)
        assert "unknown                0.83" in str(bad)
        assert [line.split(":")[0] for line in str(bad).splitlines()[-2:]] == ["warning", "warning"]
        assert "keep sampling from p" in bad.warnings[0]
        assert "Pareto shape 0.83 > 0.7" in bad.warnings[1]


@pytest.mark.parametrize(("shape", "is_told"), [(0.2, False), (0.8, True)])
def test_error_has_what_a_heavy_tail_hides(shape, is_told):
    from scipy.stats import genpareto

    # Means of 300 terms are mostly too small where the variance of the terms is infinite.
    found = [_unseen(genpareto.rvs(shape, size=300, random_state=seed)) for seed in range(40)]
    assert (np.median(found) > 0.1) == is_told
    assert _unseen(np.zeros(100)) == _unseen(np.arange(20.0)) == 0
