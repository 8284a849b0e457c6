"""Error against all calls of f, from 10^4 to 10^7, beside vegas and MadNIS.

    python tests/benchmarks/error_by_calls.py measure --peers-python PYTHON [--cases ...] [--calls ...]
    python tests/benchmarks/error_by_calls.py draw

`measure`: root mean square of (estimate - exact) / exact over the seeds; all calls count, those of training
too. varflow as it comes; vegas adapts in ten iterations with half of the calls, and averages ten more with
the other half; MadNIS trains on half of the calls, but 500 000 at most, in batches of up to 1024 with five
steps on earlier points after each, and estimates with all that are left. `draw` makes the picture
`examples/error_by_calls.png` from what was recorded.
"""

import argparse
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from few_calls import CASE, MADNIS_CASE, of_peer, relative_rms
from integrands import CHEAP, Case
from results import ROOT, latest, peer_versions, record

import varflow as vf
from varflow.plots.picture import AFTER, BEFORE, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = ROOT / "examples" / "error_by_calls.png"
CASES = "two peaks", "ridge", "resonances", "corner"
CALLS = 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000
MADNIS_GREEN = "#009E73"  # of Okabe and Ito, as the other colours
SHOWN = {"varflow": (AFTER, "o"), "vegas": (BEFORE, "s"), "madnis": (MADNIS_GREEN, "^")}  # colour and marker
NAMES = {"varflow": "varflow", "vegas": "vegas", "madnis": "MadNIS"}

VEGAS = (
    CASE
    + """
import vegas
for seed in range(n_seeds):
    np.random.seed(seed)
    f = vegas.batchintegrand(lambda x: case.f(np.asarray(x)))
    integrator = vegas.Integrator([[0, 1]] * case.d)
    integrator(f, nitn=10, neval=n_calls // 20)
    means.append(integrator(f, nitn=10, neval=n_calls // 20).mean)
print(json.dumps(means))
"""
)
MADNIS = (
    MADNIS_CASE
    + """
n_training = min(n_calls // 2, 500_000)
batch = min(1024, n_training // 15)
for seed in range(n_seeds):
    torch.manual_seed(seed)
    settings = dict(batch_size=batch, buffer_capacity=100_000, buffered_steps=5, learning_rate=1e-3)
    integrator = Integrator(f, dims=case.d, **settings)
    integrator.train(6 * (n_training // batch))  # one step in six draws new points
    left = n_calls - n_training
    parts = [min(100_000, left - begin) for begin in range(0, left, 100_000)]
    total = sum(float(integrator.sample(n).weights.double().sum()) for n in parts)
    means.append(total / left)
print(json.dumps(means))
"""
)


def of_varflow(case: Case, n_calls: int, n_seeds: int) -> list[float]:
    """Estimates of varflow."""
    return [
        vf.integrate(case.f, case.d, n_calls=n_calls, seed=seed, threads=1).mean for seed in range(n_seeds)
    ]


def measure(options: argparse.Namespace) -> None:
    """Measure and record the errors of each case at each number of calls."""
    python = options.peers_python
    peers = peer_versions(python, ["vegas", "madnis", "torch"])
    for n_calls in options.calls:
        for name in options.cases:
            case, begin = CHEAP[name], perf_counter()
            means = {"varflow": of_varflow(case, n_calls, options.seeds)}
            seconds = (perf_counter() - begin) / options.seeds
            for peer, script in (("vegas", VEGAS), ("madnis", MADNIS)):
                means[peer] = of_peer(script, python, name, n_calls, options.seeds)
            figures = {
                "integrand": name,
                "d": case.d,
                "n_calls": n_calls,
                "n_seeds": options.seeds,
                **{who: relative_rms(estimates, case.exact) for who, estimates in means.items()},
                "seconds": seconds,
            }
            record("error_by_calls", f"{name} {n_calls}", figures, peers=peers)


def picture() -> "Figure":
    """Draw what was recorded, a panel for each integrand."""
    lines = [line["figures"] for line in latest("error_by_calls").values()]
    figure, all_axes = panels(2, 2)
    for name, axes in zip(CASES, all_axes, strict=True):
        of_case = sorted(
            (one for one in lines if one["integrand"] == name), key=lambda figures: figures["n_calls"]
        )
        calls = np.array([one["n_calls"] for one in of_case])
        for who, (colour, marker) in SHOWN.items():
            errors = [one[who] for one in of_case]
            axes.plot(calls, errors, marker=marker, markersize=5, color=colour, label=NAMES[who])
        axes.set(title=f"{name}, d = {of_case[0]['d']}", xscale="log", yscale="log")
        axes.set(xlabel="calls of f, training included", ylabel="relative error")
    all_axes[0].legend()
    return figure


def draw(options: argparse.Namespace) -> None:
    """Write the picture."""
    picture().savefig(options.output)


def main() -> None:
    """Measure or draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["measure", "draw"])
    parser.add_argument("--peers-python", default="python")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=CASES)
    parser.add_argument("--calls", nargs="*", type=int, default=CALLS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=PICTURE, help="where the picture goes")
    options = parser.parse_args()
    {"measure": measure, "draw": draw}[options.what](options)


if __name__ == "__main__":
    main()
