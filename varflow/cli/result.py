"""The command `varflow result`."""

import argparse

from varflow.cli.integral import add_outputs, check_outputs, show_result
from varflow.cli.options import Parser, add_command
from varflow.cli.run_file import add_run, locked
from varflow.integration.run import Run

__all__ = ["add_result"]


def add_result(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow result`."""
    parser = add_command(
        commands,
        "result",
        _result,
        "print the result of a run, as far as that has come",
        "varflow result run.vf -o result.npz",
        quiet="the result",
    )
    add_run(parser)
    add_outputs(parser)


def _result(options: argparse.Namespace) -> None:
    with locked(options):
        run = Run.load(options.run_file, threads=options.threads)
    check_outputs(options, run.domain.bounds, options.run_file)
    if not run.has_result:
        raise ValueError(
            f"there is no estimate yet: {run.n_told:,} of {run.n_calls:,} values are told, "
            f"{run.n_open:,} are out"
        )
    show_result(run.result(), None, options, options.run_file)
