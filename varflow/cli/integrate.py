"""The command `varflow integrate`."""

import argparse
import time

from varflow.cli.functions import FUNCTION, add_calls, function_error, load_integrand
from varflow.cli.integral import add_integral, add_outputs, box, check_outputs, flow_settings, show_result
from varflow.cli.options import (
    Parser,
    add_checkpoint,
    add_command,
    checkpoint_settings,
    stopped_by_signals,
)
from varflow.cli.ranks import add_mpi
from varflow.cli.talk import progress_of
from varflow.cli.values import number
from varflow.cli.workers import workers_of
from varflow.integration.integrator import integrate

__all__ = ["add_integrate"]


def add_integrate(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow integrate`."""
    parser = add_command(
        commands,
        "integrate",
        _integrate,
        "integrate a function of Python or of a compiled library over a box, with a flow made for it",
        "varflow integrate my_module:f --dim 4 --bounds -inf,inf --rtol 1e-3 -o result.npz",
        quiet="the result",
    )
    parser.add_argument("function", metavar="FUNCTION", help=FUNCTION)
    add_integral(parser)
    parser.add_argument(
        "--seconds",
        type=number,
        metavar="S",
        help="time that it may take; it ends with the best estimate that can be made in that time",
    )
    add_calls(parser)
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="to a tolerance, train by what calls cost and not by the clock, so that the same seed gives the "
        "same bits; always so with --checkpoint and --mpi",
    )
    add_outputs(parser)
    add_checkpoint(parser)
    add_mpi(parser)


def _integrate(options: argparse.Namespace) -> None:
    begin, comm = time.perf_counter(), options.comm
    bounds = box(options)
    f = load_integrand(options.function, options)
    flow = comm.first(lambda: flow_settings(options))
    comm.first(lambda: check_outputs(options, bounds, options.checkpoint))
    try:
        with stopped_by_signals(options), workers_of(options.workers, f) as workers:
            result = integrate(
                f,
                bounds,
                n_calls=options.calls,
                rtol=options.rtol,
                atol=options.atol,
                seconds=options.seconds,
                **flow,
                vectorized=not options.scalar,
                workers=workers,
                on_invalid=options.on_invalid,
                log=options.log,
                seed=options.seed,
                deterministic=True if options.deterministic or options.mpi else None,
                threads=options.threads,
                progress=progress_of(options),
                comm=comm,
                **checkpoint_settings(options),
            )
    except Exception as error:
        if told := function_error(error):
            raise told from error
        raise
    if comm.is_first:
        show_result(result, time.perf_counter() - begin, options, options.function)
