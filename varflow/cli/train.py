"""The command `varflow train`."""

import argparse
import sys
import time

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
    parse_fraction,
    stopped_by_signals,
)
from varflow.cli.output import save
from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.runtime.archive import check_writable
from varflow.training.adam import SCHEDULES, Adam
from varflow.training.evaluation import evaluate
from varflow.training.losses import LOSSES
from varflow.training.record import TrainingRecord
from varflow.training.stateful_trainers import BasicStatefulTrainer

__all__ = ["add_train"]


def add_train(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow train`."""
    parser = add_command(
        commands,
        "train",
        _train,
        "train a flow on weighted points, and measure it on points held out",
        "varflow train events.csv -o flow.npz --epochs 50 --seed 1",
    )
    parser.add_argument(
        "data", metavar="DATA", help="points: .csv/.txt/.dat with columns x... p f, .npz or .h5"
    )
    parser.add_argument("-o", "--output", required=True, metavar="FLOW", help="file for the trained flow")
    add_name(parser, "--loss", LOSSES, "variance", "what is made small")
    add_architecture(parser)
    add_machine(parser)
    parser.add_argument(
        "--epochs", type=int, default=50, metavar="N", help="how often the points are gone through"
    )
    parser.add_argument("--batch", type=int, default=1000, metavar="N", help="points a step")
    parser.add_argument("--lr", type=float, default=3e-3, metavar="RATE", help="learning rate of Adam")
    add_name(parser, "--schedule", SCHEDULES, "cosine", "course of the learning rate")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything random")
    parser.add_argument(
        "--holdout",
        type=parse_fraction,
        default=0.1,
        metavar="FRACTION",
        help="share of the points kept for the table; as much of the others chooses the best epoch",
    )
    parser.add_argument(
        "--bounds",
        type=parse_bounds,
        metavar="LOWER,UPPER",
        help="box, one pair for all coordinates or one for each; that of the file, or 0,1, if not given",
    )
    add_checkpoint(parser)


def _train(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    optim = Adam(lr=options.lr, schedule=options.schedule)
    data = Dataset.read(options.data, bounds=options.bounds)
    check_different(options.output, options.checkpoint)
    check_writable(options.output)  # first: training for hours and then no place to write
    train, test = data.split(options.holdout, options.seed)
    flow = Flow(
        data.d,
        options.cell,
        **flow_options(options),
        seed=options.seed,
        bounds=data.bounds,
        threads=options.threads,
        backend=options.backend,
    )
    trainer = BasicStatefulTrainer(
        flow,
        loss=options.loss,
        n_epochs=options.epochs,
        minibatch_size=options.batch,
        optim=optim,
        holdout=options.holdout,
        seed=options.seed,
        **checkpoint_settings(options),
    )
    size = f"{data.n:,} points, d = {data.d}; flow of {flow.n_params:,} parameters"
    print(f"{options.data}: {size}", flush=True)
    progress = _Bar(options.epochs) if sys.stderr.isatty() else _Lines(options.epochs)
    with stopped_by_signals(options), progress:
        trainer.train_on_dataset(train, callback=progress)
    save(flow, options.output, options)  # first: no refusal of what follows is to cost a training of hours
    try:
        evaluation = evaluate(flow, test)
    except ValueError as error:
        raise ValueError(
            f"{options.output} was written, but the flow could not be measured: {error} "
            f"(--holdout {options.holdout} keeps {test.n:,} of {data.n:,} points for that)"
        ) from error
    print(evaluation)
    print(f"{'seconds':<24}{time.perf_counter() - begin:>40.1f}")
    print(f"wrote {options.output}")


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
