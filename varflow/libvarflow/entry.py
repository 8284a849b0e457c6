"""Where calls of the host program arrive: C calls these functions by their addresses, and gets a status."""

import ctypes
import logging
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_char_p, c_int, c_int32, c_int64, c_void_p
from functools import partial
from typing import Any

from varflow.errors import FileFormatError, FunctionError, InvalidIntegrandError, InvalidLossError
from varflow.libvarflow import files, flows, handles, integrals, trainings
from varflow.libvarflow.handles import HandleError

__all__ = ["ABI_VERSION", "STATUS_OF", "connect"]

ABI_VERSION = 2  # VF_ABI_VERSION of the header
FAILED = 11
STATUS_OF: tuple[tuple[type[BaseException], int], ...] = (  # the first that fits; numbers are the header's
    (HandleError, 3),
    (FunctionError, 4),
    (InvalidIntegrandError, 5),
    (InvalidLossError, 5),
    (FileFormatError, 6),
    (OSError, 6),
    (MemoryError, 7),
    (TypeError, 2),
    (ValueError, 2),
    (OverflowError, 2),
)

INTEGER, LONG, ADDRESS, TEXT = c_int32, c_int64, c_void_p, c_char_p
HANDLE = LONG
FUNCTIONS: dict[str, tuple[Callable[..., int | None], tuple[type, ...]]] = {  # in the order of `python` in C
    "integrate": (integrals.integrate, (ADDRESS, ADDRESS, INTEGER, ADDRESS, TEXT, ADDRESS)),
    "run_new": (integrals.run_new, (INTEGER, ADDRESS, TEXT, ADDRESS)),
    "ask": (integrals.ask, (HANDLE, ADDRESS, ADDRESS)),
    "tell": (integrals.tell, (HANDLE, LONG, ADDRESS)),
    "run_forget": (integrals.run_forget, (HANDLE, LONG)),
    "run_step": (integrals.run_step, (HANDLE,)),
    "run_extend": (integrals.run_extend, (HANDLE, LONG)),
    "run_result": (integrals.run_result, (HANDLE, ADDRESS)),
    "mean": (integrals.mean, (HANDLE, INTEGER, ADDRESS, ADDRESS)),
    "warnings": (files.warnings, (HANDLE, LONG, ADDRESS)),
    "flow_new": (flows.flow_new, (INTEGER, ADDRESS, TEXT, ADDRESS)),
    "train": (trainings.train, (HANDLE, LONG, ADDRESS, ADDRESS, ADDRESS, TEXT)),
    "train_new": (
        trainings.train_new,
        (INTEGER, ADDRESS, LONG, ADDRESS, ADDRESS, ADDRESS, TEXT, ADDRESS, ADDRESS),
    ),
    "evaluate": (trainings.evaluate, (HANDLE, LONG, ADDRESS, ADDRESS, ADDRESS, TEXT, ADDRESS)),
    "sample": (flows.sample, (HANDLE, LONG, LONG, ADDRESS, ADDRESS)),
    "log_prob": (flows.log_prob, (HANDLE, LONG, ADDRESS, ADDRESS)),
    "n_parameters": (flows.n_parameters, (HANDLE, ADDRESS)),
    "get_parameters": (flows.get_parameters, (HANDLE, LONG, ADDRESS)),
    "set_parameters": (flows.set_parameters, (HANDLE, LONG, ADDRESS)),
    "gradient": (trainings.gradient, (HANDLE, LONG, ADDRESS, ADDRESS, ADDRESS, TEXT, ADDRESS, ADDRESS)),
    "dimension": (flows.dimension, (HANDLE, ADDRESS)),
    "save": (files.save, (HANDLE, TEXT)),
    "load": (files.load, (TEXT, TEXT, ADDRESS)),
    "free": (handles.free, (HANDLE,)),
}
KINDS = {name: CFUNCTYPE(c_int, *arguments) for name, (_, arguments) in FUNCTIONS.items()}
NoteError = CFUNCTYPE(None, c_char_p)
CallHost = CFUNCTYPE(c_int, ADDRESS, ADDRESS, LONG, INTEGER, ADDRESS, INTEGER, ADDRESS)


class Python(ctypes.Structure):
    """`python` of libvarflow.c: what each side calls of the other."""

    _fields_ = (
        ("abi_version", c_int64),
        ("note_error", NoteError),
        ("call_host", CallHost),
        *KINDS.items(),
    )


_connected: list[Any] = []  # callbacks, which C calls as long as the process lives


def connect(address: int, is_host_s: bool) -> None:
    """Exchange the addresses of functions with the C side.

    Parameters
    ----------
    address : int
        Address of its structure `python`.
    is_host_s : bool
        Whether Python was there before, so that what it prints is not for the library to decide.

    Raises
    ------
    RuntimeError
        If it was compiled for another version of varflow.
    """
    table = Python.from_address(address)
    if table.abi_version != ABI_VERSION:
        raise RuntimeError(
            f"the library has ABI {table.abi_version}, the varflow in {__file__} has {ABI_VERSION}: "
            "run varflow build-library again"
        )
    if not is_host_s:
        _print_nothing()
    for name, (function, _) in FUNCTIONS.items():
        bound = partial(function, table.call_host) if name == "integrate" else function
        callback = KINDS[name](partial(_call, table.note_error, bound))
        _connected.append(callback)
        setattr(table, name, callback)


def _print_nothing() -> None:
    """Keep warnings off stderr, those of the log and those of Python."""
    logging.captureWarnings(True)
    for name in ("varflow", "py.warnings"):
        logging.getLogger(name).addHandler(logging.NullHandler())


def _call(note_error: Callable[[bytes], None], function: Callable[..., int | None], *arguments: Any) -> int:
    """Call a function, and turn what it raises into a status and words."""
    try:
        return function(*arguments) or 0
    except BaseException as error:
        status = next((status for kind, status in STATUS_OF if isinstance(error, kind)), FAILED)
        note_error(_words(error, status).encode(errors="replace"))
        return status


def _words(error: BaseException, status: int) -> str:
    """Say what an error is, in a line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    words, kind = " ".join(str(error).split()), type(error).__name__
    return words if words and status != FAILED else f"{kind}: {words}"
