"""The shared library in tests: built, linked with programs, and called by ctypes."""

import ctypes
import os
import subprocess

import numpy as np
import pytest

from varflow.libvarflow import build as building
from varflow.libvarflow import entry

WARNINGS = ["-O1", "-Wall", "-Wextra", "-Werror"]
OK, END, REFUSED, BAD_HANDLE, CALLBACK_FAILED, NOT_FINITE, FILE_FAILED = range(7)
NOT_STARTED, NO_PYTHON = 8, 9
PAIRS_OF_CALLS = "n_calls=100 seed=1"


def built(folder):
    """A folder with the library, whose sources compile without a warning."""
    lack = building.missing()
    if lack:
        pytest.skip(lack)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFLAGS", " ".join(WARNINGS))
        building.build(folder)
    return folder


def compiled(source, folder, to, *options):
    """A program of a host, linked with the library."""
    program = to / source.stem
    own, compiler = [], ["cc", "-std=gnu99", "-pedantic", f"-I{folder}"]
    if source.suffix == ".f90":
        own, compiler = [folder / "varflow.f90"], ["gfortran", "-std=f2008", f"-J{to}"]
    link = [f"-L{folder}", "-lvarflow", f"-Wl,-rpath,{folder}", "-lm", "-lpthread"]
    subprocess.run([*compiler, *WARNINGS, *options, "-o", program, *own, source, *link], check=True)
    return program


def run(program, *arguments, status=0, **environment):
    """What a program prints on stdout; nothing may stand on stderr."""
    process = subprocess.run(
        [program, *arguments], cwd=program.parent, capture_output=True, text=True, timeout=120,
        env=os.environ | {name: str(value) for name, value in environment.items()}, check=False,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (status, "")
    return process.stdout


class Library:
    """The library's functions without `vf_`, which take arrays where C takes addresses, and give statuses."""

    def __init__(self, folder):
        self.c = ctypes.CDLL(str(folder / "libvarflow.so"))
        self.c.vf_last_error.restype = ctypes.c_char_p
        for name, (_, arguments) in entry.FUNCTIONS.items():
            getattr(self.c, f"vf_{name}").argtypes = arguments
        assert self.c.vf_start_abi(entry.ABI_VERSION) == OK, self.words()

    def words(self):
        return self.c.vf_last_error().decode()

    def status(self, name, *arguments):
        given = [one.ctypes.data if isinstance(one, np.ndarray) else one for one in arguments]
        given = [ctypes.addressof(one) if isinstance(one, ctypes.Structure) else one for one in given]
        return getattr(self.c, f"vf_{name}")(*given)

    def __getattr__(self, name):
        def call(*arguments):
            assert self.status(name, *arguments) == OK, self.words()

        return call

    def handle(self, name, *arguments):
        """The handle that a function gives."""
        found = np.zeros(1, np.int64)
        getattr(self, name)(*arguments, found)
        return int(found[0])


def peak(x):
    return np.exp(-0.5 * ((x - 0.4) ** 2).sum(axis=1) / 0.01)


def host_function(f, m=1):
    """An integrand as C has it, from one of arrays that returns values (n, m) or a status."""

    @ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32,
        ctypes.c_void_p,
    )  # fmt: skip
    def integrand(x, n, d, values, m, user):
        found = f(np.ctypeslib.as_array((ctypes.c_double * (n * d)).from_address(x)).reshape(n, d))
        if isinstance(found, int):
            return found
        np.ctypeslib.as_array((ctypes.c_double * (n * m)).from_address(values))[:] = np.ravel(found)
        return 0

    return integrand


def integrated(library, f, d, options=PAIRS_OF_CALLS, bounds=None):
    result = entry.integrals.Figures()
    function = host_function(f)
    address = ctypes.cast(function, ctypes.c_void_p).value
    return library.status("integrate", address, None, d, bounds, options.encode(), result), result


def points(n=300, d=2):
    x = np.random.default_rng(1).random((n, d))
    return x, np.ones(n), peak(x)


def parameters(library, flow):
    n = np.zeros(1, np.int64)
    library.n_parameters(flow, n)
    values = np.empty(n[0])
    library.get_parameters(flow, n[0], values)
    return values


def in_python(library, flow):
    """The same flow in Python, by way of a file."""
    return entry.handles.look_up(flow)
