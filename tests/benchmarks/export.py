"""Time a point of exported flows beside Python's, on one core, and their static size.

    python tests/benchmarks/export.py [--rounds 9]

Exports flows of d = 8 with the default sizes and random parameters in C and Fortran, compiles them with
-O3 -march=native, and times them and Python in turn, by the time of the processor. Prints a line of JSON for
each cell and language, also kept in `results`: nanoseconds a point of sample and log_prob, medians of the
rounds; the median ratio to Python's; and the bytes of code and tables in the object file.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from results import record

import varflow as vf
from varflow.kernels.splines import SPLINES
from varflow.testing import normal_params

D, N_POINTS = 8, 50_000
FLAGS = ["-O3", "-march=native"]
BUILDS = {"c": ("gcc", "flow.c", "export_timer.c"), "fortran": ("gfortran", "flow.f90", "export_timer.f90")}
HERE = Path(__file__).parent


def build(flow: vf.Flow, language: str, folder: Path) -> int:
    """Build the timer; returns the bytes of code, constants and variables in the flow's object file."""
    vf.export(flow, folder, language)
    compiler, source, timer = BUILDS[language]
    subprocess.run([compiler, *FLAGS, "-c", source], cwd=folder, check=True)
    command = [compiler, *FLAGS, "-I.", HERE / timer, "flow.o", "-o", "timer", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    sizes = subprocess.run(["size", "flow.o"], cwd=folder, check=True, capture_output=True, text=True)
    return sum(map(int, sizes.stdout.splitlines()[1].split()[:3]))


def nanoseconds(function: Callable[[], object]) -> float:
    """Time of the processor for a point."""
    begin = time.process_time()
    function()
    return (time.process_time() - begin) / N_POINTS * 1e9


def measure(cell: str, language: str, n_rounds: int) -> dict[str, float]:
    """Time both in turn."""
    flow = vf.Flow(D, cell, seed=1, threads=1)
    flow.params = normal_params(flow.architecture, 0.5, np.random.default_rng(1))
    x, _ = flow.sample(N_POINTS, seed=1)
    flow.log_prob(x)
    times = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = build(flow, language, folder)
        for _ in range(n_rounds):
            printed = subprocess.run(
                ["./timer"], cwd=folder, check=True, capture_output=True, text=True
            ).stdout
            here = nanoseconds(lambda: flow.sample(N_POINTS, seed=1)), nanoseconds(lambda: flow.log_prob(x))
            times.append([*map(float, printed.split()), *here])
    columns = list(zip(*times, strict=True))
    return {
        "sample_ns": round(median(columns[0])),
        "log_prob_ns": round(median(columns[1])),
        "python_sample_ns": round(median(columns[2])),
        "python_log_prob_ns": round(median(columns[3])),
        "sample_ratio": round(median(row[0] / row[2] for row in times), 2),
        "log_prob_ratio": round(median(row[1] / row[3] for row in times), 2),
        "n_weights": flow.n_params,
        "static_bytes": size,
    }


def main() -> None:
    """Measure all cells in both languages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    n_rounds = parser.parse_args().rounds
    for cell in SPLINES:
        for language, (compiler, *_) in BUILDS.items():
            line = measure(cell, language, n_rounds)
            print(json.dumps(line))
            version = subprocess.run(
                [compiler, "-dumpfullversion"], capture_output=True, text=True, check=True
            )
            record("export", f"{cell}, {language}", line, peers={compiler: version.stdout.strip()})


if __name__ == "__main__":
    main()
