"""Ranks that work together by MPI: each runs the same program, and what differs between them is agreed upon.

All ranks compute the same from the same seed. What they share out, or what only one of them knows, goes
through exchanges, in which all of them take part. Each begins with a sum of a few numbers of every rank,
always of the same form: whether a rank has failed, a checksum of what the exchange is about, and numbers
that are wanted. So a rank that has failed, wherever that was, takes part in the next exchange of the
others, and all of them end with what it tells. Ranks that have come to different places, or have other
points, find that out there as well.

Arrays are added up as integers: each element is zero on all ranks but one, so that it keeps all its bits.

An exchange must not be left halfway, as the exception of Ctrl-C would; see `Ranks.running`.
"""

import logging
import math
import platform
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from varflow._version import __version__
from varflow.runtime.communicator import ALONE, Communicator
from varflow.runtime.dealer import Dealer
from varflow.runtime.failures import packed, unpacked
from varflow.runtime.launcher import alone_in_words, is_alone_by_mistake
from varflow.runtime.node_memory import mapped, named_memory, node_of
from varflow.runtime.threads import share

__all__ = ["as_communicator"]

T = TypeVar("T")

VERSIONS = {
    "varflow": __version__,
    "Python": platform.python_version(),
    "NumPy": np.__version__,
    "Numba": numba.__version__,
}
FILLED_AT_ONCE = 1 << 18  # rows, so that what they are made from takes little memory
N_NUMBERS = 3  # that an exchange may add up
SPIN_SECONDS = 2e-4  # to look for the others without a pause
PAUSE = 5e-5  # seconds between two looks after that: those that wait leave the processor to those that work
WORD = np.dtype(np.int64)


class Ranks(Communicator):
    """The ranks of an intracommunicator of mpi4py; see the module's docstring.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The communicator.
    """

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._dealer: Dealer | None = None
        self._node: Any = None  # the ranks of this node
        self._n_exchanges = 0
        self._told: BaseException | None = None  # by an exchange, to this rank or by it
        self._is_running = self._is_exchanging = self._is_interrupted = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run the block on all ranks: an exception on one of them is raised on all."""
        with self._telling():
            yield
        self._exchange()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Do what `together` does, for a run.

        Ctrl-C in the middle of an exchange is raised at its end. Other ranks than the first log errors alone.
        """
        if self._is_running:  # as a training within an integration
            with self.together():
                yield
            return
        self._is_running = True
        try:
            with self._interruptible(), self._quiet(), self.together():
                yield
        finally:
            self._is_running = False
            dealer, self._dealer = self._dealer, None
            if dealer is not None:
                dealer.close()

    def first(self, call: Callable[[], T]) -> T:
        """Call on the first rank alone; what it returns or raises, all return or raise."""
        with self._telling():
            value = call() if self.is_first else None
        return self._exchange(about=b"first", then=lambda: self._comm.bcast(value, root=0))[1]

    def gather(self, value: T) -> list[T]:
        """Give the value of each rank, in their order."""
        return self._exchange(about=b"gather", then=lambda: self._comm.allgather(value))[1]

    def collect(self, value: T) -> list[T]:
        """Give the first rank the value of each, in their order, and the others nothing."""
        return self._exchange(about=b"collect", then=lambda: self._comm.gather(value, root=0))[1] or []

    def add_up(self, *numbers: int, about: bytes = b"") -> list[int]:
        """Add up whole numbers of all ranks, `N_NUMBERS` at most; see `Communicator.add_up`.

        Raises
        ------
        RuntimeError
            On all ranks, if `about` differs between them.
        """
        sums, _ = self._exchange(*numbers, about=about)
        return sums[: len(numbers)]

    def merge(self, array: np.ndarray) -> None:
        """Give all ranks what each has in an array, in place; every element is zero on all ranks but one."""
        words = array.reshape(-1).view(WORD)
        about = b"merge %d" % len(words)
        self._exchange(about=about, then=lambda: self._sum(words, words))

    def node_rank(self) -> int:
        """Give the number of this rank among those of its node, which have memory in common."""
        return int(self._node_comm().Get_rank())

    def _node_comm(self) -> Any:
        if self._node is None:
            self._node = self._exchange(about=b"node", then=lambda: node_of(self._comm))[1]
        return self._node

    def fill_shared(
        self,
        shape: tuple[int, ...],
        fill: Callable[[int, int], np.ndarray],
        is_by_first: bool = False,
        dtype: npt.DTypeLike = np.float64,
    ) -> np.ndarray:
        """Make an array that the ranks of a node have in common; see `Communicator.fill_shared`."""
        node = self._node_comm()
        rank, size = node.Get_rank(), node.Get_size()
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        with ExitStack() as until_filled:
            with self._telling():
                own = until_filled.enter_context(named_memory(n_bytes)) if rank == 0 else None
            name = self._exchange(about=b"fill %d" % n_bytes, then=lambda: node.bcast(own))[1]
            with self._telling():
                array = mapped(name, shape, dtype)
                for begin, end in _parts(rank, size, shape[0], is_by_first):
                    array[begin:end] = fill(begin, end)
            self._exchange(about=b"filled")
        return array

    def reduce(self, rows: np.ndarray, reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Reduce the rows of all ranks, each rank those of a share of the columns; see `Communicator`."""
        return self._exchange(about=b"reduce", then=lambda: self._reduced(rows, reduce))[1]

    def _reduced(self, rows: np.ndarray, reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        n = rows.shape[1]
        shares = [share(k, self.size, n) for k in range(self.size)]
        widths = [end - begin for begin, end in shares]
        n_rows = self._comm.allgather(len(rows))
        width = widths[self.rank]
        sent = np.concatenate([rows[:, begin:end].reshape(-1) for begin, end in shares])
        found, outcome = np.empty((sum(n_rows), width), rows.dtype), np.empty(n, rows.dtype)
        counts = [len(rows) * one for one in widths], [one * width for one in n_rows]
        self._wait(self._comm.Ialltoallv([sent, counts[0]], [found, counts[1]]))
        self._wait(self._comm.Iallgatherv(np.ascontiguousarray(reduce(found)), [outcome, widths]))
        return outcome

    def check_same(self, what: str, values: Mapping[str, object]) -> None:
        """Raise ValueError where values, or versions, differ between ranks; see `Communicator`."""
        texts = VERSIONS | {name: str(value) for name, value in values.items()}
        of_first, *others = self.gather(texts)
        for rank, of_other in enumerate(others, 1):
            for name in dict.fromkeys([*of_first, *of_other]):
                here, there = of_first.get(name, "none"), of_other.get(name, "none")
                if here != there:
                    raise ValueError(
                        f"all ranks must have the same {what}: {name} is {here} on rank 0 and {there} on "
                        f"rank {rank}"
                    )

    def deal(self, n: int) -> Iterator[int]:
        """Take items of n, which no other rank takes, until there are none; once between two exchanges."""
        if self._dealer is None:
            _, self._dealer = self._exchange(about=b"deal", then=lambda: Dealer(self._comm))
        return self._dealer.items(n, self._n_exchanges)

    def stop_dealing(self) -> None:
        """Leave no items to the other ranks."""
        if self._dealer is not None:
            self._dealer.stop(self._n_exchanges)

    # Exchanges

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell all ranks of an exception that ends the block, unless they know it."""
        self._told = None
        try:
            yield
        except BaseException as error:
            if not self._is_told(error):
                self._exchange(failure=error)
            raise

    def _exchange(
        self,
        *numbers: int,
        about: bytes = b"",
        then: Callable[[], Any] | None = None,
        failure: BaseException | None = None,
    ) -> tuple[list[int], Any]:
        """Add up numbers of all ranks, then do what all ranks do at once; see the module's docstring.

        Returns the sums, and what `then` returns.
        """
        if not self._comm:
            raise ValueError("comm was freed: it has to live as long as what it was given to")
        checksum = zlib.crc32(about) >> 8
        own = [int(failure is not None), checksum, checksum**2, *numbers]
        own += [0] * (3 + N_NUMBERS - len(own))
        with self._uninterrupted():
            self._n_exchanges += 1
            if self._dealer is not None:
                self._dealer.prepare(self._n_exchanges)
            sums = np.array(own, WORD)
            self._sum(sums.copy(), sums)
            n_failed, total, squares, *added = sums.tolist()
            if n_failed:
                self._fail(failure)
                return [], None
            if self.size * squares != total**2:  # Cauchy and Schwarz: equality means that all are equal
                self._told = RuntimeError(APART)
                raise self._told
            return added, then() if then is not None else None

    def _sum(self, own: np.ndarray, sums: np.ndarray) -> None:
        """Add up integers of all ranks, while Ctrl-C can be noted and others can work."""
        given = own.copy() if own is sums else own
        self._wait(self._comm.Iallreduce(given, sums))

    @staticmethod
    def _wait(request: Any) -> None:
        begin = time.perf_counter()
        while not request.Test():
            if time.perf_counter() - begin > SPIN_SECONDS:
                time.sleep(PAUSE)

    def _fail(self, own: BaseException | None) -> None:
        """Raise what a rank has failed with, on those that have not failed themselves."""
        self.n_failures += 1
        told = self._comm.allgather(None if own is None else packed(own))
        self._told = own
        if own is None:
            rank, failure = next((rank, failure) for rank, failure in enumerate(told) if failure is not None)
            self._told, cause = unpacked(rank, failure)
            raise self._told from cause

    def _is_told(self, error: BaseException) -> bool:
        """Whether all ranks know an exception, or the one that it was raised in the handling of."""
        seen: BaseException | None = error
        while seen is not None and seen is not self._told:
            seen = seen.__context__ or seen.__cause__
        return seen is not None

    # Signals and words

    @contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        """Keep Ctrl-C until the end of the block, where `running` has prepared that."""
        is_outermost, self._is_exchanging = not self._is_exchanging, True
        try:
            yield
        finally:
            if is_outermost:
                self._is_exchanging = False
        if is_outermost and self._is_interrupted:
            signal.raise_signal(signal.SIGINT)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let the handler of Ctrl-C act between exchanges alone."""
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(handler):
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            self._is_interrupted = self._is_exchanging
            if not self._is_exchanging:
                handler(number, frame)

        self._is_interrupted = False
        signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Let one rank give the warnings that all of them have."""
        logger = logging.getLogger("varflow")
        level = logger.level
        if not self.is_first:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _parts(rank: int, size: int, n: int, is_by_first: bool) -> list[tuple[int, int]]:
    """Divide n rows into what a rank of a node fills at a time."""
    if is_by_first:
        return [(0, n)] if rank == 0 else []
    begin, end = share(rank, size, n)
    return [(first, min(first + FILLED_AT_ONCE, end)) for first in range(begin, end, FILLED_AT_ONCE)]


APART = (
    "the ranks are not at the same place, or have not the same points: they were called in another order, or "
    "their processors or libraries round differently, which all ranks of a communicator must not"
)


def as_communicator(comm: Any) -> Communicator:
    """Take a communicator of mpi4py, or None.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm or None
        The communicator.

    Returns
    -------
    Communicator
        What ranks share their work by; for None, and for a single process, `ALONE`.

    Raises
    ------
    TypeError
        If it is none, or an intercommunicator.
    ValueError
        If it was freed, or if it is COMM_WORLD with a single process where a launcher has started several:
        mpi4py does not use the MPI that the launcher is of.
    """
    if comm is None or isinstance(comm, Communicator):
        return comm or ALONE
    if not all(hasattr(comm, name) for name in ("Get_rank", "Iallreduce", "allgather", "bcast", "Is_inter")):
        raise TypeError(f"comm must be a communicator of mpi4py, such as MPI.COMM_WORLD, got {comm!r}")
    if not comm:
        raise ValueError("comm was freed, or is MPI.COMM_NULL: this process is not in it")
    if comm.Is_inter():
        raise TypeError("comm must be an intracommunicator, got an intercommunicator: call its Merge()")
    if comm.Get_size() > 1:
        return Ranks(comm)
    if comm.Get_name() == "MPI_COMM_WORLD" and is_alone_by_mistake():
        raise ValueError(alone_in_words(comm))
    return ALONE
