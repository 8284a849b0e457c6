"""The command `varflow collect`."""

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from varflow.cli.options import Parser, add_command, check_different
from varflow.cli.output import print_json
from varflow.cli.talk import note, progress_of
from varflow.integration.result import Result
from varflow.integration.tables import format_estimate
from varflow.runtime.archive import atomic_path, check_writable
from varflow.runtime.progress import Progress

__all__ = ["add_collect"]

Row = dict[str, Any]

TITLES = "name", "integral", "chi2/dof", "ess", "calls", "warnings"  # of the table for people


def add_collect(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow collect`."""
    parser = add_command(
        commands,
        "collect",
        _collect,
        "make one table of the results of many integrations, as of an array job",
        "varflow collect results/*.npz -o table.csv",
        quiet="the table, where that is not to go to a file",
    )
    parser.add_argument("results", metavar="RESULT", nargs="+", help="file that varflow integrate -o wrote")
    parser.add_argument(
        "-o", "--output", metavar="TABLE", help="file for the table: CSV, with all digits; else it is printed"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _collect(options: argparse.Namespace) -> None:
    check_different(*options.results, options.output)
    if options.output is not None:
        check_writable(options.output)
    rows, refused = _read(options.results, progress_of(options))
    if options.output is not None:
        with atomic_path(options.output) as temporary:
            temporary.write_text(_as_csv(rows), encoding="utf-8")
        options.written.append(options.output)
    if options.json:
        print_json({"results": rows})
    elif options.output is not None:
        note(f"wrote {options.output}: {len(rows):,} rows", options)
    elif rows:
        print(_as_text(rows))
    sys.stdout.flush()
    if refused:
        lines = "; ".join(refused[:3]) + ("; ..." if len(refused) > 3 else "")
        raise ValueError(f"{len(refused)} of {len(options.results)} results are not in the table: {lines}")


def _read(paths: list[str], progress: type[Progress]) -> tuple[list[Row], list[str]]:
    """Read results: a row for each component, and why files could not be read."""
    rows: list[Row] = []
    refused = []
    with progress(len(paths), "file", "reading") as shown:
        for k, path in enumerate(paths):
            shown.update(k)
            try:
                rows.extend(_rows(path, Result.load(path)))
            except OSError as error:
                refused.append(f"{path}: {error.strerror}")
            except ValueError as error:
                refused.append(str(error))
    return rows, refused


def _rows(path: str, result: Result) -> Iterator[Row]:
    """Make a row for each component; of integrands by their logarithm, with the estimates' logarithms."""
    names = ("log_mean", "log_sdev") if result.is_log else ("mean", "sdev")
    means, sdevs = (result.components.pack(getattr(result, name)).tolist() for name in names)
    for component, mean, sdev in zip(result.components.names, means, sdevs, strict=True):
        yield {
            "name": Path(path).name.removesuffix(".npz"),
            "component": component,
            "log": result.is_log,
            "mean": mean,
            "sdev": sdev,
            "chi2": result.chi2,
            "dof": result.dof,
            "ess": result.ess,
            "calls": result.n_calls,
            "warnings": list(result.warnings),
        }


def _as_csv(rows: list[Row]) -> str:
    """Write all digits; the logarithm of an integral is in the columns log_mean and log_sdev."""
    text = io.StringIO()
    names = ["name", "component", "mean", "sdev", "log_mean", "log_sdev", "chi2", "dof", "chi2/dof", "ess"]
    writer = csv.DictWriter(text, [*names, "calls", "warnings"], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        pair = {"mean": row["mean"], "sdev": row["sdev"]}
        shown = {"mean": "", "sdev": ""} | {f"log_{name}": value for name, value in pair.items()}
        ratio = row["chi2"] / row["dof"] if row["dof"] else ""
        told = {"chi2/dof": ratio, "warnings": "; ".join(row["warnings"])}
        writer.writerow(row | (shown if row["log"] else pair) | told)
    return text.getvalue()


def _as_text(rows: list[Row]) -> str:
    """Write a table for people, and the warnings below it."""
    cells = [TITLES, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]))
    told = {(row["name"], warning): None for row in rows for warning in row["warnings"]}
    return "\n".join([*lines, *(f"{name}: warning: {warning}" for name, warning in told)])


def _cells(row: Row) -> tuple[str, ...]:
    estimate = format_estimate(row["mean"], row["sdev"])
    return (
        f"{row['name']} {row['component']}".rstrip(),
        f"exp({estimate})" if row["log"] else estimate,
        f"{row['chi2'] / row['dof']:.3g}" if row["dof"] else "-",
        "-" if np.isnan(row["ess"]) else f"{row['ess']:.1%}",
        f"{row['calls']:,}",
        str(len(row["warnings"]) or "-"),
    )
