"""Threads: how many, and how work is shared among them."""

import os
import queue
import threading
from collections.abc import Callable

__all__ = ["SLICE", "default_threads", "end_idle_threads", "run", "share"]

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
    job, own = _Job(task), None
    try:
        _workers.start(job, range(1, n_threads))
        task(0)
    except BaseException as error:
        own = error
    while True:  # they write to the caller's arrays: nobody leaves before them, not even by Ctrl-C
        try:
            while len(job.outcomes) < job.n_begun:
                job.news.get()
            break
        except BaseException as interrupt:
            own = interrupt if own is None else own
    for outcome in (own, *job.outcomes):
        if outcome is not None:
            raise outcome


def end_idle_threads() -> None:
    """End the threads that wait for tasks, before this process is forked; later tasks start others."""
    _workers.end_idle()


class _Job:
    """A task, and what became of the shares that were handed over.

    What Ctrl-C raises may come after any call, and take its value along. So nobody counts on what he got
    from a queue, or on having gone on behind a call: both numbers are kept by whoever knows them first.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.n_begun = 0
        self.outcomes: list[BaseException | None] = []
        self.news: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each outcome, which is there then


class _Workers:
    """Threads that wait for tasks; more are started when there are not enough.

    A pool of `concurrent.futures` would do, but to hand over a task and wait for it takes it three times as
    long, which counts beside a training step of a millisecond.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n_idle = 0
        self.jobs: queue.SimpleQueue[tuple[_Job, int] | None] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()

    def start(self, job: _Job, shares: range) -> None:
        """Hand over shares of a job. Each leaves an error, or None, among its outcomes."""
        with self.lock:
            self.n_idle -= len(shares)
            for _ in range(-self.n_idle):
                threading.Thread(target=self._work, name="varflow", daemon=True).start()
            self.n_idle = max(self.n_idle, 0)
        for k in shares:
            job.n_begun += 1
            self.jobs.put((job, k))

    def end_idle(self) -> None:
        """End the threads that have nothing to do."""
        with self.lock:
            n_idle, self.n_idle = self.n_idle, 0
        for _ in range(n_idle):
            self.jobs.put(None)
        for _ in range(n_idle):
            self.ended.get().join()

    def _work(self) -> None:
        while (order := self.jobs.get()) is not None:
            job, k = order
            outcome = None
            try:
                job.task(k)
            except BaseException as error:
                outcome = error
            with self.lock:
                self.n_idle += 1
            job.outcomes.append(outcome)
            job.news.put(None)
            del job, order  # they may hold large arrays, and the next may be long in coming
        self.ended.put(threading.current_thread())


def _renew() -> None:
    """Begin anew in a forked child: it has the object, but none of its threads."""
    global _workers
    _workers = _Workers()


_workers = _Workers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
