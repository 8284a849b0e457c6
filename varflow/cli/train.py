"""The command `varflow train`."""

import argparse
import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from varflow.cli.options import (
    Parser,
    add_architecture,
    add_checkpoint,
    add_columns,
    add_command,
    add_conditions,
    add_discrete,
    add_machine,
    add_name,
    check_different,
    checkpoint_settings,
    flow_options,
    stopped_by_signals,
)
from varflow.cli.output import save
from varflow.cli.ranks import add_mpi
from varflow.cli.report import add_report_option, save_report
from varflow.cli.talk import note, progress_of
from varflow.cli.values import number, parse_bounds, parse_fraction, whole
from varflow.data.dataset import Dataset
from varflow.data.hdf5_points import split_group
from varflow.data.points import coordinate_names
from varflow.flow.architecture import LATENTS, Architecture
from varflow.flow.defaults import default_sizes
from varflow.reporting.report import check_report
from varflow.runtime.archive import check_writable
from varflow.runtime.progress import Lines, Progress
from varflow.training.adam import SCHEDULES, Adam
from varflow.training.learning_curve import learning_curve
from varflow.training.losses import LOSSES
from varflow.training.recipe import optimiser_for
from varflow.training.record import TrainingRecord
from varflow.training.train import Training, train

__all__ = ["add_train"]

CHOSEN = " (default: follows from the data)"


def add_train(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow train`."""
    parser = add_command(
        commands,
        "train",
        _train,
        "train a flow on weighted points, and measure it on points held out",
        "varflow train events.csv -o flow.npz --seed 1",
        quiet="the table",
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="points: .csv/.tsv/.txt/.dat with columns x... p f, in any order if a header names them, .npz, "
        ".h5 or .h5:/GROUP",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FLOW", help="file for the trained flow")
    add_name(parser, "--loss", LOSSES, "variance", "what is made small")
    add_architecture(parser, sizes=CHOSEN)
    add_machine(parser)
    parser.add_argument(
        "--epochs", type=whole, metavar="N", help=f"how often the points are gone through{CHOSEN}"
    )
    parser.add_argument("--batch", type=whole, metavar="N", help=f"points a step{CHOSEN}")
    parser.add_argument("--lr", type=number, metavar="RATE", help=f"learning rate of Adam{CHOSEN}")
    add_name(parser, "--schedule", SCHEDULES, None, "course of the learning rate (default: cosine)")
    parser.add_argument(
        "--patience",
        type=whole,
        metavar="N",
        help=f"epochs without improvement that end a training{CHOSEN}",
    )
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="seed of everything random")
    parser.add_argument(
        "--flows",
        type=whole,
        default=1,
        metavar="K",
        help="number of flows, each with another K-th of the points held out; their mixture is written",
    )
    parser.add_argument(
        "--defensive",
        type=number,
        default=0.0,
        metavar="SHARE",
        help="share of the uniform density that is mixed in, which bounds the weights",
    )
    parser.add_argument(
        "--holdout",
        type=parse_fraction,
        metavar="FRACTION",
        help="share of the points kept for the table (default: 0.1; with several flows none, as each is "
        "measured on the points that it holds out)",
    )
    parser.add_argument(
        "--learning-curve",
        action="store_true",
        help="train on an eighth, a quarter, a half and all of the points, and tell what more would bring",
    )
    parser.add_argument(
        "--unnormalized-p",
        action="store_true",
        help="p lacks a constant factor: train without the control variate, which needs it",
    )
    add_name(
        parser,
        "--latent",
        LATENTS,
        None,
        "density in latent space; normal, for points without bounds and --cell realnvp (default: uniform)",
    )
    parser.add_argument(
        "--bounds",
        type=parse_bounds,
        metavar="LOWER,UPPER",
        help="box, one pair for all coordinates or one for each; that of the file, or 0,1, if not given",
    )
    add_discrete(parser)
    add_columns(parser)
    add_conditions(parser)
    add_report_option(parser)
    add_checkpoint(parser)
    add_mpi(parser)


def _train(options: argparse.Namespace) -> None:
    begin, comm = time.perf_counter(), options.comm
    data = Dataset.read(
        options.data,
        _bounds(options),
        columns=options.columns,
        conditions=options.conditions,
        discrete=options.discrete,
        comm=comm,
    )
    comm.first(lambda: _check_files(options))
    settings = _settings(options, data)
    given = f", conditions: {data.n_conditions}" if data.n_conditions > 0 else ""
    note(f"{options.data}: {data.n:,} points, d = {data.d}{given}", options)
    with stopped_by_signals(options):
        if options.learning_curve:
            training = _learning_curve(data, settings, options)
        else:
            progress = progress_of(options)
            with _Watch(_EpochLines if progress is Lines else progress, options.flows) as watch:
                training = train(data, callback=watch, **settings)
    if comm.is_first:
        save(training.flow, options.output, options)
    print(training.evaluation)
    seconds = time.perf_counter() - begin
    note(f"{'seconds':<24}{seconds:>40.1f}", options)
    note(f"wrote {options.output}: {training.flow.n_params:,} parameters", options)
    if options.report is not None and comm.is_first:
        _save_report(training, seconds, options)


def _bounds(options: argparse.Namespace) -> Any:
    """Give the bounds: where the latent density is normal, none are those of all points."""
    if options.latent == "normal" and options.bounds is None:
        return [-math.inf, math.inf]
    return options.bounds


def _save_report(training: Training, seconds: float, options: argparse.Namespace) -> None:
    """Write the report, with the names that the file gives to the coordinates."""
    files = {"points": split_group(options.data)[0], "flow": options.output}
    names = coordinate_names(options.data, options.columns, options.conditions)
    title = f"varflow train: {Path(files['points']).name}"
    save_report(title, training, seconds, files, options, names)
    note(f"wrote {options.report}", options)


def _check_files(options: argparse.Namespace) -> None:
    """See that files can be written: a training for hours is to lead to them."""
    check_different(split_group(options.data)[0], options.output, options.checkpoint, options.report)
    check_writable(options.output)
    if options.report is not None:
        check_report(options.report)


def _settings(options: argparse.Namespace, data: Dataset) -> dict[str, Any]:
    """Collect the arguments of `train`."""
    return {
        "loss": options.loss,
        "cell": options.cell,
        "flow_options": flow_options(options)
        | ({} if options.latent is None else {"latent": options.latent}),
        "n_flows": options.flows,
        "defensive": options.defensive,
        "test": options.holdout,
        "threads": options.threads,
        "backend": options.backend,
        "n_epochs": options.epochs,
        "minibatch_size": options.batch,
        "optim": _optimiser(options, data),
        "patience": options.patience,
        "p_normalized": False if options.unnormalized_p else None,
        "seed": options.seed,
        "comm": options.comm,
        **checkpoint_settings(options),
    }


def _optimiser(options: argparse.Namespace, data: Dataset) -> Adam | None:
    """Make the optimiser where something of it is given; otherwise it follows from what each flow learns."""
    given = {name: getattr(options, name) for name in ("lr", "schedule")}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return None
    sizes = default_sizes(data.d, options.cell, data.n) | flow_options(options)
    architecture = Architecture(data.d, options.cell, **sizes, n_conditions=data.n_conditions)
    return optimiser_for(data.n, architecture, **given)


def _learning_curve(data: Dataset, settings: dict[str, Any], options: argparse.Namespace) -> Training:
    """Print the curve, and give the training on all points."""
    if settings["checkpoint"] is not None:
        raise ValueError("--learning-curve has no checkpoint: leave --checkpoint out")
    own = {
        name: value
        for name, value in settings.items()
        if name not in ("checkpoint", "resume", "checkpoint_seconds") and value is not None
    }
    progress = progress_of(options)
    with _Watch(Progress if progress is Lines else progress, options.flows) as watch:

        def announce(n: int) -> None:
            watch.end()
            note(f"training on {n:,} points", options)

        curve = learning_curve(data, progress=announce, callback=watch, **own)
    print(curve)
    return curve.training


class _EpochLines(Progress):
    """Progress in a log: a line for about every tenth of the epochs."""

    printed = 0

    def update(self, n: float, doing: str = "", figure: str = "") -> None:
        done = int(n)
        if figure and done > self.printed and done * 10 // self.total > self.printed * 10 // self.total:
            self.printed = done
            print(f"epoch {done}/{self.total}: {figure}", flush=True)


class _Watch:
    """What a training calls after each step and epoch; it knows how long the training is by then.

    Parameters
    ----------
    progress : type of Progress
        How that is shown.
    n_flows : int
        Number of flows that are trained.
    """

    def __init__(self, progress: type[Progress], n_flows: int) -> None:
        self._progress, self._n_flows, self._stack = progress, n_flows, ExitStack()
        self._shown: Progress | None = None

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """End with a training; another one may follow."""
        self._shown = None
        self._stack.close()

    def __call__(self, flow: int, record: TrainingRecord) -> None:
        n_epochs, n_steps = record.planned_epochs, record.planned_steps
        assert n_epochs is not None and n_steps is not None  # noqa: PT018 - a training has planned both
        if self._shown is None:
            self._shown = self._stack.enter_context(
                self._progress(n_epochs * self._n_flows, "epoch", "training")
            )
        doing = "training" if self._n_flows == 1 else f"flow {flow + 1} of {self._n_flows}"
        loss = f"held-out loss {record.epoch_losses[-1]:.4g}" if record.epoch_losses else ""
        n = min(n_epochs * record.step / n_steps, record.epoch + 0.99)  # before its loss, no epoch is over
        self._shown.update(n_epochs * flow + max(n, record.epoch), doing, loss)
