"""What starts MPI programs, known by the environment variables that it sets."""

import os
import sys
from typing import Any

__all__ = [
    "alone_in_words",
    "is_alone_by_mistake",
    "launched_rank",
    "n_launched",
    "n_tasks_of_slurm",
    "world",
]

# Set by mpiexec of MPICH and its kin, of Open MPI, and of MVAPICH. Not by Slurm's srun, whose tasks may well
# be programs that have nothing to do with each other.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = (*(name.replace("SIZE", "RANK") for name in SIZES), "SLURM_PROCID")


def n_launched() -> int:
    """Count the processes that an mpiexec has started with this one; 1 without one."""
    sizes = [os.environ.get(name, "") for name in SIZES]
    return max([int(size) for size in sizes if size.isdigit()], default=1)


def n_tasks_of_slurm() -> int:
    """Count the tasks that srun has started with this one; 1 without it. They may be strangers."""
    found = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    return int(found) if found.isdigit() and "SLURM_PROCID" in os.environ else 1


def launched_rank() -> int:
    """Give the number that an mpiexec, or srun, has given this process; 0 without one."""
    ranks = [os.environ.get(name, "") for name in RANKS]
    return max([int(rank) for rank in ranks if rank.isdigit()], default=0)


def is_alone_by_mistake() -> bool:
    """Whether a process that finds itself alone was started with others."""
    return n_launched() > 1


def alone_in_words(comm: Any) -> str:
    """Say that a communicator has one process where a launcher has started several, and why."""
    library = sys.modules[type(comm).__module__].Get_library_version().partition("\n")[0].strip("\0 ")
    return (
        f"{n_launched()} processes were started together, but each is alone in MPI.COMM_WORLD: mpi4py uses "
        f"{library}, and the mpiexec is another MPI's. Start with the mpiexec of that MPI, or install mpi4py "
        "for the other one"
    )


def world() -> Any:
    """Give MPI.COMM_WORLD.

    Raises
    ------
    ImportError
        If mpi4py is missing, or finds no MPI.
    """
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(f"MPI needs mpi4py: python -m pip install 'varflow[mpi]' ({error})") from error
    except RuntimeError as error:  # mpi4py's wheels look for an MPI at run time
        raise ImportError(f"mpi4py finds no MPI: {error}") from error
    return MPI.COMM_WORLD
