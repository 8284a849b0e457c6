"""Text files as they come: compressed or not, in UTF-8."""

import codecs
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import IO

from varflow.errors import FileFormatError
from varflow.runtime.archive import FilePath, refused_as

__all__ = ["open_text"]

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "lzma"}  # modules by first bytes


@contextmanager
def open_text(path: FilePath) -> Iterator[IO[str]]:
    """Open a text file, decompressed if its first bytes are those of gzip, bz2 or xz.

    Bytes that are not UTF-8 become U+FFFD.

    Raises
    ------
    FileFormatError
        If the file is UTF-16, or, within the context, if its compressed data are damaged.
    """
    with open(path, "rb") as file:
        start = file.peek(6)
        kind = next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), "")
        if not kind:
            with _decoded(path, file) as text:
                yield text
            return
        module = import_module(kind)  # some builds of Python lack one
        errors = (OSError, EOFError, zlib.error, getattr(module, "LZMAError", EOFError))
        with refused_as(path, kind, errors), module.open(file) as inner, _decoded(path, inner) as text:
            yield text


def _decoded(path: FilePath, file: io.BufferedReader) -> IO[str]:
    start = file.peek(4)[:4]
    halves = start[::2], start[1::2]
    is_utf16 = start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if is_utf16 or (b"\0\0" in halves and start.count(0) == 2):  # ASCII in UTF-16 has every other byte zero
        raise FileFormatError(f"{path} is UTF-16 text: save it as UTF-8")
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace")
