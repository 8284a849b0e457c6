"""Threads: how many, and how work is shared among them."""

import os
import queue
import threading
from collections.abc import Callable

__all__ = ["SLICE", "default_threads", "run", "share"]

SLICE = 65_536  # parameters that a thread takes at once; for fewer, a second thread costs more than it helps

Task = Callable[[int], None]


def default_threads() -> int:
    """Find how many threads this process may use.

    Returns
    -------
    int
        Cores that the process is allowed on, but not more than OMP_NUM_THREADS where that is set.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(cores, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else cores


def share(k: int, parts: int, total: int) -> tuple[int, int]:
    """Give the range [begin, end) of `total` items that is part k of `parts`."""
    return k * total // parts, (k + 1) * total // parts


def run(task: Task, n_threads: int) -> None:
    """Call task(0), ..., task(n_threads - 1) at once, the first of them in the calling thread.

    Parameters
    ----------
    task : callable
        Takes the number of its share.
    n_threads : int
        How many shares there are.
    """
    if n_threads == 1:
        task(0)
        return
    outcomes = _workers.start(task, range(1, n_threads))
    errors: list[BaseException] = []
    try:
        task(0)
    except BaseException as error:
        errors.append(error)
    n_missing = n_threads - 1
    while n_missing > 0:  # they write to the caller's arrays: nobody leaves before them, not even by Ctrl-C
        try:
            outcome = outcomes.get()
            n_missing -= 1
            if outcome is not None:
                errors.append(outcome)
        except KeyboardInterrupt as interrupt:
            errors.append(interrupt)
    if errors:
        raise errors[0]


class _Workers:
    """Threads that wait for tasks; more are started when there are not enough.

    A pool of `concurrent.futures` would do, but to hand over a task and wait for it takes it three times as
    long, which counts beside a training step of a millisecond.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n_idle = 0
        self.jobs: queue.SimpleQueue[tuple[Task, int, queue.SimpleQueue[BaseException | None]]]
        self.jobs = queue.SimpleQueue()

    def start(self, task: Task, shares: range) -> "queue.SimpleQueue[BaseException | None]":
        """Hand over shares of a task. Each leaves an error, or None, in the queue that is returned."""
        with self.lock:
            self.n_idle -= len(shares)
            for _ in range(-self.n_idle):
                threading.Thread(target=self._work, name="varflow", daemon=True).start()
            self.n_idle = max(self.n_idle, 0)
        outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        for k in shares:
            self.jobs.put((task, k, outcomes))
        return outcomes

    def _work(self) -> None:
        while True:
            task, k, outcomes = self.jobs.get()
            outcome = None
            try:
                task(k)
            except BaseException as error:
                outcome = error
            del task  # it may hold large arrays, and the next may be long in coming
            with self.lock:
                self.n_idle += 1
            outcomes.put(outcome)


def _renew() -> None:
    """Begin anew in a forked child: it has the object, but none of its threads."""
    global _workers
    _workers = _Workers()


_workers = _Workers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
