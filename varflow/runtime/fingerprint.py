"""Fingerprints of what a user gives, by which a run that is started again is known to be the same."""

import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

__all__ = ["digest", "digest_of", "fingerprint"]

SIMPLE = (type(None), bool, int, float, complex, str, bytes)


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 sum of numbers, by which data are known again."""
    return digest_of(arrays)


def digest_of(arrays: Iterable[np.ndarray]) -> str:
    """Compute `digest` of arrays that come one after the other, and need not be in memory together."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def fingerprint(value: object) -> str:
    """Compute a sum that two processes find alike where a value means the same to both.

    Parameters
    ----------
    value : object
        Numbers, text, arrays, functions, containers of these, and objects that can be pickled. A function
        stands for its code, its defaults, and the variables of its module and of enclosing functions that it
        reads; an object for its state and what its class defines.

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
        return [value.__code__, value.__defaults__, value.__kwdefaults__, cells, _globals_read(value)]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if hasattr(value, "py_func"):  # what numba compiles
        return [value.py_func]
    if isinstance(value, np.ufunc | BuiltinFunctionType):
        return [value.__name__, getattr(value, "__self__", None)]
    try:
        _, arguments, *state = value.__reduce_ex__(4)
    except (TypeError, ValueError):
        raise TypeError(
            f"a {type(value).__name__} cannot be known again by another run, found {value!r}"
        ) from None
    parts = [list(part) if hasattr(part, "__next__") else part for part in state]
    return [_definition(type(value)), arguments, *parts]


def _globals_read(function: FunctionType) -> dict[str, Any]:
    """Collect the global variables that a function reads; what other modules define is known by its name."""
    names = [name for name in function.__code__.co_names if name in function.__globals__]
    found = {name: function.__globals__[name] for name in names}
    return {name: value if _is_own(value, function) else _name_of(value) for name, value in found.items()}


def _is_own(value: Any, function: FunctionType) -> bool:
    if isinstance(value, ModuleType):
        return False
    return getattr(value, "__module__", function.__module__) == function.__module__


def _name_of(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", type(value).__name__)
    return f"{getattr(value, '__module__', '')}.{name}"


def _definition(kind: type) -> list[Any]:
    """Collect what a class and its bases define, as far as they are the user's."""
    known = {*sys.stdlib_module_names, "numpy", "scipy", "numba"}
    own = [one for one in kind.__mro__ if one.__module__.partition(".")[0] not in known - {"__main__"}]
    members = [(name, _unwrapped(member)) for one in own for name, member in vars(one).items()]
    return [(name, member) for name, member in members if isinstance(member, (*SIMPLE, FunctionType))]


def _unwrapped(member: Any) -> Any:
    member = getattr(member, "fget", member)  # of a property
    return getattr(member, "__func__", member)  # of a static or class method
