"""The command `varflow evaluate`."""

import argparse
import time
from dataclasses import asdict

from varflow.cli.options import Parser, add_columns, add_command, add_machine
from varflow.cli.output import print_json
from varflow.data.dataset import Dataset
from varflow.data.points import read_points
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture, load_flow
from varflow.training.evaluation import evaluate

__all__ = ["add_evaluate"]


def add_evaluate(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow evaluate`."""
    parser = add_command(
        commands,
        "evaluate",
        _evaluate,
        "measure a flow on weighted points that it has not seen",
        "varflow evaluate flow.npz other_events.csv --json",
    )
    parser.add_argument("flow", metavar="FLOW", help="file that varflow train wrote")
    parser.add_argument("data", metavar="DATA", help="points, in the same box as those of the training")
    add_columns(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_machine(parser)


def _evaluate(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    flow = load_flow(options.flow, threads=options.threads, backend=options.backend)
    evaluation = evaluate(flow, _read_for(flow, options.data, options.columns))
    seconds = time.perf_counter() - begin
    if options.json:
        print_json({**asdict(evaluation), "warnings": evaluation.warnings, "seconds": seconds})
    else:
        print(evaluation)
        print(f"{'seconds':<24}{seconds:>40.1f}")


def _read_for(flow: Flow | Mixture, path: str, columns: list[str] | None) -> Dataset:
    """Read points that lie in the box of a flow."""
    arrays = read_points(path, columns)
    if arrays["x"].ndim == 2 and arrays["x"].shape[1] != flow.d:
        raise ValueError(f"{path} has d = {arrays['x'].shape[1]}, the flow has d = {flow.d}")
    return Dataset(**{**arrays, "bounds": flow.bounds})
