"""Worker processes that evaluate an integrand: starting and ending them, and what runs in them.

They are forked where the platform supports that well (not on macOS). A process that is started anew could not
find a function defined in a notebook, in a file loaded by the command line, or in a script that does not
guard its main part.
"""

import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_all_start_methods, get_context, get_start_method
from typing import Any

from varflow.errors import WorkerError
from varflow.integration.calls import evaluate_block
from varflow.integration.components import FloatArray, Values
from varflow.runtime.signals import ignore_in_worker
from varflow.runtime.threads import end_idle_threads

__all__ = ["evaluate_received", "kill_workers", "start_workers"]


def start_workers(f: Callable[..., Any], vectorized: bool, n_workers: int) -> ProcessPoolExecutor:
    """Start worker processes, after the idle threads of varflow have ended, and submit a first task."""
    can_fork = "fork" in get_all_start_methods() and sys.platform != "darwin"
    chosen = get_start_method(allow_none=True)  # by the host
    is_default = chosen in (None, get_all_start_methods()[0])
    context = get_context("fork" if can_fork and is_default else chosen)
    pool = ProcessPoolExecutor(n_workers, context, receive, (pickled(f), vectorized))
    end_idle_threads()
    with warnings.catch_warnings():
        # Python 3.12 warns of any thread; those left belong to libraries that can handle forks, or the host.
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        pool.submit(_do_nothing)  # starts the processes
    return pool


def kill_workers(pool: ProcessPoolExecutor) -> None:
    """Kill worker processes, which might not respond to anything milder."""
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(cancel_futures=True)


def _do_nothing() -> None:
    pass


def pickled(f: Callable[..., Any]) -> bytes:
    """Pickle f, once for all worker processes; raise TypeError if that fails."""
    try:
        return pickle.dumps(f)
    except Exception as error:  # PicklingError, AttributeError or TypeError by pickle, anything by f
        raise TypeError(_not_picklable(error)) from error


def _not_picklable(error: Exception) -> str:
    return (
        f"f cannot be pickled, to be sent to worker processes ({error}): define it at the top level of a "
        "module, or give workers=executor.map of a concurrent.futures.ThreadPoolExecutor"
    )


# The code below runs in the worker processes. Each unpickles f once, at its first block and not when it
# starts: an exception at the start would end the process without being reported.

_sent: tuple[bytes, bool] = (b"", True)


def receive(pickled: bytes, vectorized: bool) -> None:
    """Receive the pickled f in a worker process; it is unpickled later."""
    global _sent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which ends its workers
    ignore_in_worker()
    _sent = pickled, vectorized


@lru_cache(maxsize=1)
def _received(pickled: bytes) -> Callable[..., Any]:
    try:
        f: Callable[..., Any] = pickle.loads(pickled)
        return f
    except Exception as error:
        raise TypeError(_not_picklable(error)) from error


def evaluate_received(points: FloatArray) -> Values:
    """Evaluate f at a block of points in a worker process."""
    pickled, vectorized = _sent
    f = _received(pickled)
    try:
        return evaluate_block(f, vectorized, points)
    except Exception as error:
        if _survives_pickling(error):
            raise
        raise WorkerError(
            "f raised an exception that cannot be sent between processes:\n" + traceback.format_exc()
        ) from None


def _survives_pickling(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True
