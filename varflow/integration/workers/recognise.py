"""What `workers=` may be: a number, or whatever users have that evaluates functions elsewhere."""

from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from numbers import Integral
from typing import Any

from varflow.integration.workers.executors import ExecutorPool, UserProcesses
from varflow.integration.workers.map_like import MapPool
from varflow.integration.workers.pool import Pool
from varflow.integration.workers.processes import OwnProcesses
from varflow.runtime.threads import default_threads

__all__ = ["pool_of"]

KINDS = (
    "an int, a callable like map, a concurrent.futures.Executor, a multiprocessing pool or a "
    "dask.distributed.Client"
)


def pool_of(workers: Any, f: Callable[..., Any], vectorized: bool) -> Pool | None:
    """Find the workers.

    Parameters
    ----------
    workers : object
        Argument of `Integrand`.
    f, vectorized
        See `Pool`.

    Returns
    -------
    Pool or None
        None for 1, which is this process.

    Raises
    ------
    TypeError, ValueError
        If `workers` is none of those, or cannot be used.
    """
    if isinstance(workers, type) and workers is not map:
        raise TypeError(f"workers must be an object, such as {workers.__name__}(...), not the class itself")
    if isinstance(workers, Integral) and not isinstance(workers, bool):
        n_workers = _checked(int(workers))
        return None if n_workers == 1 else OwnProcesses(f, vectorized, n_workers)
    is_method = getattr(workers, "__name__", "") == "map" and hasattr(workers, "__self__")
    for pool in (workers, workers.__self__) if is_method else (workers,):  # a pool's map stands for the pool
        kind = _kind(pool)
        if kind is not None:
            return kind(f, vectorized, pool)
    if not callable(workers):
        raise TypeError(f"workers must be {KINDS}, found {workers!r}")
    return MapPool(f, vectorized, workers)


def _kind(workers: Any) -> Callable[[Callable[..., Any], bool, Any], Pool] | None:
    """Find the kind of a pool by what it can do; None where it is none."""
    if isinstance(workers, ProcessPoolExecutor):
        return UserProcesses
    if isinstance(workers, Executor):
        return ExecutorPool
    if hasattr(workers, "apply_async") and hasattr(workers, "imap_unordered"):
        from varflow.integration.workers.multiprocessing_pool import MultiprocessingPool

        return MultiprocessingPool
    if hasattr(workers, "get_executor") and hasattr(workers, "nthreads"):
        from varflow.integration.workers.dask_client import DaskPool

        return DaskPool
    return None


def _checked(n_workers: int) -> int:
    if n_workers != -1 and n_workers < 1:
        raise ValueError(f"workers must be -1, or 1 and more, found {n_workers}")
    return default_threads() if n_workers == -1 else n_workers
