"""Weighted points on disk, as plain arrays: npz, text and HDF5, never pickle."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from varflow.data.formats import Array, by_extension
from varflow.data.hdf5_points import read_hdf5_points, split_group, write_hdf5_points
from varflow.data.npz_points import read_npz_points
from varflow.data.text_points import read_text_points, text_coordinates, write_text_points
from varflow.errors import FileFormatError
from varflow.runtime.archive import FilePath, atomic_path, check_filled, write_npz

__all__ = ["coordinate_names", "is_points_file", "read_points", "write_points"]


def read_points(
    path: FilePath, columns: Sequence[str] | None = None, conditions: Sequence[str] | None = None
) -> dict[str, Array]:
    """Read weighted points in the format given by the extension of the file.

    Parameters
    ----------
    path : str or path
        ``.npz`` or ``.h5``/``.hdf5``: arrays named x, px or logpx, fx or logfx, and optionally bounds and
        conditions; where there are none of px to logfx, those named p or logp, f or logf are taken. p and f
        may be a row or a column.
        ``file.h5:/group`` is a group in an HDF5 file.
        ``.csv``, ``.tsv``, ``.txt`` or ``.dat``: one line per point, its columns separated by commas,
        semicolons, tabs or blanks, and comments after ``#``. A further extension ``.gz``, ``.bz2`` or ``.xz``
        may follow; what is compressed is seen from its contents.

        Lines without a number before the first point are a header. It names one column p, px, logp or logpx
        and one f, fx, logf or logfx (case-insensitive), anywhere; condition1, condition2 and so on are
        conditions, and the others are coordinates. A comment that names every column does so too. Without a
        header the columns are x..., p, f.
    columns : sequence of str, optional
        For text: the names of all columns, in order, whatever the header says.
    conditions : sequence of str, optional
        For text: the names of the columns that are conditions, whatever they are called.

    Returns
    -------
    dict of str to ndarray
        x (n, d), px or logpx (n,), fx or logfx (n,), and bounds (d, 2) and conditions (n, c) if the file
        contains them. The values are not checked.

    Raises
    ------
    FileFormatError
        If the file is empty, truncated, in another format, or incomplete; if a header does not name p and f,
        or leaves it open whether another column is a coordinate: one without a name or with one twice, an
        index, a weight. For text, the message gives the number of the offending line.
    OSError
        If the file cannot be opened.
    ValueError
        If the extension is unknown, if `columns` does not name x, p and f, or is given for arrays with names.
    TypeError
        If `columns` is not a sequence of names.
    ImportError
        If the file is in HDF5 format and h5py is not installed.
    """
    file_path, read = _reader(path)
    check_filled(file_path)
    if read is read_text_points:
        return read_text_points(path, columns, conditions)
    for name, given in {"columns": columns, "conditions": conditions}.items():
        if given is not None:
            raise ValueError(f"{name} is for text alone, and {path} has arrays with names: leave it out")
    return _shaped(path, read(path))


def coordinate_names(
    path: FilePath, columns: Sequence[str] | None = None, conditions: Sequence[str] | None = None
) -> list[str] | None:
    """Read the names that a text file gives to its coordinates; None of a file of arrays, which has none.

    Parameters
    ----------
    path, columns, conditions
        As `read_points` takes them; it raises the same errors.

    Returns
    -------
    list of str or None
        A name for each coordinate.
    """
    is_text = _reader(path)[1] is read_text_points
    return text_coordinates(path, columns, conditions) if is_text else None


def is_points_file(path: FilePath) -> bool:
    """Tell by the extension whether a path names a file of points, which need not exist."""
    try:
        _reader(path)
    except ValueError:
        return False
    return True


def _reader(path: FilePath) -> tuple[str, Callable[..., dict[str, Array]]]:
    """Find the file that a path names, and what reads it."""
    file_path, _ = split_group(path)
    name = Path(file_path)
    if len(name.suffixes) > 1 and name.suffix.lower() in _COMPRESSED:
        name = name.with_suffix("")
    return file_path, by_extension(name, _POINT_READERS)


def _shaped(path: FilePath, arrays: dict[str, Array]) -> dict[str, Array]:
    """Flatten p and f that are a row or a column, as MATLAB stores vectors, and refuse x transposed."""
    x = arrays["x"]
    for name in arrays.keys() - {"x", "bounds", "conditions"}:
        n = arrays[name].size
        if arrays[name].ndim == 2 and n in arrays[name].shape:
            arrays[name] = arrays[name].reshape(n)
        if x.ndim == 2 and len(x) != n == x.shape[1]:
            found = f"found {x.shape} with {n} values of {name}"
            raise FileFormatError(f"{path}: x must have shape (n, d), {found}: store its transpose")
    return arrays


def write_points(path: FilePath, arrays: Mapping[str, Array]) -> None:
    """Write weighted points in the format given by the extension; `read_points` restores the same bits.

    Parameters
    ----------
    path : str or path
        Name of the file, with an extension that `read_points` knows. An existing file is replaced once the
        new one is complete.
    arrays : mapping of str to ndarray
        x (n, d), px or logpx (n,), fx or logfx (n,), and optionally conditions (n, c), and bounds (d, 2),
        which text files omit.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If the extension is unknown.
    ImportError
        If the file is in HDF5 format and h5py is not installed.
    """
    write = by_extension(path, _POINT_WRITERS)
    with atomic_path(path) as temporary:
        write(temporary, arrays)


_COMPRESSED = (".gz", ".bz2", ".xz")
_POINT_READERS = {
    ".npz": read_npz_points,
    ".csv": read_text_points,
    ".tsv": read_text_points,
    ".txt": read_text_points,
    ".dat": read_text_points,
    ".h5": read_hdf5_points,
    ".hdf5": read_hdf5_points,
}
_POINT_WRITERS = {
    ".npz": write_npz,
    ".csv": write_text_points,
    ".txt": write_text_points,
    ".dat": write_text_points,
    ".h5": write_hdf5_points,
    ".hdf5": write_hdf5_points,
}
