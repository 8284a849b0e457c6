"""Seconds that a program in C waits for its first integral and its first sample, with a warm cache.

    python tests/benchmarks/first_call.py [--repeats 9]

Builds the shared library and `first_call.c`, runs the program once, so that kernels are in the cache, and
then some times more. Prints one line of JSON, also kept in `results`: medians of the seconds that `vf_start`
takes, a first integral of 100 calls and a first sample of 1000 points, of all three, and of the processor.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from results import record

from varflow.libvarflow.build import build

STEPS = "start_s", "integral_s", "sample_s", "processor_s"


def compiled(folder: str) -> Path:
    """Build the library and the program."""
    build(folder)
    program = Path(folder, "first_call")
    source = Path(__file__).with_suffix(".c")
    link = [f"-I{folder}", f"-L{folder}", "-lvarflow", f"-Wl,-rpath,{folder}"]
    subprocess.run(["cc", "-O2", "-o", program, source, *link], check=True)
    return program


def measured(program: Path) -> list[float]:
    """Run the program. Returns its seconds."""
    return [float(text) for text in subprocess.check_output([program], text=True).split()]


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="runs of the program")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(folder)
        measured(program)  # compiles what the cache does not have
        runs = [measured(program) for _ in range(options.repeats)]
    medians = [median(step) for step in zip(*runs, strict=True)]
    figures = dict(zip(STEPS, medians, strict=True)) | {"total_s": median(sum(run[:3]) for run in runs)}
    record("first_call", "in C", {name: round(value, 4) for name, value in figures.items()})
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
