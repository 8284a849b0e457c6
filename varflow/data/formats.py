"""Definitions shared by all file formats for points: selection by extension, and names of arrays."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from varflow.errors import FileFormatError
from varflow.runtime.archive import FilePath
from varflow.validation import unknown_name

__all__ = ["POINT_KEYS", "Array", "by_extension", "point_keys"]

Array = npt.NDArray[Any]
T = TypeVar("T")
POINT_KEYS = ("x", "px", "logpx", "fx", "logfx", "bounds")


def by_extension(path: FilePath, choices: Mapping[str, T]) -> T:
    """Select one of the choices by the extension of a file."""
    extension = Path(path).suffix.lower()
    if extension not in choices:
        raise unknown_name(f"the extension of {path}", extension, choices)
    return choices[extension]


def point_keys(path: FilePath, found: Iterable[str]) -> list[str]:
    """Select the arrays to read from those found in a file of points; raise if one is missing."""
    if "x" not in found or ("px" in found) == ("logpx" in found) or ("fx" in found) == ("logfx" in found):
        needed = "x, either px or logpx, and either fx or logfx"
        raise FileFormatError(f"{path} must hold {needed}; it holds {', '.join(found) or 'nothing'}")
    return [key for key in POINT_KEYS if key in found]
