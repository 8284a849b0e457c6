"""Threads: how many, how work is shared among them, and BLAS held to one in each."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

__all__ = ["SLICE", "default_threads", "one_blas_thread", "run", "share"]

MOST_THREADS = 256
SLICE = 65_536  # parameters that a thread takes at once; for fewer, a second thread costs more than it helps


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


def run(task: Callable[[int], None], n_threads: int) -> None:
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
    futures = [_state.pool.submit(task, k) for k in range(1, n_threads)]
    try:
        task(0)
    finally:
        wait(futures)  # they write to the caller's arrays: nobody leaves before them, not even by Ctrl-C
    for future in futures:
        future.result()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread as long as anybody is within; afterwards it is as it was.

    The threads here call BLAS themselves. If each of those calls had threads too, they would outnumber the
    cores, and how a product is shared out would change its last bits.
    """
    with _state.lock:
        _state.holders += 1
        if _state.holders == 1:
            _state.limit = _blas_controller().limit(limits=1, user_api="blas")
    try:
        yield
    finally:
        with _state.lock:
            _state.holders -= 1
            if _state.holders == 0:
                _lift(_state.limit)


def _lift(limit: Any) -> None:
    """Give BLAS its threads back, from whichever thread is the last to need none."""
    import threadpoolctl

    # From 3.8 on, threadpoolctl heeds only the thread that set a limit first, until it is told otherwise.
    openblas = getattr(threadpoolctl, "OpenBLASController", None)
    forget_thread = getattr(openblas, "clear_controlling_thread", lambda force: None)
    forget_thread(force=True)
    limit.restore_original_limits()
    forget_thread(force=True)


class _State:
    """The process's threads, and how often BLAS is held."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="varflow")  # starts them when needed
        self.lock = threading.Lock()
        self.controller: Any = None
        self.holders = 0
        self.limit: Any = None


def _blas_controller() -> Any:
    if _state.controller is None:
        # Imported here, since it takes a while; and before the controller is made, which sees only the
        # libraries that are loaded by then. Kernels call the BLAS of SciPy.
        import scipy.linalg.cython_blas  # noqa: F401
        from threadpoolctl import ThreadpoolController

        _state.controller = ThreadpoolController()
    return _state.controller


def _renew() -> None:
    """Begin anew in a forked child: it has the pool's object, but none of its threads."""
    global _state
    if _state.holders > 0:
        _lift(_state.limit)
    _state = _State()


_state = _State()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
