"""The command `varflow sample`."""

import argparse
from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np

from varflow.cli.options import Parser, add_command, add_machine
from varflow.cli.ranks import add_mpi
from varflow.data.samples import SampleWriter
from varflow.integration.result import Result, load_density

__all__ = ["add_sample"]


def add_sample(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow sample`."""
    parser = add_command(
        commands,
        "sample",
        _sample,
        "draw points from a flow; columns x..., q, q being their density",
        "varflow sample flow.npz -n 1000000 -o points.npz --seed 2",
    )
    parser.add_argument("flow", metavar="FLOW", help="file of a flow, or of the result of an integration")
    parser.add_argument("-n", type=int, required=True, metavar="N", help="number of points")
    parser.add_argument(
        "-o", "--output", required=True, metavar="POINTS", help="file for the points: .npz or .csv"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed; drawn from the system if not given")
    add_machine(parser)
    add_mpi(parser)


def _sample(options: argparse.Namespace) -> None:
    comm, n, seed = options.comm, options.n, options.seed
    source = comm.first(lambda: load_density(options.flow, threads=options.threads, backend=options.backend))
    blocks: Iterable[tuple[np.ndarray, np.ndarray]]
    if isinstance(source, Result):
        d, blocks = len(source.bounds), [source.sample(n, seed=seed, comm=comm)]
    else:
        d, blocks = source.d, source.sample_blocks(n, seed, comm)
    with SampleWriter(options.output, n, d) if comm.is_first else nullcontext() as writer:
        for part in blocks:
            for x, logqx in comm.collect(part):
                assert writer is not None  # as other ranks than the first get no parts
                writer.write(x, np.exp(logqx))
    print(f"wrote {n:,} points to {options.output}")
