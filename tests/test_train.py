"""Training from points to figures: settings that follow, mixtures, what is warned of, learning curves."""

import logging
import math

import numpy as np
import pytest

import varflow as vf
from varflow.flow.defaults import default_sizes
from varflow.runtime.communicator import ALONE
from varflow.training import recipe
from varflow.training.em import begin_responsibilities, responsibilities
from varflow.training.learning_curve import PARTS

SMALL = {"flow_options": {"n_bins": 4, "d_hidden": 8, "n_hidden": 1, "repetitions": 1}, "threads": 1}
QUICK = SMALL | {"n_epochs": 8}


def peak(x):
    return np.exp(-30 * ((x - 0.4) ** 2).sum(axis=1))


def points(n=1000, d=2, seed=1, f=peak, scale=1.0):
    x = np.random.default_rng(seed).random((n, d))
    return vf.Dataset(x, np.full(n, scale), f(x))


def same(one, other):
    x = np.random.default_rng(7).random((50, one.d))
    return np.array_equal(one.log_prob(x), other.log_prob(x))


class TestTrain:
    def test_as_it_comes_it_beats_p_by_far(self):
        training = vf.train(points(2000), threads=1)
        assert isinstance(training.flow, vf.Flow)
        assert training.flow.architecture.cell == "pwquad"
        assert training.warnings == []
        assert training.evaluation.n == 200
        judged = vf.evaluate(training.flow, points(20_000, seed=2))
        assert judged.variance_after < 0.02 < 3 < judged.variance_before

    def test_cell_that_is_named_is_taken(self):
        training = vf.train(points(), cell="pwlinear", **QUICK)
        assert training.flow.architecture.cell == "pwlinear"
        assert training.evaluation.ratio > 1

    def test_same_seed_same_bits_and_another_seed_others(self):
        flows = [vf.train(points(), seed=seed, **QUICK).flow for seed in (1, 1, 2)]
        assert same(flows[0], flows[1])
        assert not same(flows[0], flows[2])

    def test_threads_change_no_bit(self):
        flows = [vf.train(points(), **QUICK | {"threads": k}, n_flows=2).flow for k in (1, 3)]
        assert same(*flows)

    @pytest.mark.parametrize("unit", [2.0**-500, 2.0**500])
    def test_units_of_f_change_no_bit(self, unit):
        x = points().x
        narrow = np.exp(-400 * ((x - 0.4) ** 2).sum(axis=1))  # which needs a share of p, and tempering
        flows = [vf.train(vf.Dataset(x, np.ones(1000), f), **QUICK).flow for f in (narrow, unit * narrow)]
        assert same(*flows)

    def test_several_flows_are_mixed_and_each_point_is_judged_by_one_that_has_not_seen_it(self):
        data = points(400)
        training = vf.train(data, n_flows=4, **QUICK)
        assert isinstance(training.flow, vf.Mixture)
        assert len(training.flow.flows) == len(training.records) == 4
        assert training.evaluation.n == 400
        order = np.random.default_rng(0).permutation(400)
        logqx = np.empty(400)
        for part, flow in zip(np.array_split(order, 4), training.flow.flows, strict=True):
            logqx[part] = flow.log_prob(data.x[part])
        weights, counts = data.fx / np.exp(logqx), np.exp(logqx)
        mean = np.average(weights, weights=counts)
        expected = np.average((weights / mean - 1) ** 2, weights=counts)
        assert training.evaluation.variance_after == pytest.approx(expected, rel=1e-9)

    def test_flows_of_a_mixture_hold_out_what_they_are_judged_by(self):
        data = points(400)
        first = vf.train(data, n_flows=4, **QUICK).flow.flows[0]
        changed = data.fx.copy()
        held_out = np.random.default_rng(0).permutation(400)[:100]
        changed[held_out] = changed[held_out][::-1]
        other = vf.train(vf.Dataset(data.x, data.px, changed), n_flows=4, patience=8, **QUICK).flow.flows[0]
        assert not same(first, other)  # as the unit of f and the best epoch follow from them
        plain = {"control_variate": False, **QUICK}
        changed = [vf.train(vf.Dataset(data.x, data.px, f), n_flows=4, **plain) for f in (data.fx, changed)]
        losses = [training.records[0].losses for training in changed]
        np.testing.assert_allclose(*losses, rtol=1e-12)

    def test_defensive_share(self):
        training = vf.train(points(), defensive=0.05, **QUICK)
        assert (training.flow.defensive, len(training.flow.flows)) == (0.05, 1)
        assert np.exp(training.flow.log_prob(points(seed=3).x)).min() >= 0.05

    def test_other_points_can_judge(self):
        test = points(700, seed=2)
        training = vf.train(points(), test=test, **QUICK)
        assert training.evaluation == vf.evaluate(training.flow, test)
        assert vf.train(points(), test=0.3, **QUICK).evaluation.n == 300

    def test_checkpoints_bring_back_the_same_bits(self, tmp_path):
        config = QUICK | {"n_flows": 2, "checkpoint": tmp_path / "run.ckpt", "resume": True}
        once = vf.train(points(), **config)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["run.ckpt.0", "run.ckpt.1"]
        assert same(vf.train(points(), **config).flow, once.flow)
        assert same(vf.train(points(), n_flows=2, **QUICK).flow, once.flow)

    def test_callback_is_told_which_flow_it_is(self):
        seen = []
        vf.train(points(), n_flows=2, callback=lambda k, record: seen.append((k, record.epoch)), **QUICK)
        assert {k for k, _ in seen} == {0, 1}
        assert max(seen) == (1, 8)

    def test_an_optimiser_serves_several_flows(self):
        optim = vf.Adam(lr=1e-2)
        assert len(vf.train(points(), n_flows=2, optim=optim, **QUICK).records) == 2
        assert optim.t == 0

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"loss": "varaince"}, "did you mean 'variance'"),
            ({"n_flows": 0}, "n_flows must be"),
            ({"defensive": 1.0}, r"defensive must be in \[0, 1\)"),
            ({"test": 1.5}, "test must be between 0 and 1"),
            ({"n_epoch": 3}, "did you mean 'n_epochs'"),
            ({"cell": "pwquadratic"}, "did you mean 'pwquad'"),
        ],
    )
    def test_refusals(self, options, match):
        with pytest.raises((TypeError, ValueError), match=match):
            vf.train(points(), **options)

    def test_data_that_are_no_dataset(self):
        with pytest.raises(TypeError, match="data must be a Dataset, got tuple"):
            vf.train((np.zeros((60, 2)), np.ones(60), np.ones(60)))


class TestWhatIsTold:
    @pytest.mark.parametrize(("n", "n_nonzero"), [(49, 49), (200, 9)])
    def test_too_few_points(self, n, n_nonzero):
        x = np.random.default_rng(1).random((n, 2))
        data = vf.Dataset(x, np.ones(n), np.arange(n) < n_nonzero)
        flow = vf.Flow(2, seed=1)
        before = flow.params.copy()
        for refused in (
            lambda: vf.train(data),
            lambda: vf.BasicStatefulVarTrainer(flow).train_on_dataset(data),
            lambda: vf.StatefulTrainer(2).train_on_batch(data.x, data.px, data.fx),
        ):
            with pytest.raises(ValueError, match=rf"at least 50 points, 10 .* got {n} points, {n_nonzero} "):
                refused()
        np.testing.assert_array_equal(flow.params, before)

    def test_the_fewest_points_are_learnt_from(self):
        training = vf.train(points(56, f=lambda x: 1 + x[:, 0]), **QUICK)
        assert np.isfinite(training.evaluation.variance_after)

    def test_points_that_were_given_twice(self, caplog):
        data = points(300)
        training = vf.train(vf.Dataset.concatenate(data, data), test=points(seed=3), **QUICK)
        assert any("300 of 600 points are copies" in warning for warning in training.warnings)
        assert "copies" in caplog.text

    def test_p_that_is_not_normalised_takes_the_control_variate_away(self, caplog):
        wrong = points(2000, scale=3.0)
        training = vf.train(wrong, **QUICK)
        assert any("p is not normalised" in warning for warning in training.warnings)
        plain = vf.train(points(2000), control_variate=False, **QUICK)
        said = vf.train(wrong, p_normalized=False, **QUICK)
        x = points(seed=5).x
        for other in (plain, said):
            np.testing.assert_allclose(training.flow.log_prob(x), other.flow.log_prob(x), atol=1e-3)
        assert not any("normalised" in warning for warning in said.warnings + plain.warnings)
        right = vf.train(points(2000), **QUICK)
        assert right.evaluation.variance_after < training.evaluation.variance_after

    @pytest.mark.parametrize("constant", [0.3, 100.0])
    def test_p_without_its_constant_is_no_reason_to_keep_it(self, constant):
        training = vf.train(points(2000, scale=constant), p_normalized=False, threads=1)
        assert not any("keep sampling from p" in warning for warning in training.warnings)
        assert training.evaluation.ratio > 5

    def test_a_flow_that_is_no_better_than_p(self, caplog):
        x, logp = vf.Mixture([vf.train(points(2000), **QUICK).flow]).sample(300, seed=1)
        data = vf.Dataset(x, logpx=logp, logfx=logp)  # sampled from f itself: there is nothing to gain
        training = vf.train(data, **QUICK)
        assert any("keep sampling from p" in warning for warning in training.warnings)
        assert "keep sampling from p" in str(training.evaluation)

    def test_f_that_hardly_any_point_has_seen(self, caplog):
        narrow = points(2000, f=lambda x: np.exp(-1e5 * ((x - 0.4) ** 2).sum(axis=1)))
        training = vf.train(narrow, test=points(seed=2), **QUICK)
        assert any("f is so narrow that" in warning for warning in training.warnings)
        record = training.records[0]
        assert record.warnings
        assert caplog.records[-1].levelno == logging.WARNING


class TestRules:
    def test_minibatches_have_nearly_equally_many_rows(self):
        for n in (50, 321, 1875, 2000, 20_000, 200_001, 1_234_567):
            rows = recipe.rows_a_step(n)
            last = n - rows * (-(-n // rows) - 1)
            assert 1 <= rows <= n
            assert last > 0.8 * rows

    def test_more_points_need_fewer_epochs_and_more_steps(self):
        sizes = [50, 500, 2000, 20_000, 200_000, 10_000_000]
        epochs = [recipe.n_epochs_for(n) for n in sizes]
        assert epochs == sorted(epochs, reverse=True)
        steps = [n * e / recipe.rows_a_step(n) for n, e in zip(sizes, epochs, strict=True)]
        assert steps[1:] == sorted(steps[1:])

    def test_sizes_that_are_given_stay(self):
        flow = vf.Flow(2, n_bins=5, repetitions=1, seed=1)
        assert (flow.architecture.n_bins, flow.architecture.repetitions) == (5, 1)
        assert flow.architecture.n_hidden == default_sizes(2, "pwquad")["n_hidden"]

    def test_many_points_get_a_deeper_flow(self):
        assert default_sizes(4, "pwquad", 20_000)["n_hidden"] > default_sizes(4, "pwquad", 2000)["n_hidden"]


class TestLearningCurve:
    def test_variance_falls_with_points(self):
        sizes = []
        curve = vf.learning_curve(points(1600), progress=sizes.append, threads=1)
        assert sizes == curve.n.tolist() == [1440 // part for part in PARTS]
        assert curve.exponent > 0
        assert curve.variance[-1] < curve.variance[0] < curve.variance_before
        assert curve.training.evaluation.variance_after == curve.variance[-1]
        assert curve.points_for(curve.variance[-1] / 10) > 1440
        assert f"{1440:>12,}" in str(curve)

    def test_power_law_is_that_of_the_points(self):
        made = vf.LearningCurve(
            n=np.array([10, 100]), variance=np.array([1.0, 0.1]), variance_error=np.zeros(2),
            variance_before=3.0, exponent=1.0, exponent_error=0.1, log_prefactor=math.log(10), training=None,
        )  # fmt: skip
        assert made.points_for(0.01) == pytest.approx(1000)
        with pytest.raises(ValueError, match="above 0"):
            made.points_for(0.0)
        assert "needs some 200 points" in str(made)

    def test_points_that_bring_nothing(self):
        made = vf.LearningCurve(
            n=np.array([10, 100]), variance=np.array([1.0, 1.0]), variance_error=np.zeros(2),
            variance_before=3.0, exponent=-0.1, exponent_error=0.1, log_prefactor=0.0, training=None,
        )  # fmt: skip
        assert made.points_for(0.01) == math.inf
        assert "bring nothing" in str(made)

    def test_refusals(self, tmp_path):
        with pytest.raises(ValueError, match="at least 445 points, got 300"):
            vf.learning_curve(points(300))
        with pytest.raises(ValueError, match="no checkpoint"):
            vf.learning_curve(points(), checkpoint=tmp_path / "run.ckpt")


class TestEM:
    """Several flows that each learn a part of f."""

    @staticmethod
    def crossed(x):
        """Lines along both diagonals, of different height."""
        u, v = x.T
        return np.exp(-(((u - v) / 0.03) ** 2)) + 2 * np.exp(-(((u + v - 1) / 0.03) ** 2))

    def test_parts_make_the_whole(self):
        data = points(4000, f=self.crossed)
        training = vf.train(data, n_flows=2, mixture="em", seed=1, **SMALL | {"n_epochs": 20})
        assert isinstance(training.flow, vf.Mixture)
        assert training.flow.weights.sum() == pytest.approx(1)
        assert len(training.records) == 2
        assert training.evaluation.n == 400
        fresh = points(20_000, seed=2, f=self.crossed)
        alone = vf.train(data, seed=1, **SMALL | {"n_epochs": 40})
        assert (
            vf.evaluate(training.flow, fresh).variance_after < vf.evaluate(alone.flow, fresh).variance_after
        )

    def test_responsibilities(self):
        """They begin as clusters, and sum to 1 at each point, before and after a round."""

        def camel(x):
            return sum(np.exp(-100 * ((x - center) ** 2).sum(axis=1)) for center in (0.25, 0.75))

        data = points(f=camel)
        begin = begin_responsibilities(data, 2, seed=1)
        assert np.exp(begin).sum(axis=1) == pytest.approx(1)
        near = np.abs(data.x - 0.25).max(axis=1) < 0.1
        far = np.abs(data.x - 0.75).max(axis=1) < 0.1
        assert np.unique(begin[near].argmax(axis=1)) != np.unique(begin[far].argmax(axis=1))
        flows = [vf.Flow(2, n_bins=4, d_hidden=8, seed=seed) for seed in range(2)]
        after = responsibilities(data, flows, np.array([0.25, 0.75]), ALONE)
        mixture = vf.Mixture(flows, weights=[1, 3])
        parts = np.stack(
            [0.25 * np.exp(flows[0].log_prob(data.x)), 0.75 * np.exp(flows[1].log_prob(data.x))], axis=1
        )
        assert np.exp(after) == pytest.approx(parts / np.exp(mixture.log_prob(data.x))[:, None])

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="mixture='em' needs n_flows above 1"):
            vf.train(points(), mixture="em")
        with pytest.raises(ValueError, match="mixture"):
            vf.train(points(), mixture="kmeans", n_flows=2)
        with pytest.raises(ValueError, match="mixture='em' keeps no checkpoint"):
            vf.train(points(), mixture="em", n_flows=2, checkpoint="em.ckpt")
