"""Executors of `concurrent.futures`, and others that are like them, as those of mpi4py."""

import pickle
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any

from varflow.integration.components import FloatArray
from varflow.integration.workers.board import Board, Place
from varflow.integration.workers.deaths import death, while_idle
from varflow.integration.workers.futures import Failure, FuturePool
from varflow.integration.workers.task import Function, Reply, evaluate_task
from varflow.runtime.threads import default_threads, end_idle_threads

__all__ = ["ExecutorPool", "ProcessesPool", "UserProcesses", "n_workers_of", "shut_down"]

_KILLED = (-signal.SIGTERM, -getattr(signal, "SIGKILL", 9))  # how the executor, and varflow, end the others
PATIENCE = 5.0  # seconds, in which an executor ends its other processes


class ExecutorPool(FuturePool):
    """An executor of the user.

    Parameters
    ----------
    f, vectorized
        See `Pool`.
    executor : concurrent.futures.Executor
        The executor; it is not shut down.
    """

    def __init__(self, f: Callable[..., Any], vectorized: bool, executor: Executor) -> None:
        super().__init__(f, vectorized)
        self._executor = executor

    def count(self) -> int:  # noqa: D102
        return n_workers_of(self._executor)

    def dumps(self) -> Callable[[Any], bytes] | None:  # noqa: D102
        return pickle.dumps if type(self._executor).__module__.startswith("mpi4py.") else None

    def submit(self, function: Function, points: FloatArray, place: Place) -> "Future[Reply | None]":  # noqa: D102
        return submitted(self._executor, function, points, place)


class ProcessesPool(FuturePool, ABC):
    """A `ProcessPoolExecutor`, whose processes tell how they ended."""

    def __init__(self, f: Callable[..., Any], vectorized: bool) -> None:
        super().__init__(f, vectorized)
        self._processes: list[Any] = []
        self._ended: list[Any] = []  # when the first task failed

    @abstractmethod
    def executor(self) -> ProcessPoolExecutor:
        """Give the executor."""

    def count(self) -> int:  # noqa: D102
        return n_workers_of(self.executor())

    def dumps(self) -> Callable[[Any], bytes]:  # noqa: D102
        return pickle.dumps

    def make_board(self, n: int) -> Board:  # noqa: D102
        return Board(n)

    def submit(self, function: Function, points: FloatArray, place: Place) -> "Future[Reply | None]":  # noqa: D102
        executor = self.executor()
        if not self._processes:  # they may be forked now
            end_idle_threads()
        future = submitted(executor, function, points, place)
        self._processes = list((executor._processes or {}).values())
        return future

    def notice(self, error: Exception) -> None:  # noqa: D102
        ready = wait([process.sentinel for process in self._processes], timeout=0)
        self._ended = [process for process in self._processes if process.sentinel in ready]

    def explained(self, failures: list[Failure]) -> Exception:
        """Tell which process ended, how, and at which points.

        The others were terminated by the executor, which may have begun when the first failure was noticed.
        """
        _, error = failures[0]
        if not isinstance(error, BrokenExecutor):
            return super().explained(failures)
        for process in self._processes:
            process.join(PATIENCE)
        at_first = [process for process in self._ended if process.exitcode != -signal.SIGTERM]
        by_itself = [process for process in self._processes if process.exitcode not in (None, *_KILLED)]
        dead = next(iter([*at_first, *by_itself, *self._ended]), None)
        at_work = {self.process_at(task): task.points for task, _ in failures}
        if dead is None or dead.pid not in at_work:
            return while_idle(error)
        return death(at_work[dead.pid], dead.exitcode)


class UserProcesses(ProcessesPool):
    """A `ProcessPoolExecutor` of the user; it is not shut down.

    Parameters
    ----------
    f, vectorized
        See `Pool`.
    executor : ProcessPoolExecutor
        The executor.
    """

    def __init__(self, f: Callable[..., Any], vectorized: bool, executor: ProcessPoolExecutor) -> None:
        super().__init__(f, vectorized)
        self._executor = executor

    def executor(self) -> ProcessPoolExecutor:  # noqa: D102
        return self._executor


def submitted(
    executor: Executor, function: Function, points: FloatArray, place: Place
) -> "Future[Reply | None]":
    """Submit a task; raise ValueError where the executor was shut down."""
    try:
        return executor.submit(evaluate_task, function, points, place)
    except BrokenExecutor:
        raise
    except RuntimeError as error:
        raise shut_down(executor, error) from error


def n_workers_of(pool: object) -> int:
    """Count the workers of a pool, which says it by one of these names; else as many as there are cores."""
    for name in ("num_workers", "_max_workers", "_processes"):
        found = getattr(pool, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return default_threads()


def shut_down(pool: object, error: Exception) -> ValueError:
    """Say that a pool takes no tasks."""
    return ValueError(
        f"workers must be open, but this {type(pool).__name__} takes no tasks any more: {error}"
    )
