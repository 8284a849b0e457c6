"""Worker processes that evaluate an integrand: starting and ending them, and what runs in them.

They are forked where the platform supports that well (not on macOS). A process that is started anew could not
find a function defined in a notebook, in a file loaded by the command line, or in a script that does not
guard its main part.
"""

import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_all_start_methods, get_context, get_start_method
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from varflow.errors import WorkerDiedError, WorkerError
from varflow.integration.calls import evaluate_block
from varflow.integration.components import FloatArray, Values
from varflow.runtime.child_processes import describe_end
from varflow.runtime.signals import ignore_in_worker
from varflow.runtime.threads import end_idle_threads

__all__ = ["Workers"]

BLOCKS_PER_WORKER = 4  # so that fast workers take over blocks from slow ones
_KILLED = (-signal.SIGTERM, -getattr(signal, "SIGKILL", 9))  # how the pool, and varflow, end the others


class Workers:
    """Worker processes, after the idle threads of varflow have ended; they have a first task."""

    def __init__(self, f: Callable[..., Any], vectorized: bool, n_workers: int) -> None:
        can_fork = "fork" in get_all_start_methods() and sys.platform != "darwin"
        chosen = get_start_method(allow_none=True)  # by the host
        is_default = chosen in (None, get_all_start_methods()[0])
        context = get_context("fork" if can_fork and is_default else chosen)
        self.n_blocks = n_workers * BLOCKS_PER_WORKER
        self._callers = context.RawArray("q", self.n_blocks)  # which process has which block
        self._pool = ProcessPoolExecutor(n_workers, context, receive, (pickled(f), vectorized, self._callers))
        end_idle_threads()
        with warnings.catch_warnings():
            # Python 3.12 warns of any thread; those left belong to libraries that can handle forks, or to
            # the host.
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
            self._pool.submit(_do_nothing)  # starts the processes

    def evaluate(self, blocks: list[FloatArray]) -> list[Values]:
        """Evaluate f at blocks of points, at most `n_blocks` of them.

        Raises
        ------
        WorkerDiedError
            If a process ends. The others are killed, and there are no workers any more.
        """
        self._callers[:] = [0] * self.n_blocks
        processes = list((self._pool._processes or {}).values())
        try:
            return list(self._pool.map(evaluate_received, range(len(blocks)), blocks))
        except BrokenProcessPool as error:
            ready = wait([process.sentinel for process in processes], timeout=0)
            ended = [process for process in processes if process.sentinel in ready]
            kill_workers(self._pool)
            raise self._death(processes, ended, blocks, error) from error

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)

    def _death(
        self, processes: list[Any], ended: list[Any], blocks: list[FloatArray], error: BrokenProcessPool
    ) -> WorkerDiedError:
        """Tell which process ended, how, and at which points.

        The others were killed: by the pool, which may have begun when those were found that had `ended`, or
        here.
        """
        at_first = [process for process in ended if process.exitcode != -signal.SIGTERM]
        by_itself = [process for process in processes if process.exitcode not in (None, *_KILLED)]
        dead = next(iter([*at_first, *by_itself, *ended]), None)
        callers = list(self._callers)
        if dead is None or dead.pid not in callers:
            told = WorkerDiedError(f"a worker process ended abruptly, before it called f or after: {error}")
            told.x = np.empty((0, blocks[0].shape[1]))
            return told
        x = blocks[callers.index(dead.pid)]
        told = WorkerDiedError(
            f"a worker process {describe_end(dead.exitcode)} while it called f with x of shape {x.shape}, "
            f"first point {x[0].tolist()}"
        )
        told.x = x.copy()
        return told


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
_callers: Any = []


def receive(pickled: bytes, vectorized: bool, callers: Any) -> None:
    """Receive the pickled f in a worker process; it is unpickled later."""
    global _sent, _callers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which ends its workers
    ignore_in_worker()
    _sent, _callers = (pickled, vectorized), callers


@lru_cache(maxsize=1)
def _received(pickled: bytes) -> Callable[..., Any]:
    try:
        f: Callable[..., Any] = pickle.loads(pickled)
        return f
    except Exception as error:
        raise TypeError(_not_picklable(error)) from error


def evaluate_received(k: int, points: FloatArray) -> Values:
    """Evaluate f at the k-th block of points in a worker process."""
    pickled, vectorized = _sent
    f = _received(pickled)
    _callers[k] = os.getpid()
    try:
        return evaluate_block(f, vectorized, points)
    except Exception as error:
        if _survives_pickling(error):
            raise
        raise WorkerError(
            "f raised an exception that cannot be sent between processes:\n" + traceback.format_exc()
        ) from None
    finally:
        _callers[k] = 0


def _survives_pickling(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True
