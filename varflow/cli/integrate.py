"""The command `varflow integrate`."""

import argparse
import time

from varflow.cli.functions import function_error, load_integrand
from varflow.cli.integral import add_integral, add_outputs, box, check_outputs, flow_settings, show_result
from varflow.cli.options import (
    Parser,
    add_checkpoint,
    add_command,
    add_name,
    checkpoint_settings,
    stopped_by_signals,
)
from varflow.cli.ranks import add_mpi
from varflow.cli.workers import add_workers, workers_of
from varflow.compiled.kinds import KINDS
from varflow.integration.integrator import integrate

__all__ = ["add_integrate"]


def add_integrate(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow integrate`."""
    parser = add_command(
        commands,
        "integrate",
        _integrate,
        "integrate a function of Python or of a compiled library over a box, with a flow made for it",
        "varflow integrate my_module:f --dim 4 --bounds=-inf,inf --rtol 1e-3 -o result.npz",
    )
    parser.add_argument(
        "function",
        metavar="FUNCTION",
        help="module:function or path/to/file.py:function, which takes points (n, d); "
        "or path/to/libme.so:function, with --kind",
    )
    add_integral(parser)
    add_workers(parser)
    parser.add_argument(
        "--scalar", action="store_true", help="the function takes one point, (d,): vectorized=False"
    )
    add_name(
        parser, "--kind", KINDS, None, "how a function in a library is declared; see vf.CompiledIntegrand"
    )
    parser.add_argument(
        "--components",
        type=int,
        metavar="M",
        help="how many numbers a function in a library gives (default: 1)",
    )
    parser.add_argument(
        "--threadsafe",
        action="store_true",
        help="a function in a library may be called by several threads at once",
    )
    add_outputs(parser)
    add_checkpoint(parser)
    add_mpi(parser)


def _integrate(options: argparse.Namespace) -> None:
    begin, comm = time.perf_counter(), options.comm
    bounds = box(options)
    f = load_integrand(options.function, options.kind, options.components, options.threadsafe)
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
                **flow,
                vectorized=not options.scalar,
                workers=workers,
                on_invalid=options.on_invalid,
                log=options.log,
                seed=options.seed,
                threads=options.threads,
                comm=comm,
                **checkpoint_settings(options),
            )
    except Exception as error:
        if told := function_error(error):
            raise told from error
        raise
    if comm.is_first:
        show_result(result, time.perf_counter() - begin, options)
