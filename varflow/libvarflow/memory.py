"""The host program's memory: arrays, numbers and text at addresses that it gives."""

import ctypes
import math
import os

import numpy as np
import numpy.typing as npt

__all__ = ["array_at", "box_at", "not_null", "path_at", "set_at", "write_text"]

FloatArray = npt.NDArray[np.float64]
Address = int | None  # None where the host program gave a null pointer

MAX_NUMBERS = 2**60  # no array has more


def array_at(name: str, address: Address, *shape: int) -> FloatArray:
    """Give the array of doubles at an address, without a copy.

    Parameters
    ----------
    name : str
        Its name, for messages.
    address : int or None
        Where it is.
    *shape : int
        Its shape; the first number is what the host program gave.

    Raises
    ------
    ValueError
        If the address is null, or the size is negative or absurd.
    """
    if shape[0] < 0 or math.prod(shape) > MAX_NUMBERS:
        raise ValueError(f"{name} cannot have shape {shape}")
    numbers = ctypes.c_double * math.prod(shape)
    return np.ctypeslib.as_array(numbers.from_address(not_null(name, address))).reshape(shape)


def box_at(d: int, address: Address) -> FloatArray:
    """Copy bounds (d, 2); those of the unit cube from a null pointer."""
    if not 0 < d < MAX_NUMBERS:
        raise ValueError(f"d must be at least 1, got {d}")
    return np.tile([0.0, 1.0], (d, 1)) if address is None else array_at("bounds", address, d, 2).copy()


def path_at(path: bytes | None) -> str:
    """Decode the name of a file."""
    if not path:
        found = "a null pointer" if path is None else "empty text"
        raise ValueError(f"path must be the name of a file, got {found}")
    return os.fsdecode(path)


def set_at(name: str, address: Address, kind: type, value: float) -> None:
    """Set a number of a ctypes kind."""
    kind.from_address(not_null(name, address)).value = value  # type: ignore[attr-defined]


def write_text(address: Address, size: int, text: str) -> None:
    """Write text and the byte 0 at its end.

    Raises
    ------
    ValueError
        If the address is null, or the text does not fit; the message says what it needs.
    """
    encoded = text.encode() + b"\0"
    if size < len(encoded):
        raise ValueError(f"size must be at least {len(encoded)} for this text, got {size}")
    ctypes.memmove(not_null("text", address), encoded, len(encoded))


def not_null(name: str, address: Address) -> int:
    """Return an address, which must not be null.

    Raises
    ------
    ValueError
        If it is.
    """
    if address is None:
        raise ValueError(f"{name} must not be a null pointer")
    return address
