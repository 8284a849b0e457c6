"""Every exception of varflow, and the words in which a wrong name is refused."""

__all__ = [
    "BackendError",
    "FileFormatError",
    "InvalidLossError",
    "NoCheckpoint",
    "Preempted",
    "TrainingInterruption",
]


class InvalidLossError(ValueError):
    """A training step met a loss or a gradient that is not finite."""


class NoCheckpoint(RuntimeError):  # noqa: N818 - the name that ZüNIS gave it
    """There is no state to go back to."""


class TrainingInterruption(RuntimeError):  # noqa: N818 - the name that ZüNIS gave it
    """Training stopped before its end; the flow holds the last good parameters."""


class Preempted(RuntimeError):  # noqa: N818 - it tells of no error
    """A run was asked to stop; its checkpoint has the state to go on from."""


class BackendError(RuntimeError):
    """A GPU was asked for, and something that it needs is missing."""


class FileFormatError(ValueError):
    """A file is missing something, is cut short, or is of another kind."""
