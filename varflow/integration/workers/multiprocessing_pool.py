"""Pools of `multiprocessing`, and of its descendants."""

import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from typing import Any

from varflow.integration.components import FloatArray
from varflow.integration.workers.board import Board, Place
from varflow.integration.workers.deaths import death, while_idle
from varflow.integration.workers.executors import n_workers_of, shut_down
from varflow.integration.workers.futures import FuturePool, Out
from varflow.integration.workers.task import Function, Reply, evaluate_task

__all__ = ["MultiprocessingPool"]

LONGEST_SILENCE = 30.0  # seconds, after a process has ended, in which no other is at any task


class MultiprocessingPool(FuturePool):
    """A `multiprocessing.Pool` of the user; it is not closed.

    Such a pool replaces a process that ends, and never tells what has become of its task.

    Parameters
    ----------
    f, vectorized
        See `Pool`.
    pool : multiprocessing.pool.Pool
        The pool.
    """

    def __init__(self, f: Callable[..., Any], vectorized: bool, pool: Any) -> None:
        super().__init__(f, vectorized)
        self._pool = pool
        self._has_threads = isinstance(pool, ThreadPool)
        self._processes: dict[int, Any] = {}  # all that were seen
        self._silent_since: float | None = None

    def count(self) -> int:  # noqa: D102
        return n_workers_of(self._pool)

    def dumps(self) -> Callable[[Any], bytes] | None:  # noqa: D102
        return None if self._has_threads else pickle.dumps

    def make_board(self, n: int) -> Board | None:  # noqa: D102
        return None if self._has_threads else Board(n)

    def submit(self, function: Function, points: FloatArray, place: Place) -> "Future[Reply | None]":  # noqa: D102
        future: Future[Reply | None] = Future()
        future.set_running_or_notify_cancel()  # it cannot be taken back

        def succeed(reply: Reply | None) -> None:
            with suppress(InvalidStateError):  # given up before
                future.set_result(reply)

        def fail(error: BaseException) -> None:
            with suppress(InvalidStateError):
                future.set_exception(error)

        self._note_processes()
        try:
            self._pool.apply_async(evaluate_task, (function, points, place), {}, succeed, fail)
        except ValueError as error:
            raise shut_down(self._pool, error) from error
        return future

    def _note_processes(self) -> None:
        if not self._has_threads:
            self._processes |= {process.pid: process for process in getattr(self._pool, "_pool", ())}

    def watch(self, out: Out) -> None:
        """Find the tasks of processes that have ended."""
        self._note_processes()
        ended = {pid: process for pid, process in self._processes.items() if process.exitcode is not None}
        if not ended or not out:
            self._silent_since = None
            return
        at_work = {future: self.process_at(task) for future, task in out.items()}
        for future, pid in at_work.items():
            if pid in ended:
                with suppress(InvalidStateError):
                    future.set_exception(death(out[future].points, ended[pid].exitcode))
        self._watch_silence(out, is_silent=not any(at_work.values()))

    def _watch_silence(self, out: Out, is_silent: bool) -> None:
        """Give up tasks that were lost on their way to or from a process that has ended."""
        now = time.monotonic()
        self._silent_since = (self._silent_since or now) if is_silent else None
        if self._silent_since is not None and now - self._silent_since > LONGEST_SILENCE:
            for future in out:
                with suppress(InvalidStateError):
                    future.set_exception(while_idle("its task did not come back"))
