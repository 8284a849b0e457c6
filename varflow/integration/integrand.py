"""Integrand on the unit cube: calls the user's function, in workers if wanted, and checks its values."""

from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from numbers import Integral
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.compiled.integrand import compiled_integrand
from varflow.data.arrays import read_only
from varflow.integration.calls import evaluate_block
from varflow.integration.components import Components, FloatArray, Values, count_rows
from varflow.integration.device_integrand import device_integrand, is_device_function
from varflow.integration.domain import Domain
from varflow.integration.received import Received
from varflow.integration.shared_calls import SharedCalls
from varflow.integration.worker_processes import BLOCKS_PER_WORKER, Workers
from varflow.runtime.ranks import as_communicator
from varflow.runtime.threads import default_threads

__all__ = ["Integrand"]

Block = Callable[[FloatArray], Values]
Map = Callable[[Block, Iterable[FloatArray]], Iterable[Values]]


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
    workers : int or callable, optional
        If 1, f is called in this process. If larger, f is called in that many worker processes, which are
        started at the first call, and must be picklable. If -1, there are as many worker processes as
        available cores. A callable is used like `map`, as ``workers(function, iterable)``, for instance the
        `map` of a pool of threads. As long as f treats each point separately, the values do not depend on
        the workers.
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
        If `f` is not callable, or `workers` is neither an int nor callable.
    ValueError
        If `workers` is an int less than 1 other than -1, or `on_invalid` is not one of the names above.
    """

    n_calls: int

    def __init__(
        self,
        f: Callable[..., Any],
        domain: Domain,
        *,
        vectorized: bool = True,
        workers: int | Map = 1,
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
        self._workers = _checked_workers(workers)
        self._shared = SharedCalls(as_communicator(comm))
        self._pool: Workers | None = None

    def __enter__(self) -> "Integrand":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Start the worker processes, if any are wanted, which otherwise happens at the first call."""
        if isinstance(self._workers, int) and self._workers > 1 and self._pool is None:
            self._pool = Workers(self._f, self._vectorized, self._workers)

    def close(self) -> None:
        """End the worker processes; a later call starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

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
            If a worker process ends, as by a STOP or an invalid address in f; it has the points of that call.
        Exception
            Any exception raised by f, with an attribute `x` that holds the points (n, d), or the point (d,),
            passed to f.
        """
        x, log_jacobian = self.domain.from_cube(u)
        values = self._shared(self._evaluate, read_only(x), self.received)
        self.n_calls += len(values)
        return self.received.on_cube(x, values, log_jacobian)

    def _evaluate(self, x: FloatArray) -> FloatArray:
        """Evaluate f at all points, here or in the workers. Returns the values (n, m)."""
        blocks = [x]
        if self._workers != 1:
            n_workers = default_threads() if callable(self._workers) else self._workers
            blocks = np.array_split(x, min(len(x), n_workers * BLOCKS_PER_WORKER))
        results = list(self._map(blocks))
        n_rows = sum(map(count_rows, results))
        if n_rows != len(x):
            raise ValueError(
                f"workers must return a result for each item: {n_rows} of {len(x)} points came back"
            )
        return self.received.columns(results)

    def _map(self, blocks: list[FloatArray]) -> Iterable[Values]:
        block = partial(evaluate_block, self._f, self._vectorized)
        if callable(self._workers):
            return self._workers(block, blocks)
        if self._workers == 1:
            return [block(points) for points in blocks]
        self.open()
        assert self._pool is not None
        try:
            return self._pool.evaluate(blocks)
        except BrokenProcessPool:  # a later call starts new ones
            self._pool = None
            raise


def _checked_workers(workers: object) -> Any:
    """Check the argument `workers`, and return the callable or the number of processes."""
    if callable(workers):
        return workers
    if isinstance(workers, bool) or not isinstance(workers, Integral):
        raise TypeError(f"workers must be an int or a callable like map, found {workers!r}")
    if workers != -1 and workers < 1:
        raise ValueError(f"workers must be -1, or 1 and more, found {workers}")
    return default_threads() if workers == -1 else int(workers)
