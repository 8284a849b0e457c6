"""Integrals from people's work with known values, beside vegas at equal calls, with pulls.

    python tests/benchmarks/known_integrals.py --peers-python PYTHON [case ...] [--calls 400000] [--seeds 5]

Cases are `APPLICATIONS` of `applications.py`; each is recorded as soon as it is measured, so that they may be
measured in parts. varflow as it comes; vegas adapts in ten iterations with half of the calls, and averages
ten more with the other half. For both: the stated error, relative to the integral, as a geometric mean over
the seeds; the root mean square of (estimate - exact) / exact; the largest |estimate - exact| / error, and the
largest of the results that came without a warning; how many had one.
"""

import argparse
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from applications import APPLICATIONS
from integrands import Case
from results import peer_versions, record

import varflow as vf

Estimate = tuple[float, float, bool]  # mean, error, and whether there was a warning

VEGAS = """
import json, sys
import gvar, numpy as np, vegas
sys.path.insert(0, sys.argv[1])
from applications import APPLICATIONS
case, n_calls = APPLICATIONS[sys.argv[2]], int(sys.argv[3])
found = []
for seed in range(int(sys.argv[4])):
    gvar.ranseed(seed)
    f = vegas.lbatchintegrand(lambda x: case.f(np.asarray(x)))
    integrator = vegas.Integrator([[0, 1]] * case.d)
    integrator(f, nitn=10, neval=n_calls // 20)
    result = integrator(f, nitn=10, neval=n_calls // 20, adapt=False)
    found.append([float(result.mean), float(result.sdev), False])
print(json.dumps(found))
"""


def of_varflow(case: Case, n_calls: int, n_seeds: int) -> list[Estimate]:
    """Estimates of varflow."""
    results = [vf.integrate(case.f, case.d, n_calls=n_calls, seed=seed) for seed in range(n_seeds)]
    return [(result.mean, result.sdev, bool(result.warnings)) for result in results]


def of_vegas(python: str, name: str, n_calls: int, n_seeds: int) -> list[Estimate]:
    """Estimates of vegas, in a process of its environment."""
    folder = str(Path(__file__).parent)
    command = [python, "-W", "ignore", "-c", VEGAS, folder, name, str(n_calls), str(n_seeds)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: list[Estimate] = json.loads(out)
    return found


def figures_of(found: list[Estimate], exact: float) -> dict[str, Any]:
    """Summarise estimates over seeds; None for what is not finite or cannot be told."""
    means, errors, warned = (np.array(part) for part in zip(*found, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        pulls = np.abs(means - exact) / errors
        stated = float(np.exp(np.mean(np.log(errors / abs(exact)))))
    silent = pulls[~warned]
    figures = {
        "error": stated,
        "rms": float(np.sqrt(np.mean(np.square(means / exact - 1)))),
        "largest_pull": float(pulls.max()),
        "largest_silent_pull": float(silent.max()) if len(silent) else math.nan,
        "n_warned": int(np.count_nonzero(warned)),
    }
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def main() -> None:
    """Measure and record the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(APPLICATIONS), metavar="case")
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--calls", type=int, default=400_000)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    peers = peer_versions(options.peers_python, ["vegas"])
    for name in options.cases:
        case, sizes = APPLICATIONS[name], (options.calls, options.seeds)
        figures = {
            "n_calls": options.calls,
            "n_seeds": options.seeds,
            "varflow": figures_of(of_varflow(case, *sizes), case.exact),
            "vegas": figures_of(of_vegas(options.peers_python, name, *sizes), case.exact),
        }
        record("known_integrals", f"{name} {options.calls}", figures, peers=peers)


if __name__ == "__main__":
    main()
