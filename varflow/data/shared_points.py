"""Weighted points that the ranks of a node have in common, each of which reads a share of the rows."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from varflow.data.arrays import as_floats, read_only
from varflow.data.formats import Array
from varflow.data.points import read_points
from varflow.data.row_ranges import row_ranges
from varflow.errors import FileFormatError
from varflow.runtime.archive import FilePath
from varflow.runtime.communicator import Communicator

__all__ = ["read_shared_points"]

Shapes = dict[str, tuple[int, ...]]


def read_shared_points(
    path: FilePath, columns: Sequence[str] | None, conditions: Sequence[str] | None, comm: Communicator
) -> dict[str, Array]:
    """Read weighted points into memory that the ranks of a node have in common; see `read_points`.

    Where rows can be read from the file by their numbers, each rank of a node reads a share. Otherwise the
    first of each node reads the whole.
    """
    shapes = comm.first(lambda: None if columns or conditions else _shapes(path))
    if shapes is not None:
        with comm.together(), row_ranges(path) as ranges:
            if ranges is None or ranges.shapes != shapes:
                raise FileFormatError(f"{path} is not the same file on all ranks: shapes differ")
            return {
                name: read_only(comm.fill_shared(shape, partial(ranges.rows, name)))
                for name, shape in shapes.items()
            }
    with comm.together():
        whole = _floats(path, columns, conditions) if comm.node_rank() == 0 else {}
    shapes = comm.first(lambda: {name: array.shape for name, array in whole.items()})
    return {
        name: read_only(comm.fill_shared(shape, lambda *_, name=name: whole[name], is_by_first=True))
        for name, shape in shapes.items()
    }


def _shapes(path: FilePath) -> Shapes | None:
    with row_ranges(path) as ranges:
        return None if ranges is None else ranges.shapes


def _floats(
    path: FilePath, columns: Sequence[str] | None, conditions: Sequence[str] | None
) -> dict[str, np.ndarray]:
    try:
        read = read_points(path, columns, conditions)
        return {name: as_floats(name, array) for name, array in read.items()}
    except TypeError as error:
        raise FileFormatError(f"{path}: {error}") from error
