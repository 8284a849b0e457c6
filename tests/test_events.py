"""Unweighted events: the maximum weight, their distribution, and what is told of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

import varflow as vf
from varflow.integration import events as events_module
from varflow.integration.unweighting import LOGS, MAX_WEIGHTS, VALUES, Choice

SMALL = {"n_bins": 4, "d_hidden": 8, "n_hidden": 1, "repetitions": 1}
WEIGHTS = hnp.arrays(
    np.float64, st.integers(1, 60), elements=st.just(0.0) | st.floats(1e-3, 1e3, allow_subnormal=False)
)
SHARES = st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.3, 0.9])


def of_side(x):
    """Density 2 x in the first coordinate, uniform in the others."""
    return 2 * x[:, 0]


def wave(x):
    return np.sin(2 * np.pi * x[:, 0]) + 0.3


@pytest.fixture(scope="module")
def flow():
    """A flow that is far from everything."""
    made = vf.Flow(2, "pwlinear", seed=1, **SMALL)
    made.params += 0.5 * np.random.default_rng(1).normal(size=made.n_params).astype(np.float32)
    return made


class TestMaximumWeight:
    @given(sizes=WEIGHTS, epsilon=SHARES)
    def test_overweight_has_a_share_of_the_sum_at_most(self, sizes, epsilon):
        if not sizes.any():
            return
        found = MAX_WEIGHTS["overweight"](sizes, epsilon, VALUES)
        allowed, rounding = epsilon * sizes.sum(), 1e-9 * sizes.sum()
        assert sizes[sizes > found].sum() <= allowed + rounding
        if found > sizes.min():  # a smaller one would leave more
            assert sizes[sizes >= found].sum() > allowed - rounding

    @given(sizes=WEIGHTS, n=st.integers(1, 200))
    def test_bootstrap_is_the_median_of_maxima(self, sizes, n):
        found = MAX_WEIGHTS["bootstrap"](sizes, 1 / n, VALUES)
        all_at_most, all_below = (np.mean(is_one) ** n for is_one in (sizes <= found, sizes < found))
        assert all_below <= 0.5 + 1e-9
        assert all_at_most >= 0.5 - 1e-9

    def test_bootstrap_is_that_of_replicas(self):
        sizes = np.random.default_rng(1).lognormal(size=10_000)
        found = Choice("bootstrap", 0.002).of(sizes, VALUES)
        drawn = np.random.default_rng(2).choice(sizes, (2000, 500)).max(axis=1)
        assert np.quantile(drawn, 0.45) < found < np.quantile(drawn, 0.55)

    @given(sizes=WEIGHTS, epsilon=SHARES)
    def test_quantile_is_exceeded_by_a_share(self, sizes, epsilon):
        found = MAX_WEIGHTS["quantile"](sizes, epsilon, VALUES)
        assert np.count_nonzero(sizes > found) <= math.ceil(epsilon * len(sizes))

    @pytest.mark.parametrize("name", MAX_WEIGHTS)
    @given(sizes=WEIGHTS)
    def test_without_a_share_it_is_the_largest(self, name, sizes):
        assert MAX_WEIGHTS[name](sizes, 0.0, VALUES) == sizes.max()

    @pytest.mark.parametrize("name", ["overweight", "bootstrap"])
    @given(sizes=WEIGHTS, epsilon=SHARES)
    def test_of_logarithms_is_its_logarithm(self, name, sizes, epsilon):
        if not sizes.any():
            return
        with np.errstate(divide="ignore"):
            found = MAX_WEIGHTS[name](np.log(sizes), epsilon, LOGS)
            expected = np.log(MAX_WEIGHTS[name](sizes, epsilon, VALUES))
        assert found == expected or (  # at a share that sums reach but for rounding
            name == "overweight" and np.isclose(sizes[sizes > np.exp(min(found, expected))].sum(),
                                                epsilon * sizes.sum())
        )  # fmt: skip

    @pytest.mark.parametrize("form", [VALUES, LOGS])
    @pytest.mark.parametrize("name", MAX_WEIGHTS)
    def test_of_nothing(self, form, name):
        with pytest.raises(ValueError, match="zero at nearly all points"):
            Choice(name).of(np.full(10, form.zero), form)

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ({"max_weight": "bootstap"}, "max_weight must be one of .* did you mean 'bootstrap'"),
            ({"epsilon": 1.0}, "epsilon must be at least 0 and less than 1, got 1.0"),
            ({"epsilon": -0.1}, "epsilon must be at least 0"),
            ({"epsilon": math.nan}, "epsilon must be at least 0"),
        ],
    )
    def test_refused(self, flow, arguments, reason):
        with pytest.raises(ValueError, match=reason):
            vf.generate(flow, of_side, 10, **arguments)
        with pytest.raises(ValueError, match=reason):
            vf.unweight(vf.Dataset([[0.5]], [1.0], [1.0]), **arguments)


def sources(flow):
    boxed = flow.on_box([(0, 1), (-1, 3)])
    result = vf.integrate(lambda x: np.exp(-x[:, 0] - x[:, 1] ** 2), [(0, math.inf), (-math.inf, math.inf)],
                          n_calls=200, seed=1)  # fmt: skip
    return {
        "flow": (boxed, of_side, 4.0, stats.beta(2, 1)),
        "mixture": (vf.Mixture([boxed, boxed], defensive=0.1), of_side, 4.0, stats.beta(2, 1)),
        "result": (
            result, lambda x: np.exp(-2 * x[:, 0] - x[:, 1] ** 2), math.sqrt(math.pi) / 2, stats.expon(0, 0.5)
        ),
    }  # fmt: skip


class TestGenerated:
    @pytest.mark.parametrize("max_weight", MAX_WEIGHTS)
    @pytest.mark.parametrize("name", ["flow", "mixture", "result"])
    def test_follow_the_function(self, flow, name, max_weight):
        source, f, integral, first = sources(flow)[name]
        events = vf.generate(source, f, 4000, max_weight=max_weight, epsilon=1e-4, seed=2)
        assert events.x.shape == (4000, 2)
        assert stats.kstest(events.x[:, 0], first.cdf).pvalue > 1e-3
        figures = events.figures
        assert abs(figures.mean - integral) < 5 * figures.sdev
        assert figures.sdev < 0.05 * integral
        # The maximum weight lies among those of the points, and so does the efficiency.
        assert figures.efficiency == pytest.approx(figures.mean / figures.max_weight, rel=0.1)

    def test_of_unbounded_points(self):
        flow = vf.Flow(2, "realnvp", d_hidden=8, scale=2, seed=1)
        events = vf.generate(flow, lambda x: np.exp(-0.5 * (x**2).sum(axis=1)), 4000, epsilon=0, seed=2)
        assert stats.kstest(events.x[:, 0], stats.norm.cdf).pvalue > 1e-3
        assert abs(events.figures.mean - 2 * math.pi) < 5 * events.figures.sdev

    def test_of_channels_are_left_to_their_result(self):
        identity = vf.Channel(lambda z: z.copy(), lambda x: np.zeros(len(x)))
        result = vf.integrate(of_side, 2, channels=[identity, identity], n_calls=10_000, seed=1)
        with pytest.raises(ValueError, match="take the method sample, with unweight=True"):
            vf.generate(result, of_side, 10)

    def test_weights_beyond_the_maximum_keep_sums_unbiased(self, flow):
        events = vf.generate(flow, of_side, 20_000, epsilon=0.2, seed=3)
        figures = events.figures
        assert figures.n_overweight == np.count_nonzero(events.w > 1) > 1000
        assert figures.overweight == pytest.approx(events.w[events.w > 1].sum() / events.w.sum())
        assert figures.largest == events.w.max()
        mean = np.average(events.x[:, 0], weights=events.w)
        assert mean == pytest.approx(2 / 3, abs=0.01)

    def test_have_the_sign_of_f(self, flow):
        events = vf.generate(flow, wave, 5000, seed=3)
        np.testing.assert_array_equal(np.sign(events.w), np.sign(wave(events.x)))
        assert events.figures.n_negative == np.count_nonzero(events.w < 0) > 100
        assert abs(events.figures.mean - 0.3) < 5 * events.figures.sdev
        assert f"negative events         {events.figures.n_negative:,}" in str(events)

    @pytest.mark.parametrize("max_weight", ["overweight", "bootstrap"])
    def test_are_the_same_by_logarithms(self, flow, max_weight):
        how = {"max_weight": max_weight, "epsilon": 0.01, "seed": 4}
        events = vf.generate(flow, of_side, 2000, **how)
        tiny = vf.generate(flow, lambda x: np.log(of_side(x)) - 1e4, 2000, log=True, **how)
        np.testing.assert_array_equal(tiny.x, events.x)
        np.testing.assert_allclose(tiny.w, events.w, rtol=1e-9)
        assert tiny.figures.log_max_weight == pytest.approx(math.log(events.figures.max_weight) - 1e4)
        assert tiny.figures.max_weight == 0
        assert "integral                exp(-9999.99" in str(tiny) or "exp(-10000.0" in str(tiny)

    def test_depend_on_the_seed_alone(self, flow):
        one, same, other = (vf.generate(flow, of_side, 500, seed=seed) for seed in (3, 3, 4))
        np.testing.assert_array_equal(one.x, same.x)
        assert one.figures == same.figures
        assert not np.array_equal(one.x, other.x)

    def test_come_in_blocks(self, flow, monkeypatch):
        monkeypatch.setattr(events_module, "MOST", 2000)
        seen = []

        def counted(x):
            seen.append(len(x))
            return of_side(x)

        events = vf.generate(flow, counted, 10_000, seed=3)
        assert max(seen) == 2000
        assert sum(seen) == events.figures.n_drawn
        assert len(events.x) == 10_000
        assert stats.kstest(events.x[:, 0], stats.beta(2, 1).cdf).pvalue > 1e-3

    def test_of_several_components_by_their_size(self, flow):
        events = vf.generate(flow, lambda x: np.stack([3 * x[:, 0], 4 * x[:, 0]], axis=1), 2000, seed=1)
        assert abs(events.figures.mean - 2.5) < 5 * events.figures.sdev

    def test_what_f_raises(self, flow):
        with pytest.raises(ZeroDivisionError):
            vf.generate(flow, lambda x: 1 / 0, 10)
        with pytest.raises(vf.InvalidIntegrandError):
            vf.generate(flow, lambda x: np.full(len(x), np.nan), 10)
        with pytest.raises(ValueError, match="zero at nearly all"):
            vf.generate(flow, lambda x: np.zeros(len(x)), 10)

    @pytest.mark.parametrize("n", [0, -1, 1.5, True])
    def test_wrong_number(self, flow, n):
        with pytest.raises((TypeError, ValueError), match=r"\bn must"):
            vf.generate(flow, of_side, n)


class TestUnweighted:
    @staticmethod
    def data(flow, n=20_000, **f):
        x, log_q = flow.sample(n, seed=5)
        return vf.Dataset(x, logpx=log_q, **{name: values(x) for name, values in f.items()})

    def test_follow_the_function(self, flow):
        data = self.data(flow, fx=of_side)
        events = vf.unweight(data, epsilon=1e-3, seed=1)
        assert len(events.x) == events.figures.n_events
        assert events.figures.n_drawn == data.n
        assert stats.kstest(events.x[:, 0], stats.beta(2, 1).cdf).pvalue > 1e-3
        assert abs(events.figures.mean - 1) < 5 * events.figures.sdev
        rows = [np.flatnonzero((data.x == one).all(axis=1))[0] for one in events.x[:50]]
        assert rows == sorted(rows)  # in the order of the points

    def test_conditions_are_not_dropped_without_a_word(self):
        x, c = np.random.default_rng(1).random((2, 100, 1))
        data = vf.Dataset(x, np.ones(100), 1 + x[:, 0], conditions=c)
        with pytest.raises(ValueError, match="data has n_conditions = 1, and events keep none"):
            vf.unweight(data)

    def test_a_number_of_them(self, flow):
        data = self.data(flow, fx=of_side)
        every, some = vf.unweight(data, seed=1), vf.unweight(data, 100, seed=1)
        np.testing.assert_array_equal(some.x, every.x[:100])
        assert (some.figures.n_events, some.figures.efficiency) == (100, every.figures.efficiency)
        with pytest.raises(ValueError, match=r"of 20000 points, \d+ were accepted, fewer than n = 19999"):
            vf.unweight(data, 19_999, seed=1)

    def test_signs(self, flow):
        events = vf.unweight(self.data(flow, fx=wave), seed=1)
        np.testing.assert_array_equal(np.sign(events.w), np.sign(wave(events.x)))

    def test_values_that_underflow(self, flow):
        with np.errstate(divide="ignore"):
            tiny = self.data(flow, logfx=lambda x: np.log(of_side(x)) - 1e4)
        events, same = vf.unweight(tiny, seed=1), vf.unweight(self.data(flow, fx=of_side), seed=1)
        np.testing.assert_array_equal(events.x, same.x)
        np.testing.assert_allclose(events.w, same.w, rtol=1e-9)
