"""Datasets: what enters is checked, and log weights keep their laws."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from varflow.data.dataset import Dataset, minibatch_rows
from varflow.errors import FileFormatError
from varflow.flow.flow import Flow
from varflow.testing import normal_params

N, D = 200, 3


def arrays(n=N, d=D, seed=1):
    rng = np.random.default_rng(seed)
    return rng.random((n, d)), rng.uniform(0.5, 2.0, n), rng.normal(size=n)


@pytest.fixture
def data():
    return Dataset(*arrays())


def rows_of(data):
    """All rows as a sorted list of tuples, to compare without regard to order."""
    return sorted(map(tuple, np.column_stack([data.x, data.logpx, data.logfx]).tolist()))


class TestConversion:
    def test_holds_float64_without_a_copy(self):
        x, px, fx = arrays()
        data = Dataset(x, px, fx)
        assert data.x is x
        assert data.px is px
        assert data.fx is fx
        assert (data.n, data.d, len(data)) == (N, D, N)
        assert repr(data) == "Dataset(n=200, d=3, px, fx)"
        np.testing.assert_array_equal(data.bounds, [[0, 1]] * D)

    def test_takes_read_only_arrays_and_leaves_them_alone(self):
        given_arrays = arrays()
        copies = [array.copy() for array in given_arrays]
        for array in given_arrays:
            array.flags.writeable = False
        data = Dataset(*given_arrays)
        data.log_weight(2)
        data.split(0.5)
        for array, copy in zip(given_arrays, copies, strict=True):
            np.testing.assert_array_equal(array, copy)

    @pytest.mark.parametrize(
        "convert",
        [
            np.ndarray.tolist,
            np.asfortranarray,
            lambda a: np.repeat(a, 2, axis=0)[::2],
            lambda a: a.astype(">f8"),
            lambda a: a.astype(np.longdouble),
        ],
        ids=["list", "fortran", "strided", "big-endian", "long double"],
    )
    def test_converts_without_changing_a_bit(self, convert):
        x, px, fx = arrays()
        data = Dataset(convert(x), convert(px), convert(fx))
        for found, expected in ((data.x, x), (data.px, px), (data.fx, fx)):
            assert found.dtype == np.float64
            assert found.dtype.isnative
            assert found.flags.c_contiguous
            np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint64, bool])
    def test_converts_other_numbers(self, dtype):
        data = Dataset(np.array([[0], [1]], dtype), np.ones(2, dtype), np.array([1, 0], dtype))
        np.testing.assert_array_equal(data.x, [[0.0], [1.0]])
        np.testing.assert_array_equal(data.fx, [1.0, 0.0])

    @pytest.mark.parametrize("name", ["x", "px", "fx"])
    @pytest.mark.parametrize(
        ("convert", "match"),
        [
            (np.ma.asarray, "must not be a masked array"),
            (lambda a: a + 0j, "must hold real numbers, found dtype complex128"),
            (lambda a: a.astype(object), "must hold real numbers, found dtype object"),
            (lambda a: a.astype(str), "must hold real numbers, found dtype <U"),
        ],
    )
    def test_refuses_other_types(self, name, convert, match):
        kwargs = dict(zip(("x", "px", "fx"), arrays(), strict=True))
        kwargs[name] = convert(kwargs[name])
        with pytest.raises(TypeError, match=f"^{name} {match}"):
            Dataset(**kwargs)

    def test_refuses_ragged_lists(self):
        with pytest.raises(ValueError, match=r"^x is not an array"):
            Dataset([[0.1], [0.1, 0.2]], [1, 1], [1, 1])


class TestChecks:
    def test_one_dimension_needs_a_column(self):
        with pytest.raises(ValueError, match=r"found \(5,\); for one dimension, give x\[:, None\]"):
            Dataset(np.full(5, 0.5), np.ones(5), np.ones(5))

    @pytest.mark.parametrize("shape", [(), (0, 2), (2, 0), (2, 1, 1)])
    def test_shape_of_x(self, shape):
        with pytest.raises(ValueError, match=r"^x must have shape \(n, d\)"):
            Dataset(np.zeros(shape), np.ones(2), np.ones(2))

    @pytest.mark.parametrize("name", ["px", "fx"])
    @pytest.mark.parametrize("shape", [(), (N - 1,), (N, 1)])
    def test_shape_of_values(self, name, shape):
        kwargs = dict(zip(("x", "px", "fx"), arrays(), strict=True)) | {name: np.ones(shape)}
        with pytest.raises(
            ValueError, match=rf"^{name} must have shape \(200,\), one value for each row of x"
        ):
            Dataset(**kwargs)

    def test_exactly_one_of_value_and_log(self):
        x, px, fx = arrays()
        for kwargs, match in (
            ({"fx": fx}, "either px or logpx, found neither"),
            ({"px": px, "logpx": px, "fx": fx}, "either px or logpx, found both"),
            ({"px": px}, "either fx or logfx, found neither"),
            ({"px": px, "fx": fx, "logfx": fx}, "either fx or logfx, found both"),
        ):
            with pytest.raises(TypeError, match=match):
                Dataset(x, **kwargs)

    @pytest.mark.parametrize(
        ("name", "value", "match"),
        [
            *[
                (name, value, rf"must be finite, found {value}")
                for name in ("px", "fx", "logpx")
                for value in (math.nan, math.inf, -math.inf)
            ],
            ("logfx", math.nan, "must be finite or -inf, found nan"),
            ("logfx", math.inf, "must be finite or -inf, found inf"),
            ("px", 0.0, "must be positive, found 0.0"),
            ("px", -1.5, "must be positive, found -1.5"),
        ],
    )
    def test_values(self, name, value, match):
        n = 70_000  # more than one block
        kwargs = {"px": np.ones(n), "fx": np.ones(n)}
        del kwargs[name.removeprefix("log")]
        kwargs[name] = np.ones(n)
        kwargs[name][[68_000, 69_000]] = value
        with pytest.raises(ValueError, match=rf"^{name} {match} in row 68000 \(and 1 more\)$"):
            Dataset(np.zeros((n, 1)), **kwargs)

    def test_counts_over_all_blocks(self):
        fx = np.ones(140_000)
        fx[[17, 65_536, 139_999]] = math.nan
        with pytest.raises(ValueError, match=r"^fx must be finite, found nan in row 17 \(and 2 more\)$"):
            Dataset(np.zeros((140_000, 1)), np.ones(140_000), fx)

    def test_points_must_be_finite(self):
        x, px, fx = arrays()
        x[7, 2] = math.nan
        with pytest.raises(ValueError, match=r"^x must be finite, found nan in row 7, column 2$"):
            Dataset(x, px, fx)

    def test_points_must_lie_within_bounds(self):
        x, px, fx = arrays()
        x[5, 1], x[9, 0] = 1.0000000001, -1
        match = r"^x must lie within bounds .*, found 1.0000000001 in row 5, column 1 \(and 1 more\)$"
        with pytest.raises(ValueError, match=match):
            Dataset(x, px, fx)
        Dataset(x, px, fx, bounds=[[-1, 2]] * 3)

    def test_the_box_is_closed(self):
        assert Dataset([[-1.0], [3.0]], [1, 1], [1, 1], bounds=[[-1, 3]]).n == 2

    @pytest.mark.parametrize(
        ("bounds", "match"),
        [
            ([[0, 1]], r"must have shape \(3, 2\) or \(2,\), found \(1, 2\)"),
            (
                [[0, 1], [0, math.inf], [0, 1]],
                "must be finite, or -inf .* in all dimensions, found inf in row 1, column 1",
            ),
            ([[0, 1], [0, 1], [1, 1]], r"must have lower < upper, .*found \[1.0, 1.0\] in row 2"),
        ],
    )
    def test_bounds(self, bounds, match):
        with pytest.raises(ValueError, match=f"^bounds {match}"):
            Dataset(*arrays(), bounds=bounds)

    def test_f_must_not_be_zero_everywhere(self):
        x, px, _ = arrays()
        with pytest.raises(ValueError, match="fx is zero everywhere"):
            Dataset(x, px, np.zeros(N))
        with pytest.raises(ValueError, match="logfx is -inf everywhere"):
            Dataset(x, px, logfx=np.full(N, -math.inf))


class TestLogs:
    def test_values_and_logs(self):
        x, px, fx = arrays()
        fx[3] = 0.0
        data = Dataset(x, logpx=np.log(px), fx=fx)
        np.testing.assert_allclose(data.px, px, rtol=1e-14)
        np.testing.assert_array_equal(data.logfx[:3], np.log(np.abs(fx[:3])))
        assert data.logfx[3] == -math.inf

    def test_exp_of_logs_may_leave_the_range(self):
        data = Dataset([[0.5], [0.5]], logpx=[-2000.0, 2000.0], logfx=[-2000.0, 2000.0])
        np.testing.assert_array_equal(data.px, [0, math.inf])
        np.testing.assert_array_equal(data.fx, [0, math.inf])
        assert data.log_integral == 0


class TestLogWeight:
    @pytest.mark.parametrize("power", [1, 2])
    def test_definition(self, data, power):
        f = np.abs(data.fx)
        expected = power * np.log(f / np.mean(f / data.px)) - np.log(data.px)
        np.testing.assert_allclose(data.log_weight(power), expected, rtol=1e-12, atol=1e-12)
        assert data.log_integral == pytest.approx(np.log(np.mean(f / data.px)), abs=1e-13)

    @pytest.mark.parametrize("power", [0, 3, 1.5, "1"])
    def test_other_powers(self, data, power):
        with pytest.raises(ValueError, match="power must be 1 or 2, found"):
            data.log_weight(power)

    def test_mean_weight_is_one(self):
        """The mean of f̂/p is one by its definition, over several blocks too."""
        data = Dataset(*arrays(n=150_000, d=1))
        assert np.mean(np.exp(data.log_weight(1))) == pytest.approx(1.0, rel=1e-12)

    @pytest.mark.parametrize("power", [1, 2])
    def test_logs_and_values_agree(self, power):
        x, px, fx = arrays()
        given_values = Dataset(x, px, fx)
        given_logs = Dataset(x, logpx=np.log(px), logfx=np.log(np.abs(fx)))
        np.testing.assert_allclose(
            given_logs.log_weight(power), given_values.log_weight(power), rtol=1e-12, atol=1e-12
        )
        assert given_logs.log_integral == pytest.approx(given_values.log_integral, abs=1e-13)

    def test_the_whole_range_of_numbers(self):
        """f from 1e-300 to 1e300 and p too, where f̂²/p itself would leave the range."""
        fx = np.array([1e300, -1e-300, 0.0, 5e-324, 1e300])
        px = np.array([1e-300, 1e300, 1.0, 1.0, 1.0])
        data = Dataset(np.full((5, 1), 0.5), px, fx)
        log_integral = 600 * math.log(10) - math.log(5)
        assert data.log_integral == pytest.approx(log_integral, rel=1e-15)
        with np.errstate(divide="ignore"):
            expected = 2 * (np.log(np.abs(fx)) - log_integral) - np.log(px)
        np.testing.assert_allclose(data.log_weight(2), expected, rtol=1e-14)

    def test_raises_no_floating_point_error(self):
        x, px, fx = arrays()
        fx[::2] *= 1e-300
        fx[0] = 0
        with np.errstate(all="raise"):
            for data in (Dataset(x, px, fx), Dataset(x, logpx=-2000 * px, logfx=3000 * fx)):
                assert np.isfinite(data.log_integral)
                assert (data.log_weight(2) < math.inf).all()

    @given(
        fx=hnp.arrays(
            np.float64,
            st.integers(1, 30),
            elements=st.one_of(
                st.just(0.0), st.floats(2.0**-600, 2.0**600), st.floats(-(2.0**600), -(2.0**-600))
            ),
        ).filter(np.any),
        exponent=st.integers(-400, 400),
        power=st.sampled_from([1, 2]),
    )
    @settings(deadline=None)
    def test_a_power_of_two_changes_no_bit(self, fx, exponent, power):
        x, px = np.zeros((len(fx), 1)), np.random.default_rng(0).uniform(0.1, 10, len(fx))
        data, scaled = Dataset(x, px, fx), Dataset(x, px, np.ldexp(fx, exponent))
        assert data.log_weight(power).tobytes() == scaled.log_weight(power).tobytes()
        expected = data.log_integral + exponent * math.log(2)
        assert scaled.log_integral == pytest.approx(expected, rel=1e-14, abs=1e-12)

    def test_a_power_of_two_changes_no_bit_over_blocks(self):
        x, px, fx = arrays(n=150_000, d=1)
        expected = Dataset(x, px, fx).log_weight(2)
        np.testing.assert_array_equal(Dataset(x, px, np.ldexp(fx, -400)).log_weight(2), expected)

    def test_memory(self):
        """Checks and log weights need little beside the points and the weights: 16 of the 60 MB are these."""
        n = 2_000_000
        rng = np.random.default_rng(0)
        x, px, fx = rng.random((n, 8)), rng.uniform(0.5, 2.0, n), rng.normal(size=n)
        tracemalloc.start()
        Dataset(x, px, fx).log_weight(2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 60e6


class TestParts:
    @given(n=st.integers(2, 60), fraction=st.floats(0.05, 0.95), seed=st.integers(0, 99), logs=st.booleans())
    @settings(deadline=None)
    def test_split_and_concatenate_keep_every_row(self, n, fraction, seed, logs):
        x, px, fx = arrays(n=n)
        bounds = [[-1, 2]] * D
        values = {"logpx": np.log(px), "logfx": fx} if logs else {"px": px, "fx": fx}
        data = Dataset(x, bounds=bounds, **values)
        rows = round(fraction * n)
        if not 0 < rows < n:
            with pytest.raises(ValueError, match="leaves one part without rows"):
                data.split(fraction, seed)
            return
        first, second = data.split(fraction, seed)
        assert (first.n, second.n) == (n - rows, rows)
        joined = Dataset.concatenate(first, second)
        assert rows_of(joined) == rows_of(data)
        np.testing.assert_array_equal(joined.bounds, bounds)
        assert joined._values.keys() == data._values.keys()

    def test_split_is_random_and_repeatable(self, data):
        first, second = data.split(0.5, seed=3), data.split(0.5, seed=3)
        np.testing.assert_array_equal(first[1].x, second[1].x)
        assert rows_of(data.split(0.5, seed=4)[1]) != rows_of(first[1])

    @pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, math.nan])
    def test_split_fraction(self, data, fraction):
        with pytest.raises(ValueError, match="fraction must lie between 0 and 1, found"):
            data.split(fraction)

    def test_split_keeps_the_sign(self, data):
        parts = data.split(0.3)
        assert sorted(np.concatenate([part.fx for part in parts])) == sorted(data.fx)

    def test_concatenate_mixes_logs_and_values(self):
        x, px, fx = arrays()
        mixed = Dataset.concatenate(Dataset(x, px, fx), Dataset(x, px, logfx=fx))
        assert mixed.px.tolist() == [*px, *px]
        assert mixed.logfx.tolist() == [*np.log(np.abs(fx)), *fx]

    def test_concatenate_refuses(self, data):
        with pytest.raises(ValueError, match="needs one dataset or more"):
            Dataset.concatenate()
        with pytest.raises(ValueError, match="the same d, found 3 and 2"):
            Dataset.concatenate(data, Dataset(*arrays(d=2)))
        with pytest.raises(ValueError, match=r"the same bounds, found \[\[0.0, 1.0\]"):
            Dataset.concatenate(data, Dataset(*arrays(), bounds=[[0, 2]] * 3))

    def test_concatenate_without_densities_is_what_it_was(self):
        """To the bit, also if one of the densities is not known."""
        x, px, fx = arrays()
        sets = [Dataset(x, px, fx), Dataset(x[:5], logpx=px[:5], fx=fx[:5])]
        expected = {"logpx": np.append(np.log(px), px[:5]), "fx": np.append(fx, fx[:5])}
        for densities in (None, [None, None], [refuse_to_work, None]):
            joined = Dataset.concatenate(*sets, densities=densities)
            assert joined._values.keys() == expected.keys()
            for name, values in expected.items():
                assert joined._values[name].tobytes() == values.tobytes()

    @pytest.mark.parametrize(("size", "expected"), [(64, [64, 64, 64, 8]), (0.5, [100, 100]), (None, [200])])
    def test_minibatches(self, data, size, expected):
        batches = list(data.minibatches(size, seed=5))
        assert [batch.n for batch in batches] == expected
        assert rows_of(Dataset.concatenate(*batches)) == rows_of(data)
        assert batches[0].x.tolist() != data.x[: len(batches[0])].tolist()
        np.testing.assert_array_equal(next(data.minibatches(size, seed=5)).x, batches[0].x)

    def test_minibatches_refuse_at_once(self, data):
        with pytest.raises(ValueError, match="rounds to 0 rows"):
            data.minibatches(1e-6)

    @pytest.mark.parametrize("logs", [False, True])
    def test_a_part_may_hold_zeros_only(self, logs):
        x, px, fx = arrays(n=2)
        fx[:] = [0, 1]
        with np.errstate(divide="ignore"):
            data = Dataset(x, px, logfx=np.log(fx)) if logs else Dataset(x, px, fx)
        integrals = []
        for batch in data.minibatches(1):
            integrals.append(batch.log_integral)
            assert math.isfinite(batch.log_weight(2)[0]) == math.isfinite(batch.logfx[0])
        assert min(integrals) == -math.inf


def refuse_to_work(x):
    raise AssertionError("a density that is not needed was evaluated")


class LogDensity:
    """A density by its logarithm, as a flow is."""

    def __init__(self, log_prob):
        self.log_prob = log_prob


def power_law(a):
    """Density a x^(a - 1) of the first coordinate, in the unit cube."""
    return lambda x: a * x[:, 0] ** (a - 1)


def drawn(a, n, seed, d=1, **f):
    """Points drawn from a power law; f = 1 unless given."""
    x = np.random.default_rng(seed).random((n, d))
    x[:, 0] = x[:, 0] ** (1 / a)
    return Dataset(x, power_law(a)(x), **(f or {"fx": np.ones(n)}))


def constant(value):
    return lambda x: np.full(len(x), value)


class TestMixture:
    @given(
        sets=st.lists(
            st.tuples(st.floats(0.5, 4), st.integers(1, 30), st.booleans()), min_size=1, max_size=5
        ),
        seed=st.integers(0, 99),
    )
    def test_definition(self, sets, seed):
        """Row by row, the sum of n_k p_k / N, whether a density is given by its values or logarithms."""
        parts = [drawn(a, n, seed + i, d=2) for i, (a, n, _) in enumerate(sets)]
        densities = [
            LogDensity(lambda x, a=a: np.log(power_law(a)(x))) if is_log else power_law(a)
            for a, _, is_log in sets
        ]
        joined = Dataset.concatenate(*parts, densities=densities)
        expected = [
            sum(n * a * x ** (a - 1) for a, n, _ in sets) / sum(n for _, n, _ in sets)
            for x in joined.x[:, 0].tolist()
        ]
        np.testing.assert_allclose(joined.px, expected, rtol=1e-12)
        np.testing.assert_array_equal(joined.x, np.concatenate([part.x for part in parts]))

    @given(
        ns=st.lists(st.integers(1, 9), min_size=2, max_size=4),
        base=st.integers(-3000, 3000),
        offsets=st.lists(st.integers(-3, 3) | st.integers(-1000, 1000), min_size=4, max_size=4),
    )
    def test_the_whole_range_of_numbers(self, ns, base, offsets):
        """Densities whose values would under- or overflow: those near the largest are what counts."""
        log_p = [base + offset for offset in offsets[: len(ns)]]
        parts = [
            Dataset(np.full((n, 1), 0.5), logpx=np.full(n, float(log)), fx=np.ones(n))
            for n, log in zip(ns, log_p, strict=True)
        ]
        with np.errstate(all="raise"):
            joined = Dataset.concatenate(*parts, densities=[LogDensity(constant(log)) for log in log_p])
        ratios = sum(n * math.exp(log - max(log_p)) for n, log in zip(ns, log_p, strict=True))
        expected = max(log_p) + math.log(ratios / sum(ns))
        np.testing.assert_allclose(joined.logpx, expected, rtol=1e-14, atol=1e-14)

    def test_a_density_may_be_zero_elsewhere(self):
        lower = Dataset([[0.1], [0.2], [0.3]], [2, 2, 2], [1, 1, 1])
        upper = Dataset([[0.9]], logpx=[math.log(2)], fx=[1])

        def log_upper(x):
            return np.where(x[:, 0] > 0.5, math.log(2), -math.inf)

        with np.errstate(all="raise"):
            joined = Dataset.concatenate(
                lower, upper, densities=[lambda x: 2.0 * (x[:, 0] <= 0.5), LogDensity(log_upper)]
            )
        np.testing.assert_allclose(joined.px, [1.5, 1.5, 1.5, 0.5], rtol=1e-15)

    def test_equal_points_get_equal_densities(self):
        """From whichever set they are; and parts of a set count as the set."""
        one, two = drawn(2, 50, seed=1), drawn(0.5, 30, seed=2)
        same = Dataset(one.x, power_law(0.5)(one.x), one.fx)
        joined = Dataset.concatenate(one, same, two, densities=[power_law(a) for a in (2, 0.5, 0.5)])
        np.testing.assert_array_equal(joined.logpx[:50], joined.logpx[50:100])
        parts = one.split(0.3)
        whole = Dataset.concatenate(*parts, two, densities=[power_law(a) for a in (2, 2, 0.5)])
        expected = Dataset.concatenate(
            Dataset.concatenate(*parts), two, densities=[power_law(2), power_law(0.5)]
        )
        np.testing.assert_allclose(whole.logpx, expected.logpx, rtol=0, atol=1e-14)

    def test_the_sign_of_f_is_kept(self):
        one, two = drawn(2, 5, 1, fx=-np.arange(5.0)), drawn(3, 5, 2, fx=np.ones(5))
        joined = Dataset.concatenate(one, two, densities=[power_law(2), power_law(3)])
        assert joined.fx.tolist() == [0, -1, -2, -3, -4, 1, 1, 1, 1, 1]
        logs = drawn(3, 5, 2, logfx=np.ones(5))
        assert "logfx" in Dataset.concatenate(one, logs, densities=[power_law(2), power_law(3)])._values

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("cell", ["pwlinear", "pwquad", "rqs"])
    def test_flows(self, cell, dtype):
        """More points than a block; points and densities of a flow agree, uniform ones are no flow's."""
        n, bounds = 70_000, [[-1, 3], [0, 5]]
        flow = Flow(2, cell, dtype=dtype, d_hidden=8, seed=1, bounds=bounds)
        flow.params = normal_params(flow.architecture, 1.0, np.random.default_rng(2)).astype(dtype)
        x, logqx = flow.sample(n, seed=3)
        others = np.random.default_rng(4).uniform([-1, 0], [3, 5], (n // 2, 2))
        joined = Dataset.concatenate(
            Dataset(x, logpx=logqx, fx=np.ones(n), bounds=bounds),
            Dataset(others, np.full(n // 2, 1 / 20), np.ones(n // 2), bounds=bounds),
            densities=[flow, constant(1 / 20)],
        )
        expected = 2 / 3 * np.exp(flow.log_prob(joined.x)) + 1 / 60
        np.testing.assert_allclose(joined.px, expected, rtol=1e-12)

    def test_variance_of_the_integral(self):
        """As the docstring has it, for f = 6 x (1 - x) and densities 1.5 x^0.5 and 4 x^3.

        Under the latter, f/p goes as x^-2: it has no variance, and with their own densities neither has the
        estimate, which the mixture repairs.
        """
        u = (np.arange(200_000) + 0.5) / 200_000  # midpoints for the integrals over x
        powers, ns, n_repeats = (1.5, 4), (12, 24), 2000
        p = [power_law(a)(u[:, None]) for a in powers]
        mixture = (p[0] + 2 * p[1]) / 3
        ratio = 6 * u * (1 - u) / mixture
        variances = [np.mean(ratio**2 * pk) - np.mean(ratio * pk) ** 2 for pk in p]
        expected = sum(n * variance for n, variance in zip(ns, variances, strict=True)) / 36**2
        assert expected < (np.mean(ratio**2 * mixture) - 1) / 36

        # All repeats at once: the shares of the sets, and so the mixture, are the same.
        sets = [drawn(a, n * n_repeats, seed=5 + n) for a, n in zip(powers, ns, strict=True)]
        sets = [Dataset(data.x, data.px, 6 * data.x[:, 0] * (1 - data.x[:, 0])) for data in sets]
        joined = Dataset.concatenate(*sets, densities=[power_law(a) for a in powers])
        weights = np.split(joined.fx / joined.px, [ns[0] * n_repeats])
        estimates = sum(part.reshape(n_repeats, -1).sum(axis=1) for part in weights) / 36
        assert np.mean(estimates) == pytest.approx(1, abs=5 * math.sqrt(expected / n_repeats))
        assert np.var(estimates) == pytest.approx(expected, rel=0.2)  # its deviation is a thirtieth
        own_weights = [data.fx / data.px for data in sets]
        own = sum(part.reshape(n_repeats, -1).sum(axis=1) for part in own_weights) / 36
        assert np.var(own) > 3 * expected

    @pytest.mark.parametrize("n_densities", [0, 1, 3])
    def test_one_density_for_each_dataset(self, data, n_densities):
        match = f"^densities must have one entry for each of the 2 datasets, found {n_densities}$"
        with pytest.raises(ValueError, match=match):
            Dataset.concatenate(data, data, densities=[None] * n_densities)

    def test_what_is_no_density(self, data):
        with pytest.raises(TypeError, match=r"^densities\[1\] must be .*, or None, found 1.5$"):
            Dataset.concatenate(data, data, densities=[None, 1.5])

    @pytest.mark.parametrize("wrap", [lambda density: density, LogDensity], ids=["values", "logs"])
    @pytest.mark.parametrize("result", [1.0, [[1.0]] * 5, [1.0] * 4])
    def test_shape_of_densities(self, wrap, result):
        data = drawn(1, 5, seed=1)
        match = r"^densities\[0\] at the points of datasets\[0\] must have shape \(5,\)"
        with pytest.raises(ValueError, match=match):
            Dataset.concatenate(data, densities=[wrap(lambda x: result)])

    @pytest.mark.parametrize(
        ("wrap", "value", "rule"),
        [
            (constant, math.nan, "be finite and >= 0, found nan"),
            (constant, math.inf, "be finite and >= 0, found inf"),
            (constant, -1e-9, "be finite and >= 0, found -1e-09"),
            (lambda value: LogDensity(constant(value)), math.nan, "have a log_prob .* or -inf, found nan"),
            (lambda value: LogDensity(constant(value)), math.inf, "have a log_prob .* or -inf, found inf"),
        ],
    )
    def test_values_of_densities(self, wrap, value, rule):
        one, two = drawn(1, 5, seed=1), drawn(2, 5, seed=2)
        match = rf"^densities\[1\] at the points of datasets\[0\] must {rule} in row 0 \(and 4 more\)$"
        with pytest.raises(ValueError, match=match):
            Dataset.concatenate(one, two, densities=[power_law(1), wrap(value)])

    def test_densities_must_be_real_numbers(self, data):
        with pytest.raises(
            TypeError, match=r"^densities\[0\] .* must hold real numbers, found dtype complex"
        ):
            Dataset.concatenate(data, densities=[lambda x: 1j * x[:, 0]])

    @pytest.mark.parametrize("wrap", [lambda density: density, LogDensity], ids=["values", "logs"])
    @pytest.mark.parametrize(
        ("error", "agrees"), [(0.9e-4, True), (-0.9e-4, True), (1.1e-4, False), (-1.1e-4, False)]
    )
    def test_densities_must_agree_with_what_is_stored(self, wrap, error, agrees):
        """Only at a set's own points, and in the last of its rows too."""
        n = 70_000
        one = drawn(1, n, seed=1)
        two = Dataset(np.linspace(0, 1, n)[:, None], np.full(n, 2.0), np.ones(n))

        def density(x):
            log = math.log(2) + np.where(x[:, 0] == 1, error, 0.0)
            return log if wrap is LogDensity else np.exp(log)

        if agrees:
            Dataset.concatenate(one, two, densities=[constant(1), wrap(density)])
            return
        match = (
            rf"^densities\[1\] must agree .* datasets\[1\] .* 0.693147.* is stored, in row {n - 1}: usually"
        )
        with pytest.raises(ValueError, match=match):
            Dataset.concatenate(one, two, densities=[constant(1), wrap(density)])

    def test_a_wrong_density_is_found_at_once(self):
        one, two = drawn(1, 5, seed=1), drawn(2, 5, seed=2)
        match = r"^densities\[0\] must agree .* log p = -inf where 0.0 is stored, in row 0 \(and 4 more\)"
        with pytest.raises(ValueError, match=match):
            Dataset.concatenate(one, two, densities=[constant(0), refuse_to_work])

    def test_densities_cannot_modify_points(self, data):
        def density(x):
            x[0] = 0
            return np.ones(len(x))

        with pytest.raises(ValueError, match="read-only"):
            Dataset.concatenate(data, densities=[density])


class TestDuplicates:
    @given(
        hnp.arrays(
            np.float64,
            st.tuples(st.integers(1, 40), st.integers(1, 4)),
            elements=st.sampled_from([0.0, -0.0, 5e-324, 0.5, 0.75, 1.0]) | st.floats(0, 1),
        )
    )
    def test_counts_rows_that_are_not_the_first(self, x):
        """Tuples of Python's are equal, and have equal hashes, where the points are."""
        data = Dataset(x, np.ones(len(x)), np.ones(len(x)))
        expected = len(x) - len(set(map(tuple, x.tolist())))
        before = x.tobytes()
        assert data.n_duplicates == expected
        assert x.tobytes() == before

    def test_zeros_of_either_sign(self):
        x = [[0.0, 0.5], [0.0, 0.75], [-0.0, 0.5], [0.5, 0.0], [0.5, -0.0], [0.5, 0.5]]
        assert Dataset(x, np.ones(6), np.ones(6)).n_duplicates == 2

    @pytest.mark.parametrize("column", [0, 2])
    def test_coordinates_that_take_few_values(self, column):
        """Points are compared as wholes, whichever of the coordinates tie."""
        x, px, fx = arrays(n=5000)
        x[:, column] = np.round(x[:, column], 1)
        assert Dataset(x, px, fx).n_duplicates == 0
        x[[17, 4000]] = x[3000]
        assert Dataset(x, px, fx).n_duplicates == 2

    def test_a_file_given_twice(self, tmp_path):
        Dataset(*arrays()).save(tmp_path / "data.csv")
        first, second = Dataset.read(tmp_path / "data.csv"), Dataset.read(tmp_path / "data.csv")
        assert first.n_duplicates == 0
        assert Dataset.concatenate(first, second).n_duplicates == N
        assert Dataset.concatenate(first, Dataset(*arrays(seed=2)), second).n_duplicates == N

    def test_rows_that_share_no_coordinate_are_not_copied(self):
        x, px, fx = arrays(n=200_000, d=16)
        x[-1] = x[0]
        data = Dataset(x, px, fx)
        tracemalloc.start()
        assert data.n_duplicates == 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < x.nbytes / 4

    def test_is_computed_once(self, data, monkeypatch):
        assert data.n_duplicates == 0
        monkeypatch.setattr(data, "x", None)
        assert data.n_duplicates == 0


class TestMinibatchRows:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            (None, 10),
            (1, 1),
            (10, 10),
            (11, 10),
            (np.int32(3), 3),
            (1.0, 10),
            (0.25, 2),
            (0.26, 3),
            (np.float32(0.5), 5),
        ],
    )
    def test_rows(self, size, expected):
        rows = minibatch_rows(size, 10)
        assert rows == expected
        assert type(rows) is int

    @pytest.mark.parametrize(
        ("size", "error", "match"),
        [
            (True, TypeError, "must be an int, a float or None, found True"),
            (np.True_, TypeError, "must be an int, a float or None"),
            ("0.5", TypeError, "must be an int, a float or None, found '0.5'"),
            (0, ValueError, "at least 1 row, found 0"),
            (-3, ValueError, "at least 1 row, found -3"),
            (0.0, ValueError, r"fraction in \(0, 1\], found 0.0"),
            (-0.5, ValueError, r"fraction in \(0, 1\], found -0.5"),
            (256.0, ValueError, r"fraction in \(0, 1\], found 256.0"),
            (math.nan, ValueError, r"fraction in \(0, 1\], found nan"),
            (0.01, ValueError, "0.01 of 10 rows rounds to 0 rows"),
        ],
    )
    def test_refuses(self, size, error, match):
        with pytest.raises(error, match=match):
            minibatch_rows(size, 10)


class TestFiles:
    @pytest.mark.parametrize("name", ["data.npz", "data.csv", "data.txt", "data.dat", "data.h5", "data.HDF5"])
    @pytest.mark.parametrize("logs", [False, True])
    def test_round_trip_keeps_every_bit(self, tmp_path, name, logs):
        x, px, fx = arrays()
        bounds = [[-1.0, 2.0]] * D
        values = {"logpx": np.log(px), "logfx": fx} if logs else {"px": px, "fx": fx}
        data = Dataset(x, bounds=bounds, **values)
        data.save(tmp_path / name)
        read = Dataset.read(tmp_path / name, bounds=bounds)
        np.testing.assert_array_equal(read.x, data.x)
        np.testing.assert_array_equal(read.bounds, bounds)
        assert read._values.keys() == data._values.keys()
        for key, array in data._values.items():
            np.testing.assert_array_equal(read._values[key], array)

    def test_bounds_of_the_file_unless_given(self, tmp_path):
        Dataset(*arrays(), bounds=[[-1, 2]] * D).save(tmp_path / "data.npz")
        assert Dataset.read(tmp_path / "data.npz").bounds.tolist() == [[-1, 2]] * D
        assert Dataset.read(str(tmp_path / "data.npz"), bounds=[[0, 3]] * D).bounds.tolist() == [[0, 3]] * D

    def test_columns_of_text(self, tmp_path):
        path = tmp_path / "data.csv"
        path.write_text("a,b,c\n1,3,2\n1,4,5\n")
        with pytest.raises(
            FileFormatError, match=r"data\.csv, line 1: the header a,b,c must name one of p, px"
        ):
            Dataset.read(path)
        data = Dataset.read(path, bounds=(0, 5), columns=["p", "x", "f"])
        assert (data.px.tolist(), data.x.tolist(), data.fx.tolist()) == ([1, 1], [[3], [4]], [2, 5])

    def test_refused_points_name_the_file(self, tmp_path):
        path = tmp_path / "data.csv"
        path.write_text("0.5,1,1\n0.5,0,1\n")
        with pytest.raises(FileFormatError, match=r"data\.csv: px must be positive, found 0\.0 in row 1$"):
            Dataset.read(path)
        np.savez(tmp_path / "data.npz", x=np.zeros((1, 1)), px=[1.0], fx=[1j])
        with pytest.raises(FileFormatError, match=r"data\.npz: fx must hold real numbers"):
            Dataset.read(tmp_path / "data.npz")
