"""What processes agree by that work together; a process on its own agrees with itself."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["ALONE", "Communicator"]

T = TypeVar("T")


class Communicator:
    """A process on its own, which has nobody to agree with.

    Attributes
    ----------
    rank, size : int
        Number of the process, from 0, and number of processes.
    n_failures : int
        How often a rank has failed so far.
    """

    rank, size, n_failures = 0, 1, 0

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that reads, writes and prints."""
        return self.rank == 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run the block on all ranks: an exception on one of them is raised on all."""
        yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """Do what `together` does, for a run: Ctrl-C waits for the end of an exchange."""
        yield

    def first(self, call: Callable[[], T]) -> T:
        """Call on the first rank alone; what it returns or raises, all return or raise."""
        return call()

    def gather(self, value: T) -> list[T]:
        """Give the value of each rank, in their order."""
        return [value]

    def collect(self, value: T) -> list[T]:
        """Give the first rank the value of each, in their order, and the others nothing."""
        return [value]

    def add_up(self, *numbers: int, about: bytes = b"") -> list[int]:
        """Add up whole numbers of all ranks, `N_NUMBERS` at most.

        Parameters
        ----------
        *numbers : int
            The numbers of this rank.
        about : bytes
            What must be the same on all ranks for this to have a meaning.
        """
        return list(numbers)

    def any(self, *flags: bool) -> list[bool]:
        """Tell for each flag whether it is set on any rank."""
        return [number > 0 for number in self.add_up(*map(int, flags))]

    def merge(self, array: np.ndarray) -> None:
        """Give all ranks what each has in an array, in place; every element is zero on all ranks but one.

        The bytes of the array must be a multiple of 8, and it must be C-contiguous.
        """

    def node_rank(self) -> int:
        """Give the number of this rank among those of its node, which have memory in common."""
        return 0

    def fill_shared(
        self,
        shape: tuple[int, ...],
        fill: Callable[[int, int], np.ndarray],
        is_by_first: bool = False,
        dtype: npt.DTypeLike = np.float64,
    ) -> np.ndarray:
        """Make an array that the ranks of a node have in common, where there are several.

        Parameters
        ----------
        shape : tuple of int
            Shape of the array.
        fill : callable
            Gives its rows, from a first one to another that ends them: each rank is asked for parts of a
            share. What it gives for a row must not depend on the others.
        is_by_first : bool
            Whether the first rank of each node is asked for all at once.
        dtype : dtype
            Type of its numbers.

        Returns
        -------
        ndarray
            The array; not to be written to.
        """
        return fill(0, shape[0])

    def reduce(self, rows: np.ndarray, reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Reduce the rows of all ranks, each rank those of a share of the columns.

        Parameters
        ----------
        rows : ndarray, (k, n)
            Rows of this rank; those of all ranks, one after the other, are what is reduced.
        reduce : callable
            (all rows, any number of columns) -> (columns,), which treats each column by itself.

        Returns
        -------
        ndarray, (n,)
            The outcome, on all ranks.
        """
        return reduce(rows)

    def check_same(self, what: str, values: Mapping[str, object]) -> None:
        """Raise ValueError where values, or versions, differ between ranks; the message names them by rank.

        Parameters
        ----------
        what : str
            What they are of, for the message.
        values : mapping of str to object
            Values by name; they are compared as text.
        """

    def deal(self, n: int) -> Iterator[int]:
        """Take items of n, which no other rank takes, until there are none; once between two exchanges."""
        yield from range(n)

    def stop_dealing(self) -> None:
        """Leave no items to the other ranks."""


ALONE = Communicator()
