"""Weighted points and samples on disk, as plain arrays: npz, text and HDF5, never pickle."""

import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from varflow.archive import FilePath, atomic_path, check_filled, read_npz, refused_as, write_npz
from varflow.errors import FileFormatError, unknown_name

__all__ = ["SampleWriter", "read_points", "write_points"]

Array = npt.NDArray[Any]
WriteBlock = Callable[[Array, Array], None]
T = TypeVar("T")

_BLOCK = 8192  # rows that are moved or written as text at once
_POINT_KEYS = ("x", "px", "logpx", "fx", "logfx", "bounds")
_P_NAMES = {"p": "px", "px": "px", "logp": "logpx", "logpx": "logpx"}
_F_NAMES = {"f": "fx", "fx": "fx", "logf": "logfx", "logfx": "logfx"}


def read_points(path: FilePath) -> dict[str, Array]:
    """Read weighted points; the extension tells the format.

    Parameters
    ----------
    path : str or path
        ``.npz`` or ``.h5``/``.hdf5``: arrays named x, px or logpx, fx or logfx, and perhaps bounds.
        ``.csv``, ``.txt`` or ``.dat``: a line per point with the columns x..., p, f, between commas,
        semicolons, tabs or blanks, and comments after ``#``. Lines without a number before the first point
        are a header. Where its last two names, or those of a comment with a name for each column, are
        logp or logpx and logf or logfx (in any case), these columns are read as logs.

    Returns
    -------
    dict of str to ndarray
        x (n, d), px or logpx (n,), fx or logfx (n,), and bounds (d, 2) if the file holds them. The values
        are not checked.

    Raises
    ------
    FileFormatError
        If the file is empty, cut short, of another kind, or lacks something; for text, with the number
        of the line in the file.
    OSError
        If the file cannot be opened.
    ValueError
        If the extension is unknown.
    ImportError
        If an HDF5 file is asked for and h5py is not installed.
    """
    read = _by_extension(path, _POINT_READERS)
    check_filled(path)
    return read(path)


def write_points(path: FilePath, arrays: Mapping[str, Array]) -> None:
    """Write weighted points such that `read_points` reads the same bits; the extension tells the format.

    Parameters
    ----------
    path : str or path
        With an extension that `read_points` knows. An existing file is replaced once the new one is complete.
    arrays : mapping of str to ndarray
        x (n, d), px or logpx (n,), fx or logfx (n,), and perhaps bounds (d, 2), which text files leave out.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If the extension is unknown.
    ImportError
        If an HDF5 file is asked for and h5py is not installed.
    """
    write = _by_extension(path, _POINT_WRITERS)
    with atomic_path(path) as temporary:
        write(temporary, arrays)


class SampleWriter:
    """Write points and their density block by block, without holding them in memory.

    A context manager: the file appears at its end, if all `n` rows were written and nothing was raised.

    Parameters
    ----------
    path : str or path
        ``.npz``, with the arrays x (n, d) and q (n,), or ``.csv``, with the header x1, ..., xd, q.
    n : int
        Number of points.
    d : int
        Number of dimensions.

    Raises
    ------
    ValueError
        If the extension is another one, or, at the end, if other than `n` rows were written.
    OSError
        On entering, if the file cannot be written.
    """

    def __init__(self, path: FilePath, n: int, d: int) -> None:
        self._open_sink = _by_extension(path, _SAMPLE_SINKS)
        self._path, self._n, self._d, self._rows = path, n, d, 0
        self._context = self._opened()

    def __enter__(self) -> "SampleWriter":
        return self._context.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._context.__exit__(kind, error, trace)

    @contextmanager
    def _opened(self) -> Iterator["SampleWriter"]:
        with (
            atomic_path(self._path) as temporary,
            self._open_sink(temporary, self._n, self._d) as self._write_block,
        ):
            yield self
            if self._rows != self._n:
                raise ValueError(f"{self._path} was to have {self._n} rows, but {self._rows} were written")

    def write(self, x: npt.ArrayLike, qx: npt.ArrayLike) -> None:
        """Append a block of points.

        Parameters
        ----------
        x : array_like, (m, d)
            Points.
        qx : array_like, (m,)
            The density they were drawn from.

        Raises
        ------
        ValueError
            If the shapes are others, or there are more than n rows by now.
        """
        x, qx = np.ascontiguousarray(x, np.float64), np.ascontiguousarray(qx, np.float64)
        if x.ndim != 2 or x.shape[1] != self._d or qx.shape != x.shape[:1]:
            raise ValueError(f"x, qx must have shapes (m, {self._d}), (m,), found {x.shape}, {qx.shape}")
        self._rows += len(x)
        if self._rows > self._n:
            raise ValueError(f"{self._path} was to have {self._n} rows, but got {self._rows}")
        self._write_block(x, qx)


def _by_extension(path: FilePath, choices: Mapping[str, T]) -> T:
    extension = Path(path).suffix.lower()
    if extension not in choices:
        raise unknown_name(f"the extension of {path}", extension, choices)
    return choices[extension]


# npz


def _point_keys(path: FilePath, found: Iterable[str]) -> list[str]:
    """Choose what to read from a file of points."""
    if "x" not in found or ("px" in found) == ("logpx" in found) or ("fx" in found) == ("logfx" in found):
        needed = "x, either px or logpx, and either fx or logfx"
        raise FileFormatError(f"{path} must hold {needed}; it holds {', '.join(found) or 'nothing'}")
    return [key for key in _POINT_KEYS if key in found]


def _read_npz_points(path: FilePath) -> dict[str, Array]:
    return read_npz(path, _point_keys)


# Text


class _TextLayout(NamedTuple):
    """What the lines up to the first point tell."""

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
    """Whether np.loadtxt takes the field; float() alone takes 1_000 and other alphabets' digits too."""
    try:
        float(field)
    except ValueError:
        return False
    return field.isascii() and "_" not in field


def _read_text_points(path: FilePath) -> dict[str, Array]:
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
    """Find the keys of the last two columns in the lines above the points."""
    p_key, f_key = "px", "fx"
    for line in head:
        names = re.findall(r"[^#\s,;\"']+", line.lower())
        if len(names) < 2 or (not _without_comment(line).strip() and len(names) != columns):
            continue  # a blank line, or a comment that is prose
        if names[-2] in _F_NAMES and names[-1] in _P_NAMES:
            raise FileFormatError(f"{path}: the columns must be x..., p, f, found {line.strip()!r}")
        p_key, f_key = _P_NAMES.get(names[-2], p_key), _F_NAMES.get(names[-1], f_key)
    return p_key, f_key


def _first_bad_line(path: FilePath, layout: _TextLayout) -> str:
    """Say what is wrong with the first line that np.loadtxt refuses, or nothing where none is found."""
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
    """Move the first d columns of an (n, k) table together, into a contiguous (n, d) array in its memory.

    The table is overwritten: a copy beside it would double the memory that a large file needs.
    """
    flat = table.reshape(-1)
    for start in range(0, len(table), _BLOCK):
        block = table[start : start + _BLOCK, :d].ravel()
        flat[start * d : start * d + block.size] = block
    return flat[: len(table) * d].reshape(-1, d)


def _write_text_points(path: Path, arrays: Mapping[str, Array]) -> None:
    x = arrays["x"]
    p_key, f_key = (key for key in _POINT_KEYS[1:5] if key in arrays)
    with _text_sink(path, x.shape[1], [p_key.removesuffix("x"), f_key.removesuffix("x")]) as write:
        for start in range(0, len(x), _BLOCK):
            rows = slice(start, start + _BLOCK)
            write(x[rows], arrays[p_key][rows], arrays[f_key][rows])


@contextmanager
def _text_sink(path: Path, d: int, names: list[str]) -> Iterator[Callable[..., None]]:
    """Give a function that writes blocks of x and of the columns that follow it, below a header."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(",".join([f"x{i + 1}" for i in range(d)] + names) + "\n")
        yield lambda *columns: np.savetxt(file, np.column_stack(columns), fmt="%.17g", delimiter=",")


# HDF5


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install varflow[hdf5]") from error
    return h5py


def _read_hdf5_points(path: FilePath) -> dict[str, Array]:
    h5py = _h5py()
    with (
        refused_as(path, "HDF5", (OSError, RuntimeError, ValueError, TypeError, KeyError)),
        h5py.File(path, "r") as file,
    ):
        names = [name for name, item in file.items() if isinstance(item, h5py.Dataset)]
        return {key: np.asarray(file[key][()]) for key in _point_keys(path, names)}


def _write_hdf5_points(path: Path, arrays: Mapping[str, Array]) -> None:
    with _h5py().File(path, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array)


# Samples


@contextmanager
def _npz_samples(path: Path, n: int, d: int) -> Iterator[WriteBlock]:
    with zipfile.ZipFile(path, "w") as archive, tempfile.TemporaryFile(dir=path.parent) as spool:
        with _npy_member(archive, "x", (n, d)) as member:

            def write(x: Array, qx: Array) -> None:
                member.write(x.data)
                spool.write(qx.data)

            yield write
        spool.seek(0)
        with _npy_member(archive, "q", (n,)) as member:
            shutil.copyfileobj(spool, member)


@contextmanager
def _npy_member(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """Open a member of float64 numbers to be written; its header is written."""
    descr = np.lib.format.dtype_to_descr(np.dtype(np.float64))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        yield member


def _csv_samples(path: Path, n: int, d: int) -> AbstractContextManager[WriteBlock]:
    return _text_sink(path, d, ["q"])


_POINT_READERS = {
    ".npz": _read_npz_points,
    ".csv": _read_text_points,
    ".txt": _read_text_points,
    ".dat": _read_text_points,
    ".h5": _read_hdf5_points,
    ".hdf5": _read_hdf5_points,
}
_POINT_WRITERS = {
    ".npz": write_npz,
    ".csv": _write_text_points,
    ".txt": _write_text_points,
    ".dat": _write_text_points,
    ".h5": _write_hdf5_points,
    ".hdf5": _write_hdf5_points,
}
_SAMPLE_SINKS = {".npz": _npz_samples, ".csv": _csv_samples}
