"""What the columns of a text file are: by hand, by its header, or else by their order."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from varflow.data.formats import F_NAMES, P_NAMES
from varflow.errors import FileFormatError
from varflow.runtime.archive import FilePath

__all__ = ["CONDITION", "Columns", "checked_columns", "find_columns", "with_conditions"]

CONDITION = "condition"  # what columns are called that are conditions, before their number

# What tables hold besides x, p and f: read as a coordinate, it would spoil the points without a word.
_INDEX = re.compile(r"|index|unnamed:.*", re.IGNORECASE)
_WEIGHTS = ("weight", "weights")


class Columns(NamedTuple):
    """Where the coordinates, p and f are, under which names a dataset takes these two; names of x.

    Where the conditions are, too.
    """

    x: list[int]
    p: int
    f: int
    p_key: str
    f_key: str
    x_names: list[str]
    conditions: list[int] = []  # noqa: RUF012 - nobody changes it


class _Header(NamedTuple):
    line: int
    names: list[str]


def checked_columns(columns: Sequence[str]) -> list[str]:
    """Check the names that a user gives to the columns; see `varflow.data.points.read_points`."""
    if isinstance(columns, str) or not all(isinstance(name, str) for name in columns):
        raise TypeError(f"columns must be a sequence of names, such as ['x1', 'p', 'f'], got {columns!r}")
    names = [name.strip() for name in columns]
    try:
        _located(names)
    except ValueError as error:
        raise ValueError(f"columns {error}; got {','.join(names)}") from None
    return names


def find_columns(
    path: FilePath, head: Sequence[str], delimiter: str | None, n: int, given: list[str] | None
) -> Columns:
    """Find out what the n columns are, from the lines above the points or from what is given by hand."""
    header = _header(head, delimiter, n)
    if given is not None:
        _check_given(path, len(head) + 1, n, given, header)
        return _located(given)
    if header is None:
        return Columns(list(range(n - 2)), n - 2, n - 1, "px", "fx", [f"x{k}" for k in range(1, n - 1)])
    try:
        return _located_by_header(header.names, n)
    except ValueError as error:
        raise FileFormatError(
            f"{path}, line {header.line}: the header {','.join(header.names)[:200]} {error}; "
            "write one that names x..., p, f, or say what each column is: columns=, --columns x1,x2,p,f"
        ) from None


def with_conditions(path: FilePath, columns: Columns, names: Sequence[str] | None) -> Columns:
    """Tell conditions from coordinates: by their names, or else as those called condition1 and so on."""
    if names is not None and (isinstance(names, str) or not all(isinstance(name, str) for name in names)):
        raise TypeError(f"conditions must be a sequence of names of columns, such as ['mass'], got {names!r}")
    found = dict(zip(columns.x_names, columns.x, strict=True))
    if names is None:
        names = [name for name in found if re.fullmatch(rf"{CONDITION}[0-9]+", name)]
    names = [name.strip() for name in names]
    for name in names:
        if name not in found or names.count(name) > 1:
            raise ValueError(
                f"conditions must name columns of {path} besides p and f, each once, which are "
                f"{', '.join(found)}; got {','.join(names)}"
            )
    x_names = [name for name in found if name not in names]
    if not x_names:
        raise ValueError(f"conditions must leave a coordinate of {path}, got {','.join(names)}")
    return columns._replace(
        x=[found[name] for name in x_names], x_names=x_names, conditions=[found[name] for name in names]
    )


def _header(head: Sequence[str], delimiter: str | None, n: int) -> _Header | None:
    """Find the line that names the columns.

    It is the first one with n names, p and f among them, which may be a comment; otherwise the first one that
    is no comment.
    """
    other = None
    for line, whole in enumerate(head, 1):
        text, _, comment = whole.partition("#")
        is_comment = not text.strip()
        by_delimiter = _split(comment.lstrip("#") if is_comment else text, delimiter)
        for names in (by_delimiter, re.findall(r"[^#\s,;\"']+", whole)):
            if len(names) == n and _holds(names, P_NAMES) and _holds(names, F_NAMES):
                return _Header(line, names)
        if not (is_comment or other):
            other = _Header(line, by_delimiter)
    return other


def _split(text: str, delimiter: str | None) -> list[str]:
    fields = text.strip(" \r\n").removesuffix(delimiter or " ").split(delimiter)
    return [field.strip(" \t\"'") for field in fields]


def _holds(names: Sequence[str], wanted: dict[str, str]) -> list[str]:
    return [name for name in names if name.lower() in wanted]


def _check_given(path: FilePath, line: int, n: int, given: list[str], header: _Header | None) -> None:
    if len(given) != n:
        raise FileFormatError(f"{path}, line {line}: columns must name all {n} columns, got {len(given)}")
    if header and header.names != given and sorted(header.names) == sorted(given):
        raise FileFormatError(
            f"{path}, line {header.line}: columns must have the order of the file, {','.join(header.names)}, "
            f"got {','.join(given)}: leave columns out, as the header has the names"
        )


def _located_by_header(names: list[str], n: int) -> Columns:
    """Find x, p and f; raise ValueError also where another column may be no coordinate."""
    if len(names) != n:
        raise ValueError(f"has {len(names)} names for the {n} columns of the first point")
    if indices := [k for k, name in enumerate(names, 1) if _INDEX.fullmatch(name)]:
        raise ValueError(f"seems to have an index as column {indices[0]} (pandas: index=False leaves it out)")
    columns = _located(names)
    if weights := [name for name in names if name.lower() in _WEIGHTS]:
        raise ValueError(f"has a column {weights[0]}, which may be part of f")
    return columns


def _located(names: list[str]) -> Columns:
    """Find x, p and f by name; raise ValueError if that cannot be done."""
    if repeated := [name for k, name in enumerate(names) if name in names[:k]]:
        raise ValueError(f"has two columns {repeated[0]}")
    p, f = _only(names, P_NAMES), _only(names, F_NAMES)
    x = [k for k in range(len(names)) if k not in (p, f)]
    if not x or "" in names:
        raise ValueError("must name p, f and each coordinate")
    keys = P_NAMES[names[p].lower()], F_NAMES[names[f].lower()]
    return Columns(x, p, f, *keys, [names[k] for k in x])


def _only(names: list[str], wanted: dict[str, str]) -> int:
    """Find the only column that has one of the names that are wanted."""
    found = _holds(names, wanted)
    if len(found) != 1:
        raise ValueError(f"must name one of {', '.join(wanted)}, found {' and '.join(found) or 'none'}")
    return names.index(found[0])
