"""Checks of single arguments, and the words in which they are refused."""

import math
import os
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from numbers import Integral, Real

__all__ = [
    "check_finite_from_0",
    "check_flag",
    "check_name",
    "check_number",
    "check_path",
    "checked_int",
    "positive_int",
    "unknown_name",
]


def unknown_name(argument: str, found: object, valid: Iterable[str]) -> ValueError:
    """Build the error for a name that is not among the valid ones.

    Parameters
    ----------
    argument : str
        The argument's name.
    found : object
        What was given for it.
    valid : iterable of str
        The names it may have.

    Returns
    -------
    ValueError
        To be raised; it suggests the nearest valid name where one is near.
    """
    names = list(valid)
    near = get_close_matches(str(found), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{argument} must be one of {', '.join(map(repr, names))}, got {found!r}{hint}")


def check_name(argument: str, found: object, valid: Iterable[str]) -> None:
    """Raise ValueError unless a name is among the valid ones; see `unknown_name`."""
    if not isinstance(found, str) or found not in valid:
        raise unknown_name(argument, found, valid)


def positive_int(name: str, value: object) -> int:
    """Check that an argument is an integer above zero.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        What was given for it.

    Returns
    -------
    int
        The value.

    Raises
    ------
    TypeError
        If it is not an integer; True and False are not.
    ValueError
        If it is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return int(value)


def checked_int(name: str, value: object) -> int:
    """Check that an argument is an integer from 0 that 64 bits hold; otherwise as `positive_int`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not 0 <= int(value) < 2**64:
        raise ValueError(f"{name} must be at least 0 and below 2^64, got {value!r}")
    return int(value)


def check_number(name: str, value: object, is_valid: Callable[[float], bool], rule: str) -> None:
    """Raise TypeError or ValueError unless an argument is a real number for which a rule holds.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        What was given for it.
    is_valid : callable
        float -> bool, whether the rule holds.
    rule : str
        The rule in words that follow "must be".
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not is_valid(float(value)):
        raise ValueError(f"{name} must be {rule}, got {value!r}")


def check_finite_from_0(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless an argument is a finite number of at least 0."""
    check_number(name, value, lambda number: 0 <= number < math.inf, "at least 0 and finite")


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless an argument is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_path(name: str, value: object) -> None:
    """Raise TypeError unless an argument is a path or None."""
    if not isinstance(value, str | os.PathLike | None):
        raise TypeError(f"{name} must be a path or None, got {value!r}")
