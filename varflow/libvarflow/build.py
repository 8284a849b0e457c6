"""Building the shared library for programs in C and Fortran."""

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from varflow._version import __version__
from varflow.errors import BuildError
from varflow.libvarflow import place
from varflow.runtime.archive import FilePath, atomic_path

__all__ = ["build", "missing"]

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent


def missing() -> str | None:
    """Say what the machine lacks for building the library; None where it lacks nothing."""
    if sys.platform != "linux":
        return f"the library is for Linux, this is {sys.platform}"
    if shutil.which(_compiler()[0]) is None:
        return f"there is no C compiler {_compiler()[0]}: install gcc, or let CC name one"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return f"there is no Python.h in {sysconfig.get_path('include')}: install python3-dev"
    if not place.shared_library():
        return (
            "this Python has no shared library of its own (libpython3.*.so): install libpython3, or build "
            "Python with --enable-shared (pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared)"
        )
    return None


def build(folder: FilePath) -> list[Path]:
    """Write the shared library, the header for C and the module for Fortran.

    Parameters
    ----------
    folder : str or path
        Folder that they are written to; it is made if there is none. Files of these names are replaced, each
        once the new one is complete. The variables CC and CFLAGS name another compiler, and options of it.

    Returns
    -------
    list of pathlib.Path
        The files.

    Raises
    ------
    BuildError
        If something that it needs is missing, or the compiler fails.
    OSError
        If a file cannot be written.
    """
    lack = missing()
    if lack is not None:
        raise BuildError(lack)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    files = [target / name for name in ("libvarflow.so", "varflow.h", "varflow.f90")]
    with atomic_path(files[0]) as temporary:
        _compile(temporary)
    for file in files[1:]:
        with atomic_path(file) as temporary:
            shutil.copyfile(SOURCES / file.name, temporary)
    return files


def _compile(library: Path) -> None:
    """Compile libvarflow.c, with the place of this Python in it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "place.h").write_text(_place_header(), encoding="utf-8")
        command = [
            *_compiler(),
            *("-std=gnu11", "-O2", "-fPIC", "-shared"),
            *(f"-I{path}" for path in (folder, SOURCES, sysconfig.get_path("include"))),
            *shlex.split(os.environ.get("CFLAGS", "")),
            *(
                "-o",
                str(library),
                str(SOURCES / "libvarflow.c"),
                "-Wl,-soname,libvarflow.so",
                "-ldl",
                "-lpthread",
            ),
        ]
        logger.info("compiling libvarflow.c by %s", command[0])
        run = subprocess.run([*command, "-lm"], capture_output=True, text=True)
    if run.returncode != 0:
        raise BuildError(f"{command[0]} could not compile libvarflow.c: {run.stderr.strip()}")


def _place_header() -> str:
    """Give place.h: strings of JSON are strings of C."""
    texts = {
        "VERSION": __version__,
        "PLACE": place.place(),
        "FIND_PLACE": Path(place.__file__).read_text(encoding="utf-8"),
    }
    return "".join(f"#define {name} {json.dumps(text, ensure_ascii=False)}\n" for name, text in texts.items())


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "")) or ["cc"]
