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
    # LIBDIR may be a builder's.
    folders = [sysconfig.get_config_var("LIBDIR") or "", f"{sys.base_prefix}/lib"]
    names = [sysconfig.get_config_var(name) or "" for name in ("INSTSONAME", "LDLIBRARY")]
    names.append("libpython{}.{}.so.1.0".format(*sys.version_info))  # of builds that do not use it themselves
    paths = [Path(folder, name) for name in names if ".so" in name for folder in folders]
    return next((str(path) for path in paths if path.is_absolute() and path.exists()), "")


if __name__ == "__main__":
    print(place())
