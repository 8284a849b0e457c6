"""Definitions shared by all file formats for points: selection by extension, and names of arrays."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from varflow.errors import FileFormatError
from varflow.runtime.archive import FilePath
from varflow.validation import unknown_name

__all__ = ["F_NAMES", "POINT_KEYS", "P_NAMES", "Array", "by_extension", "point_names"]

Array = npt.NDArray[Any]
T = TypeVar("T")
POINT_KEYS = ("x", "px", "logpx", "fx", "logfx", "bounds", "conditions")
# What each name that p and f may have in a file stands for.
P_NAMES = {"p": "px", "px": "px", "logp": "logpx", "logpx": "logpx"}
F_NAMES = {"f": "fx", "fx": "fx", "logf": "logfx", "logfx": "logfx"}


def by_extension(path: FilePath, choices: Mapping[str, T]) -> T:
    """Select one of the choices by the extension of a file."""
    extension = Path(path).suffix.lower()
    if extension not in choices:
        raise unknown_name(f"the extension of {path}", extension, choices)
    return choices[extension]


def point_names(
    path: FilePath, found: Iterable[str], held: Iterable[str] | None = None, hint: str = ""
) -> dict[str, str]:
    """Select the arrays to read from a file of points, and give the name of each in the file.

    Parameters
    ----------
    path : str or path
        The file, for error messages.
    found : iterable of str
        Names of the arrays in the file.
    held : iterable of str, optional
        What the file holds, in the words of the error message; the names found if not given.
    hint : str
        End of the error message.

    Returns
    -------
    dict of str to str
        By the name that an array has in a dataset, the one that it has in the file.

    Raises
    ------
    FileFormatError
        If an array is missing, or p or f is there both by value and by logarithm.
    """
    p, f = _present(P_NAMES, found), _present(F_NAMES, found)
    if "x" not in found or len(p) != 1 or len(f) != 1:
        needed = f"x, one of {', '.join(P_NAMES)}, and one of {', '.join(F_NAMES)}"
        holds = ", ".join(found if held is None else held) or "nothing"
        raise FileFormatError(f"{path} must hold {needed}; it holds {holds}{hint}")
    names = {"x": "x", P_NAMES[p[0]]: p[0], F_NAMES[f[0]]: f[0]}
    return names | {name: name for name in ("bounds", "conditions") if name in found}


def _present(names: Mapping[str, str], found: Iterable[str]) -> list[str]:
    """Find the names of one quantity; p and f may be something else where there are px and fx."""
    present = [name for name in names if name in found]
    return [name for name in present if name.endswith("x")] or present
