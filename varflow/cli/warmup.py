"""The command `varflow warmup`."""

import argparse
import time

from varflow.cli.options import Parser, add_command
from varflow.cli.talk import note, progress_of
from varflow.training.warmup import PURPOSES, warmup

__all__ = ["add_warmup"]


def add_warmup(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow warmup`."""
    parser = add_command(
        commands,
        "warmup",
        _warmup,
        "compile all kernels and keep them, for example before a batch job",
        "varflow warmup",
        quiet="",
    )
    parser.add_argument(
        "--for",
        dest="purpose",
        choices=PURPOSES,
        default="all",
        help="compile what this needs alone (default: all)",
    )


def _warmup(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    folder = warmup(progress_of(options), options.purpose)
    kept = f"kept in {folder}" if folder else "kept nowhere: no folder can be written to, set NUMBA_CACHE_DIR"
    which = "all kernels" if options.purpose == "all" else f"the kernels of varflow {options.purpose}"
    note(f"{which} are compiled ({time.perf_counter() - begin:.1f} s), {kept}", options)
