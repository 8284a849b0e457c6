"""The file that a run is kept in between commands: one process at a time works with it."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from varflow.cli.values import number, whole
from varflow.integration.run import Run

__all__ = ["add_run", "add_wait", "kept_run", "locked"]

WAIT = 600.0  # seconds, in which a hundred other commands can take their turns


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the file of the run, and how long to wait for it."""
    parser.add_argument("run_file", metavar="RUN", help="file of the run, as varflow start has made it")
    parser.add_argument("--threads", type=whole, metavar="N", help="threads; all cores allowed if not given")
    add_wait(parser)


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add how long to wait for the file."""
    parser.add_argument(
        "--wait",
        type=number,
        default=WAIT,
        metavar="S",
        help="seconds to wait for other commands on this run",
    )


@contextmanager
def locked(options: argparse.Namespace) -> Iterator[None]:
    """Keep all other commands from the run; the lock ends with the process, however that ends.

    Raises
    ------
    ValueError
        If another command keeps it for too long.
    """
    path = options.run_file
    try:
        with FileLock(f"{path}.lock", timeout=options.wait):
            yield
    except Timeout:
        raise ValueError(
            f"{path} is locked: another command has worked with it for {options.wait:g} seconds; try again "
            "later, or give a longer --wait"
        ) from None


@contextmanager
def kept_run(options: argparse.Namespace) -> Iterator[Run]:
    """Give the run, and write it back at the end; where an exception ends the block, nothing changes."""
    with locked(options):
        run = Run.load(options.run_file, threads=options.threads)
        yield run
        run.save(options.run_file)
