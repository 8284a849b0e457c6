"""Integrals with few calls of f, beside vegas, MadNIS and plain Sobol points.

    python tests/benchmarks/few_calls.py errors --peers-python PYTHON [--calls 1000] [--seeds 5] [--cases ...]
    python tests/benchmarks/few_calls.py pulls [--calls 1000] [--seeds 200]

`errors`: root mean square of (estimate - exact) / exact over the seeds, of varflow as it comes, of vegas with
ten iterations, of MadNIS, and of one scrambled Sobol set; cases are `IFLOW` up to 18 dimensions and `CHEAP`
of `integrands.py`, and `APPLICATIONS` of `applications.py`. MadNIS trains on three quarters of the calls, in
15 batches with five steps on earlier points after each, and estimates with the last quarter. `pulls`: mean
and standard deviation of (estimate - exact) / error.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from applications import APPLICATIONS
from integrands import CHEAP, IFLOW, Case
from results import peer_versions, record
from scipy.stats import qmc

import varflow as vf

MAX_D = 18
MAX_SECONDS = 240  # of a peer: MadNIS draws for ever where all weights are 0
PUBLISHED = {name: case for name, case in {**IFLOW, **CHEAP}.items() if case.d <= MAX_D and name != "rings"}
CASES = {**PUBLISHED, **APPLICATIONS}
PULLED = "camel4", "resonances", "gauss4", "corner"

CASE = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from applications import APPLICATIONS
from integrands import CHEAP, IFLOW
case = {**IFLOW, **CHEAP, **APPLICATIONS}[sys.argv[2]]
n_calls, n_seeds = int(sys.argv[3]), int(sys.argv[4])
means = []
"""
VEGAS = (
    CASE
    + """
import vegas
for seed in range(n_seeds):
    np.random.seed(seed)
    f = vegas.batchintegrand(lambda x: case.f(np.asarray(x)))
    means.append(vegas.Integrator([[0, 1]] * case.d)(f, nitn=10, neval=n_calls // 10).mean)
print(json.dumps(means))
"""
)
MADNIS_CASE = (
    CASE
    + """
import torch
from madnis.integrator import Integrator
torch.set_flush_denormal(True)
torch.set_num_threads(1)
f = lambda x: torch.as_tensor(case.f(np.clip(x.double().numpy(), 1e-12, 1 - 1e-7)), dtype=torch.float32)
"""
)
MADNIS = (
    MADNIS_CASE
    + """
for seed in range(n_seeds):
    torch.manual_seed(seed)
    settings = dict(batch_size=n_calls // 20, buffer_capacity=n_calls, buffered_steps=5, learning_rate=1e-3)
    integrator = Integrator(f, dims=case.d, **settings)
    integrator.train(15 * 6)
    means.append(float(integrator.sample(n_calls // 4).weights.double().mean()))
print(json.dumps(means))
"""
)


def relative_rms(means: list[float], exact: float) -> float | None:
    """Root mean square of the relative errors; None where there are no estimates."""
    return float(np.sqrt(np.mean((np.array(means) / exact - 1) ** 2))) if means else None


def of_peer(
    script: str, python: str, name: str, n_calls: int, n_seeds: int, max_seconds: float | None = None
) -> list[float]:
    """Estimates of a peer, in its own environment; none where it does not come to an end in that time."""
    arguments = [str(Path(__file__).parent), name, str(n_calls), str(n_seeds)]
    command = [python, "-W", "ignore", "-c", script, *arguments]
    try:
        out = subprocess.run(command, check=True, capture_output=True, timeout=max_seconds)
    except subprocess.TimeoutExpired:
        return []
    means: list[float] = json.loads(out.stdout)
    return means


def of_sobol(case: Case, n_calls: int, n_seeds: int) -> list[float]:
    """Estimates by one scrambled Sobol set each."""
    return [
        float(case.f(qmc.Sobol(case.d, rng=seed, bits=53).random(n_calls)).mean()) for seed in range(n_seeds)
    ]


def errors(options: argparse.Namespace) -> None:
    """Compare the errors of all cases."""
    peers = peer_versions(options.peers_python, ["vegas", "madnis", "torch"])
    for name in options.cases or CASES:
        case, begin = CASES[name], time.perf_counter()
        results = [
            vf.integrate(case.f, case.d, n_calls=options.calls, seed=seed, threads=1)
            for seed in range(options.seeds)
        ]
        seconds = (time.perf_counter() - begin) / options.seeds
        figures = {
            "n_calls": options.calls,
            "n_seeds": options.seeds,
            "varflow": relative_rms([one.mean for one in results], case.exact),
            "stated": float(np.median([one.sdev for one in results]) / case.exact),
            **{
                peer: relative_rms(
                    of_peer(script, options.peers_python, name, options.calls, options.seeds, MAX_SECONDS),
                    case.exact,
                )
                for peer, script in (("vegas", VEGAS), ("madnis", MADNIS))
            },
            "sobol": relative_rms(of_sobol(case, options.calls, options.seeds), case.exact),
            "seconds": seconds,
        }
        record("few_calls", f"{name} {options.calls}", figures, peers=peers)


def pulls(options: argparse.Namespace) -> None:
    """Measure how honest the errors are."""
    for name in options.cases or PULLED:
        case, found = CASES[name], []
        for seed in range(options.seeds):
            result = vf.integrate(case.f, case.d, n_calls=options.calls, seed=seed, threads=1)
            found.append((result.mean - case.exact) / result.sdev)
        figures: dict[str, Any] = {
            "n_calls": options.calls,
            "n_seeds": options.seeds,
            "mean": float(np.mean(found)),
            "sdev": float(np.std(found)),
        }
        record("few_calls_pulls", f"{name} {options.calls}", figures)


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["errors", "pulls"])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cases", nargs="*", choices=CASES)
    parser.add_argument("--peers-python", default="python")
    options = parser.parse_args()
    {"errors": errors, "pulls": pulls}[options.what](options)


if __name__ == "__main__":
    main()
