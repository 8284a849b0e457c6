"""What runs in the worker processes of an integrand."""

import pickle
import signal
import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from varflow.integration.calls import evaluate_block
from varflow.integration.components import FloatArray, Values

__all__ = ["evaluate_received", "pickled", "receive"]


def pickled(f: Callable[..., Any]) -> bytes:
    """Pickle f, once for all worker processes."""
    try:
        return pickle.dumps(f)
    except (
        Exception
    ) as error:  # pickle raises PicklingError, AttributeError or TypeError, and f what it likes
        raise TypeError(_not_picklable(error)) from error


def _not_picklable(error: Exception) -> str:
    return (
        f"f cannot be pickled, to be sent to worker processes ({error}): define it at the top level of a "
        "module, or give workers=executor.map of a concurrent.futures.ThreadPoolExecutor"
    )


# What follows runs in the worker processes. Each unpickles f once, at its first block and not when it starts:
# an exception there would end the process, and nobody would learn of it.

_sent: tuple[bytes, bool] = (b"", True)


def receive(pickled: bytes, vectorized: bool) -> None:
    """Take up f in a worker process; it is unpickled later."""
    global _sent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    _sent = pickled, vectorized


@lru_cache(maxsize=1)
def _received(pickled: bytes) -> Callable[..., Any]:
    try:
        f: Callable[..., Any] = pickle.loads(pickled)
        return f
    except Exception as error:
        raise TypeError(_not_picklable(error)) from error


def evaluate_received(points: FloatArray) -> Values:
    """Call f for a block of points in a worker process."""
    pickled, vectorized = _sent
    f = _received(pickled)
    try:
        return evaluate_block(f, vectorized, points)
    except Exception as error:
        if _survives_pickling(error):
            raise
        raise RuntimeError(
            "f raised an exception that cannot be sent between processes:\n" + traceback.format_exc()
        ) from None


def _survives_pickling(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True
