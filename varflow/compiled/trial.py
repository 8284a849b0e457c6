"""A first call in a child process, which may die, and what it tells of the function.

The child is forked: an address is good in no other process.
"""

import faulthandler
import logging
import mmap
import os
import select
import warnings
from collections.abc import Callable
from contextlib import suppress
from traceback import format_exception_only

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import read_only
from varflow.runtime.child_processes import describe_end
from varflow.runtime.threads import end_idle_threads

__all__ = ["complaint_of_trial"]

FloatArray = npt.NDArray[np.float64]
# x (n, d), values (n, m), space (n_at_once, d)
Evaluate = Callable[[FloatArray, FloatArray, FloatArray], object]

logger = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds after which it is said that f has not come back
MARGIN = 64  # numbers around each array, to be left alone
UNSET = -1.2345678901234567e-300  # what no function returns
SURVIVED = b"survived:"
FIRST_HALF = 1 << 30  # lower half of addresses


def complaint_of_trial(evaluate: Evaluate, x: FloatArray, m: int, n_at_once: int, hint: str) -> str:
    """Call a function in a child process at points x, two at most.

    Parameters
    ----------
    evaluate : callable
        Sets values (n, m) at points x (n, d), by means of space for those of a call.
    x : ndarray, (n, d)
        Points.
    m : int
        Number of components.
    n_at_once : int
        For how many points of a call there is to be space, at most.
    hint : str
        What to ask in the log where f does not come back.

    Returns
    -------
    str
        What is wrong with the function, in words that follow "f"; empty where nothing was seen.
    """
    if not hasattr(os, "fork"):
        raise NotImplementedError("check=True needs a system that can fork processes")
    end_idle_threads()
    receiver, sender = os.pipe()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _report(sender, evaluate, x[:2], m, n_at_once)
    os.close(sender)
    try:
        with os.fdopen(receiver, "rb") as file:
            if not select.select([file], [], [], PATIENCE)[0]:
                logger.warning("f has not come back from a call in a child process yet: %s", hint)
            said = file.read()
    except BaseException:  # Ctrl-C, while f does not come back
        with suppress(ProcessLookupError):
            os.kill(child, 9)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if said.startswith(SURVIVED):
        return said.removeprefix(SURVIVED).decode()
    return (
        f"did not survive a call in a child process, which {describe_end(os.waitstatus_to_exitcode(status))}"
    )


def _report(sender: int, evaluate: Evaluate, x: FloatArray, m: int, n_at_once: int) -> None:
    """Try the function, send what is found, and end this process without any of its parent's endings."""
    faulthandler.disable()  # how it died is told by the parent, in words
    try:
        words = _complaint(evaluate, x, m, n_at_once)
    except BaseException as error:
        words = "raised " + "".join(format_exception_only(error)).strip()
    os.write(sender, SURVIVED + words.encode())
    os._exit(0)


def _complaint(evaluate: Evaluate, x: FloatArray, m: int, n_at_once: int) -> str:
    """Say what is wrong with a function, as far as a few calls tell."""
    d = x.shape[1]
    alone = []
    for point in x:
        outcomes = [_outcome(evaluate, point[None], m, 1, around) for around in (0.25, 0.25, 0.75)]
        if words := next(filter(None, (words for _, words in outcomes)), ""):
            return words
        first, again, elsewhere = (values for values, _ in outcomes)
        if not np.array_equal(first, again, equal_nan=True):
            return ""  # it is random, or remembers: comparisons tell nothing
        if not np.array_equal(first, elsewhere, equal_nan=True):
            return f"reads more than the d = {d} coordinates of a point: it takes more dimensions"
        alone.append(first)
    together, words = _outcome(evaluate, x, m, min(n_at_once, len(x)), 0.25)
    if not words and not np.allclose(together, np.concatenate(alone), rtol=1e-10, equal_nan=True):
        words = (
            "has other values at two points at once than at each alone: x must be read as (n, d), x(d, n) in "
            "Fortran"
        )
    return words


def _outcome(
    evaluate: Evaluate, x: FloatArray, m: int, n_at_once: int, around: float
) -> tuple[FloatArray, str]:
    """Evaluate a function in arrays with margins that hold a number. Returns values and what is wrong."""
    n, d = x.shape
    points, space, values = (_Framed(size, around) for size in (x.shape, (n_at_once, d), (n, m)))
    points.inside[:], values.inside[:] = x, UNSET
    evaluate(read_only(points.inside), values.inside, space.inside)
    for frame in (points, space):
        if not frame.is_intact():
            return values.inside, f"writes beyond the d = {d} coordinates of a point"
    if not values.is_intact():
        return values.inside, f"writes more than m = {m} values for a point"
    if not np.array_equal(points.inside, x):
        return values.inside, "changes x, which it must not"
    if (values.inside == UNSET).any():
        return values.inside, f"leaves some of the m = {m} values of a point unset"
    return values.inside.copy(), ""


class _Framed:
    """Array inside a larger one, whose margins hold a number."""

    def __init__(self, shape: tuple[int, int], around: float) -> None:
        size = shape[0] * shape[1]
        self._all = _numbers(size + 2 * MARGIN)
        self._all[:] = self._around = around
        self.inside = self._all[MARGIN : MARGIN + size].reshape(shape)

    def is_intact(self) -> bool:
        margins = np.concatenate([self._all[:MARGIN], self._all[MARGIN + self.inside.size :]])
        return bool((margins == self._around).all())


def _numbers(size: int) -> FloatArray:
    """Make an array at an address that is a large number to whoever takes half of it for an int.

    A function of another kind that takes it for a number of dimensions does not return without a loop then.
    """
    try:
        place = mmap.mmap(-1, 1 << 32, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:  # there is no space for so much
        return np.empty(size)
    begin = np.frombuffer(place, np.uint8, 1).ctypes.data
    return np.frombuffer(place, np.float64, size, (FIRST_HALF - begin) % (1 << 32))
