"""Adam against the algorithm of the paper, and what becomes of its state."""

import math
import re
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import percent_of_examples

from varflow import Adam, InvalidLossError
from varflow.kernels import adam as kernels
from varflow.runtime.threads import SLICE
from varflow.training.adam import SCHEDULES, _fold

STATE = ("m", "v", "averaged", "t")


def adam_of_the_paper(
    params, gradients, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, clip_norm=None
):
    """Algorithm 1 of Kingma and Ba, with clipping and decoupled weight decay; yields each step's params."""
    beta1, beta2 = betas
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        if clip_norm is not None and np.linalg.norm(g) > clip_norm:
            g = g * (clip_norm / np.linalg.norm(g))
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        params = params - lr * m_hat / (np.sqrt(v_hat) + eps) - lr * weight_decay * params
        yield params


def take_steps(optim, params, gradients, *, progress=0.0, scale=1.0, threads=1):
    """Take one step for each gradient, (n_params,) or in lanes; the gradients are left as they are."""
    for g in gradients:
        optim.step(params, np.atleast_2d(g).copy(), progress, scale, threads)


def state_of(optim, params):
    """Copies of all that a step may change."""
    values = [params, *(getattr(optim, name) for name in STATE)]
    return [None if value is None else np.copy(value) for value in values]


def assert_same_state(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)


class TestStep:
    @given(
        n_steps=st.sampled_from([1, 2, 40]),
        n_lanes=st.integers(1, 5),
        n_params=st.integers(1, 30),
        log_gradient=st.floats(-5, 5),
        lr=st.floats(1e-6, 1.0),
        betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
        eps=st.floats(1e-10, 1.0),
        weight_decay=st.sampled_from([0.0, 0.1]),
        clip_norm=st.none() | st.floats(1e-3, 10),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_is_the_algorithm_of_the_paper(
        self, n_steps, n_lanes, n_params, log_gradient, lr, betas, eps, weight_decay, clip_norm, seed
    ):
        rng = np.random.default_rng(seed)
        gradients = 10**log_gradient * rng.normal(size=(n_steps, n_lanes, n_params))
        given_settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        given_settings["clip_norm"] = clip_norm
        optim, params = Adam(**given_settings), rng.normal(size=n_params)
        for g, expected in zip(
            gradients, adam_of_the_paper(params.copy(), gradients.sum(axis=1), **given_settings), strict=True
        ):
            take_steps(optim, params, [g])
            np.testing.assert_allclose(params, expected, rtol=1e-12, atol=1e-12)
        assert optim.t == n_steps

    @pytest.mark.parametrize("beta2", [0.9, 0.999, 0.999999, 1 - 1e-9])
    def test_is_no_worse_than_rounding_in_float32(self, beta2):
        rng = np.random.default_rng(2)
        gradients = rng.normal(size=(10, 50)).astype(np.float32)
        start = np.zeros(50, np.float32)
        optim, params = Adam(lr=0.1, betas=(0.5, beta2)), start.copy()
        expected = adam_of_the_paper(start.astype(float), gradients.astype(float), lr=0.1, betas=(0.5, beta2))
        for g, exact in zip(gradients, expected, strict=True):
            take_steps(optim, params, [g])
            # A step is at most 0.1 / sqrt(1 - beta1) long or so, and goes through some ten roundings.
            np.testing.assert_allclose(params, exact, rtol=0, atol=optim.t * 0.1 * 10 * 2**-24)

    @pytest.mark.parametrize(("progress", "scale"), [(0.0, 0.25), (0.5, 1.0), (0.25, 0.125)])
    def test_learning_rate_has_the_factors_of_schedule_and_scale(self, progress, scale):
        rng = np.random.default_rng(3)
        gradients, start = rng.normal(size=(3, 7)), rng.normal(size=7)
        optim, params = Adam(lr=0.1, schedule="cosine", weight_decay=0.1), start.copy()
        take_steps(optim, params, gradients, progress=progress, scale=scale)
        lr = 0.1 * scale * 0.5 * (1 + math.cos(math.pi * progress))
        *_, expected = adam_of_the_paper(start, gradients, lr=lr, weight_decay=0.1)
        np.testing.assert_allclose(params, expected, rtol=1e-14, atol=1e-15)

    def test_weight_decay_shrinks_without_a_gradient(self):
        params = np.array([1.0, -2.0, 0.0])
        take_steps(Adam(lr=0.5, weight_decay=0.25), params, np.zeros((2, 3)))
        np.testing.assert_array_equal(params, np.array([1.0, -2.0, 0.0]) * 0.875**2)

    def test_clipping_leaves_short_gradients_and_zero_alone(self):
        gradients = [np.array([0.3, -0.4]), np.zeros(2)]
        params = {}
        for clip_norm in (None, 0.500001, math.inf):
            params[clip_norm] = np.array([1.0, 2.0])
            take_steps(Adam(clip_norm=clip_norm), params[clip_norm], gradients)
            np.testing.assert_array_equal(params[clip_norm], params[None])

    def test_clipping_goes_by_the_norm_of_all_parameters(self):
        # Two slices: the norm of each alone would be short enough.
        g = np.zeros(SLICE + 1)
        g[0], g[-1] = 3.0, 4.0
        optim = Adam(betas=(0.0, 0.0), clip_norm=4.5)
        take_steps(optim, np.zeros_like(g), [g])
        np.testing.assert_allclose(optim.m, g * 0.9, rtol=1e-15)

    @given(
        st.integers(1, 5), st.integers(0, 2**32 - 1), st.sampled_from([None, 1e-2]), st.sampled_from([0, 0.9])
    )
    @percent_of_examples(10)
    def test_same_bits_for_any_number_of_threads(self, n_lanes, seed, clip_norm, average):
        rng = np.random.default_rng(seed)
        n_params = 3 * SLICE + 5_000  # four slices, the last of them short
        start = rng.normal(size=n_params).astype(np.float32)
        gradients = rng.normal(size=(2, n_lanes, n_params)).astype(np.float32)
        states = []
        for threads in (1, 2, 4):
            optim, params = Adam(clip_norm=clip_norm, average=average), start.copy()
            take_steps(optim, params, gradients, threads=threads)
            states.append(state_of(optim, params))
        assert_same_state(states[1], states[0])
        assert_same_state(states[2], states[0])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("gradient", [1.0, 1e-10])
    def test_moments_that_die_out_become_zero_and_never_denormal(self, dtype, gradient):
        optim, params = Adam(betas=(0.5, 0.8)), np.ones(3, dtype)
        take_steps(optim, params, [np.array([gradient, -gradient, 0], dtype)])
        assert optim.m[0] > 0 > optim.m[1]
        for _ in range(400):
            take_steps(optim, params, np.zeros((1, 3), dtype))
            for moment in (optim.m, optim.v):
                assert ((moment == 0) | (np.abs(moment) >= np.finfo(dtype).tiny)).all()
        assert not optim.m.any()
        assert not optim.v.any()
        assert np.isfinite(params).all()
        assert params[2] == 1

    def test_lanes_and_squares_of_slices_are_added_up_in_their_order(self):
        """In the orders that results have their bits from: each number is lost in some other order."""
        lanes = np.array([[1e16], [1.0], [-1e16], [0.0]])
        assert kernels.fold_lanes(lanes, 0, 1) == 0.0
        assert lanes[0, 0] == 0.0
        squares = np.zeros((1, 3 * SLICE))
        squares[0, ::SLICE] = 2.0**27, 1.4, 1.4  # whose squares are lost beside 2^54, but not their sum
        for threads in (1, 2, 3):
            assert _fold(squares, threads) == 2.0**54


class TestSchedules:
    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("constant", [1, 1, 1, 1]),
            ("cosine", [1, 0.7938926261462366, 0.5, 0]),
            ("one_cycle", [0.04, 1, 0.8117449009293668, 0]),
        ],
    )
    def test_values(self, name, values):
        found = [SCHEDULES[name](progress) for progress in (0, 0.3, 0.5, 1)]
        np.testing.assert_allclose(found, values, rtol=0, atol=2e-16)

    def test_one_cycle_rises_and_falls_without_a_jump(self):
        values = np.array([SCHEDULES["one_cycle"](i / 1000) for i in range(1001)])
        assert (np.diff(values[:301]) > 0).all()
        assert (np.diff(values[300:]) < 0).all()
        assert np.abs(np.diff(values)).max() < 0.96 * math.pi / 2 / 300 * 1.001


class TestAverage:
    def test_is_a_moving_average_that_soon_forgets_the_first_steps(self):
        rng = np.random.default_rng(4)
        gradients, params = rng.normal(size=(60, 5)), rng.normal(size=5)
        optim = Adam(lr=0.1, average=0.8)
        average = None
        for t, g in enumerate(gradients, start=1):
            take_steps(optim, params, [g])
            decay = min(0.8, t / (10 + t))
            average = params.copy() if average is None else decay * average + (1 - decay) * params
            np.testing.assert_allclose(optim.averaged, average, rtol=1e-13, atol=1e-14)

    def test_changes_no_bit_of_the_steps(self):
        rng = np.random.default_rng(5)
        gradients, start = rng.normal(size=(5, 7)), rng.normal(size=7)
        with_average, without = start.copy(), start.copy()
        take_steps(Adam(average=0.9), with_average, gradients)
        optim = Adam()
        take_steps(optim, without, gradients)
        np.testing.assert_array_equal(with_average, without)
        assert optim.averaged is None


class TestState:
    def test_goes_on_after_restoring_and_is_a_copy(self):
        rng = np.random.default_rng(6)
        gradients, params = rng.normal(size=(6, 9)), rng.normal(size=9)
        optim = Adam(average=0.9)
        take_steps(optim, params, gradients[:3])
        middle, params_then = optim.state(), params.copy()
        take_steps(optim, params, gradients[3:])
        end = state_of(optim, params)
        for other in (optim, Adam(average=0.9)):
            for _ in range(2):  # the second time finds the state as it was
                other.restore(middle)
                again = params_then.copy()
                take_steps(other, again, gradients[3:])
                assert_same_state(state_of(other, again), end)

    def test_reset_forgets_everything(self):
        rng = np.random.default_rng(7)
        gradients, start = rng.normal(size=(3, 4)), rng.normal(size=4)
        optim, params = Adam(average=0.9), start.copy()
        take_steps(optim, params, gradients)
        end = state_of(optim, params)
        optim.reset()
        assert_same_state(state_of(optim, start), [start, None, None, None, 0])
        take_steps(optim, start, gradients)
        assert_same_state(state_of(optim, start), end)

    def test_of_another_number_of_parameters_is_refused(self):
        optim, params = Adam(average=0.9), np.ones(4)
        take_steps(optim, np.ones(3), np.ones((1, 3)))
        before = state_of(optim, params)
        with pytest.raises(ValueError, match=r"state of 3 parameters, the flow has 4"):
            take_steps(optim, params, np.ones((1, 4)))
        assert_same_state(state_of(optim, params), before)

    @pytest.mark.parametrize("is_fresh", [True, False])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])  # the last overflows when squared
    @pytest.mark.parametrize("threads", [1, 2])
    def test_is_left_alone_by_a_gradient_that_is_not_finite(self, is_fresh, bad, threads):
        optim, params = Adam(average=0.9), np.ones(2 * SLICE)
        if not is_fresh:
            take_steps(optim, params, [np.full(2 * SLICE, 0.5)])
        before = state_of(optim, params)
        gradient = np.ones((3, 2 * SLICE))
        gradient[1, -1] = bad
        with pytest.raises(InvalidLossError, match="gradient is not finite"):
            take_steps(optim, params, [gradient], threads=threads)
        assert_same_state(state_of(optim, params), before)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("unit", [0.0, 1e-320, 1e-300, 1e-39])
    @pytest.mark.parametrize("gradient", [0.0, 1e-30])
    def test_is_left_alone_where_the_unit_is_too_small(self, dtype, unit, gradient):
        optim, params = Adam(average=0.5), np.ones(3, dtype)
        take_steps(optim, params, [np.ones(3, dtype)])
        before = state_of(optim, params)
        with suppress(InvalidLossError), np.errstate(all="ignore"):
            optim.step(params, np.full((1, 3), gradient, dtype), 0.0, 1.0, 1, unit)
            before = None
        assert all(np.isfinite(value).all() for value in (params, optim.m, optim.v, optim.averaged))
        if before is not None:
            assert_same_state(state_of(optim, params), before)

    def test_infinite_lanes_that_cancel_are_no_gradient(self):
        with pytest.raises(InvalidLossError):
            take_steps(Adam(), np.ones(2), [np.array([[math.inf, 1], [-math.inf, 1]])])


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "values"),
        {
            "lr": [0, -1e-3, math.nan, math.inf],
            "betas": [(1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, math.nan), (0.9,), (0.9, 0.9, 0.9)],
            "eps": [0, -1e-8, math.nan, math.inf],
            "weight_decay": [-0.1, math.nan, math.inf],
            "clip_norm": [0, -1.0, math.nan],
            "average": [1.0, -0.1, math.nan],
        }.items(),
    )
    def test_out_of_range_are_refused(self, name, values):
        for value in values:
            with pytest.raises(ValueError, match=rf"^{name} must be .*, got {re.escape(repr(value))}$"):
                Adam(**{name: value})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("lr", "0.1"),
            ("lr", None),
            ("betas", 0.9),
            ("eps", "tiny"),
            ("clip_norm", "no"),
            ("average", None),
        ],
    )
    def test_of_another_type_are_refused_by_name(self, name, value):
        with pytest.raises((TypeError, ValueError), match=rf"^{name} must be "):
            Adam(**{name: value})

    def test_unknown_schedule_names_the_nearest(self):
        with pytest.raises(ValueError, match=r"^schedule must be one of .*'cosin'; did you mean 'cosine'\?$"):
            Adam(schedule="cosin")

    def test_are_shown_without_the_state(self):
        optim = Adam(lr=0.5, average=0.9)
        shown = repr(optim)
        assert shown.startswith("Adam(lr=0.5, betas=(0.9, 0.999), eps=1e-08")
        take_steps(optim, np.ones(2), np.ones((1, 2)))
        assert repr(optim) == shown

    def test_can_be_compared_once_there_is_a_state(self):
        first, second = Adam(), Adam()
        for optim in (first, second):
            take_steps(optim, np.ones(2), np.ones((1, 2)))
        assert (first == second) in (True, False)
        assert first != Adam(lr=0.5)
