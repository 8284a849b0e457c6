"""Where a Python is, in lines: the shared library compiles this in, and asks another interpreter for it."""

import sys
import sysconfig
from importlib.util import find_spec
from os import environ, pathsep
from pathlib import Path


def place() -> str:
    """Describe this interpreter.

    Returns
    -------
    str
        Lines: version, executable, shared library of Python, folder of its standard library, and folders to
        search for modules before those that the executable knows by itself, as in PYTHONPATH.
    """
    found = find_spec("varflow")
    folders = [
        folder for folder in environ.get("PYTHONPATH", "").split(pathsep) if Path(folder).is_absolute()
    ]
    known = [*folders, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    own = [] if found is None or found.origin is None else [str(Path(found.origin).parent.parent)]
    return "\n".join(
        [
            "{}.{}".format(*sys.version_info),
            sys.executable,
            shared_library(),
            sysconfig.get_path("stdlib"),
            pathsep.join(folders + [folder for folder in own if folder not in known]),
        ]
    )


def shared_library() -> str:
    """Give the path of Python's shared library, or "" where there is none."""
    folder, names = sysconfig.get_config_var("LIBDIR"), ("INSTSONAME", "LDLIBRARY")
    version = "{}.{}".format(*sys.version_info)
    files = [sysconfig.get_config_var(name) for name in names] + [f"libpython{version}.so.1.0"]
    shared = [Path(folder or "", file) for file in files if file and ".so" in file]
    return next((str(path) for path in shared if path.exists()), "")


if __name__ == "__main__":
    print(place())
