"""The choice whether ranks share the lanes of a step, or each computes all, by the time that it takes.

The gradient has the same bits either way. What is shared has to be sent: for each parameter, about as many
numbers as a rank has lanes, and the sum. That pays where a step is long for its number of parameters.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from varflow.runtime.communicator import Communicator

__all__ = ["Sharing"]

# Whether to share the first steps of one size; the first may compile, or touch memory for the first time.
TRIALS = (True, False, True, False, True)
N_UNTIMED = 1
ENOUGH = 0.9  # of the time alone, that a shared step may take to be chosen


class Sharing:
    """Trials and choices, one for each number of rows.

    Parameters
    ----------
    comm : Communicator
        The ranks, which take the same steps.
    """

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self._begin()

    def _begin(self) -> None:
        self._n_failures = self._comm.n_failures
        self._seconds: dict[int, list[float]] = {}
        self._choices: dict[int, bool] = {}

    @contextmanager
    def step(self, n_rows: int) -> Iterator[bool]:
        """Tell whether to share a step on so many rows, which the block takes."""
        if self._comm.size == 1:
            yield False
            return
        if self._n_failures != self._comm.n_failures:  # ranks may have taken different numbers of steps since
            self._begin()
        if n_rows in self._choices:
            yield self._choices[n_rows]
            return
        seconds = self._seconds.setdefault(n_rows, [])
        begin = time.perf_counter()
        yield TRIALS[len(seconds)]
        seconds.append(time.perf_counter() - begin)
        if len(seconds) == len(TRIALS):
            self._choose(n_rows, seconds)

    def _choose(self, n_rows: int, seconds: list[float]) -> None:
        timed = list(zip(TRIALS, seconds, strict=True))[N_UNTIMED:]
        alone, shared = (sum(one for way, one in timed if way is wanted) for wanted in (False, True))
        alone, shared = self._comm.add_up(int(1e9 * alone), int(1e9 * shared))
        self._choices[n_rows] = shared < ENOUGH * alone
