"""Weighted points, samples and flows on disk, as plain arrays: npz, text and HDF5, never pickle."""

import json
import os
import re
import secrets
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from varflow.errors import FileFormatError, unknown_name

__all__ = ["SampleWriter", "atomic_path", "read_flow", "read_points", "write_flow", "write_points"]

FilePath = str | os.PathLike[str]
Array = npt.NDArray[Any]
WriteBlock = Callable[[Array, Array], None]
T = TypeVar("T")

_BLOCK = 8192  # rows that are moved or written as text at once
_POINT_KEYS = ("x", "px", "logpx", "fx", "logfx", "bounds")
_P_NAMES = {"p": "px", "px": "px", "logp": "logpx", "logpx": "logpx"}
_F_NAMES = {"f": "fx", "fx": "fx", "logf": "logfx", "logfx": "logfx"}
_FLOW_FORMAT = "varflow flow"
_FLOW_VERSION = 2  # 1 had the parameters in another order


@contextmanager
def atomic_path(path: FilePath) -> Iterator[Path]:
    """Give a temporary path to write to, which replaces `path` once the block has ended well.

    Parameters
    ----------
    path : str or path
        The file to be written or replaced. A symbolic link stays one: the file it points to is replaced.

    Yields
    ------
    pathlib.Path
        An empty file in the same folder and with the same extension. It is removed if the block raises.

    Raises
    ------
    OSError
        If `path` is a folder, or its folder is missing or cannot be written to.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file")
    temporary = target.with_name(f".varflow-{secrets.token_hex(8)}{Path(path).suffix}")
    try:
        open(temporary, "xb").close()  # unlike tempfile's 0600, this leaves the permissions to the umask
    except OSError as error:
        raise OSError(error.errno, f"cannot write to the folder of {path}: {error.strerror}") from None
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
    _check_filled(path)
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


def write_flow(path: FilePath, header: Mapping[str, Any], params: Array) -> None:
    """Write a flow: an npz archive with the members header (JSON text as bytes) and params.

    Parameters
    ----------
    path : str or path
        Used exactly as given, whatever its extension. An existing file is replaced once the new one is
        complete.
    header : mapping
        What JSON can hold. The file's header has the keys "format" and "version" besides.
    params : ndarray, (k,)
        float32 or float64, finite.

    Raises
    ------
    ValueError
        If `params` are none such.
    TypeError
        If JSON cannot hold `header`.
    OSError
        If the file cannot be written.
    """
    if fault := _fault_of_params(params):
        raise ValueError(f"params {fault}")
    text = json.dumps({**header, "format": _FLOW_FORMAT, "version": _FLOW_VERSION})
    with atomic_path(path) as temporary:
        _write_npz(temporary, {"header": np.frombuffer(text.encode(), np.uint8), "params": params})


def read_flow(path: FilePath) -> tuple[dict[str, Any], Array]:
    """Read what `write_flow` wrote.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    header : dict
        As given to `write_flow`, without "format" and "version".
    params : ndarray, (k,)
        float32 or float64 as written, in native byte order.

    Raises
    ------
    FileFormatError
        If the file is no flow, is cut short, or has a version that is not understood.
    OSError
        If the file cannot be opened.
    """
    _check_filled(path)
    arrays = _read_npz(path, _flow_keys)
    header = _parse_header(path, arrays["header"])
    if fault := _fault_of_params(arrays["params"]):
        raise FileFormatError(f"{path}: params {fault}")
    params = arrays["params"]
    return header, params.astype(params.dtype.newbyteorder("="), copy=False)


def _by_extension(path: FilePath, choices: Mapping[str, T]) -> T:
    extension = Path(path).suffix.lower()
    if extension not in choices:
        raise unknown_name(f"the extension of {path}", extension, choices)
    return choices[extension]


def _check_filled(path: FilePath) -> None:
    with open(path, "rb") as file:  # the error of a missing file or of a folder is clear as it is
        if not file.read(1):
            raise FileFormatError(f"{path} is empty")


@contextmanager
def _refused_as(path: FilePath, kind: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what a parser raises on a damaged file into one line that names the file."""
    try:
        yield
    except FileFormatError:
        raise
    except errors as error:
        reason = str(error).partition("\n")[0]
        raise FileFormatError(f"{path} is not a complete {kind} file: {reason}") from error


# npz


_NPZ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    NotImplementedError,
    RuntimeError,
)


def _read_npz(path: FilePath, choose: Callable[[FilePath, Iterable[str]], list[str]]) -> dict[str, Array]:
    """Read the members that `choose` picks from all their names."""
    with _refused_as(path, "npz", _NPZ_ERRORS), open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise FileFormatError(f"{path} is not an npz file, or is cut short")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return {key: _member(archive, key) for key in choose(path, archive.files)}


def _member(archive: Mapping[str, Any], key: str) -> Array:
    array = archive[key]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"its member {key} is not an array")
    return array


def _write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _point_keys(path: FilePath, found: Iterable[str]) -> list[str]:
    """Choose what to read from a file of points."""
    if "x" not in found or ("px" in found) == ("logpx" in found) or ("fx" in found) == ("logfx" in found):
        needed = "x, either px or logpx, and either fx or logfx"
        raise FileFormatError(f"{path} must hold {needed}; it holds {', '.join(found) or 'nothing'}")
    return [key for key in _POINT_KEYS if key in found]


def _flow_keys(path: FilePath, found: Iterable[str]) -> list[str]:
    if not {"header", "params"} <= set(found):
        raise FileFormatError(f"{path} must hold header and params; it holds {', '.join(found) or 'nothing'}")
    return ["header", "params"]


def _parse_header(path: FilePath, data: Array) -> dict[str, Any]:
    """Give the header back as `write_flow` got it."""
    header = _decode_header(path, data)
    if not isinstance(header, dict):
        raise FileFormatError(f"{path}: header must be a JSON object, found {type(header).__name__}")
    _check_format(path, header, _FLOW_FORMAT, _FLOW_VERSION)
    return {key: value for key, value in header.items() if key not in ("format", "version")}


def _decode_header(path: FilePath, data: Array) -> Any:
    """Read JSON text that is kept as bytes."""
    if data.dtype != np.uint8 or data.ndim != 1:
        raise FileFormatError(f"{path}: header must be bytes, found {data.dtype} of shape {data.shape}")
    try:
        return json.loads(data.tobytes())
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: header is not JSON: {error}") from error


def _check_format(path: FilePath, header: Mapping[str, Any], form: str, version: int) -> None:
    """Refuse the header of another kind of file, or of another version of it."""
    if header.get("format") != form:
        raise FileFormatError(f"{path}: format must be {form!r}, found {header.get('format')!r}")
    if header.get("version") != version:
        raise FileFormatError(
            f"{path} has version {header.get('version')!r}, "
            f"but this varflow understands version {version} only"
        )


def _fault_of_params(params: Array) -> str:
    """Say what is wrong with a flow's parameters, if anything."""
    if params.ndim != 1 or params.dtype.kind != "f" or params.dtype.itemsize not in (4, 8):
        return f"must be 1-d float32 or float64, found {params.dtype} of shape {params.shape}"
    if not np.isfinite(params).all():
        return "must be finite"
    return ""


def _read_npz_points(path: FilePath) -> dict[str, Array]:
    return _read_npz(path, _point_keys)


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
        _refused_as(path, "HDF5", (OSError, RuntimeError, ValueError, TypeError, KeyError)),
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
    ".npz": _write_npz,
    ".csv": _write_text_points,
    ".txt": _write_text_points,
    ".dat": _write_text_points,
    ".h5": _write_hdf5_points,
    ".hdf5": _write_hdf5_points,
}
_SAMPLE_SINKS = {".npz": _npz_samples, ".csv": _csv_samples}
