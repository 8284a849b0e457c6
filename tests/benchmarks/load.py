"""Whether an hour of training at full speed takes any more memory than its first minute.

    python tests/benchmarks/load.py [--minutes 60]

Trains flows of all cells in turn with all threads, each by a trainer of its own, on new points each time, and
looks at the resident memory of the process every second. Prints one line of JSON, also kept in `results`:
minutes, steps, resident memory in MB after the first minute (of runs below ten, after a tenth), the largest
and smallest from then on, and the drift: by how many percent the mean of the last tenth of the samples
exceeds that of the first.
"""

import argparse
import json
import threading
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from statistics import mean
from time import perf_counter

import numpy as np
from results import record

import varflow as vf
from varflow.kernels.splines import SPLINES

D, N_POINTS, BATCH, N_EPOCHS = 8, 100_000, 5000, 5


def resident() -> float:
    """Resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / 1e6


def watch(samples: list[tuple[float, float]], begin: float, is_over: threading.Event) -> None:
    """Note (seconds, MB) every second until it is over."""
    while not is_over.wait(1.0):
        samples.append((perf_counter() - begin, resident()))


class TimeIsUp(Exception):  # noqa: N818 - it is no error
    """Ends the training that is under way."""


def train(cell: str, loss: str, seed: int, end: float) -> int:
    """Train a flow on new points. Returns the number of steps."""
    rng = np.random.default_rng(seed)
    x = rng.random((N_POINTS, D))
    fx = np.exp(-5 * ((x - 0.4) ** 2).sum(axis=1))
    optim = vf.Adam()
    config = {"n_epochs": N_EPOCHS, "minibatch_size": BATCH, "holdout": 0.1, "optim": optim}
    trainer = vf.BasicStatefulTrainer(vf.Flow(D, cell, seed=seed), loss=loss, **config)

    def look_at_the_clock(record: vf.TrainingRecord) -> None:
        if perf_counter() > end:
            raise TimeIsUp

    with suppress(TimeIsUp):
        trainer.train_on_batch(x, np.ones(N_POINTS), fx, callback=look_at_the_clock)
    return optim.t


def main() -> None:
    """Train for as long as asked, and print the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    minutes = parser.parse_args().minutes
    for cell in SPLINES:
        train(cell, "variance", seed=0, end=perf_counter())  # compiles, which takes memory once
    begin = perf_counter()
    end, samples, is_over = begin + 60 * minutes, [], threading.Event()
    watcher = threading.Thread(target=watch, args=(samples, begin, is_over))
    watcher.start()
    n_steps = 0
    try:
        for seed, (cell, loss) in enumerate(
            cycle((cell, loss) for cell in SPLINES for loss in ("variance", "dkl"))
        ):
            if perf_counter() > end:
                break
            n_steps += train(cell, loss, seed, end)
    finally:
        is_over.set()
        watcher.join()
    first = min(60.0, 6 * minutes)
    later = [mb for seconds, mb in samples if seconds >= first]
    tenth = max(1, len(later) // 10)
    line = {
        "minutes": round((perf_counter() - begin) / 60, 2),
        "steps": n_steps,
        "rss_after_first_minute_mb": round(later[0], 1),
        "rss_max_mb": round(max(later), 1),
        "rss_min_mb": round(min(later), 1),
        "drift_percent": round(100 * (mean(later[-tenth:]) / mean(later[:tenth]) - 1), 2),
    }
    print(json.dumps(line))
    record("load", f"{minutes:g} minutes", line)


if __name__ == "__main__":
    main()
