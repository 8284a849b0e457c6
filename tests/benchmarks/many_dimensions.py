"""Integrals in 16 to 100 dimensions beside vegas, and what a step of training costs in as many.

    python tests/benchmarks/many_dimensions.py integrals --peers-python PYTHON [--calls 200000] [--seeds 3]
    python tests/benchmarks/many_dimensions.py steps

`integrals`: root mean square of (estimate - exact) / exact over the seeds, the median of the errors that are
stated, and seconds of the processor for an integral on one thread, of varflow as it comes and of vegas with
ten iterations. `steps`: median time of a step of training at batch 512, by number of dimensions and masking,
with the cell and the width that `integrate` has.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
from applications import APPLICATIONS, MANY_DIMENSIONS
from few_calls import relative_rms
from integrands import CHEAP, IFLOW
from results import peer_versions, record

import varflow as vf
from varflow.flow.masks import MASKS
from varflow.training.benchmark import benchmark

ALL = {**IFLOW, **CHEAP, **APPLICATIONS, **MANY_DIMENSIONS}
CASES = (
    *("gauss16", "narrow20", "wide30", "narrow100", "camel16", "poly18", "poly96"),
    *("asian16_100", "asian16_130", "asian64_100"),
)
DIMENSIONS = 4, 8, 16, 32, 64, 128
BATCH = 512

VEGAS = """
import json, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
import vegas
from applications import APPLICATIONS, MANY_DIMENSIONS
from integrands import CHEAP, IFLOW
case = {**IFLOW, **CHEAP, **APPLICATIONS, **MANY_DIMENSIONS}[sys.argv[2]]
means, begin = [], time.process_time()
for seed in range(int(sys.argv[4])):
    np.random.seed(seed)
    f = vegas.batchintegrand(lambda x: case.f(np.asarray(x)))
    integrator = vegas.Integrator([[0, 1]] * case.d)
    means.append(integrator(f, nitn=10, neval=int(sys.argv[3]) // 10).mean)
print(json.dumps({"means": means, "seconds": time.process_time() - begin}))
"""


def integrals(options: argparse.Namespace) -> None:
    """Compare errors and seconds."""
    peers = peer_versions(options.peers_python, ["vegas"])
    for name in options.cases or CASES:
        case = ALL[name]
        vf.integrate(case.f, case.d, n_calls=100, threads=1)  # compiles, or loads the kernels
        begin = time.process_time()
        results = [
            vf.integrate(case.f, case.d, n_calls=options.calls, seed=seed, threads=1)
            for seed in range(options.seeds)
        ]
        seconds = time.process_time() - begin
        arguments = [str(Path(__file__).parent), name, str(options.calls), str(options.seeds)]
        command = [options.peers_python, "-W", "ignore", "-c", VEGAS, *arguments]
        vegas = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        figures = {
            "d": case.d,
            "n_calls": options.calls,
            "n_seeds": options.seeds,
            "varflow": relative_rms([one.mean for one in results], case.exact),
            "stated": float(np.median([one.sdev for one in results]) / case.exact),
            "ess": float(np.median([one.ess for one in results])),
            "seconds": seconds / options.seeds,
            "vegas": relative_rms(vegas["means"], case.exact),
            "vegas_seconds": vegas["seconds"] / options.seeds,
        }
        record("many_dimensions", name, figures, peers=peers)


def steps(options: argparse.Namespace) -> None:
    """Time steps."""
    for masking in options.cases or sorted(MASKS):
        for d in DIMENSIONS:
            flow = vf.Flow(d, "pwquad", masking=masking, n_bins=16, d_hidden=64, n_hidden=2, threads=1)
            found = benchmark(flow, BATCH)
            n_cells = len(flow.architecture.masks)
            figures = {"d": d, "masking": masking, "n_cells": n_cells, "step_s": found["step_s"]}
            record("many_dimensions_steps", f"{masking} {d}", figures)


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["integrals", "steps"])
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", nargs="*", help="integrals, or maskings")
    parser.add_argument("--peers-python", default="python")
    options = parser.parse_args()
    {"integrals": integrals, "steps": steps}[options.what](options)


if __name__ == "__main__":
    main()
