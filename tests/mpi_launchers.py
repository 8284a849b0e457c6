"""The MPIs of this machine, and how programs are started with them."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "ranks"
LIMIT = 120  # seconds after which a program is taken to hang


@dataclass(frozen=True)
class Launcher:
    """An mpiexec, and the MPI that mpi4py is to use with it."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict, hash=False)

    def arguments(self, n_ranks: int, *program: object) -> list[str]:
        return [*self.command, "-n", str(n_ranks), *map(str, program)]

    def settings(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name != "MPI4PY_MPIABI"}
        return own | {"OMP_NUM_THREADS": "1"} | self.environment

    def run(self, n_ranks: int, *program: object, **options) -> subprocess.CompletedProcess:
        """Run a program, and fail where it does not come to an end."""
        return subprocess.run(
            self.arguments(n_ranks, *program), env=self.settings(), capture_output=True, text=True,
            timeout=LIMIT, check=False, **options,
        )  # fmt: skip

    def python(self, n_ranks: int, program: str, *arguments: object, **options) -> str:
        """Run a program of the folder `ranks`, which must end well; give what it prints."""
        done = self.run(n_ranks, sys.executable, PROGRAMS / program, *arguments, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def _mpich() -> Launcher | None:
    """MPICH from PyPI, beside the interpreter."""
    mpiexec = Path(sys.executable).with_name("mpiexec.hydra")
    return (
        Launcher("mpich", (str(mpiexec),)) if mpiexec.exists() else None
    )  # mpi4py's wheels find it by themselves


def _openmpi() -> Launcher | None:
    """Open MPI of the system."""
    mpiexec = shutil.which("mpiexec.openmpi")
    settings = {
        "MPI4PY_MPIABI": "openmpi",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    return Launcher("openmpi", (mpiexec, "--oversubscribe"), settings) if mpiexec else None


@cache
def launchers() -> list[Launcher]:
    """All MPIs that start a program here."""
    found = [one for one in (_mpich(), _openmpi()) if one is not None]
    probe = "from mpi4py import MPI; assert MPI.COMM_WORLD.size == 2"
    return [one for one in found if one.run(2, sys.executable, "-c", probe).returncode == 0]


def needed() -> Launcher:
    """The first MPI; the test is skipped where there is none."""
    if not launchers():
        pytest.skip("no MPI: needs mpi4py, and mpich from PyPI or Open MPI (mpiexec.openmpi)")
    return launchers()[0]
