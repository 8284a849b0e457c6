"""Options as text, "n_calls=50000 seed=1", with the names that they have in Python."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from varflow.validation import unknown_name

__all__ = ["parse", "take", "value_of"]

WORDS = {"true": True, "false": False, ".true.": True, ".false.": False, "none": None}


def parse(
    text: bytes | None, names: Sequence[str], without: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Parse options.

    Parameters
    ----------
    text : bytes or None
        Pairs name=value between blanks; values with blanks in quotes. None for no options.
    names : sequence of str
        Names that are known.
    without : mapping, optional
        Names that Python has and the library has not, and what to do without them.

    Returns
    -------
    dict
        Values by name: int, float, bool or None where they look like one, or else str.

    Raises
    ------
    ValueError
        If it is no list of pairs, or a name is unknown, not for the library, or stands there twice.
    """
    given: dict[str, Any] = {}
    for pair in _pairs((text or b"").decode(errors="replace")):
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise ValueError(f"options must be name=value between blanks, got {pair!r}")
        if without and name in without:
            raise ValueError(f"{name} is an option of Python's alone: {without[name]}")
        if name not in names:
            raise unknown_name("option", name, names)
        if name in given:
            raise ValueError(f"option {name} is given twice")
        given[name] = value_of(value)
    return given


def take(options: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Remove the options of these names, and return them."""
    return {name: options.pop(name) for name in names if name in options}


def _pairs(text: str) -> list[str]:
    try:
        return shlex.split(re.sub(r"\s*=\s*", "=", text))
    except ValueError as error:
        raise ValueError(f"options {text!r} cannot be read: {error}") from None


def value_of(text: str) -> Any:
    """Read a number, a word such as true or none, or text."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
