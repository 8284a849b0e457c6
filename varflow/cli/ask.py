"""The command `varflow ask`."""

import argparse

from varflow.cli.options import Parser, add_command
from varflow.cli.output import Ended, NothingYet
from varflow.cli.run_file import add_run, kept_run
from varflow.cli.values import whole
from varflow.data.text_values import write_asked

__all__ = ["add_ask"]


def add_ask(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow ask`."""
    parser = add_command(
        commands,
        "ask",
        _ask,
        "give points (columns index, x...) at which the function of a run is to be evaluated",
        "varflow ask run.vf -n 500 -o points.csv",
    )
    add_run(parser)
    parser.add_argument(
        "-n", type=whole, metavar="N", help="points at most; if not given, all that can be used now"
    )
    parser.add_argument("-o", "--output", metavar="POINTS", help="file for the points: CSV; else stdout")
    parser.add_argument(
        "--again", action="store_true", help="give all points that are out once more, and no new ones"
    )


def _ask(options: argparse.Namespace) -> None:
    with kept_run(options) as run:
        numbers = run.open_numbers() if options.again else run.ask_numbers(options.n)
        if numbers is None:
            raise Ended(f"the run has ended: varflow result {options.run_file}")
        if len(numbers) == 0 and options.again:
            raise ValueError("no point is out")
        if len(numbers) == 0:
            raise NothingYet(f"all {run.n_open} points of this round are out: tell their values first")
        # Points are written before the run knows that they are out: a kill in between costs nothing.
        write_asked(options.output, numbers, run.points(numbers))
