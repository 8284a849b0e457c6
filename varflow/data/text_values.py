"""Points that a run asks for, and values that it is told, in text files of any program."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from varflow.data.formats import Array
from varflow.data.text_numbers import is_number, why_no_number, with_e
from varflow.data.text_source import open_text
from varflow.errors import FileFormatError
from varflow.runtime.archive import FilePath, atomic_path

__all__ = ["read_asked", "read_told", "write_asked"]

INDEX = "index"  # name of the column of the points' numbers


class _Table(NamedTuple):
    """Names of the columns, if there are any, and the rows (n, k)."""

    names: list[str] | None
    rows: Array


def write_asked(path: FilePath | None, numbers: Array, x: Array) -> None:
    """Write points x (n, d) and their numbers (n,), with a header; to stdout where there is no path."""
    names = ",".join([INDEX, *(f"x{i + 1}" for i in range(x.shape[1]))])
    lines = [
        f"{number},{','.join(map(repr, point))}" for number, point in zip(numbers, x.tolist(), strict=True)
    ]
    text = "\n".join([names, *lines, ""])
    if path is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_asked(path: FilePath) -> Array:
    """Read the numbers of points from a file that `write_asked` wrote, or another with an index."""
    table = _read_table(path)
    names = table.names or [INDEX, *[""] * (table.rows.shape[1] - 1)]
    if INDEX not in names:
        raise FileFormatError(f"{path}: needs a column {INDEX}, found {','.join(names)}")
    return _numbers(path, table.rows[:, names.index(INDEX)])


def read_told(path: FilePath, d: int) -> tuple[Array, Array]:
    """Read values of a function, and the points that they belong to.

    Parameters
    ----------
    path : str or path
        Text with columns index, f, or x1, ..., xd, f, or all of these, by their names in a header, in any
        order; where there is none, in this order. Further named columns are further components of f. "-"
        stands for stdin.
    d : int
        Number of dimensions.

    Returns
    -------
    points : ndarray, (n, d), or of int, (n,)
        The points, or their numbers where there is an index.
    values : ndarray, (n,) or (n, m)
        The values.

    Raises
    ------
    FileFormatError
        If the columns or rows are others; the message names the line.
    OSError
        If the file cannot be read.
    """
    table = _read_table(path)
    names = table.names or _usual_names(path, table.rows, d)
    x = [f"x{i + 1}" for i in range(d)]
    components = [name for name in names if name != INDEX and name not in x]
    if not components or len(set(names)) < len(names) or not (INDEX in names or set(x) <= set(names)):
        raise FileFormatError(f"{path}: needs columns {INDEX},f or {','.join(x)},f, found {','.join(names)}")
    values = table.rows[:, [names.index(name) for name in components]]
    if INDEX in names:
        points = _numbers(path, table.rows[:, names.index(INDEX)])
    else:
        points = table.rows[:, [names.index(name) for name in x]]
    return points, values[:, 0] if len(components) == 1 else values


def _usual_names(path: FilePath, rows: Array, d: int) -> list[str]:
    """Name the columns of a file that does not."""
    x, n = [f"x{i + 1}" for i in range(d)], rows.shape[1]
    usual = {d + 2: [INDEX, *x, "f"], d + 1: [*x, "f"]}
    if d > 1 or (rows[:, 0] == np.rint(rows[:, 0])).all():  # where d is 1, x is between 0 and 1, or so
        usual[2] = [INDEX, "f"]
    if n not in usual:
        raise FileFormatError(
            f"{path}: needs columns {INDEX},f or {','.join(x)},f, or a header that names others; found {n}"
        )
    return usual[n]


def _numbers(path: FilePath, column: Array) -> Array:
    is_number = (column == np.rint(column)) & (np.abs(column) < 2**53)
    if not is_number.all():
        row = int(np.argmin(is_number))
        raise FileFormatError(f"{path}: {INDEX} must be an integer, found {column[row]:g} in row {row + 1}")
    return column.astype(np.int64)


def _read_table(path: FilePath) -> _Table:
    """Read a table of numbers, with or without a header."""
    names: list[str] | None = None
    rows: list[list[float]] = []
    with nullcontext(sys.stdin) if path == "-" else open_text(path) as file:
        for number, fields in _lines(file):
            if names is None and not rows and not any(map(is_number, fields)):
                names = [field.strip("\"'") for field in fields]
                continue
            rows.append([_number(path, number, field) for field in fields])
            if len(rows[-1]) != len(names or rows[0]):
                raise FileFormatError(
                    f"{path}, line {number}: needs {len(names or rows[0])} columns, found {len(fields)}"
                )
    if not rows:
        raise FileFormatError(f"{path} holds no values")
    return _Table(names, np.array(rows))


def _lines(file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Give the number and the fields of each line that is not empty."""
    for number, line in enumerate(file, 1):
        text = line.partition("#")[0].strip()
        if text:
            yield number, [field for field in re.split(r"\s*[,;]\s*|\s+", text) if field]


def _number(path: FilePath, line: int, field: str) -> float:
    if not is_number(field):
        raise FileFormatError(f"{path}, line {line}: {why_no_number(field)}")
    return float(with_e(field))
