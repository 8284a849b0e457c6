"""The affine cell, its laws as those of splines; flows of unbounded points, and what they refuse."""

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import dtypes, percent_of_examples, seeds
from test_splines import activate, backward, forward, inverse

import varflow as vf
from varflow import Dataset, FileFormatError, Flow
from varflow.cli.command import main
from varflow.flow.architecture import DTYPES
from varflow.flow.latent import SAMPLE_BLOCK, BlockRows, latent_key, normal_quantiles, random_rows
from varflow.integration.sobol import sobol_points
from varflow.kernels import cpu, normal
from varflow.kernels.affine import MAX_LOG_SCALE
from varflow.kernels.splines import SPLINES
from varflow.testing import flows, normal_params
from varflow.training.losses import LOSSES
from varflow.training.normalization import estimate_normalization
from varflow.training.objective import GradientBuffers, Objective

CELL, EPS, EVERYWHERE = "realnvp", np.finfo(np.float64).eps, (-np.inf, np.inf)
spreads = st.sampled_from([0.0, 1.0, 5.0, 50.0])


@st.composite
def logits(draw, m, spread=spreads):
    return draw(spread) * np.random.default_rng(draw(seeds)).normal(size=(2, m))


def wide_points(seed, m):
    """Numbers of either sign, from 1e-9 to 1e9."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1, 1], m) * 10 ** rng.uniform(-9, 9, m)


def oracle(values, x):
    return naive.RealNvp.forward(values.astype(np.float64), x)[:2]


class TestCell:
    @given(st.data(), dtypes)
    def test_activate(self, data, dtype):
        given = data.draw(logits(40)).astype(dtype)
        found, expected = activate(CELL, given, dtype), naive.RealNvp.activate(given.astype(np.float64))
        np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=4 * np.finfo(dtype).eps)
        np.testing.assert_array_equal(found[1], given[1])
        assert (np.abs(found[0]) <= MAX_LOG_SCALE).all()

    def test_is_the_identity_at_the_start(self):
        x, values = np.linspace(-5, 5, 101), activate(CELL, np.zeros((2, 101)))
        for mapped in (forward, inverse):
            found, slope = mapped(CELL, values, x)
            np.testing.assert_array_equal(found, x)
            np.testing.assert_array_equal(slope, 1)

    @given(st.data(), dtypes, st.integers(1, 150), seeds)
    def test_is_that_of_the_oracle_and_comes_back(self, data, dtype, m, seed):
        values, x = activate(CELL, data.draw(logits(m)), dtype), wide_points(seed, m)
        z, slope = forward(CELL, values, x)
        expected, expected_slope = oracle(values, x)
        rounding = 4 * EPS * (np.abs(x) * slope + np.abs(values[1].astype(float)))
        assert (np.abs(z - expected) <= rounding).all()
        np.testing.assert_allclose(slope, expected_slope, rtol=4 * EPS)
        again, slope_back = inverse(CELL, values, z)
        assert (np.abs(again - x) <= 2 * rounding / slope).all()
        np.testing.assert_array_equal(slope_back, slope)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("most", [50.0, 1e4, 1e30])
    def test_extreme_logits(self, dtype, most):
        x = np.array([-1e30, -1.0, 0.0, 1e-300, 1e30])
        for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            values = activate(CELL, np.outer(np.multiply(signs, most), np.ones(5)), dtype)
            for mapped in (forward, inverse):
                found, slope = mapped(CELL, values, x)
                assert np.isfinite(found).all()
                np.testing.assert_allclose(np.abs(np.log(slope)), MAX_LOG_SCALE, rtol=1e-6)
            dlogits, dx = backward(CELL, values, x, np.ones(5), np.ones(5))
            assert np.isfinite(dlogits).all()
            assert np.isfinite(dx).all()

    @percent_of_examples(50)
    @given(st.data(), st.sampled_from([1.0, 3.0]), seeds)
    def test_backward_is_the_derivative(self, data, spread, seed):
        m, rng = 60, np.random.default_rng(seed)
        given, x, (dz, dlog_slope) = (
            data.draw(logits(m, st.just(spread))), 3 * rng.normal(size=m), rng.normal(size=(2, m)),
        )  # fmt: skip
        dlogits, dx = backward(CELL, activate(CELL, given), x, dz, dlog_slope)

        def derivative(logits, x):
            z, slope, _ = naive.RealNvp.forward(naive.RealNvp.activate(logits), x)
            return (dz * z + dlog_slope * np.log(slope)).imag / naive.STEP

        size = 1e-14 * (1 + np.abs(x)) * np.exp(MAX_LOG_SCALE) * (np.abs(dz) + np.abs(dlog_slope))
        assert (np.abs(dx - derivative(given.astype(complex), x + 1j * naive.STEP)) <= size).all()
        for j in range(2):
            raised = given.astype(complex)
            raised[j] += 1j * naive.STEP
            assert (np.abs(dlogits[j] - derivative(raised, x)) <= size).all()

    @given(st.data(), seeds)
    def test_a_column_does_not_depend_on_its_neighbours(self, data, seed):
        values, x = activate(CELL, data.draw(logits(64))), wide_points(seed, 64)
        order = np.random.default_rng(seed).permutation(64)
        shuffled = np.ascontiguousarray(values[:, order])
        for mapped in (forward, inverse):
            for value, moved in zip(mapped(CELL, values, x), mapped(CELL, shuffled, x[order]), strict=True):
                np.testing.assert_array_equal(value[order], moved)


class TestFlow:
    @percent_of_examples(50)
    @given(flows(cell=CELL, dtype="float64"), seeds)
    def test_is_that_of_the_oracle(self, flow, seed):
        x = flow.location + flow.scale * np.random.default_rng(seed).normal(size=(60, flow.d))
        z, log_q = flow.to_latent(x)
        expected = naive.forward(flow.architecture, flow.params, naive.box_of(flow), x)
        size = 1 + np.abs(z).max()
        np.testing.assert_allclose(z, expected.z, rtol=0, atol=1e-11 * size)
        np.testing.assert_allclose(log_q, expected.log_q, rtol=0, atol=1e-11 * size**2)
        latent = np.random.default_rng(seed).normal(size=(60, flow.d))
        x, log_q = flow.from_latent(latent)
        expected_x, expected_log_q = naive.inverse(flow.architecture, flow.params, naive.box_of(flow), latent)
        size = 1 + np.abs(x / flow.scale).max()
        assert (np.abs(x - expected_x) <= 1e-11 * size * flow.scale).all()
        np.testing.assert_allclose(log_q, expected_log_q, rtol=0, atol=1e-11 * size)

    @given(flows(cell=CELL, scale=0.0), seeds)
    def test_begins_with_a_normal_density(self, flow, seed):
        x, log_q = flow.sample(10, seed)
        y = (x - flow.location) / flow.scale
        expected = -0.5 * (y**2 + np.log(2 * np.pi)).sum(axis=1) - np.log(flow.scale).sum()
        np.testing.assert_allclose(log_q, expected, rtol=0, atol=1e-10)

    def test_points_far_away_have_a_density_that_is_never_nan(self):
        flow = random_flow(3)
        x = np.random.default_rng(1).choice([-1e200, -1e20, -3.0, 0.0, 7.0, 1e30, 1e300], (500, 3))
        with np.errstate(over="ignore"):
            z, log_q = flow.to_latent(x)
        assert np.isfinite(z).all()
        assert (log_q < 0).all()
        assert np.isfinite(log_q[np.abs(x).max(axis=1) < 1e100]).all()

    def test_density_falls_as_a_normal_one_far_away(self):
        """Networks see no more of a point than that it is far away."""
        flow = random_flow(2)
        rays = np.random.default_rng(1).normal(size=(50, 2))
        near, far = (-flow.log_prob(reach * rays) / reach**2 for reach in (1e9, 1e10))
        np.testing.assert_allclose(near, far, rtol=1e-3)

    def test_samples_are_images_of_normal_quantiles(self):
        flow = random_flow(2)
        x, log_q = flow.sample(50, seed=3)
        z = normal_quantiles(random_rows(latent_key(3), BlockRows(0, 0, 50), 2))
        expected_x, expected_log_q = flow.from_latent(z)
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(log_q, expected_log_q)
        parts = [points for points, _ in flow.sample_blocks(SAMPLE_BLOCK + 3, seed=3)]
        assert [len(part) for part in parts] == [SAMPLE_BLOCK, 3]
        np.testing.assert_array_equal(parts[0][:50], x)

    def test_sobol_points_are_had_by_their_quantiles(self):
        flow = random_flow(2)
        z = flow.latent_of(sobol_points(1 << 10, 2, np.random.default_rng(1)))
        x, log_q = flow.from_latent(z)
        np.testing.assert_allclose(np.mean(np.exp(flow.log_prob(x) - log_q)), 1, rtol=1e-6)
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.01)  # pseudo-random ones: 0.03
        np.testing.assert_allclose(z.std(axis=0), 1, atol=0.01)

    def test_copies_and_files_have_all_of_it(self, tmp_path):
        flow = random_flow(2)
        flow.save(tmp_path / "flow.npz")
        x, _ = flow.sample(20, seed=1)
        for again in (flow.copy(), vf.load_flow(tmp_path / "flow.npz")):
            assert again.description() == flow.description()
            np.testing.assert_array_equal(again.log_prob(x), flow.log_prob(x))
        assert "realnvp" in flow._repr_html_()
        assert "location" in flow._repr_html_()
        assert "bins" not in flow._repr_html_()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"latent": "normal"}, r"latent='normal' needs a cell .* 'pwquad' map a finite box .*='realnvp'"),
            ({"cell": CELL, "latent": "uniform"}, r"latent='uniform' needs .* take one of 'pwlinear', .*"),
            ({"latent": "normalised"}, r"latent must be one of .*; did you mean 'normal'"),
            (
                {"cell": CELL, "bounds": (0, 1)},
                r"bounds must be -inf and inf for cells 'realnvp', .* \[0.0, 1",
            ),
            (
                {"cell": CELL, "bounds": (0, np.inf)},
                r"bounds must be finite, or -inf and inf in all dimensions",
            ),
            ({"bounds": EVERYWHERE}, r"bounds must be finite for cells 'pwquad', .* take cell='realnvp'"),
            ({"location": 1}, r"location is for a latent density that is normal"),
            ({"scale": 1}, r"scale is for a latent density that is normal"),
            ({"cell": CELL, "scale": [1, 0]}, r"scale must be positive and finite, got 0.0 in dimension 1"),
            ({"cell": CELL, "scale": np.inf}, r"scale must be positive and finite, got inf in dimension 0"),
            ({"cell": CELL, "location": np.nan}, r"location must be finite, got nan in dimension 0"),
            (
                {"cell": CELL, "location": [1, 2, 3]},
                r"location must be a number or have shape \(2,\), found \(3",
            ),
            (
                {"cell": CELL, "n_bins": 4},
                r"n_bins is for splines, and a cell 'realnvp' has no bins: .* got 4",
            ),
        ],
    )
    def test_bad_combinations_are_refused(self, options, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            Flow(2, **options)

    def test_a_file_without_location_is_refused(self, tmp_path):
        from varflow.flow.flow import FILE
        from varflow.runtime.archive import read_archive, write_archive

        path = tmp_path / "flow.npz"
        Flow(2, CELL, seed=1).save(path)
        header, arrays = read_archive(path, FILE)
        write_archive(path, FILE, {name: header[name] for name in header if name != "location"}, arrays)
        with pytest.raises(FileFormatError, match="location"):
            Flow.load(path)

    def test_has_no_box_to_be_stretched_to(self):
        with pytest.raises(ValueError, match=r"^a flow of cells 'realnvp' has all of space"):
            Flow(2, CELL, seed=1).on_box([(0, 1), (0, 1)])

    def test_other_uses_are_refused_in_words(self):
        flow = Flow(2, CELL, seed=1)
        with pytest.raises(ValueError, match=r"^flow must have cells that map the unit cube.*'pwlinear'"):
            vf.integrate(lambda x: x[:, 0], 2, flow=CELL, n_calls=200)
        with pytest.raises(ValueError, match=r"^flow must have cells that map the unit cube"):
            vf.integrate(lambda x: x[:, 0], [EVERYWHERE] * 2, flow=flow, n_calls=200)
        with pytest.raises(ValueError, match=r"^latent_prior is for flows whose latent density is uniform"):
            vf.BasicVarTrainer(flow, object())
        with pytest.raises(ValueError, match=r"^defensive must be 0 for flows of unbounded points, got 0.1"):
            vf.Mixture([flow], defensive=0.1)
        with pytest.raises(ValueError, match=r"^flow must be a single one to be exported .* has 2: export"):
            vf.export(vf.Mixture([flow, flow.copy()]), "source")
        with pytest.raises(ValueError, match=r"^flows must have the same bounds"):
            vf.Mixture([flow, Flow(2, seed=1)])


def random_flow(d, **options):
    flow = Flow(d, CELL, d_hidden=8, location=np.arange(d), scale=1.0 + np.arange(d), seed=1, **options)
    flow.params = normal_params(flow.architecture, 0.5, np.random.default_rng(d))
    return flow


class TestMixture:
    def test_is_the_mean_of_its_flows(self, tmp_path):
        one, other = random_flow(2), Flow(2, CELL, location=5.0, scale=0.3, seed=2)
        mixture = vf.Mixture([one, other])
        x, log_q = mixture.sample(4000, seed=1)
        expected = np.logaddexp(one.log_prob(x), other.log_prob(x)) - np.log(2)
        np.testing.assert_allclose(log_q, expected, rtol=0, atol=1e-10)
        found = np.mean(np.exp(other.log_prob(x) - np.log(2) - log_q))  # share of the other one
        assert abs(found - 0.5) < 0.05
        mixture.save(tmp_path / "mixture.npz")
        np.testing.assert_array_equal(vf.load_flow(tmp_path / "mixture.npz").log_prob(x), log_q)


class TestQuantiles:
    def test_are_those_of_scipy(self):
        """Of the algorithm that GPUs and exported flows have."""
        u = np.concatenate(
            [2.0 ** -np.arange(1, 55), 1 - 2.0 ** -np.arange(2, 54), np.random.default_rng(1).random(500)]
        )
        found = np.array([normal.quantile(value) for value in u.tolist()])
        np.testing.assert_allclose(found, normal_quantiles(u), rtol=1e-14, atol=1e-15)

    def test_are_finite_and_symmetric(self):
        z = normal_quantiles(np.array([0.0, 2.0**-53, 0.5, 1 - 2.0**-53]))
        assert z[0] < z[1] < z[2] == 0 < z[3] < 9


def two_peaks(x):
    """Two normal peaks in two dimensions; its integral is 1."""
    return sum(
        np.exp(-0.5 * (((x - centre) / 0.5) ** 2).sum(axis=1)) / (4 * np.pi * 0.25)
        for centre in ([-2.0, -1.0], [2.0, 1.0])
    )


def normal_data(n, seed=1, f=two_peaks, centre=0.0, scale=3.0, d=2):
    x = centre + scale * np.random.default_rng(seed).normal(size=(n, d))
    y = (x - centre) / scale
    log_p = -0.5 * (y**2 + np.log(2 * np.pi)).sum(axis=1) - d * np.log(scale)
    return Dataset(x, logpx=log_p, fx=f(x), bounds=EVERYWHERE)


class TestData:
    def test_may_be_without_bounds(self, tmp_path):
        data = normal_data(200)
        assert data.bounds.tolist() == [[-np.inf, np.inf]] * 2
        data.save(tmp_path / "data.npz")
        again = Dataset.read(tmp_path / "data.npz")
        assert again.digest() == data.digest()
        assert again.bounds.tolist() == data.bounds.tolist()
        assert "inf" in data._repr_html_()
        with pytest.raises(
            ValueError, match=r"^bounds must be finite, or -inf and inf in all dimensions, found"
        ):
            Dataset(data.x, px=data.px, fx=data.fx, bounds=(0, np.inf))

    @pytest.mark.parametrize("factor", [1.0, 3.0, 0.3])
    def test_tell_whether_p_is_normalised(self, factor):
        data = normal_data(4000, centre=100.0, f=lambda x: two_peaks(x - 100))
        found = estimate_normalization(data.x, data.logpx + np.log(factor), data.bounds)
        assert found.is_wrong == (factor != 1)
        if factor != 1:
            assert found.factor == pytest.approx(factor, rel=0.1)


class TestTraining:
    @pytest.mark.parametrize("loss", sorted(LOSSES))
    def test_finds_both_peaks(self, loss, tmp_path):
        """Either loss; cut off by a checkpoint and gone on with, it gives the same bits."""
        data, config = normal_data(3000), {"loss": loss, "cell": CELL, "seed": 1, "n_epochs": 30}
        training = vf.train(data, **config)
        flow = training.flow
        assert (np.abs(flow.location) < 2.5).all()
        assert (flow.scale < 2.5).all()
        x, log_q = flow.sample(5000, seed=2)
        weights = two_peaks(x) / np.exp(log_q)
        assert abs(weights.mean() - 1) < 0.05
        assert weights.var() < 0.15  # of f/p, it is about 6
        assert 0.4 < np.mean(x[:, 0] > 0) < 0.6

    def test_goes_on_from_a_checkpoint_with_the_same_bits(self, tmp_path):
        data, place = normal_data(400), {"location": 0.0, "scale": 2.0}
        path = tmp_path / "training.ckpt"

        def trained(n_epochs, **config):
            flow = Flow(2, CELL, d_hidden=8, seed=1, **place)
            trainer = vf.BasicStatefulVarTrainer(flow, seed=1, minibatch_size=100, **config)
            trainer.train_on_dataset(data, n_epochs=n_epochs)
            return flow.params.copy()

        expected = trained(4)
        stop = []

        def interrupt(record):
            if record.epoch == 2:
                stop.append(record.epoch)
                raise KeyboardInterrupt

        flow = Flow(2, CELL, d_hidden=8, seed=1, **place)
        trainer = vf.BasicStatefulVarTrainer(
            flow, seed=1, minibatch_size=100, checkpoint=path, checkpoint_seconds=0, n_epochs=4
        )
        with pytest.raises(KeyboardInterrupt):
            trainer.train_on_dataset(data, callback=interrupt)
        assert stop
        found = trained(4, checkpoint=path, resume=True, checkpoint_seconds=0)
        np.testing.assert_array_equal(found, expected)

    def test_does_not_depend_on_units(self):
        """Location and scale of points are taken from them."""
        far = normal_data(500, f=lambda x: two_peaks((x - 1e4) / 50), centre=1e4, scale=150.0)
        flows = [vf.train(data, cell=CELL, seed=1, n_epochs=2).flow for data in (normal_data(500), far)]
        x = two = flows[0].sample(100, seed=3)[0]
        expected, found = flows[0].log_prob(x), flows[1].log_prob(1e4 + 50 * two) + 2 * np.log(50)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-2)

    def test_points_far_away_do_not_stop_it(self):
        """Where q is nearly nothing, the loss grows linearly: it is finite, and so is its gradient."""
        flow = Flow(2, CELL, d_hidden=8, seed=1)
        x = np.array([[100.0, -50.0], [0.1, 0.2], [1.0, -1.0]])
        data = Dataset(x, px=np.ones(3), fx=[1e-3, 1.0, 1.0], bounds=EVERYWHERE)
        objective, rows = Objective(flow, data, LOSSES["variance"]), np.arange(3)
        loss, dparams = objective.gradient(rows, GradientBuffers(flow, 3))
        assert np.isfinite(loss)
        assert np.isfinite(dparams).all()
        assert loss == pytest.approx(objective.value(rows), rel=1e-12)
        assert loss > np.exp(cpu.MAX_EXPONENT)

    def test_of_several_flows_gives_a_mixture(self):
        training = vf.train(normal_data(400), cell=CELL, n_flows=2, seed=1, n_epochs=2)
        assert isinstance(training.flow, vf.Mixture)
        assert np.isfinite(training.flow.sample(10, seed=1)[1]).all()

    def test_by_the_command_line(self, tmp_path, capsys):
        x = normal_data(400)
        columns = np.column_stack([x.x, x.px, x.fx])
        path, flow = tmp_path / "points.csv", tmp_path / "flow.npz"
        np.savetxt(path, columns, delimiter=",", header="x1,x2,p,f", comments="")
        command = ["train", str(path), "-o", str(flow), "--cell", CELL, "--epochs", "2", "-q"]
        assert main([*command, "--latent", "normal"]) == 0
        assert "relative variance" in capsys.readouterr().out
        assert vf.load_flow(flow).latent == "normal"
        assert main(["evaluate", str(flow), str(path)]) == 0
        for options, message in (
            ([], "lie within bounds"),
            (["--latent", "normal", "--bounds", "-99,99"], "bounds must be -inf and inf for cells 'realnvp'"),
            (["--latent", "normal", "--n-bins", "4"], "n_bins is for splines"),
            (
                ["--latent", "normal", "--cell", "rqs"],
                "latent='normal' needs a cell that maps all real numbers",
            ),
            (["--latent", "norml"], "did you mean 'normal'"),
        ):
            capsys.readouterr()
            try:
                status = main([*command, *options])
            except SystemExit as error:
                status = error.code
            assert status == 2
            assert message in capsys.readouterr().err

    def test_is_shown_in_pictures_and_reports(self, tmp_path):
        pytest.importorskip("corner")
        data = normal_data(400)
        training = vf.train(data, cell=CELL, seed=1, n_epochs=2)
        for picture in (vf.plots.overview, vf.plots.corner, vf.plots.worst):
            picture(training.flow, data).savefig(tmp_path / "picture.png")
        vf.report(tmp_path / "report.html", training.flow, data)
        assert "realnvp" in (tmp_path / "report.html").read_text()

    def test_wrong_bounds_are_refused_in_words(self):
        bounded = Dataset(np.random.default_rng(1).random((100, 2)), px=np.ones(100), fx=np.ones(100))
        with pytest.raises(
            ValueError, match=r"^bounds must be -inf and inf for cells 'realnvp'.* to a Dataset$"
        ):
            vf.train(bounded, cell=CELL)
        with pytest.raises(ValueError, match=r"^bounds must be finite for cells 'pwquad'.* cell='realnvp'"):
            vf.train(normal_data(100))
        assert set(SPLINES) == {"pwlinear", "pwquad", "rqs"}
