"""What the declaration of a function, where it is known, says of its kind."""

import ctypes
import re

from varflow.compiled.kinds import KINDS, Kind
from varflow.validation import check_name

__all__ = ["check_kind", "four_kinds"]

_BYTES = {  # of integers, whose signs do not matter here
    "int": 4,
    "int32_t": 4,
    "int64_t": 8,
    "long long": 8,
    "longlong": 8,
    "long": ctypes.sizeof(ctypes.c_long),
    "size_t": ctypes.sizeof(ctypes.c_size_t),
    "ssize_t": ctypes.sizeof(ctypes.c_size_t),
}
_OTHERS = {"double": "double", "float64": "double", "float": "float", "void": "void"}

Types = tuple[str | None, ...]  # of the result and of the arguments; None for one that is not known here


def four_kinds() -> str:
    """Name the kinds with their declarations."""
    return "; ".join(f"{name!r}: {kind.prototype}" for name, kind in KINDS.items())


def check_kind(kind: object, signature: str | None, what: str) -> str:
    """Check that a kind was given that fits the declaration, or find it from there.

    Parameters
    ----------
    kind : str or None
        What was given.
    signature : str or None
        The declaration as SciPy writes it: "double (int, double *, void *)"; None where it is not known.
    what : str
        What the function is called in messages.

    Returns
    -------
    str
        The kind.

    Raises
    ------
    TypeError
        If no kind is given and the declaration is that of none, or of several, or it is that of another kind.
    ValueError
        If there is no kind of that name.
    """
    types = _types(signature)
    if kind is not None:
        check_name("kind", kind, KINDS)
        assert isinstance(kind, str)
        if types and not _may_be(KINDS[kind], types):
            raise TypeError(
                f"{what} is no function of kind {kind!r}, {KINDS[kind].prototype}: it is {signature}"
            )
        return kind
    known = [name for name, one in KINDS.items() if types and _is(one, types)]
    if len(known) == 1:
        return known[0]
    found = "its declaration is not known" if signature is None else f"it is {signature}"
    raise TypeError(
        f"the kind of {what} must be given as in vf.CompiledIntegrand(f, kind='scipy'), {found}. Kinds are "
        f"{four_kinds()}"
    )


def _types(signature: str | None) -> Types:
    """Split a declaration into types; empty where it has another form."""
    form = re.fullmatch(r"\s*([^()]+?)\s*\((.*)\)\s*", signature or "")
    return () if form is None else tuple(map(_type, [form[1], *filter(None, form[2].split(","))]))


def _type(text: str) -> str | None:
    words = re.sub(r"\bconst\b|\bunsigned\b", "", text).replace("*", " * ").split()
    stars = words.count("*")
    name = " ".join(word for word in words if word != "*")
    known = f"int{8 * _BYTES[name]}" if name in _BYTES else _OTHERS.get(name)
    return None if known is None else " ".join([known, *"*" * stars])


def _may_be(kind: Kind, types: Types) -> bool:
    """Tell whether nothing known contradicts; void * is any pointer."""
    return _is(kind, types, lambda found, wanted: found is None or ("*" in wanted and found == "void *"))


def _is(kind: Kind, types: Types, or_else: object = None) -> bool:
    """Tell whether all types are those of the kind."""
    result, *arguments = types
    if not kind.n_needed <= len(arguments) <= len(kind.parameters):
        return False
    pairs = [(result, kind.result), *zip(arguments, kind.parameters, strict=False)]
    return all(found == wanted or (callable(or_else) and or_else(found, wanted)) for found, wanted in pairs)
