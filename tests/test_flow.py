"""Flows: a density, the same bits however the work is shared; what is wrong is refused.

That they are invertible, and that log q is the log-determinant, is tested with `varflow.testing`.
"""

import os
import re
import threading
import time
from functools import partial

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import edge_points, edges, in_box, percent_of_examples, seeds, uniform_points

from varflow import FileFormatError, Flow, testing
from varflow.flow.architecture import DTYPES
from varflow.flow.flow import FILE
from varflow.flow.latent import SAMPLE_BLOCK
from varflow.flow.masks import MASKS
from varflow.runtime.archive import read_archive, write_archive
from varflow.runtime.threads import default_threads, run, share
from varflow.testing import PRECISIONS, amplified_rounding, architectures, boxes, flows, normal_params

EPS = np.finfo(np.float64).eps

single, double = st.just("float32"), st.just("float64")


def random_flow(d=3, spread=0.5, **options):
    flow = Flow(d, seed=0, **{"cell": "pwlinear", "n_bins": 16, "repetitions": 1} | options)
    flow.params = normal_params(flow.architecture, spread, np.random.default_rng(d))
    return flow


def conditions_of(flow, u):
    """Conditions at places u (n, c) of their range; both are None where the flow has none."""
    return (u, testing.in_box(u, flow.condition_bounds)) if flow.n_conditions > 0 else (None, None)


def widths(flow):
    return flow.bounds[:, 1] - flow.bounds[:, 0]


def log_q_changes(transform, points, width):
    """How fast log q changes with the points, (n,), in widths: by rounding of theirs, it changes as much.

    The slopes of smooth cells change by factors within narrow bins: a thousandfold is common.
    """
    h = 1e-9
    _, log_q = transform(points)
    changes = [transform(points + h * width * axis)[1] - log_q for axis in np.eye(points.shape[1])]
    return np.abs(changes).sum(axis=0) / h


class TestMap:
    @given(st.data(), flows())
    def test_round_trip_at_bin_edges(self, data, flow):
        """Log q jumps there, so the points alone come back; `check_round_trip` looks at all others."""
        x = in_box(flow, data.draw(edge_points(flow.d, flow.architecture.n_bins, 30)))
        again, _ = flow.from_latent(flow.to_latent(x)[0])
        error = np.abs(again - x) / widths(flow)
        for floor, rounding, allowed in PRECISIONS[flow.architecture.dtype]:
            slack, _ = amplified_rounding(flow, "to_latent", "from_latent", x, rounding)
            assert (error > floor + slack).any(axis=1).mean() <= allowed

    @given(flows(), seeds)
    def test_log_prob_is_that_of_to_latent(self, flow, seed):
        x, _ = flow.sample(100, seed)
        np.testing.assert_array_equal(flow.log_prob(x), flow.to_latent(x)[1])

    @given(st.data(), flows(dtype=double, n_conditions=st.integers(0, 3)))
    def test_agrees_with_the_oracle(self, data, flow):
        of_flow = flow.architecture, flow.params, flow.bounds
        u, conditions = conditions_of(flow, data.draw(uniform_points(flow.n_conditions, 100)))
        to_latent, from_latent = (
            partial(function, conditions=conditions) for function in (flow.to_latent, flow.from_latent)
        )
        x = in_box(flow, data.draw(uniform_points(flow.d, 100)))
        z, log_q = to_latent(x)
        expected = naive.forward(*of_flow, x, u)
        np.testing.assert_allclose(z, expected.z, rtol=0, atol=1e-12)
        tolerance = 1e-12 + 1e-14 * log_q_changes(to_latent, x, widths(flow))
        assert (np.abs(log_q - expected.log_q) <= tolerance).all()
        latent = data.draw(uniform_points(flow.d, 100))
        x, log_q = from_latent(latent)
        expected_x, expected_log_q = naive.inverse(*of_flow, latent, u)
        assert (np.abs(x - expected_x) <= 1e-12 * widths(flow)).all()
        tolerance = 1e-12 + 1e-14 * log_q_changes(from_latent, latent, 1.0)
        assert (np.abs(log_q - expected_log_q) <= tolerance).all()

    @given(st.data(), flows(dtype=double))
    def test_agrees_with_the_oracle_at_bin_edges(self, data, flow):
        """z is continuous there. Log q jumps from one finite value to another."""
        x = in_box(flow, data.draw(edge_points(flow.d, flow.architecture.n_bins, 30)))
        z, log_q = flow.to_latent(x)
        expected = naive.forward(flow.architecture, flow.params, flow.bounds, x)
        np.testing.assert_allclose(z, expected.z, rtol=0, atol=1e-12)
        assert np.isfinite(log_q).all()

    @given(st.data(), flows(dtype=single))
    def test_float32_agrees_with_the_oracle(self, data, flow):
        x = in_box(flow, data.draw(uniform_points(flow.d, 100)))
        z, log_q = flow.to_latent(x)
        expected = naive.forward(flow.architecture, flow.params.astype(np.float64), flow.bounds, x)
        np.testing.assert_allclose(z, expected.z, rtol=0, atol=1e-5)
        is_smooth = expected.margin > 1e-5  # elsewhere rounding may take the point to the next bin
        # Where log q changes a hundred times as fast as x, so does the rounding of the networks in it.
        np.testing.assert_allclose(log_q[is_smooth], expected.log_q[is_smooth], rtol=0, atol=1e-4)
        assert is_smooth.mean() > 0.9

    @given(st.data(), architectures())
    def test_new_flow_is_the_identity(self, data, architecture):
        flow = Flow(**architecture.as_dict(), bounds=data.draw(boxes(architecture.d)), seed=1)
        points = data.draw(edge_points(flow.d, 10, 50))
        z, log_q = flow.to_latent(in_box(flow, points))
        x, log_q_inverse = flow.from_latent(points)
        width = widths(flow)
        coarseness = EPS * (1 + np.abs(flow.bounds).max(axis=1) / width)  # of x, in widths
        tolerance = 4 * architecture.n_cells * architecture.n_bins * coarseness
        assert (np.abs(z - points) <= tolerance).all()
        assert (np.abs(x - in_box(flow, points)) <= tolerance * width).all()
        # Each coordinate of each cell contributes the logarithm of n_bins shares of their sum.
        atol = 4 * EPS * architecture.n_bins * architecture.masks.sum() + 4 * EPS * abs(flow.log_volume)
        for found in (log_q, log_q_inverse):
            np.testing.assert_allclose(found, -np.log(width).sum(), rtol=0, atol=atol)

    @given(st.data(), flows())
    def test_stays_within_bounds(self, data, flow):
        points = np.concatenate(
            [data.draw(edge_points(flow.d, n_bins, 30)) for n_bins in (1, flow.architecture.n_bins)]
        )
        z, _ = flow.to_latent(in_box(flow, points))
        assert (z >= 0).all()
        assert (z <= 1).all()
        x, _ = flow.from_latent(points)
        lower, upper = flow.bounds.T
        assert (x >= lower).all()
        assert (x <= upper).all()

    @given(flows(), seeds)
    def test_faces_map_to_faces(self, flow, seed):
        points = np.random.default_rng(seed).integers(0, 2, (20, flow.d)).astype(float)
        lower, upper = flow.bounds.T
        corners = np.where(points == 0, lower, upper)
        z, _ = flow.to_latent(corners)
        x, _ = flow.from_latent(points)
        np.testing.assert_array_equal(z[points == 0], 0)
        np.testing.assert_array_equal(x[points == 0], corners[points == 0])
        np.testing.assert_allclose(z[points == 1], 1, atol=1e-12)
        assert (np.abs(x - corners) <= 1e-12 * widths(flow)).all()

    @given(flows(d=st.just(1)), seeds)
    def test_one_dimension_is_monotone(self, flow, seed):
        points = np.concatenate([np.random.default_rng(seed).random(500), edges(flow.architecture.n_bins)])
        points = np.sort(points)[:, None]
        assert (np.diff(flow.to_latent(in_box(flow, points))[0], axis=0) >= -4 * EPS).all()
        assert (np.diff(flow.from_latent(points)[0], axis=0) >= -4 * EPS * widths(flow)).all()

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("masking", sorted(MASKS))
    @pytest.mark.parametrize("spread", [10.0, 1000.0])
    def test_extreme_parameters(self, dtype, masking, spread):
        """Logits that are thousands apart: no slope is zero or infinite, and points stay in the box."""
        flow = random_flow(5, spread, dtype=dtype, masking=masking, bounds=[(-1, 3)] * 5)
        points = np.concatenate(
            [np.random.default_rng(1).random((500, 5)), np.zeros((1, 5)), np.ones((1, 5))]
        )
        z, log_q = flow.to_latent(4 * points - 1)
        x, log_q_inverse = flow.from_latent(points)
        # A slope is n_bins times a share, which is at most one, and at least exp(-80) over n_bins.
        n_slopes = flow.architecture.masks.sum()
        for found in (log_q + flow.log_volume, log_q_inverse + flow.log_volume):
            assert (found <= n_slopes * np.log(16) * (1 + 1e-12)).all()
            assert (found >= -80 * n_slopes * (1 + 1e-6)).all()
        for found in (z, (x + 1) / 4):
            assert (found >= 0).all()
            assert (found <= 1).all()

    @given(seeds, st.floats(0, 80))
    def test_exponentials_of_float32(self, seed, depth):
        """In one dimension logits are biases, so that all rounding is that of the exponentials."""
        flow = Flow(1, "pwlinear", n_bins=100, repetitions=1, dtype="float32", seed=0)
        logits = -depth * np.random.default_rng(seed).random(flow.n_params)
        logits[0] = 0.0  # so that subtracting the largest changes nothing
        flow.params = logits
        x = (np.arange(100)[:, None] + 0.5) / 100
        expected = naive.forward(flow.architecture, flow.params.astype(np.float64), flow.bounds, x).log_q
        # One half of it from the exponential of the bin, the other from those of the sum.
        np.testing.assert_allclose(flow.log_prob(x), expected, rtol=0, atol=2 * np.finfo(np.float32).eps)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_many_small_slopes(self, dtype):
        """The smallest slopes of 20 coordinates: their product would underflow."""
        flow = Flow(20, "pwlinear", "checkerboard", n_bins=2, d_hidden=4, repetitions=1, dtype=dtype, seed=0)
        params = flow.params.copy()
        for n_in, n_out, _, biases in flow.architecture.layers[:, -1]:
            assert n_in == 4
            params[biases : biases + n_out // 2] = 500.0  # of the left bins
        flow.params = params
        np.testing.assert_allclose(flow.log_prob(np.full((3, 20), 0.75)), 20 * (np.log(2) - 80), rtol=1e-7)
        np.testing.assert_allclose(flow.log_prob(np.full((3, 20), 0.25)), 20 * np.log(2), rtol=1e-12)


class TestDensity:
    @given(flows(d=st.just(1)))
    def test_integral_in_one_dimension(self, flow):
        """Midpoint rule: it is off by half an interval times the second differences, jumps and kinks too."""
        n = flow.architecture.n_bins * 1000
        q = np.exp(flow.log_prob(in_box(flow, (np.arange(n)[:, None] + 0.5) / n)) + flow.log_volume)
        assert abs(q.mean() - 1) <= np.abs(np.diff(q, n=2)).sum() / (2 * n) + 1e-12

    @percent_of_examples(20)
    @given(flows(d=st.just(2)))
    def test_integral_in_two_dimensions(self, flow):
        """Midpoint rule: along each axis it is off by half an interval times the variation, jumps too."""
        n = 400 // flow.architecture.n_bins * flow.architecture.n_bins
        centres = (np.indices((n, n)).reshape(2, -1).T + 0.5) / n
        q = np.exp(flow.log_prob(in_box(flow, centres)) + flow.log_volume).reshape(n, n)
        variation = sum(np.abs(np.diff(q, axis=axis)).sum(axis=axis).mean() for axis in (0, 1))
        assert abs(q.mean() - 1) <= variation / (2 * n) + 1e-12

    @percent_of_examples(30)
    @given(flows(d=st.integers(1, 2)), seeds)
    def test_samples_follow_it(self, flow, seed):
        """Mean of 1 / (1 + q) over x ~ q is the integral of q / (1 + q). That of 1 / q has heavy tails."""
        _, log_q = flow.sample(2000, seed)
        found = 1 / (1 + np.exp(log_q + flow.log_volume))
        n = 400 // flow.architecture.n_bins * flow.architecture.n_bins
        centres = (np.indices((n,) * flow.d).reshape(flow.d, -1).T + 0.5) / n
        q = np.exp(flow.log_prob(in_box(flow, centres)) + flow.log_volume).reshape((n,) * flow.d)
        exact = q / (1 + q)
        variation = sum(np.abs(np.diff(exact, axis=axis)).sum(axis=axis).mean() for axis in range(flow.d))
        rounding = variation / (2 * n) + 1e-12
        assert abs(found.mean() - exact.mean()) <= 6 * found.std() / np.sqrt(len(found)) + rounding


class TestSample:
    @percent_of_examples(20)
    @given(flows(), seeds)
    def test_is_from_latent_of_uniform_points(self, flow, seed):
        x, log_q = flow.sample(100, seed)
        assert x.shape == (100, flow.d)
        assert log_q.shape == (100,)
        z, _ = flow.to_latent(x)
        assert abs(z.mean() - 0.5) < 6 / np.sqrt(12 * z.size)

    @pytest.mark.parametrize("n", [1, 63, 64, 65, SAMPLE_BLOCK - 1, SAMPLE_BLOCK, SAMPLE_BLOCK + 1])
    def test_first_points_of_a_larger_sample(self, n):
        flow = random_flow(2, d_hidden=4, n_bins=3)
        larger = flow.sample(2 * SAMPLE_BLOCK + 5, seed=3)
        for found, expected in zip(flow.sample(n, seed=3), larger, strict=True):
            assert found.tobytes() == expected[:n].tobytes()

    def test_blocks_do_not_repeat(self):
        x, _ = Flow(1, n_bins=1, d_hidden=1, seed=0).sample(2 * SAMPLE_BLOCK, seed=3)
        assert len(np.unique(x)) == 2 * SAMPLE_BLOCK

    def test_blocks_are_the_sample(self):
        flow = random_flow(2, d_hidden=4, n_bins=3)
        blocks = list(flow.sample_blocks(SAMPLE_BLOCK + 5, seed=3))
        assert [len(x) for x, _ in blocks] == [SAMPLE_BLOCK, 5]
        for found, expected in zip(
            zip(*blocks, strict=True), flow.sample(SAMPLE_BLOCK + 5, seed=3), strict=True
        ):
            assert np.concatenate(found).tobytes() == expected.tobytes()

    def test_seeds(self):
        flow = random_flow()
        first, again, other = (flow.sample(10, seed)[0] for seed in (1, 1, 2))
        assert first.tobytes() == again.tobytes()
        assert not np.isin(first, other).any()
        assert not np.isin(flow.sample(10)[0], flow.sample(10)[0]).any()

    @pytest.mark.parametrize("n", [0, -1, np.int64(0)])
    def test_n_must_be_positive(self, n):
        with pytest.raises(ValueError, match=r"^n must be at least 1, got "):
            Flow(2, seed=0).sample(n)

    @pytest.mark.parametrize("n", [1.5, 2.0, True, "3", None, [3]])
    def test_n_must_be_an_integer(self, n):
        with pytest.raises(TypeError, match=rf"^n must be an integer, got {re.escape(repr(n))}$"):
            Flow(2, seed=0).sample(n)


def bits(arrays):
    return [array.tobytes() for array in arrays]


class TestBits:
    @percent_of_examples(20)
    @given(architectures(), st.sampled_from([7, 64, 150]), seeds)
    def test_do_not_depend_on_threads(self, architecture, d_hidden, seed):
        flow = Flow(**architecture.as_dict() | {"d_hidden": d_hidden}, seed=0, threads=1)
        flow.params = normal_params(flow.architecture, 0.5, np.random.default_rng(seed))
        points = np.random.default_rng(seed).random((1000, flow.d))
        expected = bits((*flow.to_latent(points), *flow.from_latent(points), *flow.sample(1000, seed)))
        for threads in (2, 3, 4, 8):
            flow.threads = threads
            found = bits((*flow.to_latent(points), *flow.from_latent(points), *flow.sample(1000, seed)))
            assert found == expected

    @percent_of_examples(40)
    @given(architectures(), st.sampled_from([7, 64, 150]), seeds, st.integers(1, 600), st.integers(0, 599))
    def test_of_a_row_do_not_depend_on_the_others(self, architecture, d_hidden, seed, n, begin):
        flow = Flow(**architecture.as_dict() | {"d_hidden": d_hidden}, seed=0, threads=2)
        rng = np.random.default_rng(seed)
        flow.params = normal_params(flow.architecture, 0.5, rng)
        points, order = rng.random((600, flow.d)), rng.permutation(600)
        part = slice(begin, begin + n)
        for mapped in (flow.to_latent, flow.from_latent):
            everything = mapped(points)
            assert bits(mapped(points[order])) == bits(array[order] for array in everything)
            assert bits(mapped(points[part])) == bits(array[part] for array in everything)

    def test_follow_from_the_seed(self):
        first, again, other = (Flow(3, seed=seed).params.tobytes() for seed in (1, 1, 2))
        assert first == again != other
        assert Flow(3).params.tobytes() != Flow(3).params.tobytes()


class TestInput:
    def test_other_arrays_give_the_same(self):
        flow = random_flow(3)
        points = np.random.default_rng(1).random((70, 3)).astype(np.float32)
        for mapped in (flow.to_latent, flow.from_latent):
            expected = bits(mapped(points.astype(np.float64)))
            for same in (
                points,
                points.tolist(),
                np.asfortranarray(points),
                points.astype(">f8"),
                points.repeat(2, 0)[::2],
            ):
                assert bits(mapped(same)) == expected

    def test_is_not_written_to(self):
        flow = random_flow(3)
        points = np.random.default_rng(1).random((70, 3))
        copy = points.copy()
        points.flags.writeable = False
        for mapped in (flow.to_latent, flow.from_latent, flow.log_prob):
            mapped(points)
        np.testing.assert_array_equal(points, copy)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_must_be_finite(self, value):
        points = np.full((70, 2), 0.5)
        points[65, 1] = value
        flow = Flow(2, seed=0)
        for name, mapped in (("x", flow.to_latent), ("x", flow.log_prob), ("z", flow.from_latent)):
            with pytest.raises(
                ValueError, match=f"^{name} must be finite, found {value} in row 65, column 1$"
            ):
                mapped(points)

    @pytest.mark.parametrize("value", [-1e-300, np.nextafter(1, 2), 2.5])
    def test_must_lie_within_bounds(self, value):
        points = np.full((70, 2), 0.5)
        points[64, 0] = value
        flow = Flow(2, seed=0)
        for name, mapped in (("x", flow.to_latent), ("x", flow.log_prob), ("z", flow.from_latent)):
            message = (
                rf"^{name} must lie within bounds .*, found {re.escape(str(value))} in row 64, column 0$"
            )
            with pytest.raises(ValueError, match=message):
                mapped(points)

    def test_bounds_are_those_of_the_flow_for_x_and_of_the_cube_for_z(self):
        flow = Flow(1, seed=0, bounds=[(2, 5)])
        flow.to_latent([[2.0], [5.0]])
        with pytest.raises(ValueError, match=r"found 1\.9 in row 0, column 0$"):
            flow.to_latent([[1.9]])
        with pytest.raises(ValueError, match=r"^z must lie .*, found 2\.0 in row 1, column 0$"):
            flow.from_latent([[0.0], [2.0]])

    @pytest.mark.parametrize("shape", [(2,), (4, 3), (4, 1), (0, 2), (1, 4, 2), ()])
    def test_must_have_the_right_shape(self, shape):
        flow = Flow(2, seed=0)
        for name, mapped in (("x", flow.to_latent), ("z", flow.from_latent)):
            message = rf"^{name} must have shape \(n, [2d]\).*, found {re.escape(str(shape))}"
            with pytest.raises(ValueError, match=message):
                mapped(np.full(shape, 0.5))

    def test_must_be_real(self):
        with pytest.raises(TypeError, match=r"^x must hold real numbers, found dtype complex128$"):
            Flow(2, seed=0).to_latent(np.zeros((1, 2), complex))


class TestConstruction:
    @given(flows())
    def test_repr_and_properties(self, flow):
        options = flow.architecture.as_dict()
        assert repr(flow) == f"Flow({', '.join(f'{name}={value!r}' for name, value in options.items())})"
        assert eval(repr(flow)).architecture == flow.architecture
        assert flow.d == options["d"]
        assert flow.n_params == flow.architecture.n_params == len(flow.params)
        assert flow.params.dtype == options["dtype"]
        assert flow.log_volume == pytest.approx(np.log(np.diff(flow.bounds)).sum(), rel=1e-14, abs=1e-14)

    def test_arguments_are_checked(self):
        for name in ("d", "n_bins", "d_hidden", "n_hidden", "repetitions", "threads"):
            with pytest.raises(ValueError, match=f"^{name} must be at least 1, got 0$"):
                Flow(**{"d": 2, name: 0})
            with pytest.raises(TypeError, match=f"^{name} must be an integer, got 1.5$"):
                Flow(**{"d": 2, name: 1.5})
        with pytest.raises(ValueError, match=r"^masking must be one of .*; did you mean 'iflow'"):
            Flow(2, masking="iflwo")
        with pytest.raises(ValueError, match=r"^bounds must have lower < upper"):
            Flow(2, bounds=[(0, 1), (1, 0)])

    def test_threads(self):
        assert Flow(2, threads=5).threads == 5
        assert Flow(2).threads == default_threads()

    def test_bounds_are_a_copy(self):
        bounds = np.array([[0.0, 2.0]])
        flow = Flow(1, bounds=bounds)
        bounds[:] = 7
        np.testing.assert_array_equal(flow.bounds, [[0, 2]])
        np.testing.assert_array_equal(flow.log_prob([[1.0]]), [-np.log(2)])


class TestParams:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_are_set_in_place(self, dtype):
        flow = Flow(2, dtype=dtype, seed=0)
        view, values = flow.params, np.random.default_rng(1).normal(size=flow.n_params)
        flow.params = values.tolist()
        assert flow.params is view
        assert view.tobytes() == values.astype(dtype).tobytes()

    def test_can_be_written_to(self):
        flow = random_flow(2)
        before = flow.log_prob([[0.3, 0.4]])
        flow.params[:] = 0
        assert flow.log_prob([[0.3, 0.4]]) == pytest.approx(0, abs=1e-14)
        assert before != pytest.approx(0, abs=1e-3)

    @pytest.mark.parametrize("change", [-1, 1])
    def test_of_another_shape_are_refused(self, change):
        flow = Flow(2, seed=0)
        n = flow.n_params
        for shape in ((n + change,), (n, 1), ()):
            message = rf"^params must have shape \({n},\), got {re.escape(str(shape))}$"
            with pytest.raises(ValueError, match=message):
                flow.params = np.zeros(shape)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_that_are_not_finite_are_refused(self, value):
        flow = Flow(2, seed=0)
        before = flow.params.tobytes()
        values = np.zeros(flow.n_params)
        values[3] = value
        with pytest.raises(ValueError, match=f"^params must be finite, got {value}$"):
            flow.params = values
        assert flow.params.tobytes() == before

    def test_too_large_for_float32_are_refused(self):
        flow = Flow(2, seed=0)
        before = flow.params.tobytes()
        with pytest.raises(ValueError, match=r"^params must be finite"):
            flow.params = np.full(flow.n_params, 1e300)
        assert flow.params.tobytes() == before


class TestCopy:
    def test_is_the_same_and_independent(self):
        flow = random_flow(3, bounds=[(-1, 2)] * 3, threads=2)
        copy = flow.copy()
        x = flow.sample(100, seed=1)[0]
        expected = flow.log_prob(x)
        assert copy.architecture == flow.architecture
        assert copy.threads == flow.threads
        assert copy.log_prob(x).tobytes() == expected.tobytes()
        copy.params[:] = 0
        assert flow.log_prob(x).tobytes() == expected.tobytes()
        assert not np.shares_memory(copy.bounds, flow.bounds)


class TestFiles:
    @percent_of_examples(30)
    @given(flow=flows())
    def test_round_trip(self, tmp_path_factory, flow):
        path = tmp_path_factory.mktemp("flow") / "a.flow"
        flow.save(path)
        loaded = Flow.load(path, threads=2)
        assert loaded.architecture == flow.architecture
        assert loaded.params.dtype == flow.params.dtype
        assert loaded.params.tobytes() == flow.params.tobytes()
        assert loaded.bounds.tobytes() == flow.bounds.tobytes()
        assert loaded.threads == 2
        points = np.random.default_rng(1).random((20, flow.d))
        assert bits(loaded.from_latent(points)) == bits(flow.from_latent(points))

    def test_parameters_that_are_not_finite_are_not_saved(self, tmp_path):
        flow = Flow(2, seed=0)
        flow.params[1] = np.nan
        with pytest.raises(ValueError, match=r"^params "):
            flow.save(tmp_path / "a.flow")
        assert not list(tmp_path.iterdir())

    @pytest.fixture
    def parts(self, tmp_path):
        """Path of a saved flow, its header and its parameters."""
        path = tmp_path / "a.flow"
        Flow(2, seed=0).save(path)
        header, arrays = read_archive(path, FILE)
        return path, header, arrays["params"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"cell": "pwquadratic"}, "cell must be one of .*, got 'pwquadratic'"),
            ({"masking": "none"}, "masking must be one of .*, got 'none'"),
            ({"dtype": "float16"}, "dtype must be one of .*, got 'float16'"),
            ({"n_bins": 17}, r"params must have shape \(\d+,\), got \(\d+,\)"),
            ({"d": 3}, r"bounds must have shape \(3, 2\).*, found \(2, 2\)"),
            ({"n_bins": 0}, "n_bins must be at least 1, got 0"),
            ({"n_bins": "16"}, "n_bins must be an integer, got '16'"),
            ({"n_bims": 16}, "unexpected keyword argument 'n_bims'"),
        ],
    )
    def test_wrong_architecture(self, parts, change, message):
        path, header, params = parts
        write_archive(
            path, FILE, header | {"architecture": header["architecture"] | change}, {"params": params}
        )
        with pytest.raises(FileFormatError, match=rf"^{re.escape(str(path))}: .*{message}"):
            Flow.load(path)

    @pytest.mark.parametrize("key", ["architecture", "bounds"])
    def test_incomplete_header(self, parts, key):
        path, header, params = parts
        del header[key]
        write_archive(path, FILE, header, {"params": params})
        with pytest.raises(FileFormatError, match=rf"^{re.escape(str(path))}: .*{key}"):
            Flow.load(path)

    @pytest.mark.parametrize("bounds", [[[1, 0], [0, 1]], [[0, 1]], [[0, "a"], [0, 1]], {"a": 1}])
    def test_wrong_bounds(self, parts, bounds):
        path, header, params = parts
        write_archive(path, FILE, header | {"bounds": bounds}, {"params": params})
        with pytest.raises(FileFormatError, match=rf"^{re.escape(str(path))}: .*bounds"):
            Flow.load(path)

    @pytest.mark.parametrize("architecture", [None, [], 3, "pwlinear"])
    def test_architecture_of_another_kind(self, parts, architecture):
        path, header, params = parts
        write_archive(path, FILE, header | {"architecture": architecture}, {"params": params})
        with pytest.raises(FileFormatError, match=rf"^{re.escape(str(path))}: "):
            Flow.load(path)

    def test_parameters_cut_short(self, parts):
        path, header, params = parts
        write_archive(path, FILE, header, {"params": params[:-1]})
        message = rf": params must have shape \({len(params)},\), got \({len(params) - 1},\)$"
        with pytest.raises(FileFormatError, match=message):
            Flow.load(path)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            Flow.load(tmp_path / "none.flow")


class TestParallel:
    @given(st.integers(1, 300), st.integers(0, 1000))
    def test_shares_are_all_there_is(self, parts, total):
        ranges = [share(k, parts, total) for k in range(parts)]
        assert [i for begin, end in ranges for i in range(begin, end)] == list(range(total))
        sizes = [end - begin for begin, end in ranges]
        assert max(sizes) - min(sizes) <= 1

    @pytest.mark.parametrize("n_threads", [1, 2, 3, 20])
    def test_each_share_is_done_once_and_the_first_here(self, n_threads):
        done = []
        run(lambda k: done.append((k, threading.get_ident())), n_threads)
        assert sorted(k for k, _ in done) == list(range(n_threads))
        here = [k for k, thread in done if thread == threading.get_ident()]
        assert here == [0]

    def test_shares_run_at_once(self):
        barrier = threading.Barrier(4)
        run(lambda k: barrier.wait(timeout=10), 4)

    @pytest.mark.parametrize("n_threads", [1, 2, 5])
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_exceptions_reach_the_caller(self, n_threads, error):
        for culprit in range(n_threads):

            def task(k, culprit=culprit):
                if k == culprit:
                    raise error("this share")

            with pytest.raises(error, match=r"^this share$"):
                run(task, n_threads)
        run(lambda k: None, n_threads)  # and the threads are there for the next

    @pytest.mark.parametrize("culprit", [0, 1])
    def test_nobody_leaves_before_all_are_done(self, culprit):
        done = []

        def task(k):
            if k == culprit:
                raise ValueError("this share")
            time.sleep(0.1)
            done.append(k)

        with pytest.raises(ValueError, match=r"^this share$"):
            run(task, 4)
        assert sorted(done) == [k for k in range(4) if k != culprit]


def test_two_flows_at_once():
    points = np.random.default_rng(1).random((2000, 3))
    used = [random_flow(3, threads=2), random_flow(3, threads=3, dtype="float64")]
    expected = [bits(flow.to_latent(points)) for flow in used]
    found = [[], []]

    def work(k):
        for _ in range(20):
            found[k].append(bits(used[k].to_latent(points)))

    callers = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [[bits] * 20 for bits in expected]


class TestDefaultThreads:
    @pytest.fixture
    def cores(self, monkeypatch):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
        return 6

    def test_are_the_allowed_cores(self, cores):
        assert default_threads() == cores

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [("1", 1), ("4", 4), ("6", 6), ("64", 6), ("3,2", 3), ("0", 6), ("-2", 6), ("", 6), ("many", 6)],
    )
    def test_honour_omp_num_threads(self, cores, monkeypatch, wanted, found):
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
        assert default_threads() == found
        assert Flow(2, seed=0).threads == found
