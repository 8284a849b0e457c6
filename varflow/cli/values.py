"""Values of options: numbers as people write them, and bounds."""

import argparse
import math
import re
from collections.abc import Iterable

__all__ = [
    "number",
    "parse_bounds",
    "parse_discrete",
    "parse_fraction",
    "parse_numbers",
    "whole",
    "with_negative_values",
]

_LONG_OPTION = re.compile("--[a-z][a-z-]*")
_NEGATIVE = re.compile(r"-(\d|\.\d|inf)")


def with_negative_values(arguments: Iterable[str]) -> list[str]:
    """Join options and their negative values, --bounds -1,1, which argparse would take for options."""
    joined: list[str] = []
    for argument in arguments:
        if joined and _LONG_OPTION.fullmatch(joined[-1]) and _NEGATIVE.match(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def whole(text: str) -> int:
    """Parse a whole number, which may be written as 1e6."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"needs a whole number, got {text!r}")
    return int(value)


def number(text: str) -> float:
    """Parse a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs a number, got {text!r}") from None


def parse_bounds(text: str) -> list[list[float]] | list[float]:
    """Parse --bounds: LOWER,UPPER or LOWER,UPPER,LOWER,UPPER,..."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs numbers between commas, got {text!r}") from None
    if len(numbers) % 2:
        raise argparse.ArgumentTypeError(f"needs pairs LOWER,UPPER, got {len(numbers)} numbers")
    pairs = [numbers[k : k + 2] for k in range(0, len(numbers), 2)]
    return pairs if len(pairs) > 1 else pairs[0]


def parse_discrete(text: str) -> dict[int, int]:
    """Parse --discrete: COLUMN:STATES,COLUMN:STATES,..."""
    states: dict[int, int] = {}
    for part in text.split(","):
        column, colon, k = part.partition(":")
        if not colon:
            raise argparse.ArgumentTypeError(f"needs COLUMN:STATES, with columns from 0, got {part!r}")
        if whole(column) in states:
            raise argparse.ArgumentTypeError(f"names column {whole(column)} twice")
        states[whole(column)] = whole(k)
    return states


def parse_numbers(text: str) -> list[float]:
    """Parse numbers between commas."""
    return [number(part) for part in text.split(",")]


def parse_fraction(text: str) -> float:
    """Parse --holdout."""
    try:
        fraction = float(text)
    except ValueError:
        fraction = math.nan
    if not 0 < fraction < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text!r}")
    return fraction
