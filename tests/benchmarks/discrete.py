"""Errors of sums over discrete states after 400 000 calls of f, beside MadNIS.

    python tests/benchmarks/discrete.py --peers-python PYTHON [case ...] [--rounds 3]

PYTHON is the interpreter of an environment that has MadNIS 1.0 and PyTorch. `vf.integrate` has 400 000 calls,
as it comes; MadNIS has 300 000 to train on, with a buffer, and 100 000 whose scatter is its error, as for all
comparisons with it. Both learn the probabilities of the states and, given them, a flow of the rest. Pulls are
(estimate - exact) / error.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from discrete_sums import SUMS
from results import peer_versions, record, run_code

BEGIN = """
import json, sys
from time import perf_counter
options = json.loads(sys.argv[1])
sys.path.insert(0, options["folder"])
import numpy as np
from discrete_sums import SUMS
case, seed, n_calls = SUMS[options["case"]], options["seed"], [0]
def f(x):
    n_calls[0] += len(x)
    return case.f(x)
begin = perf_counter()
"""

END = """
seconds = perf_counter() - begin
pull = (mean - case.exact) / error
print(json.dumps(dict(error=error / case.exact, pull=pull, calls=n_calls[0], seconds=seconds)))
"""

VARFLOW = """
import varflow as vf
bounds = [vf.Discrete(k) for k in case.sizes] + [(0, 1)] * case.d
result = vf.integrate(f, bounds, n_calls=400_000, seed=seed)
mean, error = result.mean, result.sdev
"""

MADNIS = """
import torch
from madnis.integrator import Integrand, Integrator
from madnis.nn import DiscreteMADE
class Made(DiscreteMADE):
    def log_prob(self, x, c=None, channel=None):  # its buffer keeps states as float, which it refuses itself
        return super().log_prob(x.long(), c, channel)
torch.manual_seed(seed)
torch.set_num_threads(1)
torch.set_flush_denormal(True)
given = lambda x: torch.as_tensor(f(x.double().numpy()), dtype=torch.float32)
integrand = Integrand(given, len(case.sizes) + case.d, discrete_dims=list(case.sizes))
own = {} if case.d else dict(flow=Made(list(case.sizes)))
buffer = dict(buffer_capacity=100_000, buffered_steps=5)
it = Integrator(integrand, **own, **buffer, batch_size=1024, learning_rate=1e-3)
it.train(6 * (300_000 // 1024))  # one online step in six draws new points
weights = it.sample(100_000).weights.double().numpy().ravel()
mean, error = weights.mean(), weights.std(ddof=1) / len(weights) ** 0.5
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
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(SUMS))
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for case in options.cases or SUMS:
        seeds = range(1, options.rounds + 1)
        varflow = [run(sys.executable, VARFLOW, case=case, seed=seed) for seed in seeds]
        madnis = [run(options.peers_python, MADNIS, case=case, seed=seed) for seed in seeds]
        figures = {"varflow": varflow, "madnis": madnis}
        record("discrete", case, figures, peers=peer_versions(options.peers_python, ("madnis", "torch")))
        print(case, json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
