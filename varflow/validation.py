"""Checks of single arguments, and the words in which they are refused."""

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral

__all__ = ["positive_int", "unknown_name"]


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
        To be raised; it names the nearest valid name where one is near.
    """
    names = list(valid)
    near = get_close_matches(str(found), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{argument} must be one of {', '.join(map(repr, names))}, got {found!r}{hint}")


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
