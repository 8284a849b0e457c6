"""Clusters of Dask, by their client."""

import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from varflow.integration.components import FloatArray
from varflow.integration.workers.board import Place
from varflow.integration.workers.deaths import at_points
from varflow.integration.workers.futures import Failure, FuturePool, Out
from varflow.integration.workers.task import Function, Reply, evaluate_task

__all__ = ["DaskPool"]

REFRESH = 5.0  # seconds between two looks at how many workers there are
PATIENCE = 30.0  # seconds, in which a cluster may start workers again that it has lost


class DaskPool(FuturePool):
    """A `dask.distributed.Client` of the user; it is not closed.

    The scheduler sends the task of a worker that ends to others, as many times as it is set to.

    Parameters
    ----------
    f, vectorized
        See `Pool`.
    client : distributed.Client
        The client.

    Raises
    ------
    TypeError
        If the client is asynchronous.
    """

    shortest = 0.05  # a task costs the scheduler, and those it tells, some 5 ms

    def __init__(self, f: Callable[..., Any], vectorized: bool, client: Any) -> None:
        super().__init__(f, vectorized)
        if client.asynchronous:
            raise TypeError("workers must be a client with asynchronous=False: integrate waits for values")
        self._client = client
        self._executor = client.get_executor(pure=False)
        self._n_workers, self._looked = 0, -np.inf
        self._lonely_since: float | None = None

    def dumps(self) -> Callable[[Any], bytes]:
        """Pickle with what Dask itself takes, which sends functions of a script or notebook by value."""
        import cloudpickle  # comes with distributed

        dumps: Callable[[Any], bytes] = cloudpickle.dumps
        return dumps

    def count(self) -> int:
        """Count the threads of all workers, which may change as the cluster grows and shrinks."""
        if self._client.status != "running":
            raise ValueError(
                f"workers must be a client that is connected, but this one is {self._client.status}"
            )
        n_before = self._n_workers
        if self._look() == 0 and n_before == 0:
            raise ValueError(
                f"workers is a client without workers ({self._client!r}): start some, as by "
                "cluster.scale(4), and call client.wait_for_workers(1)"
            )
        return self._n_workers or n_before

    def _look(self) -> int:
        now = time.monotonic()
        if now - self._looked > REFRESH or self._n_workers == 0:
            self._n_workers, self._looked = sum(self._client.nthreads().values()), now
        return self._n_workers

    def submit(self, function: Function, points: FloatArray, place: Place) -> "Future[Reply | None]":  # noqa: D102
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Sending large graph", UserWarning
            )  # f goes once to each worker
            future: Future[Reply | None] = self._executor.submit(evaluate_task, function, points, place)
        return future

    def watch(self, out: Out) -> None:  # noqa: D102
        if not out:
            return
        x = np.concatenate([task.points for task in out.values()])
        if self._client.status not in ("running", "connecting"):
            raise at_points("the client has lost its scheduler, which had tasks", x)
        now = time.monotonic()
        if self._look() > 0:
            self._lonely_since = None
        elif self._lonely_since is None:
            self._lonely_since = now
        elif now - self._lonely_since > PATIENCE:
            raise at_points("the cluster has lost all its workers, which had tasks", x)

    def explained(self, failures: list[Failure]) -> Exception:  # noqa: D102
        from distributed import KilledWorker

        task, error = failures[0]
        if isinstance(error, KilledWorker):
            n = error.allowed_failures + 1
            return at_points(f"{n} workers of the cluster ended abruptly while they called f", task.points)
        return super().explained(failures)
