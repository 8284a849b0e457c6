"""Options that describe an integral, and how results are shown: for the commands that integrate."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from varflow.cli.functions import add_values
from varflow.cli.options import add_architecture, add_discrete, add_machine, check_different, flow_options
from varflow.cli.output import format_result, print_json, save
from varflow.cli.report import add_report_option, save_report
from varflow.cli.talk import note
from varflow.cli.values import number, parse_bounds, whole
from varflow.data.discrete import checked_discrete, separated
from varflow.flow.discrete_flow import FILE as DISCRETE_FILE
from varflow.flow.discrete_flow import DiscreteFlow, flow_of
from varflow.flow.flow import Flow
from varflow.integration.domain import Bounds
from varflow.integration.result import FILE, Result
from varflow.reporting.report import check_report
from varflow.runtime.archive import check_writable, format_of

__all__ = ["add_integral", "add_outputs", "box", "check_outputs", "flow_settings", "show_result"]

# Of a result, in JSON.
FIGURES = (
    *("mean", "sdev", "error_dof", "chi2", "dof", "Q", "n_calls"),
    *("ess", "k", "resolution", "n_invalid", "notes", "warnings"),
)
CELL = "pwquad"  # as the integrator takes it where none is named


def add_integral(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is integrated, how well, and with which flow."""
    parser.add_argument("--dim", type=whole, metavar="N", help="dimensions; those of the bounds if not given")
    parser.add_argument(
        "--bounds",
        type=parse_bounds,
        metavar="LOWER,UPPER",
        help="box, one pair for all coordinates or one for each; 0,1 if not given; may be inf",
    )
    add_discrete(parser)
    parser.add_argument(
        "--calls",
        type=whole,
        metavar="N",
        help="calls of the function at most (default: 400000); with --seconds, as many as there is time for",
    )
    parser.add_argument(
        "--rtol",
        type=number,
        default=0.0,
        metavar="TOL",
        help="relative error that is enough; without this and --atol, all calls are made",
    )
    parser.add_argument(
        "--atol", type=number, default=0.0, metavar="TOL", help="absolute error that is enough"
    )
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="seed of everything random")
    add_values(parser)
    add_machine(parser)
    add_architecture(parser, CELL, " (default: 1, and 2 in two dimensions)")
    parser.add_argument(
        "--flow-in",
        metavar="FLOW",
        help="flow to begin with: of --flow-out, or of the result of a similar integral",
    )


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where results go."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-o", "--output", metavar="RESULT", help="file for the result: .npz")
    parser.add_argument(
        "--flow-out", metavar="FLOW", help="file for the flow alone, on the box, where that is finite"
    )
    add_report_option(parser)


def box(options: argparse.Namespace) -> Bounds:
    """Combine --dim, --bounds and --discrete into the bounds of the integral."""
    intervals = _intervals(options)
    if options.discrete is None:
        return intervals
    pairs = intervals if isinstance(intervals, list) else [[0.0, 1.0]] * intervals
    discrete = checked_discrete(options.discrete, len(pairs))
    return [discrete.get(row, pair) for row, pair in enumerate(pairs)]


def _intervals(options: argparse.Namespace) -> int | list[list[float]]:
    """Combine --dim and --bounds."""
    dim, bounds = options.dim, options.bounds
    if bounds is None:
        if dim is None:
            raise ValueError("needs --dim N, or --bounds LOWER,UPPER,... with a pair for each dimension")
        return int(dim)
    pairs: list[list[float]] = np.reshape(bounds, (-1, 2)).tolist()
    if dim is None:
        return pairs
    if len(pairs) not in (1, dim):
        raise ValueError(
            f"--bounds must have one pair, or one for each of {dim} dimensions, got {len(pairs)}"
        )
    return pairs * dim if len(pairs) == 1 else pairs


def flow_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Collect the arguments that describe the flow."""
    made = flow_options(options)
    if options.flow_in is None:
        return {"flow": options.cell, "flow_options": made or None, "backend": options.backend}
    if options.cell != CELL:
        made = {"cell": options.cell, **made}
    if made:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in made)
        raise ValueError(f"{given}: for a flow that is made here, but --flow-in names one")
    if format_of(options.flow_in) == FILE.name:
        flow = Result.load(options.flow_in).flow
        description = flow.description()
        return {"flow": flow_of(description, flow.params, options.threads, options.backend)}
    kind = DiscreteFlow if format_of(options.flow_in) == DISCRETE_FILE.name else Flow
    return {"flow": kind.load(options.flow_in, options.threads, options.backend)}


def check_outputs(options: argparse.Namespace, bounds: Any, *others: str | None) -> None:
    """Refuse files that cannot be written, before anything is computed; `others` are files besides."""
    outputs = [path for path in (options.output, options.flow_out) if path is not None]
    check_different(*outputs, options.report, *others)
    for path in outputs:
        check_writable(path)
    if options.report is not None:
        check_report(options.report)
    if options.flow_out is not None and not np.isfinite(separated(bounds)[0]).all():
        raise ValueError(
            "--flow-out: a flow has finite bounds, and the integral has not; write -o RESULT, which "
            "--flow-in and varflow sample take as well"
        )


def show_result(result: Result, seconds: float | None, options: argparse.Namespace, source: str) -> None:
    """Write the files that were asked for, and print the result, even where one of them has failed.

    source: what was integrated, for the report: FILE:FUNCTION, or the file of a run.
    """
    with ExitStack() as steps:  # from the last to the first
        steps.callback(_print_result, result, seconds, options)
        if options.report is not None:
            steps.callback(_save_report, result, seconds, options, source)
        if options.flow_out is not None:
            steps.callback(save, result.flow.on_box(result.bounds), options.flow_out, options)
        if options.output is not None:
            steps.callback(save, result, options.output, options)


def _save_report(result: Result, seconds: float | None, options: argparse.Namespace, source: str) -> None:
    """Write the report; that of a run has the seconds of its iterations."""
    if seconds is None:
        seconds = sum(iteration.seconds for iteration in result.history)
    files = {
        "integrand": source.rpartition(":")[0] or source,
        "result": options.output,
        "flow": options.flow_out,
    }
    save_report(f"varflow: integral of {Path(source).name}", result, seconds, files, options)


def _print_result(result: Result, seconds: float | None, options: argparse.Namespace) -> None:
    time = {} if seconds is None else {"seconds": seconds}
    if options.json:
        names = ("log_mean", "log_sdev", *FIGURES) if result.is_log else FIGURES
        print_json({**{name: getattr(result, name) for name in names}, **time})
        return
    if not options.quiet:
        print(result.summary())
    print(f"result = {format_result(result)}", flush=True)
    for warning in result.warnings:
        print(f"varflow: warning: {warning}", file=sys.stderr, flush=True)
    for name, value in time.items():
        note(f"{name:<24}{value:>40.1f}", options)
    for path in options.written:
        note(f"wrote {path}", options)
