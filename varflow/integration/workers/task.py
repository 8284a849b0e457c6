"""What goes to a worker and runs there: f, which is sent once and kept, and the points of a task."""

import pickle
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np

from varflow.errors import WorkerError
from varflow.integration.calls import evaluate_block
from varflow.integration.components import FloatArray, Values
from varflow.integration.workers.board import Place, noted
from varflow.integration.workers.sizes import CHUNK
from varflow.runtime.signals import leave_stopping_to_parent

__all__ = ["Function", "Reply", "evaluate_task", "not_picklable"]

MAX_KEPT = 4  # functions that a worker keeps


@dataclass
class Reply:
    """Values of f at the points of a task, a part for each call of f, and the seconds that f took."""

    values: list[Values]
    seconds: float


class Function:
    """The integrand as it travels to workers: by its key to those that have it, or whole.

    Threads of this process get f itself.

    Parameters
    ----------
    f : callable
        The integrand.
    vectorized : bool
        Whether it takes many points.
    key : str
        What the workers keep it by.
    content : bytes, callable or None
        What is sent of it: f as it was pickled here, f for the pool itself to pickle, or nothing.
    """

    def __init__(self, f: Callable[..., Any] | None, vectorized: bool, key: str, content: Any = None) -> None:
        self.is_here = f is not None
        self.vectorized = vectorized
        self._f, self._key, self._content = f, key, content

    @classmethod
    def both(
        cls, f: Callable[..., Any], vectorized: bool, dumps: Callable[[Any], bytes] | None
    ) -> tuple["Function", "Function"]:
        """Make one that is sent by its key, and one that is sent whole.

        Parameters
        ----------
        f, vectorized
            As above.
        dumps : callable or None
            What pickles f; None where the pool itself is to do it.

        Raises
        ------
        TypeError
            If f cannot be pickled.
        """
        key = uuid4().hex
        content: Any = f
        if dumps is not None:
            try:
                content = dumps(f)
            except Exception as error:  # PicklingError, AttributeError or TypeError by pickle, anything by f
                raise not_picklable(error) from error
        return cls(f, vectorized, key), cls(f, vectorized, key, content)

    def __reduce__(self) -> tuple[Any, ...]:
        return Function, (None, self.vectorized, self._key, self._content)

    def get(self) -> Callable[..., Any] | None:
        """Give f; None where it has not arrived in this process.

        It is unpickled here, and not when the task arrives: an exception there ends some workers silently.
        """
        if self._f is None and self._content is not None:
            _keep(self._key, self._unpickled())
        return self._f or _kept.get(self._key)

    def _unpickled(self) -> Callable[..., Any]:
        if not isinstance(self._content, bytes):
            f: Callable[..., Any] = self._content
            return f
        try:
            f = pickle.loads(self._content)
            return f
        except Exception as error:
            raise not_picklable(error) from error


def not_picklable(error: Exception) -> TypeError:
    """Say that f cannot be sent."""
    return TypeError(
        f"f cannot be pickled, to be sent to worker processes ({error}): define it at the top level of a "
        "module, or give workers=concurrent.futures.ThreadPoolExecutor()"
    )


_kept: dict[str, Callable[..., Any]] = {}  # of this process, a worker: the latest last


def _keep(key: str, f: Callable[..., Any]) -> None:
    leave_stopping_to_parent()
    _kept[key] = f
    while len(_kept) > MAX_KEPT:
        del _kept[next(iter(_kept))]


def evaluate_task(function: Function, points: FloatArray, place: Place = None) -> Reply | None:
    """Evaluate f at the points of a task, in a worker; None where f has to be sent first."""
    f = function.get()
    if f is None:
        return None
    blocks = np.array_split(points, -(-len(points) // CHUNK))
    with noted(place):
        begin = time.perf_counter()
        try:
            values = [evaluate_block(f, function.vectorized, block) for block in blocks]
            return Reply(values, time.perf_counter() - begin)
        except Exception as error:
            if function.is_here or _survives_pickling(error):
                raise
            told = f"f raised an exception that cannot be sent between processes:\n{traceback.format_exc()}"
        raise WorkerError(told)  # here, without the context, which some pickle as well


def _survives_pickling(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True
