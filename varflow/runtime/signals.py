"""Signals by which batch systems announce the end of a job, and the wish to stop that they stand for."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = [
    "SIGNALS",
    "ignore_in_worker",
    "is_stop_requested",
    "leave_stopping_to_parent",
    "request_stop",
    "stop_by_signals",
    "stoppable_run",
]

SIGNALS = ("SIGTERM", "SIGUSR1")  # by which batch systems announce the end

_stop = threading.Event()  # set by a signal, for all runs of the process
_owner = 0  # the process that handles them
_runs: list[object] = []  # that keep a checkpoint, and go on now


@contextmanager
def stop_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 stop the runs of the process that keep a checkpoint, after a complete step.

    They write their checkpoints and raise `Preempted`. While no such run goes on, the signals end the process
    as they do outside of the block. One that the process ignores, as its parent may have wanted, stays
    ignored. At the end of the block the signals do what they did before it.

    Yields
    ------
    None
        Nothing.

    Raises
    ------
    RuntimeError
        If a signal has a handler already, which would be replaced, or this is not the main thread.

    Examples
    --------
    >>> import os, signal
    >>> def f(x):
    ...     os.kill(os.getpid(), signal.SIGTERM)  # as a batch system does when the time is up
    ...     return x[:, 0]
    >>> with vf.stop_by_signals():
    ...     try:
    ...         vf.integrate(f, 2, n_calls=10_000, checkpoint="integral.ckpt", seed=1)
    ...     except vf.Preempted:
    ...         print("submit the job again, with resume=True")
    submit the job again, with resume=True
    """
    global _owner
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals can be handled in the main thread only")
    handlers = {number: signal.getsignal(number) for number in _numbers()}
    for number, handler in handlers.items():
        if handler not in (signal.SIG_DFL, signal.SIG_IGN):
            raise RuntimeError(
                f"{signal.Signals(number).name} has a handler already, {handler!r}: "
                "call varflow.request_stop() in it instead"
            )
    handled = [number for number, handler in handlers.items() if handler is signal.SIG_DFL]
    _stop.clear()
    _owner = os.getpid()
    try:
        for number in handled:
            signal.signal(number, _on_signal)
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
        _stop.clear()


def request_stop() -> None:
    """Do what the signals of `stop_by_signals` do, for programs with handlers of their own.

    It may be called in a handler. No run that keeps a checkpoint goes on in this process then.

    Examples
    --------
    >>> import signal
    >>> def on_signal(number, frame):
    ...     vf.request_stop()
    >>> before = signal.signal(signal.SIGUSR1, on_signal)
    >>> before = signal.signal(signal.SIGUSR1, before)  # as it was
    """
    _stop.set()


def is_stop_requested() -> bool:
    """Tell whether runs that keep a checkpoint are to stop."""
    return _stop.is_set()


@contextmanager
def stoppable_run() -> Iterator[None]:
    """Note that a run goes on which looks at `is_stop_requested`, so that a signal leaves the end to it."""
    run = object()
    _runs.append(run)
    try:
        yield
    finally:
        _runs.remove(run)


def ignore_in_worker() -> None:
    """Ignore, in a worker process, the signals that the process it was forked from handles."""
    for number in _numbers():
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_IGN)


def leave_stopping_to_parent() -> None:
    """In a worker process of the host, undo what it was forked with: it must not stop, but can be ended.

    SIGUSR1 is ignored there, and SIGTERM, by which pools end their workers, ends the process.
    """
    if _owner == os.getpid() or threading.current_thread() is not threading.main_thread():
        return
    for number in _numbers():
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _runs:
        request_stop()
    else:  # nobody would look at the wish
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
