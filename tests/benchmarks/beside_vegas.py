"""Seconds and calls of f that varflow and vegas take to a relative error, on integrands that cost little.

    python tests/benchmarks/beside_vegas.py --vegas-python PYTHON [case ...] [--rounds 3] [--rtol 1e-3 1e-4]

PYTHON is the interpreter of an environment that has vegas 6 and SciPy. The two take turns, each in a process
of its own that has imported and compiled everything before the clock starts; figures are medians over the
rounds, each with a seed of its own. varflow runs `vf.integrate(f, d, rtol=rtol)`, on all cores. vegas runs a
batch integrand with its defaults: it adapts in five iterations, then integrates in ten, and does so again
with twice the points an iteration, going on from the same map, until the error is reached. All calls count.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from integrands import CHEAP
from results import peer_versions, record, run_code

LIMIT = 1_000_000_000  # calls of f, after which a run is ended

BEGIN = """
import json, sys
from time import perf_counter
options = json.loads(sys.argv[1])
sys.path.insert(0, options["folder"])
import numpy as np
from integrands import CHEAP
case, rtol, seed, limit = CHEAP[options["case"]], options["rtol"], options["seed"], options["limit"]
"""

END = """
print(json.dumps(dict(calls=int(calls), seconds=seconds, mean=float(mean), sdev=float(sdev),
                      reached=bool(sdev <= rtol * abs(mean)), pull=float((mean - case.exact) / sdev))))
"""

VARFLOW = """
import varflow as vf
vf.integrate(case.f, case.d, n_calls=20_000, seed=0)  # compiles
begin = perf_counter()
result = vf.integrate(case.f, case.d, rtol=rtol, n_calls=limit, seed=seed)
seconds = perf_counter() - begin
calls, mean, sdev = result.n_calls, result.mean, result.sdev
"""

VEGAS = """
import gvar, vegas
calls = 0
@vegas.lbatchintegrand
def f(x):
    global calls
    calls += len(x)
    return case.f(np.asarray(x))
vegas.Integrator(case.d * [[0, 1]])(f, nitn=2, neval=1000)
gvar.ranseed(seed)
calls, neval = 0, 1000
begin = perf_counter()
integrator = vegas.Integrator(case.d * [[0, 1]])
integrator(f, nitn=5, neval=neval)
while True:
    result = integrator(f, nitn=10, neval=neval)
    if result.sdev <= rtol * abs(result.mean) or calls + 20 * neval > limit:
        break
    neval *= 2
seconds = perf_counter() - begin
mean, sdev = result.mean, result.sdev
"""


def run(python: str, code: str, **options: Any) -> dict[str, Any]:
    """Run the code of one side in a process of its own."""
    folder = str(Path(__file__).resolve().parent)
    return run_code(python, BEGIN + code + END, {"folder": folder, **options})


def compare(case: str, rtol: float, vegas_python: str, rounds: int) -> dict[str, Any]:
    """Medians of calls and seconds of both, and the largest pulls."""
    options = {"case": case, "rtol": rtol, "limit": LIMIT}
    pairs = [
        {
            "vegas": run(vegas_python, VEGAS, seed=seed, **options),
            "varflow": run(sys.executable, VARFLOW, seed=seed, **options),
        }
        for seed in range(1, rounds + 1)
    ]
    return {
        "rounds": rounds,
        **{
            who: {
                "calls": median(pair[who]["calls"] for pair in pairs),
                "seconds": median(pair[who]["seconds"] for pair in pairs),
                "reached": all(pair[who]["reached"] for pair in pairs),
                "largest_pull": max(abs(pair[who]["pull"]) for pair in pairs),
            }
            for who in ("vegas", "varflow")
        },
    }


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="case", help=f"among {', '.join(CHEAP)}")
    parser.add_argument("--vegas-python", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rtol", nargs="+", default=["1e-3", "1e-4"])
    options = parser.parse_args()
    if unknown := [name for name in options.cases if name not in CHEAP]:
        parser.error(f"there is no {', '.join(unknown)}, but {', '.join(CHEAP)}")
    peers = peer_versions(options.vegas_python, ["vegas"])
    for case in options.cases or CHEAP:
        for rtol in options.rtol:
            figures = compare(case, float(rtol), options.vegas_python, options.rounds)
            print(json.dumps({"case": case, "rtol": rtol, **figures}), flush=True)
            record("seconds", f"{case}, {rtol}", figures, peers=peers)


if __name__ == "__main__":
    main()
