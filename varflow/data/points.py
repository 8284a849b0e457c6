"""Weighted points on disk, as plain arrays: npz, text and HDF5, never pickle."""

from collections.abc import Mapping

from varflow.data.formats import Array, by_extension
from varflow.data.hdf5_points import read_hdf5_points, write_hdf5_points
from varflow.data.npz_points import read_npz_points
from varflow.data.text_points import read_text_points, write_text_points
from varflow.runtime.archive import FilePath, atomic_path, check_filled, write_npz

__all__ = ["read_points", "write_points"]


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
    read = by_extension(path, _POINT_READERS)
    check_filled(path)
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
    write = by_extension(path, _POINT_WRITERS)
    with atomic_path(path) as temporary:
        write(temporary, arrays)


_POINT_READERS = {
    ".npz": read_npz_points,
    ".csv": read_text_points,
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
