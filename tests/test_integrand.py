"""Integrands: f is called as it expects, and what it returns is checked, counted and given its form."""

import math
import os
import pickle
import re
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varflow.errors import InvalidIntegrandError
from varflow.integration.calls import _compiled_loop
from varflow.integration.components import Components
from varflow.integration.domain import Domain
from varflow.integration.integrand import Integrand

# Python 3.12 warns of a fork beside threads, which other tests may have left waiting.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

N, D = 100, 3
INF = math.inf
HAS_NOTES = sys.version_info >= (3, 11)


@pytest.fixture
def u():
    points = np.random.default_rng(1).random((N, D))
    return points[np.argsort(points[:, 0])]  # so that what fails for large x does not fail at the first point


def scalar(x):
    return np.sin(x[:, 0]) * x[:, 1] + x[:, 2] ** 2


def vector(x):
    return np.cos(x)[:, :2]


def tensor(x):
    return x[:, :2, None] * x[:, None, :]


def mixed(x):
    return {"total": scalar(x), "parts": tensor(x)}


def scalar_at(point):
    return math.sin(point[0]) * point[1] + point[2] ** 2


def mixed_at(point):
    return {"total": scalar_at(point), "parts": np.outer(point[:2], point)}


def fails(x):
    raise KeyError("the user's own")


def fails_above_half(point):
    if point[0] > 0.5:
        raise ValueError("above")
    return 1.0


def says_whether_writable(x):
    return np.full(len(x), x.flags.writeable or not x.flags.c_contiguous or x.dtype != np.float64)


def says_process(x):
    return np.full(len(x), os.getpid())


def ends_its_process(x):
    os._exit(3)


class Unpicklable(Exception):  # noqa: N818
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def raises_unpicklable(x):
    raise Unpicklable(1, 2)


class OnlyHere:
    """A function that no other process can read."""

    def __init__(self):
        self.home = os.getpid()

    def __call__(self, x):
        return x[:, 0]

    def __setstate__(self, state):
        raise AttributeError("not at home")


class TestForms:
    def test_scalar(self, u):
        integrand = Integrand(scalar, Domain(D))
        assert (integrand.m, integrand.components, integrand.n_calls) == (None, None, 0)
        values = integrand(u)
        np.testing.assert_array_equal(values, scalar(u)[:, None])
        assert values.dtype == np.float64
        assert (integrand.m, integrand.components) == (1, Components(None, ((),)))
        integrand(u)
        assert (integrand.n_calls, integrand.n_invalid) == (2 * N, 0)
        assert integrand.components.unpack(values[4]) == scalar(u)[4]

    @pytest.mark.parametrize(("f", "shape"), [(vector, (2,)), (tensor, (2, 3)), (lambda x: x[:, :1], (1,))])
    def test_arrays(self, u, f, shape):
        integrand = Integrand(f, Domain(D))
        values = integrand(u)
        assert values.shape == (N, math.prod(shape))
        assert (integrand.m, integrand.components) == (math.prod(shape), Components(None, (shape,)))
        np.testing.assert_array_equal(integrand.components.unpack(values[0]), f(u)[0])

    @pytest.mark.parametrize(("f", "vectorized"), [(mixed, True), (mixed_at, False)])
    def test_dicts(self, u, f, vectorized):
        integrand = Integrand(f, Domain(D), vectorized=vectorized)
        values = integrand(u)
        assert values.shape == (N, 7)
        assert (integrand.m, integrand.components) == (7, Components(("total", "parts"), ((), (2, 3))))
        unpacked = integrand.components.unpack(values[3])
        assert unpacked["total"] == pytest.approx(scalar(u)[3], rel=1e-15)
        np.testing.assert_array_equal(unpacked["parts"], tensor(u)[3])

    def test_order_of_keys_may_change(self, u):
        orders = iter([("a", "b"), ("b", "a")])
        integrand = Integrand(lambda x: {key: x[:, ord(key) - ord("a")] for key in next(orders)}, Domain(D))
        np.testing.assert_array_equal(integrand(u), integrand(u))
        assert integrand.components.keys == ("a", "b")

    @pytest.mark.parametrize(
        "f", [scalar_at, lambda point: point[:2] * 2, lambda point: np.outer(point, point)]
    )
    def test_one_point_at_a_time(self, u, f):
        values = Integrand(f, Domain(D), vectorized=False)(u)
        np.testing.assert_array_equal(values, [np.ravel(f(point)) for point in u])

    @pytest.mark.parametrize("dtype", [bool, np.int8, np.float32, np.longdouble, ">f8"])
    def test_converts_other_numbers(self, u, dtype):
        expected = (u[:, 0] > 0.5).astype(dtype)
        values = Integrand(lambda x: expected, Domain(D))(u)
        assert values.dtype == np.dtype(float)
        np.testing.assert_array_equal(values[:, 0], expected)

    def test_returns_a_copy(self, u):
        kept = np.ones(N)
        values = Integrand(lambda x: kept, Domain(D))(u)
        values[:] = 7.0
        assert (kept == 1.0).all()
        same = u.copy()
        Integrand(lambda x: x[:, 0], Domain(D))(u)[:] = 7.0
        np.testing.assert_array_equal(u, same)


class TestArguments:
    @pytest.mark.parametrize(("vectorized", "bounds"), [(True, D), (True, [(-1, 2)] * D), (False, D)])
    def test_x_is_read_only(self, u, vectorized, bounds):
        def f(x):
            assert x.flags.c_contiguous
            assert x.dtype == np.float64
            with pytest.raises(ValueError, match="read-only"):
                x[...] = 0.0
            return 1.0 if x.ndim == 1 else np.ones(len(x))

        Integrand(f, Domain(bounds), vectorized=vectorized)(np.asfortranarray(u))
        assert u.flags.writeable

    @pytest.mark.parametrize(
        ("kwargs", "error", "match"),
        [
            ({"f": 3}, TypeError, "^f must be callable, found 3"),
            (
                {"workers": True},
                TypeError,
                "^workers must be an int, a callable like map, a conc.*, found True",
            ),
            (
                {"workers": 2.0},
                TypeError,
                "^workers must be an int, a callable like map, .*Client, found 2.0",
            ),
            ({"workers": 0}, ValueError, "^workers must be -1, or 1 and more, found 0"),
            ({"workers": -2}, ValueError, "^workers must be -1, or 1 and more, found -2"),
            ({"on_invalid": "zeros"}, ValueError, "on_invalid must be one of .* did you mean 'zero'"),
        ],
    )
    def test_refused(self, kwargs, error, match):
        with pytest.raises(error, match=match):
            Integrand(**{"f": scalar, "domain": Domain(D)} | kwargs)

    def test_u_is_checked(self, u):
        with pytest.raises(ValueError, match="u must lie within bounds"):
            Integrand(scalar, Domain(D))(u + 1)


class TestReturned:
    @pytest.mark.parametrize(
        ("f", "error", "match"),
        [
            (
                lambda x: np.ones(4),
                ValueError,
                "f must return an array of shape (100,) or (100, m), got (4,)",
            ),
            (lambda x: 1.0, ValueError, "got (); for a function of one point, give vectorized=False"),
            (lambda x: np.ones((N, 0)), ValueError, "got (100, 0)"),
            (lambda x: {"a": x[:, 0], "b": x[0]}, ValueError, "(100, m) under 'b', got (3,)"),
            (lambda x: {}, ValueError, "f must return a dict of one array at least, got an empty one"),
            (lambda x: {"a": x[:, 0], 7: x}, TypeError, "must return a dict with strings for keys, got 7"),
            (lambda x: x[:, 0] + 0j, TypeError, "f must return real numbers, got dtype complex128"),
            (lambda x: {"a": x[:, 0] + 0j}, TypeError, "real numbers under 'a', got dtype complex128"),
            (lambda x: None, TypeError, "f must return real numbers, got None"),
            (lambda x: ["a"] * N, TypeError, "f must return real numbers, got dtype <U1"),
            (lambda x: np.ma.asarray(x), TypeError, "f must return an array that is not masked"),
            (lambda x: {"a": np.ma.asarray(x)}, TypeError, "an array that is not masked under 'a'"),
            (lambda x: [[1], [1, 2]], ValueError, "f must return an array, or the same shape at every point"),
        ],
    )
    def test_refused(self, u, f, error, match):
        integrand = Integrand(f, Domain(D))
        with pytest.raises(error, match=re.escape(match)):
            integrand(u)
        assert integrand.n_calls == 0

    @pytest.mark.parametrize(
        ("f", "error", "match"),
        [
            (lambda point: np.ones(1 + (point[0] > 0.5)), ValueError, "the same shape at every point"),
            (lambda point: 1j, TypeError, "f must return real numbers, got dtype complex128"),
            (
                lambda point: np.ma.masked_less(point, 0.5),
                TypeError,
                "must return an array that is not masked",
            ),
            (lambda point: None if point[0] > 0.5 else 1.0, TypeError, "real numbers, got dtype object"),
            (lambda point: [], ValueError, "f must return one number at least, got shape (0,)"),
            (lambda point: {}, ValueError, "got an empty one"),
            (lambda point: {"a": 1.0} if point[0] > 0.5 else 1.0, ValueError, "the same keys at every point"),
            (lambda point: {str(point[0] > 0.5): 1.0}, ValueError, "the same keys at every point"),
            (lambda point: {0.5: 1.0}, TypeError, "f must return a dict with strings for keys, got 0.5"),
            (lambda point: {"a": "b"}, TypeError, "real numbers under 'a', got dtype <U1"),
        ],
    )
    def test_refused_at_one_point(self, u, f, error, match):
        with pytest.raises(error, match=re.escape(match)):
            Integrand(f, Domain(D), vectorized=False)(u)

    @pytest.mark.parametrize(
        ("second", "match"),
        [
            (vector, "got shape (2,), before shape ()"),
            (mixed, "got a dict of shapes {'total': (), 'parts': (2, 3)}, before shape ()"),
        ],
    )
    def test_shape_must_not_change(self, u, second, match):
        functions = iter([scalar, second])
        integrand = Integrand(lambda x: next(functions)(x), Domain(D))
        integrand(u)
        with pytest.raises(ValueError, match="f must return the same at every call: " + re.escape(match)):
            integrand(u)
        assert integrand.n_calls == N


class TestInvalid:
    def f(self, x):
        with np.errstate(divide="ignore"):
            return np.where(x[:, 0] > 0.5, np.nan, 2.0)

    def test_raises_at_the_first_point(self, u):
        integrand = Integrand(self.f, Domain([(0, 2), (0, 1), (0, 1)]))
        x = u * [2, 1, 1]
        n_bad = int(np.sum(x[:, 0] > 0.5))
        first = x[np.argmax(x[:, 0] > 0.5)]
        with pytest.raises(InvalidIntegrandError) as caught:
            integrand(u)
        assert isinstance(caught.value, ValueError)
        assert str(caught.value) == (
            f"f is nan at x = {first.tolist()}; {n_bad} of 100 points are not finite "
            '(on_invalid="zero" takes such values as 0)'
        )
        np.testing.assert_array_equal(caught.value.x, first)
        assert (integrand.n_calls, integrand.n_invalid) == (N, n_bad)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(caught.value)).x, first)

    def test_shows_values_as_f_returns_them(self, u):
        with pytest.raises(InvalidIntegrandError, match=r"^f is \{'a': 1.0, 'b': inf\} at x = \["):
            Integrand(lambda x: {"a": np.ones(N), "b": np.full(N, INF)}, Domain(D))(u)

    def test_zero_keeps_the_finite_components(self, u):
        integrand = Integrand(
            lambda x: np.stack([self.f(x), np.full(N, 3.0)], axis=1), Domain(D), on_invalid="zero"
        )
        values = integrand(u)
        bad = u[:, 0] > 0.5
        np.testing.assert_array_equal(values[:, 0], np.where(bad, 0.0, 2.0))
        np.testing.assert_array_equal(values[:, 1], 3.0)
        assert (integrand.n_calls, integrand.n_invalid) == (N, bad.sum())

    def test_jacobian_that_overflows(self):
        domain = Domain([(-INF, INF)] * 2)
        corner = np.array([[0.5, 0.5], [0.0, 0.0]])
        with pytest.raises(
            InvalidIntegrandError, match=r"^f times the Jacobian .* overflows at .*, where f is 2.0; 1 of 2"
        ):
            Integrand(lambda x: np.full(2, 2.0), domain)(corner)
        zeroed = Integrand(lambda x: np.full(2, 2.0), domain, on_invalid="zero")
        np.testing.assert_array_equal(zeroed(corner), [[2.0 * 16], [0.0]])
        assert zeroed.n_invalid == 1

    def test_a_small_value_outweighs_a_large_jacobian(self):
        domain = Domain([(-INF, INF)])
        far = [[1e-200]]  # where the Jacobian is 0.5e400
        assert Integrand(lambda x: np.full(1, 1e-300), domain)(far)[0, 0] == pytest.approx(0.5e100)
        assert Integrand(lambda x: np.zeros(1), domain)(far)[0, 0] == 0.0


class TestJacobian:
    @given(st.floats(0.001, 1000.0), st.floats(-1e300, 1e300))
    def test_is_a_factor(self, width, value):
        values = Integrand(lambda x: np.full(1, value), Domain([(0.0, width)] * 2))([[0.5, 0.5]])
        assert values[0, 0] == pytest.approx(value * width * width, rel=1e-14)

    def test_powers_of_two_are_exact(self, u):
        values = Integrand(scalar, Domain([(0, 4), (0, 1), (0, 1)]))(u)
        np.testing.assert_array_equal(values[:, 0], 4 * scalar(u * [4, 1, 1]))

    def test_integrates_over_the_line(self):
        grid = (np.arange(1000)[:, None] + 0.5) / 1000
        integrand = Integrand(lambda x: np.exp(-np.abs(x[:, 0])), Domain([(-INF, INF)]))
        assert integrand(grid).mean() == pytest.approx(2.0, rel=1e-4)


class TestErrorsOfF:
    def test_own_exception_and_traceback(self, u):
        with pytest.raises(KeyError, match="the user's own") as caught:
            Integrand(fails, Domain(D))(u)
        np.testing.assert_array_equal(caught.value.x, u)
        assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fails"
        if HAS_NOTES:
            note = f"varflow called f with x of shape (100, 3), first point {u[0].tolist()}"
            assert caught.value.__notes__ == [note]

    def test_at_one_point(self, u):
        integrand = Integrand(fails_above_half, Domain(D), vectorized=False)
        with pytest.raises(ValueError, match="above") as caught:
            integrand(u)
        first = u[np.argmax(u[:, 0] > 0.5)]
        np.testing.assert_array_equal(caught.value.x, first)
        if HAS_NOTES:
            assert f"of shape (3,), first point {first.tolist()}" in caught.value.__notes__[0]
        assert integrand.n_calls == 0

    def test_an_x_of_its_own_is_kept(self, u):
        def f(x):
            error = ValueError("mine")
            error.x = "mine"
            raise error

        with pytest.raises(ValueError, match="mine") as caught:
            Integrand(f, Domain(D))(u)
        assert caught.value.x == "mine"

    def test_class_without_room_for_x(self, u):
        class Closed(Exception):  # noqa: N818
            def __setattr__(self, name, value):
                raise AttributeError(name)

        def f(x):
            raise Closed("as it was")

        with pytest.raises(Closed, match="as it was"):
            Integrand(f, Domain(D))(u)

    def test_stop_iteration_is_no_end(self, u):
        with pytest.raises(StopIteration):
            Integrand(lambda x: next(iter(())), Domain(D))(u)


@numba.njit
def compiled(point):
    if point[0] > 2.0:
        raise ValueError("above")
    return math.sin(point[0]) * point[1] + point[2] ** 2


@numba.njit("float64(float64[:])")
def compiled_for_one_type(point):
    point[0] += 1.0
    return point[0]


@numba.njit
def compiled_vector(point):
    return 2 * point


class TestNumba:
    def test_loop_is_compiled_and_knows_where_f_fails(self, u):
        for workers in (1, map):
            integrand = Integrand(compiled, Domain(D), vectorized=False, workers=workers)
            np.testing.assert_allclose(integrand(u)[:, 0], scalar(u), rtol=1e-14)
        assert _compiled_loop(compiled) is _compiled_loop(compiled)
        failing = Integrand(compiled, Domain([(0, 4), (0, 1), (0, 1)]), vectorized=False)
        x = u * [4, 1, 1]
        with pytest.raises(ValueError, match="above") as caught:
            failing(u)
        np.testing.assert_array_equal(caught.value.x, x[np.argmax(x[:, 0] > 2)])

    def test_one_point_alone(self, u):
        values = Integrand(compiled, Domain(D), vectorized=False)(u[:1])
        assert values[0, 0] == pytest.approx(scalar(u)[0], rel=1e-14)

    def test_function_compiled_for_writable_arrays(self, u):
        before = u.copy()
        values = Integrand(compiled_for_one_type, Domain(D), vectorized=False)(u)
        np.testing.assert_array_equal(values[1:, 0], before[1:, 0] + 1.0)
        np.testing.assert_array_equal(u, before)

    def test_function_of_an_array(self, u):
        values = Integrand(compiled_vector, Domain(D), vectorized=False)(u)
        np.testing.assert_array_equal(values, 2 * u)


class TestWorkers:
    @pytest.mark.parametrize("f", [scalar, mixed])
    def test_threads_give_the_same_bits(self, u, f):
        domain = Domain([(0, INF), (-1, 1), (-INF, INF)])
        expected = Integrand(f, domain)(u)
        with ThreadPoolExecutor(2) as executor:
            integrand = Integrand(f, domain, workers=executor.map)
            np.testing.assert_array_equal(integrand(u), expected)
            np.testing.assert_array_equal(integrand(u[:1]), expected[:1])
            assert integrand.n_calls == N + 1

    def test_processes_give_the_same_bits(self, u):
        domain = Domain([(0, INF), (-1, 1), (-INF, INF)])
        with Integrand(mixed, domain, workers=2) as integrand:
            np.testing.assert_array_equal(integrand(u), Integrand(mixed, domain)(u))
            np.testing.assert_array_equal(integrand(u[:3]), Integrand(mixed, domain)(u[:3]))
            assert integrand.n_calls == N + 3
            assert integrand.components == Components(("total", "parts"), ((), (2, 3)))

    def test_processes_are_others_and_are_kept(self, u):
        with Integrand(says_process, Domain(D), workers=2) as integrand:
            ids = {int(value) for value in np.concatenate([integrand(u) for _ in range(3)])[:, 0]}
        assert os.getpid() not in ids
        assert len(ids) <= 2
        integrand.close()  # a second time, in vain

    def test_minus_one_is_all_cores(self, u, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        values = Integrand(says_process, Domain(D), workers=-1)(u)
        assert (values == os.getpid()).all()

    def test_x_is_read_only_in_processes(self, u):
        with Integrand(says_whether_writable, Domain(D), workers=2) as integrand:
            assert not integrand(u).any()

    def test_one_point_at_a_time_in_processes(self, u):
        with Integrand(scalar_at, Domain(D), vectorized=False, workers=2) as integrand:
            np.testing.assert_array_equal(integrand(u)[:, 0], [scalar_at(point) for point in u])

    def test_exceptions_come_back_from_processes(self, u):
        with Integrand(fails, Domain(D), workers=2) as integrand:
            with pytest.raises(KeyError, match="the user's own") as caught:
                integrand(u)
            block = caught.value.x
            np.testing.assert_array_equal(block, u[: len(block)])
            if HAS_NOTES:
                assert f"called f with x of shape {block.shape}" in caught.value.__notes__[0]
            assert "in fails" in str(caught.value.__cause__)
            assert integrand.n_calls == 0

    def test_exception_that_cannot_come_back(self, u):
        """Unless something has taught pickle to send it, as Dask does with all exceptions that it sees."""
        with (
            Integrand(raises_unpicklable, Domain(D), workers=2) as integrand,
            pytest.raises((RuntimeError, Unpicklable), match="1 and 2") as caught,
        ):
            integrand(u)
        if not isinstance(caught.value, Unpicklable):
            assert re.search(r"(?s)cannot be sent.*in raises_unpicklable", str(caught.value))

    def test_f_that_cannot_be_sent(self, u):
        match = "^f cannot be pickled.*top level of a module.*workers=concurrent.*ThreadPoolExecutor"
        with pytest.raises(TypeError, match=match):
            Integrand(lambda x: x[:, 0], Domain(D), workers=2)(u)
        with (
            Integrand(OnlyHere(), Domain(D), workers=2) as integrand,
            pytest.raises(TypeError, match=r"cannot be pickled.*not at home"),
        ):
            integrand(u)

    def test_process_that_dies(self, u):
        with Integrand(ends_its_process, Domain(D), workers=2) as integrand:
            for _ in range(2):  # neither hangs, nor is worse the second time
                with pytest.raises(BrokenProcessPool):
                    integrand(u)

    def test_map_that_loses_results(self, u):
        integrand = Integrand(scalar, Domain(D), workers=lambda function, blocks: [function(blocks[0])])
        with pytest.raises(ValueError, match=r"a result for each item: \d+ of 100 points came back"):
            integrand(u)
