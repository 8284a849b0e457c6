"""Weighted points in HDF5 files."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from varflow.data.formats import Array, point_names
from varflow.errors import FileFormatError
from varflow.runtime.archive import FilePath, refused_as

__all__ = ["open_group", "read_hdf5_points", "split_group", "write_hdf5_points"]

N_NAMED = 20  # things in a file that an error message names at most


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install varflow[hdf5]") from error
    return h5py


def split_group(path: FilePath) -> tuple[str, str]:
    """Split ``file.h5:/group`` into file and group; the group of any other path is the root."""
    text = os.fspath(path)
    parts = re.fullmatch(r"(.+\.(?:h5|hdf5)):(/.*)", text, re.IGNORECASE | re.DOTALL)
    return (parts[1], parts[2]) if parts else (text, "/")


def read_hdf5_points(path: FilePath) -> dict[str, Array]:
    """Read weighted points from an HDF5 file, or from a group in it."""
    with open_group(path) as (group, names):
        return {key: np.asarray(group[name][()]) for key, name in names.items()}


@contextmanager
def open_group(path: FilePath) -> Iterator[tuple[Any, dict[str, str]]]:
    """Open a group of weighted points; also give the name of each of their arrays in it."""
    h5py = _h5py()
    file_path, group_name = split_group(path)
    with (
        refused_as(path, "HDF5", (OSError, RuntimeError, ValueError, TypeError, KeyError)),
        h5py.File(file_path, "r") as file,
    ):
        held = islice(_contents(file), N_NAMED)
        group = file.get(group_name)
        if not isinstance(group, h5py.Group):
            raise FileFormatError(f"{path} must name a group of the file; it holds {', '.join(held)}")
        found = [name for name in group if isinstance(group.get(name), h5py.Dataset)]
        yield group, point_names(path, found, held, "; a group is read as FILE:/GROUP")


def _contents(group: Any) -> Iterator[str]:
    """Name the arrays in a group and in those below it, with their shapes."""
    for item in map(group.get, group):  # None for a link that leads nowhere
        if hasattr(item, "shape"):
            yield f"{item.name} {item.shape}"
        elif hasattr(item, "keys"):
            yield from _contents(item)


def write_hdf5_points(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write weighted points to an HDF5 file."""
    with _h5py().File(path, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array)
