"""The command `varflow tell`."""

import argparse

from varflow.cli.options import Parser, add_command
from varflow.cli.run_file import add_run, kept_run
from varflow.cli.talk import note
from varflow.data.text_values import read_told

__all__ = ["add_tell"]


def add_tell(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow tell`."""
    parser = add_command(
        commands,
        "tell",
        _tell,
        "take values of the function of a run (columns index, f or x..., f), at any of its points",
        "varflow tell run.vf values.csv",
        quiet="",
    )
    add_run(parser)
    parser.add_argument("values", metavar="VALUES", nargs="+", help="file of values: CSV; - for stdin")


def _tell(options: argparse.Namespace) -> None:
    with kept_run(options) as run:
        n_before = run.n_told
        for path in options.values:
            points, values = read_told(path, run.domain.d)
            try:
                run.tell(points, values)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{path}: {error}") from None
    note(
        f"{run.n_told - n_before:,} values taken, {run.n_told:,} of {run.n_calls:,} told, {run.n_open:,} out",
        options,
    )
