"""Numbers as programs print them into text files, Fortran included."""

import re

__all__ = ["is_number", "why_no_number", "with_e"]


def with_e(text: str) -> str:
    """Write exponents of Fortran, 1.0D+00, as those of Python; no number has another d in it."""
    return text.replace("D", "e").replace("d", "e")


def is_number(field: str) -> bool:
    """Test whether np.loadtxt accepts a field; float() also accepts 1_000 and non-ASCII digits."""
    try:
        float(with_e(field))
    except ValueError:
        return False
    return field.isascii() and "_" not in field


def why_no_number(field: str) -> str:
    """Say that a field is no number, and what a program that prints such a thing should do."""
    shown = field.strip()[:40]
    hint = ""
    if shown and not shown.strip("*"):
        hint = ", but what Fortran prints where the format is too narrow: use ES25.16E3"
    elif re.fullmatch(r"[+-]?[\d.]+[+-]\d{3}", shown):
        hint = ": Fortran leaves out the E of an exponent of three digits; use ES25.16E3"
    return f"{shown!r} is not a number{hint}"
