"""Samples on disk or on their way to another program, written in blocks."""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt

from varflow.data.formats import Array, by_extension
from varflow.data.text_points import text_writer
from varflow.runtime.archive import FilePath, atomic_path
from varflow.validation import check_name

__all__ = ["SAMPLE_FORMATS", "STREAM_FORMATS", "SampleWriter"]

WriteBlock = Callable[[Array, Array], object]
STREAM_FORMATS = ("csv", "npy")  # which need not know what comes last before they begin


class SampleWriter:
    """Context manager that writes points and a number of each in blocks, without holding all in memory.

    A file appears when the context is left, provided that all `n` rows were written and nothing was raised.

    Parameters
    ----------
    target : str, path or binary file
        ``.npz``, with the arrays x (n, d) and q (n,); ``.csv``, with the header x1, ..., xd, q; or ``.npy``,
        with one array (n, d + 1). Or a binary file that is open, such as a pipe.
    n : int
        Number of points.
    d : int
        Number of dimensions.
    column : str
        Name of the number, where it is not the density q.
    stream_format : str
        What goes to a binary file that is open: one of STREAM_FORMATS.

    Raises
    ------
    ValueError
        If the extension or the format is not one of these, or, on exit, if the number of rows written is not
        `n`.
    OSError
        On entering, if the file cannot be written.
    """

    def __init__(
        self,
        target: FilePath | IO[bytes],
        n: int,
        d: int,
        *,
        column: str = "q",
        stream_format: str = STREAM_FORMATS[0],
    ) -> None:
        self._n, self._d, self._rows = n, d, 0
        self._file: AbstractContextManager[IO[bytes]]
        if isinstance(target, str | os.PathLike):
            self._name, self._file = os.fspath(target), _replaced(target)
            make = by_extension(target, {f".{name}": made for name, made in SAMPLE_FORMATS.items()})
        else:
            check_name("stream_format", stream_format, STREAM_FORMATS)
            self._name, self._file, make = "the sample", nullcontext(target), SAMPLE_FORMATS[stream_format]
        self._open_sink = lambda file: make(file, n, d, column)
        self._context = self._opened()

    def __enter__(self) -> "SampleWriter":
        return self._context.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._context.__exit__(kind, error, trace)

    @contextmanager
    def _opened(self) -> Iterator["SampleWriter"]:
        with self._file as file, self._open_sink(file) as self._write_block:
            yield self
            if self._rows != self._n:
                raise ValueError(f"{self._name} was to have {self._n} rows, but {self._rows} were written")

    def write(self, x: npt.ArrayLike, numbers: npt.ArrayLike) -> None:
        """Append a block of points.

        Parameters
        ----------
        x : array_like, (m, d)
            Points.
        numbers : array_like, (m,)
            The density from which they were drawn, or what else there is to each.

        Raises
        ------
        ValueError
            If the shapes are wrong, or the total number of rows exceeds `n`.
        """
        x, numbers = np.ascontiguousarray(x, np.float64), np.ascontiguousarray(numbers, np.float64)
        if x.ndim != 2 or x.shape[1] != self._d or numbers.shape != x.shape[:1]:
            raise ValueError(
                f"x, numbers must have shapes (m, {self._d}), (m,), found {x.shape}, {numbers.shape}"
            )
        self._rows += len(x)
        if self._rows > self._n:
            raise ValueError(f"{self._name} was to have {self._n} rows, but got {self._rows}")
        self._write_block(x, numbers)


@contextmanager
def _replaced(path: FilePath) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of another one once it is complete."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield file


@contextmanager
def _npz_samples(file: IO[bytes], n: int, d: int, column: str) -> Iterator[WriteBlock]:
    with (
        zipfile.ZipFile(file, "w") as archive,
        tempfile.TemporaryFile(dir=Path(file.name).parent) as spool,
    ):
        with _npy_member(archive, "x", (n, d)) as member:

            def write(x: Array, numbers: Array) -> None:
                member.write(x.data)
                spool.write(numbers.data)

            yield write
        spool.seek(0)
        with _npy_member(archive, column, (n,)) as member:
            shutil.copyfileobj(spool, member)


@contextmanager
def _npy_member(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """Open an archive member for float64 data, and write its header."""
    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
        _write_npy_header(member, shape)
        yield member


def _write_npy_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    descr = np.lib.format.dtype_to_descr(np.dtype(np.float64))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _npy_samples(file: IO[bytes], n: int, d: int, column: str) -> AbstractContextManager[WriteBlock]:
    _write_npy_header(file, (n, d + 1))
    return nullcontext(lambda x, numbers: file.write(np.column_stack([x, numbers]).data))


def _csv_samples(file: IO[bytes], n: int, d: int, column: str) -> AbstractContextManager[WriteBlock]:
    return nullcontext(text_writer(file, d, [column]))


SAMPLE_FORMATS = {"npz": _npz_samples, "csv": _csv_samples, "npy": _npy_samples}
