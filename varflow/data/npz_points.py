"""Weighted points in npz archives."""

from varflow.data.formats import Array, point_names
from varflow.runtime.archive import FilePath, read_npz

__all__ = ["read_npz_points"]


def read_npz_points(path: FilePath) -> dict[str, Array]:
    """Read weighted points from an npz archive."""
    arrays = read_npz(path, lambda path, found: list(point_names(path, found).values()))
    return {key: arrays[name] for key, name in point_names(path, arrays).items()}
