"""The command `varflow train`."""

import argparse
import sys
import time
from typing import Any

from varflow.cli.options import (
    Parser,
    add_architecture,
    add_checkpoint,
    add_columns,
    add_command,
    add_machine,
    add_name,
    check_different,
    checkpoint_settings,
    flow_options,
    parse_bounds,
    parse_fraction,
    stopped_by_signals,
)
from varflow.cli.output import save
from varflow.cli.ranks import add_mpi
from varflow.data.dataset import Dataset
from varflow.data.hdf5_points import split_group
from varflow.flow.architecture import Architecture
from varflow.flow.defaults import default_sizes
from varflow.runtime.archive import check_writable
from varflow.training.adam import SCHEDULES, Adam
from varflow.training.learning_curve import learning_curve
from varflow.training.losses import LOSSES
from varflow.training.recipe import n_epochs_for, optimiser_for
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
        "--epochs", type=int, metavar="N", help=f"how often the points are gone through{CHOSEN}"
    )
    parser.add_argument("--batch", type=int, metavar="N", help=f"points a step{CHOSEN}")
    parser.add_argument("--lr", type=float, metavar="RATE", help=f"learning rate of Adam{CHOSEN}")
    add_name(parser, "--schedule", SCHEDULES, None, "course of the learning rate (default: cosine)")
    parser.add_argument(
        "--patience", type=int, metavar="N", help=f"epochs without improvement that end a training{CHOSEN}"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything random")
    parser.add_argument(
        "--flows",
        type=int,
        default=1,
        metavar="K",
        help="number of flows, each with another K-th of the points held out; their mixture is written",
    )
    parser.add_argument(
        "--defensive",
        type=float,
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
    parser.add_argument(
        "--bounds",
        type=parse_bounds,
        metavar="LOWER,UPPER",
        help="box, one pair for all coordinates or one for each; that of the file, or 0,1, if not given",
    )
    add_columns(parser)
    add_checkpoint(parser)
    add_mpi(parser)


def _train(options: argparse.Namespace) -> None:
    begin, comm = time.perf_counter(), options.comm
    data = Dataset.read(options.data, options.bounds, columns=options.columns, comm=comm)
    comm.first(lambda: _check_files(options))
    settings = _settings(options, data)
    print(f"{options.data}: {data.n:,} points, d = {data.d}", flush=True)
    n_epochs = options.epochs or n_epochs_for(data.n)
    has_bar = sys.stderr.isatty() and comm.is_first
    progress = (_Bar if has_bar else _Lines)(n_epochs * options.flows, n_epochs)
    with stopped_by_signals(options):
        if options.learning_curve:
            training = _learning_curve(data, settings)
        else:
            with progress:
                training = train(data, callback=progress, **settings)
    if comm.is_first:
        save(training.flow, options.output, options)
    print(training.evaluation)
    print(f"{'seconds':<24}{time.perf_counter() - begin:>40.1f}")
    print(f"wrote {options.output}: {training.flow.n_params:,} parameters")


def _check_files(options: argparse.Namespace) -> None:
    """See that the flow can be written: a training for hours is to lead to a file."""
    check_different(split_group(options.data)[0], options.output, options.checkpoint)
    check_writable(options.output)


def _settings(options: argparse.Namespace, data: Dataset) -> dict[str, Any]:
    """Collect the arguments of `train`."""
    return {
        "loss": options.loss,
        "cell": options.cell,
        "flow_options": flow_options(options),
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
    return optimiser_for(data.n, Architecture(data.d, options.cell, **sizes), **given)


def _learning_curve(data: Dataset, settings: dict[str, Any]) -> Training:
    """Print the curve, and give the training on all points."""
    if settings["checkpoint"] is not None:
        raise ValueError("--learning-curve has no checkpoint: leave --checkpoint out")
    own = {
        name: value
        for name, value in settings.items()
        if name not in ("checkpoint", "resume", "checkpoint_seconds") and value is not None
    }
    curve = learning_curve(data, progress=lambda n: print(f"training on {n:,} points", flush=True), **own)
    print(curve)
    return curve.training


class _Lines:
    """Progress in a log: a line for about every tenth of the epochs."""

    def __init__(self, n_epochs: int, n_epochs_a_flow: int) -> None:
        self.n_epochs, self.n_epochs_a_flow, self.printed = n_epochs, n_epochs_a_flow, 0

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, flow: int, record: TrainingRecord) -> None:
        if not record.epoch_losses:
            return  # the first epoch of a flow, where the one before may have ended early
        done = flow * self.n_epochs_a_flow + record.epoch
        if done > self.printed and done * 10 // self.n_epochs > self.printed * 10 // self.n_epochs:
            self.printed = done
            print(f"epoch {done}/{self.n_epochs}: loss {record.epoch_losses[-1]:.4g}", flush=True)


class _Bar:
    """Progress on a terminal: a bar of epochs."""

    def __init__(self, n_epochs: int, n_epochs_a_flow: int) -> None:
        self.n_epochs, self.n_epochs_a_flow = n_epochs, n_epochs_a_flow

    def __enter__(self) -> "_Bar":
        from tqdm import tqdm  # only here, and only on a terminal

        self.bar = tqdm(total=self.n_epochs, unit="epoch", desc="training", leave=False)
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def __call__(self, flow: int, record: TrainingRecord) -> None:
        self.bar.update(flow * self.n_epochs_a_flow + record.epoch - self.bar.n)
        if record.epoch_losses:
            self.bar.set_postfix(loss=f"{record.epoch_losses[-1]:.4g}", refresh=False)
