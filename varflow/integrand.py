"""The user's function as a function on the unit cube: called, checked, spread over workers, and counted."""

import math
import pickle
import signal
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from numbers import Integral
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from numba.core.registry import CPUDispatcher

from varflow.dataset import read_only
from varflow.device_integrand import device_integrand, is_device_function
from varflow.domain import Domain
from varflow.errors import unknown_name
from varflow.parallel import default_threads

__all__ = ["Components", "Integrand", "InvalidIntegrandError"]

FloatArray = npt.NDArray[np.float64]
Shape = tuple[int, ...]
Values = FloatArray | dict[str, FloatArray]  # of the points of a block, along the first axis of each
Block = Callable[[FloatArray], Values]
Map = Callable[[Block, Iterable[FloatArray]], Iterable[Values]]

_ON_INVALID = ("raise", "zero")
_BLOCKS_PER_WORKER = 4  # so that a worker that is done early takes over from one that is slow


class InvalidIntegrandError(ValueError):
    """The function to be integrated is not finite at a point.

    Attributes
    ----------
    x : ndarray, (d,)
        The first such point.
    """

    x: FloatArray


@dataclass(frozen=True)
class Components:
    """What an integrand returns for a point, and where its parts are in a vector of all m components.

    Parameters
    ----------
    keys : tuple of str, or None
        Keys of the dict that the integrand returns, None if it returns a number or an array.
    shapes : tuple of tuple of int
        Shape of the value of each key, () for a number. One shape alone where there are no keys.

    Raises
    ------
    TypeError, ValueError
        If the shapes are not one for each key, or have no component, or a key is not a string.
    """

    keys: tuple[str, ...] | None
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.shapes) != (1 if self.keys is None else len(self.keys)):
            raise ValueError(f"shapes must be one for each key, got {self.shapes} for {self.keys}")
        if not all(isinstance(key, str) for key in self.keys or ()):
            raise TypeError(f"keys must be strings, got {self.keys}")
        if len(set(self.keys or ())) != len(self.keys or ()):
            raise ValueError(f"keys must differ, got {self.keys}")
        if min([n for shape in self.shapes for n in shape], default=1) < 0 or self.size < 1:
            raise ValueError(f"shapes must have a component at least, got {self.shapes}")

    @property
    def size(self) -> int:
        """Number m of components."""
        return sum(map(math.prod, self.shapes))

    def unpack(self, values: npt.NDArray[Any]) -> Any:
        """Give a vector of all components the form of what the integrand returns.

        Parameters
        ----------
        values : ndarray, (m,)
            One value for each component.

        Returns
        -------
        float, ndarray of the integrand's shape, or dict of these
            Copies of the values. An array of objects gives objects in place of floats.
        """
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = [
            part.reshape(shape).copy() if shape else part.item()
            for part, shape in zip(np.split(values, ends[:-1]), self.shapes, strict=True)
        ]
        return parts[0] if self.keys is None else dict(zip(self.keys, parts, strict=True))


class Integrand:
    """A function f(x) on a box as a function on the unit cube, f(x(u)) |dx/du|.

    It is a context manager, to end the processes it started.

    Parameters
    ----------
    f : callable
        Takes points, a read-only C-contiguous float64 array (n, d), and returns an array (n,) or (n, ...) of
        real numbers, or a dict of such arrays, with strings for keys. Or a device function of numba.cuda,
        which takes a point and returns a number; for others that work on a GPU, see `device_integrand`.
    domain : Domain
        The box that f is integrated over.
    vectorized : bool, optional
        False: f takes one point (d,), and returns a number, an array or a dict of these. Where it is a numba
        function of which the value is a number, the loop over the points is compiled.
    workers : int or callable, optional
        1: f is called in this process. More: in as many processes, which are started at the first call; f
        must then be picklable. -1: in as many processes as there are cores to use. A callable is used like
        `map`: ``workers(function, iterable)``, for instance the `map` of a pool of threads. Where f treats
        each point by itself, the values do not depend on the workers.
    on_invalid : {"raise", "zero"}, optional
        What becomes of values that are not finite: an exception, or 0.

    Attributes
    ----------
    n_calls : int
        How many points f has been evaluated at.
    n_invalid : int
        At how many of them it was not finite.

    Raises
    ------
    TypeError
        If `f` is not callable, or `workers` is neither an int nor callable.
    ValueError
        If `workers` is an int of no meaning, or `on_invalid` is not among the names above.
    """

    n_calls: int
    n_invalid: int

    def __init__(
        self,
        f: Callable[..., Any],
        domain: Domain,
        *,
        vectorized: bool = True,
        workers: int | Map = 1,
        on_invalid: str = "raise",
    ) -> None:
        if is_device_function(f):
            f = device_integrand(f)
        if not callable(f):
            raise TypeError(f"f must be callable, found {f!r}")
        if on_invalid not in _ON_INVALID:
            raise unknown_name("on_invalid", on_invalid, _ON_INVALID)
        self.domain = domain
        self.n_calls = self.n_invalid = 0
        self._f = f
        self._vectorized = vectorized
        self._workers = _checked_workers(workers)
        self._on_invalid = on_invalid
        self._pool: ProcessPoolExecutor | None = None
        self._shapes: Shape | dict[str, Shape] | None = None  # of f at one point

    def __enter__(self) -> "Integrand":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes that were started. A later call would start others."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    @property
    def components(self) -> Components | None:
        """What f returns; None before the first call. Keys are in the order of the first dict."""
        return None if self._shapes is None else _components(self._shapes)

    @property
    def m(self) -> int | None:
        """Number of components of f; None before the first call."""
        return None if self._shapes is None else _components(self._shapes).size

    def state(self) -> dict[str, Any]:
        """Give the counts and what f returns, in what JSON can hold; see `restore`."""
        found = self.components
        components = None if found is None else [found.keys, found.shapes]
        return {"n_calls": self.n_calls, "n_invalid": self.n_invalid, "components": components}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, as if f had been called before."""
        self.n_calls, self.n_invalid = int(state["n_calls"]), int(state["n_invalid"])
        if state["components"] is not None:
            keys, shapes = state["components"]
            shapes = [tuple(shape) for shape in shapes]
            self._shapes = shapes[0] if keys is None else dict(zip(keys, shapes, strict=True))

    def __call__(self, u: npt.ArrayLike) -> FloatArray:
        """Evaluate f(x(u)) |dx/du|.

        Parameters
        ----------
        u : array_like, (n, d)
            Points of the unit cube.

        Returns
        -------
        ndarray, (n, m)
            The values, a column for each component of f.

        Raises
        ------
        TypeError
            If f returns what is not real numbers, or a dict with keys that are not strings, or if f cannot
            be sent to other processes.
        ValueError
            If u is refused by `Domain.from_cube`, or f returns another shape than it should, or than before.
        InvalidIntegrandError
            If a value is not finite, and that is not taken as 0.
        Exception
            Whatever f raises, with an attribute `x`, the points (n, d), or the point (d,), that f was given.
        """
        x, log_jacobian = self.domain.from_cube(u)
        values, components = self._evaluate(read_only(x))
        product = _times_exp(values, log_jacobian)
        finite = np.isfinite(product)
        good: npt.NDArray[np.bool_] = np.logical_and.reduce(finite, axis=1)
        n_bad = len(good) - int(np.count_nonzero(good))
        self.n_calls += len(good)
        self.n_invalid += n_bad
        if n_bad and self._on_invalid == "raise":
            first = int(np.argmin(good))
            shown = components.unpack(values[first])
            raise _invalid(x[first].copy(), values[first], shown, n_bad, len(good))
        if n_bad:
            product[~finite] = 0.0
        return product

    def _evaluate(self, x: FloatArray) -> tuple[FloatArray, Components]:
        """Call f for all points, here or by the workers. Returns (n, m), and what a row holds."""
        blocks = [x]
        if self._workers != 1:
            n_workers = default_threads() if callable(self._workers) else self._workers
            blocks = np.array_split(x, min(len(x), n_workers * _BLOCKS_PER_WORKER))
        results = list(self._map(blocks))
        n_rows = sum(map(_n_rows, results))
        if n_rows != len(x):
            raise ValueError(
                f"workers must return a result for each item: {n_rows} of {len(x)} points came back"
            )
        components = self._checked_components(results)
        columns = [_columns(result, components.keys) for result in results]
        return columns[0] if len(columns) == 1 else np.concatenate(columns), components

    def _map(self, blocks: list[FloatArray]) -> Iterable[Values]:
        block = partial(_evaluate_block, self._f, self._vectorized)
        if callable(self._workers):
            return self._workers(block, blocks)
        if self._workers == 1:
            return [block(points) for points in blocks]
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers, initializer=_receive, initargs=(_pickled(self._f), self._vectorized)
            )
        try:
            return list(self._pool.map(_evaluate_received, blocks))
        except BrokenProcessPool:  # of no more use; a later call starts another
            self.close()
            raise

    def _checked_components(self, results: list[Values]) -> Components:
        """Check that f returned what it did at its first call, up to the order of keys."""
        known = self._shapes = _shapes(results[0]) if self._shapes is None else self._shapes
        for found in map(_shapes, results):
            if found != known:
                raise ValueError(
                    f"f must return the same at every call: got {_form(found)}, before {_form(known)}"
                )
        return _components(known)


def _invalid(x: FloatArray, value: FloatArray, shown: Any, n_bad: int, n: int) -> InvalidIntegrandError:
    """Build the error for a point x (d,), and what f is there, (m,) and as f returns it."""
    found = f"f is {shown} at x = {x.tolist()}"
    if np.isfinite(value).all():
        found = f"f times the Jacobian |dx/du| overflows at x = {x.tolist()}, where f is {shown}"
    error = InvalidIntegrandError(
        f'{found}; {n_bad} of {n} points are not finite (on_invalid="zero" takes such values as 0)'
    )
    error.x = x
    return error


def _checked_workers(workers: object) -> Any:
    """Check the argument: a callable, or the number of processes."""
    if callable(workers):
        return workers
    if isinstance(workers, bool) or not isinstance(workers, Integral):
        raise TypeError(f"workers must be an int or a callable like map, found {workers!r}")
    if workers != -1 and workers < 1:
        raise ValueError(f"workers must be -1, or 1 and more, found {workers}")
    return default_threads() if workers == -1 else int(workers)


def _times_exp(values: FloatArray, logs: FloatArray) -> FloatArray:
    """Compute values (n, m) times exp(logs), (n,).

    The power of two goes to the exponent of the product: where exp(logs) alone would overflow, a value may
    be small enough that the product does not, and 0 stays 0.
    """
    if not logs.any():
        return values.copy()
    powers = np.rint(logs / math.log(2.0))
    with np.errstate(over="ignore", under="ignore"):
        factors = np.exp(logs - powers * math.log(2.0))
        product: FloatArray = np.ldexp(values * factors[:, None], powers[:, None].astype(np.int32))
    return product


def _evaluate_block(f: Callable[..., Any], vectorized: bool, points: FloatArray) -> Values:
    """Call f for points (n, d). Returns one float64 array, or a dict of them, each (n, ...)."""
    # Numba takes a read-only array for another type: a function compiled for given signatures gets a copy.
    points = read_only(points) if getattr(f, "_can_compile", True) else points.copy()
    if not vectorized:
        return _evaluate_each(f, points)
    result = _call(f, points)
    if isinstance(result, Mapping):
        return {
            key: _checked(part, len(points), f" under {key!r}") for key, part in _checked_keys(result).items()
        }
    return _checked(result, len(points), "")


def _evaluate_each(f: Callable[..., Any], points: FloatArray) -> Values:
    """Call f for points (n, d), one at a time."""
    first = _call(f, points[0])
    if isinstance(f, CPUDispatcher) and isinstance(first, float | int):
        return np.append(float(first), _compiled_values(f, points[1:]))
    results = [first, *(_call(f, point) for point in points[1:])]
    if not any(isinstance(result, Mapping) for result in results):
        return _stacked(results, "")
    keys = _checked_keys(first).keys() if isinstance(first, Mapping) else None
    for result in results:
        if keys is None or not isinstance(result, Mapping) or result.keys() != keys:
            raise ValueError("f must return a dict with the same keys at every point, or at none")
    return {key: _stacked([result[key] for result in results], f" under {key!r}") for key in keys or ()}


def _compiled_values(f: CPUDispatcher, points: FloatArray) -> FloatArray:
    values = np.empty(len(points))
    row = np.zeros(1, np.int64)
    try:
        _compiled_loop(f)(points, values, row)
    except Exception as error:
        _tell_points(error, points[row[0]])
        raise
    return values


@lru_cache(maxsize=64)
def _compiled_loop(f: CPUDispatcher) -> Callable[[FloatArray, FloatArray, npt.NDArray[np.int64]], None]:
    """Compile the loop over points; it leaves in `row` where it is, in case f raises."""

    @njit(nogil=True)
    def loop(points: Any, values: Any, row: Any) -> None:
        for i in range(len(points)):
            row[0] = i
            values[i] = f(points[i])

    return loop


def _call(f: Callable[..., Any], points: FloatArray) -> Any:
    try:
        return f(points)
    except Exception as error:
        _tell_points(error, points)
        raise


def _tell_points(error: Exception, points: FloatArray) -> None:
    """Write to an exception of f's what f was given. An attribute `x` of its own is left as it is."""
    first = np.atleast_2d(points)[0].tolist()
    with suppress(Exception):  # a class may forbid either, and the exception itself is what matters
        if not hasattr(error, "x"):
            error.x = points.copy()  # type: ignore[attr-defined]
    with suppress(Exception):  # besides, Python 3.10 has no notes
        error.add_note(f"varflow called f with x of shape {points.shape}, first point {first}")


def _checked_keys(result: Mapping[str, Any]) -> Mapping[str, Any]:
    if not result:
        raise ValueError("f must return a dict of one array at least, got an empty one")
    for key in result:
        if not isinstance(key, str):
            raise TypeError(f"f must return a dict with strings for keys, got {key!r}")
    return result


def _checked(result: object, n: int, where: str) -> FloatArray:
    """Convert what f returned for n points to float64, (n, ...), a copy."""
    array = _numbers(result, where)
    if array.ndim == 0 or len(array) != n or array.size == 0:
        hint = "; for a function of one point, give vectorized=False" if array.ndim == 0 else ""
        raise ValueError(
            f"f must return an array of shape ({n},) or ({n}, m){where}, got {array.shape}{hint}"
        )
    return array


def _stacked(results: list[Any], where: str) -> FloatArray:
    """Convert what f returned for each of n points to float64, (n, ...)."""
    for result in results:
        if isinstance(result, np.ma.MaskedArray):
            _numbers(result, where)  # raises
    array = _numbers(results, where)
    if array.size == 0:
        raise ValueError(f"f must return one number at least{where}, got shape {array.shape[1:]}")
    return array


def _numbers(result: object, where: str) -> FloatArray:
    if isinstance(result, np.ma.MaskedArray):
        raise TypeError(f"f must not return a masked array{where}")
    try:
        array = np.asarray(result)
    except ValueError as error:
        raise ValueError(
            f"f must return an array{where}, or the same shape at every point: {error}"
        ) from None
    if array.dtype.kind not in "biuf":
        found = "None" if result is None else f"dtype {array.dtype}"
        raise TypeError(f"f must return real numbers{where}, got {found}")
    with np.errstate(over="ignore"):  # a long double too large becomes inf, which is treated as such
        return array.astype(np.float64, order="C")


def _n_rows(result: Values) -> int:
    return len(next(iter(result.values())) if isinstance(result, dict) else result)


def _shapes(result: Values) -> Shape | dict[str, Shape]:
    if isinstance(result, dict):
        return {key: part.shape[1:] for key, part in result.items()}
    return result.shape[1:]


def _components(shapes: Shape | dict[str, Shape]) -> Components:
    if isinstance(shapes, dict):
        return Components(tuple(shapes), tuple(shapes.values()))
    return Components(None, (shapes,))


def _form(shapes: Shape | dict[str, Shape]) -> str:
    return f"a dict of shapes {shapes}" if isinstance(shapes, dict) else f"shape {shapes}"


def _columns(result: Values, keys: tuple[str, ...] | None) -> FloatArray:
    """Join what belongs to a point in one row, (n, m)."""
    if not isinstance(result, dict):
        return result.reshape(len(result), -1)
    return np.concatenate([result[key].reshape(len(result[key]), -1) for key in keys or ()], axis=1)


def _pickled(f: Callable[..., Any]) -> bytes:
    try:
        return pickle.dumps(f)
    except (
        Exception
    ) as error:  # pickle raises PicklingError, AttributeError or TypeError, and f what it likes
        raise TypeError(_not_picklable(error)) from error


def _not_picklable(error: Exception) -> str:
    return (
        f"f cannot be pickled, to be sent to worker processes ({error}): define it at the top level of a "
        "module, or give workers=executor.map of a concurrent.futures.ThreadPoolExecutor"
    )


# What follows runs in the worker processes. Each unpickles f once, at its first block and not when it starts:
# an exception there would end the process, and nobody would learn of it.

_sent: tuple[bytes, bool] = (b"", True)


def _receive(pickled: bytes, vectorized: bool) -> None:
    global _sent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    _sent = pickled, vectorized


@lru_cache(maxsize=1)
def _received(pickled: bytes) -> Callable[..., Any]:
    try:
        f: Callable[..., Any] = pickle.loads(pickled)
        return f
    except Exception as error:
        raise TypeError(_not_picklable(error)) from error


def _evaluate_received(points: FloatArray) -> Values:
    pickled, vectorized = _sent
    f = _received(pickled)
    try:
        return _evaluate_block(f, vectorized, points)
    except Exception as error:
        if _survives_pickling(error):
            raise
        raise RuntimeError(
            "f raised an exception that cannot be sent between processes:\n" + traceback.format_exc()
        ) from None


def _survives_pickling(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True
