"""Exceptions on their way from one process to another, with their traceback as text."""

import pickle
import traceback
from contextlib import suppress

from varflow.errors import RankError

__all__ = ["Failure", "packed", "unpacked"]

Failure = tuple[bytes | None, str, str]  # the pickled exception, if it can be, its line, and its traceback


def packed(error: BaseException) -> Failure:
    """Give an exception as bytes, if it can be pickled, in a line, and with its traceback."""
    pickled = None
    with suppress(Exception):
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    line = "".join(traceback.format_exception_only(type(error), error)).strip()
    return pickled, line, "".join(traceback.format_exception(type(error), error, error.__traceback__))


def unpacked(rank: int, failure: Failure) -> tuple[BaseException, RankError]:
    """Give the exception of another rank, and what it was caused by: the traceback there."""
    pickled, line, trace = failure
    cause = RankError(f"on rank {rank}:\n{trace}", rank)
    with suppress(Exception):
        if pickled is not None:
            error = pickle.loads(pickled)
            assert isinstance(error, BaseException)
            return error, cause
    return RankError(f"rank {rank} raised {line}", rank), cause
