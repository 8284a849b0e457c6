"""Memory that the ranks of a node have in common, by MPI-3."""

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["node_of", "shared_array"]


def node_of(comm: Any) -> Any:
    """Make the communicator of the ranks that have memory in common; all ranks take part."""
    from mpi4py import MPI  # which is loaded, as there is a communicator

    return comm.Split_type(MPI.COMM_TYPE_SHARED, comm.Get_rank())


def shared_array(node: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, Callable[[], None]]:
    """Make an array of float64 in memory of the first rank of a node; all ranks of the node take part.

    Returns
    -------
    array : ndarray
        The array, whose elements are not set.
    finish : callable
        To be called by all ranks when each has written what it writes: then all see what the others wrote.
    """
    from mpi4py import MPI

    n_bytes = 8 * int(np.prod(shape, dtype=np.int64))
    window = MPI.Win.Allocate_shared(n_bytes if node.Get_rank() == 0 else 0, 8, comm=node)
    memory: Any = window.Shared_query(0)[0]
    window.Lock_all()

    def finish() -> None:
        window.Sync()
        node.Barrier()
        window.Sync()

    return np.frombuffer(memory, np.float64).reshape(shape), finish
