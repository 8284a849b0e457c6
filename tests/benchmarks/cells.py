"""What the kinds of cells are worth, and what they cost.

    python tests/benchmarks/cells.py accuracy [--seeds 3]
    python tests/benchmarks/cells.py speed [--rounds 9] [--zunis-python PYTHON]

Both print a line of JSON for each case, also kept in `results`. `accuracy` trains flows with the same
network, number of logits, optimiser and steps on the same uniform points and compares the standard deviation
of f/q a fresh point, in units of the integral. `speed` compares training steps; PYTHON has ZüNIS installed
(zunis and PyTorch).
"""

import argparse
from statistics import median
from time import perf_counter

import integrands
import numpy as np
from beside_zunis import PEERS, ZUNIS, ZUNIS_SPEED, report, run
from results import peer_versions

import varflow as vf

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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["accuracy", "speed"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--zunis-python")
    arguments = parser.parse_args()
    if arguments.what == "accuracy":
        accuracy(arguments.seeds)
    else:
        speed(arguments.rounds, arguments.zunis_python)
