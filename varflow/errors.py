"""Every exception of varflow, and the words in which a wrong name is refused."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "BackendError",
    "FileFormatError",
    "InvalidLossError",
    "NoCheckpoint",
    "Preempted",
    "TrainingInterruption",
    "unknown_name",
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


def unknown_name(argument: str, found: object, valid: Iterable[str]) -> ValueError:
    """Build the error for a name that is not among the valid ones.

    Parameters
    ----------
    argument : str
        The argument's name.
    found : object
        What was given for it.
    valid : iterable of str
        The names it may have.

    Returns
    -------
    ValueError
        To be raised; it names the nearest valid name where one is near.
    """
    names = list(valid)
    near = get_close_matches(str(found), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{argument} must be one of {', '.join(map(repr, names))}, got {found!r}{hint}")
