"""The command `varflow report`, and the option `--report` of others."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from varflow.cli.options import Parser, add_columns, add_command, add_conditions, add_machine, check_different
from varflow.cli.points import points_for
from varflow.cli.talk import note
from varflow.data.hdf5_points import split_group
from varflow.data.points import coordinate_names
from varflow.integration.result import Result, load_density
from varflow.reporting.origin import Origin
from varflow.reporting.report import check_report, write_report
from varflow.training.train import Training

__all__ = ["add_report", "add_report_option", "save_report"]


def add_report(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow report`."""
    parser = add_command(
        commands,
        "report",
        _report,
        "write a page of HTML on a flow and points that it has not seen, or on the result of an integration",
        "varflow report flow.npz other_events.csv -o report.html",
        quiet="",
    )
    parser.add_argument("flow", metavar="FLOW", help="file of a flow, or of the result of an integration")
    parser.add_argument(
        "data", metavar="DATA", nargs="?", help="points for a flow, in the same box as those of the training"
    )
    parser.add_argument("-o", "--output", required=True, metavar="REPORT", help="file for the page: .html")
    add_columns(parser)
    add_conditions(parser)
    add_machine(parser)


def add_report_option(parser: argparse.ArgumentParser) -> None:
    """Add --report."""
    parser.add_argument(
        "--report", metavar="REPORT", help="file for a page of HTML on what was found; see varflow report"
    )


def _report(options: argparse.Namespace) -> None:
    data_file = options.data and split_group(options.data)[0]
    check_different(options.flow, data_file, options.output)
    check_report(options.output)
    made = load_density(options.flow, threads=options.threads, backend=options.backend)
    title, data, names = f"varflow: {Path(options.flow).name}", None, None
    if isinstance(made, Result) and options.data is not None:
        raise ValueError(f"{options.flow} is the result of an integration: leave {options.data} out")
    if not isinstance(made, Result):
        if options.data is None:
            raise ValueError(f"{options.flow} is a flow, which is measured on points: name their file, DATA")
        data = points_for(made, options.data, options.columns, options.conditions)
        names = coordinate_names(options.data, options.columns, options.conditions)
        title += f" on {Path(data_file).name}"
    files = {"flow or result": options.flow, "points": data_file}
    origin = Origin(options.command, files=files)
    write_report(options.output, title, made, data, names, origin)
    note(f"wrote {options.output}", options)


def save_report(
    title: str,
    made: Training | Result,
    seconds: float,
    files: Mapping[str, str | None],
    options: argparse.Namespace,
    names: list[str] | None = None,
) -> None:
    """Write the report of a command that trains or integrates, and remember its name."""
    ranks = {"MPI ranks": options.comm.size} if options.comm.size > 1 else {}
    origin = Origin(options.command, getattr(options, "seed", None), seconds, files, ranks)
    write_report(options.report, title, made, None, names, origin)
    options.written.append(options.report)
