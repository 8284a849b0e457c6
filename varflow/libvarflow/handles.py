"""Handles: numbers that the host program holds for what lives in Python."""

import threading
from collections.abc import Iterable
from typing import Any

__all__ = ["HandleError", "free", "keep", "look_up", "set_warnings", "warnings_of"]


class HandleError(ValueError):
    """A handle that was freed, never was, or is of another kind."""


_kept: dict[int, Any] = {}
_warnings: dict[int, tuple[str, ...]] = {}
_last = 0  # no handle is given twice, so that the use of one that was freed is seen
_lock = threading.Lock()


def keep(value: Any, warnings: Iterable[str] = ()) -> int:
    """Keep something for the host program, with what is to be said of it, and return its handle."""
    global _last
    with _lock:
        _last += 1
        _kept[_last], _warnings[_last] = value, tuple(warnings)
        return _last


def look_up(handle: int, *kinds: type) -> Any:
    """Return what a handle stands for.

    Parameters
    ----------
    handle : int
        The handle.
    *kinds : type
        Kinds of which it must be one; any if none is given.

    Raises
    ------
    HandleError
        If there is nothing of such a kind.
    """
    with _lock:
        value, was_given = _kept.get(handle), 0 < handle <= _last
    if value is None:
        raise HandleError(f"handle {handle} was freed" if was_given else f"{handle} is no handle of varflow")
    if kinds and not isinstance(value, kinds):
        wanted = " or ".join(f"a {kind.__name__.lower()}" for kind in kinds)
        raise HandleError(f"handle {handle} must be that of {wanted}, found a {type(value).__name__.lower()}")
    return value


def warnings_of(handle: int) -> tuple[str, ...]:
    """Return the warnings that belong to a handle."""
    look_up(handle)
    return _warnings.get(handle, ())


def set_warnings(handle: int, warnings: Iterable[str]) -> None:
    """Replace the warnings that belong to a handle."""
    look_up(handle)
    _warnings[handle] = tuple(warnings)


def free(handle: int) -> None:
    """Let go of what a handle stands for."""
    look_up(handle)
    with _lock:
        _kept.pop(handle, None)
        _warnings.pop(handle, None)
