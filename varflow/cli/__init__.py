"""The command line: a file a command, parsing and printing only."""

from varflow.cli.command import main

__all__ = ["main"]
