"""What was run, and all that is needed to run it once more."""

import datetime
import hashlib
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from varflow._version import __version__
from varflow.markup import pairs, paragraph, text
from varflow.reporting.page import Section, scrollable
from varflow.runtime.archive import FilePath
from varflow.runtime.threads import n_cores

__all__ = ["Origin", "origin_sections"]

PACKAGES = "numpy", "numba", "scipy", "matplotlib", "corner"  # on which numbers and pictures depend
BLOCK = 1 << 20  # bytes that are hashed at a time


@dataclass(frozen=True)
class Origin:
    """What led to a report.

    Attributes
    ----------
    command : sequence of str
        Words of the command; none for a call from Python.
    seed : int or None
        Seed of everything random.
    seconds : float or None
        How long it took.
    files : mapping of str to path
        Files that were read or written, by what they are. Those that do not exist are left out.
    details : mapping
        What else is to be told, by name.
    """

    command: Sequence[str] = ()
    seed: int | None = None
    seconds: float | None = None
    files: Mapping[str, FilePath | None] = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)


def origin_sections(origin: Origin, digests: Mapping[str, str]) -> list[Section]:
    """Tell what was run, and how to repeat it.

    Parameters
    ----------
    origin : Origin
        What led to the report.
    digests : mapping
        SHA-256 sums of what is in memory, by name.

    Returns
    -------
    list of Section
        Two sections.
    """
    now = datetime.datetime.now(datetime.timezone.utc)
    told = {
        "command": shlex.join(origin.command) or "a call of varflow.report in Python",
        "seed": origin.seed,
        "seconds": None if origin.seconds is None else f"{origin.seconds:.1f}",
        **origin.details,
        "versions": ", ".join(f"{name} {found}" for name, found in _versions().items()),
        "processor": f"{_processor()}, {n_cores()} cores for this process",
        "system": platform.platform(),
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
    }
    known = {name: value for name, value in told.items() if value is not None}
    return [
        Section("What was run", scrollable("What was run", pairs("The run", known))),
        Section("To repeat it", _to_repeat(origin, digests)),
    ]


def _to_repeat(origin: Origin, digests: Mapping[str, str]) -> str:
    """Give the packages, the command, and sums by which files are known again."""
    install = [f"{name}=={found}" for name, found in _versions().items() if name != "python"]
    lines = [f"# with Python {platform.python_version()}", "python -m pip install " + " ".join(install)]
    if origin.command:
        lines.append(shlex.join(origin.command))
    note = (
        "The same seed, points and versions give the same numbers on any number of threads; another "
        "processor may round differently."
    )
    parts = [f"<pre>{'<br>'.join(map(text, lines))}</pre>", paragraph(note)]
    files = {
        what: f"{os.fspath(path)}, {os.path.getsize(path):,} bytes, SHA-256 {_sha256(path)}"
        for what, path in origin.files.items()
        if path is not None and Path(path).is_file()
    }
    of_memory = {what: f"SHA-256 {digest}" for what, digest in digests.items()}
    for caption, values in (("Files", files), ("In memory", of_memory)):
        if values:
            parts.append(scrollable(caption, pairs(caption, values)))
    return "".join(parts)


def _versions() -> dict[str, str]:
    found = {"varflow": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # it is there, but was not installed as a package
            continue
    return {"python": platform.python_version(), **found}


def _processor() -> str:
    """Name the processor, as Linux does, or else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _sha256(path: FilePath) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
