"""Calls of f for the integrals of a family at 100 values of a parameter, each to a relative error.

    python tests/benchmarks/family.py --vegas-python PYTHON [case ...] [--rtol 1e-3] [--rounds 3] [--every 10]

PYTHON is the interpreter of an environment that has vegas 6. Three ways: `vf.integrate_family`, all values at
once, in so many rounds with seeds of their own; `vf.integrate` for a value at a time, with
`deterministic=True`, which weighs training by the calls that it saves; and vegas likewise, as in
beside_vegas.py. The runs of their own take long: `--every 10` has every tenth value, from which the calls for
all of them are taken. All calls count, and what is told of the errors are pulls, in standard deviations.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from families import FAMILIES
from results import peer_versions, record, run_code

BEGIN = """
import json, sys
from time import perf_counter
options = json.loads(sys.argv[1])
sys.path.insert(0, options["folder"])
import numpy as np
from families import FAMILIES
case, rtol, seed = FAMILIES[options["case"]], options["rtol"], options["seed"]
theta = case.theta[:: options["every"]]
exact = np.array([case.exact(value) for value in theta[:, 0]])
"""

END = """
pulls = (mean - exact) / sdev
print(json.dumps(dict(calls=[int(n) for n in calls], seconds=seconds, surveyed=surveyed,
                      error=float((sdev / abs(mean)).max()), pull=float(np.sqrt(np.mean(pulls**2))),
                      largest=float(abs(pulls).max()))))
"""

FAMILY = """
import varflow as vf
vf.integrate(lambda x: x[:, 0], case.d, n_calls=40_000, seed=0)  # compiles
begin = perf_counter()
result = vf.integrate_family(case.f, case.d, theta, rtol=rtol, n_calls=50_000_000, seed=seed)
seconds = perf_counter() - begin
calls, surveyed, mean, sdev = result.n_calls, result.n_survey, result.mean, result.sdev
"""

OWN = """
import varflow as vf
vf.integrate(lambda x: x[:, 0], case.d, n_calls=40_000, seed=0)  # compiles
begin, results = perf_counter(), []
for k, value in enumerate(theta):
    f = lambda x: case.f(x, np.broadcast_to(value, (len(x), 1)))
    results.append(vf.integrate(f, case.d, rtol=rtol, n_calls=5_000_000, seed=seed + k, deterministic=True))
seconds, surveyed = perf_counter() - begin, 0
calls = [result.n_calls for result in results]
mean, sdev = (np.array([getattr(result, name) for result in results]) for name in ("mean", "sdev"))
"""

VEGAS = """
import gvar, vegas
begin, found, calls, surveyed = perf_counter(), [], [], 0
gvar.ranseed(seed)
for value in theta:
    n = [0]
    @vegas.lbatchintegrand
    def f(x):
        n[0] += len(x)
        return case.f(np.asarray(x), np.broadcast_to(value, (len(x), 1)))
    integrator, neval = vegas.Integrator(case.d * [[0, 1]]), 1000
    integrator(f, nitn=5, neval=neval)
    while True:
        result = integrator(f, nitn=10, neval=neval)
        if result.sdev <= rtol * abs(result.mean) or n[0] > 100_000_000:
            break
        neval *= 2
    found.append((result.mean, result.sdev))
    calls.append(n[0])
seconds = perf_counter() - begin
mean, sdev = np.array(found).T
"""


def run(python: str, code: str, **options: Any) -> dict[str, Any]:
    """Run the code of one side in a process of its own."""
    folder = str(Path(__file__).resolve().parent)
    return run_code(python, BEGIN + code + END, {"folder": folder, **options})


def main() -> None:
    """Parse arguments, measure and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(FAMILIES))
    parser.add_argument("--vegas-python", required=True)
    parser.add_argument("--rtol", type=float, default=1e-3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--every", type=int, default=1, help="of the values, that have a varflow run of their own"
    )
    options = parser.parse_args()
    for case in options.cases or FAMILIES:
        common = {"case": case, "rtol": options.rtol}
        family = [run(sys.executable, FAMILY, seed=seed, every=1, **common) for seed in range(options.rounds)]
        vegas = run(options.vegas_python, VEGAS, seed=1, every=1, **common)
        own = run(sys.executable, OWN, seed=1, every=options.every, **common)
        figures = {"rtol": options.rtol, "family": family, "own": own, "vegas": vegas}
        record("family", case, figures, peers=peer_versions(options.vegas_python, ("vegas",)))
        print(case, json.dumps(figures)[:400])


if __name__ == "__main__":
    main()
