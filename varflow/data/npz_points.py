"""Weighted points in npz archives."""

from varflow.data.formats import Array, point_keys
from varflow.runtime.archive import FilePath, read_npz

__all__ = ["read_npz_points"]


def read_npz_points(path: FilePath) -> dict[str, Array]:
    """Read weighted points from an npz archive."""
    return read_npz(path, point_keys)
