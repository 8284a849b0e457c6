"""Compilers of C and Fortran, for tests; those that need one skip where it is missing."""

import shutil
import subprocess
from pathlib import Path

import pytest

STRICT = ("-O2", "-Wall", "-Wextra", "-Werror")


def compiler(name: str) -> str:
    """Path of a compiler; skips the test where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}")
    return path


def shared_library(source: Path, target: Path, *options: str) -> Path:
    """Build a shared library from a file of C or Fortran."""
    name = "gcc" if source.suffix == ".c" else "gfortran"
    command = [compiler(name), *STRICT, *options, "-shared", "-fPIC", "-o", target, source]
    subprocess.run(command, check=True, cwd=target.parent)
    return target
