"""The command `varflow`: parsing of arguments, and printing."""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from varflow._version import __version__
from varflow.adam import SCHEDULES, Adam
from varflow.architecture import DTYPES
from varflow.archive import check_writable
from varflow.backend import BACKENDS
from varflow.benchmark import benchmark
from varflow.checkpoint import SECONDS, stop_by_signals
from varflow.dataset import Dataset
from varflow.errors import BackendError, Preempted, TrainingInterruption, unknown_name
from varflow.evaluation import evaluate
from varflow.files import SampleWriter, read_points
from varflow.flow import Flow
from varflow.integrator import integrate
from varflow.kernels.splines import CELLS
from varflow.loading import FunctionError, function_error, load_function
from varflow.losses import LOSSES
from varflow.masks import MASKS
from varflow.record import TrainingRecord
from varflow.result import Result
from varflow.stateful_trainers import BasicStatefulTrainer
from varflow.warmup import warmup

__all__ = ["main"]

USAGE_ERROR = 2
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: what batch systems take for a job to be started again


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    int
        Exit status: 0, or 2 where something was refused, in one line on stderr, or 1 where training could not
        go on, or 75 where a signal stopped a run that has a checkpoint to go on from, or 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError, TypeError, ImportError, MemoryError, BackendError, FunctionError) as error:
        return _fail(error, USAGE_ERROR, error)
    except TrainingInterruption as error:
        return _fail(error, 1)
    except Preempted as error:
        return _fail(f"{error}: start the same command again", TRY_AGAIN)
    except KeyboardInterrupt as interrupt:
        return _fail(_interrupted(options), 130, interrupt)
    return 0


def _interrupted(options: argparse.Namespace) -> str:
    """Say what Ctrl-C has left."""
    checkpoint = getattr(options, "checkpoint", None)
    if checkpoint is None or not Path(checkpoint).exists():
        return "interrupted; no file was written"
    return f"interrupted; the same command goes on from {checkpoint}"


def _fail(message: object, status: int, error: BaseException | None = None) -> int:
    """Print a line; and another where an error came with the estimate so far."""
    if isinstance(message, OSError) and message.strerror:
        message = f"{message.filename}: {message.strerror}" if message.filename else message.strerror
    lines = [str(message) or type(message).__name__]
    partial = getattr(error, "partial", None)
    if partial is not None:
        lines.append(f"after {partial.n_calls:,} calls the estimate was {_estimate(partial)}")
    for line in lines:
        print(f"varflow: {' '.join(line.split())}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """Parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(_fail(f"{message}; see {self.prog} --help", USAGE_ERROR))


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Formatter that names defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return (
            action.help
            if action.default is None or action.default is False
            else super()._get_help_string(action)
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="varflow",
        description="Neural importance sampling: train a flow on weighted points, draw better ones.",
        epilog="varflow COMMAND --help tells more of each, with an example.",
    )
    parser.add_argument("--version", action="version", version=f"varflow {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_train(commands)
    _add_evaluate(commands)
    _add_sample(commands)
    _add_integrate(commands)
    _add_bench(commands)
    _add_warmup(commands)
    return parser


def _command(
    commands: "argparse._SubParsersAction[_Parser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    summary: str,
    example: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example: {example}",
        formatter_class=_HelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_name(
    parser: argparse.ArgumentParser, flag: str, names: Iterable[str], default: str, text: str
) -> None:
    """Add an option that takes one of some names; unlike argparse's choices it tells the nearest."""

    def name(given: str) -> str:
        if given not in names:
            raise argparse.ArgumentTypeError(str(unknown_name("it", given, names)))
        return given

    parser.add_argument(flag, type=name, default=default, metavar="{" + ",".join(names) + "}", help=text)


def _add_architecture(parser: argparse.ArgumentParser, hidden: str, layers: str, bins: str) -> None:
    _add_name(parser, "--cell", CELLS, "pwlinear", "kind of spline")
    _add_name(parser, "--masking", MASKS, "iflow", "which coordinates each cell transforms")
    parser.add_argument(bins, dest="n_bins", type=int, default=16, metavar="N", help="bins of each spline")
    parser.add_argument(
        hidden, dest="d_hidden", type=int, default=64, metavar="N", help="neurons a hidden layer"
    )
    parser.add_argument(
        layers, dest="n_hidden", type=int, default=2, metavar="N", help="hidden layers of each network"
    )
    _add_name(parser, "--dtype", DTYPES, "float32", "precision of the networks")
    _add_machine(parser)


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", metavar="FILE",
        help="file that keeps the state: the same command goes on from it, and SIGTERM and SIGUSR1 stop the "
        "run after a complete step, with status 75",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=SECONDS, metavar="S", help="time between two checkpoints"
    )


def _checkpoint_settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "checkpoint": options.checkpoint,
        "resume": options.checkpoint is not None,
        "checkpoint_seconds": options.checkpoint_seconds,
    }


def _check_different(*paths: str | None) -> None:
    """Refuse to write two things to the same file."""
    given = [path for path in paths if path is not None]
    for k, path in enumerate(given):
        if Path(path).resolve() in [Path(other).resolve() for other in given[:k]]:
            raise ValueError(f"{path} cannot take two outputs: name a file for each")


def _stopped_by_signals(options: argparse.Namespace) -> AbstractContextManager[None]:
    """Signals end a run without a checkpoint as they end any other process."""
    return nullcontext() if options.checkpoint is None else stop_by_signals()


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, metavar="N", help="threads; all cores allowed if not given")
    _add_name(
        parser, "--backend", BACKENDS, "cpu", "where the flow is computed; auto: on a GPU if there is one"
    )


# train


def _add_train(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        commands, "train", _train, "train a flow on weighted points, and measure it on points held out",
        "varflow train events.csv -o flow.npz --epochs 50 --seed 1",
    )  # fmt: skip
    parser.add_argument(
        "data", metavar="DATA", help="points: .csv/.txt/.dat with columns x... p f, .npz or .h5"
    )
    parser.add_argument("-o", "--output", required=True, metavar="FLOW", help="file for the trained flow")
    _add_name(parser, "--loss", LOSSES, "variance", "what is made small")
    _add_architecture(parser, "--hidden", "--layers", "--bins")
    parser.add_argument(
        "--epochs", type=int, default=50, metavar="N", help="how often the points are gone through"
    )
    parser.add_argument("--batch", type=int, default=1000, metavar="N", help="points a step")
    parser.add_argument("--lr", type=float, default=3e-3, metavar="RATE", help="learning rate of Adam")
    _add_name(parser, "--schedule", SCHEDULES, "cosine", "course of the learning rate")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything random")
    parser.add_argument(
        "--holdout", type=_fraction, default=0.1, metavar="FRACTION",
        help="share of the points kept for the table; as much of the others chooses the best epoch",
    )  # fmt: skip
    parser.add_argument(
        "--bounds", type=_bounds, metavar="LOWER,UPPER",
        help="box, one pair for all coordinates or one for each; that of the file, or 0,1, if not given",
    )  # fmt: skip
    _add_checkpoint(parser)


def _train(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    optim = Adam(lr=options.lr, schedule=options.schedule)
    data = Dataset.read(options.data, bounds=options.bounds)
    _check_different(options.output, options.checkpoint)
    check_writable(options.output)  # first: training for hours and then no place to write
    train, test = data.split(options.holdout, options.seed)
    flow = Flow(
        data.d, options.cell, options.masking, options.n_bins, options.d_hidden, options.n_hidden,
        dtype=options.dtype, seed=options.seed, bounds=data.bounds, threads=options.threads,
        backend=options.backend,
    )  # fmt: skip
    trainer = BasicStatefulTrainer(
        flow, loss=options.loss, n_epochs=options.epochs, minibatch_size=options.batch, optim=optim,
        holdout=options.holdout, seed=options.seed, **_checkpoint_settings(options),
    )  # fmt: skip
    size = f"{data.n:,} points, d = {data.d}; flow of {flow.n_params:,} parameters"
    print(f"{options.data}: {size}", flush=True)
    progress = _Bar(options.epochs) if sys.stderr.isatty() else _Lines(options.epochs)
    with _stopped_by_signals(options), progress:
        trainer.train_on_dataset(train, callback=progress)
    print(evaluate(flow, test))
    flow.save(options.output)
    print(f"{'seconds':<24}{time.perf_counter() - begin:>40.1f}")
    print(f"wrote {options.output}")


def _bounds(text: str) -> list[list[float]] | list[float]:
    """Parse --bounds: LOWER,UPPER or LOWER,UPPER,LOWER,UPPER,..."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs numbers between commas, got {text!r}") from None
    if len(numbers) % 2:
        raise argparse.ArgumentTypeError(f"needs pairs LOWER,UPPER, got {len(numbers)} numbers")
    pairs = [numbers[k : k + 2] for k in range(0, len(numbers), 2)]
    return pairs if len(pairs) > 1 else pairs[0]


def _fraction(text: str) -> float:
    """Parse --holdout."""
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text}")
    return float(text)


class _Lines:
    """Progress in a log: a line for about every tenth of the epochs."""

    def __init__(self, n_epochs: int) -> None:
        self.n_epochs, self.printed = n_epochs, 0

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, record: TrainingRecord) -> None:
        done = record.epoch
        if done > self.printed and done * 10 // self.n_epochs > self.printed * 10 // self.n_epochs:
            self.printed = done
            print(f"epoch {done}/{self.n_epochs}: loss {record.epoch_losses[-1]:.4g}", flush=True)


class _Bar:
    """Progress on a terminal: a bar of epochs."""

    def __init__(self, n_epochs: int) -> None:
        self.n_epochs = n_epochs

    def __enter__(self) -> "_Bar":
        from tqdm import tqdm  # only here, and only on a terminal

        self.bar = tqdm(total=self.n_epochs, unit="epoch", desc="training", leave=False)
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def __call__(self, record: TrainingRecord) -> None:
        self.bar.update(record.epoch - self.bar.n)
        if record.epoch_losses:
            self.bar.set_postfix(loss=f"{record.epoch_losses[-1]:.4g}", refresh=False)


# evaluate


def _add_evaluate(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        commands, "evaluate", _evaluate, "measure a flow on weighted points that it has not seen",
        "varflow evaluate flow.npz other_events.csv --json",
    )  # fmt: skip
    parser.add_argument("flow", metavar="FLOW", help="file that varflow train wrote")
    parser.add_argument("data", metavar="DATA", help="points, in the same box as those of the training")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_machine(parser)


def _evaluate(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    flow = Flow.load(options.flow, threads=options.threads, backend=options.backend)
    evaluation = evaluate(flow, _read_for(flow, options.data))
    seconds = time.perf_counter() - begin
    if options.json:
        print(json.dumps({**asdict(evaluation), "seconds": seconds}))
    else:
        print(evaluation)
        print(f"{'seconds':<24}{seconds:>40.1f}")


def _read_for(flow: Flow, path: str) -> Dataset:
    """Read points that lie in the box of a flow."""
    arrays = read_points(path)
    if arrays["x"].ndim == 2 and arrays["x"].shape[1] != flow.d:
        raise ValueError(f"{path} has d = {arrays['x'].shape[1]}, the flow has d = {flow.d}")
    return Dataset(**{**arrays, "bounds": flow.bounds})


# sample


def _add_sample(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        commands, "sample", _sample, "draw points from a flow; columns x..., q, q being their density",
        "varflow sample flow.npz -n 1000000 -o points.npz --seed 2",
    )  # fmt: skip
    parser.add_argument("flow", metavar="FLOW", help="file that varflow train wrote")
    parser.add_argument("-n", type=int, required=True, metavar="N", help="number of points")
    parser.add_argument(
        "-o", "--output", required=True, metavar="POINTS", help="file for the points: .npz or .csv"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed; drawn from the system if not given")
    _add_machine(parser)


def _sample(options: argparse.Namespace) -> None:
    flow = Flow.load(options.flow, threads=options.threads, backend=options.backend)
    blocks = flow.sample_blocks(options.n, options.seed)
    with SampleWriter(options.output, options.n, flow.d) as writer:
        for x, logqx in blocks:
            writer.write(x, np.exp(logqx))
    print(f"wrote {options.n:,} points to {options.output}")


# integrate


def _add_integrate(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        commands, "integrate", _integrate, "integrate a Python function over a box, with a flow made for it",
        "varflow integrate my_module:f --dim 4 --bounds=-inf,inf --rtol 1e-3 -o result.npz",
    )  # fmt: skip
    parser.add_argument(
        "function",
        metavar="FUNCTION",
        help="module:function or path/to/file.py:function; takes points (n, d)",
    )
    parser.add_argument("--dim", type=int, metavar="N", help="dimensions; those of the bounds if not given")
    parser.add_argument(
        "--bounds", type=_bounds, metavar="LOWER,UPPER",
        help="box, one pair for all coordinates or one for each; 0,1 if not given; may be inf; "
        "where it begins with a minus sign, write it as --bounds=-inf,inf",
    )  # fmt: skip
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
    _add_machine(parser)
    parser.add_argument(
        "--scalar", action="store_true", help="the function takes one point, (d,): vectorized=False"
    )
    _add_name(parser, "--cell", CELLS, "pwquad", "kind of spline")
    _add_name(
        parser, "--on-invalid", ("raise", "zero"), "raise", "what becomes of values that are not finite"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-o", "--output", metavar="RESULT", help="file for the result: .npz")
    parser.add_argument("--flow-out", metavar="FLOW", help="file for the flow alone, on the unit cube")
    _add_checkpoint(parser)


def _integrate(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    bounds = _box(options.dim, options.bounds)
    f = load_function(options.function)
    outputs = [path for path in (options.output, options.flow_out) if path is not None]
    _check_different(*outputs, options.checkpoint)
    for path in outputs:
        check_writable(path)
    try:
        with _stopped_by_signals(options):
            result = integrate(
                f, bounds, n_calls=options.calls, rtol=options.rtol, atol=options.atol, flow=options.cell,
                vectorized=not options.scalar, workers=options.workers, on_invalid=options.on_invalid,
                seed=options.seed, threads=options.threads, backend=options.backend,
                **_checkpoint_settings(options),
            )  # fmt: skip
    except Exception as error:
        if told := function_error(error):
            raise told from error
        raise
    if options.output is not None:
        result.save(options.output)
    if options.flow_out is not None:
        result.flow.save(options.flow_out)
    seconds = time.perf_counter() - begin
    if options.json:
        print(json.dumps({**_figures(result), "seconds": seconds}))
        return
    print(result.summary())
    print(f"result = {_estimate(result)}", flush=True)
    for warning in result.warnings:
        print(f"varflow: warning: {warning}", file=sys.stderr, flush=True)
    print(f"{'seconds':<24}{seconds:>40.1f}")
    for path in outputs:
        print(f"wrote {path}")


def _box(dim: int | None, bounds: list[Any] | None) -> int | list[list[float]]:
    """Bounds as the integrator takes them, from --dim and --bounds."""
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


def _estimate(result: Result) -> str:
    """Write the estimate without the warnings that may follow it."""
    return str(result).partition("\nwarning: ")[0]


def _figures(result: Result) -> dict[str, Any]:
    names = ("mean", "sdev", "chi2", "dof", "Q", "n_calls", "ess", "n_invalid", "warnings")
    return {name: _for_json(getattr(result, name)) for name in names}


def _for_json(value: Any) -> Any:
    """Convert to what JSON can hold; it has no word for what is not finite but null."""
    if isinstance(value, dict):
        return {key: _for_json(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_for_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# bench


def _add_bench(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        commands, "bench", _bench, "time a training step and a sampling call on this machine",
        "varflow bench --d 8 --batch 10000 --d-hidden 64 --n-hidden 3 --n-bins 10 --json",
    )  # fmt: skip
    parser.add_argument("--d", type=int, default=8, metavar="N", help="dimensions")
    parser.add_argument("--batch", type=int, default=10_000, metavar="N", help="points a step")
    _add_architecture(parser, "--d-hidden", "--n-hidden", "--n-bins")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _bench(options: argparse.Namespace) -> None:
    flow = Flow(
        options.d, options.cell, options.masking, options.n_bins, options.d_hidden, options.n_hidden,
        dtype=options.dtype, seed=0, threads=options.threads,
        backend=options.backend,
    )  # fmt: skip
    figures = benchmark(flow, options.batch)
    if options.json:
        print(json.dumps({**flow.architecture.as_dict(), "batch": options.batch, **figures}))
        return
    print(f"parameters              {figures['n_params']:>12,}")
    where = "GPU" if figures["backend"] == "cuda" else figures["threads"]
    print(f"threads                 {where:>12}")
    print(f"training step           {figures['step_s'] * 1e3:>12.3f} ms")
    print(f"sampling call           {figures['sample_s'] * 1e3:>12.3f} ms")
    if figures["roofline_share"] is None:
        print(f"training step           {figures['gflop_s']:>12.0f} GFLOP/s")
        return
    print(f"matrix products alone   {figures['roofline_gflop_s']:>12.0f} GFLOP/s")
    share = f"{figures['roofline_share']:.0%} of that"
    print(f"training step           {figures['gflop_s']:>12.0f} GFLOP/s = {share}")


# warmup


def _add_warmup(commands: "argparse._SubParsersAction[_Parser]") -> None:
    _command(
        commands, "warmup", _warmup, "compile all kernels and keep them, for example before a batch job",
        "varflow warmup",
    )  # fmt: skip


def _warmup(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    folder = warmup()
    kept = f"kept in {folder}" if folder else "kept nowhere: no folder can be written to, set NUMBA_CACHE_DIR"
    print(f"all kernels are compiled ({time.perf_counter() - begin:.1f} s), {kept}")
