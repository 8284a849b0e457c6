"""Files of what the host program has handles for, and the warnings that belong to it."""

import ctypes
from typing import Any, cast

from varflow.integration.result import load_density
from varflow.integration.run import FILE as RUN
from varflow.libvarflow.handles import keep, look_up, warnings_of
from varflow.libvarflow.memory import Address, not_null, path_at, set_at, write_text
from varflow.libvarflow.options import parse
from varflow.libvarflow.run import Run
from varflow.runtime.archive import format_of
from varflow.validation import positive_int

__all__ = ["load", "save", "warnings"]


def save(handle: int, path: bytes | None) -> None:
    """Do what `vf_save` says."""
    look_up(handle).save(path_at(path))


def load(path: bytes | None, options: bytes | None, handle: Address) -> None:
    """Do what `vf_load` says."""
    given, file = parse(options, ("threads", "backend", "m")), path_at(path)
    not_null("handle", handle)
    loaded = _loaded(file, given)
    set_at("handle", handle, ctypes.c_int64, keep(loaded, getattr(loaded, "warnings", ())))


def _loaded(file: str, given: dict[str, Any]) -> Any:
    """Load whatever the file holds; one of another kind is refused as a flow that it is not."""
    m = positive_int("m", given.pop("m", 1))
    if format_of(file) == RUN.name:
        run = cast(Run, Run.load(file, **given))
        run.take_up(m)
        return run
    return load_density(file, **given)


def warnings(handle: int, size: int, text: Address) -> None:
    """Do what `vf_warnings` says."""
    write_text(text, size, "".join(f"{warning}\n" for warning in warnings_of(handle)))
