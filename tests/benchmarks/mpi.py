"""Ranks of MPI: rounds of points by the cost of f, uneven costs, messages, and steps that are shared.

    python tests/benchmarks/mpi.py [--mpiexec mpiexec] [--memory]

Measures with 1, 2 and 4 ranks. f sleeps as long as it would take, so that ranks need no core each; the steps
do. `--memory` measures, instead, what a training on a dataset takes of it. The lines in `results` hold the
seconds and bytes; `modelled` computes what the seconds mean for many ranks. The program of the ranks is
`mpi_ranks.py`.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from results import record

LATENCY = 2e-6  # seconds a message, of InfiniBand and its like: an assumption, as all is in memory here
RANKS = 1, 2, 4


def measured(mpiexec: str, n: int, what: str) -> Any:
    """Run the ranks. Returns what they print."""
    program = Path(__file__).with_name("mpi_ranks.py")
    command = [*shlex.split(mpiexec), "-n", str(n), sys.executable, str(program), what]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return json.loads(subprocess.check_output(command, text=True, env=environment))


def modelled(n_ranks: int, cost: float, n: int, training: float, overhead: float) -> float:
    """Compute the share of the ideal speed-up of a round.

    The ranks share n calls of f; the last one to finish keeps the others for half a call. All train alike. A
    round has two exchanges, each a sum over all ranks, up and down a tree of messages.

    Parameters
    ----------
    n_ranks, n : int
        Ranks, and points of the round.
    cost, training, overhead : float
        Seconds of a call of f, of the training after the round, and of an exchange of two ranks in memory.

    Returns
    -------
    float
        Seconds of the round on one rank over those on so many, and over their number.
    """
    if n_ranks == 1:
        return 1.0
    exchanges = 2 * (overhead + 2 * math.ceil(math.log2(n_ranks)) * LATENCY)
    seconds = (max(n / n_ranks, 1) + 0.5) * cost + training + exchanges
    return (n * cost + training) / (n_ranks * seconds)


def ranks_that_pay(cost: float, n: int, training: float, overhead: float) -> int:
    """Find the most ranks, among powers of two, that reach half of the ideal speed-up."""
    n_ranks = 1
    while n_ranks < 2**20 and modelled(2 * n_ranks, cost, n, training, overhead) >= 0.5:
        n_ranks *= 2
    return n_ranks


def name_of(n: int) -> str:
    """Name of a case."""
    return f"{n} rank" if n == 1 else f"{n} ranks"


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mpiexec", default="mpiexec", metavar="COMMAND", help="that starts the ranks")
    parser.add_argument("--memory", action="store_true", help="measure memory alone")
    options = parser.parse_args()
    mpiexec = options.mpiexec
    if options.memory:
        for n in RANKS:
            record("mpi_memory", name_of(n), measured(mpiexec, n, "memory"))
        return
    for n in RANKS:
        record("mpi_scaling", name_of(n), measured(mpiexec, n, "scaling"))
    for n in RANKS[1:]:
        record("mpi_balance", name_of(n), measured(mpiexec, n, "balance"))
        record("mpi_messages", name_of(n), measured(mpiexec, n, "messages"))
    record("mpi_steps", "2 ranks", measured(mpiexec, 2, "steps"))
    record("mpi_survey", "1 rank", measured(mpiexec, 1, "survey"))


if __name__ == "__main__":
    main()
