"""The command `varflow evaluate`."""

import argparse
import time
from dataclasses import asdict

import numpy as np

from varflow.cli.options import Parser, add_columns, add_command, add_conditions, add_machine
from varflow.cli.output import print_json
from varflow.cli.points import points_for
from varflow.cli.talk import note, progress_of
from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.latent import SAMPLE_BLOCK
from varflow.flow.mixture import Mixture, load_flow
from varflow.runtime.progress import Progress
from varflow.training.evaluation import evaluate_density, log_prob_of

__all__ = ["add_evaluate"]


def add_evaluate(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow evaluate`."""
    parser = add_command(
        commands,
        "evaluate",
        _evaluate,
        "measure a flow on weighted points that it has not seen",
        "varflow evaluate flow.npz other_events.csv --json",
        quiet="the table",
    )
    parser.add_argument("flow", metavar="FLOW", help="file that varflow train wrote")
    parser.add_argument("data", metavar="DATA", help="points, in the same box as those of the training")
    add_columns(parser)
    add_conditions(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_machine(parser)


def _evaluate(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    flow = load_flow(options.flow, threads=options.threads, backend=options.backend)
    data = points_for(flow, options.data, options.columns, options.conditions)
    evaluation = evaluate_density(_log_prob(flow, data, progress_of(options)), data)
    seconds = time.perf_counter() - begin
    if options.json:
        print_json({**asdict(evaluation), "warnings": evaluation.warnings, "seconds": seconds})
    else:
        print(evaluation)
        note(f"{'seconds':<24}{seconds:>40.1f}", options)


def _log_prob(flow: Flow | Mixture, data: Dataset, progress: type[Progress]) -> np.ndarray:
    """Compute log q at the points, (n,)."""
    logqx = np.empty(data.n)
    with progress(data.n, "point", "measuring") as shown:
        for begin in range(0, data.n, SAMPLE_BLOCK):
            end = min(begin + SAMPLE_BLOCK, data.n)
            logqx[begin:end] = log_prob_of(flow, data, slice(begin, end))
            shown.update(end)
    return logqx
