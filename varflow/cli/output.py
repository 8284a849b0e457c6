"""What commands print: errors in one line, estimates, and JSON."""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import numpy as np

from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.integration.result import Result

__all__ = [
    "CLOSED_PIPE",
    "ENDED",
    "TRY_AGAIN",
    "USAGE_ERROR",
    "Ended",
    "NothingYet",
    "discard_output",
    "fail",
    "format_result",
    "print_json",
    "save",
    "standard_output",
]

ENDED = 1
USAGE_ERROR = 2
CLOSED_PIPE = 141  # what shells tell of a program that SIGPIPE has ended
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: what batch systems take for a job to be started again


class Ended(RuntimeError):  # noqa: N818 - it is no error
    """A run has no more points to give."""


class NothingYet(RuntimeError):  # noqa: N818 - it is no error
    """A run has no points to give before it is told others."""


def fail(message: object, status: int, error: BaseException | None = None) -> int:
    """Print an error in one line, and the estimate so far in another if there is one."""
    if isinstance(message, OSError) and message.strerror:
        message = f"{message.filename}: {message.strerror}" if message.filename else message.strerror
    lines = [str(message) or type(message).__name__]
    partial = getattr(error, "partial", None)
    if partial is not None:
        lines.append(f"after {partial.n_calls:,} calls the estimate was {format_result(partial)}")
    for line in lines:
        print(f"varflow: {' '.join(line.split())}", file=sys.stderr)
    return status


def format_result(result: Result) -> str:
    """Format the estimate without the warnings that may follow it."""
    return str(result).partition("\nwarning: ")[0]


def save(made: Flow | Mixture | Result, path: str, options: argparse.Namespace) -> None:
    """Write a file, and remember its name for the messages at the end."""
    made.save(path)
    options.written.append(path)


@contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    """Give standard output for bytes. What the block writes has gone out when it ends.

    Raises
    ------
    OSError
        If standard output is closed; and what writing to it raises.
    """
    if sys.stdout is None:
        raise OSError("standard output is closed: name a file for -o")
    sys.stdout.flush()
    file = sys.stdout.buffer
    try:
        yield file
        file.flush()
    except OSError:
        discard_output()
        raise


def discard_output() -> None:
    """Let what is still to go to standard output, which takes no more, go nowhere.

    Python would try to write it once more when it ends, and complain.
    """
    with suppress(OSError, ValueError, AttributeError):  # where it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(figures: dict[str, Any]) -> None:
    """Print one JSON object."""
    print(json.dumps(_for_json(figures), allow_nan=False))


def _for_json(value: Any) -> Any:
    """Convert to what JSON can hold, with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _for_json(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_for_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
