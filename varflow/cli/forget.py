"""The command `varflow forget`."""

import argparse

from varflow.cli.options import Parser, add_command
from varflow.cli.run_file import add_run, kept_run
from varflow.cli.talk import note
from varflow.data.text_values import read_asked

__all__ = ["add_forget"]


def add_forget(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow forget`."""
    parser = add_command(
        commands,
        "forget",
        _forget,
        "give up points of a run that will not come back, for reasons other than the function",
        "varflow forget run.vf points.csv",
        quiet="",
    )
    add_run(parser)
    parser.add_argument(
        "points",
        metavar="POINTS",
        nargs="?",
        help="file that varflow ask wrote; all that are out if not given",
    )


def _forget(options: argparse.Namespace) -> None:
    with kept_run(options) as run:
        numbers = run.open_numbers() if options.points is None else read_asked(options.points)
        run.forget(numbers)
    note(
        f"{len(numbers):,} points forgotten, {run.n_told:,} of {run.n_calls:,} told, {run.n_open:,} out",
        options,
    )
