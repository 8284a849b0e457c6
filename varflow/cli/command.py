"""The command `varflow`: it runs what the arguments name, and tells what went wrong in a line."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from varflow._version import __version__
from varflow.cli.ask import add_ask
from varflow.cli.bench import add_bench
from varflow.cli.build_library import add_build_library
from varflow.cli.collect import add_collect
from varflow.cli.evaluate import add_evaluate
from varflow.cli.export import add_export
from varflow.cli.forget import add_forget
from varflow.cli.integrate import add_integrate
from varflow.cli.options import Parser
from varflow.cli.output import (
    CLOSED_PIPE,
    ENDED,
    TRY_AGAIN,
    USAGE_ERROR,
    Ended,
    NothingYet,
    discard_output,
    fail,
)
from varflow.cli.ranks import communicator, is_speaking, rank_of, together
from varflow.cli.report import add_report
from varflow.cli.result import add_result
from varflow.cli.sample import add_sample
from varflow.cli.start import add_start
from varflow.cli.status import add_status
from varflow.cli.talk import logged_on_stderr
from varflow.cli.tell import add_tell
from varflow.cli.train import add_train
from varflow.cli.values import with_negative_values
from varflow.cli.warmup import add_warmup
from varflow.errors import BackendError, BuildError, FunctionError, Preempted, RankError, TrainingInterruption
from varflow.validation import unknown_name

__all__ = ["main"]

REFUSED = (
    *(OSError, ValueError, TypeError, ImportError, MemoryError),
    *(BackendError, BuildError, FunctionError, RankError),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    int
        Exit status: 0, or 2 where something was refused, in one line on stderr, or 1 where training could not
        go on, or a run has come to its end, or 75 where a signal stopped a run that has a checkpoint to go on
        from, or a run has no points to give yet, or 130 after Ctrl-C, or 141 where what reads the output has
        closed its pipe.
        Status 2 with a flow that was written, but could not be measured, says so.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parsed(given)
    options.command = ["varflow", *given]
    options.written = []  # files
    try:
        options.comm = communicator(options)
        with logged_on_stderr(options), together(options.comm):
            options.run(options)
            sys.stdout.flush()
    except BrokenPipeError:  # as of head, which has seen enough
        discard_output()
        return CLOSED_PIPE
    except REFUSED as error:
        return _end(options, error, USAGE_ERROR, error)
    except TrainingInterruption as error:
        return _end(options, error, 1)
    except Ended as error:
        return _end(options, error, ENDED)
    except NothingYet as error:
        return _end(options, error, TRY_AGAIN)
    except Preempted as error:
        return _end(options, f"{error}: start the same command again", TRY_AGAIN)
    except KeyboardInterrupt as interrupt:
        return _end(options, _interrupted(options), 130, interrupt)
    return 0


def _end(
    options: argparse.Namespace, message: object, status: int, error: BaseException | None = None
) -> int:
    """Print what has ended the command, on one rank; see `fail`."""
    if not is_speaking(options):
        return status
    rank = None if error is None else rank_of(error)
    return fail(message if rank is None else f"{message} (on rank {rank})", status, error)


def _interrupted(options: argparse.Namespace) -> str:
    """Say what Ctrl-C has left."""
    if options.written:
        return f"interrupted, after these were written: {', '.join(options.written)}"
    checkpoint = getattr(options, "checkpoint", None)
    if checkpoint is None or not Path(checkpoint).exists():
        return "interrupted; no file was written"
    return f"interrupted; the same command goes on from {checkpoint}"


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; of the commands, suggest the nearest one for what is none."""
    parser = Parser(
        prog="varflow",
        description="Neural importance sampling: train a flow on weighted points, draw better ones.",
        epilog="varflow COMMAND --help tells more of each, with an example.",
    )
    parser.add_argument("--version", action="version", version=f"varflow {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_train(commands)
    add_evaluate(commands)
    add_report(commands)
    add_sample(commands)
    add_export(commands)
    add_integrate(commands)
    add_collect(commands)
    for add in (add_start, add_ask, add_tell, add_forget, add_status, add_result):
        add(commands)
    add_bench(commands)
    add_warmup(commands)
    add_build_library(commands)
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    if named is not None and named not in commands.choices:
        parser.error(str(unknown_name("COMMAND", named, commands.choices)))
    return parser.parse_args(with_negative_values(arguments))
