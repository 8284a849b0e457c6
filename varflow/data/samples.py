"""Samples on disk, written in blocks."""

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt

from varflow.data.formats import Array, by_extension
from varflow.data.text_points import text_sink
from varflow.runtime.archive import FilePath, atomic_path

__all__ = ["SampleWriter"]

WriteBlock = Callable[[Array, Array], None]


class SampleWriter:
    """Context manager that writes points and their density in blocks, without holding all in memory.

    The file appears when the context is left, provided that all `n` rows were written and nothing was raised.

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
        If the extension is not one of these, or, on exit, if the number of rows written is not `n`.
    OSError
        On entering, if the file cannot be written.
    """

    def __init__(self, path: FilePath, n: int, d: int) -> None:
        self._open_sink = by_extension(path, _SAMPLE_SINKS)
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
            The density from which they were drawn.

        Raises
        ------
        ValueError
            If the shapes are wrong, or the total number of rows exceeds `n`.
        """
        x, qx = np.ascontiguousarray(x, np.float64), np.ascontiguousarray(qx, np.float64)
        if x.ndim != 2 or x.shape[1] != self._d or qx.shape != x.shape[:1]:
            raise ValueError(f"x, qx must have shapes (m, {self._d}), (m,), found {x.shape}, {qx.shape}")
        self._rows += len(x)
        if self._rows > self._n:
            raise ValueError(f"{self._path} was to have {self._n} rows, but got {self._rows}")
        self._write_block(x, qx)


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
    """Open an archive member for float64 data, and write its header."""
    descr = np.lib.format.dtype_to_descr(np.dtype(np.float64))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        yield member


def _csv_samples(path: Path, n: int, d: int) -> AbstractContextManager[WriteBlock]:
    return text_sink(path, d, ["q"])


_SAMPLE_SINKS = {".npz": _npz_samples, ".csv": _csv_samples}
