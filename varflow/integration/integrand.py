"""Integrand on the unit cube: calls the user's function, in workers if wanted, and checks its values."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.compiled.integrand import compiled_integrand
from varflow.data.arrays import read_only
from varflow.integration.calls import evaluate_block, tell_nobody
from varflow.integration.components import Components, FloatArray
from varflow.integration.device_integrand import device_integrand, is_device_function
from varflow.integration.domain import Domain
from varflow.integration.received import Received
from varflow.integration.shared_calls import SharedCalls
from varflow.integration.workers.recognise import pool_of
from varflow.runtime.ranks import as_communicator

__all__ = ["Evaluated", "Integrand"]

Rows = slice | npt.NDArray[np.int64]


@dataclass
class Evaluated:
    """Values of the integrand at some of n points.

    Attributes
    ----------
    rows : slice, or ndarray of int, (k,)
        The points that have a value.
    values : ndarray, (k, m)
        Their values.
    error : BaseException or None
        What kept the others from having one.
    """

    rows: Rows
    values: FloatArray
    error: BaseException | None


class Integrand:
    """Function f(x) on a box as a function on the unit cube, f(x(u)) |dx/du|.

    It is a context manager, which ends the worker processes on exit.

    Parameters
    ----------
    f : callable
        Takes points, a read-only C-contiguous float64 array (n, d), and returns an array (n,) or (n, ...) of
        real numbers, or a dict of such arrays with strings as keys. Or a compiled function, see
        `CompiledIntegrand`; a function of ctypes, a ``scipy.LowLevelCallable`` and their like may be given as
        they are, if their declaration tells their kind. Or a device function of numba.cuda, which takes a
        point and returns a number; for other functions that run on a GPU, see `device_integrand`.
    domain : Domain
        The box that f is integrated over.
    vectorized : bool, optional
        If False, f takes a single point (d,), unless it is compiled, and returns a number, an array, or a
        dict of these. If f is a numba function that returns a number, the loop over the points is compiled.
    workers : int, executor, pool, client or callable, optional
        If 1, f is called in this process. If larger, f is called in that many worker processes, which are
        started at the first call, and must be picklable. If -1, there are as many worker processes as
        available cores. Or an ``Executor`` of concurrent.futures, mpi4py or others, a pool of
        multiprocessing, or a ``Client`` of dask.distributed, which the user opens and closes. Any other
        callable is used like `map`, as ``workers(function, iterable)``. f is sent once and kept by the
        workers; points go to them in tasks that are sized by the time that f was measured to take, and f is
        called for at most 1000 at once. As long as f treats each point separately, the values do not depend
        on the workers.
    on_invalid : {"raise", "zero"}, optional
        Whether to raise an exception where a value is not finite, or to replace the value by 0.
    log : bool, optional
        Whether f returns the logarithm of the integrand, a number for each point; -inf stands for 0.
    comm : mpi4py.MPI.Intracomm, optional
        Ranks that share the calls; each is called with all points, and gets all values.

    Attributes
    ----------
    n_calls : int
        Number of points at which f has been evaluated.
    n_invalid : int
        Number of those points at which f, or its product with the Jacobian, was not finite.

    Raises
    ------
    TypeError
        If `f` is not callable, or `workers` is none of the above.
    ValueError
        If `workers` is an int less than 1 other than -1, or `on_invalid` is not one of the names above.

    Examples
    --------
    >>> def f(x):
    ...     return {"mass": x[:, 0], "moments": x}
    >>> with vf.Integrand(f, vf.Domain([(0, 2), (0, 4)])) as integrand:
    ...     integrand([[0.5, 0.5]])
    array([[ 8.,  8., 16.]])
    >>> integrand.m, integrand.components.keys, integrand.n_calls, integrand.n_invalid, integrand.n_at_once
    (3, ('mass', 'moments'), 1, 0, 1)

    In a thread pool that is opened for all calls, and without an exception where a worker fails:

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     integrand = vf.Integrand(f, vf.Domain(2), workers=pool)
    ...     integrand.open()
    ...     evaluated = integrand.evaluate([[0.25, 0.5], [0.75, 0.5]])
    ...     integrand.close()
    >>> evaluated.rows, evaluated.error
    (array([0, 1]), None)
    """

    n_calls: int

    def __init__(
        self,
        f: Callable[..., Any],
        domain: Domain,
        *,
        vectorized: bool = True,
        workers: Any = 1,
        on_invalid: str = "raise",
        log: bool = False,
        comm: Any = None,
    ) -> None:
        if is_device_function(f):
            f = device_integrand(f)
        elif compiled := compiled_integrand(f):
            f, vectorized = compiled, True  # all kinds are given all points
        if not callable(f):
            raise TypeError(f"f must be callable, found {f!r}")
        self.domain, self.received = domain, Received(on_invalid, log)
        self.n_calls = 0
        self._f = f
        self._vectorized = vectorized
        self._pool = pool_of(workers, f, vectorized)
        self._shared = SharedCalls(as_communicator(comm), self._pool is not None)
        self._told: Callable[[int], object] = tell_nobody

    def __enter__(self) -> "Integrand":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Start the worker processes, if any are wanted, which otherwise happens at the first call."""
        if self._pool is not None:
            self._pool.open()

    def watch(self, told: Callable[[int], object]) -> None:
        """Tell of each call how many of its values are there, while others are still computed.

        Parameters
        ----------
        told : callable
            Called with their number, where workers or a function of one point give values one after another,
            unless ranks share the points.

        Examples
        --------
        >>> integrand = vf.Integrand(lambda point: point[0], vf.Domain(1), vectorized=False)
        >>> integrand.watch(print)
        >>> _ = integrand([[0.25], [0.5], [0.75]])
        2
        3
        """
        self._told = told if self._shared.n_ranks == 1 else tell_nobody
        if self._pool is not None:
            self._pool.told = self._told

    def close(self) -> None:
        """End the worker processes; a later call starts new ones. A pool of the user goes on."""
        if self._pool is not None:
            self._pool.close()

    @property
    def n_at_once(self) -> int:
        """Number of points that are evaluated at the same time: that of the workers."""
        return 1 if self._pool is None else max(1, self._pool.count())

    @property
    def n_invalid(self) -> int:
        """Number of points at which f, or its product with the Jacobian, was not finite."""
        return self.received.n_invalid

    @property
    def components(self) -> Components | None:
        """Structure of what f returns, keys in the order of the first dict; None before the first call."""
        return self.received.components

    @property
    def m(self) -> int | None:
        """Number of components of f; None before the first call."""
        return None if self.components is None else self.components.size

    def __call__(self, u: npt.ArrayLike) -> FloatArray:
        """Evaluate f(x(u)) |dx/du|, or its logarithm where f is given by that.

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
        WorkerDiedError
            If a worker process ends, as by a STOP or an invalid address in f; it has the points that it had.
        Exception
            Any exception raised by f, with an attribute `x` that holds the points (n, d), or the point (d,),
            passed to f.
        """
        evaluated = self.evaluate(u)
        if evaluated.error is not None:
            raise evaluated.error
        return evaluated.values

    def evaluate(self, u: npt.ArrayLike, parameters: FloatArray | None = None) -> Evaluated:
        """Do what a call does, but keep the values that workers gave where others have failed.

        Parameters
        ----------
        u : array_like, (n, d)
            Points of the unit cube.
        parameters : ndarray, (n, c), optional
            Further columns of the points that f gets, which are not integrated over; where a value is not
            finite, the error names them after x.

        Returns
        -------
        Evaluated
            The values, and the exception of a worker that kept others from coming back.

        Raises
        ------
        Exception
            As for a call, where no value came back, or one is refused.
        """
        x, log_jacobian = self.domain.from_cube(u)
        given = x if parameters is None else np.concatenate([x, parameters], axis=1)
        rows, values, error = self._shared_out(read_only(given))
        self.n_calls += len(values)
        return Evaluated(rows, self.received.on_cube(given[rows], values, log_jacobian[rows]), error)

    def _shared_out(self, x: FloatArray) -> tuple[Rows, FloatArray, BaseException | None]:
        """Do what `_evaluate` does, but share the points out to the ranks where there are several."""
        if self._shared.n_ranks == 1:
            return self._evaluate(x)
        return slice(None), self._shared(self._evaluate_all, x, self.received), None

    def _evaluate_all(self, x: FloatArray) -> FloatArray:
        """Evaluate f at points (n, d), and raise where one has no value."""
        _, values, error = self._evaluate(x)
        if error is not None:
            raise error
        return values

    def _evaluate(self, x: FloatArray) -> tuple[Rows, FloatArray, BaseException | None]:
        """Evaluate f at points (n, d), here or in the workers.

        Returns the rows that have a value, their values (k, m), and what kept the others from having one.
        """
        if self._pool is None:
            values = evaluate_block(self._f, self._vectorized, x, self._told)
            return slice(None), self.received.columns([values]), None
        outcome = self._pool.evaluate(x)
        if outcome.error is not None and not outcome.values:
            raise outcome.error
        return np.flatnonzero(outcome.is_known), self.received.columns(outcome.values), outcome.error
