"""Options that several commands share."""

import argparse
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from varflow.cli.output import USAGE_ERROR, fail
from varflow.cli.talk import add_talk
from varflow.cli.values import number, parse_discrete, whole
from varflow.flow.architecture import DTYPES, Architecture
from varflow.flow.masks import MASKS
from varflow.kernels.splines import CELLS
from varflow.runtime.backend import BACKENDS
from varflow.runtime.checkpoint import SECONDS
from varflow.runtime.launcher import launched_rank
from varflow.runtime.signals import stop_by_signals
from varflow.validation import unknown_name

__all__ = [
    "Parser",
    "add_architecture",
    "add_checkpoint",
    "add_columns",
    "add_command",
    "add_conditions",
    "add_machine",
    "add_name",
    "check_different",
    "checkpoint_settings",
    "flow_options",
    "stopped_by_signals",
]


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print what was wrong in one line, and exit."""
        if launched_rank() > 0:  # the first of the processes that were started together says it
            self.exit(USAGE_ERROR)
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
    quiet: str | None = None,
) -> argparse.ArgumentParser:
    """Add the parser of a command.

    Parameters
    ----------
    commands : object
        Where it goes.
    name, summary, example : str
        Its name, and what the help says.
    run : callable
        What it does.
    quiet : str, optional
        Results that it prints with -q too, "the table", or "" for none. If not given, it has nothing to leave
        out or to add: there is neither -q nor -v.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example: {example}",
        formatter_class=_HelpFormatter,
    )
    parser.set_defaults(run=run, quiet=False, verbose=False)
    if quiet is not None:
        add_talk(parser, quiet)
    return parser


def add_name(
    parser: argparse.ArgumentParser, flag: str, names: Iterable[str], default: str | None, text: str
) -> None:
    """Add an option that takes one of several names, and suggests the nearest one for another."""

    def name(given: str) -> str:
        if given not in names:
            raise argparse.ArgumentTypeError(str(unknown_name("it", given, names)))
        return given

    parser.add_argument(flag, type=name, default=default, metavar="{" + ",".join(names) + "}", help=text)


def add_discrete(parser: argparse.ArgumentParser) -> None:
    """Add the option that names discrete coordinates."""
    parser.add_argument(
        "--discrete",
        type=parse_discrete,
        metavar="COLUMN:STATES,...",
        help="coordinates, counted from 0, that are whole numbers from 0, below STATES: a state each",
    )


def add_architecture(
    parser: argparse.ArgumentParser,
    cell: str = Architecture.cell,
    note: str = "",
    sizes: str | None = None,
) -> None:
    """Add the options that say what a flow is made of; one that is not given stays out of the namespace.

    Parameters
    ----------
    parser : ArgumentParser
        Parser of the command.
    cell : str
        Cell where none is named.
    note : str
        What is to be said of the default of --repetitions.
    sizes : str, optional
        What is to be said of the defaults of all four sizes instead of their values.
    """
    add_name(parser, "--cell", CELLS, cell, "kind of spline; realnvp: affine, for points without bounds")
    add_name(parser, "--masking", MASKS, None, f"which coordinates each cell transforms{_default('masking')}")
    for flag, text in (
        ("--n-bins", "bins of each spline"),
        ("--d-hidden", "neurons a hidden layer"),
        ("--n-hidden", "hidden layers of each network"),
        ("--repetitions", "times that the sequence of masks is repeated"),
    ):
        name = flag.removeprefix("--").replace("-", "_")
        default = sizes or (note if name == "repetitions" and note else _default(name))
        parser.add_argument(flag, type=whole, default=argparse.SUPPRESS, metavar="N", help=f"{text}{default}")
    add_name(parser, "--dtype", DTYPES, None, f"precision of the networks{_default('dtype')}")


def _default(name: str) -> str:
    return f" (default: {getattr(Architecture, name)})"


def flow_options(options: argparse.Namespace) -> dict[str, Any]:
    """Give the arguments of `Flow`, besides d and cell, that `add_architecture` has found."""
    names = ("masking", "n_bins", "d_hidden", "n_hidden", "repetitions", "dtype")
    return {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the options of checkpoints."""
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="file that keeps the state: the same command goes on from it, and SIGTERM and SIGUSR1 stop the "
        "run after a complete step, with status 75",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=number,
        default=SECONDS,
        metavar="S",
        help="time between two checkpoints",
    )


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add the option that says what the columns of a text file are."""
    parser.add_argument(
        "--columns",
        type=lambda text: text.split(","),
        metavar="NAME,...",
        help="all columns of a text file, in order, such as x1,x2,p,f; those of its header, or x..., p, f "
        "without one, if not given",
    )


def add_conditions(parser: argparse.ArgumentParser) -> None:
    """Add the option that says which columns of a text file are conditions."""
    parser.add_argument(
        "--conditions",
        type=lambda text: text.split(","),
        metavar="NAME,...",
        help="columns of a text file that are conditions of a flow, not coordinates; those called condition1 "
        "and so on, if not given",
    )


def checkpoint_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Collect the settings of checkpoints for trainers and integrators."""
    return {
        "checkpoint": options.checkpoint,
        "resume": options.checkpoint is not None,
        "checkpoint_seconds": options.checkpoint_seconds,
    }


def check_different(*paths: str | None) -> None:
    """Refuse to write two things to the same file, or over what is read."""
    given = [path for path in paths if path is not None]
    for k, path in enumerate(given):
        if Path(path).resolve() in [Path(other).resolve() for other in given[:k]]:
            raise ValueError(f"{path} cannot be two files of one command: name another for each")


def stopped_by_signals(options: argparse.Namespace) -> AbstractContextManager[None]:
    """Handle signals where there is a checkpoint; without one they end the process."""
    return nullcontext() if options.checkpoint is None else stop_by_signals()


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a flow is computed."""
    parser.add_argument("--threads", type=whole, metavar="N", help="threads; all cores allowed if not given")
    add_name(
        parser, "--backend", BACKENDS, "cpu", "where the flow is computed; auto: on a GPU if there is one"
    )
