"""Integrand on the unit cube: calls the user's function, in workers if wanted, and checks its values."""

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from numbers import Integral
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import read_only
from varflow.errors import InvalidIntegrandError
from varflow.integration.calls import evaluate_block
from varflow.integration.components import (
    Components,
    FloatArray,
    Shape,
    Values,
    columns_of,
    components_of,
    count_rows,
    describe_shapes,
    shapes_of,
)
from varflow.integration.device_integrand import device_integrand, is_device_function
from varflow.integration.domain import Domain
from varflow.integration.worker_processes import evaluate_received, kill_workers, start_workers
from varflow.runtime.threads import default_threads
from varflow.validation import unknown_name

__all__ = ["Integrand"]

Block = Callable[[FloatArray], Values]
Map = Callable[[Block, Iterable[FloatArray]], Iterable[Values]]

_ON_INVALID = ("raise", "zero")
_BLOCKS_PER_WORKER = 4  # so that fast workers take over blocks from slow ones


class Integrand:
    """Function f(x) on a box as a function on the unit cube, f(x(u)) |dx/du|.

    It is a context manager, which ends the worker processes on exit.

    Parameters
    ----------
    f : callable
        Takes points, a read-only C-contiguous float64 array (n, d), and returns an array (n,) or (n, ...) of
        real numbers, or a dict of such arrays with strings as keys. Or a device function of numba.cuda, which
        takes a point and returns a number; for other functions that run on a GPU, see `device_integrand`.
    domain : Domain
        The box that f is integrated over.
    vectorized : bool, optional
        If False, f takes a single point (d,), and returns a number, an array, or a dict of these. If f is a
        numba function that returns a number, the loop over the points is compiled.
    workers : int or callable, optional
        If 1, f is called in this process. If larger, f is called in that many worker processes, which are
        started at the first call, and must be picklable. If -1, there are as many worker processes as
        available cores. A callable is used like `map`, as ``workers(function, iterable)``, for instance the
        `map` of a pool of threads. As long as f treats each point separately, the values do not depend on
        the workers.
    on_invalid : {"raise", "zero"}, optional
        Whether to raise an exception where a value is not finite, or to replace the value by 0.

    Attributes
    ----------
    n_calls : int
        Number of points at which f has been evaluated.
    n_invalid : int
        Number of those points at which f, or its product with the Jacobian, was not finite.

    Raises
    ------
    TypeError
        If `f` is not callable, or `workers` is neither an int nor callable.
    ValueError
        If `workers` is an int less than 1 other than -1, or `on_invalid` is not one of the names above.
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
        self._shapes: Shape | dict[str, Shape] | None = None  # of the value of f at one point

    def __enter__(self) -> "Integrand":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Start the worker processes, if any are wanted, which otherwise happens at the first call."""
        if isinstance(self._workers, int) and self._workers > 1 and self._pool is None:
            self._pool = start_workers(self._f, self._vectorized, self._workers)

    def close(self) -> None:
        """End the worker processes; a later call starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    @property
    def components(self) -> Components | None:
        """Structure of what f returns, keys in the order of the first dict; None before the first call."""
        return None if self._shapes is None else components_of(self._shapes)

    @property
    def m(self) -> int | None:
        """Number of components of f; None before the first call."""
        return None if self._shapes is None else components_of(self._shapes).size

    def state(self) -> dict[str, Any]:
        """Return the counts and the structure of what f returns, in a form for JSON; see `restore`."""
        found = self.components
        components = None if found is None else [found.keys, found.shapes]
        return {"n_calls": self.n_calls, "n_invalid": self.n_invalid, "components": components}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the counts and the structure from what `state` returned, as if f had been called before."""
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
            The values, with a column for each component of f.

        Raises
        ------
        TypeError
            If f returns anything but real numbers, or a dict with keys that are not strings, or if f cannot
            be sent to worker processes.
        ValueError
            If `Domain.from_cube` refuses u, or f returns a wrong shape, or another shape than before.
        InvalidIntegrandError
            If a value is not finite and ``on_invalid="raise"``.
        Exception
            Any exception raised by f, with an attribute `x` that holds the points (n, d), or the point (d,),
            passed to f.
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
        """Evaluate f at all points, here or in the workers.

        Returns the values (n, m), and the structure of a row.
        """
        blocks = [x]
        if self._workers != 1:
            n_workers = default_threads() if callable(self._workers) else self._workers
            blocks = np.array_split(x, min(len(x), n_workers * _BLOCKS_PER_WORKER))
        results = list(self._map(blocks))
        n_rows = sum(map(count_rows, results))
        if n_rows != len(x):
            raise ValueError(
                f"workers must return a result for each item: {n_rows} of {len(x)} points came back"
            )
        components = self._checked_components(results)
        columns = [columns_of(result, components.keys) for result in results]
        return columns[0] if len(columns) == 1 else np.concatenate(columns), components

    def _map(self, blocks: list[FloatArray]) -> Iterable[Values]:
        block = partial(evaluate_block, self._f, self._vectorized)
        if callable(self._workers):
            return self._workers(block, blocks)
        if self._workers == 1:
            return [block(points) for points in blocks]
        self.open()
        assert self._pool is not None
        try:
            return list(self._pool.map(evaluate_received, blocks))
        except BrokenProcessPool:  # the pool is unusable; a later call starts a new one
            kill_workers(self._pool)
            self._pool = None
            raise

    def _checked_components(self, results: list[Values]) -> Components:
        """Check that f returned the structure of its first call, up to the order of keys."""
        known = self._shapes = shapes_of(results[0]) if self._shapes is None else self._shapes
        for found in map(shapes_of, results):
            if found != known:
                before, now = describe_shapes(known), describe_shapes(found)
                raise ValueError(f"f must return the same at every call: got {now}, before {before}")
        return components_of(known)


def _invalid(x: FloatArray, value: FloatArray, shown: Any, n_bad: int, n: int) -> InvalidIntegrandError:
    """Make the error for a point x (d,) and the value of f there, as (m,) and in the form that f returns."""
    found = f"f is {shown} at x = {x.tolist()}"
    if np.isfinite(value).all():
        found = f"f times the Jacobian |dx/du| overflows at x = {x.tolist()}, where f is {shown}"
    error = InvalidIntegrandError(
        f'{found}; {n_bad} of {n} points are not finite (on_invalid="zero" takes such values as 0)'
    )
    error.x = x
    return error


def _checked_workers(workers: object) -> Any:
    """Check the argument `workers`, and return the callable or the number of processes."""
    if callable(workers):
        return workers
    if isinstance(workers, bool) or not isinstance(workers, Integral):
        raise TypeError(f"workers must be an int or a callable like map, found {workers!r}")
    if workers != -1 and workers < 1:
        raise ValueError(f"workers must be -1, or 1 and more, found {workers}")
    return default_threads() if workers == -1 else int(workers)


def _times_exp(values: FloatArray, logs: FloatArray) -> FloatArray:
    """Compute the product of values (n, m) and exp(logs), (n,).

    Powers of two are applied last, to the exponent of the product. So the product is finite for small enough
    values even if exp(logs) alone would overflow, and 0 stays 0.
    """
    if not logs.any():
        return values.copy()
    powers = np.rint(logs / math.log(2.0))
    with np.errstate(over="ignore", under="ignore"):
        factors = np.exp(logs - powers * math.log(2.0))
        product: FloatArray = np.ldexp(values * factors[:, None], powers[:, None].astype(np.int32))
    return product
