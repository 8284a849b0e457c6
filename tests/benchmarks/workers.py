"""What workers cost a call of f, beyond f itself and what varflow does without workers.

    python tests/benchmarks/workers.py [--rounds 9]

Each pool has two workers. `one` is a round of 1000 points, as a survey makes them, which are waited for.
`chunks` is a round of 200 000 points in chunks of 1000, that a cheap f is called with; varflow chooses how
many chunks travel together. `alone` is the same where few travel together, as f takes 20 µs a call; f waits
so long there, without a core. All are medians of rounds that take turns with rounds without workers, whose
time is subtracted: seconds, and processor time of all processes, which a busy machine changes less.
`sent` is the seconds of a first round with an f of 8 MB, which goes to both workers.

`--dask` measures, instead, ways in which 200 chunks can go to a Dask cluster, without varflow, in turn.
"""

import argparse
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator
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


class Resident:
    """An f that a worker keeps, and that is called past the scheduler."""

    def call(self, x: np.ndarray) -> np.ndarray:
        """Call f."""
        return cheap(x)


def in_chunks(x: np.ndarray) -> list[np.ndarray]:
    """Call f for 1000 points at a time."""
    return [cheap(chunk) for chunk in np.array_split(x, -(-len(x) // CHUNK))]


def ways(client: Any) -> dict[str, Callable[[list[np.ndarray]], Any]]:
    """Ways to have f called for chunks of points, each of which waits for all values."""
    executor = client.get_executor(pure=False)
    actors = [
        client.submit(Resident, actor=True, workers=[address], pure=False).result()
        for address in client.nthreads()
    ]

    def merged(chunks: list[np.ndarray], n: int) -> list[np.ndarray]:
        return [np.concatenate(chunks[k : k + n]) for k in range(0, len(chunks), n)]

    def by_actors(chunks: list[np.ndarray]) -> None:
        sent = [actors[k % len(actors)].call(chunk) for k, chunk in enumerate(chunks)]
        for one in sent:
            one.result()

    def scattered(chunks: list[np.ndarray]) -> None:
        points = client.scatter(chunks, direct=True, hash=False)
        client.gather(client.map(cheap, points, pure=False), direct=True)

    return {
        "a task a chunk": lambda chunks: list(executor.map(cheap, chunks)),
        "the same in one message": lambda chunks: client.gather(client.map(cheap, chunks, pure=False)),
        "points go to workers first": scattered,
        "a call of an actor a chunk": by_actors,
        "a task for 8 chunks": lambda chunks: list(executor.map(in_chunks, merged(chunks, 8))),
        "a task for 50 chunks": lambda chunks: list(executor.map(in_chunks, merged(chunks, 50))),
    }


def record_ways(rounds: int) -> None:
    """Measure the ways in turn: microseconds a call of f, and of processors of all processes."""
    chunks = np.array_split(np.random.default_rng(1).random((N, D)), N // CHUNK)
    with dask() as client, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
        times: dict[str, list[np.ndarray]] = {}
        for _ in range(rounds):
            for name, way in ways(client).items():
                begin = now()
                way(chunks)
                times.setdefault(name, []).append(1e6 / N * np.subtract(now(), begin))
    peers = {"distributed": versions(["distributed"])["distributed"]}
    for name, found in times.items():
        seconds, processor = np.median(found, axis=0)
        figures = {"seconds_us": seconds, "processor_us": processor, "load": os.getloadavg()[0]}
        record("workers_dask", name, figures, peers=peers)


def main() -> None:
    """Measure each pool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dask", action="store_true", help="measure ways to send chunks to Dask alone")
    options = parser.parse_args()
    if options.dask:
        record_ways(options.rounds)
        return
    for name, make in POOLS.items():
        with make() as workers:
            figures = of_pool(workers, options.rounds)
        peers = versions(["distributed"]) if "dask" in name else {}
        peers.pop("python", None)
        record("workers", name, figures, peers=peers)


if __name__ == "__main__":
    main()
