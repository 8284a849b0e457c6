"""Who is at which task: processes of this machine note it in a file, which outlives them."""

import os
import shutil
import struct
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from mmap import mmap
from pathlib import Path

__all__ = ["Board", "Place", "noted"]

Place = tuple[str, int] | None  # a file, and a place in it

_NUMBER = struct.Struct("q")


class Board:
    """File with the process that is at each task; without any effect where no file can be written.

    Parameters
    ----------
    n : int
        Number of tasks that are out at the same time, at most.
    """

    def __init__(self, n: int) -> None:
        self._free = list(range(n))
        self._path: Path | None = None
        with suppress(OSError):
            folder = tempfile.mkdtemp(prefix="varflow-")
            self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._path = Path(folder, "board")
            self._path.write_bytes(bytes(_NUMBER.size * n))

    def take(self) -> Place:
        """Give a place for a task."""
        return None if self._path is None else (str(self._path), self._free.pop())

    def give_back(self, place: Place) -> None:
        """Take a place back from a task that is done."""
        if place is not None:
            self._free.append(place[1])

    def process_at(self, place: Place) -> int:
        """Give the number of the process that is at a task, or was when it ended; 0 where there is none."""
        if self._path is None or place is None:
            return 0
        (found,) = _NUMBER.unpack_from(self._path.read_bytes(), place[1] * _NUMBER.size)
        return int(found)

    def close(self) -> None:
        """Remove the file."""
        if self._path is not None:
            self._remove()
            self._path = None


@contextmanager
def noted(place: Place) -> Iterator[None]:
    """Note, in a worker, that this process is at a task."""
    board = None if place is None else _opened(place[0])
    if place is None or board is None:
        yield
        return
    _NUMBER.pack_into(board, place[1] * _NUMBER.size, os.getpid())
    try:
        yield
    finally:
        _NUMBER.pack_into(board, place[1] * _NUMBER.size, 0)


@lru_cache(maxsize=8)
def _opened(path: str) -> mmap | None:
    """Open the file; None on another machine, which does not have it."""
    try:
        with open(path, "r+b") as file:
            return mmap(file.fileno(), 0)
    except (OSError, ValueError):
        return None
