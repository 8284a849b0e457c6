"""Addresses of functions and of data that Python objects stand for."""

import ctypes
import os
import re
import sys
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numba.core.ccallback import CFunc

__all__ = ["Pointer", "is_pointer", "pointer_to", "user_pointer"]

_FUNCTION: Any = ctypes._CFuncPtr  # type: ignore[attr-defined]  # of all functions of ctypes
_CAPSULE = "PyCapsule"  # a type that Python gives no name
_WRAPPED = "f2pywrap"  # how f2py begins the names of subroutines around functions


class Pointer:
    """Address of a function, and what its object says of it.

    Attributes
    ----------
    address : int
        The address.
    signature : str or None
        Its declaration, as "double (int, double *, void *)"; None where it is not known.
    user : int
        Address of the data that the object carries for the function; 0 for none.
    """

    def __init__(self, address: int, signature: str | None = None, user: int = 0) -> None:
        self.address, self.signature, self.user = address, signature, user


def is_pointer(f: object) -> bool:
    """Tell whether an object stands for a compiled function that cannot be called with an array of points."""
    return isinstance(f, _FUNCTION | CFunc) or type(f).__name__ == _CAPSULE or _is_callable_of_scipy(f) or (
        _is_of_cffi(f)
    )  # fmt: skip


def pointer_to(f: Any) -> Pointer:
    """Find the address of a compiled function.

    Parameters
    ----------
    f : object
        An address, a function of ctypes, a pointer of cffi, a function by ``numba.cfunc``, a
        ``scipy.LowLevelCallable``, an object of f2py, or a capsule.

    Returns
    -------
    Pointer
        The address.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If there is no code at the address.
    """
    if isinstance(f, Integral) and not isinstance(f, bool):
        found = Pointer(int(f))
    elif isinstance(f, CFunc):
        found = _by_scipy(f.ctypes)
    elif hasattr(f, "_cpointer"):  # of f2py
        found = Pointer(_behind_wrapper(_of_capsule(f._cpointer)))
    elif type(f).__name__ == _CAPSULE:
        found = Pointer(_of_capsule(f), _name(f))
    elif _is_callable_of_scipy(f) or isinstance(f, _FUNCTION) or _is_of_cffi(f):
        found = _by_scipy(f)
    else:
        raise TypeError(
            "a compiled integrand must be a path and a symbol, an address, a function of ctypes, a pointer "
            "of cffi (ffi.addressof(lib, 'name')), a function by numba.cfunc, a LowLevelCallable or an "
            f"object of f2py, got {f!r}"
        )
    _check_code_at(found.address)
    return found


def user_pointer(user: Any) -> int:
    """Find the address that a function is given as `user`; whoever calls this keeps `user` alive."""
    if user is None:
        return 0
    if isinstance(user, Integral) and not isinstance(user, bool) and int(user) >= 0:
        return int(user)
    if isinstance(user, ctypes.c_void_p | ctypes.c_char_p | ctypes._Pointer):
        return ctypes.cast(user, ctypes.c_void_p).value or 0
    try:
        return int(np.frombuffer(user, np.uint8).ctypes.data)
    except (TypeError, ValueError, BufferError) as error:
        raise TypeError(
            f"user must be an address, a pointer or data of ctypes, bytes or an array, got {user!r} ({error})"
        ) from None


def _is_callable_of_scipy(f: object) -> bool:
    module = sys.modules.get("scipy._lib._ccallback")  # where there is one, it has been imported
    return module is not None and isinstance(f, module.LowLevelCallable)


def _is_of_cffi(f: object) -> bool:
    module: Any = sys.modules.get("_cffi_backend")
    return module is not None and isinstance(f, module._CDataBase)


def _by_scipy(f: Any) -> Pointer:
    """Let SciPy find out about a function."""
    from scipy import LowLevelCallable

    is_declared = not isinstance(f, _FUNCTION) or f.argtypes is not None
    try:
        found = LowLevelCallable(f, signature=None if is_declared else "")
    except (TypeError, AttributeError) as error:
        raise TypeError(f"{f!r} is no pointer to a function: {error}") from None
    capsule = tuple.__getitem__(found, 0)
    return Pointer(_of_capsule(capsule), _name(capsule), _python("PyCapsule_GetContext", capsule) or 0)


def _of_capsule(capsule: object) -> int:
    return _python("PyCapsule_GetPointer", capsule, _python("PyCapsule_GetName", capsule)) or 0


class _Symbol(ctypes.Structure):
    """Dl_info of dladdr: the library and the symbol that an address belongs to."""

    _fields_ = (
        ("library", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _behind_wrapper(address: int) -> int:
    """Find the function that f2py has wrapped: its pointer is to a subroutine that gives back the result."""
    symbol = _Symbol()
    if not hasattr(ctypes.pythonapi, "dladdr"):
        return address
    ctypes.pythonapi.dladdr(ctypes.c_void_p(address), ctypes.byref(symbol))
    name = (symbol.name or b"").decode()
    if not name.startswith(_WRAPPED):
        return address
    library = os.fsdecode(symbol.library)
    try:
        function = ctypes.CDLL(library)[name.removeprefix(_WRAPPED)]
    except AttributeError:
        raise TypeError(
            f"f2py's _cpointer is to {name} in {library}, a subroutine around the function: give the path "
            "of a library and the symbol of the function"
        ) from None
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _name(capsule: object) -> str | None:
    """Name of a capsule, by which SciPy and Cython give the declaration."""
    address = _python("PyCapsule_GetName", capsule)
    name = ctypes.string_at(address).decode() if address else ""
    return name or None


def _python(name: str, capsule: object, *addresses: int | None) -> int | None:
    """Call a function of Python's own interface for C that takes a capsule and returns an address."""
    function = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, *[ctypes.c_void_p] * len(addresses))(
        (name, ctypes.pythonapi)
    )
    found: int | None = function(capsule, *addresses)
    return found


def _check_code_at(address: int) -> None:
    """Raise ValueError where an address is surely none of a function; only Linux tells more than the null."""
    if address == 0:
        raise ValueError("the address of a compiled integrand must not be that of the null pointer, 0")
    if not 0 < address < 2**64:
        raise ValueError(f"the address of a compiled integrand must be one of 64 bits, got {address}")
    maps = Path("/proc/self/maps")
    if not os.access(maps, os.R_OK):
        return
    for begin, end, rights in re.findall(r"^(\w+)-(\w+) (\S+)", maps.read_text(), re.MULTILINE):
        if int(begin, 16) <= address < int(end, 16) and "x" in rights:
            return
    raise ValueError(
        f"there is no code at the address {address:#x} of a compiled integrand; that of a function of ctypes "
        "is ctypes.cast(function, ctypes.c_void_p).value"
    )
