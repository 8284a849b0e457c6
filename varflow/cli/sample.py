"""The command `varflow sample`."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from varflow.cli.functions import FUNCTION, add_calls, add_values, function_error, load_integrand
from varflow.cli.options import Parser, add_columns, add_command, add_machine, add_name, check_different
from varflow.cli.output import standard_output
from varflow.cli.points import points_for
from varflow.cli.ranks import add_mpi
from varflow.cli.talk import note, progress_of
from varflow.cli.values import number, parse_numbers, whole
from varflow.cli.workers import workers_of
from varflow.data.dataset import Dataset
from varflow.data.hdf5_points import split_group
from varflow.data.points import is_points_file
from varflow.data.samples import STREAM_FORMATS, SampleWriter
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.integration.events import box_of, event_blocks, unweight
from varflow.integration.integrand import Integrand
from varflow.integration.result import Result, load_density
from varflow.integration.unweighting import EPSILON, MAX_WEIGHTS, Choice, UnweightingFigures
from varflow.runtime.progress import Progress
from varflow.training.evaluation import evaluate

__all__ = ["add_sample"]

STDOUT = "-"
SAME = 1e-3  # difference of log p and log q up to which they are one density, rounded differently
WITH_UNWEIGHT = ("max_weight", "epsilon", "columns", "scalar", "kind", "components", "threadsafe", "log")


def add_sample(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow sample`."""
    parser = add_command(
        commands,
        "sample",
        _sample,
        "draw points from a flow, with their density q (columns x..., q), or unweighted events (x..., w)",
        "varflow sample flow.npz -n 1000000 -o points.npz --seed 2",
        quiet="",
    )
    parser.add_argument("flow", metavar="FLOW", help="file of a flow, or of the result of an integration")
    parser.add_argument(
        "-n",
        type=whole,
        metavar="N",
        help="number of points, or of events; all that there are if events are chosen among points",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="POINTS",
        help="file for the points: .npz, .csv or .npy; - for standard output",
    )
    add_name(parser, "--format", STREAM_FORMATS, None, "what goes to standard output (default: csv)")
    parser.add_argument("--seed", type=whole, metavar="N", help="seed; drawn from the system if not given")
    parser.add_argument(
        "--conditions",
        type=parse_numbers,
        metavar="VALUE,...",
        help="conditions of all points, for a flow that has some",
    )
    parser.add_argument(
        "--unweight",
        metavar="F",
        help="accept points with the probability f/q over the maximum weight: events have the weight 1, or "
        f"what exceeds it. F is the function, {FUNCTION}. Or it is a file of points, such as those of a flow "
        "to which a program has added f, among which events are chosen by f/p",
    )
    add_name(
        parser,
        "--max-weight",
        MAX_WEIGHTS,
        None,
        "maximum weight: the one that a share EPSILON of the points exceeds; or above which weights have "
        "that share of the integral; or the median of the largest of 1/EPSILON weights over bootstrap "
        "replicas (default: quantile)",
    )
    parser.add_argument(
        "--epsilon",
        type=number,
        metavar="EPSILON",
        help=f"that share; 0 for the largest (default: {EPSILON})",
    )
    add_columns(parser)
    add_values(parser)
    add_calls(parser)
    add_machine(parser)
    add_mpi(parser)


def _sample(options: argparse.Namespace) -> None:
    comm = options.comm
    comm.first(lambda: _check(options))
    source = comm.first(lambda: load_density(options.flow, threads=options.threads, backend=options.backend))
    if options.unweight is None:
        _draw(source, options)
    elif is_points_file(options.unweight):
        _choose(source, options)
    else:
        _generate(source, options)


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not belong together."""
    if options.unweight is None:
        given = [name for name in WITH_UNWEIGHT if getattr(options, name) not in (None, False)]
        if given:
            raise ValueError(f"--{given[0].replace('_', '-')} is for --unweight, which is not given")
    elif not is_points_file(options.unweight) and ":" not in options.unweight:
        raise ValueError(
            f"--unweight must be {FUNCTION}; or a file of points, .csv, .npz or .h5; got {options.unweight!r}"
        )
    elif options.conditions is not None:
        raise ValueError("--conditions is for points of a flow; --unweight knows none: leave one of them out")
    if options.n is None and (options.unweight is None or not is_points_file(options.unweight)):
        raise ValueError("-n N must be given: the number of points")
    if options.output != STDOUT:
        if options.format is not None:
            raise ValueError(f"--format is for -o -, and the extension of {options.output} says it")
        others = [] if options.unweight is None else [split_group(options.unweight)[0]]
        check_different(options.flow, *others, options.output)
    elif options.format == "npy" and sys.stdout is not None and sys.stdout.isatty():
        raise ValueError("standard output is a terminal, which cannot show npy: name a file for -o")


@contextmanager
def _writer(options: argparse.Namespace, n: int, d: int, column: str) -> Iterator[SampleWriter | None]:
    """Give what writes the points; None on other ranks than the first."""
    if not options.comm.is_first:
        yield None
        return
    is_stream = options.output == STDOUT
    with (
        standard_output() if is_stream else nullcontext(options.output) as target,
        SampleWriter(
            target, n, d, column=column, stream_format=options.format or STREAM_FORMATS[0]
        ) as writer,
    ):
        yield writer


def _progress(options: argparse.Namespace) -> type[Progress]:
    """Choose how progress is shown: not among points on the same terminal."""
    is_among_them = options.output == STDOUT and sys.stdout is not None and sys.stdout.isatty()
    return Progress if is_among_them else progress_of(options)


def _draw(source: Flow | Mixture | Result, options: argparse.Namespace) -> None:
    """Draw points, with their density."""
    comm, n, seed = options.comm, options.n, options.seed
    blocks: Iterable[tuple[np.ndarray, np.ndarray]]
    if isinstance(source, Result):
        if options.conditions is not None:
            raise ValueError(f"{options.flow} is the result of an integration: leave --conditions out")
        blocks = [source.sample(n, seed=seed, comm=comm)]
    else:
        blocks = source.sample_blocks(n, seed, comm, conditions=options.conditions)
    n_written, progress = 0, _progress(options)
    with (
        _writer(options, n, len(source.bounds), "q") as writer,
        progress(n, "point", "sampling") as shown,
    ):
        for part in blocks:
            for x, logqx in comm.collect(part):
                assert writer is not None  # as other ranks than the first get no parts
                writer.write(x, np.exp(logqx))
                n_written += len(x)
                shown.update(n_written)
    if options.output != STDOUT:
        note(f"wrote {n:,} points to {options.output}", options)


def _choice(options: argparse.Namespace) -> Choice:
    given = {"name": options.max_weight, "epsilon": options.epsilon}
    return Choice(**{name: value for name, value in given.items() if value is not None})


def _generate(source: Flow | Mixture | Result, options: argparse.Namespace) -> None:
    """Draw events of a function."""
    n, comm, choice = options.n, options.comm, _choice(options)
    f = load_integrand(options.unweight, options)
    entropy = comm.first(lambda: np.random.SeedSequence(options.seed).entropy)
    how: dict[str, Any] = {"vectorized": not options.scalar, "on_invalid": options.on_invalid}
    how |= {"log": options.log, "comm": comm}
    n_written, progress = 0, _progress(options)
    try:
        with (
            workers_of(options.workers, f) as workers,
            Integrand(f, box_of(source), workers=workers, **how) as integrand,
            _writer(options, n, len(source.bounds), "w") as writer,
            progress(n, "event", "unweighting") as shown,
        ):
            for (x, w), state in event_blocks(source, integrand, n, choice, entropy):
                if writer is not None:
                    writer.write(x, w)
                n_written += len(x)
                shown.update(n_written, figure=f"efficiency {state.n_accepted / state.n_drawn:.1%}")
    except Exception as error:
        if told := function_error(error):
            raise told from error
        raise
    _tell(state.figures(), options)


def _choose(source: Flow | Mixture | Result, options: argparse.Namespace) -> None:
    """Choose events among points of a file."""
    for name in ("log", "scalar", "kind", "components", "threadsafe"):
        if getattr(options, name):
            raise ValueError(f"--{name} is for a function, and {options.unweight} is a file of points")
    data = points_for(source, options.unweight, options.columns)
    choice = _choice(options)
    events = unweight(data, options.n, max_weight=choice.name, epsilon=choice.epsilon, seed=options.seed)
    with _writer(options, len(events.x), data.d, "w") as writer:
        if writer is not None:
            writer.write(events.x, events.w)
    if not isinstance(source, Result):
        _tell_density(source, data, options)
    _tell(events.figures, options)


def _tell_density(flow: Flow | Mixture, data: Dataset, options: argparse.Namespace) -> None:
    """Say what points of the flow would be worth where those of the file are from another density."""
    if np.median(np.abs(flow.log_prob(data.x) - data.logpx)) > SAME:
        told = (
            f"p of {options.unweight} is not the density of {options.flow}: events are chosen by f/p; of "
            f"points of the flow, {evaluate(flow, data).efficiency_after:.1%} would be accepted"
        )
        _note(told, options)


def _tell(figures: UnweightingFigures, options: argparse.Namespace) -> None:
    _note(str(figures), options)
    if options.output != STDOUT:
        note(f"wrote {figures.n_events:,} events to {options.output}", options)


def _note(text: str, options: argparse.Namespace) -> None:
    """Print what goes beside the points: not into them."""
    note(text, options, sys.stderr if options.output == STDOUT else None)
