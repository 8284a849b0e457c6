"""The command `varflow sample`."""

import argparse
from collections.abc import Iterable

import numpy as np

from varflow.cli.options import Parser, add_command, add_machine
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


def _sample(options: argparse.Namespace) -> None:
    blocks: Iterable[tuple[np.ndarray, np.ndarray]]
    source = load_density(options.flow, threads=options.threads, backend=options.backend)
    if isinstance(source, Result):
        d, blocks = len(source.bounds), [source.sample(options.n, seed=options.seed)]
    else:
        d, blocks = source.d, source.sample_blocks(options.n, options.seed)
    with SampleWriter(options.output, options.n, d) as writer:
        for x, logqx in blocks:
            writer.write(x, np.exp(logqx))
    print(f"wrote {options.n:,} points to {options.output}")
