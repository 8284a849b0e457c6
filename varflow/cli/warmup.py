"""The command `varflow warmup`."""

import argparse
import time

from varflow.cli.options import Parser, add_command
from varflow.training.warmup import warmup

__all__ = ["add_warmup"]


def add_warmup(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow warmup`."""
    add_command(
        commands,
        "warmup",
        _warmup,
        "compile all kernels and keep them, for example before a batch job",
        "varflow warmup",
    )


def _warmup(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    folder = warmup()
    kept = f"kept in {folder}" if folder else "kept nowhere: no folder can be written to, set NUMBA_CACHE_DIR"
    print(f"all kernels are compiled ({time.perf_counter() - begin:.1f} s), {kept}")
