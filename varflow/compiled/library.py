"""Shared libraries: loading one, finding a function in it, and words for what goes wrong."""

import ctypes
import errno
import os
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from varflow.compiled.elf import Elf, read_elf

__all__ = ["find_function", "is_library", "resolved"]

SUFFIXES = (".so", ".dylib", ".dll")
N_HINTS = 3


def is_library(path: str) -> bool:
    """Tell by its name whether a file is a shared library: libme.so, libme.so.2, libme.dylib."""
    name = Path(path).name
    return name.endswith(SUFFIXES) or ".so." in name


def resolved(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of a file that exists; other names are the system's, such as "libm.so.6"."""
    return os.path.abspath(path) if os.path.exists(path) else os.fspath(path)


def find_function(path: str, symbol: str) -> Any:
    """Load a library, and find a function in it.

    Parameters
    ----------
    path : str
        What `resolved` returned.
    symbol : str
        Name of the function as the linker has it; Fortran's have an underscore at the end.

    Returns
    -------
    function of ctypes
        The function, which keeps the library. A library is loaded once in a process.

    Raises
    ------
    OSError
        If there is no such library, or it cannot be loaded: the message says why.
    ValueError
        If it has no such function; the message has the nearest names.
    """
    elf = read_elf(path) if os.path.isfile(path) else None
    library = _loaded(path, elf)
    try:
        function = getattr(library, symbol)
    except AttributeError:
        names = [] if elf is None else elf.functions
        raise ValueError(f"there is no {symbol!r} in {path}{_hint(_near_symbols(symbol, names))}") from None
    if elf is not None and symbol in elf.data:
        raise ValueError(
            f"{symbol!r} in {path} is no function but data{_hint(_near_symbols(symbol, elf.functions))}"
        )
    return function


def _loaded(path: str, elf: Elf | None) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        if os.path.isfile(path):
            raise OSError(f"{path} cannot be loaded: {_reason(path, elf, error)}") from None
        folder = os.path.dirname(path) or "."
        near = get_close_matches(os.path.basename(path), _libraries_in(folder), n=N_HINTS)
        hint = _hint([os.path.join(os.path.dirname(path), name) for name in near])
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT) + hint, path) from None


def _reason(path: str, elf: Elf | None, error: OSError) -> str:
    """Say why a file that exists cannot be loaded; the loader says of a foreign one that it is not there."""
    if not os.access(path, os.R_OK):
        return "it cannot be read"
    own = read_elf(sys.executable)
    if elf is not None and own is not None and elf.machine != own.machine:
        return f"it is for {elf.machine}, and this Python for {own.machine}"
    if elf is not None and elf.is_object_file:
        return "it is an object file; link it with -shared"
    if Path(path).read_bytes()[:7] == b"!<arch>":
        return "it is a static library; link one with -shared"
    return str(error).removeprefix(f"{path}: ")


def _libraries_in(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if is_library(name)]
    except OSError:
        return []


def _near_symbols(symbol: str, names: Iterable[str]) -> list[str]:
    """Find the names that may be meant: what compilers make of this one comes before what looks like it."""
    names = sorted(set(names))
    lower = symbol.lower()
    made = [name for name in (f"{lower}_", lower, lower.rstrip("_")) if name in names]
    longer = [name for name in names if name.endswith(f"_MOD_{lower}") or f"{len(symbol)}{symbol}" in name]
    near = get_close_matches(symbol, names, n=N_HINTS)
    return list(dict.fromkeys([*made, *longer, *near]))[:N_HINTS]


def _hint(names: list[str]) -> str:
    """Suggest names, with what a compiler has made of them."""
    if not names:
        return ""
    hint = f"; did you mean {' or '.join(map(repr, names))}?"
    if names[0].startswith("_Z"):
        return f'{hint} (C++ has changed the name: declare it extern "C")'
    return f"{hint} (Fortran adds the underscore)" if names[0].endswith("_") else hint
