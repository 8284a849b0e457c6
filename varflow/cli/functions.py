"""The user's function, found by its name on the command line, and words for what it raises."""

import argparse
import importlib
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from varflow.cli.options import add_name
from varflow.cli.values import whole
from varflow.cli.workers import add_workers
from varflow.compiled.integrand import CompiledIntegrand
from varflow.compiled.kinds import KINDS
from varflow.compiled.library import is_library
from varflow.compiled.signatures import four_kinds
from varflow.errors import (
    CompiledIntegrandError,
    FunctionError,
    InvalidIntegrandError,
    WorkerDiedError,
    WorkerError,
)

__all__ = ["FUNCTION", "add_calls", "add_values", "function_error", "load_function", "load_integrand"]

FUNCTION = (
    "module:function or path/to/file.py:function, which takes points (n, d); or path/to/libme.so:function, "
    "with --kind"
)

_LONGEST = 600  # characters of a message: compilers write pages
_FRAME = re.compile(r'File "(.+?)", line (\d+)')
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(  .*\n)*")


def add_values(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what the values of a function are."""
    parser.add_argument(
        "--log", action="store_true", help="values of the function are logarithms of those of the integrand"
    )
    add_name(parser, "--on-invalid", ("raise", "zero"), "raise", "what becomes of values that are not finite")


def add_calls(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a function is called."""
    add_workers(parser)
    parser.add_argument(
        "--scalar", action="store_true", help="the function takes one point, (d,): vectorized=False"
    )
    add_name(
        parser, "--kind", KINDS, None, "how a function in a library is declared; see vf.CompiledIntegrand"
    )
    parser.add_argument(
        "--components",
        type=whole,
        metavar="M",
        help="how many numbers a function in a library gives (default: 1)",
    )
    parser.add_argument(
        "--threadsafe",
        action="store_true",
        help="a function in a library may be called by several threads at once",
    )


def load_function(text: str) -> Callable[..., Any]:
    """Import a function.

    Parameters
    ----------
    text : str
        ``module:function`` or ``path/to/file.py:function``; the function may be an attribute of an attribute,
        ``object.method``. Modules are looked for in the current directory first. The directory of a file
        becomes one that modules are looked for in, as if Python ran that file.

    Returns
    -------
    callable
        The function. That of a file can be pickled: its module is registered under the stem of the file,
        with underscores appended where there is a module of that name already.

    Raises
    ------
    ValueError, TypeError
        If `text` has another form, there is no function of that name, or it is not callable.
    OSError
        If the file cannot be read.
    ModuleNotFoundError
        If there is no such module.
    FunctionError
        If the module itself raises an exception.
    """
    source, _, name = text.rpartition(":")
    if not (source and name):
        raise ValueError(f"FUNCTION must be module:function or path/to/file.py:function, got {text!r}")
    is_file = source.endswith(".py") or "/" in source or os.sep in source
    module = _from_file(source) if is_file else _from_path(source)
    f = reduce(lambda owner, part: _attribute(owner, part, source), name.split("."), module)
    if not callable(f):
        raise TypeError(f"{text} is not callable, it is of type {type(f).__name__}")
    return f


def function_error(error: Exception) -> FunctionError | None:
    """Describe in one line what f raised, and where.

    Parameters
    ----------
    error : Exception
        What an integration raised.

    Returns
    -------
    FunctionError or None
        None where it was not f that raised it.
    """
    if isinstance(error, CompiledIntegrandError | WorkerDiedError):  # they speak for themselves
        return _partial(str(error), error)
    if hasattr(error, "x") and not isinstance(error, InvalidIntegrandError):
        return _told("f", error)
    if isinstance(error, WorkerError):
        return _told("a worker of f", error)
    return None


def load_integrand(text: str, options: argparse.Namespace) -> Callable[..., Any]:
    """Import a function, or find a compiled one in a shared library, ``libme.so:function``.

    text: as for `load_function`.
    options: those of `add_calls`, of which --kind, --components and --threadsafe are for a library alone.
    """
    source, _, symbol = text.rpartition(":")
    kind, n_components, is_threadsafe = options.kind, options.components, options.threadsafe
    if source and symbol and is_library(source):
        if kind is None:
            raise ValueError(f"--kind must be given for a function in a library. Kinds are {four_kinds()}")
        m = 1 if n_components is None else n_components
        return CompiledIntegrand(source, symbol, kind=kind, n_components=m, threadsafe=is_threadsafe)
    if kind is not None or n_components is not None or is_threadsafe:
        raise ValueError(
            "--kind, --components and --threadsafe are for a function in a shared library, as in "
            f"libme.so:function, got {text!r}"
        )
    return load_function(text)


def _from_path(name: str) -> ModuleType:
    _look_in(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise  # it is not there; else it is, and imports one that is not
        raise _told(f"importing {name}", error) from error
    except (Exception, SystemExit) as error:
        raise _told(f"importing {name}", error) from error


def _from_file(given: str) -> ModuleType:
    """Run a file as a module. No bytecode is kept, as Python does with a script."""
    path = Path(given).absolute()
    source = path.read_bytes()
    name = path.stem.replace(".", "_")
    while name in sys.modules:
        name += "_"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    _look_in(str(path.parent))
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception | SystemExit):
            raise _told(f"importing {given}", error) from error
        raise
    return module


def _look_in(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _attribute(owner: object, name: str, source: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        near = get_close_matches(name, dir(owner), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        where = source if isinstance(owner, ModuleType) else f"a {type(owner).__name__} of {source}"
        raise ValueError(f"there is no {name!r} in {where}{hint}") from None


def _told(what: str, error: BaseException) -> FunctionError:
    message = " ".join(_TRACEBACK.sub("", str(error)).split())
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    text = f"{what} raised {type(error).__name__}{': ' if message else ''}{message}{_place(error)}"
    return _partial(text, error)


def _partial(text: str, error: BaseException) -> FunctionError:
    """Make an error that has the estimate so far, where another has one."""
    told = FunctionError(text)
    told.partial = getattr(error, "partial", None)
    return told


def _place(error: BaseException) -> str:
    """Find the last line of the user's own that an exception passed; else that of an installed package.

    It is looked for in the text of the traceback: from worker processes, this text alone comes back.
    """
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    folders = sysconfig.get_paths()
    packages = [folders["purelib"], folders["platlib"]]
    library = [folders["stdlib"], folders["platstdlib"]]
    here = str(Path(__file__).absolute().parents[1])
    frames = [
        (file, line)
        for file, line in _FRAME.findall(text)
        if os.path.isfile(file) and not _is_within(file, [here])
    ]
    own = [frame for frame in frames if not _is_within(frame[0], [*packages, *library])]
    installed = [frame for frame in frames if _is_within(frame[0], packages)]
    return " at {}:{}".format(*(own or installed)[-1]) if own or installed else ""


def _is_within(file: str, folders: list[str]) -> bool:
    return os.path.abspath(file).startswith(tuple(folder + os.sep for folder in folders))
