"""Results: what is printed is the estimate, averages follow their laws, and files keep every bit."""

import decimal
import io
import json
import math
import pickle
import re
import sys
import types
import zipfile
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import varflow as vf
from varflow.errors import FileFormatError
from varflow.flow.flow import Flow
from varflow.integration.averages import MAX_DIRECTIONS
from varflow.integration.components import Components
from varflow.integration.iteration import Iteration
from varflow.integration.result import Result
from varflow.integration.tables import format_estimate
from varflow.runtime.archive import seal

SCALAR = Components(None, ((),))
MIXED = Components(("a", "b", "c"), ((), (2, 2), (3,)))
FLOW = Flow(d=2, d_hidden=4, n_bins=4, seed=1, bounds=[[0, 1 / 3], [-1, 2]])
HISTORY = ("n_calls", "mean", "covariance", "ess", "seconds", "is_used", "weight", "error_dof")


def iteration(
    mean, sdev=None, covariance=None, is_used=True, weight=1.0, n_calls=1000, ess=0.5, error_dof=31.0
):
    mean = np.atleast_1d(np.asarray(mean, float))
    if covariance is None:
        covariance = np.diag(np.atleast_1d(np.asarray(sdev, float)) ** 2)
    stage = "refine" if is_used else "survey"
    covariance = np.asarray(covariance, float)
    return Iteration(stage, n_calls, mean, covariance, ess, 0.25, is_used, weight, error_dof)


def result(*history, components=SCALAR, **options):
    return Result(list(history), FLOW, components=components, **{"bounds": [[0, 1], [0, np.inf]], **options})


def of_scalars(*pairs):
    return result(*(iteration(mean, sdev) for mean, sdev in pairs))


def random_result(seed=1, components=MIXED, n=4, **options):
    rng = np.random.default_rng(seed)
    m = components.size
    history = []
    for k in range(n):
        root = rng.normal(size=(m, m)) / 30
        history.append(
            iteration(rng.normal(1, 0.1, m), covariance=root @ root.T, is_used=k > 0, weight=rng.random() + 1)
        )
    return result(*history, components=components, **options)


def parsed(text):
    """Read what `format_estimate` writes with parentheses: number, error, and value of the last digit."""
    number, error, exponent = re.fullmatch(r"(-?[\d.]+)\(([\d.]+)\)(?:e([+-]\d+))?", text).groups()
    decimals = len(number.partition(".")[2])
    power = decimal.Decimal(10) ** int(exponent or 0)
    unit = power / decimal.Decimal(10) ** decimals
    return decimal.Decimal(number) * power, decimal.Decimal(error) * (power if "." in error else unit), unit


class TestFormat:
    @pytest.mark.parametrize(
        ("mean", "sdev", "text"),
        [
            (1.0012, 0.0034, "1.0012(34)"),
            (0, 0.12, "0.00(12)"),
            (-0.0, 0.12, "0.00(12)"),
            (12.3, 4.5, "12.3(4.5)"),
            (1.234e-10, 5.6e-12, "1.234(56)e-10"),
            (1.5, 0, "1.5(0)"),
            (0, 0, "0(0)"),
            (-0.0, 0, "0(0)"),
            (1e20, 0, "1(0)e+20"),
            (1.23456789, 0, "1.23456789(0)"),
            (math.nan, 1, "nan ± 1"),
            (1, math.nan, "1 ± nan"),
            (-math.inf, 0.5, "-inf ± 0.5"),
            (2.5, math.inf, "2.5 ± inf"),
            (1e10, 1e-10, "10000000000 ± 1.0e-10"),
            (1 / 3, 1e-20, "0.333333333333333 ± 1.0e-20"),
            (1e10, 1e5, "1.000000(10)e+10"),
            (1e-10, 1e10, "0.0(1.0)e+10"),
            (-1, 20, "-1(20)"),
            (-0.001, 123, "0.0(1.2)e+02"),
            (-1.0012, 0.0034, "-1.0012(34)"),
            (123456, 100, "1.2346(10)e+05"),
            (100, 99.4, "100(99)"),
            (100, 99.6, "1.0(1.0)e+02"),
            (99.96, 0.0996, "99.96(10)"),
            (1, 0.996, "1.0(1.0)"),
            (1, 0.995, "1.00(99)"),
            (9.9999e-5, 1e-6, "0.0001000(10)"),
            (9.99996e-10, 1e-12, "1.0000(10)e-09"),
            (0, 1e-12, "0.0(1.0)e-12"),
            (0, 9.96e11, "0.0(1.0)e+12"),
            (12345.6, 0.012, "12345.600(12)"),
            (1e300, 1e299, "1.00(10)e+300"),
            (5e-324, 5e-324, "4.9(4.9)e-324"),
        ],
    )
    def test_table(self, mean, sdev, text):
        assert format_estimate(mean, sdev) == text

    @given(
        st.floats(allow_nan=False, allow_infinity=False),
        st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    )
    def test_printed_is_the_mean_to_half_a_digit(self, mean, sdev):
        self.check(mean, sdev)

    @given(st.floats(1, 10), st.floats(-14, 14), st.integers(-300, 290), st.sampled_from([-1, 1]))
    def test_errors_of_all_sizes(self, mantissa, ratio, power, sign):
        mean = sign * mantissa * 10.0**power
        self.check(mean, abs(mean) * 10.0**ratio)

    @staticmethod
    def check(mean, sdev):
        text = format_estimate(mean, sdev)
        if "±" in text:
            assert abs(mean) > 1e12 * sdev
            number, _, error = text.split()
            exact = decimal.Decimal(mean)
            assert abs(decimal.Decimal(number) - exact) <= abs(exact) * decimal.Decimal("1e-14")
            assert error == f"{sdev:.1e}"
            return
        number, error, unit = parsed(text)
        assert abs(number - decimal.Decimal(mean)) <= unit / 2
        assert error == decimal.Decimal(f"{sdev:.1e}")
        assert 10 * unit <= error < 100 * unit
        assert len(text) <= 27

    def test_whatever_the_decimal_context(self):
        with decimal.localcontext() as context:
            context.prec = 2
            context.traps[decimal.Inexact] = context.traps[decimal.FloatOperation] = True
            assert format_estimate(123.456789, 0.00012) == "123.45679(12)"

    def test_scalars_arrays_dicts(self):
        assert str(of_scalars((1.0012, 0.0034))) == "1.0012(34)"
        vector = Components(None, ((2,),))
        assert str(result(iteration([1, 2], [0.1, 0.2]), components=vector)) == "[1.00(10) 2.00(20)]"
        square = Components(None, ((2, 1),))
        assert str(result(iteration([1, 2], [0.1, 0.2]), components=square)) == "[[1.00(10)]\n [2.00(20)]]"
        both = Components(("a", "b"), ((), (1,)))
        text = str(result(iteration([1, 2], [0.1, 0.2]), components=both))
        assert text == "{'a': 1.00(10), 'b': [2.00(20)]}"

    def test_warnings_follow(self):
        text = str(result(iteration(1, 0.1), warnings=["one", "two"]))
        assert text == "1.00(10)\nwarning: one\nwarning: two"


class TestComponents:
    def test_unpack(self):
        found = MIXED.unpack(np.arange(8.0))
        assert list(found) == ["a", "b", "c"]
        assert type(found["a"]) is float
        assert found["b"].tolist() == [[1, 2], [3, 4]]
        assert found["c"].tolist() == [5, 6, 7]
        assert type(SCALAR.unpack(np.ones(1))) is float
        assert Components(None, ((1,),)).unpack(np.ones(1)).shape == (1,)
        assert Components(("a", "b"), ((0,), ())).unpack(np.ones(1))["a"].shape == (0,)

    def test_unpacked_are_copies(self):
        values = np.zeros(8)
        MIXED.unpack(values)["b"][:] = 1
        assert not values.any()

    @pytest.mark.parametrize(
        ("keys", "shapes"),
        [
            (None, ()),
            (None, ((), ())),
            (("a",), ()),
            ((), ()),
            (("a", "a"), ((), ())),
            (None, ((0,),)),
            (None, ((-1, -1),)),
        ],
    )
    def test_refused(self, keys, shapes):
        with pytest.raises(ValueError, match="must"):
            Components(keys, shapes)

    def test_keys_are_strings(self):
        with pytest.raises(TypeError, match="keys must be strings"):
            Components((1,), ((),))


class TestAverage:
    @given(
        st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 9), st.floats(1e-3, 1e3)), min_size=1, max_size=9)
    )
    def test_weights(self, rows):
        found = result(*(iteration(mean, sdev, weight=weight) for mean, sdev, weight in rows))
        means, sdevs, weights = np.transpose(rows)
        assert found.mean == pytest.approx((weights * means).sum() / weights.sum(), abs=1e-12)
        variance = (weights**2 * sdevs**2).sum() / weights.sum() ** 2
        assert found.sdev == pytest.approx(math.sqrt(variance), abs=1e-12)
        assert found.covariance.shape == (1, 1)

    def test_vectors(self):
        found = random_result()
        used = found.history[1:]
        weights = np.array([one.weight for one in used])
        mean = np.average([one.mean for one in used], axis=0, weights=weights)
        covariance = np.einsum("i,ijk", weights**2, [one.covariance for one in used]) / weights.sum() ** 2
        np.testing.assert_allclose(found.covariance, covariance, rtol=1e-12)
        np.testing.assert_allclose(found.mean["b"], mean[1:5].reshape(2, 2), rtol=1e-12)
        np.testing.assert_allclose(found.sdev["c"], np.sqrt(np.diag(covariance)[5:]), rtol=1e-12)

    def test_unused_iterations_count_as_calls_alone(self):
        used = [iteration(1, 0.1, n_calls=100, ess=0.2), iteration(1.1, 0.1, n_calls=300, ess=0.6)]
        found = result(iteration(9, math.nan, is_used=False, weight=0, n_calls=7), *used)
        assert found.mean == pytest.approx(1.05)
        assert (found.n_calls, found.dof) == (407, 1)
        assert found.ess == pytest.approx(0.5)
        assert found.chi2 == pytest.approx(0.5)
        assert len(found.history) == 3

    def test_cannot_be_changed_through_what_it_gives(self):
        found = random_result()
        found.covariance[:] = 0
        found.mean["b"][:] = 0
        assert found.covariance.any()
        assert found.mean["b"].all()

    @pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
    def test_weights_are_above_zero(self, weight):
        with pytest.raises(ValueError, match="the weight of iteration 2 must be above 0"):
            result(iteration(1, 1), iteration(1, 1, weight=weight))

    @pytest.mark.parametrize("weight", [1e308, 1e-308])
    def test_extreme_weights(self, weight):
        found = result(*(iteration(mean, 1, weight=weight) for mean in (1, 2)))
        assert (found.mean, found.sdev) == (1.5, pytest.approx(math.sqrt(0.5)))

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"bounds": [0, 1]}, r"bounds must have shape \(2, 2\), found \(2,\)"),
            ({"components": MIXED}, r"must have shapes \(8,\) and \(8, 8\), or \(8,\) twice, found \(1,\)"),
        ],
    )
    def test_shapes(self, options, match):
        with pytest.raises(ValueError, match=match):
            result(iteration(1, 1), **options)

    @pytest.mark.parametrize("history", [[], [iteration(1, 1, is_used=False)]])
    def test_needs_a_used_iteration(self, history):
        with pytest.raises(ValueError, match="needs an iteration that is used"):
            result(*history)


class TestErrorDof:
    @given(
        st.lists(st.tuples(*[st.floats(1e-3, 1e3)] * 2, st.integers(1, 50)), min_size=1, max_size=5),
        st.sampled_from([1e-100, 1.0, 1e100]),
    )
    def test_is_that_of_welch_and_satterthwaite(self, parts, unit):
        found = result(*(iteration(1, s * unit, weight=w, error_dof=n) for s, w, n in parts)).error_dof
        variances = [Fraction(s * w) ** 2 for s, w, _ in parts]
        parts_of_dof = (v**2 / n for v, (*_, n) in zip(variances, parts, strict=True))
        assert found == pytest.approx(float(sum(variances) ** 2 / sum(parts_of_dof)), rel=1e-9)
        fewest = min(n for *_, n in parts)
        assert fewest * (1 - 1e-9) <= found <= sum(n for *_, n in parts) * (1 + 1e-9)

    def test_the_fewest_of_the_components(self):
        pair = Components(None, ((2,),))
        first, second = iteration([1, 1], [1, 2], error_dof=15), iteration([1, 1], [1, 0], error_dof=15)
        assert result(first, second, components=pair).error_dof == pytest.approx(15)

    @pytest.mark.parametrize("sdev", [0, np.inf])
    def test_where_errors_say_nothing(self, sdev):
        assert result(iteration(1, sdev, error_dof=9), iteration(1, sdev, error_dof=5)).error_dof == 5

    @pytest.mark.parametrize(("dof", "is_told"), [(9, True), (29.4, True), (31, False), (np.inf, False)])
    def test_is_told_where_there_are_few(self, dof, is_told):
        text = result(iteration(1, 0.1, error_dof=dof)).summary()
        assert (f"the error is that of Student's t with {dof:.0f} degrees of freedom" in text) == is_told

    def test_error_is_the_standard_deviation_of_students_t(self):
        values = []
        found = vf.integrate(lambda x: values.append(x[:, 0]) or x[:, 0], 1, n_calls=128, seed=1)
        blocks = np.concatenate(values).reshape(16, 8).mean(axis=1)
        assert found.error_dof == 15
        assert found.sdev == pytest.approx(blocks.std(ddof=1) / np.sqrt(16) * stats.t(15).std(), rel=1e-9)


class TestChi2:
    def test_of_one_iteration(self):
        found = of_scalars((1, 0.1))
        assert (found.chi2, found.dof) == (0.0, 0)
        assert math.isnan(found.Q)

    @given(st.lists(st.tuples(st.floats(-9, 9), st.floats(1e-3, 9)), min_size=2, max_size=9))
    def test_scalars(self, pairs):
        found = of_scalars(*pairs)
        means, sdevs = np.transpose(pairs)
        common = np.average(means, weights=sdevs**-2.0)
        assert found.chi2 == pytest.approx((((means - common) / sdevs) ** 2).sum(), rel=1e-6, abs=1e-9)
        assert found.dof == len(pairs) - 1
        assert pytest.approx(stats.chi2.sf(found.chi2, found.dof), rel=1e-9) == found.Q

    @pytest.mark.parametrize("scale", [1e-120, 1.0, 1e120])
    def test_vectors(self, scale):
        """In whatever units the components are."""
        units, part = np.geomspace(1, scale, MAX_DIRECTIONS), slice(MAX_DIRECTIONS)
        history = random_result().history
        scaled = result(
            *(
                iteration(
                    one.mean[part] * units, covariance=one.covariance[part, part] * np.outer(units, units)
                )
                for one in history
            ),
            components=Components(None, ((MAX_DIRECTIONS,),)),
        )
        inverses = [np.linalg.inv(one.covariance[part, part]) for one in history]
        pulls = sum(inverse @ one.mean[part] for inverse, one in zip(inverses, history, strict=True))
        common = np.linalg.solve(sum(inverses), pulls)
        expected = sum(
            (one.mean[part] - common) @ inverse @ (one.mean[part] - common)
            for inverse, one in zip(inverses, history, strict=True)
        )
        assert scaled.chi2 == pytest.approx(expected, rel=1e-6)
        assert scaled.dof == (len(history) - 1) * MAX_DIRECTIONS

    def test_many_components_with_covariances_of_few_batches(self):
        """Of 400, the covariances of 16 batches have a rank of 15."""
        rng, q = np.random.default_rng(1), []
        components = Components(None, ((400,),))
        for _ in range(40):
            batches = 1 + rng.normal(size=(2, 16, 400))
            history = [iteration(one.mean(axis=0), covariance=np.cov(one.T) / 16) for one in batches]
            found = result(*history, components=components)
            assert found.dof == MAX_DIRECTIONS
            q.append(found.Q)
        assert np.mean(np.array(q) < 1e-3) < 0.1

    @pytest.mark.parametrize("is_dependent", [False, True])
    def test_distribution(self, is_dependent):
        """Q is uniform where the errors are right; a component that follows from others changes nothing."""
        rng = np.random.default_rng(5)
        root = np.array([[1, 0], [0.8, 0.1]])
        mix = np.array([[1, 0], [0, 1e-5], [1, 1e-5]]) if is_dependent else np.eye(2)
        components = Components(None, ((len(mix),),))
        found = []
        for _ in range(400):
            sizes = rng.uniform(0.5, 2, 4)
            history = []
            for size in sizes:
                samples = rng.normal(size=2) @ root.T * size + [100, 3]
                covariance = mix @ root @ root.T @ mix.T * size**2
                history.append(iteration(mix @ samples, covariance=covariance))
            found.append(result(*history, components=components))
        assert {one.dof for one in found} == {6}
        assert stats.kstest([one.Q for one in found], "uniform").pvalue > 0.01
        assert np.mean([one.chi2 for one in found]) == pytest.approx(6, abs=4 * math.sqrt(12 / 400))

    def test_errors_too_small_are_found(self):
        rng = np.random.default_rng(6)
        found = of_scalars(*((mean, 0.5) for mean in rng.normal(1, 1, 50)))
        assert found.Q < 1e-4

    @pytest.mark.parametrize("value", [0.0, 0.1, -1e-200, 1e200])
    @pytest.mark.parametrize("components", [SCALAR, MIXED])
    def test_constant_functions(self, value, components):
        """Means of a constant differ by rounding, while their variance is exactly zero."""
        m = components.size
        means = [value, value * (1 + 1e-15), value * (1 - 3e-16)]
        found = result(*(iteration([mean] * m, [0] * m) for mean in means), components=components)
        assert found.chi2 == pytest.approx(0, abs=1e-4)
        assert found.dof == 2 * min(m, MAX_DIRECTIONS)
        assert pytest.approx(1) == found.Q
        assert str(of_scalars((0.1, 0), (0.1, 0))) == "0.1(0)"

    def test_constants_that_differ(self):
        found = of_scalars((1, 0), (1.001, 0))
        assert found.chi2 > 1e6
        assert found.Q == 0

    @pytest.mark.parametrize("components", [SCALAR, Components(None, ((2,),))])
    def test_an_iteration_that_missed_f(self, components):
        """Zero variance in one iteration pins the common mean there, and the others deviate from it."""
        others = [1] * (components.size - 1)
        history = [iteration([0, *others], [0, *others]), iteration([1, *others], [0.5, *others])]
        found = result(*history, components=components)
        assert found.chi2 == pytest.approx(4, rel=1e-6)
        assert found.dof == components.size

    def test_components_that_move_together_in_one_iteration(self):
        components = Components(None, ((2,),))
        history = [
            iteration([1, 1], covariance=np.full((2, 2), 0.01)),
            iteration([1.1, 0.9], covariance=np.diag([0.01, 0.01])),
        ]
        found = result(*history, components=components)
        assert found.chi2 == pytest.approx(2, rel=1e-6)
        assert found.dof == 2

    def test_a_component_that_is_zero(self):
        components = Components(None, ((2,),))
        history = [iteration([mean, 0], [0.1, 0]) for mean in (1, 1.1)]
        found = result(*history, components=components)
        assert found.chi2 == pytest.approx(0.5)
        assert found.sdev.tolist() == [pytest.approx(0.1 / math.sqrt(2)), 0]

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_not_finite(self, bad):
        found = of_scalars((1, 0.1), (bad, 0.1))
        assert math.isnan(found.chi2)
        assert math.isnan(found.Q)
        assert found.dof == 1
        assert str(found).startswith(str(bad))
        found.summary()
        assert str(of_scalars((math.inf, 1), (-math.inf, 1))).startswith("nan")

    def test_variances_below_zero_by_rounding(self):
        found = result(*(iteration(1, covariance=[[-1e-30]]) for _ in range(2)))
        assert (found.sdev, found.chi2) == (0.0, 0.0)


class TestTables:
    def example(self, **options):
        return result(
            iteration(1.2, 0.3, is_used=False, n_calls=2000),
            iteration(1.0, 0.1),
            iteration(1.1, 0.1, n_calls=10_000, ess=0.75),
            **options,
        )

    def test_summary(self):
        assert self.example().summary().splitlines() == [
            "  itn  stage   integral  accumulated  chi2/dof     Q   calls    ess  seconds",
            "    1  survey  1.20(30)  -                   -     -   2,000  50.0%     0.25",
            "    2  refine  1.00(10)  1.00(10)            -     -   1,000  50.0%     0.25",
            "    3  refine  1.10(10)  1.050(71)         0.5  0.48  10,000  75.0%     0.25",
            "total                    1.050(71)         0.5  0.48  13,000  72.7%     0.75",
        ]

    def test_summary_of_vectors(self):
        found = random_result()
        lines = found.summary().splitlines()
        assert len(lines) == 6
        assert format_estimate(found.mean["a"], found.sdev["a"]) in lines[-1]
        assert f"{found.chi2 / (2 * MAX_DIRECTIONS):.3g}" in lines[-1]

    def test_html(self):
        text = self.example(warnings=["a < b & c"])._repr_html_()
        assert text.startswith("<p>integral: 1.050(71)</p><table><caption>Iterations</caption>")
        assert text.endswith("<ul><li>a &lt; b &amp; c</li></ul>")
        assert "<td>1.20(30)</td>" in text

    def test_names_of_components(self):
        assert SCALAR.names == [""]
        assert MIXED.names == ["a", "b 0,0", "b 0,1", "b 1,0", "b 1,1", "c 0", "c 1", "c 2"]
        values = np.arange(8.0)
        np.testing.assert_array_equal(MIXED.pack(MIXED.unpack(values)), values)
        np.testing.assert_array_equal(SCALAR.pack(3.0), [3.0])

    def test_gvar_stub(self, monkeypatch):
        class Variable:
            def __init__(self, *values):
                self.values = values

        def gvar(mean, covariance):
            pairs = zip(mean, np.sqrt(np.diag(covariance)), strict=True)
            return np.array([Variable(*pair) for pair in pairs], object)

        monkeypatch.setitem(sys.modules, "gvar", types.SimpleNamespace(gvar=gvar))
        found = random_result()
        converted = found.to_gvar()
        assert converted["a"].values == (found.mean["a"], found.sdev["a"])
        assert converted["b"].shape == (2, 2)
        assert converted["b"][1, 0].values == (found.mean["b"][1, 0], found.sdev["b"][1, 0])
        assert of_scalars((1, 0.5)).to_gvar().values == (1, 0.5)

    def test_gvar(self):
        gvar = pytest.importorskip("gvar")
        found = random_result()
        converted = found.to_gvar()
        np.testing.assert_allclose(gvar.mean(converted["b"]), found.mean["b"])
        flat = [converted["a"], *converted["b"].ravel(), *converted["c"]]
        np.testing.assert_allclose(gvar.evalcov(flat), found.covariance)
        assert of_scalars((1, 0.5)).to_gvar().sdev == 0.5
        assert of_scalars((1, 0)).to_gvar().sdev == 0

    def check_frame(self, columns):
        assert list(columns["itn"]) == [1, 2, 3]
        assert list(columns["stage"]) == ["survey", "refine", "refine"]
        assert list(columns["mean"]) == [1.2, 1.0, 1.1]
        np.testing.assert_allclose(list(columns["accumulated_mean"]), [np.nan, 1.0, 1.05])
        np.testing.assert_allclose(list(columns["accumulated_sdev"]), [np.nan, 0.1, math.sqrt(0.005)])
        np.testing.assert_allclose(list(columns["chi2"]), [np.nan, 0, 0.5])
        assert list(columns["dof"]) == [0, 0, 1]
        assert list(columns["n_calls"]) == [2000, 1000, 10_000]
        assert list(columns["is_used"]) == [False, True, True]

    def test_frame_stub(self, monkeypatch):
        def frame(rows):
            return {name: [row[name] for row in rows] for name in rows[0]}

        monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=frame))
        self.check_frame(self.example().to_frame())

    def test_frame(self):
        pytest.importorskip("pandas")
        self.check_frame(self.example().to_frame())

    @pytest.mark.parametrize(("name", "method"), [("gvar", "to_gvar"), ("pandas", "to_frame")])
    def test_missing_packages(self, monkeypatch, name, method):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=rf"Result\.{method} needs {name}: pip install {name}"):
            getattr(self.example(), method)()


class TestSource:
    def test_passed_on(self):
        class Source:
            def sample(self, n, *, unweight, seed):
                return n, unweight, seed

            def extend(self, n_calls):
                return n_calls

        found = result(iteration(1, 1), source=Source())
        assert found.sample(5) == (5, False, None)
        assert found.sample(5, unweight=True, seed=3) == (5, True, 3)
        with pytest.raises(ValueError, match="comm is for a result without an integrand"):
            found.sample(5, comm=object())
        assert found.extend(7) == 7

    def test_none(self):
        one = result(iteration(1, 1))
        with pytest.raises(
            RuntimeError, match=r"has no integrand: .*Integrator\(f, \.\.\., flow=result\.flow"
        ):
            one.extend(1)
        with pytest.raises(ValueError, match="unweight=True needs the integrand"):
            one.sample(1, unweight=True)


def assert_same(found, expected):
    assert found.components == expected.components
    assert found.warnings == expected.warnings
    assert found.n_invalid == expected.n_invalid
    assert found.defensive_share == expected.defensive_share
    assert found.lost == expected.lost
    assert found.flow.architecture == expected.flow.architecture
    pairs = [
        (found.bounds, expected.bounds),
        (found.flow.bounds, expected.flow.bounds),
        (found.flow.params, expected.flow.params),
    ]
    for one, other in zip(found.history, expected.history, strict=True):
        assert one.stage == other.stage
        for name in HISTORY:
            pairs.append((getattr(one, name), getattr(other, name)))
            assert type(pairs[-1][0]) is type(pairs[-1][1])
    for one, other in (map(np.asarray, pair) for pair in pairs):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def rich_result(**options):
    texts = ["zwölf ± 1", 'a "quoted"\nline']
    return random_result(defensive_share=0.1, n_invalid=3, lost=0.25, warnings=texts, **options)


def rewrite(path, change):
    """Write an archive again with its arrays, as bytes of their members, changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    seal(path)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header_of(members):
    return json.loads(np.load(io.BytesIO(members["header.npy"])).tobytes())


def change_header(path, **values):
    def change(members):
        text = json.dumps(header_of(members) | values)
        members["header.npy"] = npy(np.frombuffer(text.encode(), np.uint8))

    rewrite(path, change)


class TestFiles:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_round_trip(self, tmp_path, dtype):
        flow = Flow(d=3, cell="rqs", d_hidden=3, n_bins=3, dtype=dtype, seed=2, bounds=[1e-300, 0.1])
        found = random_result()
        found = Result(found.history, flow, components=MIXED, bounds=[[-np.inf, np.inf]] * 3, source=object())
        found.save(tmp_path / "r")
        loaded = Result.load(tmp_path / "r")
        assert_same(loaded, found)
        assert loaded.source is None
        assert [path.name for path in tmp_path.iterdir()] == ["r"]
        np.testing.assert_array_equal(loaded.flow.sample(10, seed=1)[0], flow.sample(10, seed=1)[0])

    def test_round_trip_of_everything(self, tmp_path):
        found = rich_result()
        found.save(tmp_path / "r.npz")
        loaded = Result.load(tmp_path / "r.npz")
        assert_same(loaded, found)
        assert str(loaded) == str(found)
        assert loaded.summary() == found.summary()
        assert (loaded.chi2, loaded.dof, loaded.Q) == (found.chi2, found.dof, found.Q)

    def test_values_that_are_not_finite(self, tmp_path):
        found = of_scalars((math.nan, math.inf), (-math.inf, 0), (-0.0, 5e-324))
        found.save(tmp_path / "r.npz")
        assert_same(Result.load(tmp_path / "r.npz"), found)

    def test_numpy_numbers(self, tmp_path):
        one = Iteration("refine", np.int64(5), np.ones(1), np.ones((1, 1)), np.float64(1), 0.0, np.True_, 1)
        result(one).save(tmp_path / "r.npz")
        assert Result.load(tmp_path / "r.npz").history[0].n_calls == 5

    def test_of_version_5(self, tmp_path):
        found = rich_result()
        found.save(tmp_path / "r.npz")
        change_header(tmp_path / "r.npz", version=5)
        rewrite(tmp_path / "r.npz", lambda members: members.pop("error_dof.npy"))
        loaded = Result.load(tmp_path / "r.npz")
        assert loaded.error_dof == math.inf
        assert str(loaded) == str(found)

    def test_no_pickle(self, tmp_path):
        found = rich_result()
        found.save(tmp_path / "r.npz")
        with np.load(tmp_path / "r.npz", allow_pickle=False) as archive:
            assert {archive[name].dtype.kind for name in archive.files} == set("uifb")
        path = tmp_path / "r.npz"
        objects = io.BytesIO()
        np.save(objects, np.array([None]), allow_pickle=True)
        rewrite(path, lambda members: members.update({"mean.npy": objects.getvalue()}))
        with pytest.raises(FileFormatError, match="Object arrays cannot be loaded"):
            Result.load(path)
        path.write_bytes(pickle.dumps(1))
        with pytest.raises(FileFormatError, match="is not an npz file"):
            Result.load(path)

    def test_lost_parts_are_seen(self, tmp_path):
        path, found = tmp_path / "r.npz", rich_result()
        found.save(path)
        whole = path.read_bytes()
        for name in [*HISTORY, "params", "bounds", "header"]:
            path.write_bytes(whole)
            rewrite(path, lambda members, name=name: members.pop(f"{name}.npy"))
            with pytest.raises(FileFormatError, match=r"r\.npz is not a.* result"):
                Result.load(path)
        for name in HISTORY:
            path.write_bytes(whole)
            shorter = npy(np.array([getattr(one, name) for one in found.history[:-1]]))
            rewrite(path, lambda members, name=name, data=shorter: members.update({f"{name}.npy": data}))
            with pytest.raises(FileFormatError, match=rf"{name} must be \w+ of shape \(4,"):
                Result.load(path)

    @pytest.mark.parametrize(
        ("values", "match"),
        [
            (
                {"version": 8},
                "r.npz has version 8, but this varflow understands 1 and 2 and 3 and 4 and 5 and 6 and",
            ),
            ({"version": None}, "r.npz has version None, but"),
            ({"format": "other"}, "r.npz: format must be 'varflow result', found 'other'"),
            ({"flow": {}}, "r.npz is not a complete result file: 'architecture'"),
            ({"keys": ["a"]}, "shapes must be one for each key"),
            ({"shapes": [[], [2, 2], [4]]}, "must be float64 of shape"),
            ({"stages": ["refine"]}, "n_calls must be int64 of shape"),
            ({"stages": 3}, "is not a complete result file"),
            ({"n_invalid": "many"}, "is not a complete result file"),
            ({"warnings": None}, "is not a complete result file"),
        ],
    )
    def test_headers(self, tmp_path, values, match):
        rich_result().save(tmp_path / "r.npz")
        change_header(tmp_path / "r.npz", **values)
        with pytest.raises(FileFormatError, match=match) as error:
            Result.load(tmp_path / "r.npz")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("text", [b"{", b"[1]", b"null", b"[" * 100_000, b"\xff"])
    def test_header_is_not_json(self, tmp_path, text):
        path = tmp_path / "r.npz"
        rich_result().save(path)
        data = npy(np.frombuffer(text, np.uint8))
        rewrite(path, lambda members: members.update({"header.npy": data}))
        with pytest.raises(
            FileFormatError, match=r"r\.npz: header (is not JSON|must be a JSON object)"
        ) as error:
            Result.load(path)
        assert "\n" not in str(error.value)

    def test_header_is_not_bytes(self, tmp_path):
        path = tmp_path / "r.npz"
        rich_result().save(path)
        rewrite(path, lambda members: members.update({"header.npy": npy(np.zeros(2))}))
        with pytest.raises(FileFormatError, match="header must be bytes, found float64"):
            Result.load(path)

    def test_other_files(self, tmp_path):
        path = tmp_path / "r.npz"
        with pytest.raises(FileNotFoundError, match=r"r\.npz"):
            Result.load(path)
        FLOW.save(path)
        with pytest.raises(FileFormatError, match="must be 'varflow result', found 'varflow flow'"):
            Result.load(path)
        rich_result().save(path)
        with pytest.raises(FileFormatError, match="must be 'varflow flow', found 'varflow result'"):
            Flow.load(path)
        np.savez(path, x=np.zeros(2))
        with pytest.raises(FileFormatError, match=r"r\.npz is not a varflow result: it holds x"):
            Result.load(path)
        path.write_text("text")
        with pytest.raises(FileFormatError, match="is not an npz file"):
            Result.load(path)

    def test_the_old_file_stays_where_saving_fails(self, tmp_path, monkeypatch):
        path = tmp_path / "r.npz"
        path.write_text("old")
        flow = FLOW.copy()
        flow.params[0] = np.nan
        with pytest.raises(ValueError, match="params must be finite"):
            Result([iteration(1, 1)], flow, components=SCALAR, bounds=flow.bounds).save(path)
        with pytest.raises(TypeError, match="not JSON serializable"):
            result(iteration(1, 1), warnings=[object()]).save(path)

        def write_half(temporary, arrays):
            temporary.write_text("half")
            raise OSError("disk full")

        monkeypatch.setattr("varflow.runtime.archive.write_npz", write_half)
        with pytest.raises(OSError, match="disk full"):
            rich_result().save(path)
        assert path.read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]
