"""Dealing of items to ranks, each the next one when it is done with the last, by a counter in reach of all.

The counter lies in memory of the first rank, which the others add to by one-sided communication of MPI-3:
no rank has to answer them. Where a network needs the help of the first rank for that, it helps when it
takes an item itself.

There are two counters, used in turn between one exchange of the ranks and the next. The first rank sets a
counter back at the beginning of the exchange after which it is used: nobody uses it then, since its last
use ended with the exchange before.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["Dealer"]

PAST_THE_LAST = np.int64(1) << 60


class Dealer:
    """Counters of the items that have been dealt. Making one takes part of all ranks, as does `close`.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The ranks.
    """

    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI  # which is loaded, as there is a communicator

        self._replace, self._is_first = MPI.REPLACE, comm.Get_rank() == 0
        n_bytes = 2 * 8 if self._is_first else 0
        self._window = MPI.Win.Allocate(n_bytes, 8, comm=comm)
        self._window.Lock_all()
        for counter in (0, 1):
            self.prepare(counter)
        comm.Barrier()

    def prepare(self, counter: int) -> None:
        """Set a counter back, before it is dealt by."""
        if self._is_first:
            self._fetch(np.int64(0), counter, op=self._replace)

    def items(self, n: int, counter: int) -> Iterator[int]:
        """Take items of n by a counter, which other ranks do not get, as long as there are any."""
        while (item := self._fetch(np.int64(1), counter)) < n:
            yield item

    def stop(self, counter: int) -> None:
        """Leave no items to the other ranks."""
        self._fetch(PAST_THE_LAST, counter)

    def close(self) -> None:
        """Release the memory."""
        self._window.Unlock_all()
        self._window.Free()

    def _fetch(self, number: np.int64, counter: int, **options: Any) -> int:
        """Add a number to a counter, or put it there, at once for all ranks; return what was there before.

        Exchanges are numbered, and counters taken in turn.
        """
        before = np.zeros(1, np.int64)
        self._window.Fetch_and_op(np.array([number]), before, 0, counter % 2, **options)
        self._window.Flush(0)
        return int(before[0])
