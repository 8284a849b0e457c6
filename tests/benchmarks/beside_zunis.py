"""Varflow beside ZüNIS on this machine, in turn in one run: a line of JSON a case, also kept in `results`.

    python tests/benchmarks/beside_zunis.py speed|accuracy --zunis-python PYTHON

PYTHON is the interpreter of an environment that has ZüNIS 0.3 and PyTorch. Both run in processes of their
own, on all cores and in float32; figures are medians over the rounds, since machines are noisy.

speed     a training step on a minibatch, and a sampling call for as many points
accuracy  held-out variance loss after the same number of Adam steps on the same points
"""

import argparse
import json
import subprocess
import sys
from statistics import median

from results import peer_versions, record

PEERS = "zunis", "torch"
SPEED_CASES = {
    "d=4, batch 1000, 3 x 64, checkerboard": (4, 1000, 64, 3, "checkerboard"),
    "d=8, batch 10 000, 3 x 64, iflow": (8, 10_000, 64, 3, "iflow"),
    "d=8, batch 10 000, 9 x 256, checkerboard": (8, 10_000, 256, 9, "checkerboard"),
}

ZUNIS = """
import json, logging, sys, warnings
warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
import numpy as np, torch
from time import perf_counter
from statistics import median
from zunis.training.weighted_dataset.stateful_trainer import StatefulTrainer
options = json.loads(sys.argv[1])
torch.manual_seed(options["seed"])
torch.set_flush_denormal(True)
cell = dict(n_bins=options["n_bins"], d_hidden=options["d_hidden"], n_hidden=options["n_hidden"] - 1)
trainer = StatefulTrainer(
    d=options["d"], loss="variance", flow=options.get("cell", "pwlinear"), checkpoint=False,
    minibatch_size=options["batch"], n_epochs=options.get("n_epochs", 1),
    flow_options=dict(masking=options["masking"], cell_params=cell))
n_params = sum(p.numel() for p in trainer.flow.parameters() if p.requires_grad)
"""

ZUNIS_SPEED = """
x = torch.rand(options["batch"], options["d"])
px, fx = torch.ones(options["batch"]), 1 + x.sum(1) ** 2
def timed(call):
    call(), call()
    times = []
    while len(times) < 5 or sum(times) < 1:  # as long as varflow.training.benchmark does
        begin = perf_counter(); call(); times.append(perf_counter() - begin)
    return median(times)
step = timed(lambda: trainer.train_step_on_target_minibatch(x, px, fx, trainer.config["optim"]))
sample = timed(lambda: trainer.sample_forward(len(x)))
print(json.dumps(dict(n_params=n_params, step_s=step, sample_s=sample)))
"""

ZUNIS_ACCURACY = """
with np.load(options["data"]) as file:
    x, fx, x_test, fx_test = (
        torch.as_tensor(file[k], dtype=torch.float32) for k in ("x", "fx", "x_test", "fx_test"))
begin = perf_counter()
trainer.train_on_batch(x, torch.ones(len(x)), fx)
seconds = perf_counter() - begin
if not trainer.flow.inverse:
    trainer.flow.invert()
with torch.no_grad():
    z = trainer.flow(torch.cat([x_test, torch.zeros(len(x_test), 1)], 1))
    loss = (fx_test.double() ** 2 / torch.exp(z[:, -1].double())).mean().item()
print(json.dumps(dict(n_params=n_params, loss=loss, seconds=seconds)))
"""

VARFLOW_SPEED = """
import json, sys
import varflow as vf
from varflow.training.benchmark import benchmark
o = json.loads(sys.argv[1])
sizes = dict(n_bins=o["n_bins"], d_hidden=o["d_hidden"], n_hidden=o["n_hidden"], repetitions=1)
flow = vf.Flow(o["d"], "pwlinear", o["masking"], **sizes, seed=o["seed"])
print(json.dumps(benchmark(flow, o["batch"])))
"""

VARFLOW_ACCURACY = """
import json, sys
import numpy as np
import varflow as vf
from time import perf_counter
o = json.loads(sys.argv[1])
sizes = dict(n_bins=o["n_bins"], d_hidden=o["d_hidden"], n_hidden=o["n_hidden"], repetitions=1)
flow = vf.Flow(o["d"], "pwlinear", o["masking"], **sizes, seed=o["seed"])
with np.load(o["data"]) as file:
    x, fx, x_test, fx_test = (file[k] for k in ("x", "fx", "x_test", "fx_test"))
trainer = vf.BasicStatefulVarTrainer(flow, n_epochs=o["n_epochs"], minibatch_size=o["batch"], seed=o["seed"])
begin = perf_counter()
trainer.train_on_batch(x, np.ones(len(x)), fx)
seconds = perf_counter() - begin
loss = vf.weighted_variance_loss(fx_test, np.ones(len(fx_test)), flow.log_prob(x_test))
print(json.dumps(dict(n_params=flow.n_params, loss=loss, seconds=seconds)))
"""


def run(python: str, code: str, **options: object) -> dict:
    """Run code in a process of its own; its last line of output is the result."""
    command = [python, "-W", "ignore", "-c", code, json.dumps(options)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def speed(zunis_python: str, rounds: int) -> None:
    """Measure seconds and ratios for each case."""
    peers = peer_versions(zunis_python, PEERS)
    for name, (d, batch, d_hidden, n_hidden, masking) in SPEED_CASES.items():
        options = {"d": d, "batch": batch, "d_hidden": d_hidden, "n_hidden": n_hidden, "n_bins": 10,
                   "masking": masking, "seed": 0}  # fmt: skip
        pairs = [
            (run(zunis_python, ZUNIS + ZUNIS_SPEED, **options), run(sys.executable, VARFLOW_SPEED, **options))
            for _ in range(rounds)
        ]
        assert all(zunis["n_params"] == ours["n_params"] for zunis, ours in pairs)
        report("speed", name, peers, {
            "rounds": rounds,
            "n_params": pairs[0][1]["n_params"],
            "zunis_step_s": median(zunis["step_s"] for zunis, _ in pairs),
            "varflow_step_s": median(ours["step_s"] for _, ours in pairs),
            "step_ratio": median(zunis["step_s"] / ours["step_s"] for zunis, ours in pairs),
            "sample_ratio": median(zunis["sample_s"] / ours["sample_s"] for zunis, ours in pairs),
            "roofline_share": median(ours["roofline_share"] for _, ours in pairs),
        })  # fmt: skip


def accuracy(zunis_python: str, rounds: int) -> None:
    """Measure held-out variance losses over seeds for each integrand."""
    import tempfile
    from pathlib import Path

    import numpy as np
    from integrands import camel4, circles

    peers = peer_versions(zunis_python, PEERS)
    for f, d in ((camel4, 4), (circles, 2)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "points.npz"
            x, x_test = np.random.default_rng(0).random((2, 200_000, d))
            np.savez(path, x=x, fx=f(x) / f(x).mean(), x_test=x_test, fx_test=f(x_test) / f(x).mean())
            pairs = []
            for seed in range(rounds):
                options = {"d": d, "batch": 2000, "d_hidden": 64, "n_hidden": 3, "n_bins": 10, "seed": seed,
                           "masking": "iflow", "n_epochs": 4, "data": str(path)}  # fmt: skip
                pairs.append((run(zunis_python, ZUNIS + ZUNIS_ACCURACY, **options),
                              run(sys.executable, VARFLOW_ACCURACY, **options)))  # fmt: skip
        report("held_out", {camel4: "camel4", circles: "circles"}[f], peers, {
            "rounds": rounds,
            "zunis_loss": median(zunis["loss"] for zunis, _ in pairs),
            "varflow_loss": median(ours["loss"] for _, ours in pairs),
            "zunis_s": median(zunis["seconds"] for zunis, _ in pairs),
            "varflow_s": median(ours["seconds"] for _, ours in pairs),
        })  # fmt: skip


def report(benchmark: str, case: str, peers: dict[str, str], figures: dict[str, float]) -> None:
    """Print figures and keep them."""
    print(json.dumps({"case": case, **figures}), flush=True)
    record(benchmark, case, figures, peers=peers)


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["speed", "accuracy"])
    parser.add_argument("--zunis-python", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    {"speed": speed, "accuracy": accuracy}[options.what](options.zunis_python, options.rounds)


if __name__ == "__main__":
    main()
