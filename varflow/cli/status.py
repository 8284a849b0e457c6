"""The command `varflow status`."""

import argparse
from typing import Any

from varflow.cli.options import Parser, add_command
from varflow.cli.output import format_result, print_json
from varflow.cli.run_file import add_run, locked
from varflow.integration.result import Result
from varflow.integration.run import Run

__all__ = ["add_status"]


def add_status(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow status`."""
    parser = add_command(commands, "status", _status, "tell how far a run is", "varflow status run.vf")
    add_run(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _status(options: argparse.Namespace) -> None:
    with locked(options):
        run = Run.load(options.run_file, threads=options.threads)
    result = run.result() if run.has_result else None
    figures: dict[str, Any] = {
        "stage": run.stage,
        "told": run.n_told,
        "calls": run.n_calls,
        "out": run.n_open,
        "iterations": len(run.history),
    }
    if options.json:
        print_json({**figures, **_estimate(result)})
        return
    for name, figure in figures.items():
        print(f"{name:<24}{figure if isinstance(figure, str) else f'{figure:,}':>24}")
    print(f"{'estimate so far':<24}{'none yet' if result is None else format_result(result):>24}")


def _estimate(result: Result | None) -> dict[str, Any]:
    if result is None:
        return {"mean": None, "sdev": None}
    return {"mean": result.mean, "sdev": result.sdev}
