"""Atomic writing of files, and the sealed archives in which varflow stores its own data.

An archive of varflow is an npz file of arrays, one of which is a header in JSON, so that NumPy alone can read
it. The archive comment, at the end of the file, is a seal: the SHA-256 digest of all bytes before the digest.
A file that was truncated, or in which a single bit was changed, is therefore rejected.
"""

import hashlib
import json
import logging
import os
import platform
import secrets
import shutil
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from varflow.errors import FileFormatError

__all__ = [
    "FilePath",
    "Kind",
    "atomic_path",
    "check_filled",
    "check_writable",
    "format_of",
    "open_npz",
    "read_archive",
    "read_npz",
    "refused_as",
    "seal",
    "write_archive",
    "write_npz",
]

logger = logging.getLogger(__name__)

FilePath = str | os.PathLike[str]
Array = npt.NDArray[Any]

_SEAL = b"varflow sha256 "  # followed by the digest in hexadecimal
_DIGITS = 64
LEFT_OVER_SECONDS = 3600.0  # time since the last write after which a temporary file counts as abandoned
HASH_BYTES = 1 << 20  # bytes that are hashed at a time


class Kind(NamedTuple):
    """Kind of an archive, and the versions of its format."""

    name: str
    version: int  # written
    oldest: int  # oldest version that can be read
    sealed: int  # first version with a seal


def check_writable(path: FilePath) -> None:
    """Check that a file can be written, before hours are spent on computing its contents.

    Parameters
    ----------
    path : str or path
        The file.

    Raises
    ------
    OSError
        If `path` is a folder, or the folder that contains it is missing or not writable.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file")
    with _folder_of(path):
        tempfile.TemporaryFile(dir=target.parent).close()


@contextmanager
def _folder_of(path: FilePath) -> Iterator[None]:
    """Name the file in the error raised if its folder is not writable."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write to the folder of {path}: {error.strerror}") from None


@contextmanager
def atomic_path(path: FilePath) -> Iterator[Path]:
    """Provide a temporary file, which replaces `path` atomically when the block completes.

    Parameters
    ----------
    path : str or path
        The file to be written or replaced. A symbolic link is preserved: the file it points to is replaced.

    Yields
    ------
    pathlib.Path
        An empty file in the same folder and with the same extension. It is removed if the block raises.

    Raises
    ------
    OSError
        If `path` is a folder, or the folder that contains it is missing or not writable.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file")
    prefix = _temporary_prefix(target)
    temporary = target.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}{Path(path).suffix}")
    _remove_left_over(target.parent, prefix)
    with _folder_of(path):
        open(temporary, "xb").close()  # tempfile would set mode 0600; this honours the umask
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _temporary_prefix(target: Path) -> str:
    """Return the prefix of temporary file names, specific to the file they replace and to this machine."""
    key = f"{platform.node()} {target.name}"
    return f".varflow-{hashlib.sha256(key.encode()).hexdigest()[:12]}-"


def _remove_left_over(folder: Path, prefix: str) -> None:
    """Remove abandoned temporary files of processes on this machine that no longer exist."""
    for path in folder.glob(f"{prefix}*"):
        with suppress(OSError, ValueError):  # another process may have removed it first
            pid = int(path.name.removeprefix(prefix).partition("-")[0])
            if time.time() - path.stat().st_mtime > LEFT_OVER_SECONDS and not _is_alive(pid):
                path.unlink()


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # Windows has no signal that only asks
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it exists, but belongs to another user
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make the entries of a folder survive a power failure, if the system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some cluster file systems cannot sync folders
        pass
    finally:
        os.close(descriptor)


def write_archive(path: FilePath, kind: Kind, header: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write a sealed archive.

    Parameters
    ----------
    path : str or path
        Name of the file, used exactly as given, whatever its extension. An existing file is replaced once the
        new one is complete.
    kind : Kind
        Kind of the archive.
    header : mapping
        Data that JSON can represent. The keys "format" and "version" are added to it in the file.
    arrays : mapping
        Arrays of numbers, with names other than "header".

    Raises
    ------
    TypeError
        If JSON cannot represent `header`.
    OSError
        If the file cannot be written.
    """
    text = json.dumps({**header, "format": kind.name, "version": kind.version})
    with atomic_path(path) as temporary:
        write_npz(temporary, {"header": np.frombuffer(text.encode(), np.uint8), **arrays})
        seal(temporary)
    logger.info("wrote %s, a %s", os.fspath(path), kind.name)


def read_archive(path: FilePath, kind: Kind) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read an archive written by `write_archive`.

    Parameters
    ----------
    path : str or path
        The file.
    kind : Kind
        Expected kind of the archive.

    Returns
    -------
    header : dict
        As given to `write_archive`, with "format" and "version".
    arrays : dict of ndarray
        The arrays, in native byte order.

    Raises
    ------
    FileFormatError
        If the file is of another kind or an unsupported version, or is truncated or damaged.
    OSError
        If the file cannot be opened.
    """
    check_filled(path)
    is_sealed = _check_seal(path)
    arrays = read_npz(path, lambda path, found: _all_members(path, kind, found))
    header = _decode_header(path, arrays.pop("header"))
    _check_kind(path, header, kind)
    if header["version"] >= kind.sealed and not is_sealed:
        raise FileFormatError(f"{path} is damaged: its checksum is missing")
    native = {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}
    logger.info("read %s, a %s", os.fspath(path), kind.name)
    return header, native


def format_of(path: FilePath) -> str:
    """Read the name of an archive's kind, or "" where the file is no archive of varflow.

    Raises
    ------
    OSError
        If the file cannot be opened.
    """
    try:
        check_filled(path)
        arrays = read_npz(path, lambda _, found: [name for name in found if name == "header"])
        return str(_decode_header(path, arrays["header"]).get("format"))
    except (FileFormatError, KeyError):
        return ""


def seal(path: FilePath) -> None:
    """Append the seal to an npz archive, or replace an existing one.

    Parameters
    ----------
    path : str or path
        The archive.
    """
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = _SEAL + b"0" * _DIGITS
    digest = _digest(path)
    with open(path, "rb+") as file:
        file.seek(-_DIGITS, os.SEEK_END)
        file.write(digest)


def _digest(path: FilePath) -> bytes:
    """Compute the SHA-256 digest, in hexadecimal, of a file without the digest at its end."""
    digest, left = hashlib.sha256(), os.path.getsize(path) - _DIGITS
    with open(path, "rb") as file:
        while left > 0 and (block := file.read(min(HASH_BYTES, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest().encode()


def _check_seal(path: FilePath) -> bool:
    """Return whether the file has a seal; raise if the seal is wrong."""
    n = len(_SEAL) + _DIGITS
    with open(path, "rb") as file:
        file.seek(-min(n, os.path.getsize(path)), os.SEEK_END)
        end = file.read(n)
    if not end.startswith(_SEAL):
        return False
    if end[len(_SEAL) :] != _digest(path):
        raise FileFormatError(f"{path} is damaged: its checksum is not that of what it holds")
    return True


def _all_members(path: FilePath, kind: Kind, found: Iterable[str]) -> list[str]:
    names = list(found)
    if "header" not in names:
        raise FileFormatError(f"{path} is not a {kind.name}: it holds {', '.join(names) or 'nothing'}")
    return names


def _decode_header(path: FilePath, data: Array) -> dict[str, Any]:
    """Decode a JSON object that is stored as an array of bytes."""
    if data.dtype != np.uint8 or data.ndim != 1:
        raise FileFormatError(f"{path}: header must be bytes, found {data.dtype} of shape {data.shape}")
    try:
        header = json.loads(data.tobytes())
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise FileFormatError(f"{path}: header must be a JSON object, found {type(header).__name__}")
    return header


def _check_kind(path: FilePath, header: Mapping[str, Any], kind: Kind) -> None:
    """Raise if the header belongs to another kind of archive or to an unsupported version."""
    if header.get("format") != kind.name:
        raise FileFormatError(f"{path}: format must be {kind.name!r}, found {header.get('format')!r}")
    version, understood = header.get("version"), range(kind.oldest, kind.version + 1)
    if type(version) is not int or version not in understood:
        raise FileFormatError(
            f"{path} has version {version!r}, but this varflow understands "
            f"{' and '.join(map(str, understood))} only"
        )


def check_filled(path: FilePath) -> None:
    """Raise if a file is empty, with a clearer message than that of a parser."""
    with open(path, "rb") as file:  # its error is clear if the file is missing or a folder
        if not file.read(1):
            raise FileFormatError(f"{path} is empty")


@contextmanager
def refused_as(path: FilePath, kind: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Convert the errors that a parser raises on a damaged file to a single line that names the file."""
    try:
        yield
    except FileFormatError:
        raise
    except errors as error:
        reason = str(error).partition("\n")[0]
        raise FileFormatError(f"{path} is not a complete {kind} file: {reason}") from error


_NPZ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    NotImplementedError,
    RuntimeError,
)


def read_npz(path: FilePath, choose: Callable[[FilePath, Iterable[str]], list[str]]) -> dict[str, Array]:
    """Read the members of an npz file that `choose` selects from the names of all."""
    with open_npz(path) as file, np.load(file, allow_pickle=False) as archive:
        return {key: _member(archive, key) for key in choose(path, archive.files)}


@contextmanager
def open_npz(path: FilePath) -> Iterator[BinaryIO]:
    """Open an npz file; what goes wrong in the block is told as damage of the file."""
    with refused_as(path, "npz", _NPZ_ERRORS), open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise FileFormatError(f"{path} is not an npz file, or is cut short")
        file.seek(0)
        yield file


def _member(archive: Mapping[str, Any], key: str) -> Array:
    array = archive[key]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"its member {key} is not an array")
    return array


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays of numbers to an npz archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
