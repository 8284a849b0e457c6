"""Bayesian evidences by the logarithm of the integrand, beside nautilus and dynesty.

    python tests/benchmarks/evidence.py --peers-python PYTHON [--calls 30000 100000] [--seeds 5] [--cases ...]

Errors of log Z: root mean square over the seeds, and the median of those that are told. varflow runs as it
comes, with each of the numbers of calls; nautilus and dynesty with their defaults, one seed each, until they
say that they are done, or nautilus also with at most as many calls as varflow has first.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from evidences import EVIDENCES
from results import peer_versions, record

import varflow as vf

MAX_SECONDS = 600  # of a peer

PEER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from evidences import EVIDENCES
log_likelihood, d, _ = EVIDENCES[sys.argv[2]]
n_calls = int(sys.argv[3])
begin = time.perf_counter()
"""
NAUTILUS = (
    PEER
    + """
from nautilus import Sampler
sampler = Sampler(lambda u: u, log_likelihood, n_dim=d, vectorized=True, seed=1)
sampler.run(n_like_max=n_calls or np.inf)
told = sampler.n_eff ** -0.5
print(json.dumps([sampler.log_z, told, int(sampler.n_like), time.perf_counter() - begin]))
"""
)
DYNESTY = (
    PEER
    + """
from dynesty import NestedSampler
one = lambda u: float(log_likelihood(u[None])[0])
sampler = NestedSampler(one, lambda u: u, d, rstate=np.random.default_rng(1))
sampler.run_nested(print_progress=False)
found = sampler.results
calls = int(np.sum(found.ncall))
print(json.dumps([found.logz[-1], found.logzerr[-1], calls, time.perf_counter() - begin]))
"""
)


def of_varflow(name: str, n_calls: int, n_seeds: int) -> dict[str, Any]:
    """Figures of varflow, over the seeds."""
    log_likelihood, d, log_z = EVIDENCES[name]
    begin = time.perf_counter()
    results = [
        vf.integrate(log_likelihood, d, n_calls=n_calls, log=True, seed=seed, threads=1)
        for seed in range(n_seeds)
    ]
    off = np.array([one.log_mean - log_z for one in results])
    told = np.array([one.log_sdev for one in results])
    return {
        "who": "varflow",
        "n_calls": n_calls,
        "n_seeds": n_seeds,
        "off": float(np.sqrt(np.mean(off**2))),
        "told": float(np.median(told)),
        "farthest": float(np.max(np.abs(off) / told)),
        "n_warned": sum(bool(one.warnings) for one in results),
        "seconds": (time.perf_counter() - begin) / n_seeds,
    }


def of_peer(who: str, script: str, python: str, name: str, n_calls: int) -> dict[str, Any] | None:
    """Figures of a peer, in its own environment; None where it does not come to an end."""
    arguments = [str(Path(__file__).parent), name, str(n_calls)]
    command = [python, "-W", "ignore", "-c", script, *arguments]
    try:
        out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    log_z, told, calls, seconds = json.loads(out.stdout.splitlines()[-1])
    off = abs(log_z - EVIDENCES[name][2])
    figures = {"who": who, "n_calls": calls, "n_seeds": 1, "off": off, "told": told, "farthest": off / told}
    return {**figures, "seconds": seconds}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, nargs="+", default=[30_000, 100_000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cases", nargs="*", choices=EVIDENCES)
    parser.add_argument("--peers-python", default="python")
    options = parser.parse_args()
    peers = peer_versions(options.peers_python, ["nautilus-sampler", "dynesty"])
    for name in options.cases or EVIDENCES:
        for n_calls in options.calls:
            figures = of_varflow(name, n_calls, options.seeds)
            record("evidence", f"{name} varflow {n_calls}", figures, peers=peers)
        for who, script, n_calls in (
            ("nautilus", NAUTILUS, options.calls[0]),
            ("nautilus", NAUTILUS, 0),
            ("dynesty", DYNESTY, 0),
        ):
            found = of_peer(who, script, options.peers_python, name, n_calls)
            if found is not None:
                record("evidence", f"{name} {who} {n_calls or 'to its end'}", found, peers=peers)


if __name__ == "__main__":
    main()
