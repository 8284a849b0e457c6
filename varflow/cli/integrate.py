"""The command `varflow integrate`."""

import argparse
import sys
import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from varflow.cli.functions import function_error, load_function
from varflow.cli.options import (
    Parser,
    add_architecture,
    add_checkpoint,
    add_command,
    add_machine,
    add_name,
    check_different,
    checkpoint_settings,
    flow_options,
    parse_bounds,
    stopped_by_signals,
)
from varflow.cli.output import format_result, print_json, save
from varflow.flow.flow import Flow
from varflow.integration.integrator import integrate
from varflow.integration.result import Result
from varflow.runtime.archive import check_writable

__all__ = ["add_integrate"]

CELL = "pwquad"  # as the integrator takes it where none is named


def add_integrate(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow integrate`."""
    parser = add_command(
        commands,
        "integrate",
        _integrate,
        "integrate a Python function over a box, with a flow made for it",
        "varflow integrate my_module:f --dim 4 --bounds=-inf,inf --rtol 1e-3 -o result.npz",
    )
    parser.add_argument(
        "function",
        metavar="FUNCTION",
        help="module:function or path/to/file.py:function; takes points (n, d)",
    )
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
        "--workers", type=int, default=1, metavar="N", help="processes that call the function; -1: all cores"
    )
    add_machine(parser)
    parser.add_argument(
        "--scalar", action="store_true", help="the function takes one point, (d,): vectorized=False"
    )
    add_architecture(parser, CELL, " (default: 1, and 2 in two dimensions)")
    add_name(parser, "--on-invalid", ("raise", "zero"), "raise", "what becomes of values that are not finite")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-o", "--output", metavar="RESULT", help="file for the result: .npz")
    parser.add_argument(
        "--flow-in",
        metavar="FLOW",
        help="flow on the unit cube to begin with, as --flow-out has written it for a similar integral",
    )
    parser.add_argument("--flow-out", metavar="FLOW", help="file for the flow alone, on the unit cube")
    add_checkpoint(parser)


def _integrate(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    bounds = _box(options.dim, options.bounds)
    f = load_function(options.function)
    flow = _flow(options)
    outputs = [path for path in (options.output, options.flow_out) if path is not None]
    check_different(*outputs, options.checkpoint)
    for path in outputs:
        check_writable(path)
    try:
        with stopped_by_signals(options):
            result = integrate(
                f,
                bounds,
                n_calls=options.calls,
                rtol=options.rtol,
                atol=options.atol,
                **flow,
                vectorized=not options.scalar,
                workers=options.workers,
                on_invalid=options.on_invalid,
                seed=options.seed,
                threads=options.threads,
                **checkpoint_settings(options),
            )
    except Exception as error:
        if told := function_error(error):
            raise told from error
        raise
    with ExitStack() as steps:  # from the last to the first, each even where one before it has failed
        steps.callback(_print_result, result, begin, options)
        for made, path in ((result.flow, options.flow_out), (result, options.output)):
            if path is not None:
                steps.callback(save, made, path, options)


def _flow(options: argparse.Namespace) -> dict[str, Any]:
    """Collect the arguments of the integrator that describe its flow."""
    made = flow_options(options)
    if options.flow_in is None:
        return {"flow": options.cell, "flow_options": made or None, "backend": options.backend}
    if options.cell != CELL:
        made = {"cell": options.cell, **made}
    if made:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in made)
        raise ValueError(f"{given}: for a flow that is made here, but --flow-in names one")
    return {"flow": Flow.load(options.flow_in, options.threads, options.backend)}


def _box(dim: int | None, bounds: list[Any] | None) -> int | list[list[float]]:
    """Combine --dim and --bounds into the bounds of the integrator."""
    if bounds is None:
        if dim is None:
            raise ValueError("needs --dim N, or --bounds LOWER,UPPER,... with a pair for each dimension")
        return dim
    pairs: list[list[float]] = np.reshape(bounds, (-1, 2)).tolist()
    if dim is None:
        return pairs
    if len(pairs) not in (1, dim):
        raise ValueError(
            f"--bounds must have one pair, or one for each of {dim} dimensions, got {len(pairs)}"
        )
    return pairs * dim if len(pairs) == 1 else pairs


def _figures(result: Result) -> dict[str, Any]:
    names = ("mean", "sdev", "chi2", "dof", "Q", "n_calls", "ess", "n_invalid", "warnings")
    return {name: getattr(result, name) for name in names}


def _print_result(result: Result, begin: float, options: argparse.Namespace) -> None:
    seconds = time.perf_counter() - begin
    if options.json:
        print_json({**_figures(result), "seconds": seconds})
        return
    print(result.summary())
    print(f"result = {format_result(result)}", flush=True)
    for warning in result.warnings:
        print(f"varflow: warning: {warning}", file=sys.stderr, flush=True)
    print(f"{'seconds':<24}{seconds:>40.1f}")
    for path in options.written:
        print(f"wrote {path}")
