"""What workers cost a call of f, beyond f itself.

    python tests/benchmarks/workers.py [--rounds 7]

Each pool has two workers. f returns a coordinate, which takes nanoseconds, so that what is measured is all of
varflow and of the pool: the seconds of a round less those of f in two workers, a call, the median of the
rounds. `1000`: one round of 1000 points, as a survey makes them, which travel at once and are waited for.
`200,000`: a round of 200 chunks of 1000 points, that f is called with; how many chunks a task has is what
varflow chooses. `200,000, a chunk a task`: the same where each task has one chunk of 1000, as for an f of
20 µs a call; f waits so long there. `sent`: seconds until all workers have an f of 8 MB, in the first round.
"""

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
from results import record, versions

import varflow as vf

D, N_WORKERS, CHUNK, N = 8, 2, 1000, 200_000
SLEEP = 20e-6  # seconds a call


def cheap(x: np.ndarray) -> np.ndarray:
    """Return a coordinate."""
    return x[:, 0]


def waits(x: np.ndarray) -> np.ndarray:
    """Take 20 µs a point, without a core."""
    time.sleep(SLEEP * len(x))
    return x[:, 0]


class Large:
    """An f of 8 MB."""

    def __init__(self) -> None:
        self.table = np.zeros(1_000_000)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return a coordinate."""
        return self.table[0] + x[:, 0]


@contextmanager
def dask() -> Iterator[Any]:
    """Give a client of a local cluster."""
    from distributed import Client, LocalCluster

    options = {"n_workers": N_WORKERS, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield client


@contextmanager
def own() -> Iterator[int]:
    """Let varflow start processes."""
    yield N_WORKERS


POOLS: dict[str, Any] = {
    "workers=2": own,
    "ThreadPoolExecutor": lambda: ThreadPoolExecutor(N_WORKERS),
    "ProcessPoolExecutor": lambda: ProcessPoolExecutor(N_WORKERS),
    "multiprocessing.Pool": lambda: multiprocessing.Pool(N_WORKERS),
    "dask.distributed.Client": dask,
}


def overhead(integrand: vf.Integrand, u: np.ndarray, rounds: int, seconds_of_f: float = 0.0) -> float:
    """Microseconds a call beyond f."""
    integrand(u)  # f arrives, and is timed
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        integrand(u)
        times.append(time.perf_counter() - begin - seconds_of_f * len(u) / N_WORKERS)
    return 1e6 * median(times) / len(u)


def of_pool(workers: Any, rounds: int) -> dict[str, float]:
    """Measure all of one pool."""
    u = np.random.default_rng(1).random((N, D))
    with vf.Integrand(cheap, vf.Domain(D), workers=workers) as integrand:
        one, many = overhead(integrand, u[:CHUNK], 10 * rounds), overhead(integrand, u, rounds)
    with vf.Integrand(waits, vf.Domain(D), workers=workers) as integrand:
        chunks = overhead(integrand, u, rounds, SLEEP)
    with vf.Integrand(Large(), vf.Domain(D), workers=workers) as integrand:
        integrand.open()
        begin = time.perf_counter()
        integrand(u[:CHUNK])
        sent = time.perf_counter() - begin
    return {"one_us": one, "many_us": many, "chunks_us": chunks, "sent_s": sent}


def main() -> None:
    """Measure each pool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for name, make in POOLS.items():
        with make() as workers:
            figures = of_pool(workers, options.rounds)
        peers = versions(["distributed"]) if "dask" in name else {}
        peers.pop("python", None)
        record("workers", name, figures, peers=peers)


if __name__ == "__main__":
    main()
