"""The number of threads, and the distribution of work among them."""

import os
import queue
import threading
from collections.abc import Callable

__all__ = ["SLICE", "default_threads", "end_idle_threads", "n_cores", "run", "share"]

SLICE = 65_536  # parameters per thread; for fewer of them, a second thread costs more than it gains

Task = Callable[[int], None]


def n_cores() -> int:
    """Count the cores that are available to the process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Return the default number of threads.

    Returns
    -------
    int
        Number of cores available to the process, limited by OMP_NUM_THREADS if that is set.
    """
    cores, wanted = n_cores(), os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(cores, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else cores


def share(k: int, parts: int, total: int) -> tuple[int, int]:
    """Return the range [begin, end) of part k when `total` items are divided into `parts`."""
    return k * total // parts, (k + 1) * total // parts


def run(task: Task, n_threads: int) -> None:
    """Call task(0), ..., task(n_threads - 1) concurrently, the first of them in the calling thread.

    Parameters
    ----------
    task : callable
        Function of the index of its share of the work.
    n_threads : int
        Number of shares.
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
    while True:  # the shares write to the caller's arrays: wait for all of them, even after Ctrl-C
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
    """End the threads that wait for tasks, before the process is forked; later tasks start new ones."""
    _workers.end_idle()


class _Job:
    """A task, and the outcomes of the shares that were submitted to other threads.

    The KeyboardInterrupt of Ctrl-C may be raised after any call returns, and its return value is then lost.
    The bookkeeping must therefore not depend on values taken from a queue, or on statements that follow a
    call: `n_begun` is incremented before a share is submitted, and outcomes are appended by the thread that
    computed the share.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.n_begun = 0
        self.outcomes: list[BaseException | None] = []
        self.news: queue.SimpleQueue[None] = queue.SimpleQueue()  # one item per outcome, put after it


class _Workers:
    """Pool of threads that wait for tasks; more are started as needed.

    A pool of `concurrent.futures` would do as well, but takes three times as long to submit a task and wait
    for it, which matters for training steps of a millisecond.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n_idle = 0
        self.jobs: queue.SimpleQueue[tuple[_Job, int] | None] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()

    def start(self, job: _Job, shares: range) -> None:
        """Submit shares of a job; each appends an error, or None, to the outcomes of the job."""
        with self.lock:
            self.n_idle -= len(shares)
            for _ in range(-self.n_idle):
                threading.Thread(target=self._work, name="varflow", daemon=True).start()
            self.n_idle = max(self.n_idle, 0)
        for k in shares:
            job.n_begun += 1
            self.jobs.put((job, k))

    def end_idle(self) -> None:
        """End the idle threads."""
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
            del job, order  # release large arrays that they may hold: the next job may be long in coming
        self.ended.put(threading.current_thread())


def _renew() -> None:
    """Replace the pool in a forked child, which inherits the object but none of its threads."""
    global _workers
    _workers = _Workers()


_workers = _Workers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
