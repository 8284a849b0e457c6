"""Gradients: against an oracle that nobody derived, central differences, and themselves, bit by bit.

Comparisons are by block, the weights or the biases of one layer of one cell: the norm of the difference over
the norm of the block, so that a block with small derivatives is not hidden behind one with large ones.
"""

from itertools import product

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import in_box

from varflow import Architecture, Dataset, Flow, Loss
from varflow.flow.architecture import DTYPES
from varflow.flow.masks import MASKS
from varflow.kernels import cpu
from varflow.kernels.splines import CELLS
from varflow.testing import normal_params
from varflow.training.losses import LOSSES
from varflow.training.objective import (
    MAX_LANE_NUMBERS,
    MIN_LANES,
    MIN_TILES_A_LANE,
    GradientBuffers,
    Objective,
    count_lanes,
)

# How far points are from where the flow has a jump or a kink: farther than the steps of central differences
# take it, and than rounding does in float32.
MARGIN = 1e-3
MARGIN_FLOAT32 = 1e-5

CELL_NAMES, MASKINGS, DIMENSIONS, LOSS_NAMES = sorted(CELLS), sorted(MASKS), range(1, 9), sorted(LOSSES)
every_cell = pytest.mark.parametrize("cell", CELL_NAMES)
every_masking = pytest.mark.parametrize("masking", MASKINGS)
every_loss = pytest.mark.parametrize("name", LOSS_NAMES)


def every_flow(*others, is_fast=lambda d, *others: True):
    """Parameters cell, masking and d, and others by name: all combinations, most of them for slow tests.

    The fast ones are a Latin square: any two of a cell, a masking and a d are together in one of them.
    """
    cases = []
    for cell, masking, d, *values in product(CELL_NAMES, MASKINGS, DIMENSIONS, *(each for _, each in others)):
        place = CELL_NAMES.index(cell) + MASKINGS.index(masking) + d
        marks = () if place % 3 == 0 and is_fast(d, *values) else pytest.mark.slow
        cases.append(pytest.param(cell, masking, d, *values, marks=marks))
    return pytest.mark.parametrize(("cell", "masking", "d", *(name for name, _ in others)), cases)


def random_flow(d, masking="iflow", cell="pwlinear", *, n_bins=4, d_hidden=5, dtype="float64", **options):
    """Flow on a box other than the unit cube, with logits that are some one apart.

    Conditions, if it has some, range from -2 to 3.
    """
    bounds = [(-1.0 - k, 0.5 + 2 * k) for k in range(d)]
    options = {"repetitions": 1} | options
    if options.get("n_conditions", 0) > 0:
        options["condition_bounds"] = (-2, 3)
    if cell == "realnvp":
        options |= {"location": [k / 4 for k in range(d)], "scale": [1.0 + k / 4 for k in range(d)]}
    else:
        options |= {"bounds": bounds}
    n_bins = None if cell == "realnvp" else n_bins
    flow = Flow(d, cell, masking, n_bins, d_hidden, dtype=dtype, seed=0, **options)
    flow.params = normal_params(flow.architecture, 1.0, np.random.default_rng(d))
    return flow


def forward(flow, x, given=None):
    params = flow.params.astype(np.float64)
    return naive.forward(flow.architecture, params, naive.box_of(flow), x, given)


def uniform_points(flow, n, conditions=None):
    u = np.random.default_rng(1).random((n, flow.d))
    return in_box(flow, u) if flow.latent == "uniform" else flow.from_latent(flow.latent_of(u), conditions)[0]


def smooth_points(flow, n, margin=MARGIN):
    x = uniform_points(flow, 3 * n + 30)
    return x[forward(flow, x).margin > margin][:n]


def smooth_points_with_conditions(flow, n):
    """Points (n, d), and conditions (n, c) in the unit interval."""
    given = np.random.default_rng(3).random((3 * n + 30, flow.n_conditions))
    x = uniform_points(flow, len(given), 5 * given - 2)
    is_smooth = forward(flow, x, given).margin > MARGIN
    return x[is_smooth][:n], given[is_smooth][:n]


def random_data(flow, x, conditions=None):
    """Data with f of either sign and sometimes zero, but not in row 0."""
    n, rng = len(x), np.random.default_rng(1)
    fx = rng.normal(size=n) * (np.arange(n) % 7 != 3)
    px = rng.uniform(0.5, 2, n) * np.exp(-flow.log_volume)
    return Dataset(x, px, fx, bounds=flow.bounds, conditions=conditions)


def gradient(flow, data, loss, rows=None, prior=None):
    """Loss and gradient of a minibatch, as a training step has them."""
    rows = np.arange(data.n) if rows is None else rows
    value, dparams = Objective(flow, data, loss, prior).gradient(rows, GradientBuffers(flow, len(rows)))
    return value, dparams.sum(axis=0)


def controlled_gradient(flow, data, loss, rows):
    """The same with the control variate."""
    weights, log_p = Objective(flow, data, loss).weights, data.logpx + flow.log_volume
    objective = Objective.with_control_variate(flow, data.x, weights, log_p, loss)
    value, dparams = objective.gradient(rows, GradientBuffers(flow, len(rows)))
    return value, dparams.sum(axis=0)


def oracle_value(name, data, rows=None, prior=None):
    """The loss as a function of z and log q, with f scaled over all points as `Objective` says."""
    rows = slice(None) if rows is None else rows
    fx, px = np.abs(data.fx) / np.mean(np.abs(data.fx) / data.px), data.px

    def value(z, log_q):
        log_q = log_q if prior is None else log_q + prior.log_prob(z)
        return naive.LOSSES[name](fx[rows], px[rows], log_q)

    return value


def oracle_gradient(flow, x, value, given=None):
    """Gradient of a loss, or gradients of several that `all_of` makes one value of."""
    return naive.gradient(value, flow.architecture, flow.params, naive.box_of(flow), x, given)


def all_of(values):
    """Several losses as one value, so that the oracle goes through the flow once for all of them."""
    return lambda z, log_q: np.stack([value(z, log_q) for value in values])


def assert_same_blocks(architecture, found, expected, tolerance):
    for block in naive.blocks(architecture):
        error = np.linalg.norm(found[block] - expected[block])
        assert error <= tolerance * np.linalg.norm(expected[block]), f"parameters {block}: off by {error}"


def block_directions(architecture, seed=1):
    """One random unit vector in each block, (n_blocks, n_params)."""
    rng = np.random.default_rng(seed)
    directions = np.zeros((len(naive.blocks(architecture)), architecture.n_params))
    for direction, block in zip(directions, naive.blocks(architecture), strict=True):
        direction[block] = rng.normal(size=block.stop - block.start)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def assert_same_along(architecture, found, directions, expected, tolerance):
    """Compare a gradient with derivatives along `directions`, each relative to the gradient of its block."""
    for direction, derivative, block in zip(directions, expected, naive.blocks(architecture), strict=True):
        error = abs(found @ direction - derivative)
        assert error <= tolerance * np.linalg.norm(found[block]), f"parameters {block}: off by {error}"


class Ramp:
    """Latent prior, the product of the densities 2z."""

    def log_prob(self, z):
        return np.log(2 * z).sum(axis=-1)

    def grad_log_prob(self, z):
        return 1 / z


class TestAgainstTheOracle:
    @every_flow()
    def test_all_flows(self, cell, masking, d):
        flow = random_flow(d, masking, cell)
        data = random_data(flow, smooth_points(flow, 40))
        latent = forward(flow, data.x)
        values = [oracle_value(name, data) for name in LOSSES]
        gradients = oracle_gradient(flow, data.x, all_of(values))
        for name, value, expected in zip(LOSSES, values, gradients, strict=True):
            loss, found = gradient(flow, data, LOSSES[name])
            assert loss == pytest.approx(value(latent.z, latent.log_q), rel=1e-13, abs=1e-13)
            assert_same_blocks(flow.architecture, found, expected, 1e-12)

    @every_loss
    @pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 128, 200])
    def test_batch_sizes(self, name, n):
        flow = random_flow(3, "checkerboard")
        data = random_data(flow, smooth_points(flow, 200))
        rows = np.random.default_rng(n).integers(0, data.n, n)  # in no order, some of them twice
        rows[0] = 0  # whose f is not zero
        loss, found = gradient(flow, data, LOSSES[name], rows)
        value = oracle_value(name, data, rows)
        expected = oracle_gradient(flow, data.x[rows], value)
        assert_same_blocks(flow.architecture, found, expected, 1e-12)
        assert loss == pytest.approx(Objective(flow, data, LOSSES[name]).value(rows), rel=1e-13, abs=1e-13)

    @pytest.mark.parametrize(
        ("n", "d", "masking", "options"),
        [
            (150, 4, "checkerboard", {"n_bins": 10, "d_hidden": 64, "n_hidden": 3}),
            (150, 8, "iflow", {"n_bins": 16, "d_hidden": 64, "n_hidden": 2}),
            (520, 3, "maximal", {"n_bins": 8, "d_hidden": 150, "n_hidden": 2, "threads": 2}),  # larger tiles
            (150, 18, "checkerboard", {"n_bins": 3, "d_hidden": 16, "n_hidden": 2}),  # nine slopes a cell
            (150, 2, "iflow", {"n_bins": 100, "d_hidden": 7, "n_hidden": 4, "repetitions": 3}),
        ],
        ids=["usual", "iflow", "wide", "high d", "deep"],
    )
    def test_large_networks(self, n, d, masking, options):
        flow = random_flow(d, masking, **options)
        data = random_data(flow, uniform_points(flow, n))
        _, found = gradient(flow, data, LOSSES["variance"])
        directions = block_directions(flow.architecture)
        expected = naive.derivatives(
            oracle_value("variance", data),
            flow.architecture,
            flow.params,
            naive.box_of(flow),
            data.x,
            directions,
        )
        assert_same_along(flow.architecture, found, directions, expected, 1e-12)

    @every_loss
    def test_new_flow(self, name):
        """Its last layers are zero: the hidden ones have no gradient yet, exactly."""
        flow = Flow(3, n_bins=5, d_hidden=6, dtype="float64", seed=1)
        data = random_data(flow, smooth_points(flow, 65))
        _, found = gradient(flow, data, LOSSES[name])
        expected = oracle_gradient(flow, data.x, oracle_value(name, data))
        assert_same_blocks(flow.architecture, found, expected, 1e-12)
        for cell in flow.architecture.layers:
            assert not found[cell[0, 2] : cell[-1, 2]].any()
            assert found[cell[-1, 2] : cell[-1, 3]].any()

    @every_loss
    @every_masking
    @pytest.mark.parametrize("d", [1, 2, 5])
    def test_latent_prior(self, name, masking, d):
        flow = random_flow(d, masking)
        data = random_data(flow, smooth_points(flow, 65))
        loss, found = gradient(flow, data, LOSSES[name], prior=Ramp())
        value = oracle_value(name, data, prior=Ramp())
        latent = forward(flow, data.x)
        assert loss == pytest.approx(value(latent.z, latent.log_q), rel=1e-12, abs=1e-12)
        expected = oracle_gradient(flow, data.x, value)
        assert_same_blocks(flow.architecture, found, expected, 1e-12)


class TestConditions:
    """In several tiles, and in one dimension too, where conditions are the only inputs."""

    @every_cell
    @pytest.mark.parametrize(("n", "d", "c"), [(140, 1, 1), (40, 1, 3), (40, 3, 1), (40, 5, 2)])
    @pytest.mark.parametrize("prior", [None, Ramp()], ids=["uniform", "ramp"])
    def test_gradients_are_those_of_the_oracle(self, cell, n, d, c, prior):
        flow = random_flow(d, cell=cell, n_conditions=c)
        prior = prior if flow.latent == "uniform" else None  # others have a density of their own
        x, given = smooth_points_with_conditions(flow, n)
        data = random_data(flow, x, 5 * given - 2)
        values = [oracle_value(name, data, prior=prior) for name in LOSSES]
        gradients = oracle_gradient(flow, x, all_of(values), given)
        latent = forward(flow, x, given)
        for name, value, expected in zip(LOSSES, values, gradients, strict=True):
            loss, found = gradient(flow, data, LOSSES[name], prior=prior)
            assert loss == pytest.approx(value(latent.z, latent.log_q), rel=1e-12, abs=1e-12)
            assert_same_blocks(flow.architecture, found, expected, 1e-12)

    @every_loss
    @pytest.mark.parametrize(("cell", "d"), [("pwlinear", 1), ("pwlinear", 4), ("realnvp", 2)])
    def test_central_differences(self, name, cell, d):
        flow = random_flow(d, cell=cell, n_conditions=2)
        x, given = smooth_points_with_conditions(flow, 65)
        data = random_data(flow, x, 5 * given - 2)
        assert_central_differences(flow, data, name, None)

    def test_the_control_variate_is_that_of_the_oracle(self):
        flow = random_flow(2, n_conditions=2)
        x, given = smooth_points_with_conditions(flow, 140)
        data = random_data(flow, x, 5 * given - 2)
        objective = Objective(flow, data, LOSSES["variance"], control_variate=True)
        _, dparams = objective.gradient(np.arange(data.n), GradientBuffers(flow, data.n))
        value = naive.with_control_variate(oracle_value("variance", data), data.px)
        expected = oracle_gradient(flow, x, value, given)
        assert_same_blocks(flow.architecture, dparams.sum(axis=0), expected, 1e-12)


class TestControlVariate:
    """The mean of q/p over x ~ p, whose derivative is added."""

    @every_cell
    @pytest.mark.parametrize(("n", "d"), [(40, 1), (40, 2), (40, 5), (140, 2)])  # the last in two tiles
    def test_is_that_of_the_oracle(self, cell, d, n):
        flow = random_flow(d, cell=cell)
        data = random_data(flow, smooth_points(flow, n))
        rows = np.random.default_rng(2).integers(0, data.n, n)
        values = [oracle_value(name, data, rows) for name in LOSSES]
        controlled = [naive.with_control_variate(value, data.px[rows]) for value in values]
        gradients = oracle_gradient(flow, data.x[rows], all_of(controlled))
        for name, expected in zip(LOSSES, gradients, strict=True):
            loss, found = controlled_gradient(flow, data, LOSSES[name], rows)
            assert loss == gradient(flow, data, LOSSES[name], rows)[0]  # that is told is the loss alone
            assert_same_blocks(flow.architecture, found, expected, 1e-12)

    @every_cell
    @every_loss
    def test_leaves_no_noise_where_the_flow_is_the_integrand(self, cell, name):
        flow = random_flow(3, cell=cell)
        x = uniform_points(flow, 300)
        px = np.random.default_rng(1).uniform(0.5, 2, 300) * np.exp(-flow.log_volume)
        q = np.exp(flow.log_prob(x))
        unit = np.mean(q / px)  # what is taken for the integral of f, so that it is 1
        data = Dataset(x, px * unit, q, bounds=flow.bounds)
        with_noise = np.linalg.norm(gradient(flow, data, LOSSES[name], np.arange(50))[1])
        for rows in (np.arange(1), np.arange(50), np.arange(300)):
            _, found = controlled_gradient(flow, data, LOSSES[name], rows)
            assert np.linalg.norm(found) < 1e-12 * with_noise

    @every_loss
    def test_without_a_finite_ratio_is_not_finite(self, name):
        flow = random_flow(2)
        data = random_data(flow, uniform_points(flow, 40))
        rows, log_p = np.arange(40), np.full(40, -800.0)
        objective = Objective.with_control_variate(flow, data.x, np.zeros(40), log_p, LOSSES[name])
        _, dparams = objective.gradient(rows, GradientBuffers(flow, 40))
        assert not np.isfinite(dparams).all()


@every_flow(
    ("name", LOSS_NAMES),
    ("has_prior", [False, True]),
    is_fast=lambda d, name, has_prior: (d + LOSS_NAMES.index(name)) % 2 == has_prior,
)
def test_central_differences(cell, masking, d, name, has_prior):
    flow = random_flow(d, masking, cell)
    prior = Ramp() if has_prior and flow.latent == "uniform" else None  # others have a density of their own
    assert_central_differences(flow, random_data(flow, smooth_points(flow, 65)), name, prior)


def assert_central_differences(flow, data, name, prior):
    objective, rows = Objective(flow, data, LOSSES[name], prior), np.arange(data.n)
    _, found = gradient(flow, data, LOSSES[name], prior=prior)
    params, directions, h = flow.params.copy(), block_directions(flow.architecture), 1e-5

    def value(params):
        flow.params = params
        return objective.value(rows)

    expected = [(value(params + h * v) - value(params - h * v)) / (2 * h) for v in directions]
    assert_same_along(flow.architecture, found, directions, expected, 1e-6)


@every_masking
@every_loss
@pytest.mark.parametrize("d", [1, 3, 8])
@pytest.mark.parametrize("d_hidden", [64, 150])
def test_float32_agrees_with_float64(masking, name, d, d_hidden):
    single, double = (
        random_flow(d, masking, n_bins=10, d_hidden=d_hidden, dtype=dtype) for dtype in ("float32", "float64")
    )
    double.params = single.params
    data = random_data(single, smooth_points(single, 200, MARGIN_FLOAT32))
    loss, found = gradient(single, data, LOSSES[name])
    expected_loss, expected = gradient(double, data, LOSSES[name])
    assert found.dtype == np.float32
    assert loss == pytest.approx(expected_loss, rel=1e-5, abs=1e-5)
    assert_same_blocks(double.architecture, found, expected, 1e-5)


class TestCustomLosses:
    @every_loss
    @pytest.mark.parametrize("n", [1, 65, 1200])
    def test_same_formula_same_gradient(self, name, n):
        flow = random_flow(3)
        data = random_data(flow, smooth_points(flow, n))
        custom = Loss(LOSSES[name].value, LOSSES[name].derivative)
        expected_loss, expected = gradient(flow, data, LOSSES[name])
        loss, found = gradient(flow, data, custom)
        value = Objective(flow, data, custom).value(np.arange(n))
        assert loss == value == pytest.approx(expected_loss, rel=1e-12, abs=1e-12)
        assert_same_blocks(flow.architecture, found, expected, 1e-12)

    def test_another_formula(self):
        """Mean square of log q - log(1 + f), which no kernel knows."""

        def value(fx, px, log_q):
            return np.mean((log_q - np.log(1 + fx)) ** 2, axis=-1)

        def derivative(fx, px, log_q):
            return 2 * (log_q - np.log(1 + fx)) / len(fx)

        flow = random_flow(3)
        data = random_data(flow, smooth_points(flow, 200))
        _, found = gradient(flow, data, Loss(value, derivative))
        fx = np.abs(data.fx) / np.mean(np.abs(data.fx) / data.px)
        expected = oracle_gradient(flow, data.x, lambda z, log_q: value(fx, data.px, log_q))
        assert_same_blocks(flow.architecture, found, expected, 1e-12)

    def test_derivative_of_the_wrong_shape_is_refused(self):
        flow = random_flow(2)
        loss = Loss(LOSSES["dkl"].value, lambda fx, px, log_q: np.ones((len(fx), 1)))
        with pytest.raises(
            ValueError, match=r"derivative of the loss must have shape \(65,\), got \(65, 1\)"
        ):
            gradient(flow, random_data(flow, smooth_points(flow, 65)), loss)


def test_data_of_another_box_are_refused():
    flow = random_flow(2)
    data = Dataset(np.full((1, 2), 0.4), [1.0], [1.0])
    with pytest.raises(ValueError, match=r"^the flow has bounds .*, the data have "):
        Objective(flow, data, LOSSES["dkl"])
    with pytest.raises(ValueError, match=r"^the flow has d = 3, the data have d = 2$"):
        Objective(random_flow(3), data, LOSSES["dkl"])


@pytest.mark.parametrize("power", [-600, 0, 600])
@every_loss
def test_units_of_f_do_not_matter(name, power):
    """Bit by bit: f is scaled by powers of two, even where f^2 over- or underflows."""
    flow = random_flow(2, dtype="float32")
    data = random_data(flow, smooth_points(flow, 200))
    scaled = Dataset(data.x, data.px, data.fx * 2.0**power, bounds=data.bounds)
    (loss, found), (expected_loss, expected) = (gradient(flow, each, LOSSES[name]) for each in (scaled, data))
    assert loss == expected_loss
    np.testing.assert_array_equal(found, expected)


class TestBits:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("d_hidden", [7, 64, 150])
    @pytest.mark.parametrize("prior", [None, Ramp()], ids=["uniform", "ramp"])
    def test_do_not_depend_on_threads(self, dtype, d_hidden, prior):
        flow = random_flow(3, d_hidden=d_hidden, dtype=dtype)
        data = random_data(flow, uniform_points(flow, 5000))
        found = []
        for threads in (1, 2, 3, 4, 8):
            flow.threads = threads
            found.append(gradient(flow, data, LOSSES["variance"], prior=prior))
        for loss, dparams in found[1:]:
            assert loss == found[0][0]
            assert dparams.tobytes() == found[0][1].tobytes()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_do_not_depend_on_what_the_buffers_held(self, dtype):
        flow = random_flow(3, dtype=dtype)
        data = random_data(flow, smooth_points(flow, 1000))
        objective, used = Objective(flow, data, LOSSES["variance"]), GradientBuffers(flow, data.n)
        for n in (1000, 1, 100, 65, 1000):
            rows = np.arange(n)
            value, dparams = objective.gradient(rows, used)
            expected_value, expected = objective.gradient(rows, GradientBuffers(flow, n))
            assert value == expected_value
            assert dparams.tobytes() == expected.tobytes()

    def test_do_not_depend_on_threads_where_there_are_more_lanes(self):
        """Large minibatches are cut into more lanes than the fewest, and rows into none twice."""
        n = 2 * MIN_LANES * MIN_TILES_A_LANE * cpu.TILE_ROWS
        assert [count_lanes(m, 100) for m in (1, n - cpu.TILE_ROWS, n, 2 * n)] == [1, 8, 16, 32]
        flow = random_flow(1, threads=1)
        data = random_data(flow, uniform_points(flow, n))
        (loss, one), (half, first), (other_half, last) = (
            gradient(flow, data, LOSSES["variance"], rows)
            for rows in (np.arange(n), np.arange(n // 2), np.arange(n // 2, n))
        )
        assert loss == pytest.approx((half + other_half) / 2, rel=1e-12)
        np.testing.assert_allclose(one, (first + last) / 2, rtol=0, atol=1e-12 * np.abs(one).max())
        flow.threads = 3
        found, dparams = gradient(flow, data, LOSSES["variance"])
        assert found == loss
        assert dparams.tobytes() == one.tobytes()

    def test_a_bad_step_leaves_nothing_behind(self):
        """NaN in the parameters is in the loss and the gradient, and gone from the buffers with the next."""
        flow = random_flow(3)
        data = random_data(flow, smooth_points(flow, 200))
        objective, buffers = Objective(flow, data, LOSSES["variance"]), GradientBuffers(flow, data.n)
        good = flow.params.copy()
        value, dparams = objective.gradient(np.arange(data.n), buffers)
        expected = dparams.tobytes()
        flow.params[:] = np.nan
        bad, dparams = objective.gradient(np.arange(data.n), buffers)
        assert np.isnan(bad)
        assert np.isnan(dparams).any()
        flow.params = good
        again, dparams = objective.gradient(np.arange(data.n), buffers)
        assert again == value
        assert dparams.tobytes() == expected


def test_kernels_are_compiled_once():
    """One machine code per precision, whatever the sizes, the loss and the arrays that it is called with."""
    custom = Loss(LOSSES["dkl"].value, LOSSES["dkl"].derivative)
    for dtype in DTYPES:
        for d, n in ((1, 1), (2, 65), (4, 700)):
            flow = random_flow(d, dtype=dtype, threads=2)
            for x in (np.full((n, d), 0.3), np.full((n, d), 0.1, order="F"), np.zeros((n, d), np.float32)):
                x.flags.writeable = False
                flow.to_latent(x)
                flow.from_latent(x)
                data = Dataset(x, np.ones(n), np.ones(n), bounds=flow.bounds)
                for loss in (*LOSSES.values(), custom):
                    gradient(flow, data, loss)
                    gradient(flow, data, loss, prior=Ramp())
            flow.sample(n)
    for kernel in (cpu.gradient, cpu.transform):
        assert len(kernel.signatures) == len(DTYPES)


def test_blocks_cover_all_params():
    """Nothing is left out of the comparisons above."""
    for masking in MASKS:
        architecture = Architecture(5, masking=masking)
        covered = np.zeros(architecture.n_params, int)
        for block in naive.blocks(architecture):
            covered[block] += 1
        assert (covered == 1).all()


class TestLanes:
    @given(st.integers(1, 10**10), st.integers(1, 10**8))
    def test_take_bounded_memory_and_leave_work_for_all_threads(self, n_batch, n_params):
        n_lanes, n_tiles = count_lanes(n_batch, n_params), -(-n_batch // cpu.TILE_ROWS)
        assert min(MIN_LANES, n_tiles) <= n_lanes <= n_tiles
        assert n_lanes * n_params <= max(MAX_LANE_NUMBERS, MIN_LANES * n_params)

    @given(st.integers(1, 10**7), st.integers(1, 10**7), st.integers(1, 10**7))
    def test_of_a_smaller_minibatch_fit_into_buffers_of_a_larger_one(self, n_batch, n_more, n_params):
        assert count_lanes(n_batch, n_params) <= count_lanes(n_batch + n_more, n_params)

    def test_of_five_million_rows(self):
        assert count_lanes(5_000_000, 41_904) * 41_904 * 4 < 150e6  # bytes
