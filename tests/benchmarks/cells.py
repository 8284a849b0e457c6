"""What the kinds of cells are worth, and what they cost.

    python tests/benchmarks/cells.py accuracy [--seeds 3]
    python tests/benchmarks/cells.py speed [--rounds 9] [--zunis-python PYTHON]
    python tests/benchmarks/cells.py parts [--seconds 3]
    python tests/benchmarks/cells.py unbounded [--seeds 3]

All print a line of JSON for each case, also kept in `results`. `accuracy` trains flows with the same network,
number of logits, optimiser and steps on the same uniform points and compares the standard deviation of f/q a
fresh point, in units of the integral. `speed` compares training steps; PYTHON has ZüNIS installed (zunis and
PyTorch). `parts` times the parts of a step, as `varflow bench --parts` does. `unbounded` trains `realnvp`, as
it comes, on normal points without bounds: the relative variance of f/p, and of f/q at fresh points.
"""

import argparse
from statistics import median
from time import perf_counter

import integrands
import numpy as np
from beside_zunis import PEERS, ZUNIS, ZUNIS_SPEED, report, run
from results import peer_versions

import varflow as vf
from varflow.training.benchmark import step_parts

N_BINS = {"pwlinear": 31, "pwquad": 15, "rqs": 10}  # 31 logits each
INTEGRANDS = {"gauss4": 4, "camel4": 4, "box": 3, "poly18": 18}
N_POINTS, N_FRESH, BATCH, N_EPOCHS = 300_000, 200_000, 2000, 10


def trained_sigma(cell: str, name: str, seed: int) -> float:
    """Relative standard deviation of f/q a fresh point, after training."""
    d, f = INTEGRANDS[name], getattr(integrands, name)
    x = np.random.default_rng(seed).random((N_POINTS, d))
    flow = vf.Flow(d, cell, n_bins=N_BINS[cell], d_hidden=64, n_hidden=2, seed=seed)
    optim = vf.Adam(lr=5e-3, schedule="cosine")
    trainer = vf.BasicStatefulVarTrainer(
        flow, n_epochs=N_EPOCHS, minibatch_size=BATCH, optim=optim, holdout=0.1
    )
    trainer.train_on_batch(x, np.ones(N_POINTS), f(x))
    fresh, logqx = flow.sample(N_FRESH, seed=seed + 1000)
    weights = f(fresh) / np.exp(logqx)
    return float(weights.std() / weights.mean())


def accuracy(n_seeds: int) -> None:
    """Measure standard deviations, medians over seeds."""
    for name in INTEGRANDS:
        found = {cell: [trained_sigma(cell, name, seed) for seed in range(n_seeds)] for cell in N_BINS}
        medians = {cell: median(values) for cell, values in found.items()}
        report("cells_accuracy", name, {}, {"seeds": n_seeds, **medians})


def step_timer(cell: str, n_bins: int):
    """Function that times a training step for d = 8, batch 10 000, 3 x 64, iflow."""
    flow = vf.Flow(8, cell, "iflow", n_bins, d_hidden=64, n_hidden=3, seed=0)
    x = np.random.default_rng(0).random((10_000, 8))
    trainer, optim, rows = vf.BasicVarTrainer(flow), vf.Adam(), np.arange(len(x))
    objective = trainer.objective(vf.Dataset(x, np.ones(len(x)), 1 + x.sum(axis=1) ** 2))

    def timed() -> float:
        begin = perf_counter()
        for _ in range(5):
            trainer.step(objective, rows, optim)
        return (perf_counter() - begin) / 5

    timed()
    return timed


def speed(rounds: int, zunis_python: str | None) -> None:
    """Time steps: cells in turn in one process, then pwquad beside ZüNIS's."""
    timers = {cell: step_timer(cell, n_bins) for cell, n_bins in N_BINS.items()}
    times = [{cell: timed() for cell, timed in timers.items()} for _ in range(rounds)]
    for cell, n_bins in N_BINS.items():
        report("cells_speed", cell, {}, {
            "rounds": rounds,
            "n_bins": n_bins,
            "step_s": median(seconds[cell] for seconds in times),
            "of_pwlinear": median(seconds[cell] / seconds["pwlinear"] for seconds in times),
        })  # fmt: skip
    if zunis_python is None:
        return
    options = {"d": 8, "batch": 10_000, "d_hidden": 64, "n_hidden": 3, "n_bins": 10, "masking": "iflow",
               "seed": 0, "cell": "pwquad"}  # fmt: skip
    timed, pairs = step_timer("pwquad", 10), []
    for _ in range(rounds):
        pairs.append((run(zunis_python, ZUNIS + ZUNIS_SPEED, **options), timed()))
    n_params = vf.Flow(8, "pwquad", "iflow", 10, 64, 3).n_params
    assert all(zunis["n_params"] == n_params for zunis, _ in pairs)
    report("cells_zunis", "pwquad, 10 bins", peer_versions(zunis_python, PEERS), {
        "rounds": rounds,
        "n_params": n_params,
        "zunis_step_s": median(zunis["step_s"] for zunis, _ in pairs),
        "varflow_step_s": median(ours for _, ours in pairs),
        "ratio": median(zunis["step_s"] / ours for zunis, ours in pairs),
    })  # fmt: skip


def parts(seconds: float) -> None:
    """Time the parts of a step of each cell, in one thread, beside what products alone could reach."""
    for cell, n_bins in {"pwlinear": 10, "pwquad": 16, "rqs": 10}.items():
        for batch in (512, 10_000):
            flow = vf.Flow(
                8, cell, "iflow", n_bins, d_hidden=64, n_hidden=2, repetitions=1, threads=1, seed=0
            )
            found = {"batch": batch, "n_params": flow.n_params, "parts_s": step_parts(flow, batch, seconds)}
            report("cells_parts", f"{cell}, {batch}", {}, found)


def peaks(x: np.ndarray) -> np.ndarray:
    """Two normal peaks in opposite corners."""
    return np.exp(-2 * np.sum((x - 1.5) ** 2, axis=1)) + np.exp(-2 * np.sum((x + 1.5) ** 2, axis=1))


def ring(x: np.ndarray) -> np.ndarray:
    """A ring about zero."""
    return np.exp(-(((np.sqrt(np.sum(x**2, axis=1)) - 3) / 0.4) ** 2))


def chain(x: np.ndarray) -> np.ndarray:
    """A normal density in which each coordinate follows the one before it."""
    steps = np.column_stack([x[:, :1], x[:, 1:] - 0.9 * x[:, :-1]])
    return np.exp(-np.sum(steps**2, axis=1))


UNBOUNDED = {
    "peaks, d = 2": (peaks, 2),
    "peaks, d = 4": (peaks, 4),
    "ring": (ring, 2),
    "chain, d = 6": (chain, 6),
}
N_UNBOUNDED, WIDTH = 10_000, 2.5  # points, and their standard deviation


def unbounded(n_seeds: int) -> None:
    """Measure what affine cells leave of the variance, medians over seeds."""
    for name, (f, d) in UNBOUNDED.items():
        found = []
        for seed in range(n_seeds):
            x = WIDTH * np.random.default_rng(seed).normal(size=(N_UNBOUNDED, d))
            logpx = -0.5 * np.sum((x / WIDTH) ** 2, axis=1) - d * np.log(WIDTH * np.sqrt(2 * np.pi))
            data = vf.Dataset(x, logpx=logpx, fx=f(x), bounds=(-np.inf, np.inf))
            fresh, logqx = vf.train(data, cell="realnvp", seed=seed).flow.sample(N_FRESH, seed=seed + 1000)
            found.append(
                [float(w.var() / w.mean() ** 2) for w in (data.fx / data.px, f(fresh) / np.exp(logqx))]
            )
        before, after = (median(column) for column in zip(*found, strict=True))
        report("cells_unbounded", name, {}, {"seeds": n_seeds, "of_p": before, "of_q": after})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["accuracy", "speed", "parts", "unbounded"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--zunis-python")
    arguments = parser.parse_args()
    if arguments.what == "accuracy":
        accuracy(arguments.seeds)
    elif arguments.what == "unbounded":
        unbounded(arguments.seeds)
    elif arguments.what == "parts":
        parts(arguments.seconds)
    else:
        speed(arguments.rounds, arguments.zunis_python)
