"""One flow, two that each learn all of f, and two that each learn a part: variances left by fixed points.

    python tests/benchmarks/mixtures.py [case ...] [--seeds 2] [--points 4000]

Each is trained as it comes on so many uniform points, and measured on 100 000 fresh ones: medians of the
relative variance of f/q, and seconds.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from results import record

import varflow as vf

N_FRESH = 100_000


def diagonals(x: np.ndarray) -> np.ndarray:
    """Lines along both diagonals of two dimensions."""
    u, v = x.T
    lines: np.ndarray = np.exp(-(((u - v) / 0.03) ** 2)) + 2 * np.exp(-(((u + v - 1) / 0.03) ** 2))
    return lines


def camel(x: np.ndarray) -> np.ndarray:
    """Two peaks that are far apart."""
    peaks: np.ndarray = sum(np.exp(-((x - c) ** 2).sum(axis=1) / (2 * 0.08**2)) for c in (0.25, 0.75))
    return peaks


def circles(x: np.ndarray) -> np.ndarray:
    """Two rings that do not touch."""
    rings: np.ndarray = sum(
        np.exp(-(((np.hypot(x[:, 0] - c, x[:, 1] - c) - 0.15) / 0.02) ** 2)) for c in (0.25, 0.75)
    )
    return rings


CASES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "both diagonals, d=2": (diagonals, 2),
    "two rings, d=2": (circles, 2),
    "two peaks, d=3": (camel, 3),
}
WAYS: dict[str, dict[str, Any]] = {
    "one": {},
    "cross_fitting": {"n_flows": 2},
    "em": {"n_flows": 2, "mixture": "em"},
}


def points(f: Callable[[np.ndarray], np.ndarray], d: int, n: int, seed: int) -> vf.Dataset:
    """Make uniform points."""
    x = np.random.default_rng(seed).random((n, d))
    return vf.Dataset(x, np.ones(n), f(x))


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--points", type=int, default=4000)
    options = parser.parse_args()
    for name in options.cases or CASES:
        f, d = CASES[name]
        fresh, figures = points(f, d, N_FRESH, 10_000), {}
        for way, settings in WAYS.items():
            begin, found = time.perf_counter(), []
            for seed in range(options.seeds):
                data = points(f, d, options.points, seed)
                training = vf.train(data, seed=seed, threads=1, **settings)
                found.append(vf.evaluate(training.flow, fresh).variance_after)
            seconds = (time.perf_counter() - begin) / options.seeds
            figures[way] = {"variance": median(found), "seconds": seconds}
        record("mixtures", name, {"n_points": options.points, "n_seeds": options.seeds, **figures})


if __name__ == "__main__":
    main()
