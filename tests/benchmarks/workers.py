"""What workers cost a call of f, beyond f itself and what varflow does without workers.

    python tests/benchmarks/workers.py [--rounds 9]

Each pool has two workers. `one` is a round of 1000 points, as a survey makes them, which are waited for.
`chunks` is a round of 200 000 points in chunks of 1000, that a cheap f is called with; varflow chooses how
many chunks travel together. `alone` is the same where few travel together, as f takes 20 µs a call; f waits
so long there, without a core. All are medians of rounds that take turns with rounds without workers, whose
time is subtracted: seconds, and processor time of all processes, which a busy machine changes less.
`sent` is the seconds of a first round with an f of 8 MB, which goes to both workers.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil  # comes with distributed
from results import record, versions

import varflow as vf

D, N_WORKERS, CHUNK, N = 8, 2, 1000, 200_000
SLEEP = 20e-6  # seconds a call


def cheap(x: np.ndarray) -> np.ndarray:
    """Return a coordinate."""
    return x[:, 0]


def waits(x: np.ndarray) -> np.ndarray:
    """Take 20 µs a point, without a core, and return a coordinate."""
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


def overhead(f: Any, workers: Any, u: np.ndarray, rounds: int) -> tuple[float, float]:
    """Microseconds a call beyond f and varflow without workers: seconds, and processor time of all processes.

    Two workers do half of what f alone takes each.
    """
    waited = SLEEP / N_WORKERS if f is waits else 0.0
    with (
        vf.Integrand(f, vf.Domain(D), workers=workers) as elsewhere,
        vf.Integrand(cheap, vf.Domain(D)) as here,
    ):
        elsewhere(u)  # f arrives, and is timed
        times = []
        for _ in range(rounds):
            moments = [now()]
            for integrand in (elsewhere, here):
                integrand(u)
                moments.append(now())
            times.append(np.diff(moments, 2, axis=0)[0] / -len(u))
    seconds, processor = np.median(times, axis=0)
    return 1e6 * (seconds - waited), 1e6 * processor


def now() -> tuple[float, float]:
    """Seconds, and processor time of this process and of those that it has started."""
    processes = [own := psutil.Process(), *own.children(recursive=True)]
    times = [process.cpu_times() for process in processes]
    return time.perf_counter(), sum(one.user + one.system for one in times)


def of_pool(workers: Any, rounds: int) -> dict[str, float]:
    """Measure all of one pool."""
    u = np.random.default_rng(1).random((N, D))
    with vf.Integrand(Large(), vf.Domain(D), workers=workers) as integrand:
        integrand.open()
        begin = time.perf_counter()
        integrand(u[:CHUNK])
        sent = time.perf_counter() - begin
    return {
        "one_us": overhead(cheap, workers, u[:CHUNK], 10 * rounds),
        "chunks_us": overhead(cheap, workers, u, rounds),
        "alone_us": overhead(waits, workers, u, rounds),
        "sent_s": sent,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Measure each pool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    for name, make in POOLS.items():
        with make() as workers:
            figures = of_pool(workers, options.rounds)
        peers = versions(["distributed"]) if "dask" in name else {}
        peers.pop("python", None)
        record("workers", name, figures, peers=peers)


if __name__ == "__main__":
    main()
