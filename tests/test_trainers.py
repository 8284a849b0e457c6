"""Trainers: what they learn, that they always learn it the same way, and how they get through trouble."""

import copy
import inspect
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from threading import Barrier

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import percent_of_examples

import varflow as vf
from varflow import Adam, Dataset, Flow, InvalidLossError, NoCheckpoint, TrainingInterruption
from varflow.runtime.threads import SLICE
from varflow.training.adam import SCHEDULES
from varflow.training.settings import TrainingConfig

N, MINIBATCH = 700, 130  # which does not divide the rows, held out or not

LOSSES = {
    "variance": (
        vf.weighted_variance_loss,
        lambda fx, px, logqx: -(fx**2) / (px * np.exp(logqx)) / len(fx),
    ),
    "dkl": (vf.weighted_dkl_loss, lambda fx, px, logqx: -np.abs(fx) / px / len(fx)),
}


class RisingPrior:
    """Latent density, product of 1/2 + z over the coordinates."""

    def log_prob(self, z):
        return np.log(0.5 + z).sum(axis=1)

    def grad_log_prob(self, z):
        return 1 / (0.5 + z)

    def sample(self, n, generator):
        return np.sqrt(0.25 + 2 * generator.random((n, 2))) - 0.5


class WatchedLoss:
    """The variance loss, told by p which rows it is called with; NaN at the calls that are numbered in `bad`.

    Calls are counted from 0: in a stateful training one before it, one a step, before it, and one after each
    epoch. `params` are those at each call.
    """

    def __init__(self, flow, bad=(), fails_in="value"):
        self.flow, self.bad, self.fails_in = flow, bad, fails_in
        self.params, self.valued, self.derived = [], [], []

    def __iter__(self):  # a pair (value, derivative)
        return iter((self.value, self.derivative))

    def value(self, fx, px, logqx):
        self.params.append(self.flow.params.copy())
        self.valued.append(px)
        return math.nan if self.fails("value") else LOSSES["variance"][0](fx, px, logqx)

    def derivative(self, fx, px, logqx):
        self.derived.append(px)
        derivative = LOSSES["variance"][1](fx, px, logqx)
        if self.fails("derivative"):
            derivative[-1] = math.nan
        return derivative

    def fails(self, where):
        return self.fails_in == where and len(self.params) - 1 in self.bad


def peak(x):
    return np.exp(-30 * ((x - 0.4) ** 2).sum(axis=1))


def points(n=N, d=2, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.random((n, d))
    return x, rng.uniform(0.5, 2.0, n), peak(x)


def uniform_points(n, d=2, seed=1):
    x = np.random.default_rng(seed).random((n, d))
    return x, np.ones(n), peak(x)


def make_flow(d=2, **options):
    sizes = {"n_bins": 4, "d_hidden": 8, "n_hidden": 1, "repetitions": 1}
    return Flow(d, **{"cell": "pwlinear", **sizes, "seed": 1} | options)


def make_trainer(loss="variance", prior=None, flow=None, **config):
    config = {"n_epochs": 3, "minibatch_size": MINIBATCH, "holdout": 0.1, "optim": Adam(lr=1e-2)} | config
    loss = tuple(loss) if isinstance(loss, WatchedLoss) else loss
    return vf.BasicStatefulTrainer(make_flow() if flow is None else flow, prior, loss=loss, **config)


def trained(data, loss="variance", prior=None, config=None, **flow_options):
    """Flow that was trained on (x, px, fx) or a dataset."""
    data = data if isinstance(data, Dataset) else Dataset(*data, bounds=flow_options.get("bounds"))
    trainer = make_trainer(loss, prior, make_flow(data.d, **flow_options), **(config or {}))
    trainer.train_on_dataset(data)
    return trainer.flow


def held_out_rows(fraction, seed=0):
    """Rows that a training on `points()` holds out, found from the outside: those that no gradient saw."""
    px = points()[1]
    loss = WatchedLoss(make_flow())
    make_trainer(loss, flow=loss.flow, n_epochs=1, holdout=fraction, seed=seed).train_on_batch(*points())
    rows = np.flatnonzero(~np.isin(px, np.concatenate(loss.derived)))
    assert len(rows) == round(fraction * N)
    return rows


def relative_variance(weights):
    return weights.var() / weights.mean() ** 2


def assert_same(found, expected):
    """The same bits."""
    np.testing.assert_array_equal(found, expected)


def assert_close(found, expected):
    """The same to rounding, in float64 and after some dozen steps; a wrong factor anywhere shows in 1e-3."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


class TestLearning:
    @pytest.mark.parametrize("loss", LOSSES)
    def test_beats_uniform_and_lowers_the_loss_on_a_peak(self, loss):
        flow = make_flow(n_bins=8, d_hidden=16)
        trainer = make_trainer(loss, flow=flow, n_epochs=20, minibatch_size=200)
        unseen = uniform_points(4000, seed=2)
        before = trainer.compute_loss(*unseen)
        record = trainer.train_on_batch(*uniform_points(4000))
        assert record.best_loss < record.epoch_losses[0]
        assert trainer.compute_loss(*unseen) < before
        evaluation = vf.evaluate(flow, Dataset(*unseen))
        assert evaluation.ratio > 10
        x, logqx = flow.sample(4000, seed=3)
        assert relative_variance(peak(x) / np.exp(logqx)) < 0.25 < 3.5 < evaluation.variance_before

    @pytest.mark.parametrize("loss", LOSSES)
    @pytest.mark.parametrize("by_hand", [False, True])
    def test_finds_the_optimum_in_one_dimension(self, loss, by_hand):
        # Bins are then all there is to learn, and what makes each loss least on given points is known.
        x, px, _ = points(500, d=1)
        fx = np.exp(-2 * x[:, 0]) * np.random.default_rng(3).normal(size=500)
        config = {"optim": Adam(lr=0.1, schedule="cosine"), "n_epochs": 500, "minibatch_size": 1.0}
        config |= {"control_variate": False, "patience": 500}
        flow = trained(
            (x, px, fx), LOSSES[loss] if by_hand else loss, config=config | {"holdout": 0}, dtype="float64"
        )
        terms = {"variance": fx**2 / px, "dkl": np.abs(fx) / px}[loss]
        best = np.bincount((4 * x[:, 0]).astype(int), terms) ** {"variance": 0.5, "dkl": 1}[loss]
        q = np.exp(flow.log_prob([[0.1], [0.3], [0.6], [0.9]]))
        np.testing.assert_allclose(q, 4 * best / best.sum(), rtol=1e-6)

    def test_latent_prior_is_trained_through_and_sampled_from(self):
        flow = make_flow(n_bins=8)
        trainer = make_trainer(prior=RisingPrior(), flow=flow, n_epochs=20, minibatch_size=200)
        x, px = trainer.sample_forward(4000, seed=3)
        np.testing.assert_allclose(px, np.prod(0.5 + x, axis=1), rtol=1e-12)  # a new flow is the identity
        before = relative_variance(peak(x) / px)
        trainer.train_on_batch(*uniform_points(4000))
        x, px = trainer.sample_forward(4000, seed=3)
        z, log_det = flow.to_latent(x)
        np.testing.assert_allclose(px, np.prod(0.5 + z, axis=1) * np.exp(log_det), rtol=1e-9)
        assert relative_variance(peak(x) / px) < 0.3 * before
        # 1/px averages to the volume of the cube only if px is the density that they were drawn from.
        inverse = 1 / px
        assert abs(inverse.mean() - 1) < 4 * inverse.std() / math.sqrt(4000)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_no_change_of_a_parameter_improves_on_the_end_of_a_training_with_a_prior(self, loss):
        x, px, _ = points(500, d=1)
        data = x, px, np.exp(-2 * x[:, 0])
        flow = make_flow(1, dtype="float64")
        trainer = make_trainer(
            loss, RisingPrior(), flow, holdout=0, minibatch_size=1.0, control_variate=False, patience=500
        )
        trainer.train_on_batch(*data, n_epochs=500, optim=Adam(lr=0.1, schedule="cosine"))
        end, least = flow.params.copy(), trainer.compute_loss(*data)
        for change in 0.01 * np.vstack([np.eye(4), -np.eye(4)]):
            flow.params = end + change
            assert trainer.compute_loss(*data) > least

    def test_goes_on_where_the_last_training_ended(self):
        trainer = make_trainer(n_epochs=1, holdout=0)
        for call in (1, 2, 3):
            trainer.train_on_batch(*points())
            assert trainer.get_config()["optim"].t == call * 6

    @pytest.mark.parametrize("stateful", [True, False])
    def test_average_of_the_parameters_is_what_stays_in_the_flow(self, stateful):
        flow, optim = make_flow(), Adam(lr=1e-2, average=0.9)
        trainer = make_trainer(flow=flow) if stateful else vf.BasicVarTrainer(flow)
        trainer.train_on_target_batch(*points(), optim, 1, MINIBATCH)
        assert_same(flow.params, optim.averaged)
        vf.BasicVarTrainer(raw := make_flow()).train_on_target_batch(*points(), Adam(lr=1e-2), 1, MINIBATCH)
        assert 0 < np.abs(flow.params - raw.params).max() < np.abs(make_flow().params - raw.params).max()

    def test_average_changes_no_step(self):
        losses = [
            make_trainer(optim=Adam(lr=1e-2, average=average)).train_on_batch(*points()).losses
            for average in (0, 0.9)
        ]
        assert losses[0] == losses[1]

    def test_schedule_is_given_the_progress_of_the_training(self, monkeypatch):
        seen = []
        monkeypatch.setitem(SCHEDULES, "cosine", lambda progress: seen.append(progress) or 1.0)
        trainer = make_trainer(optim=Adam(schedule="cosine"), n_epochs=2, minibatch_size=300, holdout=0)
        trainer.train_on_batch(*points())
        assert_close(seen, [epoch / 2 + row / N / 2 for epoch in (0, 1) for row in (0, 300, 600)])


class FlatPrior:
    """The uniform density in latent space, given as a prior of the user's."""

    def log_prob(self, z):
        return np.zeros(len(z))

    def grad_log_prob(self, z):
        return np.zeros_like(z)

    def sample(self, n, generator):
        return generator.random((n, 2))


class TestControlVariate:
    @pytest.mark.parametrize("loss", LOSSES)
    @pytest.mark.parametrize("bounds", [None, [[-1, 3], [0, 0.5]]])
    def test_is_the_same_in_the_kernels_and_by_the_derivative(self, loss, bounds):
        x, px, fx = points()
        x = (
            np.array(make_flow(bounds=bounds).bounds)[:, 0]
            + x * np.diff(make_flow(bounds=bounds).bounds)[:, 0]
        )
        flows = [
            trained((x, px, fx), loss, prior, dtype="float64", bounds=bounds) for prior in (None, FlatPrior())
        ]
        assert_close(flows[0].params, flows[1].params)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_leaves_the_expectation_of_the_gradient_as_it_is(self, loss):
        flow = make_flow(dtype="float64")
        flow.params = 0.5 * np.random.default_rng(1).normal(size=flow.n_params)
        data, rows = Dataset(*uniform_points(200_000)), np.arange(200_000)
        steps = []
        for control_variate in (True, False):
            trainer = vf.BasicTrainer(flow.copy(), loss=loss, control_variate=control_variate)
            optim = Adam(lr=1e-12)
            trainer.step(trainer.objective(data), rows, optim)
            steps.append(optim.m / 0.1)
        noise = 5 / math.sqrt(200_000)  # of means of numbers of order one
        np.testing.assert_allclose(steps[0], steps[1], rtol=0, atol=noise)
        assert np.abs(steps[1]).max() > 10 * noise

    @pytest.mark.parametrize("loss", LOSSES)
    def test_leaves_no_gradient_where_q_is_f(self, loss):
        flow = make_flow(dtype="float64")
        flow.params = 0.5 * np.random.default_rng(1).normal(size=flow.n_params)
        x, px, _ = uniform_points(100)
        q = np.exp(flow.log_prob(x))
        data = Dataset(x, px / np.mean(q), q)  # of which mean(f/p) is one
        sizes = {}
        for control_variate in (True, False):
            trainer, optim = vf.BasicTrainer(flow, loss=loss, control_variate=control_variate), Adam(lr=1e-12)
            objective = trainer.objective(data)
            ratios = np.log(q) - data.logpx  # in units of the integral of q, which is one
            trainer.step(
                objective.learning(lambda begin, end, ratios=ratios: ratios[begin:end]), np.arange(100), optim
            )
            sizes[control_variate] = np.abs(optim.m).max()
        assert sizes[True] < 0.2 * sizes[False]

    def test_teaches_far_more_with_few_points(self):
        x, px, fx = uniform_points(500)
        variances = []
        for control_variate in (True, False):
            flow = Flow(2, seed=1, threads=1)
            vf.BasicStatefulVarTrainer(flow, control_variate=control_variate).train_on_batch(x, px, fx)
            variances.append(vf.evaluate(flow, Dataset(*uniform_points(20_000, seed=2))).variance_after)
        assert variances[0] < 0.2 * variances[1]

    def test_narrow_f_does_not_mislead(self):
        # Of 2000 points, some three carry f: what is learnt must stay wide.
        def f(x):
            return np.exp(-2000 * ((x - 0.4) ** 2).sum(axis=1))

        x = uniform_points(2000, d=3)[0]
        flow = Flow(3, seed=1, threads=1)
        record = vf.BasicStatefulVarTrainer(flow).train_on_batch(x, np.ones(2000), f(x))
        assert "f is so narrow" in record.warnings[0]
        x = uniform_points(200_000, d=3, seed=2)[0]
        evaluation = vf.evaluate(flow, Dataset(x, np.ones(200_000), f(x)))
        assert evaluation.variance_after < 0.3 * evaluation.variance_before

    def test_reported_losses_are_those_of_f(self):
        flow = make_flow(dtype="float64")
        x, px, fx = uniform_points(700)
        record = make_trainer(flow=flow, n_epochs=1, minibatch_size=1.0).train_on_batch(x, px, fx)
        rows = np.setdiff1d(np.arange(700), held_out_rows(0.1))
        plain = make_flow(dtype="float64")
        expected = np.mean((fx / fx.mean())[rows] ** 2 / np.exp(plain.log_prob(x[rows])))
        assert record.losses[0] == pytest.approx(expected, rel=1e-9)


class TestStateOfTheOptimiser:
    """It belongs to the flow that it was made for."""

    @pytest.mark.parametrize("average", [0.0, 0.9])
    def test_another_flow_is_refused_until_it_is_reset(self, average):
        flows, optim = [make_flow(), make_flow(), make_flow()], Adam(average=average)
        vf.BasicVarTrainer(flows[0]).train_on_target_batch(*points(), optim, 1, 1.0)
        before, state = flows[1].params.copy(), optim.state()
        with pytest.raises(ValueError, match=r"1 steps with another flow: make a new Adam .* optim\.reset"):
            vf.BasicVarTrainer(flows[1]).train_on_target_batch(*points(), optim, n_epochs=1)
        assert_same(flows[1].params, before)
        assert_same(optim.m, state.m)
        optim.reset()
        vf.BasicVarTrainer(flows[1]).train_on_target_batch(*points(), optim, n_epochs=1)
        vf.BasicVarTrainer(flows[2]).train_on_target_batch(*points(), Adam(average=average), n_epochs=1)
        assert_same(flows[1].params, flows[2].params)

    def test_a_flow_that_is_gone_is_another_one(self):
        optim = Adam()
        vf.BasicVarTrainer(make_flow()).train_on_target_batch(*points(), optim, n_epochs=1)
        with pytest.raises(ValueError, match="another flow"):
            vf.BasicVarTrainer(make_flow()).train_on_target_batch(*points(), optim, n_epochs=1)

    def test_what_is_restored_belongs_to_the_flow_of_the_trainer(self):
        optim = Adam()
        first, second = (vf.BasicStatefulVarTrainer(make_flow(), optim=optim, n_epochs=1) for _ in range(2))
        first.train_on_batch(*points())
        before = second.flow.params.copy()
        for _ in range(2):
            first.restore_checkpoint()
            with pytest.raises(ValueError, match="another flow"):
                second.train_on_batch(*points())
            assert second.good_state is None
        assert_same(second.flow.params, before)

    def test_another_trainer_of_the_same_flow_goes_on(self):
        flows, optims = [make_flow(), make_flow()], [Adam(), Adam()]
        trainer = vf.BasicVarTrainer(flows[0])
        for _ in range(2):
            trainer.train_step_on_target_minibatch(*points(), optims[0])
            vf.BasicVarTrainer(flows[1]).train_step_on_target_minibatch(*points(), optims[1])
        assert_same(flows[0].params, flows[1].params)

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
    def test_copies_of_flow_and_optimiser_go_on_together(self, copied):
        flow, optim = make_flow(), Adam()
        vf.BasicVarTrainer(flow).train_step_on_target_minibatch(*points(), optim)
        for one, its_optim in ((flow, optim), copied((flow, optim))):
            vf.BasicVarTrainer(one).train_step_on_target_minibatch(*points(), its_optim)
            assert its_optim.t == 2
        with pytest.raises(ValueError, match="another flow"):
            vf.BasicVarTrainer(flow.copy()).train_step_on_target_minibatch(*points(), optim)


class TestReproducibility:
    @pytest.mark.parametrize("minibatch_size", [MINIBATCH, 1.0])
    @pytest.mark.parametrize("loss", [*LOSSES, LOSSES["variance"]], ids=[*LOSSES, "custom"])
    @pytest.mark.parametrize("prior", [None, RisingPrior()])
    def test_same_seed_same_bits_on_any_number_of_threads(self, loss, minibatch_size, prior):
        config = {"minibatch_size": minibatch_size, "seed": 5}
        one, two, four = (trained(points(), loss, prior, config, threads=k).params for k in (1, 2, 4))
        assert_same(two, one)
        assert_same(four, one)
        other_seed = trained(points(), loss, prior, config | {"seed": 6}).params
        assert not np.array_equal(other_seed, one)

    def test_wide_networks_train_to_the_same_bits_on_any_number_of_threads(self):
        # Threads share out parameters, too, where there are so many.
        one, two, four = (
            trained(points(d=4), config={"n_epochs": 2}, d_hidden=256, n_hidden=2, threads=k)
            for k in (1, 2, 4)
        )
        assert one.n_params > 4 * SLICE
        assert_same(two.params, one.params)
        assert_same(four.params, one.params)

    def test_two_python_threads_train_at_once_as_if_alone(self):
        alone = {seed: trained(points(seed=seed), threads=2).params for seed in (1, 2)}
        barrier = Barrier(2)

        def train_with_the_other(seed):
            barrier.wait(timeout=60)
            return [trained(points(seed=seed), threads=2).params for _ in range(5)]

        with ThreadPoolExecutor(2) as pool:
            for seed, found in zip(alone, pool.map(train_with_the_other, alone), strict=True):
                for params in found:
                    assert_same(params, alone[seed])

    @pytest.mark.parametrize("loss", [*LOSSES, LOSSES["variance"]], ids=[*LOSSES, "custom"])
    @given(st.integers(-900, 900))
    @example(400)
    @example(-400)
    @percent_of_examples(8)
    def test_units_of_f_that_are_powers_of_two_change_no_bit(self, loss, exponent):
        x, px, fx = points()
        found, expected = (
            trained((x, px, f), loss, dtype="float64").params for f in (fx * 2.0**exponent, fx)
        )
        assert_same(found, expected)

    @pytest.mark.parametrize("loss", LOSSES)
    @given(st.floats(-150, 150).map(lambda log: 10**log))
    @example(1e150)
    @example(1e-150)
    @percent_of_examples(8)
    def test_other_units_of_f_change_rounding_only(self, loss, unit):
        x, px, fx = points()
        found, expected = (trained((x, px, f), loss, dtype="float64").params for f in (fx * unit, fx))
        assert_close(found, expected)

    @pytest.mark.parametrize("loss", LOSSES)
    @pytest.mark.parametrize("shift", [0, 1000, -1000])  # exp(±1000) is no float
    def test_log_f_and_log_p_train_as_f_and_p_do(self, loss, shift):
        x, px, fx = points()
        logs = Dataset(x, logpx=np.log(px), logfx=np.log(fx) + shift)
        expected = trained((x, px, fx), loss, dtype="float64").params
        assert_close(trained(logs, loss, dtype="float64").params, expected)

    @pytest.mark.parametrize("loss", [*LOSSES, LOSSES["dkl"]], ids=[*LOSSES, "custom"])
    def test_sign_of_f_changes_no_bit(self, loss):
        x, px, fx = points()
        signed = fx * np.random.default_rng(2).choice([-1, 1], N)
        assert_same(trained((x, px, signed), loss).params, trained((x, px, fx), loss).params)

    @pytest.mark.parametrize(
        "convert",
        [
            np.ndarray.tolist,
            np.asfortranarray,
            lambda a: np.repeat(a, 2, axis=0)[::2],
            lambda a: a[::-1].copy()[::-1],
        ],
        ids=["list", "fortran", "strided", "reversed"],
    )
    def test_how_arrays_are_stored_changes_no_bit(self, convert):
        expected = trained(points()).params
        trainer = make_trainer()
        trainer.train_on_batch(*map(convert, points()))
        assert_same(trainer.flow.params, expected)

    def test_float32_points_are_taken_as_float64(self):
        small = [a.astype(np.float32) for a in points()]
        assert_same(trained(small).params, trained([a.astype(np.float64) for a in small]).params)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_loss_given_as_functions_trains_as_the_named_one_does(self, loss):
        plain = {"control_variate": False}  # which losses given as functions do not have
        by_name = trained(points(), loss, config=plain, dtype="float64").params
        assert_close(trained(points(), LOSSES[loss], dtype="float64").params, by_name)
        assert_close(trained(points(), vf.Loss(*LOSSES[loss]), dtype="float64").params, by_name)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_box_trains_as_the_unit_cube_does(self, loss):
        bounds = np.array([[-3.0, 5.0], [10.0, 10.3]])
        lower, width, volume = bounds[:, 0], bounds[:, 1] - bounds[:, 0], 8 * 0.3
        x, px, fx = points()
        cube = trained((x, px, fx), loss, dtype="float64")
        box = trained((lower + width * x, px / volume, fx), loss, bounds=bounds, dtype="float64")
        assert_close(box.params, cube.params)
        inside = np.random.default_rng(4).random((50, 2))
        np.testing.assert_allclose(
            box.log_prob(lower + width * inside), cube.log_prob(inside) - math.log(volume), rtol=0, atol=1e-11
        )
        x, px = vf.BasicVarTrainer(box).sample_forward(2000, seed=1)
        assert ((x >= bounds[:, 0]) & (x <= bounds[:, 1])).all()
        np.testing.assert_allclose(np.log(px), box.log_prob(x), rtol=0, atol=1e-11)
        assert abs((1 / px).mean() / volume - 1) < 4 * (1 / px).std() / volume / math.sqrt(2000)


class TestStateless:
    TRAINERS = (vf.BasicVarTrainer, vf.BasicDKLTrainer)

    @pytest.mark.parametrize("make", TRAINERS)
    @pytest.mark.parametrize("bounds", [None, [[-3, 5], [10, 11]]])
    def test_step_returns_the_loss_before_it_in_units_of_the_integral(self, make, bounds):
        trainer = make(flow := make_flow(dtype="float64", bounds=bounds))
        flow.params = 0.3 * np.random.default_rng(1).normal(size=flow.n_params)
        x, px, fx = points()
        x = flow.bounds[:, 0] + (flow.bounds[:, 1] - flow.bounds[:, 0]) * x
        value = {vf.BasicVarTrainer: vf.weighted_variance_loss, vf.BasicDKLTrainer: vf.weighted_dkl_loss}[
            make
        ]
        expected = value(fx / np.mean(fx / px), px, flow.log_prob(x))
        assert trainer.compute_loss(x, px, 7 * fx) == pytest.approx(expected, rel=1e-12)
        assert trainer.train_step_on_target_minibatch(x, px, 7 * fx, Adam()) == pytest.approx(
            expected, rel=1e-12
        )
        assert trainer.compute_loss(x, px, fx) < expected

    @pytest.mark.parametrize("make", TRAINERS)
    def test_epochs_without_minibatches_are_steps(self, make):
        by_steps, by_epochs = make(make_flow(dtype="float64")), make(make_flow(dtype="float64"))
        optim = Adam(lr=1e-2)
        for _ in range(5):
            by_steps.train_step_on_target_minibatch(*points(), optim)
        by_epochs.train_on_target_batch(*points(), Adam(lr=1e-2), 5, minibatch_size=1.0)
        assert_close(by_epochs.flow.params, by_steps.flow.params)
        assert optim.t == 5

    @pytest.mark.parametrize("make", TRAINERS)
    def test_one_epoch_is_train_step_on_target_batch(self, make):
        flows = [make_flow(), make_flow()]
        make(flows[0]).train_step_on_target_batch(*points(), Adam(), MINIBATCH)
        make(flows[1]).train_on_target_batch(*points(), Adam(), 1, minibatch_size=MINIBATCH / N)
        assert_same(flows[0].params, flows[1].params)

    @pytest.mark.parametrize("make", [vf.BasicTrainer, vf.BasicStatefulTrainer])
    def test_each_call_takes_minibatches_of_its_own(self, make):
        x, px, fx = points()
        loss = WatchedLoss(make_flow())
        trainer, optim = make(loss.flow, loss=tuple(loss)), Adam()
        if make is vf.BasicStatefulTrainer:
            trainer.set_config(holdout=0)
        for _ in range(3):
            trainer.train_step_on_target_batch(x, px, fx, optim, MINIBATCH)
        n_steps = -(-N // MINIBATCH)
        calls = [np.concatenate(loss.derived[k : k + n_steps]) for k in range(0, 3 * n_steps, n_steps)]
        for call in calls:
            assert_same(np.sort(call), np.sort(px))
        assert not any(np.array_equal(one, other) for one, other in pairwise(calls))

    @pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
    def test_a_schedule_needs_the_progress_of_a_step(self, schedule):
        trainer = vf.BasicVarTrainer(make_flow())
        objective, rows = trainer.objective(Dataset(*points())), np.arange(N)
        with pytest.raises(ValueError, match="call train_on_target_batch with n_epochs"):
            trainer.step(objective, rows, Adam(schedule=schedule))
        assert np.isfinite(trainer.step(objective, rows, Adam(schedule=schedule), progress=0.5))

    @pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
    def test_a_schedule_needs_the_length_of_the_training(self, schedule):
        trainer, optim = vf.BasicVarTrainer(make_flow()), Adam(schedule=schedule)
        before = trainer.flow.params.copy()
        for train in (trainer.train_step_on_target_minibatch, trainer.train_step_on_target_batch):
            with pytest.raises(ValueError, match="call train_on_target_batch with n_epochs"):
                train(*points(), optim)
        assert_same(trainer.flow.params, before)
        assert optim.t == 0

    @pytest.mark.parametrize("make", [vf.BasicVarTrainer, vf.BasicStatefulVarTrainer])
    def test_a_schedule_spans_all_batches(self, make, monkeypatch):
        seen = []
        monkeypatch.setitem(SCHEDULES, "cosine", lambda progress: seen.append(progress) or 1.0)
        trainer = make(make_flow())
        if make is vf.BasicStatefulVarTrainer:
            trainer.set_config(holdout=0)
        trainer.train_on_target_batches_from_posterior(
            f=peak, batch_size=100, n_batches=3, n_epochs_per_batch=2, minibatch_size=50,
            target_posterior=trainer.sample_forward, optim=Adam(schedule="cosine"),
        )  # fmt: skip
        assert_close(seen, np.arange(12) / 12)

    def test_each_epoch_takes_every_row_once_in_another_order(self):
        x, px, fx = points()
        loss = WatchedLoss(make_flow())
        vf.BasicTrainer(loss.flow, loss=tuple(loss)).train_on_target_batch(x, px, fx, Adam(), 3, MINIBATCH)
        epochs = np.concatenate(loss.derived).reshape(3, N)
        for order in epochs:
            assert_same(np.sort(order), np.sort(px))
        assert not any(np.array_equal(a, b) for a, b in pairwise([px, *epochs]))

    @pytest.mark.parametrize("make", TRAINERS)
    def test_batches_from_the_posterior_are_drawn_and_learnt_in_turn(self, make):
        n_drawn = []

        def draw(n):
            n_drawn.append(n)
            return uniform_points(n, seed=len(n_drawn))[:2]

        flow, optim = make_flow(), Adam()
        make(flow).train_on_target_batches_from_posterior(
            f=peak, batch_size=300, n_batches=3, n_epochs_per_batch=2, minibatch_size=130,
            target_posterior=draw, optim=optim,
        )  # fmt: skip
        assert n_drawn == [300, 300, 300]
        assert optim.t == 3 * 2 * 3
        expected, expected_optim = make(make_flow()), Adam()
        for seed in (1, 2, 3):
            expected.train_on_target_batch(*uniform_points(300, seed=seed), expected_optim, 2, 130)
        assert_same(flow.params, expected.flow.params)

    def test_batch_from_the_posterior(self):
        trainer = vf.BasicVarTrainer(make_flow())
        x, px, fx = trainer.generate_target_batch_from_posterior(
            50, lambda x: peak(x).tolist(), trainer.sample_forward
        )
        assert (x.shape, px.shape) == ((50, 2), (50,))
        assert_same(fx, peak(x))

    def test_sample_forward_is_reproducible_and_gives_the_density(self):
        trainer = vf.BasicVarTrainer(trained(points()))
        x, px = trainer.sample_forward(100, seed=1)
        assert_same(px, np.exp(trainer.flow.sample(100, seed=1)[1]))
        assert_same(trainer.sample_forward(100, seed=1)[0], x)
        assert not np.array_equal(trainer.sample_forward(100)[0], trainer.sample_forward(100)[0])

    @pytest.mark.parametrize("fails_in", ["value", "derivative"])
    def test_step_that_fails_leaves_flow_and_optimiser_as_before(self, fails_in):
        loss, optim, states = WatchedLoss(make_flow(), bad=[7], fails_in=fails_in), Adam(average=0.9), []

        def value(*args):
            states.append(optim.state())
            return loss.value(*args)

        trainer = vf.BasicTrainer(loss.flow, loss=(value, loss.derivative))
        with pytest.raises(InvalidLossError, match=r"loss is nan|gradient is not finite"):
            trainer.train_on_target_batch(*points(), optim, 3, MINIBATCH)
        assert_same(trainer.flow.params, loss.params[-1])
        assert optim.t == 7
        for found, expected in zip(optim.state(), states[-1], strict=True):
            assert_same(found, expected)


class TestStateful:
    MAKERS = (
        vf.BasicStatefulVarTrainer,
        vf.BasicStatefulDKLTrainer,
        lambda flow, **config: vf.StatefulTrainer(2, "dkl", flow, **config),
        lambda flow, **config: vf.StatefulTrainer(2, LOSSES["variance"], flow, **config),
    )

    @pytest.mark.parametrize("make", MAKERS)
    def test_every_method_of_zunis_is_there_and_trains(self, make):
        trainer = make(make_flow(), minibatch_size=MINIBATCH)
        optim = Adam(lr=1e-2)
        x, px = trainer.sample_forward(N, seed=1)
        batch = trainer.generate_target_batch_from_posterior(N, peak, lambda n: (x, px))
        trainings = [
            lambda: trainer.train_on_batch(*batch, n_epochs=2),
            lambda: trainer.train_on_target_batch(*batch, optim, 2, MINIBATCH),
            lambda: trainer.train_step_on_target_batch(*batch, optim, MINIBATCH),
            lambda: trainer.train_step_on_target_minibatch(*batch, optim),
            lambda: trainer.train_on_target_batches_from_posterior(
                f=peak, batch_size=N, n_batches=2, n_epochs_per_batch=3,
                target_posterior=trainer.sample_forward, optim=optim,
            ),
        ]  # fmt: skip
        for train in trainings:
            trainer.reset()
            optim.reset()
            before = trainer.compute_loss(*batch)
            train()
            assert trainer.compute_loss(*batch) < before
        trainer.set_checkpoint()
        trainer.restore_checkpoint()
        trainer.set_config(n_epochs=7)
        assert trainer.get_config()["n_epochs"] == 7

    def test_stateful_trainer_makes_its_flow(self):
        options = {"n_bins": 5, "d_hidden": 8, "seed": 3, "bounds": [[0, 2]] * 3}
        trainer = vf.StatefulTrainer(3, "dkl", flow="pwlinear", flow_options=options, n_epochs=4)
        expected = Flow(3, "pwlinear", **options)
        assert trainer.flow.architecture == expected.architecture
        assert_same(trainer.flow.params, expected.params)
        assert_same(trainer.flow.bounds, expected.bounds)
        assert trainer.get_config()["n_epochs"] == 4
        assert vf.StatefulTrainer(2, flow_prior=(prior := RisingPrior())).latent_prior is prior

    def test_record_says_what_happened(self):
        trainer = make_trainer(n_epochs=4, holdout=0.25)
        calls = []
        record = trainer.train_on_batch(
            *points(), callback=lambda record: calls.append((id(record), record.step, record.epoch))
        )
        assert record is trainer.record
        # 525 rows, four minibatches and a rest: after each of these five steps, and after the epoch.
        steps = [(5 * epoch + step, epoch) for epoch in range(4) for step in range(1, 6)]
        assert calls == sorted((id(record), *at) for at in [*steps, (5, 1), (10, 2), (15, 3), (20, 4)])
        assert record.epochs == [0, 5, 10, 15]
        assert (record.step, record.epoch, len(record.losses)) == (20, 4, 20)
        assert (record.n_reloads, record.stopped_early) == (0, False)

    @pytest.mark.parametrize("loss", LOSSES)
    @pytest.mark.parametrize("bounds", [None, [[-3, 5], [10, 11]]])
    def test_flow_ends_with_the_parameters_that_are_best_on_the_held_out_rows(self, loss, bounds):
        x, px, fx = points()
        held_out = held_out_rows(0.3)
        flow = make_flow(bounds=bounds)
        x = flow.bounds[:, 0] + (flow.bounds[:, 1] - flow.bounds[:, 0]) * x
        # So large a rate makes the loss go up again.
        config = {"n_epochs": 15, "holdout": 0.3, "optim": Adam(lr=0.3), "control_variate": False}
        trainer = make_trainer(loss, flow=flow, **config)
        record = trainer.train_on_batch(x, px, fx)
        assert len(record.epoch_losses) == 15
        assert record.best_epoch < 15
        assert record.best_loss == min(record.epoch_losses) == record.epoch_losses[record.best_epoch - 1]
        f_scaled = fx / np.mean(fx / px)
        for found, at in ((record.initial_loss, make_flow(bounds=bounds)), (record.best_loss, flow)):
            expected = LOSSES[loss][0](f_scaled[held_out], px[held_out], at.log_prob(x[held_out]))
            assert found == pytest.approx(expected, rel=1e-12)

    def test_training_that_makes_nothing_better_changes_nothing(self):
        value, derivative = LOSSES["variance"]
        trainer = make_trainer((value, lambda *args: -derivative(*args)), optim=Adam(average=0.9))
        record = trainer.train_on_batch(*points())
        assert_same(trainer.flow.params, make_flow().params)
        assert (record.epoch, record.best_epoch, record.best_loss) == (3, 0, record.initial_loss)
        assert min(record.epoch_losses) > record.initial_loss

    def test_held_out_rows_are_never_trained_on(self):
        x, px, fx = points()
        loss = WatchedLoss(make_flow())
        make_trainer(loss, flow=loss.flow, holdout=0.2, seed=4).train_on_batch(x, px, fx)
        in_gradients = np.concatenate(loss.derived)
        checked = loss.valued[-1]
        assert len(checked) == 140
        assert set(in_gradients) | set(checked) == set(px)
        assert not set(in_gradients) & set(checked)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_where_held_out_points_lie_changes_no_step(self, loss):
        steps = []
        for x_held_out in (None, 0.123):
            x, px, fx = points()
            if x_held_out is not None:
                x[held_out_rows(0.3)] = x_held_out
            trainer = make_trainer(loss, holdout=0.3)
            keep = [trainer.flow.params.copy()]
            record = trainer.train_on_batch(
                x, px, fx, callback=lambda _, keep=keep, flow=trainer.flow: keep.append(flow.params.copy())
            )
            steps.append((keep, record.epoch_losses))
        assert_same(steps[0][0], steps[1][0])
        assert steps[0][1] != steps[1][1]

    def test_without_held_out_rows_some_rows_of_the_training_are_checked(self):
        loss = WatchedLoss(make_flow())
        record = make_trainer(loss, flow=loss.flow, n_epochs=2, holdout=0).train_on_batch(*points())
        assert len(np.concatenate(loss.derived)) == 2 * N
        assert_same(loss.valued[7], loss.valued[0])
        assert_same(loss.valued[14], loss.valued[0])
        assert set(loss.valued[0]) == set(points()[1])
        assert len(record.epoch_losses) == 2

    @pytest.mark.parametrize("patience", [1, 4])
    def test_patience_ends_a_training_that_does_not_improve(self, patience):
        constant = (lambda fx, px, logqx: 1.0, lambda fx, px, logqx: np.zeros(len(fx)))
        record = make_trainer(constant, n_epochs=50, patience=patience).train_on_batch(*points())
        assert (record.epoch, record.best_epoch, record.stopped_early) == (patience, 0, True)
        record = make_trainer(constant, n_epochs=patience, patience=patience + 1).train_on_batch(*points())
        assert not record.stopped_early

    def test_patience_is_counted_from_the_best_epoch(self):
        losses = iter(
            [7.0, 5.0, 6.0, 4.0, 4.0, 3.0, 3.0, 9.0, 1.0]
        )  # before, and after each epoch of one step
        calls = iter(range(100))
        loss = (lambda *args: 1.0 if next(calls) % 2 else next(losses), lambda fx, *_: np.zeros(len(fx)))
        trainer = make_trainer(loss, n_epochs=8, minibatch_size=1.0, patience=2)
        record = trainer.train_on_batch(*points())
        assert record.epoch_losses == [5, 6, 4, 4, 3, 3, 9]
        assert (record.best_epoch, record.best_loss, record.stopped_early) == (5, 3, True)

    def test_checkpoint_brings_back_flow_and_optimiser(self):
        optim = Adam(lr=1e-2, average=0.9)
        trainer = make_trainer(optim=optim)
        trainer.train_on_batch(*points())
        trainer.set_checkpoint()
        params, state = trainer.flow.params.copy(), optim.state()
        for _ in range(2):
            trainer.train_step_on_target_minibatch(*points(), optim)
            assert not np.array_equal(trainer.flow.params, params)
            trainer.restore_checkpoint()
            assert_same(trainer.flow.params, params)
            for found, expected in zip(optim.state(), state, strict=True):
                assert_same(found, expected)

    def test_restoring_needs_a_checkpoint(self):
        trainer = make_trainer()
        with pytest.raises(NoCheckpoint, match="set_checkpoint"):
            trainer.restore_checkpoint()
        trainer.train_on_batch(*points())
        trainer.restore_checkpoint()
        trainer.reset()
        with pytest.raises(NoCheckpoint):
            trainer.restore_checkpoint()

    def test_reset_begins_anew(self):
        trainer = make_trainer(optim=Adam(lr=1e-2, average=0.9))
        initial = trainer.flow.params.copy()
        first = trainer.train_on_batch(*points())
        end = trainer.flow.params.copy()
        trainer.reset()
        assert_same(trainer.flow.params, initial)
        assert trainer.record == vf.TrainingRecord()
        assert trainer.train_on_batch(*points()).losses == first.losses
        assert_same(trainer.flow.params, end)

    def test_settings_are_kept_and_given_as_a_copy(self):
        trainer = make_trainer(n_epochs=2)
        trainer.get_config()["n_epochs"] = 99
        assert trainer.get_config()["n_epochs"] == 2
        trainer.set_config(n_epochs=4)
        assert trainer.train_on_batch(*points()).epoch == trainer.get_config()["n_epochs"] == 4

    def test_settings_for_one_call_do_not_stay(self):
        trainer = make_trainer(n_epochs=2)
        optim = Adam()
        assert trainer.train_on_batch(*points(), n_epochs=3, optim=optim).epoch == 3
        assert optim.t > 0
        assert trainer.get_config()["n_epochs"] == 2
        assert trainer.get_config()["optim"] is not optim
        assert trainer.train_on_batch(*points()).epoch == 2

    @pytest.mark.parametrize(
        "make", [vf.BasicStatefulTrainer, vf.BasicStatefulVarTrainer, vf.StatefulTrainer]
    )
    def test_editors_can_complete_the_settings(self, make):
        names = set(inspect.signature(make).parameters)
        if "config" in names:  # as a TypedDict
            names |= set(TrainingConfig.__annotations__)
        assert names >= set(make_trainer().get_config())

    def test_trainings_by_other_methods_are_recorded(self):
        trainer = make_trainer()
        trainer.train_on_batch(*points(), n_epochs=2)
        trainer.train_on_target_batch(*points(), Adam(), 3, MINIBATCH)
        assert trainer.record.epoch == 3
        record = trainer.train_on_target_batches_from_posterior(
            f=peak, batch_size=N, n_batches=2, n_epochs_per_batch=2, minibatch_size=1.0,
            target_posterior=trainer.sample_forward, optim=Adam(),
        )  # fmt: skip
        assert record is trainer.record
        assert (record.epoch, record.step) == (4, 4)

    def test_harder_data_are_learnt_after_easier_ones(self):
        # The least loss there can be is lower for the first batch: it is no measure for the second.
        trainer, optim = make_trainer(), Adam(lr=1e-2)
        x, px, _ = uniform_points(N)
        trainer.train_on_target_batch(x, px, 1 + 0.1 * x[:, 0], optim, 3, MINIBATCH)
        before = trainer.compute_loss(x, px, peak(x))
        trainer.train_on_target_batch(x, px, peak(x), optim, 3, MINIBATCH)
        assert trainer.compute_loss(x, px, peak(x)) < before

    def test_batches_from_the_posterior_are_learnt_though_an_earlier_one_was_easier(self):
        centre = 0.35 + 0.1 * uniform_points(N)[0]
        batches = [uniform_points(N)[:2], (centre, np.full(N, 100.0))]
        trainer, left = make_trainer(), iter(batches)
        trainer.train_on_target_batches_from_posterior(
            f=peak, batch_size=N, n_batches=1, n_epochs_per_batch=3, minibatch_size=MINIBATCH,
            target_posterior=lambda n: next(left), optim=Adam(lr=1e-2),
        )  # fmt: skip
        before = trainer.compute_loss(*batches[1], peak(centre))
        trainer.reset()
        left = iter(batches)
        trainer.train_on_target_batches_from_posterior(
            f=peak, batch_size=N, n_batches=2, n_epochs_per_batch=3, minibatch_size=MINIBATCH,
            target_posterior=lambda n: next(left), optim=Adam(lr=1e-2),
        )  # fmt: skip
        assert trainer.compute_loss(*batches[1], peak(centre)) < before


class TestRecovery:
    # 630 rows to train on: epoch 1 makes calls 1 to 5 of the loss, and 6 on what is held out.

    @pytest.mark.parametrize("fails_in", ["value", "derivative"])
    def test_goes_back_to_the_last_good_state_with_half_the_learning_rate(self, fails_in, caplog):
        loss = WatchedLoss(make_flow(dtype="float64"), bad=[10], fails_in=fails_in)  # fourth step of epoch 2
        record = make_trainer(loss, flow=loss.flow).train_on_batch(*points())
        params = loss.params
        assert record.n_reloads == 1
        assert record.epochs == [0, 5, 8, 13]  # epoch 2 twice, the first time with three steps
        assert (record.step, record.epoch) == (18, 3)
        assert_same(params[11], params[7])
        # Adam's state is back as well: the same step again, of half the length.
        assert_close(params[12] - params[11], 0.5 * (params[8] - params[7]))
        assert not np.array_equal(params[12], params[8])
        assert "back to the last good state, with half the learning rate" in caplog.text

    def test_loss_need_not_be_finite_before_the_training(self):
        loss = WatchedLoss(make_flow(), bad=[0])
        record = make_trainer(loss, flow=loss.flow).train_on_batch(*points())
        assert math.isnan(record.initial_loss)
        assert (record.n_reloads, record.best_loss) == (0, min(record.epoch_losses))
        assert_same(loss.flow.params, trained(points(), LOSSES["variance"]).params)

    def test_loss_that_is_not_finite_after_an_epoch_undoes_the_epoch(self):
        loss = WatchedLoss(make_flow(), bad=[12])
        trainer = make_trainer(loss, flow=loss.flow)
        record = trainer.train_on_batch(*points())
        assert record.n_reloads == 1
        assert_same(loss.params[13], loss.params[7])
        assert len(record.epoch_losses) == 3
        assert np.isfinite(record.epoch_losses).all()

    def test_each_return_halves_the_learning_rate_once_more(self):
        loss = WatchedLoss(make_flow(), bad=[2, 4, 6])
        record = make_trainer(loss, flow=loss.flow).train_on_batch(*points())
        assert record.n_reloads == 3
        expected = trained(points(), LOSSES["variance"], config={"optim": Adam(lr=1e-2 / 8)})
        assert_same(loss.flow.params, expected.params)

    @pytest.mark.parametrize("max_reloads", [0, 2])
    def test_gives_up_after_max_reloads_with_the_last_good_parameters(self, max_reloads):
        loss = WatchedLoss(make_flow(), bad=range(10, 1000))
        trainer = make_trainer(loss, flow=loss.flow, max_reloads=max_reloads)
        with pytest.raises(TrainingInterruption, match=rf"after {max_reloads} returns"):
            trainer.train_on_batch(*points())
        assert len(loss.params) == 11 + max_reloads
        assert_same(loss.flow.params, loss.params[7])
        assert np.isfinite(loss.flow.params).all()

    def test_returns_are_counted_anew_in_each_training(self):
        loss = WatchedLoss(make_flow(), bad=[2, 4])
        trainer = make_trainer(loss, flow=loss.flow, n_epochs=1, max_reloads=2)
        assert trainer.train_on_batch(*points()).n_reloads == 2
        n_calls = len(loss.params)
        loss.bad = [n_calls + 2, n_calls + 4]
        assert trainer.train_on_batch(*points()).n_reloads == 2

    @pytest.mark.parametrize(
        ("settings", "loss", "d"),  # any two of these together
        [
            ({}, "variance", 1),
            ({}, "dkl", 2),
            ({"clip_norm": 1e-3}, "variance", 2),
            ({"clip_norm": 1e-3}, "dkl", 1),
            ({"average": 0.9}, "variance", 1),
            ({"average": 0.9}, "dkl", 2),
        ],
    )
    @pytest.mark.parametrize("lr", [1e2, 1e10, 2e38, 1e39, 1e300])  # float32 ends at 3.4e38
    def test_parameters_stay_finite_however_large_the_learning_rate(self, lr, d, loss, settings):
        flow = make_flow(d)
        trainer = make_trainer(loss, flow=flow, optim=Adam(lr=lr, **settings))
        with suppress(TrainingInterruption):
            trainer.train_on_batch(*points(d=d))
        assert np.isfinite(flow.params).all()
        assert np.isfinite(flow.log_prob(points(d=d)[0])).all()

    def test_keyboard_interrupt_leaves_a_trainer_that_can_go_on(self):
        trainer = make_trainer()
        before = trainer.compute_loss(*points())

        def press_ctrl_c(record):
            if record.step == 7:  # in epoch 2
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trainer.train_on_batch(*points(), callback=press_ctrl_c)
        assert np.isfinite(trainer.flow.params).all()
        assert trainer.record.step == 7
        assert trainer.train_on_batch(*points()).epoch == 3
        assert trainer.compute_loss(*points()) < before
        trainer.reset()
        trainer.train_on_batch(*points())
        assert_same(trainer.flow.params, trained(points()).params)


def changed(position, value, row=17):
    """(x, px, fx) with one wrong value."""
    arrays = points()
    arrays[position][row] = value
    return arrays


class TestRefusals:
    @pytest.mark.parametrize(
        ("arrays", "match"),
        [
            (changed(0, math.nan), r"^x must be finite, found nan in row 17"),
            (changed(0, 1.5), r"^x must lie within bounds .* found 1.5 in row 17"),
            (changed(1, 0.0), r"^px must be positive, found 0.0 in row 17"),
            (changed(1, -1.0), r"^px must be positive"),
            (changed(1, math.nan), r"^px must be finite"),
            (changed(2, math.inf), r"^fx must be finite"),
            (changed(2, 0.0, slice(None)), r"^fx is zero everywhere"),
            (points(d=3), r"\bx must have shape \(n, 2\)|\bd = 2"),
            ((points()[0], *points(N - 1)[1:]), r"^px must have shape \(700,\)"),
        ],
    )
    def test_points(self, arrays, match):
        stateful, stateless, optim = make_trainer(), vf.BasicVarTrainer(make_flow()), Adam()
        before = stateful.flow.params.copy()
        for refused in (
            lambda: stateful.train_on_batch(*arrays),
            lambda: stateless.train_on_target_batch(*arrays, optim, 1),
            lambda: stateless.train_step_on_target_minibatch(*arrays, optim),
            lambda: stateless.compute_loss(*arrays),
        ):
            with pytest.raises(ValueError, match=match):
                refused()
        assert_same(stateful.flow.params, before)
        assert_same(stateless.flow.params, before)
        assert optim.t == stateful.get_config()["optim"].t == 0

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[("minibatch_size", value) for value in (0, -1, 1e-9, 1.5, math.nan, True, "all")],
            *[("n_epochs", value) for value in (0, -1, 1.0, True)],
            *[("holdout", value) for value in (1.0, -0.1, 1e-4, 0.9999, math.nan, "some")],
            *[("patience", value) for value in (0, 1.5)],
            *[("max_reloads", value) for value in (-1, 0.5, None)],
            *[("seed", value) for value in (-1, 0.5, 2**64, None)],
            *[("optim", value) for value in ("adam", Adam)],
            ("p_normalized", 2),
            ("callback", 3),
        ],
    )
    def test_settings(self, name, value):
        trainer = make_trainer()
        before = trainer.flow.params.copy()
        with pytest.raises((TypeError, ValueError), match=name.replace("_size", ".size")):
            trainer.train_on_batch(*points(), **{name: value})
        assert_same(trainer.flow.params, before)
        assert trainer.get_config()["optim"].t == 0

    @pytest.mark.parametrize("make", [vf.BasicVarTrainer, vf.BasicStatefulVarTrainer])
    @pytest.mark.parametrize(
        ("name", "value"),
        [("optim", "adam"), ("n_epochs", 0), ("n_epochs", True), ("minibatch_size", 1e-9)],
    )
    def test_arguments(self, make, name, value):
        trainer = make(make_flow())
        before = trainer.flow.params.copy()
        arguments = {"optim": Adam(), "n_epochs": 1, "minibatch_size": MINIBATCH} | {name: value}
        with pytest.raises((TypeError, ValueError), match=name.replace("_size", ".size")):
            trainer.train_on_target_batch(*points(), **arguments)
        assert_same(trainer.flow.params, before)

    def test_unknown_setting_names_the_nearest_and_changes_nothing(self):
        trainer = make_trainer()
        before = trainer.get_config()
        with pytest.raises(ValueError, match=r"'n_epoch'; did you mean 'n_epochs'\?"):
            trainer.set_config(seed=5, n_epoch=3)
        with pytest.raises(ValueError, match="holdout"):
            trainer.set_config(seed=5, holdout=2)
        assert trainer.get_config() == before
        with pytest.raises(TypeError, match="'minibatch_sise'"):
            make_trainer(minibatch_sise=3)

    @pytest.mark.parametrize(
        ("make", "match"),
        [
            (lambda: vf.BasicTrainer(make_flow(), loss="varience"), "'varience'; did you mean 'variance'"),
            (lambda: vf.BasicTrainer(make_flow(), loss=len), "^loss must be a name, a Loss or a pair"),
            (lambda: vf.BasicVarTrainer("pwlinear"), "^flow must be a Flow"),
            (lambda: vf.BasicVarTrainer(make_flow(), object()), "^latent_prior must have a method log_prob"),
            (lambda: vf.StatefulTrainer(2, "dlk"), "'dlk'; did you mean 'dkl'"),
            (lambda: vf.StatefulTrainer(2, flow="pwlinaer"), "'pwlinaer'; did you mean 'pwlinear'"),
            (lambda: vf.StatefulTrainer(2, flow=None), "^flow must be"),
            (lambda: vf.StatefulTrainer(3, flow=make_flow()), "^d is 3, but the flow has d = 2"),
            (lambda: vf.StatefulTrainer(2, flow=make_flow(), flow_options={}), "^flow_options are for"),
            (lambda: vf.StatefulTrainer(2, flow_options={"masking": "maximum"}), "did you mean 'maximal'"),
            (lambda: vf.StatefulTrainer(2, flow_options={"n_bin": 3}), "'n_bin'"),
        ],
    )
    def test_construction(self, make, match):
        with pytest.raises((TypeError, ValueError), match=match):
            make()

    def test_dataset_of_another_box(self):
        trainer = make_trainer()
        x, px, fx = points()
        with pytest.raises(ValueError, match="bounds"):
            trainer.train_on_dataset(Dataset(x, px, fx, bounds=[[0, 2]] * 2))
        with pytest.raises(ValueError, match="d = 2, the data have d = 3"):
            trainer.train_on_dataset(Dataset(*points(d=3)))

    def test_derivative_of_another_shape(self):
        trainer = vf.BasicTrainer(
            make_flow(), loss=(LOSSES["variance"][0], lambda fx, px, logqx: fx[:, None])
        )
        with pytest.raises(
            ValueError, match=r"derivative of the loss must have shape \(700,\), got \(700, 1\)"
        ):
            trainer.train_step_on_target_minibatch(*points(), Adam())


def test_an_interrupt_during_the_loss_after_an_epoch_leaves_the_last_steps_parameters():
    """There, averaged parameters are in the flow for a while."""
    rng = np.random.default_rng(1)
    x, n_values, after_steps = rng.random((60, 2)), [], []

    def value(fx, px, logqx):
        n_values.append(len(fx))
        if len(n_values) == 8:  # after that before training, and those of six steps
            raise KeyboardInterrupt
        return vf.weighted_variance_loss(fx, px, logqx)

    def derivative(fx, px, logqx):
        return -(fx**2) / (px * np.exp(logqx)) / len(fx)

    flow = vf.Flow(2, n_bins=4, d_hidden=8, n_hidden=1, seed=1)
    optim = vf.Adam(lr=1e-2, average=0.9)
    trainer = vf.BasicStatefulTrainer(
        flow, loss=(value, derivative), n_epochs=1, minibatch_size=10, optim=optim, holdout=0
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train_on_batch(
            x, np.ones(60), x[:, 0], callback=lambda record: after_steps.append(flow.params.copy())
        )
    assert len(after_steps) == 6
    np.testing.assert_array_equal(flow.params, after_steps[-1])


def test_ragged_points_are_named():
    flow = vf.Flow(1, n_bins=4, d_hidden=8, n_hidden=1, seed=1)
    with pytest.raises((TypeError, ValueError), match=r"^x is not an array"):
        vf.BasicVarTrainer(flow).compute_loss([[0.1], [0.1, 0.2]], [1, 1], [1, 1])


def test_a_batch_that_stops_early_does_not_keep_the_next_from_being_trained_on():
    flow = vf.Flow(1, n_bins=4, d_hidden=8, n_hidden=1, seed=1)
    trainer = vf.BasicStatefulVarTrainer(flow, patience=1)
    record = trainer.train_on_target_batches_from_posterior(
        f=lambda x: np.ones(len(x)), batch_size=100, n_batches=3, n_epochs_per_batch=5,
        optim=vf.Adam(lr=1e-30),
        target_posterior=lambda n: (np.random.default_rng(0).random((n, 1)), np.ones(n)),
    )  # fmt: skip
    assert record.stopped_early  # at such a learning rate, nothing gets better
    assert len(record.epochs) == 3
