"""Words for workers that ended while they had points."""

import numpy as np

from varflow.errors import WorkerDiedError
from varflow.integration.components import FloatArray
from varflow.runtime.child_processes import describe_end

__all__ = ["at_points", "death", "lost_before", "while_idle"]


def death(x: FloatArray, exit_code: int) -> WorkerDiedError:
    """Tell that a process ended at points x (n, d)."""
    return at_points(f"a worker process {describe_end(exit_code)} while it called f", x)


def at_points(words: str, x: FloatArray) -> WorkerDiedError:
    """Tell something that happened at points x (n, d)."""
    error = WorkerDiedError(f"{words} with x of shape {x.shape}, first point {x[0].tolist()}")
    error.x = x.copy()
    return error


def while_idle(cause: object) -> WorkerDiedError:
    """Tell that a process ended at no points."""
    return _at_none(f"a worker process ended abruptly, before it called f or after: {cause}")


def lost_before(cause: object) -> WorkerDiedError:
    """Tell that an executor cannot be used any more."""
    return _at_none(f"workers has lost a worker before, and with it all others: make a new one ({cause})")


def _at_none(words: str) -> WorkerDiedError:
    error = WorkerDiedError(words)
    error.x = np.empty((0, 0))
    return error
