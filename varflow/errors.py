"""Every exception of varflow, and the words in which a wrong name is refused."""

from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "BackendError",
    "BuildError",
    "CompiledIntegrandError",
    "FileFormatError",
    "FunctionError",
    "InvalidIntegrandError",
    "InvalidLossError",
    "NoCheckpoint",
    "Preempted",
    "RankError",
    "TrainingInterruption",
    "WorkerDiedError",
    "WorkerError",
]


class InvalidIntegrandError(ValueError):
    """The function to be integrated is not finite at a point.

    Attributes
    ----------
    x : ndarray, (d,)
        The first such point.
    """

    x: npt.NDArray[np.float64]


class WorkerError(RuntimeError):
    """In a worker process, f raised an exception that cannot be sent to another process; its text is here."""


class WorkerDiedError(BrokenProcessPool):
    """A worker process ended while it called f: by STOP, exit, an invalid address, or a lack of memory.

    Attributes
    ----------
    x : ndarray, (n, d)
        The points of that call.
    partial : Result or None
        The estimate so far, if there is one.
    """

    x: npt.NDArray[np.float64]
    partial: Any = None


class CompiledIntegrandError(RuntimeError):
    """A compiled integrand returned a status other than 0, or a first call of it went wrong.

    Attributes
    ----------
    x : ndarray, (n, d)
        The points of that call.
    status : int or None
        The status that it returned; None where it did not.
    """

    x: npt.NDArray[np.float64]
    status: int | None = None


class FunctionError(RuntimeError):
    """Code of the user's raised an exception; the message is one line.

    Attributes
    ----------
    partial : Result or None
        The estimate so far, if there is one.
    """

    partial: Any = None


class InvalidLossError(ValueError):
    """A training step met a loss or a gradient that is not finite."""


class NoCheckpoint(RuntimeError):  # noqa: N818 - the name that ZüNIS gave it
    """There is no state to go back to."""


class TrainingInterruption(RuntimeError):  # noqa: N818 - the name that ZüNIS gave it
    """Training stopped before its end; the flow holds the last good parameters."""


class Preempted(RuntimeError):  # noqa: N818 - it tells of no error
    """A run was asked to stop; its checkpoint has the state to go on from."""


class RankError(RuntimeError):
    """Another rank raised an exception, whose text is here; its traceback is in what caused this one.

    Parameters
    ----------
    message : str
        The text.
    rank : int
        The rank.
    """

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.rank)


class BackendError(RuntimeError):
    """A GPU was asked for, and something that it needs is missing."""


class BuildError(RuntimeError):
    """The shared library cannot be built: something that it needs is missing, or the compiler fails."""


class FileFormatError(ValueError):
    """A file is missing something, is cut short, or is of another kind."""
