"""Weighted points and samples in text files."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from varflow.data.formats import POINT_KEYS, Array
from varflow.data.text_columns import CONDITION, checked_columns, find_columns, with_conditions
from varflow.data.text_numbers import is_number, why_no_number, with_e
from varflow.data.text_source import open_text
from varflow.errors import FileFormatError
from varflow.runtime.archive import FilePath

__all__ = ["read_text_points", "text_coordinates", "text_writer", "write_text_points"]

TEXT_ROWS = 8192  # rows that are moved at a time
TEXT_ROWS_AT_ONCE = 256  # that are formatted at once, which takes less time than row by row
_QUOTED = re.compile(r'(?<![^,;\s])"([^",;\s]*)"(?![^,;\s])')  # "0,5" stays quoted, and so is no number
# What was meant to be a number, as 2.5-104, "0,5" or *****: a line with one is a point, if a wrong one.
_LIKE_A_NUMBER = re.compile(r'[\s"+-]*\.?[\d*][\d.,*eEdD+\s"-]*')


class _Lines:
    """The lines of a text file, with the last one read and its number."""

    def __init__(self, path: FilePath, file: IO[str]) -> None:
        self.path, self.file, self.number, self.last = path, file, 0, ""

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            self.number, self.last = self.number + 1, line
            if not line.isascii() and "\ufffd" in line:
                raise FileFormatError(f"{self.path}, line {self.number} is not UTF-8 text")
            yield line


def read_text_points(
    path: FilePath, columns: Sequence[str] | None = None, conditions: Sequence[str] | None = None
) -> dict[str, Array]:
    """Read weighted points from a text file; see `varflow.data.points.read_points`."""
    given = None if columns is None else checked_columns(columns)
    with open_text(path) as file:
        lines = _Lines(path, file)
        head, delimiter, n = _head(lines)
        found = with_conditions(path, find_columns(path, head, delimiter, n, given), conditions)
        texts = (_cleaned(line, delimiter) for line in chain([lines.last], lines))
        # np.loadtxt takes no line before it needs it: where it fails, the last one is to blame.
        try:
            table = np.loadtxt(map(with_e, filter(None, texts)), delimiter=delimiter, comments=None, ndmin=2)
        except FileFormatError:
            raise
        except ValueError as error:
            reason = _what_is_wrong(_cleaned(lines.last, delimiter).split(delimiter), n) or error
            raise FileFormatError(f"{path}, line {lines.number}: {reason}") from None
    others = {found.p_key: table[:, found.p].copy(), found.f_key: table[:, found.f].copy()}
    if found.conditions:
        others["conditions"] = table[:, found.conditions]
    return {"x": _pack_columns(table, found.x), **others}


def text_coordinates(
    path: FilePath, columns: Sequence[str] | None = None, conditions: Sequence[str] | None = None
) -> list[str]:
    """Read the names of the coordinates: those of the header or of `columns`, else x1 and so on."""
    given = None if columns is None else checked_columns(columns)
    with open_text(path) as file:
        found = find_columns(path, *_head(_Lines(path, file)), given)
    return with_conditions(path, found, conditions).x_names


def _head(lines: _Lines) -> tuple[list[str], str | None, int]:
    """Read up to the first point: the lines above it, its delimiter, and its number of columns."""
    head = []
    for line in lines:
        text = line.partition("#")[0].strip()
        delimiter = next((mark for mark in ";,\t" if mark in text), None)
        fields = _cleaned(line, delimiter).split(delimiter)
        if any(is_number(field) or _LIKE_A_NUMBER.fullmatch(field) for field in fields):
            break
        head.append(line)
    else:
        raise FileFormatError(f"{lines.path} holds no points: none of its lines has a number")
    if len(fields) < 3:
        raise FileFormatError(
            f"{lines.path}, line {lines.number}: needs at least 3 columns (x..., p, f), found {len(fields)}"
        )
    return head, delimiter, len(fields)


def _cleaned(line: str, delimiter: str | None) -> str:
    """Strip the comment, the quotes around numbers, and a delimiter at the end; empty if nothing is left."""
    text = (line.partition("#")[0] if "#" in line else line).rstrip(" \r\n")
    if '"' in text:
        text = _QUOTED.sub(r"\1", text)
    return "" if text.isspace() else text.removesuffix(delimiter or " ")


def _what_is_wrong(fields: list[str], n: int) -> str:
    """Say why the fields of a line are not a point; empty if they are."""
    if len(fields) != n:
        return f"needs {n} columns like the first point, found {len(fields)}"
    bad = next((field for field in fields if not is_number(field)), None)
    return "" if bad is None else why_no_number(bad)


def _pack_columns(table: Array, columns: list[int]) -> Array:
    """Pack d columns of an (n, k) table into a contiguous (n, d) array that reuses its memory.

    The table is overwritten, since a copy would double the memory that a large file needs.
    """
    flat, d = table.reshape(-1), len(columns)
    for start in range(0, len(table), TEXT_ROWS):
        block = table[start : start + TEXT_ROWS, columns].ravel()
        flat[start * d : start * d + block.size] = block
    return flat[: len(table) * d].reshape(-1, d)


def write_text_points(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write weighted points to a text file."""
    x = arrays["x"]
    p_key, f_key = (key for key in POINT_KEYS[1:5] if key in arrays)
    given = arrays.get("conditions", np.empty((len(x), 0)))
    names = [f"{CONDITION}{k + 1}" for k in range(given.shape[1])]
    with open(path, "wb") as file:
        write = text_writer(file, x.shape[1], [*names, p_key.removesuffix("x"), f_key.removesuffix("x")])
        for start in range(0, len(x), TEXT_ROWS):
            rows = slice(start, start + TEXT_ROWS)
            write(x[rows], given[rows], arrays[p_key][rows], arrays[f_key][rows])


def text_writer(file: IO[bytes], d: int, names: list[str]) -> Callable[..., object]:
    """Write a header, and give a function that appends blocks of x and of the columns after it."""
    header = [f"x{i + 1}" for i in range(d)] + names
    file.write((",".join(header) + "\n").encode())
    row = ",".join(["%.17g"] * len(header)) + "\n"

    def write(*columns: Array) -> None:
        table = np.column_stack(columns)
        for start in range(0, len(table), TEXT_ROWS_AT_ONCE):
            rows = table[start : start + TEXT_ROWS_AT_ONCE]
            file.write((row * len(rows) % tuple(rows.ravel().tolist())).encode())

    return write
