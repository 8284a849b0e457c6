"""How kernels are compiled, where the machine code is kept, and the word that it takes a while."""

import glob
import hashlib
import inspect
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numba
from filelock import FileLock
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

logger = logging.getLogger(__name__)

# Products of matrices in plain loops, instead of the code that product.py writes for the processor: to find
# out whether that is at fault where a new processor, or a new version of LLVM, gives wrong numbers.
IS_PLAIN = bool(os.environ.get("VARFLOW_PLAIN_PRODUCTS"))

PATIENCE = 120.0  # seconds that a process waits for another one to compile a kernel, which takes a few

# Numbers are computed in the order in which they are written, each operation rounded by itself (no
# "fastmath"): exported flows can then do the same, and steep flows amplify a last bit a thousandfold. It
# takes no more time, as product.py writes what takes most of it.
#
# Without numba's runtime ("nrt") a function can not allocate, and counts no references to each view that it
# makes of an array, which took a sixth of the time of a tile.
_jit = partial(numba.njit, nogil=True, error_model="numpy", _nrt=False, no_cfunc_wrapper=True)


class _LinkedLibrary(JITCodeLibrary):
    """Code that is linked into kernels, and never loaded by itself.

    Loading would translate it into machine code once more, for nothing. And a kernel would call what was
    loaded, which is optimised apart from it, where a process that finds the kernel in the cache calls the
    kernel's own copy: results would differ in their last bits.
    """

    def _optimize_final_module(self) -> None:
        """Leave that to the kernel: each function would be optimised anew in each that it is linked to."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Give the null pointer, as for any function that Python cannot call."""
        return 0

    @property
    def codegen(self) -> "_LinkedLibrary":
        """What is told the environment of a function that was loaded: nobody needs it here."""
        return self

    def set_env(self, name: str, environment: object) -> None:
        """Do nothing."""


class _LinkedCompiler(Compiler):
    """Compiler of functions that are linked into kernels alone."""

    def __init__(self, typing_context: Any, context: Any, library: None, *others: Any) -> None:
        super().__init__(typing_context, context, _LinkedLibrary(context.codegen(), "linked"), *others)


# Compiled into its callers, and for them alone: what calling it from Python needs takes long to compile.
device_function: Any = _jit(no_cpython_wrapper=True, pipeline_class=_LinkedCompiler)
inlined: Any = numba.njit(inline="always")  # for what returns a view, which it can not without the runtime


# Of all kernels: what an entry of the cache is good for.
SOURCES = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))) + bytes([IS_PLAIN])
).hexdigest()


KERNELS: list[Callable[..., Any]] = []  # what Python calls, of the modules that are imported


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, at its first call for each set of types, and keep it on disk.

    Where numba finds no folder to keep it in, it is compiled in each process.
    """
    compiled: Any = _jit()(function)
    KERNELS.append(function)
    with suppress(RuntimeError):  # "cannot cache function: no locator available"
        compiled._cache = _KernelCache(function)
    return compiled


def is_kept(compiled: Any) -> bool:
    """Tell whether the cache has a kernel, be it for other types or of other sources."""
    cache_file = getattr(compiled._cache, "_cache_file", None)
    return isinstance(cache_file, _Entries) and cache_file.has_any


class _KernelCache(FunctionCache):
    """Cache whose entries are good for exactly these sources, and each in files of its own.

    By itself, numba looks at the file of the function alone. A change in a file of what it calls, which is
    compiled into it, would go unnoticed, and the old mathematics be used. And it keeps an index of a
    function's entries in one file, where of two processes that compile at once the later loses what the
    earlier wrote, or finds the earlier's machine code under its own types.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        locator = self._impl.locator
        folders = [locator.get_cache_path(), *_filled_before(Path(inspect.getfile(function)), locator)]
        self._cache_file = _Entries(folders, self._impl.filename_base, locator.get_source_stamp())

    def load_overload(self, *arguments: Any) -> Any:
        """Read an entry, and tell that the kernel is there."""
        found = super().load_overload(*arguments)
        if found is not None:
            announcement.watch(self._py_func.__name__, True)
        return found

    def _index_key(self, *arguments: Any) -> tuple[Any, ...]:
        return (*super()._index_key(*arguments), SOURCES)


_DAMAGES = OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, UnpicklingError


def _filled_before(source: Path, locator: Any) -> list[str]:
    """Give the folder that may hold entries but takes no new ones, as in the image of a container, if any.

    numba itself passes over a folder that it cannot write to.
    """
    wanted = source.parent / "__pycache__"
    if numba.config.CACHE_DIR:
        wanted = Path(numba.config.CACHE_DIR, locator.get_suitable_cache_subpath(str(source)))
    return [str(wanted)] if wanted.is_dir() and str(wanted) != locator.get_cache_path() else []


class _Entries:
    """A function's cache entries, each two of numba's files: an index of one entry, and the machine code.

    Of processes that need an entry at once, one compiles it, and the others wait for that: from where `load`
    has found none until `save`, it has a lock, which ends with the process. Where files cannot be locked, and
    after `PATIENCE`, each compiles by itself.

    Parameters
    ----------
    folders : list of str
        Where entries may be; new ones go to the first.
    name : str
        What their names begin with.
    source_stamp : object
        Size and time of the source file.
    """

    def __init__(self, folders: list[str], name: str, source_stamp: object) -> None:
        self.folders, self.name, self.source_stamp = folders, name, source_stamp
        self._locks: dict[str, FileLock] = {}

    def load(self, key: tuple[Any, ...]) -> Any:
        """Read an entry. One that is damaged is none: then it is compiled again."""
        found = self._load(key)
        if found is None and self._lock(key):
            found = self._load(key)  # another process may have compiled it meanwhile
            if found is not None:
                self._unlock(key)
        return found

    def _load(self, key: tuple[Any, ...]) -> Any:
        for folder in self.folders:
            with suppress(*_DAMAGES):
                found = self._files(folder, key).load(key)
                if found is not None:
                    return found
        return None

    def save(self, key: tuple[Any, ...], data: Any) -> None:
        """Write an entry, where it can be written: no program is to fail for a cache."""
        with suppress(OSError):
            files = self._files(self.folders[0], key)
            files.flush()  # saving reads the index, which may be a damaged one
            files.save(key, data)
        self._unlock(key)

    @property
    def has_any(self) -> bool:
        """Whether there is any entry."""
        return any(next(Path(one).glob(f"{glob.escape(self.name)}.*.nbi"), None) for one in self.folders)

    def _lock(self, key: tuple[Any, ...]) -> bool:
        """Wait for the lock of an entry; tell whether that was any use."""
        name = self._entry(key)
        if name in self._locks:  # compiling it has failed before
            return False
        lock = FileLock(os.path.join(self.folders[0], f"{name}.lock"), thread_local=False)
        with suppress(OSError, NotImplementedError):  # a timeout is an OSError
            lock.acquire(timeout=PATIENCE)
            self._locks[name] = lock
            return True
        return False

    def _unlock(self, key: tuple[Any, ...]) -> None:
        lock = self._locks.pop(self._entry(key), None)
        if lock is not None:
            lock.release()

    def _files(self, folder: str, key: tuple[Any, ...]) -> IndexDataCacheFile:
        return IndexDataCacheFile(folder, self._entry(key), self.source_stamp)

    def _entry(self, key: tuple[Any, ...]) -> str:
        return f"{self.name}.{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"


class _Announcement(event.Listener):
    """Says once a process, in the log, that kernels are being compiled: it takes half a minute.

    Attributes
    ----------
    is_due : bool
        Whether it is still to be said.
    seconds : float
        How long this process has compiled kernels so far.
    watch : callable
        Called with the name of each kernel and whether it is there by then: False where its compilation
        begins, True where it ends, or where the kernel was found in the cache.
    """

    is_due = True
    seconds = 0.0
    watch: Callable[[str, bool], object] = staticmethod(lambda name, is_there: None)

    def on_start(self, event: event.Event) -> None:
        function = event.data["dispatcher"].py_func
        if self.is_due and (function.__module__ or "").startswith("varflow.kernels."):  # exec's has None
            self.announce()
        self._tell(function, False)
        self.seconds -= time.perf_counter() if function in KERNELS else 0.0

    def on_end(self, event: event.Event) -> None:
        """Tell that a kernel is compiled."""
        function = event.data["dispatcher"].py_func
        self.seconds += time.perf_counter() if function in KERNELS else 0.0
        self._tell(function, True)

    def announce(self) -> None:
        """Say it."""
        self.is_due = False
        logger.warning("compiling kernels; later starts find them in the cache")

    def _tell(self, function: Callable[..., Any], is_there: bool) -> None:
        if function in KERNELS:
            self.watch(function.__name__, is_there)


announcement = _Announcement()
event.register("numba:compile", announcement)
