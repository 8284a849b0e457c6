"""How kernels are compiled, where the machine code is kept, and the word that it takes a while."""

import sys
from collections.abc import Callable
from typing import Any

import numba
from numba.core import event

# Sums may be reordered and products contracted, which vectorises them. Not among the liberties: to assume
# that no NaN and no infinity occurs ("nnan", "ninf"), because that deletes every test for them.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}

device_function = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")  # compiled into its callers


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call for each set of types, and keep the machine code on disk.

    Where numba finds no folder to keep it in, it is compiled in each process.
    """
    try:
        return numba.njit(function, nogil=True, fastmath=FASTMATH, error_model="numpy", cache=True)
    except RuntimeError:  # "cannot cache function: no locator available"
        return device_function(function)


class _Announcement(event.Listener):
    """Says once a process, on stderr, that kernels are being compiled."""

    is_due = True

    def on_start(self, event: event.Event) -> None:
        module = getattr(event.data["dispatcher"].py_func, "__module__", "")
        if self.is_due and module.startswith("varflow."):
            self.is_due = False
            print(
                "varflow: compiling kernels; later starts find them in the cache", file=sys.stderr, flush=True
            )

    def on_end(self, event: event.Event) -> None:
        """Nothing: only the start is worth a word."""


event.register("numba:compile", _Announcement())
