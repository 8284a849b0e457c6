"""Weighted points in HDF5 files."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from varflow.data.formats import Array, point_keys
from varflow.runtime.archive import FilePath, refused_as

__all__ = ["read_hdf5_points", "write_hdf5_points"]


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install varflow[hdf5]") from error
    return h5py


def read_hdf5_points(path: FilePath) -> dict[str, Array]:
    """Read weighted points from an HDF5 file."""
    h5py = _h5py()
    with (
        refused_as(path, "HDF5", (OSError, RuntimeError, ValueError, TypeError, KeyError)),
        h5py.File(path, "r") as file,
    ):
        names = [name for name, item in file.items() if isinstance(item, h5py.Dataset)]
        return {key: np.asarray(file[key][()]) for key in point_keys(path, names)}


def write_hdf5_points(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write weighted points to an HDF5 file."""
    with _h5py().File(path, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array)
