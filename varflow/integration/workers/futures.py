"""Pools that give a future for each task: executors, pools of processes, clusters."""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any

from varflow.errors import WorkerDiedError
from varflow.integration.components import FloatArray
from varflow.integration.workers.board import Board, Place
from varflow.integration.workers.deaths import at_points, lost_before
from varflow.integration.workers.pool import Outcome, Pool
from varflow.integration.workers.task import Function, Reply

__all__ = ["Failure", "FuturePool", "Out", "Task"]

AHEAD = 2  # tasks a worker that are out at the same time: one waits while another is evaluated
LOOK = 0.2  # seconds between two looks at whether workers are alive


@dataclass
class Task:
    """Points that go out, their number among the tasks, and where a worker notes that it is at them."""

    number: int
    points: FloatArray
    place: Place


Out = dict["Future[Reply | None]", Task]
Failure = tuple[Task, Exception]


class FuturePool(Pool):
    """Workers of a pool that gives a future for each task.

    At most two tasks a worker are out at a time, so that little is done in vain where one fails.
    """

    def __init__(self, f: Callable[..., Any], vectorized: bool) -> None:
        super().__init__(f, vectorized)
        self.n_sent = 0
        self._board: Board | None = None

    @abstractmethod
    def submit(self, function: Function, points: FloatArray, place: Place) -> "Future[Reply | None]":
        """Give a task to the pool.

        Raises
        ------
        BrokenExecutor
            If the pool has lost a worker, and with it all.
        ValueError
            If it was shut down.
        """

    def watch(self, out: Out) -> None:
        """Look whether the workers are alive; give an exception to futures that would wait for ever.

        Raises
        ------
        WorkerDiedError
            If there are no workers any more.
        """

    def notice(self, error: Exception) -> None:
        """Look around when the first task has failed, which another may explain later."""

    def explained(self, failures: list[Failure]) -> Exception:
        """Say why tasks failed, by what their futures raised; the first comes first."""
        task, error = failures[0]
        if isinstance(error, WorkerDiedError):
            return error
        if isinstance(error, BrokenExecutor):
            return at_points("workers ended abruptly while they called f", task.points)
        if isinstance(error, CancelledError):
            return at_points("workers was shut down while f was called", task.points)
        return error

    def make_board(self, n: int) -> Board | None:
        """Make what workers note on at which task they are; None where something else tells."""
        return None

    def renew_board(self) -> None:
        """Take another board for the next tasks."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def close(self) -> None:  # noqa: D102
        self.renew_board()

    def evaluate_tasks(self, tasks: list[FloatArray]) -> Outcome:  # noqa: D102
        n_workers = self.count()
        if self._board is None:
            self._board = self.make_board(AHEAD * n_workers)
        return _Round(self, tasks, n_workers).outcome()

    def place(self) -> Place:
        """Give a place on the board."""
        return None if self._board is None else self._board.take()

    def give_back(self, place: Place) -> None:
        """Take it back."""
        if self._board is not None:
            self._board.give_back(place)

    def process_at(self, task: Task) -> int:
        """Give the number of the process that is at a task; 0 where there is none, or none is known."""
        return 0 if self._board is None else self._board.process_at(task.place)

    def send(self, task: Task, n_workers: int) -> "Future[Reply | None]":
        """Send a task: the first ones with f, those that may find it at the workers without."""
        by_key, whole = self.functions
        function = whole if self.n_sent < n_workers else by_key
        future = self.submit(function, task.points, task.place)
        self.n_sent += 1
        return future

    def send_whole(self, task: Task) -> "Future[Reply | None]":
        """Send a task to where f has not arrived."""
        return self.submit(self.functions[1], task.points, task.place)


class _Round:
    """Tasks that go through a pool."""

    def __init__(self, pool: FuturePool, tasks: list[FloatArray], n_workers: int) -> None:
        self._pool, self._tasks, self._n_workers = pool, tasks, n_workers
        self._waiting = deque(range(len(tasks)))
        self._out: Out = {}
        self._replies: list[Reply | None] = [None] * len(tasks)
        self._failures: list[Failure] = []
        self._n_known = 0

    def outcome(self) -> Outcome:
        """Send the tasks and wait for them; after a failure, for those that have begun."""
        error: BaseException | None = None
        try:
            while self._out or self._waiting:
                self._send()
                self._receive(wait(self._out, LOOK, FIRST_COMPLETED).done)
                self._pool.watch(self._out)
            if self._failures:
                error = self._pool.explained(sorted(self._failures, key=lambda failure: failure[0].number))
        except BaseException as interruption:  # Ctrl-C, workers that cannot be used, or are gone
            error = interruption
            self._cancel()
            self._keep_what_is_done()
        if error is not None:  # processes that go on may note what nobody waits for
            self._pool.renew_board()
        return Outcome(self._tasks, self._replies, error)

    def _send(self) -> None:
        while self._waiting and len(self._out) < AHEAD * self._n_workers:
            number = self._waiting.popleft()
            task = Task(number, self._tasks[number], self._pool.place())
            try:
                self._out[self._pool.send(task, self._n_workers)] = task
            except BrokenExecutor as error:
                if not self._out and number == 0:
                    raise lost_before(error) from error
                self._fail(task, error)

    def _receive(self, done: "Iterable[Future[Reply | None]]") -> None:
        for future in done:
            task = self._out.pop(future)
            try:
                reply = future.result()
                if reply is None:
                    self._out[self._pool.send_whole(task)] = task
                    continue
                self._replies[task.number] = reply
                self._pool.give_back(task.place)
                self._n_known += len(task.points)
                self._pool.told(self._n_known)
            except Exception as error:
                self._fail(task, error)

    def _keep_what_is_done(self) -> None:
        for future, task in self._out.items():
            if future.done() and future.exception() is None:
                self._replies[task.number] = future.result()

    def _fail(self, task: Task, error: Exception) -> None:
        """Note that a task failed; those that have not begun are not evaluated any more."""
        if not self._failures:
            self._pool.notice(error)
        self._failures.append((task, error))
        self._waiting.clear()
        self._cancel()

    def _cancel(self) -> None:
        for future in [future for future in self._out if future.cancel()]:
            self._pool.give_back(self._out.pop(future).place)
