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

    Examples
    --------
    >>> try:
    ...     vf.integrate(lambda x: np.where(x[:, 0] > 0.5, np.nan, 1.0), 2, n_calls=100)
    ... except vf.InvalidIntegrandError as error:
    ...     print(error.x[0] > 0.5)
    True
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

    Examples
    --------
    A function of the C library that ends the process which calls it:

    >>> f = vf.CompiledIntegrand("libc.so.6", "_exit", kind="scipy")
    >>> try:
    ...     vf.integrate(f, 2, n_calls=100, workers=2)
    ... except vf.WorkerDiedError as error:
    ...     print(error.x.shape[1], error.partial)
    2 None
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

    Examples
    --------
    A function of kind "batch" that fails at all points:

    >>> import ctypes
    >>> i32, i64, real, pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_double, ctypes.POINTER
    >>> declare = ctypes.CFUNCTYPE(i32, pointer(real), i64, i32, pointer(real), i32, ctypes.c_void_p)
    >>> f = vf.CompiledIntegrand(declare(lambda x, n, d, out, m, user: 3), kind="batch")
    >>> try:
    ...     f([[0.5, 0.5]])
    ... except vf.CompiledIntegrandError as error:
    ...     print(error.status, error.x)
    3 [[0.5 0.5]]
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
    """A training step met a loss or a gradient that is not finite.

    Examples
    --------
    >>> loss = lambda fx, px, logqx: np.nan, lambda fx, px, logqx: 0 * logqx
    >>> trainer = vf.BasicTrainer(vf.Flow(1), loss=loss)
    >>> trainer.train_step_on_target_minibatch([[0.5]], [1.0], [1.0], vf.Adam())
    Traceback (most recent call last):
    varflow.errors.InvalidLossError: the loss is nan
    """


class NoCheckpoint(RuntimeError):  # noqa: N818 - the name that ZüNIS gave it
    """There is no state to go back to.

    Examples
    --------
    >>> vf.BasicStatefulVarTrainer(vf.Flow(2)).restore_checkpoint()
    Traceback (most recent call last):
    varflow.errors.NoCheckpoint: there is no checkpoint: call set_checkpoint or train first
    """


class TrainingInterruption(RuntimeError):  # noqa: N818 - the name that ZüNIS gave it
    """Training stopped before its end; the flow holds the last good parameters.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((500, 2))
    >>> data = vf.Dataset(x, px=np.ones(500), fx=x[:, 0])
    >>> loss = lambda fx, px, logqx: np.nan, lambda fx, px, logqx: 0 * logqx
    >>> try:
    ...     vf.StatefulTrainer(2, loss, max_reloads=0).train_on_dataset(data)
    ... except vf.TrainingInterruption as error:
    ...     print(type(error.__cause__).__name__)
    InvalidLossError
    """


class Preempted(RuntimeError):  # noqa: N818 - it tells of no error
    """A run was asked to stop; its checkpoint has the state to go on from.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((500, 2))
    >>> data = vf.Dataset(x, px=np.ones(500), fx=x[:, 0])
    >>> with vf.stop_by_signals():
    ...     vf.request_stop()  # as SIGTERM would
    ...     try:
    ...         vf.train(data, n_epochs=5, checkpoint="training.ckpt")
    ...     except vf.Preempted:
    ...         print("submit the job again")
    submit the job again
    >>> training = vf.train(data, n_epochs=5, checkpoint="training.ckpt", resume=True)
    """


class RankError(RuntimeError):
    """Another rank raised an exception, whose text is here; its traceback is in what caused this one.

    Parameters
    ----------
    message : str
        The text.
    rank : int
        The rank.

    Examples
    --------
    Runs raise it; its number tells where to look.

    >>> error = vf.RankError("ValueError: f is not finite", rank=3)
    >>> error.rank
    3
    """

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.rank)


class BackendError(RuntimeError):
    """A GPU was asked for, and something that it needs is missing.

    Examples
    --------
    >>> try:
    ...     flow = vf.Flow(2, backend="cuda")
    ... except vf.BackendError:  # the message says what
    ...     flow = vf.Flow(2)
    """


class BuildError(RuntimeError):
    """The shared library cannot be built: something that it needs is missing, or the compiler fails."""


class FileFormatError(ValueError):
    """A file is missing something, is cut short, or is of another kind.

    Examples
    --------
    >>> vf.Dataset([[0.25]], px=[1.0], fx=[2.0]).save("events.npz")
    >>> vf.load_flow("events.npz")
    Traceback (most recent call last):
    varflow.errors.FileFormatError: events.npz...
    """
