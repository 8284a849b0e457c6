"""Worker processes of varflow's own: starting and ending them.

They are forked where the platform supports that well (not on macOS). A process that is started anew could not
find a function defined in a notebook, in a file loaded by the command line, or in a script that does not
guard its main part.
"""

import signal
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context, get_start_method
from typing import Any

from varflow.errors import WorkerDiedError
from varflow.integration.workers.executors import ProcessesPool
from varflow.integration.workers.futures import Failure
from varflow.runtime.signals import ignore_in_worker
from varflow.runtime.threads import end_idle_threads

__all__ = ["OwnProcesses"]


class OwnProcesses(ProcessesPool):
    """Worker processes that are started when they are needed, and ended by `close`.

    Parameters
    ----------
    f, vectorized
        See `Pool`.
    n_workers : int
        How many.
    """

    def __init__(self, f: Callable[..., Any], vectorized: bool, n_workers: int) -> None:
        super().__init__(f, vectorized)
        self._n = n_workers
        self._executor: ProcessPoolExecutor | None = None

    def count(self) -> int:  # noqa: D102
        return self._n

    def open(self) -> None:
        """Start the processes, after the idle threads of varflow have ended."""
        self.executor()

    def executor(self) -> ProcessPoolExecutor:  # noqa: D102
        if self._executor is None:
            _ = self.functions  # where f cannot be sent, no process is started
            self._executor, self.n_sent = _started(self._n), 0
        return self._executor

    def notice(self, error: Exception) -> None:  # noqa: D102
        super().notice(error)
        if isinstance(error, BrokenExecutor):  # they might not respond to anything milder
            for process in self._processes:
                process.kill()

    def explained(self, failures: list[Failure]) -> Exception:  # noqa: D102
        error = super().explained(failures)
        if isinstance(error, WorkerDiedError):
            self.close()  # later tasks go to new processes
        return error

    def close(self) -> None:
        """End the processes."""
        super().close()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        self._executor, self._processes = None, []


def _started(n_workers: int) -> ProcessPoolExecutor:
    can_fork = "fork" in get_all_start_methods() and sys.platform != "darwin"
    chosen = get_start_method(allow_none=True)  # by the host
    is_default = chosen in (None, get_all_start_methods()[0])
    context = get_context("fork" if can_fork and is_default else chosen)
    executor = ProcessPoolExecutor(n_workers, context, _begin)
    end_idle_threads()
    with warnings.catch_warnings():
        # Python 3.12 warns of any thread; those left belong to libraries that can handle forks, or to the
        # host.
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        executor.submit(_do_nothing)  # starts the processes
    return executor


def _begin() -> None:
    """Leave signals to the process that this one was started by, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ignore_in_worker()


def _do_nothing() -> None:
    pass
