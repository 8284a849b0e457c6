"""The command `varflow export`."""

import argparse
from pathlib import Path

from varflow.cli.options import Parser, add_command, add_name
from varflow.cli.talk import note
from varflow.exporting.export import LANGUAGES, export
from varflow.integration.result import load_density

__all__ = ["add_export"]


def add_export(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow export`."""
    parser = add_command(
        commands,
        "export",
        _export,
        "write a flow as C or Fortran source that needs no Python",
        "varflow export flow.npz --language c -o source",
        quiet="",
    )
    parser.add_argument("flow", metavar="FLOW", help="file of a flow, or of the result of an integration")
    add_name(parser, "--language", LANGUAGES, "c", "C99, or Fortran 2008")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the files")
    parser.add_argument(
        "--name", metavar="NAME", help="prefix of all names in the source; that of FLOW if not given"
    )


def _export(options: argparse.Namespace) -> None:
    name = Path(options.flow).stem if options.name is None else options.name
    paths = export(load_density(options.flow), options.output, options.language, name=name)
    options.written.extend(map(str, paths))
    for path in paths:
        note(f"wrote {path}: {path.stat().st_size:,} bytes", options)
