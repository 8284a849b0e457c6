"""Pictures: they show the numbers that they should, for any data, and say what is missing."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import varflow as vf
from varflow.training.log_weights import LogWeights

matplotlib.use("Agg")  # corner imports pyplot
PLOTS = {name: getattr(vf.plots, name) for name in ("calibration", "corner", "overview", "weights", "worst")}
FLOW = vf.Flow(2, d_hidden=4, n_bins=4, seed=1, bounds=[[0, 2], [-1, 1]])
FLOW.params[:] += np.random.default_rng(1).normal(0, 0.5, FLOW.n_params)


def points(n=500, d=2, seed=1, bounds=None, **values):
    """Points from the uniform density of a box, with a peak for f."""
    bounds = FLOW.bounds if bounds is None else np.array(bounds, float)
    x = np.random.default_rng(seed).uniform(*bounds.T, (n, d))
    px = np.full(n, 1 / np.prod(np.ptp(bounds, axis=1)))
    fx = np.exp(-10 * np.square(x - 0.5).sum(axis=1))
    return vf.Dataset(x, **{"px": px, "fx": fx, "bounds": bounds} | values)


def of_uniform(d, n, **values):
    """A flow that is uniform on the unit cube, and points."""
    return vf.Flow(d, d_hidden=4, n_bins=4), points(n, d, bounds=[[0, 1]] * d, **values)


def drawn_bytes(figure, tmp_path, kind="png"):
    path = tmp_path / f"picture.{kind}"
    figure.savefig(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", PLOTS)
def test_is_written_and_shown_by_notebooks(name, tmp_path):
    figure = PLOTS[name](FLOW, points())
    for kind, begin in (("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert drawn_bytes(figure, tmp_path, kind).startswith(begin)
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.parametrize(
    ("d", "n", "values"),
    [
        (1, 2, {}),
        (3, 50, {"fx": np.ones(50)}),
        (2, 50, {"fx": np.r_[1.0, np.zeros(49)]}),
        (2, 200, {"fx": np.r_[1e-300, np.full(199, 1e300)]}),
        (2, 50, {"px": None, "logpx": np.r_[np.full(49, -700.0), 700]}),
    ],
)
def test_of_any_data(name, d, n, values, tmp_path):
    values = {key: value for key, value in values.items() if value is not None}
    flow, data = of_uniform(d, n)
    named = {"px": data.px} if "logpx" not in values else {}
    data = vf.Dataset(data.x, bounds=data.bounds, **{"fx": data.fx} | named | values)
    drawn_bytes(PLOTS[name](flow, data), tmp_path)


@pytest.mark.parametrize("name", PLOTS)
def test_what_does_not_belong_together(name):
    with pytest.raises(ValueError, match="the flow has d = 2, the data have d = 1"):
        PLOTS[name](FLOW, points(d=1, bounds=[[0, 1]]))
    with pytest.raises(ValueError, match="the flow has bounds"):
        PLOTS[name](FLOW, points(bounds=[[0, 1]] * 2))
    with pytest.raises(ValueError, match="at least 2 points, got 1"):
        PLOTS[name](FLOW, points(1))


@pytest.mark.parametrize(("name", "missing"), [("weights", "matplotlib"), ("corner", "corner")])
def test_without_the_extra(name, missing):
    code = (
        "import sys, numpy as np, varflow as vf\n"
        f"sys.modules[{missing!r}] = None\n"
        "data = vf.Dataset(np.random.rand(9, 2), px=np.ones(9), fx=np.ones(9))\n"
        f"vf.plots.{name}(vf.Flow(2, d_hidden=4), data)"
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    last = failed.stderr.splitlines()[-1]
    assert last == f"ImportError: this picture needs {missing}: pip install 'varflow[plot]'"


class TestWeights:
    @settings(max_examples=5)
    @given(st.integers(2, 200), st.integers(0, 10))
    def test_shares(self, n, seed):
        figure = vf.plots.weights(FLOW, points(n, seed=seed))
        of_p, of_q = (sum(bar.get_height() for bar in bars) for bars in figure.axes[0].containers)
        assert (of_p, of_q) == (pytest.approx(1), pytest.approx(1))

    def test_logs_of_weights(self):
        data = points()
        found = LogWeights.of(FLOW, data)
        q = np.exp(FLOW.log_prob(data.x))
        np.testing.assert_allclose(np.exp(found.before), data.fx / data.px / (data.fx / data.px).mean())
        after, counts = data.fx / q, q / data.px
        np.testing.assert_allclose(np.exp(found.counts), counts / counts.mean())
        np.testing.assert_allclose(np.exp(found.after), after / np.average(after, weights=counts))

    def test_tail(self):
        data = points()
        line = vf.plots.weights(FLOW, data).axes[1].lines[0]
        weights = np.sort(data.fx / data.px / (data.fx / data.px).mean())[::-1]
        np.testing.assert_allclose(line.get_xdata(), weights[:250])
        np.testing.assert_allclose(line.get_ydata(), np.arange(1, 251) / 500)


class TestOverview:
    def test_has_the_densities_of_f_and_q(self):
        data = points(5000, fx=np.exp(FLOW.log_prob(points(5000).x)))
        planes = vf.plots.overview(FLOW, data).axes[:2]
        of_f, of_q = (axes.images[0].get_array().T for axes in planes)
        area = np.prod(np.ptp(FLOW.bounds, axis=1)) / of_f.size
        for density in (of_f, of_q):
            assert density.sum() * area == pytest.approx(1)
        assert np.corrcoef(of_f.ravel(), of_q.ravel())[0, 1] > 0.7  # with a few points in each bin
        assert np.corrcoef(of_f.ravel(), of_q.T.ravel())[0, 1] < 0.3
        half = of_f.shape[1] // 2  # dimensions are not taken for each other
        lower, upper = FLOW.bounds[1]
        is_low = data.x[:, 1] < lower + (upper - lower) * half / of_f.shape[1]
        share = np.average(is_low, weights=data.fx / data.px)
        for density, near in ((of_f, 1e-9), (of_q, 0.05)):
            assert density[:, :half].sum() * area == pytest.approx(share, abs=near)

    def test_of_one_dimension(self):
        flow, data = of_uniform(1, 500)
        axes = vf.plots.overview(flow, data, labels=["mass / GeV"]).axes
        assert [one.get_xlabel() for one in axes] == ["mass / GeV", "weight over its mean"]
        for drawn in axes[0].patches:
            values, edges, _ = drawn.get_data()
            assert values @ np.diff(edges) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("dims", "labels", "match"),
        [
            ([0], None, "dims must be two dimensions, got 1"),
            ([0, 2], None, "between 0 and 1, found 2"),
            ([1, 1], None, "must be different"),
            ([0, 1], ["a"], "one for each of 2 dimensions, got 1"),
        ],
    )
    def test_bad_choices(self, dims, labels, match):
        with pytest.raises(ValueError, match=match):
            vf.plots.overview(FLOW, points(), dims, labels)


class TestCalibration:
    def means(self, figure):
        return figure.axes[0].containers[0].lines[0].get_xydata()

    def test_of_a_perfect_flow(self):
        flow, data = of_uniform(2, 500, fx=np.full(500, 3.0))
        np.testing.assert_allclose(self.means(vf.plots.calibration(flow, data))[:, 1], 1)

    def test_shows_where_density_is_missing(self):
        data = points(5000)
        data = points(5000, fx=np.exp(2 * FLOW.log_prob(data.x)))
        mean = self.means(vf.plots.calibration(FLOW, data))[:, 1]
        assert mean[0] < 1 < mean[-1]

    def test_mean_of_all_is_one(self):
        data = points(2000)
        mean = self.means(vf.plots.calibration(FLOW, data))[:, 1]
        assert mean.mean() == pytest.approx(
            1, abs=0.02
        )  # parts have equal shares of q, but for single points


class TestWorst:
    def test_are_those_of_the_largest_weights(self):
        data = points()
        found = vf.worst_points(FLOW, data, 7)
        weights = data.fx / np.exp(FLOW.log_prob(data.x))
        np.testing.assert_array_equal(found.rows, np.argsort(-weights)[:7])
        np.testing.assert_array_equal(found.x, data.x[found.rows])
        np.testing.assert_allclose(
            found.weight / found.weight[0], weights[found.rows] / weights[found.rows[0]]
        )
        assert 0 < found.share.sum() < 1

    def test_shares_of_all_are_one(self):
        assert vf.worst_points(FLOW, points(), 10**6).share.sum() == pytest.approx(1)

    def test_table(self):
        lines = str(vf.worst_points(FLOW, points(), 3)).splitlines()
        assert lines[0].split() == ["row", "weight", "of", "variance", "q", "x1", "x2"]
        assert [len(line) for line in lines] == [len(lines[0])] * 4

    def test_constant_weights(self):
        flow, data = of_uniform(2, 50, fx=np.ones(50))
        assert (vf.worst_points(flow, data, 5).share == 0).all()

    @pytest.mark.parametrize("k", [0, -1, 1.5])
    def test_k(self, k):
        with pytest.raises((TypeError, ValueError), match="k must be"):
            vf.plots.worst(FLOW, points(), k)


class TestCorner:
    def test_histograms_are_densities(self):
        figure = vf.plots.corner(FLOW, points())
        for axes in figure.axes[::3]:
            for patch in axes.patches:
                x, y = patch.get_xy().T
                assert abs(np.diff(x) @ (y[1:] + y[:-1]) / 2) == pytest.approx(1)
        assert [axes.get_xlabel() for axes in figure.axes[2:]] == ["$x_{1}$", "$x_{2}$"]

    def test_chosen_dimensions_and_labels(self):
        flow, data = of_uniform(12, 100)
        with pytest.raises(ValueError, match=r"1 to 10 dimensions, got 12: choose some, as in dims="):
            vf.plots.corner(flow, data)
        figure = vf.plots.corner(flow, data, [11, 0], ["mass / GeV", "angle"])
        assert [axes.get_xlabel() for axes in figure.axes[2:]] == ["mass / GeV", "angle"]

    @pytest.mark.parametrize(
        ("dims", "labels", "match"),
        [
            ([], None, "1 to 10 dimensions, got 0"),
            ([2], None, "between 0 and 1, found 2"),
            ([-1], None, "between 0 and 1, found -1"),
            ([0, 0], None, "must be different"),
            ([0], ["a", "b"], "one for each of 1 dimensions, got 2"),
        ],
    )
    def test_bad_choices(self, dims, labels, match):
        with pytest.raises(ValueError, match=match):
            vf.plots.corner(FLOW, points(), dims, labels)

    def test_few_points(self):
        with pytest.raises(ValueError, match="a picture of 2 dimensions needs more points than that, got 2"):
            vf.plots.corner(FLOW, points(2))


class TestResult:
    @pytest.mark.parametrize(
        ("f", "options"),
        [
            (lambda x: np.exp(-10 * np.square(x).sum(axis=1)), {}),
            (lambda x: -1e4 * np.square(x - 0.4).sum(axis=1) - 3000, {"log": True}),
            (lambda x: {"a": x, "b": x[:, 0] - 0.5}, {}),
            (lambda x: np.zeros(len(x)), {}),
            (lambda x: 1e-300 * x[:, 0], {}),
        ],
    )
    def test_is_drawn_and_its_file_too(self, f, options, tmp_path):
        result = vf.integrate(f, 2, n_calls=200, seed=1, **options)
        drawn = drawn_bytes(result.plot(), tmp_path)
        result.save(tmp_path / "r")
        assert drawn_bytes(vf.Result.load(tmp_path / "r").plot(), tmp_path) == drawn

    def test_shows_its_numbers(self):
        result = vf.integrate(lambda x: x[:, 0], 1, n_calls=1000, seed=1)
        estimates, tail, ess, effort, *_ = result.plot().axes
        assert estimates.lines[-1].get_ydata()[0] == result.mean
        assert sum(bar.get_height() for bar in effort.containers[0]) == result.n_calls
        assert f"k = {result.k:.2f}" in tail.get_legend().get_texts()[-1].get_text()
        assert len(ess.lines[0].get_xdata()) == sum(one.is_used for one in result.history)


def test_learning_curve(tmp_path):
    curve = vf.learning_curve(points(2000), seed=1, n_epochs=1)
    axes = vf.plots.learning_curve(curve).axes[0]
    np.testing.assert_array_equal(axes.containers[0].lines[0].get_xdata(), curve.n)
    np.testing.assert_array_equal(axes.containers[0].lines[0].get_ydata(), curve.variance)


class TestRecord:
    def record(self, **settings):
        trainer = vf.BasicStatefulVarTrainer(vf.Flow(2, d_hidden=4, n_bins=4, bounds=FLOW.bounds), seed=1)
        return trainer.train_on_dataset(points(2000), n_epochs=3, minibatch_size=100, **settings)

    def test_shows_its_numbers(self, tmp_path):
        record = self.record()
        figure = record.plot()
        losses, rates, lengths = figure.axes
        np.testing.assert_array_equal(losses.lines[0].get_ydata(), record.losses)
        np.testing.assert_array_equal(
            losses.lines[2].get_xydata().T, [record.epoch_ends, record.epoch_losses]
        )
        np.testing.assert_array_equal(rates.lines[0].get_ydata(), record.learning_rates)
        np.testing.assert_array_equal(lengths.lines[0].get_ydata(), record.gradient_lengths)
        assert len(rates.lines) == 2
        drawn_bytes(figure, tmp_path)

    def test_returns_to_good_states(self):
        record = self.record()
        record.reloads.append(7)
        for axes in record.plot().axes:
            assert list(axes.lines[-1].get_xdata()) == [7, 7]

    def test_without_steps(self):
        with pytest.raises(ValueError, match="no step yet: train first"):
            vf.TrainingRecord().plot()
