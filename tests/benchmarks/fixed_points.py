"""Training on a fixed set of weighted points, beside ZüNIS: a line of JSON a case, also kept in `results`.

    python tests/benchmarks/fixed_points.py accuracy|settings|peers|flows|pulls
        [-n N ...] [--seeds K] [--cells CELL ...] [--cases NAME ...] [--zunis-python PYTHON]

PYTHON is the interpreter of an environment that has ZüNIS 0.3 and PyTorch. Flows are judged by the relative
variance of f/q, as the mean of (f - q)^2 / (p q) over 200 000 other points of p, f in units of its integral.
Points are uniform, or of the density prod 6 x (1 - x). "dalitz" compiles `examples/dalitz.c`.

accuracy  `vf.train` as it comes
settings  the same, but for one setting
peers     the same, and 60 epochs of ZüNIS, of which the judging points choose the best, in turn in one run
flows     one flow, four flows mixed, and one flow of about four times as many parameters
pulls     (figure of `vf.evaluate` on a tenth of the points - judged) / error
"""

import argparse
import json
import math
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from integrands import annulus, box, camel, circles, gauss
from results import ROOT, peer_versions, record

import varflow as vf
from varflow.flow.architecture import Architecture
from varflow.flow.defaults import default_sizes
from varflow.training.recipe import n_epochs_for, optimiser_for, rows_a_step

N_JUDGING = 200_000
JUDGING_SEED = 2
EPOCHS = 60  # of ZüNIS

ZUNIS = """
import json, logging, sys, warnings
warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
import numpy as np, torch
from time import perf_counter
from zunis.training.weighted_dataset.stateful_trainer import StatefulTrainer
cell, epochs, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
a = np.load(path)
torch.manual_seed(1)
torch.set_flush_denormal(True)
n, d = a["x"].shape
batch = min(500, n // 8)
trainer = StatefulTrainer(d=d, loss="variance", flow=cell, n_epochs=1, checkpoint=False, minibatch_size=batch,
    flow_options=dict(masking="iflow", cell_params=dict(d_hidden=64, n_hidden=2, n_bins=16)))
optim, flow = torch.optim.Adam(trainer.flow.parameters(), lr=1e-3), trainer.flow
arrays = a["x"], a["p"], a["f"] / np.mean(a["f"] / a["p"])
X, P, F = (torch.as_tensor(array, dtype=torch.float32) for array in arrays)
def relative_variance():
    if not flow.inverse:
        flow.invert()
    log_q = []
    with torch.no_grad():
        for i in range(0, len(a["jx"]), 50_000):
            b = torch.as_tensor(a["jx"][i : i + 50_000], dtype=torch.float32)
            z = flow(torch.cat([b, torch.zeros(len(b), 1)], 1))
            log_q.append((z[:, -1] + trainer.latent_prior.log_prob(z[:, :-1])).double().numpy())
    f, q = a["jf"] / np.mean(a["jf"] / a["jp"]), np.exp(np.concatenate(log_q))
    return float(np.mean((f - q) ** 2 / (a["jp"] * q)))
best, seconds = (float("inf"), 0), 0.0
for epoch in range(1, epochs + 1):
    begin = perf_counter()
    order = torch.randperm(n)
    for k in range(0, n - batch + 1, batch):
        rows = order[k : k + batch]
        trainer.train_step_on_target_minibatch(X[rows], P[rows], F[rows], optim)
    seconds += perf_counter() - begin
    if epoch % 5 == 0:
        best = min(best, (relative_variance(), epoch))
print(json.dumps(dict(variance=best[0], epoch=best[1], seconds=seconds)))
"""


class Points(NamedTuple):
    """Points x (n, d), the density p (n,) that they are from, and f (n,)."""

    x: np.ndarray
    px: np.ndarray
    fx: np.ndarray


class Case(NamedTuple):
    """An integrand, and whether its points are uniform."""

    d: int
    f: Callable[[np.ndarray], np.ndarray]
    is_uniform: bool


def resonances(x: np.ndarray) -> np.ndarray:
    """Two resonances in sums of coordinates, in six dimensions."""
    s, t = x[:, :3].sum(1), x[:, 2:].sum(1)
    return 0.05 / ((s - 1.2) ** 2 + 0.05**2) * (0.1 / ((t - 2.2) ** 2 + 0.1**2))


def correlated(x: np.ndarray) -> np.ndarray:
    """A Gaussian in six dimensions whose neighbouring coordinates are correlated by 0.9."""
    y = (x - 0.5) / 0.12
    return np.exp(-0.5 * (y[:, 0] ** 2 + np.sum((y[:, 1:] - 0.9 * y[:, :-1]) ** 2, axis=1) / (1 - 0.81)))


def needle(x: np.ndarray) -> np.ndarray:
    """A peak in three dimensions, narrow where the points are wide."""
    return np.exp(-0.5 * np.sum(((x - [0.3, 0.6, 0.45]) / [0.02, 0.05, 0.08]) ** 2, axis=1))


def ridge(x: np.ndarray) -> np.ndarray:
    """A resonance on the diagonal between two dimensions of four, and a step in the third."""
    return (1 + x[:, 3]) * (x[:, 2] > 0.3) / ((x[:, 0] - x[:, 1]) ** 2 + 0.05**2)


CASES = {
    "camel, d=4": Case(4, camel, True),
    "Gaussian, d=8": Case(8, gauss, False),
    "two circles, d=2": Case(2, circles, True),
    "box, d=3": Case(3, box, True),
    "camel, d=2": Case(2, camel, False),
    "dalitz, d=5": Case(5, gauss, True),  # f is that of the program
    "resonances, d=6": Case(6, resonances, True),
    "correlated peak, d=6": Case(6, correlated, False),
    "annulus, d=2": Case(2, annulus, True),
    "needle, d=3": Case(3, needle, True),
    "ridge, d=4": Case(4, ridge, True),
}
BESIDE_PEERS = tuple(CASES)[:6]


@cache
def dalitz_program() -> str:
    """Compile the example."""
    program = str(Path(tempfile.mkdtemp()) / "dalitz")
    subprocess.run(["cc", "-O2", "-o", program, str(ROOT / "examples" / "dalitz.c"), "-lm"], check=True)
    return program


def points(name: str, n: int, seed: int) -> Points:
    """Draw points of a case."""
    case = CASES[name]
    if name.startswith("dalitz"):
        command = [dalitz_program(), str(n), str(1000 + seed)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        table = np.array([line.split(",") for line in lines[1:]], float)
        return Points(np.ascontiguousarray(table[:, :-2]), table[:, -2], table[:, -1])
    rng = np.random.default_rng(seed)
    if case.is_uniform:
        x = rng.random((n, case.d))
        return Points(x, np.ones(n), case.f(x))
    x = np.clip(rng.beta(2, 2, (n, case.d)), 1e-9, 1 - 1e-9)
    return Points(x, (6 * x * (1 - x)).prod(1), case.f(x))


@cache
def judging(name: str) -> Points:
    """Points to judge by."""
    return points(name, N_JUDGING, JUDGING_SEED)


def judged(flow: vf.Flow | vf.Mixture, name: str) -> float:
    """Relative variance of f/q on the judging points."""
    x, px, fx = judging(name)
    f, q = fx / np.mean(fx / px), np.exp(flow.log_prob(x))
    return float(np.mean((f - q) ** 2 / (px * q)))


def trained(name: str, n: int, seed: int, **options: Any) -> dict[str, Any]:
    """Train on points of a case as it comes, but for the options; judge."""
    data = vf.Dataset(*points(name, n, seed if seed != JUDGING_SEED else 0))
    begin = time.perf_counter()
    training = vf.train(data, seed=seed, **options)
    seconds = time.perf_counter() - begin
    figures = training.evaluation
    return {
        "variance": judged(training.flow, name),
        "seconds": seconds,
        "figure": figures.variance_after,
        "error": figures.variance_after_error,
        "warnings": training.warnings,
    }


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean of positive numbers."""
    return math.exp(float(np.mean(np.log(list(values)))))


def summary(name: str, n: int, seeds: int, **options: Any) -> dict[str, Any]:
    """Figures of trainings with several seeds."""
    runs = [trained(name, n, seed, **options) for seed in range(1, seeds + 1)]
    return {
        "variance": geometric_mean(run["variance"] for run in runs),
        "variances": [float(f"{run['variance']:.4g}") for run in runs],
        "seconds": float(np.median([run["seconds"] for run in runs])),
        "warned": sum(bool(run["warnings"]) for run in runs),
    }


def accuracy(options: argparse.Namespace) -> None:
    """Measure trainings as they come."""
    for n in options.n:
        for cell in options.cells:
            for name in options.cases or CASES:
                record("fixed_points", f"{name}, {cell}, n={n}", summary(name, n, options.seeds, cell=cell))


SETTINGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no control variate": {"control_variate": False},
    "DKL loss": {"loss": "dkl"},
    "half the epochs": {"epochs": 0.5},
    "twice the epochs": {"epochs": 2.0},
    "minibatches of half the size": {"rows": 0.5},
    "minibatches of twice the size": {"rows": 2.0},
    "learning rate 0.002": {"lr": 0.002},
    "learning rate 0.01": {"lr": 0.01},
    "no weight decay": {"weight_decay": 0.0},
    "no average of the parameters": {"average": 0.0},
    "no warm-up": {"warm_up": 0},
    "nothing held out for the best epoch": {"holdout": 0.0},
    "a fifth held out": {"holdout": 0.2},
    "4 bins": {"n_bins": 4},
    "twice the bins": {"n_bins": 16},
    "width 32": {"d_hidden": 32},
    "width 128": {"d_hidden": 128},
    "one more hidden layer": {"n_hidden": 1},
    "one more repetition of the masks": {"repetitions": 1},
    "rqs": {"cell": "rqs"},
    "checkerboard": {"masking": "checkerboard"},
}
ADDED = "n_hidden", "repetitions"
SIZES = "n_bins", "d_hidden", "masking", *ADDED


def changed(n: int, d: int, change: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `train` that differ from the recipe in one setting."""
    cell = change.get("cell", "pwquad")
    sizes = default_sizes(d, cell, n)
    flow_options = {
        name: sizes[name] + value if name in ADDED else value
        for name, value in change.items()
        if name in SIZES
    }
    architecture = Architecture(d, cell, **sizes | flow_options)
    optim = optimiser_for(n, architecture).settings()
    options = {
        name: change[name] for name in ("cell", "loss", "control_variate", "holdout") if name in change
    }
    options["optim"] = vf.Adam(**{name: change.get(name, value) for name, value in optim.items()})
    if "epochs" in change:
        options["n_epochs"] = round(change["epochs"] * n_epochs_for(n))
    if "rows" in change:
        options["minibatch_size"] = round(change["rows"] * rows_a_step(n))
    return {**options, "flow_options": flow_options}


def settings(options: argparse.Namespace) -> None:
    """Measure what each setting brings."""
    for n in options.n:
        base: dict[str, dict[str, Any]] = {}
        for change, values in SETTINGS.items():
            found = {
                name: summary(name, n, options.seeds, **changed(n, CASES[name].d, values))
                for name in options.cases or BESIDE_PEERS
            }
            base = base or found
            figures = {name: one["variance"] for name, one in found.items()}
            ratios = [one["variance"] / base[name]["variance"] for name, one in found.items()]
            figures["ratio"] = geometric_mean(ratios)
            figures["seconds"] = sum(one["seconds"] for one in found.values())
            record("fixed_points_settings", f"{change}, n={n}", figures)


def peers(options: argparse.Namespace) -> None:
    """Measure ZüNIS and varflow in turn."""
    versions = peer_versions(options.zunis_python, ("zunis", "torch"))
    for n in options.n:
        for cell in options.cells:
            for name in options.cases or BESIDE_PEERS:
                runs = [trained(name, n, seed, cell=cell) for seed in (1, 3, 4)]
                with tempfile.TemporaryDirectory() as folder:
                    path, judge = Path(folder) / "points.npz", judging(name)
                    x, px, fx = points(name, n, 1)
                    np.savez(path, x=x, p=px, f=fx, jx=judge.x, jp=judge.px, jf=judge.fx)
                    command = [options.zunis_python, "-c", ZUNIS, cell, str(EPOCHS), str(path)]
                    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                ours = {
                    "variance": geometric_mean(run["variance"] for run in runs),
                    "seconds": float(np.median([run["seconds"] for run in runs])),
                }
                figures = {"varflow": ours, "zunis": json.loads(out.splitlines()[-1])}
                record("fixed_points_peers", f"{name}, {cell}, n={n}", figures, peers=versions)


def flows(options: argparse.Namespace) -> None:
    """Measure one flow, four mixed, and a large one."""
    variants: dict[str, dict[str, Any]] = {
        "one flow": {},
        "four flows mixed": {"n_flows": 4},
        "one flow, width 128": {"flow_options": {"d_hidden": 128}},
        "share 0.01 of the uniform density": {"defensive": 0.01},
    }
    for n in options.n:
        for variant, settings in variants.items():
            found = {
                name: summary(name, n, options.seeds, **settings) for name in options.cases or BESIDE_PEERS
            }
            figures = {name: one["variance"] for name, one in found.items()}
            figures["seconds"] = sum(one["seconds"] for one in found.values())
            record("fixed_points_flows", f"{variant}, n={n}", figures)


def pulls(options: argparse.Namespace) -> None:
    """Measure how honest the error of the held-out figure is."""
    for n in options.n:
        for name in options.cases or ["camel, d=4", "resonances, d=6"]:
            runs = [trained(name, n, seed) for seed in range(1, options.seeds + 1)]
            pull = np.array([(run["figure"] - run["variance"]) / run["error"] for run in runs])
            figures = {"mean": float(pull.mean()), "deviation": float(pull.std(ddof=1)), "n": len(pull)}
            record("fixed_points_pulls", f"{name}, n={n}", figures)


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["accuracy", "settings", "peers", "flows", "pulls"])
    parser.add_argument("-n", type=int, nargs="+", default=[2000, 20_000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cells", nargs="+", default=["pwquad", "pwlinear"])
    parser.add_argument("--cases", nargs="+", choices=CASES)
    parser.add_argument("--zunis-python", default="python", metavar="PYTHON")
    options = parser.parse_args()
    benchmarks = {"accuracy": accuracy, "settings": settings, "peers": peers, "flows": flows, "pulls": pulls}
    benchmarks[options.what](options)


if __name__ == "__main__":
    main()
