"""How much commands say: -q and -v, the bar or the lines of long work, and what varflow logs."""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from varflow.cli.ranks import is_speaking
from varflow.runtime.progress import Bar, Lines, Progress, is_terminal

__all__ = ["add_talk", "logged_on_stderr", "note", "progress_of"]

# Logged as warnings, so that libraries show them, but they warn of nothing.
NOTICES = "varflow.kernels.compile"


def add_talk(parser: argparse.ArgumentParser, quiet: str) -> None:
    """Add -q, with what it leaves, and -v."""
    left = f"{quiet}, warnings and errors" if quiet else "warnings and errors"
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help=f"print nothing but {left}")
    group.add_argument(
        "-v", "--verbose", action="store_true", help="tell of each stage and decision on stderr, with seconds"
    )


def note(text: str, options: argparse.Namespace, file: TextIO | None = None) -> None:
    """Print what is no result, unless the user wants results alone; on stdout where no file is given."""
    if not options.quiet:
        print(text, file=file, flush=True)


def progress_of(options: argparse.Namespace) -> type[Progress]:
    """Choose how long work is shown: a bar on a terminal, lines in a log; by one rank alone."""
    if options.quiet or not is_speaking(options):
        return Progress
    return Bar if is_terminal() else Lines


@contextmanager
def logged_on_stderr(options: argparse.Namespace) -> Iterator[None]:
    """Print what varflow logs, a line each that begins with its name: warnings, and with -v what it does."""
    logger = logging.getLogger("varflow")
    handler = _OnStderr() if is_speaking(options) else logging.NullHandler()
    time = "%(seconds).1f s: " if options.verbose else ""
    handler.setFormatter(logging.Formatter(f"varflow: {time}%(message)s"))
    level = logger.level
    if options.verbose:
        logger.setLevel(logging.INFO)
    if options.quiet:
        handler.addFilter(lambda record: record.name != NOTICES)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _OnStderr(logging.Handler):
    """Handler that prints on stderr as it is then: a bar may stand between."""

    def emit(self, record: logging.LogRecord) -> None:
        record.seconds = record.relativeCreated / 1000  # since Python has loaded the module logging
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)
