"""How kernels are compiled, where the machine code is kept, and the word that it takes a while."""

import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
from numba.core import event
from numba.core.caching import FunctionCache

# Sums may be reordered and products contracted, which vectorises them. Not among the liberties: to assume
# that no NaN and no infinity occurs ("nnan", "ninf"), because that deletes every test for them.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}

# Compiled into its callers. Without numba's runtime ("nrt") it cannot allocate, and counts no references to
# each view that it makes of an array, which took a sixth of the time of a tile.
device_function: Any = numba.njit(  # type: ignore[call-overload]
    nogil=True, fastmath=FASTMATH, error_model="numpy", _nrt=False
)
inlined: Any = numba.njit(inline="always")  # for what returns a view, which it can not without the runtime


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call for each set of types, and keep the machine code on disk.

    Where numba finds no folder to keep it in, it is compiled in each process.
    """
    compiled = device_function(function)
    with suppress(RuntimeError):  # "cannot cache function: no locator available"
        compiled._cache = _KernelCache(function)
    return compiled


class _KernelCache(FunctionCache):
    """Cache whose entries are good for exactly these sources.

    By itself, numba looks at the file of the function alone. A change in a file of what it calls, which is
    compiled into it, would go unnoticed, and the old mathematics be used.
    """

    sources = hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    )

    def _index_key(self, *arguments: Any) -> tuple[Any, ...]:
        return (*super()._index_key(*arguments), self.sources.hexdigest())


class _Announcement(event.Listener):
    """Says once a process, on stderr, that kernels are being compiled."""

    is_due = True

    def on_start(self, event: event.Event) -> None:
        module = event.data["dispatcher"].py_func.__module__ or ""  # what exec made has None
        if self.is_due and module.startswith("varflow."):
            self.is_due = False
            print(
                "varflow: compiling kernels; later starts find them in the cache", file=sys.stderr, flush=True
            )

    def on_end(self, event: event.Event) -> None:
        """Nothing: only the start is worth a word."""


event.register("numba:compile", _Announcement())
