"""What the ranks of `mpi.py` measure; its argument is what. The first rank prints one line of JSON."""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mpi4py import MPI

import varflow as vf
from varflow.integration.domain import Domain
from varflow.runtime.ranks import as_communicator
from varflow.training.losses import LOSSES
from varflow.training.objective import GradientBuffers, Objective

COMM = MPI.COMM_WORLD
D, ROUND = 4, 1024
COSTS = {"1 µs": (1e-6, ROUND, 20), "100 µs": (1e-4, ROUND, 8), "10 ms": (1e-2, 128, 2)}  # points, rounds
DEARER, SHARE, CHEAP = 100, 0.01, 1e-3  # of some points, and seconds of the others
N_UNEVEN = 5  # rounds
SIZES = 64, 1024, 16_384, 262_144, 4_194_304  # bytes
STEPS = {"64 wide, 1000 rows": (64, 1000), "64 wide, 10 000 rows": (64, 10_000),
         "256 wide, 1000 rows": (256, 1000), "256 wide, 10 000 rows": (256, 10_000)}  # fmt: skip
N_POINTS = 2_000_000  # of the dataset whose memory is measured


def share_in_calls(costs: Callable[[np.ndarray], np.ndarray], n: int, n_rounds: int) -> float:
    """Share of the time of all ranks that goes into f, which sleeps so long, in rounds of n points."""
    in_calls: list[float] = []

    def f(x: np.ndarray) -> np.ndarray:
        begin = time.perf_counter()
        time.sleep(costs(x).sum())
        in_calls.append(time.perf_counter() - begin)  # a busy machine wakes late
        return x[:, 0]

    ranks = as_communicator(COMM)
    integrand, generator = vf.Integrand(f, Domain(D), comm=ranks), np.random.default_rng(1)
    with ranks.running():
        integrand(generator.random((n, D)))  # measures the time of a point
        in_calls.clear()
        COMM.Barrier()
        begin = time.perf_counter()
        for _ in range(n_rounds):
            integrand(generator.random((n, D)))
        taken = time.perf_counter() - begin
    return float(COMM.allreduce(sum(in_calls)) / (COMM.size * taken))


def scaling() -> dict[str, float]:
    """Share of the time in calls of f, by the cost of a point."""
    return {
        name: share_in_calls(lambda x, one=one: np.full(len(x), one), n, k)  # type: ignore[misc]
        for name, (one, n, k) in COSTS.items()
    }


def balance() -> dict[str, dict[str, float]]:
    """Share of the time in calls of f where some points are dear; and for fixed parts of the points."""
    dear = {
        "scattered": lambda x: (x[:, 1] * 1e6) % 1 < SHARE,
        "clustered": lambda x: x[:, 0] < SHARE,
    }

    def both(is_dear: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        def costs(x: np.ndarray) -> np.ndarray:
            return CHEAP * np.where(is_dear(x), DEARER, 1)

        generator, work, longest = np.random.default_rng(1), 0.0, 0.0
        for _ in range(100):
            found = costs(generator.random((ROUND, D)))
            work += found.sum()
            longest += max(part.sum() for part in np.array_split(found, COMM.size))
        fixed = work / (COMM.size * longest)
        return {"dealt": share_in_calls(costs, ROUND, N_UNEVEN), "fixed": fixed}

    return {name: both(is_dear) for name, is_dear in dear.items()}


def messages() -> dict[str, float]:
    """Least seconds of a merge, by its bytes."""
    ranks, found = as_communicator(COMM), {}
    for size in SIZES:
        array, times = np.zeros(size // 8), []
        for _ in range(200):
            begin = time.perf_counter()
            ranks.merge(array)
            times.append(time.perf_counter() - begin)
        found[str(size)] = min(times)
    return found


def steps() -> dict[str, dict[str, float]]:
    """Least seconds of the gradient of a step, by each rank alone and shared, in turn."""
    ranks, found = as_communicator(COMM), {}
    for name, (width, n) in STEPS.items():
        flow = vf.Flow(8, n_bins=16, d_hidden=width, n_hidden=2, seed=1, threads=1)
        x = np.random.default_rng(1).random((n, 8))
        data = vf.Dataset(x, np.ones(n), np.exp(-x.sum(axis=1)))
        objective, buffers = Objective(flow, data, LOSSES["variance"]), GradientBuffers(flow, n, ranks)
        times: dict[bool, list[float]] = {False: [], True: []}
        for k in range(20):
            buffers.is_shared = bool(k % 2)
            COMM.Barrier()
            begin = time.perf_counter()
            objective.gradient(np.arange(n), buffers)
            times[buffers.is_shared].append(time.perf_counter() - begin)
        alone, shared = (COMM.allreduce(min(times[way]), MPI.MAX) for way in (False, True))
        found[name] = {"alone": alone, "shared": shared, "n_params": flow.n_params}
    return found


def survey() -> dict[str, float]:
    """Seconds of the processor for a round of a survey besides f and exchanges, on one rank in one thread."""
    for n_rounds in (33, 66):  # the first one loads kernels
        begin = time.process_time()
        options = {"n_iter": 1, "n_points": n_rounds * ROUND, "seed": 1, "threads": 1}
        vf.Integrator(lambda x: x[:, 0], D, **options).survey()
    return {"round": (time.process_time() - begin) / n_rounds}


class Peaks:
    """Largest bytes of memory while the block runs: those that only this rank has, and its part of others."""

    def __enter__(self) -> "Peaks":
        self.largest = self.before = self._now()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def own(self) -> dict[str, float]:
        """Bytes that were added, of each kind."""
        return {name: self.largest[name] - self.before[name] for name in self.before}

    def _watch(self) -> None:
        while not self._is_over.wait(0.02):
            now = self._now()
            self.largest = {name: max(now[name], known) for name, known in self.largest.items()}

    @staticmethod
    def _now() -> dict[str, int]:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        kib = {name: int(words.split()[0]) for name, words in (line.split(":") for line in lines)}
        return {"private": 1024 * kib["Anonymous"], "shared": 1024 * kib["Pss_Shmem"]}


def memory() -> dict[str, float]:
    """Largest bytes a point of private memory, of the first rank and others, and of that of all together."""
    settings = {"flow_options": {"n_bins": 4, "d_hidden": 8, "n_hidden": 1}, "minibatch_size": 20_000}
    vf.train(vf.Dataset(np.random.default_rng(1).random((1000, D)), np.ones(1000), np.ones(1000)),
             n_epochs=1, **settings)  # fmt: skip  # loads what is loaded anyway
    with tempfile.TemporaryDirectory() as folder:
        folder = COMM.bcast(folder)
        path = Path(folder) / "points.npz"
        if COMM.rank == 0:
            x = np.random.default_rng(1).random((N_POINTS, D))
            np.savez(path, x=x, p=np.ones(N_POINTS), f=np.exp(-x.sum(axis=1)))
            del x
        COMM.Barrier()
        begin = time.perf_counter()
        with Peaks() as reading:
            data = vf.Dataset.read(path, comm=COMM)
        with Peaks() as training:
            vf.train(data, n_epochs=2, seed=1, comm=COMM, **settings)
        seconds = time.perf_counter() - begin
        COMM.Barrier()
    found = {"seconds": seconds, "n_points": N_POINTS, "d": D}
    for name, peaks in (("reading", reading.own()), ("training", training.own())):
        private = [one / N_POINTS for one in COMM.allgather(peaks["private"])]
        found |= {f"{name}_first": private[0], f"{name}_others": max(private[1:], default=0.0)}
        found[f"{name}_shared"] = COMM.allreduce(peaks["shared"]) / N_POINTS
    return found


MEASUREMENTS = {one.__name__: one for one in (scaling, balance, messages, steps, survey, memory)}


if __name__ == "__main__":
    measured = MEASUREMENTS[sys.argv[1]]()
    if COMM.rank == 0:
        print(json.dumps(measured))
