"""Calls of an integrand that the ranks of a communicator share: each evaluates some of the points.

Points are dealt out in parts: each rank takes the next part when it is done with its last, so that ranks
whose points are dear get fewer. A part takes so long, by the measured time of a point, that taking it does
not count, nor sending it to workers that a rank may have; where that is not much less than the share of a
rank, each rank evaluates its share at once.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np

from varflow.integration.components import FloatArray, describe_shapes
from varflow.integration.received import Received
from varflow.integration.workers.sizes import SHORTEST, TASKS_PER_WORKER
from varflow.runtime.communicator import Communicator
from varflow.runtime.threads import share

__all__ = ["SharedCalls"]

PART_SECONDS = 5e-4  # a hundred times what it takes to get a part
POOL_SECONDS = TASKS_PER_WORKER * SHORTEST  # of a part that goes to workers in tasks
FIRST_PARTS = 32  # a rank, where nothing is known of the time yet
MIN_PARTS = 2  # a rank: with fewer, there is nothing to be balanced

Evaluate = Callable[[FloatArray], FloatArray]


class SharedCalls:
    """Calls that the ranks share; all of them get all values.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    has_workers : bool
        Whether this rank has workers, which evaluate what it takes.
    """

    def __init__(self, comm: Communicator, has_workers: bool) -> None:
        self._comm, self._has_workers = comm, has_workers
        self._part_seconds = PART_SECONDS
        self._seconds_a_point: float | None = None
        self._is_structure_agreed = False  # alike on all ranks, which what one of them knows is not

    @property
    def n_ranks(self) -> int:
        """Number of ranks."""
        return self._comm.size

    def __call__(self, evaluate: Evaluate, x: FloatArray, received: Received) -> FloatArray:
        """Evaluate all points.

        Parameters
        ----------
        evaluate : callable
            Points (n, d) -> values (n, m), on this rank.
        x : ndarray, (n, d)
            The points, the same on all ranks.
        received : Received
            The structure of values, which is found out at the first call.

        Returns
        -------
        ndarray, (n, m)
            The values at all points.

        Raises
        ------
        Exception
            What `evaluate` raises on any rank, on all of them.
        """
        begin = time.perf_counter()
        try:
            parts = [(rows, evaluate(x[rows])) for rows in self._parts(len(x))]
        except BaseException:
            self._comm.stop_dealing()  # the others need not go on
            raise
        seconds = time.perf_counter() - begin
        if not self._is_structure_agreed:
            self._agree_on_structure(received)
        assert received.components is not None
        values = np.zeros((len(x), received.components.size))
        for rows, found in parts:
            values[rows] = found
        told = int(1e6 * seconds), int(self._has_workers)
        microseconds, n_with_workers = self._comm.add_up(*told, about=x.tobytes())
        self._comm.merge(values)
        self._part_seconds = POOL_SECONDS if n_with_workers else PART_SECONDS  # alike on all ranks
        self._seconds_a_point = 1e-6 * microseconds / len(x)
        return values

    def _parts(self, n: int) -> Iterator[slice]:
        """Take rows of n points, until there are no more."""
        comm, seconds = self._comm, self._seconds_a_point
        n_part = (
            n // (FIRST_PARTS * comm.size)
            if seconds is None
            else int(min(self._part_seconds / max(seconds, 1e-9), n))
        )
        n_part = max(n_part, 1)
        if n_part * MIN_PARTS * comm.size > n and n_part > 1:
            begin, end = share(comm.rank, comm.size, n)
            if end > begin:
                yield slice(begin, end)
            return
        for k in comm.deal(-(-n // n_part)):
            yield slice(k * n_part, min((k + 1) * n_part, n))

    def _agree_on_structure(self, received: Received) -> None:
        """Let ranks without a point know what f returns; all others must have got the same."""
        own = received.state()
        states = self._comm.gather(own["components"])
        rank, known = next((rank, state) for rank, state in enumerate(states) if state is not None)
        for other, state in enumerate(states):
            if state is not None and state != known:
                found = [self._shapes(received, one) for one in (known, state)]
                raise ValueError(
                    f"f must return the same on all ranks: got {found[0]} at each point on rank {rank}, and "
                    f"{found[1]} on rank {other}"
                )
        received.restore(own | {"components": known})
        self._is_structure_agreed = True

    @staticmethod
    def _shapes(received: Received, state: object) -> str:
        other = Received(received.on_invalid, received.is_log)
        other.restore({"n_invalid": 0, "components": state})
        assert other.shapes is not None
        return describe_shapes(other.shapes)
