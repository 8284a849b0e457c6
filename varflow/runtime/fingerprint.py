"""Fingerprints of what a user gives, by which a run that is started again is known to be the same."""

import functools
import hashlib
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

__all__ = ["digest", "fingerprint"]

SIMPLE = (type(None), bool, int, float, complex, str, bytes)


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 sum of numbers, by which data are known again."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def fingerprint(value: object) -> str:
    """Compute a sum that two processes find alike where a value means the same to both.

    Parameters
    ----------
    value : object
        Numbers, text, arrays, functions, containers of these, and objects with such attributes. A function
        stands for its code, its defaults, and the variables of enclosing functions that it reads.

    Returns
    -------
    str
        SHA-256 sum in hexadecimal. It may change with the version of Python.

    Raises
    ------
    TypeError
        If something in it cannot be told from others of its kind, such as an open file.
    """
    total = hashlib.sha256()
    for part in _parts(value, ()):
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def _parts(value: Any, holders: tuple[int, ...]) -> Iterator[bytes]:
    """Go through what a value is made of; `holders` are the identities of what it is part of."""
    if id(value) in holders:
        yield b"part of itself"
        return
    holders = (*holders, id(value))
    yield f"{type(value).__module__}.{type(value).__qualname__}".encode()
    if isinstance(value, SIMPLE):
        yield repr(value).encode()
    elif isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        array = np.asarray(value)
        yield f"{array.dtype.str} {array.shape}".encode()
        yield np.ascontiguousarray(array).tobytes()
    elif isinstance(value, type | ModuleType):
        yield f"{getattr(value, '__module__', '')}.{value.__name__}".encode()
    else:
        for part in _contents(value):
            yield from _parts(part, holders)


def _contents(value: Any) -> list[Any]:
    """Give what a value consists of, in an order that every process finds."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, set | frozenset):
        return sorted(map(fingerprint, value))
    if isinstance(value, CodeType):
        return [value.co_code, value.co_names, value.co_consts]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, cells]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if hasattr(value, "py_func"):  # what numba compiles
        return [value.py_func]
    if isinstance(value, np.ufunc | BuiltinFunctionType):
        return [value.__name__, getattr(value, "__self__", None)]
    if hasattr(value, "__dict__"):
        methods = [method for method in vars(type(value)).values() if isinstance(method, FunctionType)]
        return [vars(value), methods]
    raise TypeError(f"a {type(value).__name__} cannot be known again by another run, found {value!r}")
