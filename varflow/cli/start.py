"""The command `varflow start`."""

import argparse
from pathlib import Path

from varflow.cli.integral import add_integral, box, flow_settings
from varflow.cli.options import Parser, add_command
from varflow.cli.run_file import add_wait, locked
from varflow.cli.talk import note
from varflow.cli.values import number
from varflow.integration.run import Run
from varflow.runtime.archive import check_writable

__all__ = ["add_start"]


def add_start(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow start`."""
    parser = add_command(
        commands,
        "start",
        _start,
        "begin to integrate a function that any other program evaluates: see ask, tell, status and result",
        "varflow start run.vf --dim 5 --calls 20000",
        quiet="",
    )
    parser.add_argument("run_file", metavar="RUN", help="file for the run")
    add_integral(parser)
    parser.add_argument("--seconds", type=number, help=argparse.SUPPRESS)  # refused in words
    add_wait(parser)


def _start(options: argparse.Namespace) -> None:
    check_writable(options.run_file)
    run = Run(
        box(options),
        n_calls=options.calls,
        rtol=options.rtol,
        atol=options.atol,
        seconds=options.seconds,
        **flow_settings(options),
        on_invalid=options.on_invalid,
        log=options.log,
        seed=options.seed,
        threads=options.threads,
    )
    with locked(options):
        if Path(options.run_file).exists():
            raise FileExistsError(f"{options.run_file} exists: name another file for the run, or remove it")
        run.save(options.run_file)
    note(f"wrote {options.run_file}: {run.domain.d} dimensions, {run.n_calls:,} points at most", options)
