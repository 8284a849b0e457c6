"""The command `varflow build-library`."""

import argparse

from varflow.cli.options import Parser, add_command
from varflow.cli.talk import note
from varflow.libvarflow.build import build

__all__ = ["add_build_library"]


def add_build_library(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow build-library`."""
    parser = add_command(
        commands,
        "build-library",
        _build_library,
        "build a shared library, by which programs in C and Fortran integrate, train and sample",
        "varflow build-library -o lib",
        quiet="",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FOLDER",
        help="folder for libvarflow.so, varflow.h and varflow.f90",
    )


def _build_library(options: argparse.Namespace) -> None:
    for file in build(options.output):
        options.written.append(str(file))
        note(f"wrote {file}", options)
