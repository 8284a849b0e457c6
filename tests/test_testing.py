"""The module for users' tests: its laws hold for all flows, fail for broken ones, and say what is wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from strategies import percent_of_examples, seeds

import varflow
from varflow import Adam, BasicStatefulVarTrainer, Dataset, Flow, Loss
from varflow.flow.masks import MASKS, make_masks
from varflow.kernels.splines import CELLS, SPLINES
from varflow.testing import (
    architectures,
    boxes,
    check_density,
    check_gradient,
    check_round_trip,
    datasets,
    flows,
    masks,
    normal_params,
)
from varflow.training.losses import LOSSES, weighted_variance_derivative, weighted_variance_loss
from varflow.training.objective import Objective

every_cell = pytest.mark.parametrize("cell", sorted(CELLS))
every_spline = pytest.mark.parametrize("cell", SPLINES)
every_kind = st.sampled_from(sorted(CELLS))
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
BOUNDS = [(-1.0, 2.0), (0.0, 5.0), (3.0, 4.0)]
numbers_of_conditions = st.integers(0, 3)


def random_flow(kind=Flow, cell="pwlinear", dtype="float64", scale=0.5, **options):
    where = (
        {"location": 1.0, "scale": [2.0, 1.0, 0.5]} if cell == "realnvp" else {"bounds": BOUNDS, "n_bins": 5}
    )
    flow = kind(3, cell, d_hidden=6, dtype=dtype, seed=0, threads=1, **where, **options)
    flow.params = normal_params(flow.architecture, scale, np.random.default_rng(1))
    return flow


def run_python(code):
    """Output of a new interpreter that finds this package."""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=Path(varflow.__file__).parent.parent,
        env=os.environ, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return process.stdout


class TestLawsHold:
    @percent_of_examples(20)
    @given(flows(cell=every_kind, n_conditions=numbers_of_conditions), seeds)
    def test_round_trip(self, flow, seed):
        check_round_trip(flow, seed=seed)

    @percent_of_examples(10)
    @given(flows(cell=every_kind, n_conditions=numbers_of_conditions), seeds)
    def test_density(self, flow, seed):
        check_density(flow, seed=seed)

    @percent_of_examples(10)
    @given(flows(cell=every_kind, n_conditions=numbers_of_conditions), st.sampled_from(sorted(LOSSES)), seeds)
    def test_gradient(self, flow, name, seed):
        before = flow.params.copy()
        check_gradient(flow, name, seed=seed)
        np.testing.assert_array_equal(flow.params, before)

    @percent_of_examples(10)
    @given(
        st.data(),
        flows(d=st.integers(1, 3), n_conditions=numbers_of_conditions),
        st.sampled_from(sorted(LOSSES)),
    )
    def test_gradient_on_any_data(self, data, flow, name):
        points = datasets(bounds=flow.bounds, n_conditions=flow.n_conditions)
        check_gradient(flow, name, data=data.draw(points))

    @settings(max_examples=3)
    @given(flows(scale=3.0), seeds)
    def test_where_rounding_is_amplified_by_many_orders(self, flow, seed):
        check_round_trip(flow, seed=seed)
        check_density(flow, seed=seed)

    def test_in_high_dimension(self):
        flow = Flow(20, n_bins=4, d_hidden=8, n_hidden=1, dtype="float64", seed=0)
        flow.params = normal_params(flow.architecture, 0.5, np.random.default_rng(1))
        check_round_trip(flow)
        check_density(flow)

    @every_cell
    def test_of_a_flow_that_has_learnt_a_narrow_peak(self, cell):
        x, bounds = (
            np.random.default_rng(1).random((2000, 2)),
            (0, 1) if cell in SPLINES else (-np.inf, np.inf),
        )
        data = Dataset(x, np.ones(len(x)), np.exp(-1000 * ((x - 0.4) ** 2).sum(axis=1)), bounds=bounds)
        place = {"n_bins": 10} if cell in SPLINES else {"location": 0.4, "scale": 0.1}
        flow = Flow(2, cell, d_hidden=16, n_hidden=1, seed=1, **place)
        options = {"n_epochs": 10, "minibatch_size": 200, "optim": Adam(lr=0.01)}
        BasicStatefulVarTrainer(flow, **options).train_on_dataset(data)
        check_round_trip(flow)
        check_density(flow)
        check_gradient(flow, "variance")

    def test_far_from_zero(self):
        """Points of this box are rounded a million times as coarsely as those of the unit cube."""
        flow = Flow(2, n_bins=4, d_hidden=8, dtype="float64", bounds=(1e6, 1e6 + 1), seed=0)
        flow.params = normal_params(flow.architecture, 0.5, np.random.default_rng(1))
        check_round_trip(flow)
        check_density(flow)

    def test_of_a_loss_of_ones_own(self):
        check_gradient(random_flow(), (weighted_variance_loss, weighted_variance_derivative))


class Shifted(Flow):
    """The way back misses by a billionth of the box."""

    def from_latent(self, z):
        x, log_q = super().from_latent(z)
        return np.clip(x + 1e-9 * self.layout.width, *self.bounds.T), log_q


class Outside(Flow):
    """The way back leaves the box."""

    def from_latent(self, z):
        x, log_q = super().from_latent(z)
        return np.where(z > 0.99, self.bounds[:, 1] + 0.5, x), log_q


class OtherLogQBack(Flow):
    """The way back gives another log q than the way there."""

    def from_latent(self, z):
        x, log_q = super().from_latent(z)
        return x, log_q + 1e-8


class NotANumber(Flow):
    """Some points have no image."""

    def to_latent(self, x):
        z, log_q = super().to_latent(x)
        return np.where(x[:, :1] > 0.5, np.nan, z), log_q


class OtherLogProb(Flow):
    """Only log_prob is wrong, by a millionth."""

    def log_prob(self, x):
        return super().log_prob(x) * (1 + 1e-6)


class OtherLogDet(Flow):
    """Everything agrees on a log q that is wrong by a millionth."""

    def _transform(self, points, is_inverse):
        out, log_det = super()._transform(points, is_inverse)
        return out, log_det + 1e-6


class Unnormalised(Flow):
    """A density of twice the volume."""

    @property
    def log_volume(self):
        return super().log_volume - np.log(2)


@every_dtype
class TestRoundTripFails:
    @every_cell
    def test_by_a_shift(self, cell, dtype):
        with pytest.raises(
            AssertionError, match=r"^from_latent after to_latent does not give the points back"
        ):
            check_round_trip(random_flow(Shifted, cell, dtype))

    @every_spline
    def test_outside_the_box(self, cell, dtype):
        message = r"^from_latent after to_latent leaves \[\[-1\.0, 2\.0\], .*: off by 0\.5 in row \d+, column"
        with pytest.raises(AssertionError, match=message):
            check_round_trip(random_flow(Outside, cell, dtype))

    @every_cell
    def test_by_log_q(self, cell, dtype):
        message = r"^log q of from_latent is not that of to_latent: off by 1e-08 in row \d+, at "
        with pytest.raises(AssertionError, match=message):
            check_round_trip(random_flow(OtherLogQBack, cell, dtype))

    @every_cell
    def test_by_nan(self, cell, dtype):
        with pytest.raises(AssertionError, match=r"^to_latent leaves .*: off by nan in row "):
            check_round_trip(random_flow(NotANumber, cell, dtype))


def test_messages_say_where():
    """The worst row is named, with its point, the tolerance and how many are wrong."""
    flow = random_flow(Outside)
    with pytest.raises(AssertionError) as caught:
        check_round_trip(flow, n=40)
    pattern = r"in row (\d+), column (\d), at \[(.*)\]; tolerance 0; so in (\d+) of 40 rows$"
    row, column, point, n_wrong = re.search(pattern, str(caught.value)).groups()
    x = np.array([float(value) for value in point.split(", ")])
    assert flow.to_latent(x[None])[0][0, int(column)] > 0.99
    assert int(row) < 40
    assert 0 < int(n_wrong) < 40


@every_cell
class TestDensityFails:
    @every_dtype
    def test_by_log_prob(self, cell, dtype):
        message = (
            r"^log_prob (of samples is not what sample says|is not the log-determinant of the Jacobian): off"
        )
        with pytest.raises(AssertionError, match=message):
            check_density(random_flow(OtherLogProb, cell, dtype))

    def test_by_the_jacobian(self, cell):
        message = (
            r"^log_prob is not the log-determinant of the Jacobian: off by (1|1\.0\d*|9\.\d+)e-0[67] in row"
        )
        with pytest.raises(AssertionError, match=message):
            check_density(random_flow(OtherLogDet, cell, scale=0.2))

    def test_by_the_integral(self, cell, monkeypatch):
        """Where nothing else looks."""
        monkeypatch.setattr(varflow.testing, "_check_log_det", lambda flow, n, seed: None)
        with pytest.raises(
            AssertionError, match=r"^q does not integrate to 1: off by 0\.\d+, tolerance 0\.0"
        ):
            check_density(random_flow(Unnormalised, cell))


@every_cell
@pytest.mark.parametrize("name", sorted(LOSSES))
class TestGradientFails:
    def test_by_one_parameter(self, cell, name, monkeypatch):
        """The largest derivative by a bias of the last layer of the first cell is wrong by a thousandth."""
        flow = random_flow(cell=cell)
        right, (_, n_biases, _, biases) = Objective.gradient, flow.architecture.layers[0, -1]

        def wrong(self, rows, buffers):
            loss, shares = right(self, rows, buffers)
            shares = shares.copy()
            largest = np.argmax(np.abs(shares[:, biases : biases + n_biases].sum(axis=0)))
            shares[:, biases + largest] *= 1.001
            return loss, shares

        monkeypatch.setattr(Objective, "gradient", wrong)
        layer = flow.architecture.n_hidden
        pattern = (
            rf"^gradient along the biases of layer {layer} of cell 0: .* central differences; off by .* rows$"
        )
        with pytest.raises(AssertionError, match=pattern):
            check_gradient(flow, name)

    def test_by_the_derivative_of_a_loss(self, cell, name):
        value, derivative, _ = LOSSES[name]
        wrong = Loss(value, lambda fx, px, log_q: derivative(fx, px, log_q) * (1 + 1e-4))
        with pytest.raises(
            AssertionError, match=r"^gradient along the (weights|biases) of layer 0 of cell 0: "
        ):
            check_gradient(random_flow(cell=cell), wrong)

    def test_by_a_map_that_the_gradient_does_not_know(self, cell, name):
        class Tempered(Flow):
            def to_latent(self, x):
                z, log_q = super().to_latent(x)
                return z, 0.99 * log_q

        with pytest.raises(AssertionError, match=r"^gradient along the "):
            check_gradient(random_flow(Tempered, cell), name)

    def test_by_nan(self, cell, name):
        flow = random_flow(cell=cell)
        flow.params[0] = np.nan
        with pytest.raises(AssertionError, match=r"^log q is smooth in 0 of 100 rows only, on average$"):
            check_gradient(flow, name)


class TestGradientInput:
    def test_data_of_another_box_are_refused(self):
        data = Dataset(np.full((1, 3), 0.5), [1.0], [1.0])
        with pytest.raises(ValueError, match=r"^the flow has bounds .*, the data have "):
            check_gradient(random_flow(), "dkl", data=data)

    def test_unknown_loss_is_refused(self):
        with pytest.raises(ValueError, match=r"^loss must be one of .*; did you mean 'variance'"):
            check_gradient(random_flow(), "varience")


class TestStrategies:
    @given(
        st.data(), st.integers(1, 20), st.sampled_from(sorted(CELLS)), st.sampled_from(["float32", "float64"])
    )
    def test_architectures_are_as_asked_for(self, data, d, cell, dtype):
        strategy = data.draw(
            st.sampled_from(
                [
                    architectures(d=d, cell=cell, dtype=dtype),
                    architectures(d=st.just(d), cell=st.just(cell), dtype=st.just(dtype)),
                ]
            )
        )
        architecture = data.draw(strategy)
        assert (architecture.d, architecture.cell, architecture.dtype) == (d, cell, dtype)

    @given(st.data(), st.integers(1, 20))
    def test_masks_are_those_of_a_flow(self, data, d):
        found = data.draw(masks(d=d))
        possible = [make_masks(d, masking, k) for masking in MASKS for k in (1, 2, 3)]
        assert any(np.array_equal(found, expected) for expected in possible)

    @given(st.data(), st.integers(1, 20))
    def test_boxes_have_a_volume(self, data, d):
        bounds = data.draw(boxes(d))
        assert bounds.shape == (d, 2)
        assert (np.diff(bounds) > 0).all()
        assert (np.abs(bounds) <= 2 * np.diff(bounds)).all()

    @given(st.data(), st.integers(1, 20), st.sampled_from(sorted(CELLS)))
    def test_flows_are_as_asked_for(self, data, d, cell):
        flow = data.draw(flows(d=d, cell=cell, dtype="float64"))
        assert (flow.d, flow.architecture.cell, flow.params.dtype) == (d, cell, "float64")

    @given(flows(scale=0.0, dtype="float64"), seeds)
    def test_scale_zero_is_the_identity(self, flow, seed):
        _, log_q = flow.sample(10, seed)
        np.testing.assert_allclose(log_q, -flow.log_volume, rtol=0, atol=1e-11)

    @given(st.data(), st.integers(1, 20), st.integers(1, 30))
    def test_datasets_are_as_asked_for(self, data, d, n_max):
        found = data.draw(datasets(d=d, n_max=n_max))
        assert found.d == d
        assert found.n <= n_max
        bounds = data.draw(boxes(d))
        np.testing.assert_array_equal(data.draw(datasets(bounds=bounds)).bounds, bounds)

    @given(datasets())
    def test_datasets_can_be_learnt_from(self, data):
        flow = Flow(data.d, n_bins=2, d_hidden=2, n_hidden=1, bounds=data.bounds, seed=1, threads=1)
        for loss in LOSSES.values():
            assert np.isfinite(Objective(flow, data, loss).value(np.arange(data.n)))

    @pytest.mark.parametrize(
        "is_so",
        [
            lambda data: (data.fx < 0).any() and (data.fx > 0).any(),
            lambda data: (data.fx == 0).any(),
            lambda data: np.ptp(data.logpx) > 200,
            lambda data: "logpx" in repr(data) and "logfx" in repr(data),
            lambda data: (data.x == data.bounds[:, 0]).any(),
        ],
        ids=["both signs", "zeros", "orders of magnitude", "logarithms", "faces"],
    )
    def test_datasets_have_what_is_hard(self, is_so):
        find(datasets(), is_so)


class TestImport:
    def test_varflow_does_not_load_hypothesis(self):
        loaded = run_python("import sys, varflow; print(*sys.modules)").split()
        assert "hypothesis" not in loaded
        assert "varflow.testing" not in loaded

    def test_without_hypothesis_it_says_what_to_install(self):
        code = """
import sys
sys.modules["hypothesis"] = None
try:
    import varflow.testing
except ImportError as error:
    print(error)
"""
        assert run_python(code) == "varflow.testing needs Hypothesis: pip install varflow[testing]\n"

    def test_all_is_there_sorted_and_documented(self):
        names = varflow.testing.__all__
        assert names == sorted(names)
        assert all(getattr(varflow.testing, name).__doc__ for name in names)
