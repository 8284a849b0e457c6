"""Reading of some rows of a file of weighted points, for ranks that each read a share.

That is possible where the rows of an array lie one after the other in the file: in HDF5, and in npz files
that are not compressed, from arrays of numbers in C order. Other files are read as a whole, by one rank,
which gives the others what they need.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from varflow.data.formats import Array, point_names
from varflow.data.hdf5_points import open_group, split_group
from varflow.runtime.archive import FilePath, check_filled, open_npz

__all__ = ["RowRanges", "row_ranges"]

LENGTHS = 26  # where the header of a member of a zip file has those of its name and of what follows it

Read = Callable[[int, int], Array]


class RowRanges:
    """Arrays of a file, whose rows can be read from any one to any other.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        Shape of each array: x (n, d), px or logpx (n,), fx or logfx (n,), and perhaps bounds
        and conditions (n, c).
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], read: dict[str, Read]) -> None:
        self.shapes, self._read = shapes, read

    def rows(self, name: str, begin: int, end: int) -> Array:
        """Read rows [begin, end) of an array."""
        return self._read[name](begin, end)


@contextmanager
def row_ranges(path: FilePath) -> Iterator[RowRanges | None]:
    """Open a file; None where it has to be read as a whole.

    Raises
    ------
    FileFormatError
        If it is damaged, or lacks an array.
    OSError
        If it cannot be opened.
    """
    name, _ = split_group(path)
    opened = {".npz": _of_npz, ".h5": _of_hdf5, ".hdf5": _of_hdf5}.get(Path(name).suffix.lower())
    if opened is None:
        yield None
        return
    check_filled(name)
    with opened(path) as found:
        usual = found is not None and _are_usual(found.shapes)
        yield found if usual else None


def _are_usual(shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether x and conditions are (n, d), and p and f are (n,); a file with others is read as a whole."""
    n = shapes["x"][:1]
    values = [shape for name, shape in shapes.items() if name not in ("x", "bounds", "conditions")]
    matrices = [shapes[name] for name in ("x", "conditions") if name in shapes]
    return all(len(shape) == 2 for shape in matrices) and all(shape == n for shape in values)


@contextmanager
def _of_hdf5(path: FilePath) -> Iterator[RowRanges | None]:
    with open_group(path) as (group, names):
        arrays = {key: group[name] for key, name in names.items()}
        if not all(array.dtype.kind in "biuf" for array in arrays.values()):
            yield None
            return
        read: dict[str, Read] = {
            key: lambda begin, end, array=array: array[begin:end]  # type: ignore[misc]
            for key, array in arrays.items()
        }
        yield RowRanges({key: array.shape for key, array in arrays.items()}, read)


@contextmanager
def _of_npz(path: FilePath) -> Iterator[RowRanges | None]:
    with open_npz(path) as opened, ZipFile(opened) as archive:
        found = [name.removesuffix(".npy") for name in archive.namelist()]
        members = {key: f"{name}.npy" for key, name in point_names(path, found).items()}
        layouts = {key: _layout(archive, member) for key, member in members.items()}
        if not all(layouts.values()):
            yield None
            return
        shapes: dict[str, tuple[int, ...]] = {}
        read: dict[str, Read] = {}
        for key, layout in layouts.items():
            assert layout is not None
            shapes[key], dtype, first = layout
            read[key] = _reader(opened, shapes[key], dtype, first)
        yield RowRanges(shapes, read)


def _layout(archive: ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype[Any], int] | None:
    """Read shape, type and place of the first number of an array; None where rows cannot be read from it."""
    if archive.getinfo(member).compress_type != ZIP_STORED:
        return None
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in headers:
            return None
        shape, is_fortran, dtype = headers[version](file)
        place = _begin(archive, member) + file.tell()
    is_usual = len(shape) > 0 and dtype.kind in "biuf" and not (is_fortran and len(shape) > 1)
    return (shape, dtype, place) if is_usual else None


def _begin(archive: ZipFile, member: str) -> int:
    """Find the place of a member in the file, behind a header whose length the directory does not tell."""
    assert archive.fp is not None
    header = archive.getinfo(member).header_offset
    place = archive.fp.tell()
    archive.fp.seek(header + LENGTHS)
    n_name, n_extra = struct.unpack("<HH", archive.fp.read(4))
    archive.fp.seek(place)
    return int(header + LENGTHS + 4 + n_name + n_extra)


def _reader(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any], first: int) -> Read:
    def read(begin: int, end: int) -> Array:
        n_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        file.seek(first + begin * n_bytes)
        rows = _exactly(file, (end - begin) * n_bytes)
        return np.frombuffer(rows, dtype).reshape(end - begin, *shape[1:])

    return read


def _exactly(file: BinaryIO | Any, n: int) -> bytes:
    found: bytes = file.read(n)
    if len(found) != n:
        raise ValueError("it is cut short")
    return found
