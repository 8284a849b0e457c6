"""Samples that ranks share; put together in the order of the ranks, they must be what one process draws.

The argument is the file of a result.
"""

import sys

import numpy as np
from mpi4py import MPI

import varflow as vf
from varflow.runtime.threads import share

comm = MPI.COMM_WORLD
N = 70_001  # more than a block of random numbers


def moved(d, cell, seed, **options):
    flow = vf.Flow(d, cell, n_bins=4, d_hidden=8, seed=seed, **options)
    flow.params += 0.3 * np.random.default_rng(seed).normal(size=flow.n_params).astype(np.float32)
    return flow


def together(parts):
    """Arrays of all ranks, one after the other."""
    return [np.concatenate(every) for every in zip(*comm.allgather(parts), strict=True)]


def agree(parts, whole):
    for found, expected in zip(together(parts), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


flows = [moved(3, "rqs", seed, bounds=(-1, 2)) for seed in (1, 2)]
result = vf.Result.load(sys.argv[1])
for density in (flows[0], moved(2, "pwquad", 3), vf.Mixture(flows, defensive=0.2), result):
    for n in (1, 2, N):
        own = density.sample(n, seed=4, comm=comm)
        begin, end = share(comm.rank, comm.size, n)
        assert len(own[0]) == len(own[1]) == end - begin
        agree(own, density.sample(n, seed=4))
for density in flows[0], vf.Mixture(flows):
    blocks = [together(part) for part in density.sample_blocks(140_000, seed=4, comm=comm)]
    for found, expected in zip(zip(*blocks, strict=True), density.sample(140_000, seed=4), strict=True):
        np.testing.assert_array_equal(np.concatenate(found), expected)
for density in flows[0], result:  # without a seed, ranks must not draw the same points
    x, _ = together(density.sample(3000, comm=comm))
    assert len(np.unique(x[:, 0])) == 3000

if comm.size > 1:
    is_last = comm.rank == comm.size - 1
    other = moved(3, "rqs", 2 if is_last else 1)
    told = []
    for call in (
        lambda: flows[0].sample(100 + comm.rank, seed=4, comm=comm),
        lambda: flows[0].sample(100, seed=comm.rank, comm=comm),
        lambda: other.sample(100, seed=4, comm=comm),
        lambda: flows[0].sample(-1 if is_last else 10, seed=4, comm=comm),
        lambda: result.sample(10, seed=comm.rank, comm=comm),
        lambda: result.sample(10, unweight=is_last, seed=1, comm=comm),
    ):
        try:
            call()
            told.append("nothing")
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
    arguments = "ValueError: all ranks must have the same arguments: "
    for words, said in zip(
        (
            arguments + "n is 100 on rank 0 and 101 on rank 1",
            arguments + "seed is 0 on rank 0 and 1 on rank 1",
            arguments + "digest of the flow is ",
            "ValueError: n must be at least 1, got -1",
            arguments + "seed is 0 on rank 0 and 1 on rank 1",
            "ValueError: unweight=True needs the integrand",
        ),
        told,
        strict=True,
    ):
        assert said.startswith(words), said
