"""Memory that the ranks of a node have in common.

It is a file in memory, which all of them map, and whose name is gone by then: it is given back as soon as
none of them uses it any more.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["mapped", "named_memory", "node_of"]

FOLDER = "/dev/shm"  # on Linux; elsewhere files for temporary use have to do


def node_of(comm: Any) -> Any:
    """Make the communicator of the ranks that have memory in common; all ranks take part."""
    from mpi4py import MPI  # which is loaded, as there is a communicator

    return comm.Split_type(MPI.COMM_TYPE_SHARED, comm.Get_rank())


@contextmanager
def named_memory(n_bytes: int) -> Iterator[str]:
    """Make memory that has a name, which other processes find it by, until the end of the block.

    Raises
    ------
    OSError
        If there is no room for it.
    """
    folder = FOLDER if os.path.isdir(FOLDER) else tempfile.gettempdir()
    handle, name = tempfile.mkstemp(prefix="varflow-", dir=folder)
    try:
        _reserve(handle, n_bytes, folder)
        yield name
    finally:
        os.close(handle)
        os.unlink(name)


def _reserve(handle: int, n_bytes: int, folder: str) -> None:
    try:
        if hasattr(os, "posix_fallocate"):  # or else a process would be killed where it first writes too much
            os.posix_fallocate(handle, 0, max(n_bytes, 1))
        else:
            os.ftruncate(handle, max(n_bytes, 1))
    except OSError as error:
        raise OSError(
            error.errno,
            f"no room in {folder} for {n_bytes:,} bytes that the ranks of a node have in common: give fewer "
            "points, or have it enlarged, as by --shm-size of a container",
        ) from error


def mapped(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Map memory by its name, as an array."""
    with open(name, "r+b") as file:
        return np.ndarray(shape, dtype, mmap.mmap(file.fileno(), 0))
