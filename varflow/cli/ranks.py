"""The ranks of a command that mpiexec has started several times."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO

from varflow.errors import RankError
from varflow.runtime.communicator import ALONE, Communicator
from varflow.runtime.launcher import (
    alone_in_words,
    is_alone_by_mistake,
    launched_rank,
    n_launched,
    n_tasks_of_slurm,
    world,
)
from varflow.runtime.ranks import as_communicator

__all__ = ["add_mpi", "communicator", "is_speaking", "rank_of", "together"]


def add_mpi(parser: argparse.ArgumentParser) -> None:
    """Add the option that says whether processes which were started together work together."""
    parser.add_argument(
        "--mpi",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="share the work with the other processes of an MPI program (default: where mpiexec has started "
        "several; under srun it has to be given)",
    )


def communicator(options: argparse.Namespace) -> Communicator:
    """Find the ranks that a command shares its work with.

    Raises
    ------
    ImportError
        If there are several, and mpi4py is missing.
    ValueError
        If mpi4py finds one process only where mpiexec, or srun with --mpi, has started several.
    """
    if not _is_wanted(options):
        return ALONE
    comm = world()
    if comm.Get_size() == 1 and is_alone_by_mistake():
        raise ValueError(alone_in_words(comm))
    if comm.Get_size() == 1 and n_tasks_of_slurm() > 1:
        raise ValueError(
            f"srun has started {n_tasks_of_slurm()} tasks, but each is alone in MPI.COMM_WORLD: let srun "
            "tell them of each other as mpi4py's MPI wants it, by srun --mpi=pmi2 (MPICH) or --mpi=pmix "
            "(Open MPI); srun --mpi=list shows what there is. Leave --mpi out for tasks that are strangers"
        )
    return as_communicator(comm)


def _is_wanted(options: argparse.Namespace) -> bool:
    if not hasattr(options, "mpi"):  # a command that has nothing to share out
        return False
    return n_launched() > 1 if options.mpi is None else bool(options.mpi)


def is_speaking(options: argparse.Namespace) -> bool:
    """Whether this process prints: the first rank, which is not always known from MPI yet."""
    comm: Communicator | None = getattr(options, "comm", None)
    if comm is None or comm.size == 1:
        return not _is_wanted(options) or launched_rank() == 0
    return comm.is_first


@contextmanager
def together(comm: Communicator) -> Iterator[None]:
    """Run the block on all ranks: one of them prints, and an exception on one is raised on all."""
    with comm.together():
        if comm.is_first:
            yield
            return
        with redirect_stdout(StringIO()):
            yield


def rank_of(error: BaseException) -> int | None:
    """Give the rank that an exception comes from, where that is another one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RankError):
            return seen.rank
        seen = seen.__cause__ or seen.__context__
    return None
