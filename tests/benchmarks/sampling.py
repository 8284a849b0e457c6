"""Points and events a second that `varflow sample` draws and writes, and the memory that it takes.

    python tests/benchmarks/sampling.py [-n 10000000]

The flow has d = 8 and has learned the integrand of `examples/camel.py`, with the sizes that a survey gives
it: pwquad cells of 16 bins, 2 x 64, iflow. Points go to an npz file and into pipes, whose reader throws them
away; a tenth as many of those that are written as text, and a fifth as many events. Prints a line of JSON a
case, also kept in `results`. Rates are a second of the processor's time in one thread, as the machine may
have other work; the roofline is that of the networks' products alone, forward, for all points that are
drawn, at the rate that `varflow bench` measures before each case: the largest, as other work slows it down.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from results import record

import varflow as vf
from varflow.training.benchmark import benchmark

FLOP_A_PARAMETER = 2  # and point: a product and a sum, forward
CAMEL = Path(__file__).parents[2] / "examples" / "camel.py"
CALLS = "200000"  # of the integrand, to train the flow
UNWEIGHT = ("--unweight", f"{CAMEL}:f", "--max-weight")
CHUNK = 1 << 20  # bytes that are read from a pipe at once
# The command, and what it has taken: the peak of getrusage begins with that of the process that starts it.
PROGRAM = """
import json, sys, time
from pathlib import Path
from varflow.cli import main
status = main(sys.argv[1:])
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(json.dumps({"processor_s": time.process_time(), "peak_mb": peak / 1024}), file=sys.stderr)
sys.exit(status)
"""


class Case(NamedTuple):
    """What is drawn, its share of n, where it goes, and options of the command."""

    name: str
    share: float
    output: str
    options: tuple[str, ...] = ()


CASES = (
    Case("points, npz", 1.0, "points.npz"),
    Case("points, npy into a pipe", 1.0, "-", ("--format", "npy")),
    Case("points, CSV into a pipe", 0.1, "-"),
    Case("events, quantile, npz", 0.2, "events.npz", (*UNWEIGHT, "quantile")),
    Case("events, bootstrap, npz", 0.2, "events.npz", (*UNWEIGHT, "bootstrap")),
    Case("events, quantile, npy into a pipe", 0.2, "-", ("--format", "npy", *UNWEIGHT, "quantile")),
)


def measured(case: Case, folder: Path, n: int) -> dict[str, float]:
    """Draw and write points in a process of its own; seconds, processor's seconds and MB at most."""
    command = [sys.executable, "-c", PROGRAM, "sample", "flow.npz", "-n", str(n), "-o", case.output]
    command += ["--seed", "1", "--threads", "1", *case.options]
    begin, printed = time.perf_counter(), b""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        while chunk := process.stdout.read(CHUNK):
            printed = b"" if case.output == "-" else printed + chunk
        status = process.wait()
        seconds = time.perf_counter() - begin
        errors.seek(0)
        told = errors.read()
    if status != 0:
        raise SystemExit(f"varflow sample ended with status {status}: {told}")
    figures = {"seconds": seconds, **json.loads(told.splitlines()[-1])}
    if UNWEIGHT[0] in case.options:  # events  N of M points: unweighting efficiency E%
        said = (printed.decode() + told).splitlines()
        words = next(line for line in said if line.startswith("events")).split()
        figures |= {
            "n_drawn": int(words[3].replace(",", "")),
            "efficiency": round(float(words[-1][:-1]) / 100, 3),
        }
    return figures


def figures_of(case: Case, folder: Path, n: int) -> dict[str, float]:
    """Figures of a case: Python's start is taken off by a run of a tenth of the points."""
    flow = vf.Flow.load(folder / "flow.npz", threads=1)
    few, many = measured(case, folder, n // 10), measured(case, folder, n)
    seconds = many["processor_s"] - few["processor_s"]
    n_drawn = [one.get("n_drawn", of) for one, of in ((few, n // 10), (many, n))]
    drawn = (n_drawn[1] - n_drawn[0]) / seconds
    return {
        "n": n,
        "n_params": flow.n_params,
        "a_second": round((n - n // 10) / seconds),
        "points_a_second": round(drawn),
        "efficiency": many.get("efficiency"),
        "seconds": round(many["seconds"], 1),
        "gflop_s": round(drawn * FLOP_A_PARAMETER * flow.n_params * 1e-9, 1),
        "peak_mb_of_a_tenth": round(few["peak_mb"]),
        "peak_mb": round(many["peak_mb"]),
    }


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=10_000_000, help="points")
    n = parser.parse_args().n
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = ["integrate", f"{CAMEL}:f", "--dim", "8", "--calls", CALLS, "--seed", "1", "-q"]
        command = [sys.executable, "-m", "varflow", *train, "--flow-out", "flow.npz"]
        subprocess.run(command, cwd=folder, check=True)
        measured(CASES[0], folder, 1000)  # compiles what the cache does not have
        rates, found = [], {}
        for case in CASES:
            flow = vf.Flow.load(folder / "flow.npz", threads=1)
            rates.append(benchmark(flow, 10_000, seconds=2)["roofline_gflop_s"])
            found[case.name] = figures_of(case, folder, round(case.share * n))
    for name, figures in found.items():
        figures |= {"roofline_share": round(figures["gflop_s"] / max(rates), 3)}
        record("sampling", name, figures)
        print(json.dumps({"case": name, **figures}), flush=True)


if __name__ == "__main__":
    main()
