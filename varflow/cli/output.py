"""What commands print: errors in one line, estimates, and JSON."""

import argparse
import json
import math
import sys
from typing import Any

import numpy as np

from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.integration.result import Result

__all__ = [
    "ENDED",
    "TRY_AGAIN",
    "USAGE_ERROR",
    "Ended",
    "NothingYet",
    "fail",
    "format_result",
    "print_json",
    "save",
]

ENDED = 1
USAGE_ERROR = 2
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
