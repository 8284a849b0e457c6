"""Options that several commands share."""

import argparse
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from varflow.cli.output import USAGE_ERROR, fail
from varflow.flow.architecture import DTYPES
from varflow.flow.masks import MASKS
from varflow.kernels.splines import CELLS
from varflow.runtime.backend import BACKENDS
from varflow.runtime.checkpoint import SECONDS
from varflow.runtime.signals import stop_by_signals
from varflow.validation import unknown_name

__all__ = [
    "Parser",
    "add_architecture",
    "add_checkpoint",
    "add_command",
    "add_machine",
    "add_name",
    "check_different",
    "checkpoint_settings",
    "parse_bounds",
    "parse_fraction",
    "stopped_by_signals",
]


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print what was wrong in one line, and exit."""
        self.exit(fail(f"{message}; see {self.prog} --help", USAGE_ERROR))


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Formatter that names defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return (
            action.help
            if action.default is None or action.default is False
            else super()._get_help_string(action)
        )


def add_command(
    commands: "argparse._SubParsersAction[Parser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    summary: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add the parser of a command."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example: {example}",
        formatter_class=_HelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_name(
    parser: argparse.ArgumentParser, flag: str, names: Iterable[str], default: str, text: str
) -> None:
    """Add an option that takes one of some names; unlike argparse's choices it tells the nearest."""

    def name(given: str) -> str:
        if given not in names:
            raise argparse.ArgumentTypeError(str(unknown_name("it", given, names)))
        return given

    parser.add_argument(flag, type=name, default=default, metavar="{" + ",".join(names) + "}", help=text)


def add_architecture(parser: argparse.ArgumentParser, hidden: str, layers: str, bins: str) -> None:
    """Add the options that say what a flow is made of."""
    add_name(parser, "--cell", CELLS, "pwlinear", "kind of spline")
    add_name(parser, "--masking", MASKS, "iflow", "which coordinates each cell transforms")
    parser.add_argument(bins, dest="n_bins", type=int, default=16, metavar="N", help="bins of each spline")
    parser.add_argument(
        hidden, dest="d_hidden", type=int, default=64, metavar="N", help="neurons a hidden layer"
    )
    parser.add_argument(
        layers, dest="n_hidden", type=int, default=2, metavar="N", help="hidden layers of each network"
    )
    add_name(parser, "--dtype", DTYPES, "float32", "precision of the networks")
    add_machine(parser)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the options of checkpoints."""
    parser.add_argument(
        "--checkpoint", metavar="FILE",
        help="file that keeps the state: the same command goes on from it, and SIGTERM and SIGUSR1 stop the "
        "run after a complete step, with status 75",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=SECONDS, metavar="S", help="time between two checkpoints"
    )


def checkpoint_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Give the settings of checkpoints as trainers and integrators take them."""
    return {
        "checkpoint": options.checkpoint,
        "resume": options.checkpoint is not None,
        "checkpoint_seconds": options.checkpoint_seconds,
    }


def check_different(*paths: str | None) -> None:
    """Refuse to write two things to the same file."""
    given = [path for path in paths if path is not None]
    for k, path in enumerate(given):
        if Path(path).resolve() in [Path(other).resolve() for other in given[:k]]:
            raise ValueError(f"{path} cannot take two outputs: name a file for each")


def stopped_by_signals(options: argparse.Namespace) -> AbstractContextManager[None]:
    """Signals end a run without a checkpoint as they end any other process."""
    return nullcontext() if options.checkpoint is None else stop_by_signals()


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a flow is computed."""
    parser.add_argument("--threads", type=int, metavar="N", help="threads; all cores allowed if not given")
    add_name(
        parser, "--backend", BACKENDS, "cpu", "where the flow is computed; auto: on a GPU if there is one"
    )


def parse_bounds(text: str) -> list[list[float]] | list[float]:
    """Parse --bounds: LOWER,UPPER or LOWER,UPPER,LOWER,UPPER,..."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs numbers between commas, got {text!r}") from None
    if len(numbers) % 2:
        raise argparse.ArgumentTypeError(f"needs pairs LOWER,UPPER, got {len(numbers)} numbers")
    pairs = [numbers[k : k + 2] for k in range(0, len(numbers), 2)]
    return pairs if len(pairs) > 1 else pairs[0]


def parse_fraction(text: str) -> float:
    """Parse --holdout."""
    try:
        fraction = float(text)
    except ValueError:
        fraction = math.nan
    if not 0 < fraction < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text!r}")
    return fraction
