"""Flows with conditions: what these mean, who passes them on, and what is refused.

That densities and gradients are right is tested with those of other flows: test_testing.py, test_flow.py,
test_gradient.py and test_cuda.py.
"""

import logging
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

import varflow as vf
from varflow.cli.command import main
from varflow.data.points import coordinate_names
from varflow.flow.conditions import ConditionMap
from varflow.flow.latent import SAMPLE_BLOCK
from varflow.flow.masks import MASKS
from varflow.testing import datasets, normal_params
from varflow.training.data_checks import normalization_warnings

SIZES = {"n_bins": 4, "d_hidden": 8, "n_hidden": 1}


def random_flow(d=2, c=1, bounds=(-2, 3), seed=1, **options):
    flow = vf.Flow(d, **SIZES | options, n_conditions=c, condition_bounds=bounds, seed=seed)
    flow.params = normal_params(flow.architecture, 0.7, np.random.default_rng(seed))
    return flow


def bits(arrays):
    return [array.tobytes() for array in arrays]


def moving_peak(n, seed=1, scale=1.0, shift=0.0):
    """Points of a peak of width 0.05 at the condition, whose units are its own; its integral is one."""
    generator = np.random.default_rng(seed)
    x, theta = generator.random((n, 1)), generator.uniform(0.2, 0.8, (n, 1))
    fx = np.exp(-0.5 * ((x - theta) / 0.05) ** 2)[:, 0] / (0.05 * np.sqrt(2 * np.pi))
    return vf.Dataset(x, np.ones(n), fx, conditions=shift + scale * theta)


class TestMeaning:
    @pytest.mark.parametrize("d", [1, 2, 3, 6])
    @pytest.mark.parametrize("masking", sorted(MASKS))
    def test_each_coordinate_depends_on_each_condition(self, d, masking):
        flow = random_flow(d, 2, masking=masking, dtype="float64")
        z = np.random.default_rng(2).random((20, d))
        x, _ = flow.from_latent(z, [0.0, 0.0])
        for conditions in ([1.0, 0.0], [0.0, 1.0]):
            assert ((flow.from_latent(z, conditions)[0] != x).mean(axis=0) > 0.5).all()

    def test_one_row_of_conditions_is_for_all_points(self):
        flow = random_flow(2, 2)
        x, logqx = flow.sample(100, 1, conditions=[0.5, -1.0])
        many = np.tile([0.5, -1.0], (100, 1))
        assert bits(flow.sample(100, 1, conditions=many)) == bits((x, logqx))
        assert flow.log_prob(x, [0.5, -1.0]).tobytes() == flow.log_prob(x, many).tobytes()

    def test_a_sample_in_blocks_has_the_conditions_of_its_rows(self):
        flow = random_flow()
        n = SAMPLE_BLOCK + 5
        conditions = np.linspace(-2, 3, n)[:, None]
        x, logqx = flow.sample(n, 1, conditions=conditions)
        blocks = list(flow.sample_blocks(n, 1, conditions=conditions))
        assert bits(map(np.concatenate, zip(*blocks, strict=True))) == bits((x, logqx))
        np.testing.assert_allclose(flow.log_prob(x, conditions), logqx, atol=1e-4)

    def test_a_flow_without_conditions_is_as_it_was(self):
        flow = vf.Flow(3, seed=1)
        assert "n_conditions" not in repr(flow)
        assert set(flow.description()) == {"architecture", "bounds"}
        assert flow.n_conditions == 0
        assert flow.condition_bounds.shape == (0, 2)
        x = np.full((2, 3), 0.5)
        assert flow.log_prob(x, np.empty((2, 0))).tobytes() == flow.log_prob(x).tobytes()
        assert flow.condition_map.columns(x, np.empty((2, 0))) is x

    def test_html_shows_conditions(self):
        flow = random_flow(2, 3)
        assert "the conditions" in flow._repr_html_()
        assert "conditions" in vf.Mixture([flow])._repr_html_()
        assert "condition 1" in moving_peak(20)._repr_html_()


class TestRange:
    @given(seeds, st.floats(-1e300, 1e300), st.floats(1e-300, 1e300))
    def test_learnt_range_is_mapped_to_the_unit_interval(self, seed, shift, width):
        conditions = shift + width * np.random.default_rng(seed).random((20, 2))
        of = ConditionMap(2)
        of.learn(conditions)
        u = of.to_unit(conditions)
        assert (u >= 0).all()
        assert (u <= 1).all()
        if np.ptp(conditions, axis=0).all():
            assert set(u.min(axis=0)) == {0.0}
            assert set(u.max(axis=0)) == {1.0}
        else:  # what does not vary is in the middle
            assert u.min() >= 0.25

    def test_nothing_depends_on_conditions_whose_range_is_not_known(self):
        flow = random_flow(bounds=None)
        assert flow.condition_bounds is None
        x = np.random.default_rng(1).random((5, 2))
        assert flow.log_prob(x, [0.0]).tobytes() == flow.log_prob(x, [7.0]).tobytes()

    def test_is_learnt_by_the_first_training_and_kept(self):
        flow = vf.Flow(1, **SIZES, n_conditions=1, seed=1)
        trainer = vf.BasicVarTrainer(flow)
        data = moving_peak(200, scale=100.0, shift=5.0)
        trainer.train_on_target_batch(data.x, data.px, data.fx, n_epochs=1, conditions=data.conditions)
        assert flow.condition_bounds.tolist() == [[data.conditions.min(), data.conditions.max()]]
        trainer.compute_loss(data.x, data.px, data.fx, conditions=data.conditions * 2)
        assert flow.condition_bounds.tolist() == [[data.conditions.min(), data.conditions.max()]]

    def test_conditions_outside_are_the_nearest_inside_and_warned_of(self, caplog):
        flow = random_flow(2, 2, [(0, 1), (0, 2)])
        x = np.full((3, 2), 0.5)
        conditions = np.array([[0.5, 1.0], [0.5, 2.5], [-7.0, 1e308]])
        with caplog.at_level(logging.WARNING, "varflow"):
            found = flow.log_prob(x, conditions)
        assert len(caplog.messages) == 1
        assert caplog.messages[0].startswith(
            "3 of 6 conditions lie outside of the range that the flow knows, as 2.5 in row 1, column 1, "
            "outside of [0, 2]: there the density"
        )
        assert found.tobytes() == flow.log_prob(x, [[0.5, 1.0], [0.5, 2.0], [0.0, 2.0]]).tobytes()

    def test_units_of_conditions_do_not_matter(self):
        """A range of 2^40 about a shift, both of which rounding lets pass, leads to the same bits."""
        found = []
        for scale in (1.0, 2.0**40):
            flow = vf.Flow(1, **SIZES, n_conditions=1, seed=1)
            vf.BasicStatefulVarTrainer(flow, n_epochs=3).train_on_dataset(moving_peak(500, scale=scale))
            found.append(flow.params_digest())
        assert found[0] == found[1]


class TestTraining:
    def test_learns_a_peak_that_moves(self):
        data = moving_peak(4000)
        training = vf.train(data, seed=1, n_epochs=60)
        assert training.flow.n_conditions == 1
        assert training.evaluation.variance_before > 3
        assert training.evaluation.variance_after < 0.1
        assert training.warnings == []
        means = [training.flow.sample(2000, 1, conditions=[theta])[0].mean() for theta in (0.3, 0.5, 0.7)]
        np.testing.assert_allclose(means, [0.3, 0.5, 0.7], atol=0.01)

    def test_learns_a_peak_without_bounds_that_moves(self, tmp_path):
        generator = np.random.default_rng(1)
        x, theta = generator.normal(0, 4, (2000, 2)), generator.uniform(1, 3, (2000, 1))
        log_p = -(x**2).sum(axis=1) / 32 - np.log(32 * np.pi)
        log_f = -((x - theta) ** 2).sum(axis=1) / 2 - np.log(2 * np.pi)
        data = vf.Dataset(x, logpx=log_p, logfx=log_f, bounds=(-np.inf, np.inf), conditions=theta)
        flow = vf.train(data, cell="realnvp", seed=1, n_epochs=40, n_flows=2).flow
        flow.save(tmp_path / "flow.npz")
        for center in (1.2, 2.8):
            drawn, logqx = flow.sample(2000, 1, conditions=[center])
            np.testing.assert_allclose(drawn.mean(axis=0), center, atol=0.1)
            np.testing.assert_allclose(drawn.std(axis=0), 1, atol=0.1)
            np.testing.assert_allclose(flow.log_prob(drawn, [center]), logqx, atol=1e-4)
            again = vf.load_flow(tmp_path / "flow.npz").sample(2000, 1, conditions=[center])
            assert bits(again) == bits((drawn, logqx))

    def test_several_flows_and_a_share(self):
        training = vf.train(moving_peak(1000), seed=1, n_epochs=3, n_flows=2, defensive=0.1)
        assert isinstance(training.flow, vf.Mixture)
        x, logqx = training.flow.sample(100, 1, conditions=[0.5])
        np.testing.assert_allclose(training.flow.log_prob(x, [0.5]), logqx, atol=1e-4)

    def test_all_ways_to_train_pass_conditions_on(self):
        data = moving_peak(200)
        arrays, conditions = (data.x, data.px, data.fx), data.conditions
        trainer = vf.StatefulTrainer(
            1, flow_options={**SIZES, "n_conditions": 1, "condition_bounds": (0, 1)}, n_epochs=1, seed=1
        )
        before = trainer.flow.params_digest()
        trainer.train_on_batch(*arrays, conditions=conditions)
        digests = [trainer.flow.params_digest()]
        trainer.reset()
        trainer.train_on_dataset(data)
        digests.append(trainer.flow.params_digest())
        trainer.reset()
        trainer.train_on_target_batch(*arrays, conditions=conditions)
        digests.append(trainer.flow.params_digest())
        assert len(set(digests)) == 1
        assert digests[0] != before
        optim = vf.Adam(lr=0.01)
        trainer.train_step_on_target_minibatch(*arrays, optim, conditions=conditions)
        trainer.train_step_on_target_batch(*arrays, optim, conditions=conditions)
        assert np.isfinite(trainer.compute_loss(*arrays, conditions=conditions))
        assert trainer.sample_forward(5, 1, [0.5])[0].shape == (5, 1)

    def test_reset_forgets_the_range(self):
        trainer = vf.StatefulTrainer(1, flow_options={**SIZES, "n_conditions": 1}, n_epochs=1, seed=1)
        trainer.train_on_dataset(moving_peak(200))
        assert trainer.flow.condition_bounds is not None
        trainer.reset()
        assert trainer.flow.condition_bounds is None

    def test_goes_on_from_a_checkpoint_with_the_same_bits(self, tmp_path):
        def train(n_epochs, resume=False, checkpoint=None):
            flow = vf.Flow(1, **SIZES, n_conditions=1, seed=1)
            options = {"n_epochs": 4, "checkpoint": checkpoint, "resume": resume, "checkpoint_seconds": 0}

            def stop(record):
                if record.epoch >= n_epochs:
                    raise KeyboardInterrupt

            trainer = vf.BasicStatefulVarTrainer(flow, **options)
            trainer.train_on_dataset(moving_peak(200), callback=stop if n_epochs < 4 else None)
            return flow

        whole, path = train(4), tmp_path / "training.ckpt"
        with pytest.raises(KeyboardInterrupt):
            train(2, checkpoint=path)
        again = train(4, resume=True, checkpoint=path)
        assert again.params_digest() == whole.params_digest()
        assert again.description() == whole.description()

    def test_p_that_depends_on_conditions_is_not_suspected(self):
        """A narrow p that moves: at most places it is nearly zero, which is no sign of a wrong factor."""
        generator = np.random.default_rng(1)
        theta = generator.uniform(0.1, 0.9, (5000, 1))
        x = theta + 0.05 * (generator.random((5000, 1)) - 0.5)
        data = vf.Dataset(x, px=np.full(5000, 20.0), fx=np.ones(5000), conditions=theta)
        assert (
            normalization_warnings(vf.Dataset(x, px=data.px * (1 + x[:, 0]), fx=data.fx, conditions=theta))
            == []
        )
        halved = vf.Dataset(generator.random((5000, 1)), np.full(5000, 0.5), np.ones(5000), conditions=theta)
        assert len(normalization_warnings(halved)) == 1


class TestDatasets:
    @given(st.data(), seeds)
    def test_rows_keep_their_conditions(self, draw, seed):
        data = draw.draw(datasets(d=2, n_conditions=st.integers(1, 3)))
        marked = vf.Dataset(
            data.x, logpx=data.logpx, logfx=data.logfx, bounds=data.bounds, conditions=data.x[:, :1]
        )
        for part in marked.minibatches(7, seed):
            assert part.conditions.tobytes() == part.x[:, :1].tobytes()
        both = vf.Dataset.concatenate(marked, marked)
        assert both.conditions.tobytes() == both.x[:, :1].tobytes()
        assert both.n_conditions == 1

    @pytest.mark.parametrize("name", ["data.npz", "data.h5", "data.csv", "data.txt"])
    def test_files_keep_them(self, tmp_path, name):
        data = moving_peak(20)
        data.save(tmp_path / name)
        again = vf.Dataset.read(tmp_path / name)
        assert again.conditions.tobytes() == data.conditions.tobytes()
        assert again.digest() == data.digest() != vf.Dataset(data.x, data.px, data.fx).digest()

    def test_columns_of_text_are_named(self, tmp_path):
        path = tmp_path / "data.csv"
        path.write_text("mass,x1,p,width,f\n91.2,0.25,1,2.5,3\n90.0,0.5,1,2.0,4\n")
        data = vf.Dataset.read(path, conditions=["width", "mass"])
        assert data.x.tolist() == [[0.25], [0.5]]
        assert data.conditions.tolist() == [[2.5, 91.2], [2.0, 90.0]]
        assert coordinate_names(path, conditions=["width", "mass"]) == ["x1"]
        columns = ["m", "x1", "p", "w", "f"]
        by_hand = vf.Dataset.read(path, columns=columns, conditions=["w", "m"])
        assert by_hand.digest() == data.digest()
        for conditions, found in {("with",): "with", ("p",): "p", ("mass", "mass"): "mass,mass"}.items():
            message = rf"^conditions must name columns of .* which are mass, x1, width; got {found}$"
            with pytest.raises(ValueError, match=message):
                vf.Dataset.read(path, conditions=conditions)
        with pytest.raises(
            ValueError, match=r"^conditions must leave a coordinate of .*, got mass,x1,width$"
        ):
            vf.Dataset.read(path, conditions=["mass", "x1", "width"])
        with pytest.raises(TypeError, match=r"^conditions must be a sequence of names of columns, such as"):
            vf.Dataset.read(path, conditions="mass")
        data.save(tmp_path / "data.npz")
        with pytest.raises(ValueError, match=r"^conditions is for text alone, and .* has arrays with names"):
            vf.Dataset.read(tmp_path / "data.npz", conditions=["mass"])

    def test_points_with_other_conditions_are_no_copies(self):
        x = np.array([[0.5], [0.5], [0.25]])
        ones = np.ones(3)
        assert vf.Dataset(x, ones, ones).n_duplicates == 1
        assert vf.Dataset(x, ones, ones, conditions=[[1], [2], [1]]).n_duplicates == 0
        assert vf.Dataset(x, ones, ones, conditions=[[1], [1], [1]]).n_duplicates == 1

    def test_densities_of_a_mixture_get_conditions(self):
        flows = [random_flow(seed=seed) for seed in (1, 2)]
        conditions = np.random.default_rng(1).uniform(-2, 3, (50, 1))
        sets = []
        for flow in flows:
            x, logqx = flow.sample(50, 1, conditions=conditions)
            sets.append(vf.Dataset(x, logpx=logqx, fx=np.ones(50), conditions=conditions))
        data = vf.Dataset.concatenate(*sets, densities=flows)
        expected = np.mean([np.exp(flow.log_prob(data.x, data.conditions)) for flow in flows], axis=0)
        np.testing.assert_allclose(data.px, expected, rtol=1e-6)

    @pytest.mark.parametrize(
        ("conditions", "message"),
        [
            ([1.0, 2.0], r"^conditions must have shape \(2, c\), .*found \(2,\); for one condition, give "),
            ([[1.0]], r"^conditions must have shape \(2, c\), a row for each of x, found \(1, 1\)$"),
            ([[1.0], [np.nan]], r"^conditions must be finite, found nan in row 1, column 0$"),
            ([[1.0, 2.0], [np.inf, 0.0]], r"^conditions must be finite, found inf in row 1, column 0$"),
        ],
    )
    def test_wrong_conditions_are_refused(self, conditions, message):
        with pytest.raises(ValueError, match=message):
            vf.Dataset([[0.1], [0.2]], [1, 1], [1, 2], conditions=conditions)
        with pytest.raises(ValueError, match="same number of conditions, found 1 and 0"):
            vf.Dataset.concatenate(moving_peak(5), vf.Dataset([[0.1]], [1], [1]))


class TestFiles:
    @pytest.mark.parametrize("bounds", [None, (-2, 3)])
    def test_of_a_flow(self, tmp_path, bounds):
        flow = random_flow(2, 2, bounds)
        flow.save(tmp_path / "flow.npz")
        again = vf.load_flow(tmp_path / "flow.npz")
        assert again.description() == flow.description()
        assert bits(again.sample(10, 1, conditions=[1.0, 2.0])) == bits(
            flow.sample(10, 1, conditions=[1.0, 2.0])
        )
        assert flow.copy().description() == flow.description()

    def test_of_an_unbounded_flow(self, tmp_path):
        flow = random_flow(2, 2, cell="realnvp", n_bins=None, location=[1, 20], scale=[0.5, 3])
        flow.save(tmp_path / "flow.npz")
        again = vf.load_flow(tmp_path / "flow.npz")
        assert again.description() == flow.description() == flow.copy().description()
        of_flow, of_again = (one.sample(10, 1, conditions=[1.0, 2.0]) for one in (flow, again))
        assert bits(of_flow) == bits(of_again)

    def test_of_a_mixture(self, tmp_path):
        mixture = vf.Mixture([random_flow(seed=1), random_flow(bounds=(0, 9), seed=2)], 0.1)
        mixture.save(tmp_path / "mixture.npz")
        again = vf.load_flow(tmp_path / "mixture.npz")
        assert bits(again.sample(10, 1, conditions=[1.0])) == bits(mixture.sample(10, 1, conditions=[1.0]))


class TestRefused:
    """What is wrong, in words; nothing has changed then."""

    @pytest.mark.parametrize("n_conditions", [-1, 1.5, "1", True])
    def test_numbers_of_conditions(self, n_conditions):
        with pytest.raises((TypeError, ValueError), match=r"^n_conditions must be "):
            vf.Flow(1, n_conditions=n_conditions)

    def test_ranges(self):
        with pytest.raises(ValueError, match=r"^condition_bounds must have lower < upper"):
            vf.Flow(1, n_conditions=1, condition_bounds=(1, 1))
        with pytest.raises(ValueError, match=r"^condition_bounds must have shape \(2, 2\) or \(2,\), found"):
            vf.Flow(1, n_conditions=2, condition_bounds=[(0, 1)])
        with pytest.raises(ValueError, match=r"^condition_bounds are for a flow with conditions, and n_cond"):
            vf.Flow(1, condition_bounds=(0, 1))

    @pytest.mark.parametrize(
        ("conditions", "message"),
        [
            (
                [1.0, 2.0, 3.0],
                r"^conditions must have shape \(3, 1\), .* found \(3,\); give conditions\[:, Non",
            ),
            ([[1.0, 2.0]] * 3, r"^conditions must have shape \(3, 1\), a row for each .*, found \(3, 2\)$"),
            ([[1.0]] * 2, r"^conditions must have shape \(3, 1\), .*, found \(2, 1\)$"),
            (1.0, r"^conditions must have shape \(3, 1\), .*, found \(\)$"),
            ([[1.0], [np.nan], [2.0]], r"^conditions must be finite, found nan in row 1, column 0$"),
        ],
    )
    def test_conditions_of_a_flow(self, conditions, message):
        flow, x = random_flow(), np.full((3, 2), 0.5)
        for call in (
            lambda: flow.log_prob(x, conditions),
            lambda: flow.from_latent(x, conditions),
            lambda: flow.sample(3, 1, conditions=conditions),
            lambda: flow.sample_blocks(3, 1, conditions=conditions),
            lambda: vf.Mixture([flow]).log_prob(x, conditions),
        ):
            with pytest.raises(ValueError, match=message):
                call()

    def test_missing_and_unwanted_conditions(self):
        flow, plain, x = random_flow(), vf.Flow(2, seed=1), np.full((3, 2), 0.5)
        for call in (lambda: flow.log_prob(x), lambda: flow.sample(3), lambda: flow.from_latent(x)):
            with pytest.raises(TypeError, match=r"^conditions are missing: the flow has n_conditions = 1$"):
                call()
        with pytest.raises(
            ValueError, match=r"^conditions are given, of shape \(1,\), but the flow has none$"
        ):
            plain.log_prob(x, [1.0])
        with pytest.raises(ValueError, match=r"^flows must have the same number of conditions, found 1 and"):
            vf.Mixture([flow, plain])

    def test_data_of_another_flow(self):
        data, plain = moving_peak(100), vf.Flow(1, seed=1)
        message = "^the flow has n_conditions = 0, the data have n_conditions = 1$"
        with pytest.raises(ValueError, match=message):
            vf.BasicStatefulVarTrainer(plain).train_on_dataset(data)
        with pytest.raises(ValueError, match=message):
            vf.evaluate(plain, data)
        flow = vf.Flow(1, n_conditions=2, seed=1)
        with pytest.raises(
            ValueError, match=r"^the flow has n_conditions = 2, the data have n_conditions = 1$"
        ):
            vf.BasicStatefulVarTrainer(flow).train_on_dataset(data)
        assert flow.condition_bounds is None

    def test_what_knows_no_conditions(self, tmp_path):
        flow = random_flow()
        for what, call in {
            "export": lambda: vf.export(flow, tmp_path / "source"),
            "an integral": lambda: vf.integrate(lambda x: x[:, 0], 2, flow=flow, n_calls=1000),
            "training on batches from a posterior": lambda: vf.BasicVarTrainer(
                flow
            ).train_on_target_batches_from_posterior(
                f=lambda x: x[:, 0],
                batch_size=10,
                n_epochs_per_batch=1,
                target_posterior=None,
                optim=vf.Adam(),
            ),
        }.items():
            message = f"{what} is for flows without conditions, and this one has n_conditions = 1"
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                call()
        with pytest.raises(ValueError, match=r"^an integral is for flows without conditions"):
            vf.integrate(lambda x: x[:, 0], 2, flow_options={"n_conditions": 1}, n_calls=1000)


def run(*arguments):
    return main([str(argument) for argument in arguments])


class TestCommands:
    def write(self, path, n=400):
        data = moving_peak(n, scale=20.0, shift=80.0)
        table = np.column_stack([data.conditions, data.x, data.px, data.fx])
        np.savetxt(path, table, delimiter=",", header="mass,x1,p,f", comments="")
        return path

    def test_from_points_to_samples(self, tmp_path, capsys):
        points, flow = self.write(tmp_path / "points.csv"), tmp_path / "flow.npz"
        sizes = "--n-bins", 4, "--d-hidden", 8, "--epochs", 2
        assert run("train", points, "--conditions", "mass", "-o", flow, "--seed", 1, *sizes) == 0
        assert "400 points, d = 1, conditions: 1" in capsys.readouterr().out
        assert run("evaluate", flow, points, "--conditions", "mass") == 0
        assert "on 400 points" in capsys.readouterr().out
        drawn = tmp_path / "drawn.npz"
        assert run("sample", flow, "-n", 10, "-o", drawn, "--seed", 2, "--conditions", "91.5") == 0
        with np.load(drawn) as found:
            x, logqx = vf.load_flow(flow).sample(10, 2, conditions=[91.5])
            np.testing.assert_array_equal(found["x"], x)
            np.testing.assert_array_equal(found["q"], np.exp(logqx))
        capsys.readouterr()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ("evaluate", "flow.npz", "points.csv"),
                "has d = 2, the flow has d = 1; --conditions names columns",
            ),
            (
                ("evaluate", "flow.npz", "points.csv", "--conditions", "width"),
                "conditions must name columns of",
            ),
            (
                ("sample", "flow.npz", "-n", "3", "-o", "x.npz"),
                "conditions are missing: the flow has n_condit",
            ),
            (
                ("sample", "flow.npz", "-n", "3", "-o", "x.npz", "--conditions", "1,2"),
                "must have shape (3, 1)",
            ),
            (
                ("sample", "flow.npz", "-n", "3", "-o", "x.npz", "--conditions", "a"),
                "needs a number, got 'a'",
            ),
            (("export", "flow.npz", "-o", "source"), "export is for flows without conditions, and this one"),
        ],
        ids=["coordinates", "name", "missing", "number", "text", "export"],
    )
    def test_refuse_what_is_wrong(self, tmp_path, monkeypatch, capsys, arguments, message):
        monkeypatch.chdir(tmp_path)
        self.write(tmp_path / "points.csv")
        random_flow(1).save("flow.npz")
        try:
            status = run(*arguments)
        except SystemExit as error:
            status = error.code
        assert status == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x.npz").exists()


def test_pictures_and_reports_know_conditions(tmp_path):
    pytest.importorskip("matplotlib", reason="there is no Matplotlib")
    pytest.importorskip("corner", reason="there is no corner")
    data = moving_peak(300)
    training = vf.train(data, seed=1, n_epochs=2, flow_options=SIZES)
    worst = vf.worst_points(training.flow, data, 3)
    assert worst.conditions.tolist() == data.conditions[worst.rows].tolist()
    assert str(worst).splitlines()[0].split()[-3:] == ["condition", "1", "x1"]
    vf.report(tmp_path / "report.html", training)
    assert "condition 1" in (tmp_path / "report.html").read_text()
