"""What the file of a shared library says of itself: its machine, and the symbols that it has for others."""

import struct
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Elf", "read_elf"]

MACHINES = {
    3: "32-bit x86", 8: "MIPS", 20: "32-bit PowerPC", 21: "PowerPC", 22: "s390x", 40: "32-bit ARM",
    62: "x86-64", 183: "AArch64", 243: "RISC-V", 258: "LoongArch",
}  # fmt: skip
OBJECT_FILE, DYNAMIC_SYMBOLS, DATA = 1, 11, 1

# By the class of the file, 1: 32 bits, 2: 64 bits. Fields that are not needed are skipped.
_HEADER = {1: "16xHH12xI10xHH", 2: "16xHH20xQ10xHH"}
_SECTION = {1: "4xI8xIII8xI", 2: "4xI16xQQI12xQ"}
_SYMBOL = {1: "I8xBxH", 2: "IBxH16x"}


@dataclass(frozen=True)
class Elf:
    """What a file in the Executable and Linkable Format says of itself.

    Attributes
    ----------
    machine : str
        The processor that it is for.
    is_object_file : bool
        Whether it has not been linked.
    functions, data : list of str
        Names of what it defines for others.
    """

    machine: str
    is_object_file: bool
    functions: list[str]
    data: list[str]


def read_elf(path: str) -> Elf | None:
    """Read such a file; None where it is of another format, or damaged."""
    content = Path(path).read_bytes()
    try:
        return _parsed(content)
    except (struct.error, KeyError, IndexError, ValueError):
        return None


def _parsed(content: bytes) -> Elf | None:
    if content[:4] != b"\x7fELF":
        return None
    size, order = content[4], ">" if content[5] == 2 else "<"
    kind, machine, sections, entry, count = struct.unpack_from(order + _HEADER[size], content)
    found: dict[bool, list[str]] = {True: [], False: []}
    table = [struct.unpack_from(order + _SECTION[size], content, sections + k * entry) for k in range(count)]
    for section, offset, length, link, step in table:
        if section == DYNAMIC_SYMBOLS:
            names = table[link][1]
            for place in range(offset, offset + length, step):
                symbol = struct.unpack_from(order + _SYMBOL[size], content, place)
                name, info, defined_in = symbol
                if defined_in:
                    begin = names + name
                    text = content[begin : content.index(0, begin)].decode(errors="replace")
                    found[info & 15 == DATA].append(text)
    return Elf(MACHINES.get(machine, f"machine {machine}"), kind == OBJECT_FILE, found[False], found[True])
