"""Options that describe an integral, and how results are shown: for the commands that integrate."""

import argparse
import sys
from contextlib import ExitStack
from typing import Any

import numpy as np

from varflow.cli.options import (
    add_architecture,
    add_machine,
    add_name,
    check_different,
    flow_options,
    parse_bounds,
)
from varflow.cli.output import format_result, print_json, save
from varflow.flow.flow import Flow
from varflow.integration.result import FILE, Result
from varflow.runtime.archive import check_writable, format_of

__all__ = ["add_integral", "add_outputs", "box", "check_outputs", "flow_settings", "show_result"]

# Of a result, in JSON.
FIGURES = (
    *("mean", "sdev", "error_dof", "chi2", "dof", "Q", "n_calls"),
    *("ess", "k", "resolution", "n_invalid", "warnings"),
)
CELL = "pwquad"  # as the integrator takes it where none is named


def add_integral(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is integrated, how well, and with which flow."""
    parser.add_argument("--dim", type=int, metavar="N", help="dimensions; those of the bounds if not given")
    parser.add_argument(
        "--bounds",
        type=parse_bounds,
        metavar="LOWER,UPPER",
        help="box, one pair for all coordinates or one for each; 0,1 if not given; may be inf; "
        "where it begins with a minus sign, write it as --bounds=-inf,inf",
    )
    parser.add_argument("--calls", type=int, default=400_000, metavar="N", help="points at most")
    parser.add_argument(
        "--rtol", type=float, default=0.0, metavar="TOL", help="relative error that is enough"
    )
    parser.add_argument(
        "--atol", type=float, default=0.0, metavar="TOL", help="absolute error that is enough"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything random")
    parser.add_argument(
        "--log", action="store_true", help="values are logarithms of those of the integrand: log=True"
    )
    add_name(parser, "--on-invalid", ("raise", "zero"), "raise", "what becomes of values that are not finite")
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


def box(options: argparse.Namespace) -> int | list[list[float]]:
    """Combine --dim and --bounds into the bounds of the integral."""
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
        return {"flow": Flow.from_description(description, flow.params, options.threads, options.backend)}
    return {"flow": Flow.load(options.flow_in, options.threads, options.backend)}


def check_outputs(options: argparse.Namespace, bounds: Any, *others: str | None) -> None:
    """Refuse files that cannot be written, before anything is computed; `others` are files besides."""
    outputs = [path for path in (options.output, options.flow_out) if path is not None]
    check_different(*outputs, *others)
    for path in outputs:
        check_writable(path)
    if options.flow_out is not None and not np.isfinite(bounds).all():
        raise ValueError(
            "--flow-out: a flow has finite bounds, and the integral has not; write -o RESULT, which "
            "--flow-in and varflow sample take as well"
        )


def show_result(result: Result, seconds: float | None, options: argparse.Namespace) -> None:
    """Write the files that were asked for, and print the result, even where one of them has failed."""
    with ExitStack() as steps:  # from the last to the first
        steps.callback(_print_result, result, seconds, options)
        if options.flow_out is not None:
            steps.callback(save, result.flow.on_box(result.bounds), options.flow_out, options)
        if options.output is not None:
            steps.callback(save, result, options.output, options)


def _print_result(result: Result, seconds: float | None, options: argparse.Namespace) -> None:
    time = {} if seconds is None else {"seconds": seconds}
    if options.json:
        names = ("log_mean", "log_sdev", *FIGURES) if result.is_log else FIGURES
        print_json({**{name: getattr(result, name) for name in names}, **time})
        return
    print(result.summary())
    print(f"result = {format_result(result)}", flush=True)
    for warning in result.warnings:
        print(f"varflow: warning: {warning}", file=sys.stderr, flush=True)
    for name, value in time.items():
        print(f"{name:<24}{value:>40.1f}")
    for path in options.written:
        print(f"wrote {path}")
