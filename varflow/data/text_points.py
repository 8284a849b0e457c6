"""Weighted points and samples in text files."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from varflow.data.formats import POINT_KEYS, Array
from varflow.errors import FileFormatError
from varflow.runtime.archive import FilePath

__all__ = ["read_text_points", "text_sink", "write_text_points"]

TEXT_ROWS = 8192  # rows that are moved or formatted at a time
_P_NAMES = {"p": "px", "px": "px", "logp": "logpx", "logpx": "logpx"}
_F_NAMES = {"f": "fx", "fx": "fx", "logf": "logfx", "logfx": "logfx"}


class _TextLayout(NamedTuple):
    """Layout of a text file, inferred from the lines up to the first point."""

    skip: int
    delimiter: str | None
    columns: int
    p_key: str
    f_key: str


def _open_text(path: FilePath) -> IO[str]:
    return open(path, encoding="utf-8-sig", errors="replace")


def _without_comment(line: str) -> str:
    return line.partition("#")[0].rstrip("\r\n")


def _is_number(field: str) -> bool:
    """Test whether np.loadtxt accepts a field; float() also accepts 1_000 and non-ASCII digits."""
    try:
        float(field)
    except ValueError:
        return False
    return field.isascii() and "_" not in field


def read_text_points(path: FilePath) -> dict[str, Array]:
    """Read weighted points from a text file."""
    layout = _text_layout(path)
    try:
        table = np.loadtxt(
            os.fspath(path), delimiter=layout.delimiter, skiprows=layout.skip, ndmin=2, encoding="utf-8-sig"
        )
    except ValueError as error:
        raise FileFormatError(f"{path}, {_first_bad_line(path, layout) or error}") from None
    px, fx = table[:, -2].copy(), table[:, -1].copy()
    return {"x": _pack_columns(table, layout.columns - 2), layout.p_key: px, layout.f_key: fx}


def _text_layout(path: FilePath) -> _TextLayout:
    head = []
    with _open_text(path) as file:
        for line in file:
            text = _without_comment(line)
            delimiter = next((mark for mark in ";,\t" if mark in text), None)
            fields = text.split(delimiter)
            if any(map(_is_number, fields)):
                break
            head.append(line)
        else:
            raise FileFormatError(f"{path} holds no points: none of its lines has a number")
    skip, columns = len(head), len(fields)
    if columns < 3:
        raise FileFormatError(
            f"{path}, line {skip + 1}: needs at least 3 columns (x..., p, f), found {columns}"
        )
    return _TextLayout(skip, delimiter, columns, *_column_keys(path, head, columns))


def _column_keys(path: FilePath, head: list[str], columns: int) -> tuple[str, str]:
    """Determine the keys of the last two columns from the lines above the points."""
    p_key, f_key = "px", "fx"
    for line in head:
        names = re.findall(r"[^#\s,;\"']+", line.lower())
        if len(names) < 2 or (not _without_comment(line).strip() and len(names) != columns):
            continue  # not column names: a line of fewer than two words, or a comment in prose
        if names[-2] in _F_NAMES and names[-1] in _P_NAMES:
            raise FileFormatError(f"{path}: the columns must be x..., p, f, found {line.strip()!r}")
        p_key, f_key = _P_NAMES.get(names[-2], p_key), _F_NAMES.get(names[-1], f_key)
    return p_key, f_key


def _first_bad_line(path: FilePath, layout: _TextLayout) -> str:
    """Describe the error in the first line that np.loadtxt rejects; empty if none is found."""
    with _open_text(path) as file:
        for number, line in enumerate(file, 1):
            if "\ufffd" in line:
                return f"line {number} is not UTF-8 text"
            fields = _without_comment(line).split(layout.delimiter)
            if number <= layout.skip or fields in ([], [""]):
                continue
            if len(fields) != layout.columns:
                return (
                    f"line {number}: needs {layout.columns} columns like the first point, found {len(fields)}"
                )
            if bad := [field for field in fields if not _is_number(field)]:
                return f"line {number}: {bad[0].strip()[:40]!r} is not a number"
    return ""


def _pack_columns(table: Array, d: int) -> Array:
    """Pack the first d columns of an (n, k) table into a contiguous (n, d) array that reuses its memory.

    The table is overwritten, since a copy would double the memory that a large file needs.
    """
    flat = table.reshape(-1)
    for start in range(0, len(table), TEXT_ROWS):
        block = table[start : start + TEXT_ROWS, :d].ravel()
        flat[start * d : start * d + block.size] = block
    return flat[: len(table) * d].reshape(-1, d)


def write_text_points(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write weighted points to a text file."""
    x = arrays["x"]
    p_key, f_key = (key for key in POINT_KEYS[1:5] if key in arrays)
    with text_sink(path, x.shape[1], [p_key.removesuffix("x"), f_key.removesuffix("x")]) as write:
        for start in range(0, len(x), TEXT_ROWS):
            rows = slice(start, start + TEXT_ROWS)
            write(x[rows], arrays[p_key][rows], arrays[f_key][rows])


@contextmanager
def text_sink(path: Path, d: int, names: list[str]) -> Iterator[Callable[..., None]]:
    """Write a header, and provide a function that appends blocks of x and of the columns after it."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(",".join([f"x{i + 1}" for i in range(d)] + names) + "\n")
        yield lambda *columns: np.savetxt(file, np.column_stack(columns), fmt="%.17g", delimiter=",")
